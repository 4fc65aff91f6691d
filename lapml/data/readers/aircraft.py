"""Reader of the FGVC-Aircraft 2013b layout (Maji et al. 2013, arXiv 1306.5151): lists of images below ``data/``.

    variants.txt, families.txt, manufacturers.txt    <class name>
    images_<level>_<split>.txt                       <image number> <class name>
    images_box.txt                                   <image number> <x1> <y1> <x2> <y2>    pixels, counted from 1
    images/<image number>.jpg                        its lowest 20 rows are a banner that names the photographer

A level is variant, family or manufacturer, a split train, val or test. An image number is text: seven digits, zeros
in front included. Both corners of a box lie inside it. A few of the authors' corners are 0, outside their image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lapml.config.parts import LABELS
from lapml.data.readers import Counts, Download, annotations, no_parts
from lapml.data.readers.annotations import box_of_corners, is_id, numbers

TITLE = "FGVC-Aircraft"
IMAGES = "data/images"
BANNER = 20
LEVELS = LABELS["aircraft"]
_SIZES = {"train": 3334, "val": 3333, "test": 3333}
PUBLISHED = {
    "variant": Counts(classes=100, splits=_SIZES, per_class=(100, 100)),
    "family": Counts(classes=70, splits=_SIZES),
    "manufacturer": Counts(classes=30, splits=_SIZES),
}
DOWNLOAD = Download(
    by_hand="get fgvc-aircraft-2013b.tar.gz (2.75 GB) from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    urls=("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
    checksum="md5:d4acdd33327262359767eeaa97a4f732",
)
part_names = no_parts

SPLITS = ("train", "val", "test")
CLASSES = {"variant": "data/variants.txt", "family": "data/families.txt", "manufacturer": "data/manufacturers.txt"}
BOXES, CORNERS = "data/images_box.txt", "x1, y1, x2 and y2 in pixels"
LISTS = {(level, split): f"data/images_{level}_{split}.txt" for level in LEVELS for split in SPLITS}
ANNOTATIONS = (*CLASSES.values(), *LISTS.values(), BOXES)
Value = TypeVar("Value")


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes, in the order of the train, the val and the test list; a class's id is its place in the
    level's list of classes, from 1.

    A box is None where images_box.txt has no line for its image or names its corners the wrong way round; boxes that reach
    outside their image are kept as they are.

    Args:
        labels: one of LEVELS; None is the first.

    Raises:
        LapmlError: an annotation file is missing or empty, a line is malformed, an image is listed twice or is not there,
            a class is unknown, a class has fewer than two images outside test, or there is no test image.
    """
    level = labels or LEVELS[0]
    names = _names(root, level)
    ids = annotations.choose(classes, dict(enumerate(names, 1)), root / CLASSES[level])
    number_of = {name: number for number, name in enumerate(names, 1)}
    boxes = _table(
        root, BOXES, lambda value, expected: box_of_corners(*numbers(value.split(), 4, expected)), CORNERS, {}
    )
    listed = {
        root / LISTS[level, split]: [
            (f"{image}.jpg", number_of[name], split, boxes.get(image), None) for image, name in found.items()
        ]
        for split, found in _listed(root, level, names).items()
    }
    lists = root / f"data/images_{level}_{{{','.join(SPLITS)}}}.txt"
    return annotations.frame(listed, root / IMAGES, ids, dict(enumerate(names, 1)), lists)


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed, and the sha256 over the names and bytes of the annotation files of all levels."""
    files = {name: _existing(root, name) for name in ANNOTATIONS}
    listed = _listed(root, LEVELS[0], _names(root, LEVELS[0]))
    return sum(map(len, listed.values())), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return (folder / CLASSES["variant"]).is_file() and (folder / BOXES).is_file()


# --- files and lines ---


def _existing(root: Path, name: str) -> Path:
    return annotations.existing(root, name, TITLE, ANNOTATIONS)


def _names(root: Path, level: str) -> list[str]:
    """Class names in the order of their ids."""
    file = _existing(root, CLASSES[level])
    return list(annotations.table(file, annotations.lines(file), lambda line: (line, None), "class"))


def _listed(root: Path, level: str, names: list[str]) -> dict[str, dict[str, str]]:
    """Split → image number → class name of each of its images."""
    places: dict[str, str] = {}

    def known(name: str, expected: str) -> str:
        if name not in names:
            raise ValueError(expected)
        return name

    rest = f"a class of {root / CLASSES[level]}"
    return {split: _table(root, LISTS[level, split], known, rest, places) for split in SPLITS}


def _table(
    root: Path, name: str, parse: Callable[[str, str], Value], rest: str, places: dict[str, str]
) -> dict[str, Value]:
    """Lines of an image number and what ``parse`` makes of the rest."""
    file = _existing(root, name)

    def row(line: str) -> tuple[str, Value]:
        image, value = [*line.split(maxsplit=1), ""][:2]
        expected = (
            "an image number of seven digits, zeros in front included (its file is data/images/0034309.jpg, say), and then "
            f"{rest}"
        )
        if not (is_id(image) and len(image) == 7):
            raise ValueError(expected)
        return image, parse(value, expected)

    return annotations.table(file, annotations.lines(file), row, "image", places)
