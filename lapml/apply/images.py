"""Image files as evaluation reads a data set: as small packs in memory, so that no step of it is written twice."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.config import Run
from lapml.data.decode import in_order, square
from lapml.data.index import COLUMNS
from lapml.data.pack import Packed
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.text import line

BATCH = 64  # images in memory at once


def check(files: list[Path]) -> None:
    """LapmlError for the first path that is no file; whether files are images is seen when they are decoded."""
    for file in files:
        if file.is_dir():
            raise LapmlError(
                f"{shown(file)}: is a folder, expected image files; name them, as in {shown(file / '*.jpg')}"
            )
        if not file.exists():
            raise LapmlError(f"{shown(file)}: no such file; mend the path, or quote it where it has spaces")


def packs(files: list[Path], config: Run, class_names: list[str], banner: int | None = None) -> Iterator[Packed]:
    """The files in order, :data:`BATCH` at a time, each pack wholly of the split that ``config`` evaluates.

    Args:
        class_names: of the run; the labels of these packs mean nothing.
        banner: rows of pixels to cut off the bottom of every image; None: as many as packing cuts off the run's data set's.

    Raises:
        LapmlError: a file is no image.
    """
    side = config.data.stored_side
    banner = reader(config.data.reader).BANNER if banner is None else banner
    squares = in_order(partial(square, side=side, banner=banner), files)
    for at in range(0, len(files), BATCH):
        some = files[at : at + BATCH]
        decoded = list(islice(squares, len(some)))
        rows = [
            (str(file), 0, "", config.evaluate, width, height, None, None)
            for file, (_, (width, height, _)) in zip(some, decoded, strict=True)
        ]
        images = np.stack([np.frombuffer(pixels, np.uint8).reshape(side, side, 3) for pixels, _ in decoded])
        yield Packed(pd.DataFrame(rows, columns=list(COLUMNS)), images, {}, class_names)


def class_names(folder: Path, provenance: dict[str, Any]) -> list[str]:
    """One name a label, of a run's provenance.json; LapmlError where an old version wrote that without them."""
    if not provenance.get("class_names"):
        raise LapmlError(f"{folder / 'provenance.json'}: class_names: missing, as in old runs; train it again")
    return provenance["class_names"]


def shown(path: Path) -> str:
    """A path that any terminal and any figure can print."""
    return line(str(path))
