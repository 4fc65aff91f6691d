"""What a reader of a data set's official layout is; :func:`reader` finds one by name.

A reader is a module with the names of :class:`Reader`. What they read is one frame, whatever the layout:

    image        path below ``root / IMAGES``
    label        0-based, contiguous over the chosen classes in the order of their ids
    class_name
    official     "train", "val" or "test"; "val" only of readers in OFFICIAL_VAL (lapml/config/parts.py)
    box          [x, y, width, height] in pixels of the image as stored (its banner included), or None
    parts        [[x, y, visible], …] in the order of ``part_names``, or None
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import pandas as pd

from lapml.config import Data


@dataclass(frozen=True)
class Counts:
    """What the authors of a data set publish about it, for :func:`lapml.data.inspect.check`."""

    classes: int
    splits: dict[str, int]  # official split → images
    per_class: tuple[int, int] | None = None  # fewest and most images of a class over all splits, where known


@dataclass(frozen=True)
class Download:
    """Where a data set comes from."""

    by_hand: str  # what to get where, for a person
    urls: tuple[str, ...] = ()  # mirrors of one archive, in the order to try them; empty: it cannot be downloaded
    checksum: str | None = None  # "md5:…" or "sha256:…" of the archive


class Reader(Protocol):
    """The names that a reader's module has."""

    TITLE: str  # the data set's own name
    IMAGES: str  # folder below the root that the frame's paths start at; "" for the root
    BANNER: int  # rows of pixels to cut off the bottom of every image
    PUBLISHED: dict[
        str | None, Counts
    ]  # a level of labels (None where there is but one) → counts; empty: nothing published
    DOWNLOAD: Download

    def is_root(self, folder: Path) -> bool:
        """Whether the folder holds the layout; cheap."""

    def read(self, root: Path, classes: str, labels: str | None = None) -> pd.DataFrame:
        """All images of the chosen classes: ``"all"``, or class ids such as ``"113-133,5"``.

        Raises:
            LapmlError: an annotation is wrong (named with file and line), an image is not there, or a class cannot be trained.
        """

    def part_names(self, root: Path) -> list[str]:
        """Names of the parts, or an empty list."""

    def fingerprint(self, root: Path) -> tuple[int, str]:
        """Number of images listed, and the sha256 over all annotations that :func:`read` uses.

        Raises:
            LapmlError: an annotation file is missing, or what lists the images is malformed.
        """


def no_parts(root: Path) -> list[str]:
    """``part_names`` of a layout without parts."""
    return []


def reader(name: str) -> Reader:
    """The reader of that name, one of those that the schema allows as ``data.NAME.reader``."""
    return import_module(f"lapml.data.readers.{name}")


def read(root: Path, data: Data) -> pd.DataFrame:
    """The frame of a data set that lies in ``root``, by the reader, level and classes of its settings.

    Raises:
        LapmlError: the reader cannot read what lies there.
    """
    more = {} if data.min_images is None else {"min_images": data.min_images}  # the schema allows it of "folder" alone
    return reader(data.reader).read(root, data.classes, data.labels, **more)
