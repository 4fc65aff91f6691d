"""What the annotations say of the images of a batch: where the object and its parts lie in each view."""

from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lapml.data import views
from lapml.errors import LapmlError


class Truth(NamedTuple):
    """Of N views of ``side`` pixels."""

    boxes: Tensor  # (N, 4) x0, y0, x1, y1 in pixels, clipped to the view; empty where the object is outside
    parts: Tensor  # (N, P ≥ 1, 3) x and y in pixels, and 1 where the part is seen in the view, else 0

    def to(self, device: torch.device) -> Self:
        return Truth(*(each.to(device, non_blocking=True) for each in self))


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
                raise LapmlError(
                    f"{path}: has no box, expected one for every image: this data set cannot say where its objects are"
                )
        sizes = index[["width", "height"]].to_numpy(np.float64)
        boxes = np.array(index["box"].tolist(), np.float64)
        self.corners = (
            np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / sizes[:, None]
        )  # (N, 2, 2), unit square
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
