"""Reader of the CUB-200-2011 layout (Wah et al. 2011): text files of annotations beside ``images/``.

    images.txt               <image id> <path below images/>
    classes.txt              <class id> <class name>
    image_class_labels.txt   <image id> <class id>
    train_test_split.txt     <image id> <1 train | 0 test>
    bounding_boxes.txt       <image id> <x> <y> <width> <height>             pixels
    parts/parts.txt          <part id> <part name>
    parts/part_locs.txt      <image id> <part id> <x> <y> <visible 0 | 1>    pixels

Boxes and parts are pixels of the image *as stored*; :mod:`lapml.data.decode` maps them where EXIF turns the image.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lapml.data.readers import Counts, Download, annotations
from lapml.data.readers.annotations import is_id, numbers
from lapml.errors import LapmlError

TITLE = "CUB-200-2011"
IMAGES = "images"
BANNER = 0
LEVELS: tuple[str, ...] = ()
OFFICIAL_VAL = False
PUBLISHED = {None: Counts(classes=200, splits={"train": 5994, "test": 5794}, per_class=(41, 60))}
DOWNLOAD = Download(
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    checksum="md5:97eceeb196236b17998738112f37df78",
    by_hand="get CUB_200_2011.tgz (1.1 GB) from https://www.vision.caltech.edu/datasets/cub_200_2011/",
)

ANNOTATIONS = (
    "images.txt",
    "classes.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)
Value = TypeVar("Value")


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes, in the order of images.txt.

    Args:
        root: the folder that holds images.txt.
        classes: ``"all"``, or class ids of classes.txt such as ``"113-133,5"``.

    Returns:
        A frame with the columns image (path relative to ``root/images``), label (0-based, contiguous over the
        chosen classes in the order of their ids), class_name, official (``"train"`` or ``"test"``), box
        (``[x, y, width, height]``, pixels) and parts (``[x, y, visible]`` for each part, pixels, in the order of
        parts.txt). Boxes and parts that reach outside their image are kept as they are.

    Raises:
        LapmlError: naming file and line: an annotation file is missing, a line is malformed, an image is missing
            (on disk or in one of the files), a class is unknown or has fewer than two training images, or a
            split is empty.
    """
    root = Path(root)
    names = _table(root, "classes.txt", _text)
    ids = annotations.choose(classes, names, root / "classes.txt")
    label_of = {number: label for label, number in enumerate(ids)}

    images = _table(root, "images.txt", _path)
    _refuse_repeated(images, root / "images.txt")
    class_of = _per_image(root, "image_class_labels.txt", _member(names, "a class id of classes.txt"), images)
    official = _per_image(root, "train_test_split.txt", _split, images)
    boxes = _per_image(root, "bounding_boxes.txt", _box, images)
    parts = _parts(root, images)

    chosen = [image for image in images if class_of[image] in label_of]
    annotations.refuse_missing((root / IMAGES / images[image] for image in chosen), root / "images.txt")
    frame = pd.DataFrame(
        {
            "image": [images[image] for image in chosen],
            "label": [label_of[class_of[image]] for image in chosen],
            "class_name": [names[class_of[image]] for image in chosen],
            "official": [official[image] for image in chosen],
            "box": [boxes[image] for image in chosen],
            "parts": [parts[image] for image in chosen],
        }
    )
    annotations.check_splits(frame, ids, names, root / "train_test_split.txt")
    return frame


