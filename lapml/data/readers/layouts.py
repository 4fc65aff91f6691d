"""How folders of images are laid out: which of them hold the splits; and, where none do, what there is instead and what to do."""

import os
import shlex
from pathlib import Path

from lapml.data import formats

SPLITS = {  # split → how its folder may be named, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # images without a look into them
CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # that systems leave beside images, apart from dot files
BY_HAND = "lay your images out as train/CLASS/*.jpg and test/CLASS/*.jpg"
DEPTH = 2  # folders below one that are looked into, if need be
SHOWN = 5  # names in a message


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without clutter."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not clutter(entry.name) and entry.is_dir())


def split_folders(folder: Path) -> dict[str, list[str]]:
    """Split → the folders in ``folder`` that are named as it, in any case."""
    names = folders_in(folder)
    found = {split: [name for name in names if name.lower() in known] for split, known in SPLITS.items()}
    return {split: each for split, each in found.items() if each}


def top_of(folder: Path) -> Path:
    """The folder that the classes or splits may lie in: ``folder``, or the one within if that holds nothing else."""
    for _ in range(DEPTH):
        below = folders_in(folder)
        if len(below) != 1 or split_folders(folder) or _holds_images(folder):
            break
        if not folders_in(folder / below[0]):
            break  # one class
        folder = folder / below[0]
    return folder


def by_class(top: Path) -> bool:
    """Whether a folder holds CLASS/train/*.jpg and CLASS/test/*.jpg."""
    below = {name: split_folders(top / name) for name in folders_in(top)}
    if (
        split_folders(top)
        or not all(below.values())
        or not any({"train", "test"} <= set(each) for each in below.values())
    ):
        return False
    deeper = (folders_in(top / name / found[0]) for name, each in below.items() for found in each.values())
    return not any(deeper)  # else each is a data set of its own


def explained(folder: Path, advice: str = "set data.NAME.source") -> str:
    """What a folder holds that has no train/ and test/ with a folder per class, what is missing, and what mends it.

    Args:
        advice: what says where the data are.
    """
    top = top_of(folder)
    splits, below = split_folders(top), folders_in(top)
    some = ", ".join(map(shown, below[:SHOWN])) + (", …" if len(below) > SHOWN else "")
    there = f"{top}-split"
    then = f"then {advice} to {shown(there)}"
    if "train" in splits and "val" in splits:
        move = shlex.join(["mv", str(top / splits["val"][0]), str(top / "test")])
        return (
            f"{top}: there is no folder test, found {some}; to test on those validation images, rename their folder "
            f"(`{move}`), and let val_fraction be a number"
        )
    if "train" in splits:
        command = shlex.join(["lapml", "data", "split", str(top / splits["train"][0]), "--to", there])
        return f"{top}: there is no folder test, found {some}; draw test images with `{command}`, {then}"
    if splits:
        return f"{top}: there is no folder train, found {some}; {BY_HAND}"
    command = shlex.join(["lapml", "data", "split", str(top)])
    if below and by_class(top):
        return (
            f"{top}: found CLASS/train and CLASS/test (CLASS: {some}), expected train/CLASS and test/CLASS; lay them out so "
            f"with `{command}`, {then}"
        )
    if any(_holds_images(top / name, DEPTH) for name in below):
        return (
            f"{top}: there are no folders train and test, found folders of images ({some}); if these are the classes, draw "
            f"test images with `{command}`, {then}"
        )
    what = "images, but no folder for each class" if _holds_images(top) else some or "no folders"
    return f"{top}: there are no folders train and test, found {what}; {BY_HAND} (each CLASS a folder of its own)"


def _holds_images(folder: Path, depth: int = 0) -> bool:
    """Whether an image lies in a folder, or at most ``depth`` folders down."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if clutter(entry.name):
                continue
            if entry.is_dir():
                below.append(entry.path)
            elif suffix(entry.name) in SUFFIXES or (entry.is_file() and not formats.refusal(entry.path)):
                return True
    return depth > 0 and any(_holds_images(Path(path), depth - 1) for path in below)


def clutter(name: str) -> bool:
    """Whether a file or folder of this name is left out without a word."""
    return name.startswith(".") or name in CLUTTER


def suffix(name: str) -> str:
    """In lower case."""
    return os.path.splitext(name)[1].lower()


def shown(name: str) -> str:
    """A name that any terminal can print: bytes that are not UTF-8 are written out."""
    return repr(name) if decodable(name) else repr(os.fsencode(name))


def decodable(name: str) -> bool:
    """Whether a name is UTF-8: Python holds bytes that are not as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
