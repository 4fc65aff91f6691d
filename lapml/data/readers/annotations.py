"""What the readers of annotation files share: lines with their place, values, chosen classes, splits.

Every error names the file (and line), what was found, what was expected and what to do.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from lapml.errors import LapmlError
from lapml.files import sha256

EXAMPLES = 5  # named in a message


def existing(root: Path, name: str, title: str, names: Iterable[str]) -> Path:
    """``root / name``, one of the files ``names`` that the layout ``title`` needs.

    Raises:
        LapmlError: it is not there.
    """
    if not (root / name).is_file():
        raise LapmlError(
            f"{root / name}: no such file; the {title} layout needs {', '.join(names)}: "
            "lay the whole annotations out, or correct data.NAME.source"
        )
    return root / name


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """``(file:line, text)`` of each line that is not blank, stripped.

    Raises:
        LapmlError: the file is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LapmlError(f"{file}: is not UTF-8 text (byte {error.start}); lay the annotations out again") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", line.strip()


def fingerprint(files: dict[str, Path]) -> str:
    """The sha256 over the names and bytes of the annotation files, wherever they lie."""
    total = hashlib.sha256()
    for name, file in files.items():
        total.update(f"{name} {sha256(file)}\n".encode())
    return total.hexdigest()


# --- values: ValueError's text says what was expected ---


def is_id(text: str) -> bool:
    """Whether a text is a number of an image or a class."""
    return text.isascii() and text.isdigit()


def relative_path(value: str, below: str) -> str:
    """A path that stays below a folder: no archive or list may name a file elsewhere."""
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError(f"a path that stays below {below}, with forward slashes")
    return str(path)


def numbers(values: list[str], count: int) -> list[float]:
    """``count`` finite numbers; ValueError, which says what was expected, where they are not."""
    found = [float(value) for value in values]
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{count} numbers")
    return found


def box_of_corners(x1: float, y1: float, x2: float, y2: float, first: int) -> list[float] | None:
    """``[x, y, width, height]`` in pixels of a box given by its corner pixels, both inside it.

    ``first`` is the number that the annotations give the first pixel (1 for MATLAB's). None where the corners enclose
    nothing.
    """
    if x2 < x1 or y2 < y1:
        return None
    return [x1 - first, y1 - first, x2 - x1 + 1, y2 - y1 + 1]


# --- the whole ---


def choose(classes: str, names: dict[int, str], where: Path) -> list[int]:
    """Chosen class ids, ascending.

    Args:
        classes: ``"all"``, or ids such as ``"113-133,5"``.
        names: id → name of every class there is.
        where: the file that lists them.

    Raises:
        LapmlError: ``classes`` is malformed or names a class that there is not.
    """
    if classes == "all":
        return sorted(names)
    chosen: set[int] = set()
    for part in classes.split(","):
        low, dash, high = part.partition("-")
        if not is_id(low) or (dash and not is_id(high)) or int(high or low) < int(low):
            raise LapmlError(f"classes: found {part!r} in {classes!r}, expected 'all' or class ids such as 113-133,5")
        chosen |= set(range(int(low), min(int(high or low), max(names) + 1) + 1))  # one beyond is enough to be unknown
    if unknown := sorted(chosen - set(names)):
        raise LapmlError(
            f"classes: found class {unknown[0]} in {classes!r}, expected class ids of {where} "
            f"({min(names)}..{max(names)}, {len(names)} classes)"
        )
    return sorted(chosen)


def ranges(numbers: list[int]) -> str:
    """Ascending class ids as :func:`choose` reads them: 1-3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def refuse_missing(files: Iterable[Path], listed: Path) -> None:
    """Raise a LapmlError for the first image file that is listed but not there."""
    for file in files:
        if not os.path.isfile(file):  # pathlib's raises where a name is too long to be one
            raise LapmlError(
                f"{listed}: there is no file {file}; lay the images out beside the annotations, or choose the classes "
                "that are there with data.NAME.classes"
            )


def check_splits(
    frame: pd.DataFrame,
    ids: list[int],
    names: dict[int, str],
    where: Path,
    official_val: bool = False,
    own: bool = False,
) -> None:
    """Each class can be trained and validated, and the whole be tested.

    Args:
        frame: columns label (an index into ``ids``) and official (train, val or test).
        ids: the chosen classes' ids, in the order of their labels.
        names: id → name.
        where: the file or folder that makes the splits.
        official_val: validation images are there already: one training image will do; else it takes two.
        own: a folder of one's own, which may be read with ``data.NAME.min_images``.

    Raises:
        LapmlError: a class has fewer images outside test, or there is no test image.
    """
    trained = frame["official"] == "train" if official_val else frame["official"] != "test"
    least, why = (1, "one") if official_val else (2, "two (one of them validates)")
    count = frame[trained].groupby("label").size()
    if few := {number: count.get(label, 0) for label, number in enumerate(ids) if count.get(label, 0) < least}:
        number, found = next(iter(few.items()))
        more = ", ".join(f"{each} ({names[each]})" for each in [*few][1 : 1 + EXAMPLES])
        also = f"; so do {more}{', …' if len(few) > 1 + EXAMPLES else ''}, {len(few)} classes in all" if more else ""
        rest = ranges([each for each in ids if each not in few])
        cure = (f": set it to {rest!r}" if rest else "") + (f", or set data.NAME.min_images to {least}" if own else "")
        raise LapmlError(
            f"{where}: class {number} ({names[number]}) has {found} training images, expected at least {why}{also}; leave "
            f"{'them' if more else 'the class'} out with data.NAME.classes{cure}"
        )
    if not (frame["official"] == "test").any():
        raise LapmlError(
            f"{where}: the chosen classes have no test image; choose other classes with data.NAME.classes, or correct the split"
        )
