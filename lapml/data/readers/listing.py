"""What lies in folders of images, train/CLASS/… and the like: listed, and refused where it is another layout."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lapml.data import formats
from lapml.errors import LapmlError

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # images without a look into them
MISNAMED = ("val", "valid", "validation", "dev")  # in any case, unless it is val
CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # that systems leave beside images, apart from dot files
BY_HAND = "lay your images out as train/CLASS/*.jpg and test/CLASS/*.jpg"


@dataclass(frozen=True)
class Found:
    """What a class's folder holds."""

    images: list[str] = field(default_factory=list)  # sorted paths below the root
    others: Counter[str] = field(default_factory=Counter)  # what else, and how often


Listing = dict[str, dict[str, Found]]  # split → class → what was found


def listing_of(root: Path) -> Listing:
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
            f"{root}: found the folder {shown(misnamed[0])}, expected validation images in val: "
            "rename it to val, or move it away"
        )
    for split in ("train", "test"):
        if split not in folders:
            found = ", ".join(map(shown, folders[:5])) + (", …" if len(folders) > 5 else "")
            raise LapmlError(
                f"{root}: there is no folder {split}, found {found or 'no folders'}; {BY_HAND} "
                "(each CLASS a folder of its own below train and test)"
            )
    listing = {split: _classes(root, split) for split in SPLITS if split in folders}
    refuse_untrained(listing, root)
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
                raise LapmlError(f"{root / split}: {shown(entry.name)} is a link to nothing; mend or remove it")
            elif entry.is_file() and not _refusal(entry):
                raise LapmlError(
                    f"{root / split}: the image {shown(entry.name)} is in no class's folder, expected "
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
                    raise LapmlError(f"{root}: {shown(prefix_below + entry.name)} is a link to nothing, or no file")
                elif why := _refusal(entry):
                    suffix = _suffix(entry.name)
                    found.others[f"{shown(suffix) if suffix else 'no suffix'} ({why})"] += 1
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


def shown(name: str) -> str:
    """A name that any terminal can print: bytes that are not UTF-8 are written out."""
    return repr(name) if _decodable(name) else repr(os.fsencode(name))


def _decodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python holds such bytes as lone surrogates
        return False
    return True


def refuse_untrained(listing: dict[str, dict], root: Path) -> None:
    """LapmlError where a class of val/ or test/ is not in train/."""
    for split, found in listing.items():
        if unknown := [name for name in found if name not in listing["train"]]:
            raise LapmlError(
                f"{root / split}: class {unknown[0]!r} is not in {root / 'train'} ({len(unknown)} such in all), expected "
                "only classes that can be trained; mend the folder's name, or move it away"
            )


def _refuse_undecodable(name: str, where: Path) -> None:
    if not _decodable(name):
        raise LapmlError(f"{where}: the name {shown(name)} is not UTF-8, which the index cannot hold; rename it")


def _refuse_circle(entry: os.DirEntry, where: Path) -> None:
    if entry.is_symlink() and where.resolve().is_relative_to(Path(entry.path).resolve()):
        raise LapmlError(
            f"{where}: {shown(entry.name)} is a link to a folder that it lies in itself, expected one that holds the "
            "images of one class; mend or remove the link"
        )
