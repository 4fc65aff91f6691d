"""Reader of one's own images, a folder a class:

    train/CLASS/…    images of any name that Pillow and its installed plugins can open, also in a folder below CLASS
    val/CLASS/…      optional
    test/CLASS/…

Names of the three are read in any case, and so are others that can mean nothing else (:data:`layouts.SPLITS`).
A class's id is the place of its folder among those of train/, from 1, in the order of their names' code points. Where a
folder of train/ has no images of its own, but several folders of images, these may be the classes: ``labels`` must then say.
With "nested" each folder that holds images is a class, named by its path (GROUP/CLASS), with "top" CLASS is, whatever lies
below.

Hidden files and folders are left out, and so are files that are no images; :func:`left_out` counts those. Links to files are
followed, and so are links to class folders; links to folders further down are not, which keeps out circles.
"""

import hashlib
from pathlib import Path

import pandas as pd

from lapml.data.readers import Counts, Download, annotations, no_parts
from lapml.data.readers.layouts import BY_HAND, CLUTTER, split_folders
from lapml.data.readers.listing import by_folder, folder_of, inner_folders, listing_of, refuse_nested, refuse_untrained
from lapml.errors import LapmlError

TITLE = "folder of images"
IMAGES = ""
BANNER = 0
PUBLISHED: dict[str | None, Counts] = {}
DOWNLOAD = Download(by_hand=BY_HAND)
part_names = no_parts

KEY = "data.NAME.labels"  # says which folders are classes
Images = dict[str, dict[str, list[str]]]  # split → class → sorted paths below the root


def read(root: Path, classes: str, labels: str | None = None, min_images: int | None = None) -> pd.DataFrame:
    """All images of the chosen classes: train, val and test, each by class and path, without boxes and parts.

    Args:
        labels: None, "nested" or "top": which folders are classes.
        min_images: leave out classes with fewer training images, or none to test; None: refuse classes that cannot be
            trained.

    Raises:
        LapmlError: the layout is another one, folders in a class of train/ may be classes, a class of val/ or test/ is not
            in train/, a name is not UTF-8, a class is unknown or has no training image (fewer than two if there is no
            val/), or there is no test image.
    """
    listing, names, ids, few = _chosen(root, classes, labels, min_images)
    if few and not ids:
        raise LapmlError(
            f"{root}: data.NAME.min_images: found {min_images}, which leaves out all {len(few)} classes; give a smaller number"
        )
    rows = [
        (path, number, split, None, None)
        for split, found in listing.items()
        for number in ids
        for path in found.get(names[number], [])
    ]
    val = "val" in listing
    return annotations.frame({root: rows}, None, ids, names, root, least=1 if val else 2, val=val, own=True)


def too_small(root: Path, classes: str, labels: str | None, min_images: int | None) -> dict[str, tuple[int, int]]:
    """The chosen classes that ``min_images`` leaves out: name → numbers of images to train on and to test."""
    if min_images is None:
        return {}
    _, names, _, few = _chosen(root, classes, labels, min_images)
    return {names[number]: counts for number, counts in few.items()}


def _chosen(
    root: Path, classes: str, labels: str | None, min_images: int | None
) -> tuple[Images, dict[int, str], list[int], dict[int, tuple[int, int]]]:
    """All images, the classes' names by id, the ids of the classes to read; and of those that ``min_images`` leaves out, with
    numbers of images to train on and to test."""
    found = {split: {name: each.images for name, each in found.items()} for split, found in listing_of(root).items()}
    listing = _labelled(found, labels, root)
    names = dict(enumerate(listing["train"], start=1))
    ids = annotations.choose(classes, names, folder_of(root, "train"))
    if min_images is None:
        return listing, names, ids, {}
    least = max(min_images, 1 if "val" in listing else 2)
    counts = {
        number: (len(listing["train"][names[number]]), len(listing["test"].get(names[number], []))) for number in ids
    }
    few = {number: (train, test) for number, (train, test) in counts.items() if train < least or not test}
    return listing, names, [number for number in ids if number not in few], few


def fingerprint(root: Path) -> tuple[int, str]:
    """Number of images in all classes, and the sha256 over their sorted paths (not over what the files hold)."""
    paths = sorted(path for found in listing_of(root).values() for each in found.values() for path in each.images)
    return len(paths), hashlib.sha256("".join(f"{path}\0" for path in paths).encode()).hexdigest()


def left_out(root: Path) -> dict[str, str]:
    """What lies in the classes' folders and is not read: path below ``root`` → what it is."""
    found = (each for classes in listing_of(root).values() for each in classes.values())
    return {path: what for each in found for path, what in each.others.items()}


def folders_below(root: Path) -> dict[str, list[str]]:
    """The folders with images below each class's own, where there are any: ``"train/CLASS"`` → sorted names."""
    listing = listing_of(root)
    below = {
        f"{split}/{name}": inner_folders(each.images, above=1)
        for split, found in listing.items()
        for name, each in found.items()
    }
    return {name: folders for name, folders in below.items() if folders}


def is_root(folder: Path) -> bool:
    """Whether the folder holds the layout (and not macOS's notes about one, of which its archives have a second tree)."""
    return CLUTTER[0] not in folder.parts and folder.is_dir() and {"train", "test"} <= set(split_folders(folder))


# --- folders in a class's folder ---


def _labelled(listing: Images, labels: str | None, root: Path) -> Images:
    """The images by the classes that ``labels`` makes of the folders."""
    if labels is None:
        refuse_nested(listing["train"], folder_of(root, "train"), KEY, above=1)
    if labels != "nested":
        return listing
    nested = {split: by_folder(found, folder_of(root, split), KEY, above=1) for split, found in listing.items()}
    refuse_untrained(nested, root)
    return nested
