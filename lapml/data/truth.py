"""The annotations of a batch: where the object and its parts lie in each view."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from lapml.data import views
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.mixing import Truth

MASKS = "segmentations"  # folder of the masks, beside images


class Annotations:
    """The boxes and parts of a data set.

    Args:
        index: of the packed data set.

    Raises:
        LapmlError: an image has no box.
    """

    def __init__(self, index: pd.DataFrame):
        for path, box in zip(index["path"], index["box"], strict=True):
            if box is None:
                raise LapmlError(f"{path}: has no box, expected one for every image: object boxes are needed here")
        sizes = index[["width", "height"]].to_numpy(np.float64)
        boxes = np.array(index["box"].tolist(), np.float64)
        # (N, 2, 2), unit square
        self.corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / sizes[:, None]
        count = max((len(parts) for parts in index["parts"] if parts is not None), default=0)
        self.parts = np.zeros((len(index), max(count, 1), 3))  # one that is never seen where there are none
        for row, parts in enumerate(index["parts"]):
            if parts is not None and len(parts):
                self.parts[row] = np.stack(parts)
        self.parts[..., :2] /= sizes[:, None]

    def seen(self, rows: np.ndarray, windows: np.ndarray, side: int) -> Truth:
        """Of some rows, in views of ``windows`` (N, 5)."""
        corners = views.to_view(windows, self.corners[rows])
        low, high = corners.min(1), corners.max(1)  # flipping swaps them
        parts = self.parts[rows].copy()
        parts[..., :2] = views.to_view(windows, parts[..., :2])
        within = ((parts[..., :2] >= 0) & (parts[..., :2] < 1)).all(-1)
        parts[..., 2] = (parts[..., 2] > 0) & within
        parts[..., :2] *= side
        boxes = np.concatenate([low, high], 1).clip(0, 1) * side
        return Truth(torch.from_numpy(boxes).float(), torch.from_numpy(parts).float())


class Scene(NamedTuple):
    """The annotations of N clean views."""

    truth: Truth
    objects: Tensor  # (N, H, H) bool: the mask, or the box's pixels
    masked: bool  # objects are masks
    labels: Tensor  # (N,) int64


def read_masks(root: Path, packed: Packed, rows: np.ndarray) -> np.ndarray | None:
    """The masks of some index rows as squares like the packed images, (N, S, S) uint8, 0 in all other rows; None if the data
    set has none.

    They lie as CUB-200-2011's do: ``segmentations/CLASS/NAME.png`` for ``images/CLASS/NAME.…``, the lighter the more surely
    the object.

    Raises:
        LapmlError: some images have a mask and one has not, or a mask is not of its image's size.
    """
    folder, side = root / MASKS, packed.meta["side"]
    if not folder.is_dir():
        return None
    masks = np.zeros((len(packed.index), side, side), np.uint8)
    for row, path, *size in packed.index.loc[rows, ["path", "width", "height"]].itertuples():
        file = (folder / path).with_suffix(".png")
        advice = f"lay all masks out, or move {folder} away to be measured by boxes"
        try:
            with Image.open(file) as mask:
                found = list(mask.size)
                masks[row] = np.asarray(mask.convert("L").resize((side, side), Image.Resampling.BOX))
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
            raise LapmlError(f"{file}: cannot be read ({error}), expected a mask for every image; {advice}") from None
        if found != size:
            raise LapmlError(f"{file}: found {found} pixels, expected its image's {size}; {advice}")
    return masks
