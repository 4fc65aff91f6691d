"""Reader of one's own images, a folder a class:

    train/CLASS/…    images of any name that Pillow and its installed plugins can open, also in a folder below CLASS
    val/CLASS/…      optional
    test/CLASS/…

A class's id is the place of its folder among those of train/, from 1, in the order of their names' code points. Where a
folder of train/ has no images of its own, but several folders of images, these may be the classes: ``labels`` must then say.
With "nested" each folder that holds images is a class, named by its path (GROUP/CLASS), with "top" CLASS is, whatever lies
below.

Hidden files and folders are left out, and so are files that are no images; :func:`left_out` counts those. Links to files are
followed, and so are links to class folders; links to folders further down are not, which keeps out circles.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lapml.data import formats
from lapml.data.readers import Counts, Download, annotations
from lapml.errors import LapmlError

TITLE = "folder of images"
IMAGES = ""
BANNER = 0
LEVELS: tuple[str, ...] = ()
FOLDERS = (None, "nested", "top")  # which of them are classes: data.NAME.labels
OFFICIAL_VAL = True  # where there is val/
PUBLISHED: dict[str | None, Counts] = {}
DOWNLOAD = Download(
    urls=(),
    checksum=None,
    by_hand="lay your images out as train/CLASS/*.jpg and test/CLASS/*.jpg",
)

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # images without a look into them
MISNAMED = ("val", "valid", "validation", "dev")  # in any case, unless it is val
CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # that systems leave beside images, apart from dot files
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Found:
    """What a class's folder holds."""

    images: list[str] = field(default_factory=list)  # sorted paths below the root
    others: Counter[str] = field(default_factory=Counter)  # what else, and how often


Listing = dict[str, dict[str, Found]]  # split → class → what was found
Images = dict[str, dict[str, list[str]]]  # split → class → sorted paths below the root


