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
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.data.readers import Counts, Download, annotations
from lapml.errors import LapmlError, words

TITLE = "Stanford Cars"
IMAGES = ""
BANNER = 0
LEVELS: tuple[str, ...] = ()
OFFICIAL_VAL = False
PUBLISHED = {None: Counts(classes=196, splits={"train": 8144, "test": 8041})}
COPIES = "https://github.com/pytorch/vision/issues/7545"
DOWNLOAD = Download(
    urls=(),
    checksum=None,
    by_hand=(
        f"the authors' site is gone since 2023, {COPIES} names copies: put cars_train.tgz, cars_test.tgz, "
        "car_devkit.tgz and cars_test_annos_withlabels.mat (or car_ims.tgz and cars_annos.mat) into one folder, "
        "unpacked (cars_train/00001.jpg, not cars_train/cars_train/00001.jpg as in some copies) or not"
    ),
)

META = "devkit/cars_meta.mat"
TRAIN = ("devkit/cars_train_annos.mat", "cars_train_annos.mat")
TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
UNLABELLED = ("devkit/cars_test_annos.mat", "cars_test_annos.mat")  # the devkit's own, without classes
MERGED = "cars_annos.mat"
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@dataclass(frozen=True)
class _Source:
    """A file of annotations, and how its images are named and split."""

    file: Path
    path: str  # the field with an image's path
    below: str  # the folder it starts at, "" for the root
    official: str | None  # the split of all its images; None: the field test tells


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes: those for training and then those for test, or as cars_annos.mat lists them.

    Args:
        root: the folder that holds devkit/cars_meta.mat or cars_annos.mat.
        classes: ``"all"``, or class ids such as ``"1-20,33"``: a class's place in class_names, from 1.
        labels: None; there is one level.

    Returns:
        A frame as :mod:`lapml.data.readers` describes it. A box is None where its corners are the wrong way round;
        boxes that reach outside their image are kept as they are.

    Raises:
        LapmlError: naming file and element: an annotation file is missing, is no MATLAB file or lacks a field, a value
            is malformed, an image is listed twice or is not there, a class is unknown or has fewer than two training
            images, or a split is empty.
    """
    root = Path(root)
    names_file, sources = _layout(root)
    names = _names(names_file)
    ids = annotations.choose(classes, names, names_file)
    label_of = {number: label for label, number in enumerate(ids)}

    first: dict[str, str] = {}
    rows = []
    for source in sources:
        found = _images(source, names, names_file)
        for number, (path, *_) in enumerate(found, 1):
            where = f"{source.file}: annotations({number})"
            if first.setdefault(path, where) != where:
                raise LapmlError(f"{where} is {path}, and so is {first[path]}, expected each image once")
        found = [row for row in found if row[1] in label_of]
        annotations.refuse_missing((root / path for path, *_ in found), source.file)
        rows += [(path, label_of[number], names[number], official, box, None) for path, number, official, box in found]
    frame = pd.DataFrame(rows, columns=["image", "label", "class_name", "official", "box", "parts"])
    annotations.check_splits(frame, ids, names, root)
    return frame


def part_names(root: Path) -> list[str]:
    """None: the data set has no parts."""
    return []


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images listed, and the sha256 over the names and bytes of the annotation files.

    Raises:
        LapmlError: an annotation file is missing, is no MATLAB file or holds no annotations.
    """
    names_file, sources = _layout(Path(root))
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


def _images(source: _Source, names: dict[int, str], names_file: Path) -> list[tuple[str, int, str, list | None]]:
    """Path below the root, class id, official split and box of each image."""
    found = _annotations(source.file)
    fields = (source.path, "class", *CORNERS, *(() if source.official else ("test",)))
    if missing := [field for field in fields if field not in found.dtype.names]:
        renamed = source.official == "test" and missing == ["class"]
        raise LapmlError(
            f"{source.file}: annotations lack {', '.join(missing)}, expected the fields {', '.join(fields)}; "
            + (f"is it {UNLABELLED[1]}, renamed? get {TEST[0]}" if renamed else "get it again")
        )

    def column(field: str, parse: Callable[[Any], Any]) -> list:
        values = []
        for number, value in enumerate(found[field], 1):
            try:
                values.append(parse(value))
            except ValueError as error:
                raise LapmlError(
                    f"{source.file}: annotations({number}).{field}: found {value!r}, expected {error}; get it again"
                ) from None
        return values

    paths = column(source.path, partial(_path, below=source.below))
    classes = column("class", partial(_whole, known=names, what=f"a class of {names_file} (1..{len(names)})"))
    corners = zip(*(column(field, _pixel) for field in CORNERS), strict=True)
    boxes = [annotations.box_of_corners(*four, first=1) for four in corners]
    if source.official:
        splits = [source.official] * len(paths)
    else:
        tests = column("test", partial(_whole, known=(0, 1), what="1 (test) or 0 (train)"))
        splits = ["test" if test else "train" for test in tests]
    return list(zip(paths, classes, splits, boxes, strict=True))


# --- values: ValueError's text says what was expected ---


def _path(value: Any, below: str) -> str:
    path = annotations.relative_path(value if isinstance(value, str) else "", f"{below or 'the root'}/")
    return f"{below}/{path}" if below else path


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def _whole(value: Any, known: dict[int, str] | tuple[int, ...], what: str) -> int:
    number = _number(value)
    if number not in known:  # 14.0 is 14, and NaN is none of them
        raise ValueError(what)
    return int(number)


def _pixel(value: Any) -> float:
    number = _number(value)
    if not isfinite(number):
        raise ValueError("a pixel's number")
    return number
