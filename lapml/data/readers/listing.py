"""What lies in folders of images, train/CLASS/… and the like: listed, and refused where it is another layout."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from lapml.data import formats
from lapml.data.readers.layouts import (
    SHOWN,
    SUFFIXES,
    clutter,
    decodable,
    explained,
    folders_in,
    shown,
    split_folders,
    suffix,
)
from lapml.errors import LapmlError


@dataclass(frozen=True)
class Found:
    """What a class's folder holds."""

    images: list[str] = field(default_factory=list)  # sorted paths below the root
    others: dict[str, str] = field(default_factory=dict)  # what else: path below the root → what it is


Classes = dict[str, Found]  # by name, in order
Listing = dict[str, Classes]  # split → class → what was found


def listing_of(root: Path) -> Listing:
    """All images, by split (val only where there is val/) and class; the classes in order."""
    try:
        found = split_folders(root)
        for split, names in found.items():
            if len(names) > 1:
                raise LapmlError(
                    f"{root}: found {' and '.join(map(shown, names))}, expected one folder of {split} images; put all into one "
                    "of them, or move the others away"
                )
        if not {"train", "test"} <= set(found):
            raise LapmlError(explained(root))
        listing = {split: classes_in(root, f"{name}/") for split, (name,) in found.items()}
        refuse_untrained(listing, root)
    except OSError as error:
        raise LapmlError(f"{root}: cannot be listed ({error}); mend its permissions or links") from None
    for split, classes in listing.items():
        if split != "test" and not any(each.images for each in classes.values()):
            raise LapmlError(
                f"{folder_of(root, split)}: has no images, expected {found[split][0]}/CLASS/*.jpg; add some"
                + (", or remove the folder" if split == "val" else "")
            )
    return listing


def classes_in(root: Path, prefix: str = "") -> Classes:
    """The classes whose folders lie in ``root``, or in the folder below it that ``prefix`` names (``"train/"``)."""
    where, classes = root / prefix, {}
    with os.scandir(where) as entries:
        for entry in entries:
            if clutter(entry.name):
                continue
            if entry.is_dir():
                _refuse_undecodable(entry.name, where)
                if entry.is_symlink() and where.resolve().is_relative_to(Path(entry.path).resolve()):
                    raise LapmlError(
                        f"{where}: {shown(entry.name)} is a link to a folder that it lies in itself, expected one that holds the "
                        "images of one class; mend or remove the link"
                    )
                classes[entry.name] = images_in(entry.path, f"{prefix}{entry.name}/", root)
            elif entry.is_symlink() and not entry.is_file():
                raise LapmlError(f"{where}: {shown(entry.name)} is a link to nothing; mend or remove it")
            elif entry.is_file() and not _refusal(entry):
                raise LapmlError(
                    f"{where}: the image {shown(entry.name)} is in no class's folder, expected "
                    f"{prefix}CLASS/*.jpg; move it into the folder of its class"
                )
    return {name: classes[name] for name in sorted(classes)}


def images_in(folder: str, prefix: str, root: Path) -> Found:
    """What is in a class's folder, which ``prefix`` names below the root."""
    found, waiting = Found(), [(folder, prefix)]
    while waiting:  # not os.walk, which passes over folders that cannot be read
        below, prefix_below = waiting.pop()
        with os.scandir(below) as entries:
            for entry in entries:
                if clutter(entry.name):
                    if suffix(entry.name) in SUFFIXES and not entry.name.startswith("._"):  # which macOS writes
                        found.others[prefix_below + entry.name] = f"hidden {suffix(entry.name)}"
                elif entry.is_dir():
                    if entry.is_symlink():
                        found.others[prefix_below + entry.name] = "a link to a folder"
                    else:
                        waiting.append((entry.path, f"{prefix_below}{entry.name}/"))
                elif not entry.is_file() and suffix(entry.name) in SUFFIXES:
                    raise LapmlError(f"{root}: {shown(prefix_below + entry.name)} is a link to nothing, or no file")
                elif why := _refusal(entry):
                    kind = shown(suffix(entry.name)) if suffix(entry.name) else "no suffix"
                    found.others[prefix_below + entry.name] = f"{kind} ({why})"
                else:
                    found.images.append(prefix_below + entry.name)
    if found.others and not found.images:
        kinds, whys = ({each.partition(" (")[part] for each in found.others.values()} for part in (0, 2))
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
    if suffix(entry.name) in SUFFIXES:
        return ""  # if it is none, packing says so
    return formats.refusal(entry.path) if entry.is_file() else "no file"