def part_names(root: Path) -> list[str]:
    """Names of the parts, in the order of parts/parts.txt.

    Raises:
        LapmlError: the file is missing or malformed.
    """
    return list(_table(Path(root), "parts/parts.txt", _text).values())


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed in images.txt, and the sha256 over the names and bytes of all annotation files.

    Raises:
        LapmlError: an annotation file is missing, or images.txt is malformed.
    """
    files = {name: _existing(Path(root), name) for name in ANNOTATIONS}
    return len(_table(Path(root), "images.txt", _path)), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return (folder / "images.txt").is_file()


# --- files and lines ---


def _existing(root: Path, name: str) -> Path:
    return annotations.existing(root, name, TITLE, ANNOTATIONS)


def _lines(root: Path, name: str) -> Iterator[tuple[str, str]]:
    return annotations.lines(_existing(root, name))


def _table(root: Path, name: str, parse: Callable[[str], Value]) -> dict[int, Value]:
    """A file of ``<id> <value>`` lines, as id → parsed value, in the file's order."""
    table: dict[int, Value] = {}
    for where, line in _lines(root, name):
        key, rest = [*line.split(maxsplit=1), ""][:2]
        if not is_id(key):
            raise LapmlError(f"{where}: found {line!r}, expected a line that starts with a number (an id) and a space")
        if int(key) in table:
            raise LapmlError(f"{where}: id {key} is there twice, expected once; remove one of the lines")
        try:
            table[int(key)] = parse(rest)
        except ValueError as error:
            raise LapmlError(f"{where}: found {line!r}, expected the id and then {error}") from None
    if not table:
        raise LapmlError(f"{root / name}: is empty, expected one line per id; lay the annotations out again")
    return table


def _per_image(root: Path, name: str, parse: Callable[[str], Value], images: dict[int, str]) -> dict[int, Value]:
    """A table that must have exactly the ids of images.txt."""
    table = _table(root, name, parse)
    for have, want, there, lacks in ((images, table, "images.txt", name), (table, images, name, "images.txt")):
        if missing := [image for image in have if image not in want]:
            raise LapmlError(
                f"{root / lacks}: image {missing[0]} of {there} is missing ({len(missing)} in all), expected the same "
                "image ids in both; add the lines, or lay the annotations out again"
            )
    return table


def _parts(root: Path, images: dict[int, str]) -> dict[int, list[list[float]]]:
    place = {part: at for at, part in enumerate(_table(root, "parts/parts.txt", _text))}
    parts: dict[int, list] = {image: [None] * len(place) for image in images}
    for where, line in _lines(root, "parts/part_locs.txt"):
        image, part, *values = line.split() if len(line.split()) > 1 else (line, "")
        if not (is_id(image) and is_id(part) and int(image) in parts and int(part) in place):
            raise LapmlError(f"{where}: found {line!r}, expected an image id of images.txt and a part id of parts.txt")
        if parts[int(image)][place[int(part)]] is not None:
            raise LapmlError(f"{where}: part {part} of image {image} is there twice, expected once; remove a line")
        try:
            x, y, visible = numbers(values, 3)
        except ValueError:
            visible = -1.0
        if visible not in (0.0, 1.0):
            raise LapmlError(f"{where}: found {line!r}, expected <image id> <part id> <x> <y> <visible, 0 or 1>")
        parts[int(image)][place[int(part)]] = [x, y, visible]
    for image, found in parts.items():
        if None in found:
            raise LapmlError(
                f"{root / 'parts/part_locs.txt'}: image {image} lacks part {list(place)[found.index(None)]} of "
                "parts.txt, expected one line for each part (visible 0 where it is hidden); add it"
            )
    return parts


# --- values: ValueError's text says what was expected ---


def _text(value: str) -> str:
    if not value:
        raise ValueError("a name")
    return value


def _path(value: str) -> str:
    return annotations.relative_path(value, "images/")


def _split(value: str) -> str:
    if value not in ("0", "1"):
        raise ValueError("1 (train) or 0 (test)")
    return "train" if value == "1" else "test"


def _box(value: str) -> list[float]:
    try:
        box = numbers(value.split(), 4)
    except ValueError:
        box = [0.0] * 4
    if not (box[2] > 0 and box[3] > 0):
        raise ValueError("x, y, width and height in pixels, width and height above 0")
    return box


def _member(known: dict[int, str], what: str) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not is_id(value) or int(value) not in known:
            raise ValueError(f"{what} ({min(known)}..{max(known)})")
        return int(value)

    return parse


def _refuse_repeated(images: dict[int, str], file: Path) -> None:
    first: dict[str, int] = {}
    for image, path in images.items():
        if first.setdefault(path, image) != image:
            raise LapmlError(f"{file}: images {first[path]} and {image} are both {path!r}, expected each file once")