def read(root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
    """All images of the chosen classes: train, val and test, each by class and path.

    Args:
        root: the folder that holds train/ and test/.
        classes: ``"all"``, or class ids (see above) such as ``"1-3,20"``.
        labels: one of FOLDERS.

    Returns:
        A frame with the columns image (path below ``root``, with forward slashes), label (0-based, contiguous over the
        chosen classes in the order of their ids), class_name, official (``"train"``, ``"test"``, and ``"val"`` where
        there is val/), box and parts (None).

    Raises:
        LapmlError: the layout is another one, folders in a class of train/ may be classes, a class of val/ or test/ is not
            in train/, a name is not UTF-8, a class is unknown or has no training image (fewer than two if there is no
            val/), or there is no test image.
    """
    root = Path(root)
    listing = _labelled({split: {name: each.images for name, each in found.items()} for split, found in _listing(root).items()},
                        labels, root)  # fmt: skip
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
    paths = sorted(path for found in _listing(Path(root)).values() for each in found.values() for path in each.images)
    return len(paths), hashlib.sha256("".join(f"{path}\0" for path in paths).encode()).hexdigest()


def left_out(root: Path) -> dict[str, Counter[str]]:
    """What lies in the classes' folders and is not read: ``"train/CLASS"`` → what it is → how many.

    Raises:
        LapmlError: as :func:`fingerprint`.
    """
    listing = _listing(Path(root))
    return {
        f"{split}/{name}": each.others
        for split, found in listing.items()
        for name, each in found.items()
        if each.others
    }


def folders_below(root: Path) -> dict[str, list[str]]:
    """The folders with images below each class's own, where there are any: ``"train/CLASS"`` → sorted names.

    Raises:
        LapmlError: as :func:`fingerprint`.
    """
    listing = _listing(Path(root))
    below = {f"{split}/{name}": _below(each.images) for split, found in listing.items() for name, each in found.items()}
    return {name: folders for name, folders in below.items() if folders}


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout (and not macOS's notes about one, of which its archives have a second tree)."""
    return CLUTTER[0] not in folder.parts and (folder / "train").is_dir() and (folder / "test").is_dir()


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
    _refuse_untrained(listing, root)
    for split, found in listing.items():
        if split != "test" and not any(each.images for each in found.values()):
            raise LapmlError(
                f"{root / split}: has no images, expected {split}/CLASS/*.jpg; add some"
                + (", or remove the folder" if split == "val" else "")
            )
    return listing


def _classes(root: Path, split: str) -> dict[str, Found]:
    classes: dict[str, Found] = {}
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
            elif entry.is_file() and not _refusal(entry):
                raise LapmlError(
                    f"{root / split}: the image {_shown(entry.name)} is in no class's folder, expected "
                    f"{split}/CLASS/*.jpg; move it into the folder of its class"
                )
    return {name: classes[name] for name in sorted(classes)}


def _images(folder: str, prefix: str, root: Path) -> Found:
    """What is in a class's folder, which ``prefix`` names below the root."""
    found, waiting = Found(), [(folder, prefix)]
    while waiting:  # not os.walk, which passes over folders that cannot be read
        below, prefix_below = waiting.pop()
        with os.scandir(below) as entries:
            for entry in entries:
                if _clutter(entry.name):
                    if _suffix(entry.name) in SUFFIXES and not entry.name.startswith("._"):  # which macOS writes
                        found.others[f"hidden {_suffix(entry.name)}"] += 1
                elif entry.is_dir():
                    if entry.is_symlink():
                        found.others["a link to a folder"] += 1
                    else:
                        waiting.append((entry.path, f"{prefix_below}{entry.name}/"))
                elif not entry.is_file() and _suffix(entry.name) in SUFFIXES:
                    raise LapmlError(f"{root}: {_shown(prefix_below + entry.name)} is a link to nothing, or no file")
                elif why := _refusal(entry):
                    suffix = _suffix(entry.name)
                    found.others[f"{_shown(suffix) if suffix else 'no suffix'} ({why})"] += 1
                else:
                    found.images.append(prefix_below + entry.name)
    if found.others and not found.images:
        kinds, whys = ({each.partition(" (")[part] for each in found.others} for part in (0, 2))
        needs = "".join(f"; {why[:-1]}" for why in sorted(whys) if "install" in why)
        raise LapmlError(
            f"{root / prefix}: has no images, found {', '.join(sorted(kinds))}; expected files that Pillow can open, such as "
            f"{' '.join(SUFFIXES)}{needs}; convert the images, or move the folder away"
        )
    for path in found.images:
        _refuse_undecodable(path, root)
    found.images.sort()
    return found


def _refusal(entry: os.DirEntry) -> str:
    """Why a file is not read as an image; "" if it is."""
    if _suffix(entry.name) in SUFFIXES:
        return ""  # if it is none, packing says so
    return formats.refusal(entry.path) if entry.is_file() else "no file"


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


# --- folders in a class's folder ---


def _below(paths: list[str]) -> list[str]:
    """The folders below a class's own that hold some of its images, of paths SPLIT/CLASS/…"""
    return sorted({folder for path in paths if (folder := "/".join(path.split("/")[2:-1]))})


def _labelled(listing: Images, labels: str | None, root: Path) -> Images:
    """The images by the classes that ``labels`` makes of the folders."""
    if labels == "top":
        return listing
    if labels is None:
        _refuse_nested(listing["train"], root / "train")
        return listing
    nested: Images = {split: {} for split in listing}
    for split, found in listing.items():
        for path in sorted(path for paths in found.values() for path in paths):
            nested[split].setdefault(path[len(split) + 1 :].rpartition("/")[0], []).append(path)
        for name in nested[split]:
            steps = name.split("/")
            above = next((up for end in range(1, len(steps)) if (up := "/".join(steps[:end])) in nested[split]), None)
            if above is not None:
                raise LapmlError(
                    f"{root / split}: {_shown(above)} holds images beside the class {_shown(name)}, expected images in the "
                    "lowest folders only, as data.NAME.labels is 'nested'; move them into the folder of their class"
                )
    _refuse_untrained(nested, root)
    return {split: {name: nested[split][name] for name in sorted(nested[split])} for split in nested}


# --- what is refused ---


def _refuse_nested(train: dict[str, list[str]], where: Path) -> None:
    nested = {
        name: below
        for name, paths in train.items()
        if len(below := _below(paths)) > 1 and all(path.count("/") > 2 for path in paths)
    }
    if not nested:
        return
    name, below = next(iter(nested.items()))
    shown = ", ".join(map(_shown, below[:SHOWN])) + (f", … ({len(below)} in all)" if len(below) > SHOWN else "")
    more = f" (and {len(nested) - 1} more folders of the kind)" if len(nested) > 1 else ""
    raise LapmlError(
        f"{where}: {_shown(name)} holds nothing but folders of images: {shown}{more}; are they the classes? Set data.NAME.labels "
        f"to nested where each folder that holds images is a class, or to top where all images in {_shown(name)} are of one class"
    )


def _refuse_untrained(listing: dict[str, dict], root: Path) -> None:
    for split, found in listing.items():
        if unknown := [name for name in found if name not in listing["train"]]:
            raise LapmlError(
                f"{root / split}: class {unknown[0]!r} is not in {root / 'train'} ({len(unknown)} such in all), expected "
                "only classes that can be trained; mend the folder's name, or move it away"
            )


def _refuse_undecodable(name: str, where: Path) -> None:
    if not _decodable(name):
        raise LapmlError(f"{where}: the name {_shown(name)} is not UTF-8, which the index cannot hold; rename it")


def _refuse_circle(entry: os.DirEntry, where: Path) -> None:
    if entry.is_symlink() and where.resolve().is_relative_to(Path(entry.path).resolve()):
        raise LapmlError(
            f"{where}: {_shown(entry.name)} is a link to a folder that it lies in itself, expected one that holds the "
            "images of one class; mend or remove the link"
        )