# --- folders in a class's folder ---


def inner_folders(paths: list[str], above: int) -> list[str]:
    """The folders below a class's own that hold some of its images.

    Args:
        paths: of the images.
        above: names in each path before the class's: one in train/CLASS/…, none in CLASS/…
    """
    return sorted({folder for path in paths if (folder := "/".join(path.split("/")[above + 1 : -1]))})


def refuse_nested(classes: dict[str, list[str]], where: Path, key: str, above: int) -> None:
    """LapmlError where a class's folder has no images of its own, but several folders of images.

    Args:
        classes: the paths of each one's images.
        where: the folder that theirs lie in.
        key: what says which folders are classes.
        above: as for :func:`inner_folders`.
    """
    nested = {
        name: below
        for name, paths in classes.items()
        if len(below := inner_folders(paths, above)) > 1 and all(path.count("/") > above + 1 for path in paths)
    }
    if not nested:
        return
    name, below = next(iter(nested.items()))
    some = ", ".join(map(shown, below[:SHOWN])) + (f", … ({len(below)} in all)" if len(below) > SHOWN else "")
    more = f" (and {len(nested) - 1} more folders of the kind)" if len(nested) > 1 else ""
    raise LapmlError(
        f"{where}: {shown(name)} holds nothing but folders of images: {some}{more}; are they the classes? Set {key} "
        f"to nested where each folder that holds images is a class, or to top where all images in {shown(name)} are of one class"
    )


def by_folder(classes: dict[str, list[str]], where: Path, key: str, above: int) -> dict[str, list[str]]:
    """The images by the folders that hold them, each of which is named by its path below ``where``: classes of ``nested``.

    Args:
        classes, where, key, above: as for :func:`refuse_nested`.

    Raises:
        LapmlError: a folder holds images beside such a class.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(path for paths in classes.values() for path in paths):
        found.setdefault("/".join(path.split("/")[above:-1]), []).append(path)
    for name in found:
        steps = name.split("/")
        beside = next((up for end in range(1, len(steps)) if (up := "/".join(steps[:end])) in found), None)
        if beside is not None:
            raise LapmlError(
                f"{where}: {shown(beside)} holds images beside the class {shown(name)}, expected images in the "
                f"lowest folders only, as {key} is 'nested'; move them into the folder of their class"
            )
    return {name: found[name] for name in sorted(found)}


def class_of(found: Classes, labels: str | None, where: Path) -> dict[str, str]:
    """The class of each image below ``where``, which holds CLASS/…: path → name.

    Args:
        labels: "nested", "top" or None, as given by --labels.

    Raises:
        LapmlError: it is None, and folders in a class's folder may be the classes; or it is "nested", and a folder holds
            images beside a class.
    """
    classes = {name: each.images for name, each in found.items()}
    if labels is None:
        refuse_nested(classes, where, "--labels", above=0)
    if labels == "nested":
        classes = by_folder(classes, where, "--labels", above=0)
    return {path: name for name, paths in classes.items() for path in paths}


# --- splits ---


def folder_of(root: Path, split: str) -> Path:
    """The folder of a split, whatever its case."""
    return root / split_folders(root)[split][0]


def refuse_untrained(listing: dict[str, dict], root: Path) -> None:
    """LapmlError where a class of val/ or test/ is not in train/."""
    for split, found in listing.items():
        if unknown := [name for name in found if name not in listing["train"]]:
            raise LapmlError(
                f"{folder_of(root, split)}: class {unknown[0]!r} is not in {folder_of(root, 'train')} "
                f"({len(unknown)} such in all), expected "
                "only classes that can be trained; mend the folder's name, or move it away"
            )


def refuse_split(folder: Path) -> None:
    """LapmlError where a folder, or some of its classes, are split already: a draw would not keep that."""
    if {"train", "test"} <= set(split_folders(folder)):
        raise LapmlError(f"{folder}: is split already, into train and test; set data.NAME.source to it")
    if split_folders(folder):
        raise LapmlError(explained(folder))
    given = [name for name in folders_in(folder) if {"train", "test"} <= set(split_folders(folder / name))]
    if given:
        raise LapmlError(
            f"{folder}: {shown(given[0])} holds train and test, but not all folders do, or theirs hold folders; expected "
            "CLASS/train/*.jpg and CLASS/test/*.jpg of every class, or of none; lay all out so, or move the others away"
        )


def _refuse_undecodable(name: str, where: Path) -> None:
    if not decodable(name):
        raise LapmlError(f"{where}: the name {shown(name)} is not UTF-8, which the index cannot hold; rename it")
