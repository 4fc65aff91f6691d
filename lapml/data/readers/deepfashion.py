"""Reader of DeepFashion's Category and Attribute Prediction benchmark (Liu et al., CVPR 2016), by category.

    Anno_coarse/list_category_cloth.txt    <category name> <type 1 | 2 | 3>       a category's id is its place, from 1
    Anno_coarse/list_category_img.txt      <image> <category id>
    Anno_coarse/list_bbox.txt              <image> <x 1> <y 1> <x 2> <y 2>        corner pixels, counted from 1
    Eval/list_eval_partition.txt           <image> <train | val | test>

Line 1 of each file is the number of lines that follow line 2, which names the columns. Older releases call the folder
``Anno/``. Images are named ``img/FOLDER/FILE.jpg``; they lie below the root, or below ``Img/`` where img.zip was
unpacked beside itself.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lapml.data.readers import Counts, Download, annotations, no_parts
from lapml.data.readers.annotations import is_id
from lapml.errors import LapmlError

TITLE = "DeepFashion"
IMAGES = ""
BANNER = 0
PUBLISHED = {None: Counts(classes=46, splits={"train": 209222, "val": 40000, "test": 40000})}  # 50 categories, 4 unused
DOWNLOAD = Download(
    by_hand=(
        "it is free for non-commercial research under an agreement, so look at "
        "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html for 'Category and Attribute Prediction Benchmark' and "
        "what its authors ask for (a form may be needed for the password of protected archives); get "
        "Anno_coarse/list_category_cloth.txt, Anno_coarse/list_category_img.txt, Anno_coarse/list_bbox.txt, "
        "Eval/list_eval_partition.txt and Img/img.zip, and put them in one folder with these names"
    ),
)
part_names = no_parts  # the landmarks are another file's, and not read

FOLDERS = ("Anno_coarse", "Anno")  # of the annotations: the newer release's name first
CLOTH, CATEGORY, BOXES, PARTITION = (
    "list_category_cloth.txt",
    "list_category_img.txt",
    "list_bbox.txt",
    "list_eval_partition.txt",
)
PREFIXES = ("", "Img/")  # where the images' names start, below the root
WHOLE = re.compile(r"-?[0-9]{1,9}")
Value = TypeVar("Value")


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen categories, in the order of list_category_img.txt. ``"all"`` are the categories that have images
    (46 of 50); they are kept however few training images they have.

    A box is None where the image has no line, or one whose corners enclose nothing.

    Raises:
        LapmlError: an annotation file is missing, cut off or malformed, the files list other images, an image is missing,
            a category is unknown or has no image, or there is none to train on or to test.
    """
    files = _files(root)
    names = dict(enumerate(_table(files[CLOTH], 1, _type), start=1))
    category_of = _table(files[CATEGORY], 1, _category(len(names)))
    official = _table(files[PARTITION], 1, _split)
    annotations.refuse_unequal(category_of, files[CATEGORY], official, files[PARTITION])
    boxes = _table(files[BOXES], 4, _box)
    if unknown := next((image for image in boxes if image not in category_of), None):
        raise LapmlError(
            f"{files[BOXES]}: image {unknown!r} is not in {files[CATEGORY]}, expected only images that are; "
            "get both files from the same release"
        )
    used = set(category_of.values())
    ids = sorted(used) if classes == "all" else annotations.choose(classes, names, files[CLOTH])
    if unused := [number for number in ids if number not in used]:
        raise LapmlError(
            f"classes: category {unused[0]} ({names[unused[0]]}) in {classes!r} has no image in {files[CATEGORY]}, "
            f"expected categories that have ({len(used)} of {len(names)}); leave it out of data.NAME.classes"
        )
    chosen = {image: number for image, number in category_of.items() if number in ids}
    prefix = _prefix(root, list(chosen), files[CATEGORY])
    rows = [(prefix + image, number, official[image], boxes.get(image), None) for image, number in chosen.items()]
    return annotations.frame({files[CATEGORY]: rows}, root, ids, names, files[PARTITION], least=0, val=True)


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed, and the sha256 over the names and bytes of the annotation files (not their folder's)."""
    files = _files(root)
    return len(_table(files[CATEGORY], 1, lambda name, value: value)), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return any((folder / anno / CATEGORY).is_file() for anno in FOLDERS)


# --- files and lines ---


def _files(root: Path) -> dict[str, Path]:
    anno = next((folder for folder in FOLDERS if (root / folder / CATEGORY).is_file()), FOLDERS[0])
    names = {name: f"{anno}/{name}" for name in (CLOTH, CATEGORY, BOXES)} | {PARTITION: f"Eval/{PARTITION}"}
    return {name: annotations.existing(root, path, TITLE, names.values()) for name, path in names.items()}


def _table(file: Path, columns: int, parse: Callable[..., Value]) -> dict[str, Value]:
    """Lines of a name and ``columns`` values, as name → what ``parse`` makes of name and values."""
    lines = list(annotations.lines(file))
    first, header = ([*(line for _, line in lines[:2]), "", ""])[:2]
    if not is_id(first) or len(first) > 9:
        raise LapmlError(
            f"{file}:1: found {first[:80]!r}, expected the number of lines that follow; get the file again"
        )
    expected = "category_name" if file.name == CLOTH else "image_name"
    if header.split()[:1] != [expected]:
        raise LapmlError(
            f"{file}:2: found {header[:80]!r}, expected the names of the columns ({expected} …); get the file again"
        )
    if (found := len(lines) - 2) != int(first):  # before the lines: the last one of a cut-off file is half a line
        raise LapmlError(
            f"{file}: found {found} lines after the header, expected {int(first)} by its first line: "
            f"{'it is cut off' if found < int(first) else 'it has lines too many'}; get the file again"
        )

    def row(line: str) -> tuple[str, Value]:
        name, *values = line.rsplit(maxsplit=columns)  # from the right: a name may have spaces
        if len(values) != columns:
            raise ValueError(f"a name and {columns} more")
        return name, parse(name, *values)

    return annotations.table(file, lines[2:], row, "name")


# --- values: ValueError's text says what was expected ---


def _type(name: str, value: str) -> str:
    if value not in ("1", "2", "3"):
        raise ValueError("a category's name and its type (1, 2 or 3)")
    return value


def _category(count: int) -> Callable[[str, str], int]:
    known = {str(number): number for number in range(1, count + 1)}

    def parse(name: str, value: str) -> int:
        steps = name.split("/")
        if steps[0] != "img" or len(steps) == 1 or not {"", ".", ".."}.isdisjoint(steps) or "\\" in name:
            raise ValueError("a path that starts with img/ and stays below it, with forward slashes")
        if (number := known.get(value.lstrip("0"))) is None:
            raise ValueError(f"an image and the id of a category of {CLOTH} (1..{count})")
        return number

    return parse


def _split(name: str, value: str) -> str:
    if value not in ("train", "val", "test"):
        raise ValueError("an image and train, val or test")
    return value


def _box(name: str, *corners: str) -> list[float] | None:
    if not all(map(WHOLE.fullmatch, corners)):
        raise ValueError("an image and four whole numbers, the corners x_1 y_1 x_2 y_2 in pixels")
    return annotations.box_of_corners(*map(float, corners))


# --- images ---


def _prefix(root: Path, images: list[str], listed: Path) -> str:
    """Where the images lie, judged by the folders that they name: ``img`` alone may be ``Img`` where case is ignored."""
    folders = {image.rpartition("/")[0] for image in images}
    there = {prefix: sum(os.path.isdir(os.path.join(root, prefix + each)) for each in folders) for prefix in PREFIXES}
    best = max(PREFIXES, key=there.__getitem__)
    if there[best]:
        return best
    expected = f"{root}: found neither img/ nor Img/img/ with the folders of {listed}"
    for archive in ("Img/img.zip", "img.zip"):
        if (root / archive).is_file():
            raise LapmlError(
                f"{expected}, but {archive}: unpack it where it lies, or set data.NAME.source to the folder that "
                "holds it and run `lapml data fetch NAME`, which unpacks it"
            )
    raise LapmlError(f"{expected}, expected img.zip unpacked in one of them; {DOWNLOAD.by_hand}")
