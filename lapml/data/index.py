"""The common table of a data set: one row an image, with its split."""

import numpy as np
import pandas as pd

from lapml.errors import LapmlError

COLUMNS = ("path", "label", "class_name", "split", "width", "height", "box", "parts")
SPLITS = ("train", "val", "test")


def build(frame: pd.DataFrame, val_fraction: float, split_seed: int) -> pd.DataFrame:
    """The index of a reader's frame: sorted by path, with ``val`` carved from the official train split.

    In each class, ``val_fraction`` of the official training images (rounded; at least one, and at least one
    stays in train) become ``val``. Which ones depends on their paths, the class's label and ``split_seed`` alone.
    The official test split is ``test``.

    Args:
        frame: columns image, label, class_name, official, box, parts, as :func:`lapml.data.cub200.read` gives them.
        val_fraction: share of the official training images, in (0, 1).
        split_seed: seed of the draw.

    Returns:
        A frame with :data:`COLUMNS`; width and height are 0 until packing has seen the images.

    Raises:
        LapmlError: a class has fewer than two training images.
    """
    frame = frame.iloc[sorted(range(len(frame)), key=frame["image"].tolist().__getitem__)].reset_index(drop=True)
    labels, official = frame["label"].to_numpy(), frame["official"].to_numpy(dtype=object)
    split = np.where(official == "test", "test", "train").astype(object)
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (official == "train"))
        if len(rows) < 2:
            raise LapmlError(
                f"class {frame['class_name'][int(np.argmax(labels == label))]!r} has {len(rows)} training images, "
                "expected at least two (one of them validates); leave the class out with data.NAME.classes"
            )
        count = min(max(round(val_fraction * len(rows)), 1), len(rows) - 1)
        order = np.argsort(np.random.default_rng([split_seed, int(label)]).random(len(rows)), kind="stable")
        split[rows[order[:count]]] = "val"
    return pd.DataFrame(
        {
            "path": frame["image"],
            "label": labels.astype(np.int64),
            "class_name": frame["class_name"],
            "split": split,
            "width": np.zeros(len(frame), np.int64),
            "height": np.zeros(len(frame), np.int64),
            "box": frame["box"],
            "parts": frame["parts"],
        }
    )


def rows_of(index: pd.DataFrame, splits: list[str] | tuple[str, ...]) -> np.ndarray:
    """Row numbers, ascending, of the images in any of ``splits``: an int64 array (n,).

    Raises:
        LapmlError: a name is not a split.
    """
    for name in splits:
        if name not in SPLITS:
            raise LapmlError(f"unknown split {name!r}: expected some of {', '.join(SPLITS)}")
    return np.flatnonzero(np.isin(index["split"].to_numpy(dtype=object).astype(str), list(splits)))
