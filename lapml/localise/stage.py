"""Localise a data set: from its source images to a folder of maps (:mod:`lapml.localise.store`).

Three passes. The first forwards every image once, sums the cells' moments and keeps the features in a file; the first
eigenvector then gives the objects. The second reads that file for a sample of object cells, whose factorisation gives the
parts. The third reads it again and writes the maps. Memory does not grow with the number of images.

Work lies in a hidden folder beside the result: after a kill the same command continues, half a minute back at most, with the
same result to the bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from lapml.config import Data, Localise
from lapml.data.decode import square
from lapml.data.fetch.sources import laid_out, refuse_other
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.files import locked
from lapml.localise.extract import load
from lapml.localise.work import Read, Work
from lapml.paths import Paths


def localise(
    name: str,
    data: Data,
    paths: Paths,
    splits: list[str],
    folder: Path,
    settings: Localise,
    device: torch.device,
    threads: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Localise the images of some splits of a prepared data set into ``folder``; returns its meta.json.

    Args:
        splits: those that runs are fit on.
        threads: of the forward passes; decoding takes all cores.
        progress: show images, images a second and the time left (once in half a minute where it is no terminal).

    Raises:
        LapmlError: the data set is not prepared, or has changed since; an image cannot be read; model or weights do not
            suit; the features are not finite or all alike; the disk is too small or full.
    """
    refuse_other(name, data, paths)
    packed = Packed.open(paths.pack(name), data)
    rows = rows_of(packed.index, splits)
    index = packed.index[["path", "width", "height"]]
    about = {"splits": list(splits), "data_sha256": packed.meta["sha256"], "source": packed.meta["source"]}
    _, root = laid_out(name, paths, data)
    how = reader(data.reader)

    del packed  # boxes and parts: of many images they are large
    files, sizes = index["path"].tolist(), index[["width", "height"]].to_numpy().tolist()

    def read(row: int, side: int) -> np.ndarray:
        file, (width, height) = root / how.IMAGES / files[row], sizes[row]
        pixels, (*found, _) = square(file, side, how.BANNER)
        if found != [width, height]:
            raise LapmlError(
                f"{file}: found {found[0]}×{found[1]} px, expected the {width}×{height} that were packed; prepare the data "
                f"set again with `lapml data prepare {name}`"
            )
        return np.frombuffer(pixels, np.uint8).reshape(side, side, 3)

    try:
        return localise_images(index, rows, read, folder, settings, about, device, threads, progress, name)
    except OSError as error:
        raise LapmlError(f"{folder}: cannot be written ({error}); free some space, or check its permissions") from None


def localise_images(
    index: pd.DataFrame,
    rows: np.ndarray,
    read: Read,
    folder: Path,
    settings: Localise,
    about: dict[str, Any],
    device: torch.device,
    threads: int = 1,
    progress: bool = True,
    name: str = "",
) -> dict[str, Any]:
    """Localise images, however they are read; see :func:`localise`.

    Args:
        index: columns path, width and height.
        rows: (n,) of the index, ascending.
        about: ``splits``, ``data_sha256`` and perhaps ``source``, for meta.json.
    """
    if not len(rows):
        raise LapmlError(f"{name}: found no image in {' + '.join(about['splits'])}, expected at least one")
    folder = Path(folder)
    before = torch.get_num_threads()
    torch.backends.cudnn.deterministic = True
    with locked(folder.with_name(f".{folder.name}.lock")), threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            extractor = load(settings.model, settings.weights, device)
            work = Work(index, rows, read, folder, settings, about, extractor, threads)
            return work.done() or work.run(progress, name)
        finally:
            torch.set_num_threads(before)
