"""Reader of one's own images, a folder a class:

    train/CLASS/…    any image files, also in folders below CLASS
    val/CLASS/…      optional
    test/CLASS/…

A class's id is the place of its folder among those of train/, from 1, in the order of their names' code points.
Hidden files and folders, and files that are no images by their suffix, are left out. Links to files are followed, and
so are links to class folders; links to folders further down are not, which keeps out circles.
"""

import hashlib
import os
from pathlib import Path

import pandas as pd

from lapml.data import annotations
from lapml.data.readers import Counts, Download
from lapml.errors import LapmlError

TITLE = "folder of images"
IMAGES = ""
BANNER = 0
LEVELS: tuple[str, ...] = ()
OFFICIAL_VAL = True  # where there is val/
PUBLISHED: dict[str | None, Counts] = {}
DOWNLOAD = Download(
    urls=(),
    checksum=None,
    by_hand="lay your images out as train/CLASS/*.jpg and test/CLASS/*.jpg",
)

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MISNAMED = ("val", "valid", "validation", "dev")  # in any case, unless it is val
CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # that systems leave beside images, apart from dot files
Listing = dict[str, dict[str, list[str]]]  # split → class → sorted paths below the root


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes: train, val and test, each by class and path.

    Args:
        root: the folder that holds train/ and test/.
        classes: ``"all"``, or class ids (see above) such as ``"1-3,20"``.

    Returns:
        A frame with the columns image (path below ``root``, with forward slashes), label (0-based, contiguous over the
        chosen classes in the order of their ids), class_name, official (``"train"``, ``"test"``, and ``"val"`` where
        there is val/), box and parts (None).

    Raises:
        LapmlError: the layout is another one, a class of val/ or test/ is not in train/, a name is not UTF-8, a class
            is unknown or has no training image (fewer than two if there is no val/), or there is no test image.
    """
    root = Path(root)
    listing = _listing(root)
    names = dict(enumerate(listing["train"], start=1))
    ids = annotations.choose(classes, names, root / "train")
    rows = [
        (path, label, names[number], split)
        for split, found in listing.items()
        for label, number in enumerate(ids)
        for path in found.get(names[number], [])
    ]
    frame = pd.DataFrame(rows, columns=["image", "label", "class_name", "official"])
    frame["box"] = frame["parts"] = pd.Series([None] * len(rows), dtype=object)
    annotations.check_splits(frame, ids, names, root, own_val="val" in listing)
    return frame


def part_names(root: Path) -> list[str]:
    """No parts."""
    return []


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images in all classes, and the sha256 over their sorted paths (not over what the files hold).

    Raises:
        LapmlError: as :func:`read`, as far as it concerns the folders.
    """
    paths = sorted(path for found in _listing(Path(root)).values() for each in found.values() for path in each)
    return len(paths), hashlib.sha256("".join(f"{path}\0" for path in paths).encode()).hexdigest()


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


# --- folders ---


def _listing(root: Path) -> Listing:
    """All images, by split (val only where there is val/) and class; the classes in order."""
    try:
        return _checked(root)
    except OSError as error:
        raise LapmlError(f"{root}: cannot be listed ({error}); mend its permissions or links") from None


def _checked(root: Path) -> Listing:
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if not _clutter(entry.name) and entry.is_dir())
    if misnamed := [name for name in folders if name.lower() in MISNAMED and name != "val"]:
        raise LapmlError(
            f"{root}: found the folder {_shown(misnamed[0])}, expected validation images in val: "
            "rename it to val, or move it away"
        )
    for split in ("train", "test"):
        if split not in folders:
            found = ", ".join(map(_shown, folders[:5])) + (", …" if len(folders) > 5 else "")
            raise LapmlError(
                f"{root}: there is no folder {split}, found {found or 'no folders'}; {DOWNLOAD.by_hand} "
                "(each CLASS a folder of its own below train and test)"
            )
    listing = {split: _classes(root, split) for split in SPLITS if split in folders}
    for split, found in listing.items():
        if unknown := [name for name in found if name not in listing["train"]]:
            raise LapmlError(
                f"{root / split}: class {unknown[0]!r} is not in {root / 'train'} ({len(unknown)} such in all), expected "
                "only classes that can be trained; mend the folder's name, or move it away"
            )
        if split != "test" and not any(found.values()):
            raise LapmlError(
                f"{root / split}: has no images, expected {split}/CLASS/*.jpg; add some"
                + (", or remove the folder" if split == "val" else "")
            )
    return listing


def _classes(root: Path, split: str) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    with os.scandir(root / split) as entries:
        for entry in entries:
            if _clutter(entry.name):
                continue
            if entry.is_dir():
                _refuse_undecodable(entry.name, root / split)
                _refuse_circle(entry, root / split)
                classes[entry.name] = _images(entry.path, f"{split}/{entry.name}/", root)
            elif entry.is_symlink() and not entry.is_file():
                raise LapmlError(f"{root / split}: {_shown(entry.name)} is a link to nothing; mend or remove it")
            elif _suffix(entry.name) in SUFFIXES:
                raise LapmlError(
                    f"{root / split}: the image {_shown(entry.name)} is in no class's folder, expected "
                    f"{split}/CLASS/*.jpg; move it into the folder of its class"
                )
    return {name: classes[name] for name in sorted(classes)}


def _images(folder: str, prefix: str, root: Path) -> list[str]:
    """Sorted paths of the images in a class's folder, which ``prefix`` names below the root."""
    paths, others, waiting = [], set(), [(folder, prefix)]
    while waiting:  # not os.walk, which passes over folders that cannot be read
        below, prefix_below = waiting.pop()
        with os.scandir(below) as entries:
            for entry in entries:
                if _clutter(entry.name):
                    continue
                if entry.is_dir():
                    if entry.is_symlink():
                        others.add("a link to a folder")
                    else:
                        waiting.append((entry.path, f"{prefix_below}{entry.name}/"))
                elif (suffix := _suffix(entry.name)) not in SUFFIXES:
                    others.add(_shown(suffix) if suffix else "no suffix")
                elif not entry.is_file():
                    raise LapmlError(f"{root}: {_shown(prefix_below + entry.name)} is a link to nothing, or no file")
                else:
                    paths.append(prefix_below + entry.name)
    if others and not paths:
        raise LapmlError(
            f"{root / prefix}: has no images, found {', '.join(sorted(others))}; expected files with one of the suffixes "
            f"{' '.join(SUFFIXES)}; convert the images, or move the folder away"
        )
    for path in paths:
        _refuse_undecodable(path, root)
    return sorted(paths)


def _clutter(name: str) -> bool:
    return name.startswith(".") or name in CLUTTER


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _shown(name: str) -> str:
    """A name that any terminal can print: bytes that are not UTF-8 are written out."""
    return repr(name) if _decodable(name) else repr(os.fsencode(name))


def _decodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python holds such bytes as lone surrogates
        return False
    return True


# --- what is refused ---


def _refuse_undecodable(name: str, where: Path) -> None:
    if not _decodable(name):
        raise LapmlError(f"{where}: the name {_shown(name)} is not UTF-8, which the index cannot hold; rename it")


def _refuse_circle(entry: os.DirEntry, where: Path) -> None:
    if entry.is_symlink() and where.resolve().is_relative_to(Path(entry.path).resolve()):
        raise LapmlError(
            f"{where}: {_shown(entry.name)} is a link to a folder that it lies in itself, expected one that holds the "
            "images of one class; mend or remove the link"
        )
