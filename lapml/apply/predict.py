"""Predict the classes of image files by a finished run."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from lapml.apply.images import BATCH, Failed, listed, packs, shown
from lapml.common.text import line
from lapml.runs import evaluate
from lapml.runs.execute import ready
from lapml.runs.folder import class_names, open_run

LONGEST = 48  # letters of an image's name in the table


def predict(
    folder: Path,
    images: list[Path],
    top: int = evaluate.TOP,
    banner: int | None = None,
    failed: Failed | None = None,
) -> Iterator[dict[str, Any]]:
    """The most probable classes of each image, preprocessed as in evaluation; a batch of images is in memory at a time.

    Args:
        images: files, folders and patterns, see :func:`~lapml.apply.images.listed`.
        top: how many classes.
        banner, failed: as of :func:`~lapml.apply.images.packs`.

    Yields:
        A dict for each file that could be read, in order: ``image`` (its path) and ``predictions``, see :func:`best`.

    Raises:
        LapmlError: the run is not complete or of another version, or a file is no image and ``failed`` is None.
    """
    record, provenance = open_run(folder)
    names = class_names(folder, provenance)
    run = ready(folder, record, len(names))
    files = listed(images, failed)
    for packed in packs(files, run.config, names, banner, failed):
        for place, logits in zip(packed.meta["places"], run.predict(packed).logits, strict=True):
            yield {"image": str(files[place]), "predictions": best(logits, names, top)}


def best(logits: np.ndarray, names: list[str], top: int) -> list[dict[str, Any]]:
    """``class`` and ``probability`` (0 to 1) of the ``top`` most probable classes of one image, best first; ``logits``: (K,)."""
    shares = softmax(logits)
    order = np.argsort(-logits, kind="stable")[:top]
    return [{"class": names[label], "probability": float(shares[label])} for label in order]


def table(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The results of :func:`predict` in columns, aligned over a batch, an image's name (the end of a long one) in its first
    line."""
    remaining, widths = iter(results), [0] * 4
    rows = [("image", "rank", "class", "probability")]
    while block := list(islice(remaining, BATCH)):
        for result in block:
            for rank, each in enumerate(result["predictions"]):
                image = "" if rank else shown(Path(result["image"]))
                image = image if len(image) <= LONGEST else f"…{image[1 - LONGEST :]}"
                rows.append((image, str(rank + 1), line(each["class"]), f"{100 * each['probability']:.2f} %"))
        widths = [max(width, *(len(row[column]) for row in rows)) for column, width in enumerate(widths)]
        for image, rank, name, probability in rows:
            yield f"{image:<{widths[0]}}  {rank:>{widths[1]}}  {name:<{widths[2]}}  {probability:>{widths[3]}}\n"
        rows = []
