"""The common table of a data set: one row per image, with its split."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from lapml.config import Data
from lapml.data import readers
from lapml.errors import LapmlError

COLUMNS = ("path", "label", "class_name", "split", "width", "height", "box", "parts")
SPLITS = ("train", "val", "test")
OFFICIAL = "official"  # data.NAME.val_fraction: keep the layout's own validation split


def read(root: Path, data: Data) -> pd.DataFrame:
    """The index of a data set that lies in ``root``, see :func:`build`.

    Raises:
        LapmlError: an annotation is wrong, the classes cannot be split, or only one has test images.
    """
    frame = readers.read(root, data)
    tested = frame[frame["official"] == "test"].drop_duplicates("label")["class_name"].tolist()
    if len(tested) < 2:
        raise LapmlError(
            f"{root}: found test images of one class of {frame['label'].nunique()} ({tested[0]!r}), expected at least two: of one "
            "class every answer is right; choose more classes with data.NAME.classes, or lay out test images of more"
        )
    return build(frame, data.val_fraction, data.split_seed)


def build(frame: pd.DataFrame, val_fraction: float | str, split_seed: int) -> pd.DataFrame:
    """The index of a reader's frame: sorted by path, with ``val`` split off the official train split.

    In each class, ``val_fraction`` of the official training images (rounded; at least one, and at least one
    stays in train) become ``val``. Which ones depends on their paths, the class's label and ``split_seed`` alone.
    Official validation images count as training images then. The official test split is ``test``.

    Args:
        frame: a reader's, see :mod:`lapml.data.readers`.
        val_fraction: share of the official training images, in (0, 1); or :data:`OFFICIAL`: the split stays as it is.
        split_seed: seed of the draw.

    Returns:
        A frame with :data:`COLUMNS`; width and height are 0 until packing has seen the images.

    Raises:
        LapmlError: a class has fewer than two training images to split, or there is no official validation split.
    """
    frame = frame.iloc[sorted(range(len(frame)), key=frame["image"].tolist().__getitem__)].reset_index(drop=True)
    frame = frame.astype({"label": np.int64}).rename(columns={"image": "path"})
    labels, split = frame["label"].to_numpy(), frame["official"].to_numpy(dtype=object)
    if val_fraction != OFFICIAL:
        split = np.where(split == "test", "test", "train").astype(object)
        for label in np.unique(labels):
            rows = np.flatnonzero((labels == label) & (split != "test"))
            if len(rows) < 2:
                raise LapmlError(
                    f"class {frame['class_name'][int(np.argmax(labels == label))]!r} has {len(rows)} training images, "
                    "expected at least two (one of them validates); leave the class out with data.NAME.classes"
                )
            count = min(max(round(val_fraction * len(rows)), 1), len(rows) - 1)
            order = np.argsort(np.random.default_rng([split_seed, int(label)]).random(len(rows)), kind="stable")
            split[rows[order[:count]]] = "val"
    if not (split == "val").any():
        raise LapmlError(
            "val_fraction: found 'official', but the chosen classes have no validation image of their own (a folder of "
            "images has them in val/); give a number such as 0.2"
        )
    return frame.assign(split=split, width=0, height=0)[list(COLUMNS)]


def refuse_unboxed(index: pd.DataFrame, name: str, methods: Collection[str]) -> None:
    """LapmlError where an image of a data set has no box, though methods of the suite mix by true ones."""
    lacking = index["path"][index["box"].isna()].tolist()
    if methods and lacking:
        raise LapmlError(
            f"data set {name}: {lacking[0]} has no box ({len(lacking)} of {len(index)} images have none), expected one for each, "
            f"by which {' and '.join(methods)} mixes; add the boxes, or take {' and '.join(methods)} out of ablation"
        )


def rows_of(index: pd.DataFrame, splits: Collection[str]) -> np.ndarray:
    """Row numbers, ascending, of the images in any of ``splits``: an int64 array (n,)."""
    return np.flatnonzero(np.isin(index["split"].to_numpy(dtype=object).astype(str), list(splits)))
