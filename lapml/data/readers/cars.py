"""Reader of Stanford Cars (Krause et al. 2013): MATLAB files of annotations, in either layout that the authors gave out.

    split     cars_train/00001.jpg, cars_test/00001.jpg
              devkit/cars_meta.mat                  class_names
              devkit/cars_train_annos.mat           annotations: fname, class, bbox_x1, bbox_y1, bbox_x2, bbox_y2
              cars_test_annos_withlabels.mat        the same, of the test images
    merged    car_ims/000001.jpg
              cars_annos.mat                        class_names; annotations: relative_im_path, class, bbox_…, test (0 | 1)

The annotations of the split layout may lie in the root or in devkit/. Classes and pixels count from 1, and both corners
of a box lie inside it. In MATLAB's files numbers are as small as fits (a class is a uint8): they become int and float
before anything is computed with them.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lapml.data.readers import Counts, Download, annotations, no_parts
from lapml.errors import LapmlError, words

TITLE = "Stanford Cars"
IMAGES = ""
BANNER = 0
PUBLISHED = {None: Counts(classes=196, splits={"train": 8144, "test": 8041})}
COPIES = "https://github.com/pytorch/vision/issues/7545"
DOWNLOAD = Download(
    by_hand=(
        f"the authors' site is gone since 2023, {COPIES} names copies: put cars_train.tgz, cars_test.tgz, "
        "car_devkit.tgz and cars_test_annos_withlabels.mat (or car_ims.tgz and cars_annos.mat) into one folder, "
        "unpacked (cars_train/00001.jpg, not cars_train/cars_train/00001.jpg as in some copies) or not"
    ),
)
part_names = no_parts

META = "devkit/cars_meta.mat"
TRAIN = ("devkit/cars_train_annos.mat", "cars_train_annos.mat")
TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
UNLABELLED = ("devkit/cars_test_annos.mat", "cars_test_annos.mat")  # the devkit's own, without classes
MERGED = "cars_annos.mat"
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class _Source(NamedTuple):
    """A file of annotations, and how its images are named and split."""

    file: Path
    path: str  # the field with an image's path
    below: str  # the folder it starts at, "" for the root
    official: str | None  # the split of all its images; None: the field test tells


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes: those for training and then those for test, or as cars_annos.mat lists them. A class's id
    is its place in class_names, from 1.

    A box is None where its corners are the wrong way round; boxes that reach outside their image are kept as they are.

    Raises:
        LapmlError: naming file and element: an annotation file is missing, is no MATLAB file or lacks a field, a value
            is malformed, an image is listed twice or is not there, a class is unknown or has fewer than two training
            images, or there is no test image.
    """
    names_file, sources = _layout(root)
    names = _names(names_file)
    ids = annotations.choose(classes, names, names_file)
    first: dict[str, str] = {}
    listed = {source.file: _images(source, names, names_file) for source in sources}
    for file, found in listed.items():
        for number, (path, *_) in enumerate(found, 1):
            where = f"{file}: annotations({number})"
            if first.setdefault(path, where) != where:
                raise LapmlError(f"{where} is {path}, and so is {first[path]}, expected each image once")
    return annotations.frame(listed, root, ids, names, root)


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed, and the sha256 over the names and bytes of the annotation files."""
    names_file, sources = _layout(root)
    files = {file.name: file for file in (names_file, *(source.file for source in sources))}
    return sum(len(_annotations(source.file)) for source in sources), annotations.fingerprint(files)


def is_root(folder: Path) -> bool:
    """Whether the folder holds one of the layouts."""
    return (folder / META).is_file() or (folder / MERGED).is_file()


# --- files ---


def _layout(root: Path) -> tuple[Path, list[_Source]]:
    """The file that names the classes, and the files of annotations.

    Some copies hold cars_annos.mat beside the images of the split layout, others the devkit beside car_ims/: the images
    that are there decide.
    """
    split = (root / "cars_train").is_dir() and ((root / META).is_file() or not (root / "car_ims").is_dir())
    if (root / MERGED).is_file() and not split:
        return root / MERGED, [_Source(root / MERGED, "relative_im_path", "", None)]
    if not _there(root, TEST) and (unlabelled := _there(root, UNLABELLED)):
        raise LapmlError(
            f"{root / TEST[0]}: no such file, and {root / unlabelled[0]} does not tell the classes of the test images; "
            f"get {TEST[0]} too ({COPIES} names copies) and put it into {root} or {root / 'devkit'}"
        )
    meta, train, test = (
        annotations.existing(root, (_there(root, names) or names)[0], TITLE, (META, TRAIN[0], TEST[0]))
        for names in ((META,), TRAIN, TEST)
    )
    return meta, [_Source(train, "fname", "cars_train", "train"), _Source(test, "fname", "cars_test", "test")]


def _there(root: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (root / name).is_file()]


def _variable(file: Path, name: str) -> Any:
    """A variable of a MATLAB file, without its dimensions of size 1."""
    from scipy.io import loadmat

    content = file.read_bytes()
    try:
        found = loadmat(BytesIO(content), squeeze_me=True, variable_names=[name])
    except Exception as error:  # damage raises many types
        what = words(error)
        raise LapmlError(
            f"{file}: is no MATLAB file that can be read ({what}): cut off, or a web page saved under its name? "
            "get it again"
        ) from None
    if name not in found:
        raise LapmlError(f"{file}: lacks the variable {name}; is it cut off, or another file renamed? get it again")
    return found[name]


def _names(file: Path) -> dict[int, str]:
    """Class id → class name."""
    cells = np.atleast_1d(_variable(file, "class_names"))
    if not len(cells):
        raise LapmlError(f"{file}: class_names is empty, expected a cell of names; get it again")
    for number, name in enumerate(cells, 1):
        if not isinstance(name, str) or not name.strip():
            raise LapmlError(f"{file}: class_names({number}): found {name!r}, expected a name; get it again")
    return {number: str(name).strip() for number, name in enumerate(cells, 1)}


def _annotations(file: Path) -> np.ndarray:
    """The struct array annotations, (images,)."""
    found = np.atleast_1d(_variable(file, "annotations"))
    if found.dtype.names is None or not len(found):
        raise LapmlError(f"{file}: annotations is no struct array, or is empty, expected one struct per image")
    return found


def _images(source: _Source, names: dict[int, str], names_file: Path) -> list[tuple]:
    """Path below the root, class id, official split, box and no parts of each image."""
    found = _annotations(source.file)
    parsers = {
        source.path: partial(_path, below=source.below),
        "class": partial(_number, fits=names.__contains__, expected=f"a class of {names_file} (1..{len(names)})"),
        **dict.fromkeys(CORNERS, partial(_number, fits=isfinite, expected="a pixel's number")),
    }
    if not source.official:
        parsers["test"] = partial(_number, fits=(0, 1).__contains__, expected="1 (test) or 0 (train)")
    if missing := [field for field in parsers if field not in found.dtype.names]:
        renamed = source.official == "test" and missing == ["class"]
        raise LapmlError(
            f"{source.file}: annotations lack {', '.join(missing)}, expected the fields {', '.join(parsers)}; "
            + (f"is it {UNLABELLED[1]}, renamed? get {TEST[0]}" if renamed else "get it again")
        )
    rows = []
    for number, each in enumerate(found, 1):
        values = []
        for field, parse in parsers.items():
            try:
                values.append(parse(each[field]))
            except ValueError as error:
                raise LapmlError(
                    f"{source.file}: annotations({number}).{field}: found {each[field]!r}, expected {error}; get it again"
                ) from None
        path, label, *corners = values[:6]
        official = source.official or ("test" if values[6] else "train")
        rows.append((path, int(label), official, annotations.box_of_corners(*corners), None))
    return rows


# --- values: ValueError's text says what was expected ---


def _path(value: Any, below: str) -> str:
    path = annotations.relative_path(value if isinstance(value, str) else "", f"{below or 'the root'}/")
    return f"{below}/{path}" if below else path


def _number(value: Any, fits: Callable[[float], bool], expected: str) -> float:
    number = float(value) if isinstance(value, int | float | np.number) else float("nan")
    if not fits(number):  # 14.0 is 14, and NaN is none of the classes
        raise ValueError(expected)
    return number
