"""Image files as evaluation reads a data set: as small packs in memory, with the same code."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.common.text import line
from lapml.config import Run
from lapml.data.decode import in_order, square
from lapml.data.index import COLUMNS
from lapml.data.pack import Packed
from lapml.data.readers import reader
from lapml.errors import LapmlError

BATCH = 64  # images in memory at once


Failed = list[tuple[Path, str]]  # files that could not be read, and why


def packs(
    files: list[Path], config: Run, class_names: list[str], banner: int | None = None, failed: Failed | None = None
) -> Iterator[Packed]:
    """The files in order, :data:`BATCH` at a time, each pack wholly of the split that ``config`` evaluates.

    Args:
        class_names: of the run; the labels of these packs mean nothing.
        banner: rows of pixels to cut off the bottom of every image; None: as many as packing cuts off the run's data set's.
        failed: files that are not images are added to it, and left out; None: the first one is an error.

    Yields:
        A pack whose meta has ``places``, those of its images in ``files``.

    Raises:
        LapmlError: a file is no image, and ``failed`` is None.
    """
    side = config.data.stored_side
    banner = reader(config.data.reader).BANNER if banner is None else banner
    squares = in_order(partial(_square, side=side, banner=banner), files)
    for at in range(0, len(files), BATCH):
        rows, images, places = [], [], []
        for place, found in enumerate(islice(squares, BATCH), start=at):
            if isinstance(found, LapmlError):
                if failed is None:
                    raise found
                failed.append((files[place], str(found)))
                continue
            pixels, (width, height, _) = found
            rows.append((str(files[place]), 0, "", config.evaluate, width, height, None, None))
            images.append(np.frombuffer(pixels, np.uint8).reshape(side, side, 3))
            places.append(place)
        if rows:
            yield Packed(pd.DataFrame(rows, columns=list(COLUMNS)), np.stack(images), {"places": places}, class_names)


def _square(file: Path, side: int, banner: int) -> tuple[bytes, tuple[int, int, int]] | LapmlError:
    try:
        if file.is_dir():
            raise LapmlError(
                f"{shown(file)}: is a folder, expected image files; name them, as in {shown(file / '*.jpg')}"
            )
        if not file.exists():
            raise LapmlError(f"{shown(file)}: no such file; check the path, or quote it if it has spaces")
        return square(file, side, banner)
    except LapmlError as error:
        return error


def class_names(folder: Path, provenance: dict[str, Any]) -> list[str]:
    """One name per label, of a run's provenance.json; LapmlError where an old version wrote that without them."""
    if not provenance.get("class_names"):
        raise LapmlError(f"{folder / 'provenance.json'}: class_names: missing, as in old runs; train it again")
    return provenance["class_names"]


def shown(path: Path) -> str:
    """A path that any terminal and any figure can print."""
    return line(str(path))
