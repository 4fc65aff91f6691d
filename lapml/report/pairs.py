"""The gallery's pairs: the same references and donors, mixed by every mixer of a suite."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from lapml.analysis.diagnosis.metrics import mixing, shares, true_share
from lapml.config import Method
from lapml.data.truth import Scene
from lapml.report.tiles import Mix, Pair
from lapml.training.mixes import Made, Mixes

OUTLINED = 32  # largest side, in cells, of a mask that the gallery outlines
FLAGS = {"meaningless": "meaningless", "obscured": "obscured", "ghost": "ghost label"}


def pairs(
    mixes: Mixes, weights: dict[str, Any], class_names: list[str], count: int, coarse: bool = True
) -> Iterator[Pair]:
    """The first ``count`` pairs that are drawn for a model.

    Args:
        coarse: show maps in as many cells as the class maps have: another grid (SnapMix's are in pixels) would be too fine to
            draw cell by cell.
    """
    for batch, scene, made, maps in mixes.generate(count):
        clean = pixels(batch.images.float().cpu(), weights)
        grid = maps.shape[-1] if coarse else None
        parts = {name: _mixes(name, mixes.methods[name], each, grid, scene, weights) for name, each in made.items()}
        boxes = [None] * len(batch.images)  # of the objects, where they are seen
        if scene:
            boxes = [tuple(box) if box[2] > box[0] and box[3] > box[1] else None for box in scene.truth.boxes.tolist()]
        for i in range(min(batch.count, count)):
            j = int(batch.donors[i])
            yield Pair(
                clean[i],
                clean[j],
                *(class_names[int(batch.labels[k])] for k in (i, j)),
                boxes[i],
                boxes[j],
                [parts[name][i] for name in mixes.methods],
            )
        count -= batch.count


def _mixes(
    name: str, method: Method, made: Made, grid: int | None, scene: Scene | None, weights: dict[str, Any]
) -> list[Mix]:
    """Args: grid: cells per side of the maps that are shown; None: as they are."""
    mixed, shown = made.mixed, method.mixer.shown(made.evidence)
    images = pixels(mixed.images.float().cpu(), weights)
    area = shares(mixed).hidden.mean((1, 2))
    truth = applies = None
    flags = {}
    if scene:
        truth, applies = true_share(mixed, scene)
        metrics = mixing(mixed, scene)
        flags = {shown: (metrics[key][0] > 0) & metrics[key][1] for key, shown in FLAGS.items()}
    if shown is not None and grid:
        shown = adaptive_avg_pool2d(shown.float().cpu().nan_to_num()[:, None], grid)[:, 0]
    maps = None if shown is None else glow(shown)
    cells = None
    if mixed.mask is not None and mixed.mask.shape[1:] != (1, 1):  # outlined cell by cell, so not by the pixel
        size = tuple(min(cells, OUTLINED) for cells in mixed.mask.shape[1:])
        cells = (interpolate(mixed.mask.float()[:, None], size, mode="nearest")[:, 0] > 0.5).cpu().numpy()
    return [
        Mix(
            name,
            method.mixer.describe(method.label),
            images[i],
            None if mixed.box_reference is None else tuple(mixed.box_reference[i].tolist()),
            None if mixed.box_donor is None else tuple(mixed.box_donor[i].tolist()),
            None if cells is None else cells[i],
            None if maps is None else maps[i],
            None if maps is None else maps[int(mixed.donors[i])],
            None if mixed.similarity is None else float(mixed.similarity[i]),
            float(mixed.kept[i]),
            float(mixed.pasted[i]),
            float(area[i]),
            float(truth[i]) if truth is not None and applies[i] else None,
            [flag for flag, raised in flags.items() if raised[i]],
            float(mixed.rho[i]),
        )
        for i in range(len(mixed.donors))
    ]


def glow(maps: Tensor) -> np.ndarray:
    """(B, h, w) maps shifted to ≥ 0 and made finite, for drawing; attention may be negative."""
    maps = maps.float().cpu().nan_to_num(0.0, 0.0, 0.0)
    return (maps - maps.amin((1, 2), keepdim=True).clamp_max(0)).numpy()


def pixels(images: Tensor, weights: dict[str, Any]) -> np.ndarray:
    """(B, 3, H, W) normalised → (B, H, W, 3) uint8."""
    mean, std = (torch.tensor(weights[key])[:, None, None] for key in ("mean", "std"))
    return ((images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
