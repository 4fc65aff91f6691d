"""Reader of the FGVC-Aircraft 2013b layout (Maji et al. 2013, arXiv 1306.5151): lists of images below ``data/``.

    variants.txt, families.txt, manufacturers.txt    <class name>
    images_<level>_<split>.txt                       <image number> <class name>
    images_box.txt                                   <image number> <x1> <y1> <x2> <y2>    pixels, counted from 1
    images/<image number>.jpg                        its lowest 20 rows are a banner that names the photographer

A level is variant, family or manufacturer, a split train, val or test. An image number is text: seven digits, zeros
in front included. Both corners of a box lie inside it. A few of the authors' corners are 0, outside their image.
"""

from pathlib import Path

import pandas as pd

from lapml.data.readers import Counts, Download, annotations
from lapml.data.readers.annotations import is_id, numbers
from lapml.errors import LapmlError

TITLE = "FGVC-Aircraft"
IMAGES = "data/images"
BANNER = 20
LEVELS = ("variant", "family", "manufacturer")
OFFICIAL_VAL = True
_SIZES = {"train": 3334, "val": 3333, "test": 3333}
PUBLISHED = {
    "variant": Counts(classes=100, splits=_SIZES, per_class=(100, 100)),
    "family": Counts(classes=70, splits=_SIZES),
    "manufacturer": Counts(classes=30, splits=_SIZES),
}
DOWNLOAD = Download(
    urls=("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
    checksum="md5:d4acdd33327262359767eeaa97a4f732",
    by_hand="get fgvc-aircraft-2013b.tar.gz (2.75 GB) from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
)

SPLITS = ("train", "val", "test")
CLASSES = {"variant": "data/variants.txt", "family": "data/families.txt", "manufacturer": "data/manufacturers.txt"}
BOXES = "data/images_box.txt"
LISTS = {(level, split): f"data/images_{level}_{split}.txt" for level in LEVELS for split in SPLITS}
ANNOTATIONS = (*CLASSES.values(), *LISTS.values(), BOXES)


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes, in the order of the train, the val and the test list.

    Args:
        root: the folder that holds ``data/``.
        classes: ``"all"``, or class ids such as ``"1-20,33"``: a class's place in the level's list of classes, from 1.
        labels: one of LEVELS; None is the first.

    Returns:
        A frame as :mod:`lapml.data.readers` describes it. A box is None where images_box.txt has no line for its image
        or names its corners the wrong way round; boxes that reach outside their image are kept as they are.

    Raises:
        LapmlError: naming file and line: an annotation file is missing or empty, a line is malformed, an image is
            listed twice or is not there, the level or a class is unknown, a class has fewer than two images outside
            test, or there is no test image.
    """
    root = Path(root)
    level = LEVELS[0] if labels is None else labels
    if level not in LEVELS:
        raise LapmlError(f"labels: found {level!r}, expected one of {', '.join(LEVELS)} (the levels of {TITLE})")
    names = _names(root, level)
    ids = annotations.choose(classes, dict(enumerate(names, 1)), root / CLASSES[level])
    chosen = {names[number - 1]: label for label, number in enumerate(ids)}
    boxes = _boxes(root)

    rows = []
    for split, listed in _listed(root, level, names).items():
        listed = [(image, name) for image, name in listed if name in chosen]
        files = (root / IMAGES / f"{image}.jpg" for image, _ in listed)
        annotations.refuse_missing(files, root / LISTS[level, split])
        rows += [(f"{image}.jpg", chosen[name], name, split, boxes.get(image), None) for image, name in listed]
    frame = pd.DataFrame(rows, columns=["image", "label", "class_name", "official", "box", "parts"])
    lists = root / f"data/images_{level}_{{{','.join(SPLITS)}}}.txt"
    annotations.check_splits(frame, ids, dict(enumerate(names, 1)), lists)
    return frame


def part_names(root: Path) -> list[str]:
    """None: the data set has no parts."""
    return []


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed, and the sha256 over the names and bytes of the annotation files of all levels.

    Raises:
        LapmlError: an annotation file is missing, or a list of variants or their images is malformed.
    """
    root = Path(root)
    files = {name: _existing(root, name) for name in ANNOTATIONS}
    listed = _listed(root, LEVELS[0], _names(root, LEVELS[0]))
    return sum(map(len, listed.values())), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return (folder / CLASSES["variant"]).is_file() and (folder / BOXES).is_file()


# --- files and lines ---


def _existing(root: Path, name: str) -> Path:
    return annotations.existing(root, name, TITLE, ANNOTATIONS)


def _lines(root: Path, name: str) -> list[tuple[str, str]]:
    lines = list(annotations.lines(_existing(root, name)))
    if not lines:
        raise LapmlError(f"{root / name}: is empty; lay the annotations out again")
    return lines


def _names(root: Path, level: str) -> list[str]:
    """Class names in the order of their ids."""
    first: dict[str, str] = {}
    for where, name in _lines(root, CLASSES[level]):
        if first.setdefault(name, where) != where:
            raise LapmlError(f"{where}: class {name!r} is there already at {first[name]}; remove one of the lines")
    return list(first)


def _numbered(root: Path, name: str, first: dict[str, str], rest: str) -> list[tuple[str, str, str]]:
    """The lines as (where, image number, what follows it); ``first`` collects where an image number is."""
    found = []
    for where, line in _lines(root, name):
        image, value = [*line.split(maxsplit=1), ""][:2]
        if not (is_id(image) and len(image) == 7):
            raise LapmlError(
                f"{where}: found {line!r}, expected an image number of seven digits, zeros in front included (its file "
                f"is data/images/0034309.jpg, say), and then {rest}"
            )
        if first.setdefault(image, where) != where:
            raise LapmlError(
                f"{where}: image {image} is there already at {first[image]}, expected once; remove one of the lines"
            )
        found.append((where, image, value))
    return found


def _listed(root: Path, level: str, names: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Split → (image number, class name) of each of its images."""
    known = set(names)
    first: dict[str, str] = {}
    listed: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        listed[split] = []
        for where, image, name in _numbered(root, LISTS[level, split], first, "a class name"):
            if name not in known:
                raise LapmlError(
                    f"{where}: found class {name!r} of image {image}, expected a line of {root / CLASSES[level]}; "
                    "lay the annotations out again"
                )
            listed[split].append((image, name))
    return listed


def _boxes(root: Path) -> dict[str, list[float] | None]:
    """Image number → ``[x, y, width, height]``, counted from 0."""
    expected = "x1, y1, x2 and y2 in pixels"
    boxes = {}
    for where, image, value in _numbered(root, BOXES, {}, expected):
        try:
            x1, y1, x2, y2 = numbers(value.split(), 4)
        except ValueError:
            raise LapmlError(
                f"{where}: found {value!r} for image {image}, expected {expected}; correct the line"
            ) from None
        boxes[image] = annotations.box_of_corners(x1, y1, x2, y2, first=1)
    return boxes
