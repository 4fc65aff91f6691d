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

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lapml.data.readers import Counts, Download, annotations
from lapml.data.readers.annotations import is_id, numbers
from lapml.errors import LapmlError

TITLE = "CUB-200-2011"
IMAGES = "images"
BANNER = 0
PUBLISHED = {None: Counts(classes=200, splits={"train": 5994, "test": 5794}, per_class=(41, 60))}
DOWNLOAD = Download(
    by_hand="get CUB_200_2011.tgz (1.1 GB) from https://www.vision.caltech.edu/datasets/cub_200_2011/",
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    checksum="md5:97eceeb196236b17998738112f37df78",
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
    """All images of the chosen classes, in the order of images.txt; a class's id is that of classes.txt.

    Boxes and parts that reach outside their image are kept as they are.

    Raises:
        LapmlError: an annotation file is missing, a line is malformed, an image is missing (on disk or in one of the
            files), a class is unknown or has fewer than two training images, or there is no test image.
    """
    names = _table(root, "classes.txt", _text)
    ids = annotations.choose(classes, names, root / "classes.txt")
    images = _table(root, "images.txt", _path)
    first: dict[str, int] = {}
    for image, path in images.items():
        if first.setdefault(path, image) != image:
            raise LapmlError(
                f"{root / 'images.txt'}: images {first[path]} and {image} are both {path!r}, expected each file once"
            )
    class_of = _per_image(root, "image_class_labels.txt", _member(names, "a class id of classes.txt"), images)
    official = _per_image(root, "train_test_split.txt", _split, images)
    boxes = _per_image(root, "bounding_boxes.txt", _box, images)
    parts = _parts(root, images)
    rows = [(path, class_of[image], official[image], boxes[image], parts[image]) for image, path in images.items()]
    return annotations.frame({root / "images.txt": rows}, root / IMAGES, ids, names, root / "train_test_split.txt")


def part_names(root: Path) -> list[str]:
    """Names of the parts, in the order of parts/parts.txt."""
    return list(_table(root, "parts/parts.txt", _text).values())


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed in images.txt, and the sha256 over the names and bytes of all annotation files."""
    files = {name: annotations.existing(root, name, TITLE, ANNOTATIONS) for name in ANNOTATIONS}
    return len(_table(root, "images.txt", _path)), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return (folder / "images.txt").is_file()


# --- files ---


def _table(root: Path, name: str, parse: Callable[[str], Value]) -> dict[int, Value]:
    """A file of ``<id> <value>`` lines, as id → parsed value."""
    file = annotations.existing(root, name, TITLE, ANNOTATIONS)

    def row(line: str) -> tuple[int, Value]:
        key, rest = [*line.split(maxsplit=1), ""][:2]
        if not is_id(key):
            raise ValueError("a line that starts with a number (an id) and a space")
        return int(key), parse(rest)

    return annotations.table(file, annotations.lines(file), row, "id")


def _per_image(root: Path, name: str, parse: Callable[[str], Value], images: dict[int, str]) -> dict[int, Value]:
    """A table that must have exactly the ids of images.txt."""
    table = _table(root, name, parse)
    annotations.refuse_unequal(images, root / "images.txt", table, root / name)
    return table


def _parts(root: Path, images: dict[int, str]) -> dict[int, list[list[float]]]:
    known = _table(root, "parts/parts.txt", _text)
    file = annotations.existing(root, "parts/part_locs.txt", TITLE, ANNOTATIONS)

    def row(line: str) -> tuple[tuple[int, int], list[float]]:
        image, part, *values = [*line.split(), ""]
        if not (is_id(image) and is_id(part) and int(image) in images and int(part) in known):
            raise ValueError("an image id of images.txt and a part id of parts.txt")
        found = numbers(values[:-1], 3, form := "<image id> <part id> <x> <y> <visible, 0 or 1>")
        if found[2] not in (0.0, 1.0):
            raise ValueError(form)
        return (int(image), int(part)), found

    found = annotations.table(file, annotations.lines(file), row, "image and part")
    if lacking := next(((image, part) for image in images for part in known if (image, part) not in found), None):
        raise LapmlError(
            f"{file}: image {lacking[0]} lacks part {lacking[1]} of parts.txt, expected one line for each part (visible 0 where "
            "it is hidden); add it"
        )
    return {image: [found[image, part] for part in known] for image in images}


# --- values: ValueError's text says what was expected ---


def _text(value: str) -> str:
    if not value:
        raise ValueError("the id and then a name")
    return value


def _path(value: str) -> str:
    return annotations.relative_path(value, "images/")


def _split(value: str) -> str:
    if value not in ("0", "1"):
        raise ValueError("the image's id and then 1 (train) or 0 (test)")
    return "train" if value == "1" else "test"


def _box(value: str) -> list[float]:
    expected = "the image's id and then x, y, width and height in pixels, width and height above 0"
    box = numbers(value.split(), 4, expected)
    if not (box[2] > 0 and box[3] > 0):
        raise ValueError(expected)
    return box


def _member(known: dict[int, str], what: str) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not is_id(value) or int(value) not in known:
            raise ValueError(f"{what} ({min(known)}..{max(known)})")
        return int(value)

    return parse
