"""What the readers of annotation files share: tables of lines with their place, values, chosen classes, the frame.

Every error names the file (and line), what was found, what was expected and what to do.
"""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pandas as pd

from lapml.errors import LapmlError
from lapml.files import sha256

EXAMPLES = 5  # named in a message
COLUMNS = ("image", "label", "class_name", "official", "box", "parts")
Key, Value = TypeVar("Key"), TypeVar("Value")


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


def table(
    file: Path,
    lines: Iterable[tuple[str, str]],
    parse: Callable[[str], tuple[Key, Value]],
    what: str,
    places: dict[Key, str] | None = None,
) -> dict[Key, Value]:
    """Lines as key → value, in the file's order.

    Args:
        parse: key and value of a line; the text of its ValueError says what was expected.
        what: a key is, for messages.
        places: of the keys of other files, where these must not be again; the file's own are added.

    Raises:
        LapmlError: there is no line, one is malformed, or a key is there twice.
    """
    found: dict[Key, Value] = {}
    places = {} if places is None else places
    for where, line in lines:
        try:
            key, value = parse(line)
        except ValueError as error:
            raise LapmlError(f"{where}: found {line!r}, expected {error}; correct it, or get the file again") from None
        if places.setdefault(key, where) != where:
            raise LapmlError(
                f"{where}: {what} {key!r} is there already at {places[key]}, expected once; remove one of the lines"
            )
        found[key] = value
    if not found:
        raise LapmlError(f"{file}: is empty, expected a line for each {what}; lay the annotations out again")
    return found


def refuse_unequal(one: Collection, one_file: Path, other: Collection, other_file: Path) -> None:
    """LapmlError for the first image that only one of two files has."""
    for have, there, want, lacks in ((one, one_file, other, other_file), (other, other_file, one, one_file)):
        if missing := [image for image in have if image not in want]:
            raise LapmlError(
                f"{lacks}: image {missing[0]!r} of {there} is missing ({len(missing)} in all), expected the same images in "
                "both; add the lines, or get both files from the same release"
            )


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


def numbers(values: list[str], count: int, expected: str) -> list[float]:
    """``count`` finite numbers."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(expected)
    return found


def box_of_corners(x1: float, y1: float, x2: float, y2: float) -> list[float] | None:
    """``[x, y, width, height]`` in pixels of a box given by its corner pixels, counted from 1 and both inside it; None where
    they enclose nothing."""
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1] if x2 >= x1 and y2 >= y1 else None


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
        # Of a range, one number beyond the last class is enough to be unknown.
        chosen |= {int(low), *range(int(low), min(int(high or low), max(names) + 1) + 1)}
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


def refuse_missing(folder: Path, images: Iterable[str], listed: Path) -> None:
    """LapmlError for the first image, a path below ``folder``, that the file ``listed`` names but that is not there."""
    there: dict[str, set[str]] = {}  # one listing per folder is far cheaper than asking for each file
    for image in images:
        below, _, name = image.rpartition("/")
        if below not in there:
            there[below] = _files_in(os.path.join(folder, below))
        # Asked for, pathlib's raises where a name is too long to be one.
        if name not in there[below] and not os.path.isfile(os.path.join(folder, image)):
            raise LapmlError(
                f"{listed}: there is no file {folder / image}; lay all images out beside the annotations, or choose the classes "
                "that are there with data.NAME.classes"
            )


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # no such folder, or no name of one: each file is then asked for, and named
        return set()


def frame(
    listed: dict[Path, list[tuple[str, int, str, list | None, list | None]]],
    images: Path | None,
    ids: list[int],
    names: dict[int, str],
    where: Path,
    least: int = 2,
    val: bool = False,
    own: bool = False,
) -> pd.DataFrame:
    """The frame of a reader (:mod:`lapml.data.readers`), of classes that can be trained and validated, and be tested.

    Args:
        listed: image, class id, official split, box and parts of each image, by the file that lists it.
        images: the folder that they must lie in; None: they were found there.
        ids: of the chosen classes, in the order of their labels.
        names: id → name.
        where: the file or folder that makes the splits.
        least: images that a class needs to be trained; 2: one of them validates.
        val: validation images are no training images.
        own: a folder of one's own, which may be read with ``data.NAME.min_images``.

    Raises:
        LapmlError: an image is not there, a class has fewer training images, or there is none to train on or to test.
    """
    label_of, made = {number: label for label, number in enumerate(ids)}, []
    for file, rows in listed.items():
        rows = [row for row in rows if row[1] in label_of]
        if images:
            refuse_missing(images, (image for image, *_ in rows), file)
        made += [(image, label_of[number], names[number], *rest) for image, number, *rest in rows]
    frame = pd.DataFrame(made, columns=list(COLUMNS))
    tested = frame["official"] == "test"
    trained = frame["official"] == "train" if val else ~tested
    count = frame[trained].groupby("label").size()
    if few := {number: count.get(label, 0) for number, label in label_of.items() if count.get(label, 0) < least}:
        number, found = next(iter(few.items()))
        more = ", ".join(f"{each} ({names[each]})" for each in [*few][1 : 1 + EXAMPLES])
        also = f"; so do {more}{', …' if len(few) > 1 + EXAMPLES else ''}, {len(few)} classes in all" if more else ""
        rest = ranges([each for each in ids if each not in few])
        cure = (f": set it to {rest!r}" if rest else "") + (f", or set data.NAME.min_images to {least}" if own else "")
        raise LapmlError(
            f"{where}: class {number} ({names[number]}) has {found} training images, expected at least "
            f"{'one' if least == 1 else 'two (one of them validates)'}{also}; leave {'them' if more else 'the class'} out with "
            f"data.NAME.classes{cure}"
        )
    for split, there in (("train", trained), ("test", tested)):
        if not there.any():
            raise LapmlError(
                f"{where}: the chosen classes have no {split} image; choose other classes with data.NAME.classes, or correct the "
                "split"
            )
    return frame
