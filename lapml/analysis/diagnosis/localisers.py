"""How well objects and parts are found in whole training images, by the stage `localise` and by other localisers.

In the frame of the stored square, as the maps: IoU does not change where an image is stretched along its axes.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import find_objects, label
from torch.nn.functional import interpolate
from torchvision.ops import box_iou

from lapml.analysis.diagnosis import intervals
from lapml.config import Params
from lapml.data.truth import Annotations
from lapml.localise.store import Localised
from lapml.mixing.maps import SPREAD, class_maps
from lapml.training.mixes import Mixes

IMAGES = 300  # measured, at most
OVERLAPS = (0.3, 0.5, 0.7)  # IoU from which a box counts as found
# Of MaxBoxAccV2: within a point of 224 px and 100 thresholds on 96 synthetic birds, in a sixth of the time.
SIDE, THRESHOLDS = 112, 50
SHOWN = 0.5  # peak from which a part counts as shown; 1 is the 95 % quantile over object cells
SEED = 0  # of the images that are chosen, and of their pairs
METRICS = {
    "pointing": "peak in the box",
    "mass": "mass in the box",
    "box_acc": "MaxBoxAccV2",
    "agreement": "part agreement",
}
OBJECTS, PARTS, IMAGENET = "object maps", "part maps", "ImageNet class maps"
GAUSSIAN, TRAINED, WHOLE = "centred Gaussian", "class maps", "the whole image"


class Places(NamedTuple):
    """The annotations of N images, in the unit square."""

    boxes: np.ndarray  # (N, 4) left, top, right and bottom
    parts: np.ndarray  # (N, P, 3) x, y, and 1 where the part is seen
    aspect: np.ndarray  # (N, 2) the images' widths and heights, relative to the longer


def chosen(maps: Localised, images: int) -> np.ndarray:
    """The index rows to measure, ascending."""
    order = np.random.default_rng(SEED).permutation(len(maps.rows))
    return np.sort(maps.rows[order[: min(images, IMAGES)]])


def places(annotations: Annotations, sizes: np.ndarray, rows: np.ndarray) -> Places:
    """Args: sizes: (…, 2) widths and heights of all images."""
    corners = annotations.corners[rows]
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).clip(0, 1)
    return Places(boxes, annotations.parts[rows], sizes[rows] / sizes[rows].max(1, keepdims=True))


@torch.no_grad()
def trained(mixes: Mixes, rows: np.ndarray) -> np.ndarray:
    """(N, h, w) class maps of the true classes by a trained model, of the whole stored squares."""
    found = []
    for batch in mixes.batches.whole(rows, mixes.size):
        features = mixes.model(batch.images).features
        found.append(class_maps(features, mixes.model.head.weight, batch.labels).float().cpu().numpy())
    return np.concatenate(found)


def gaussian(grid: int) -> np.ndarray:
    """(grid, grid) the Gaussian control map, in fp64; half of its mass lies in a box of a third of the image."""
    at = (np.arange(grid) + 0.5) / grid - 0.5
    return np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * SPREAD**2))


def compare(
    maps: Localised, truth: Places, rows: np.ndarray, models: Iterable[np.ndarray], params: Params
) -> pd.DataFrame:
    """One row per localiser, in shares of 1: its name, and value, low and high of each metric (NaN if it does not apply).

    Args:
        rows: of the index, those of ``truth``.
        models: class maps of trained models, see :func:`trained`.
    """
    at = maps.places(rows)
    grid = maps.meta["grid"]
    kinds = {OBJECTS: maps.objects[at][None, :, None], PARTS: maps.parts[at][None]}
    if maps.meta["classes"]:
        kinds[IMAGENET] = maps.activation[at][None, :, None]
    if models := list(models):
        kinds[TRAINED] = np.stack(models)[:, :, None]
    kinds[GAUSSIAN] = np.broadcast_to(gaussian(grid), (1, len(rows), 1, grid, grid))
    table = [_measured(name, np.asarray(each, np.float32), truth, params) for name, each in kinds.items()]
    share = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
    whole = {"pointing": share.mean(), "mass": share.mean(), "box_acc": np.greater_equal.outer(share, OVERLAPS).mean()}
    columns = ["method", *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high"))]
    return pd.DataFrame([*table, {"method": WHOLE, **whole}], columns=columns)


def _measured(name: str, maps: np.ndarray, truth: Places, params: Params) -> dict[str, float | str]:
    """Args: maps: (S, N, K, h, w), of S models or one localiser, K maps per image."""
    above, below = sums(maps, truth, name == PARTS)
    ratios, _ = intervals.estimated(above, below, ("pointing", "mass", "agreement"), params)
    row: dict[str, float | str] = {"method": name, **ratios}
    if maps.shape[2] == 1 and name != PARTS:
        found = [max_box_acc_v2(each[:, 0], truth.boxes, SIDE, THRESHOLDS) for each in maps]
        row["box_acc"] = float(np.mean(found))
    return row


def sums(maps: np.ndarray, truth: Places, only_shown: bool) -> tuple[np.ndarray, np.ndarray]:
    """(S, N, 3) numerators and denominators of pointing game, mass and agreement by model and image: every map of an image
    counts; if ``only_shown``, those whose peak is at least :data:`SHOWN`."""
    models, images, count, height, width = maps.shape
    flat = maps.reshape(models, images, count, -1)
    peak = flat.argmax(3)
    x, y = (peak % width + 0.5) / width, (peak // width + 0.5) / height
    left, top, right, bottom = (edge[:, None] for edge in truth.boxes.T)
    pointing = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    inside = _covered(truth.boxes[:, 1::2], height)[:, :, None] * _covered(truth.boxes[:, ::2], width)[:, None]
    total = flat.sum(3)
    mass = np.einsum("snkhw,nhw->snk", maps, inside) / np.where(total > 0, total, 1)
    valid = (flat.max(3) >= SHOWN) if only_shown else total > 0

    seen = np.any(truth.parts[..., 2], 1)
    scaled = truth.aspect[:, None]
    away = np.linalg.norm(
        np.stack([x, y], -1)[..., None, :] * scaled[:, None] - (truth.parts[..., :2] * scaled)[:, None], axis=-1
    )
    nearest = np.where(truth.parts[:, None, :, 2] > 0, away, np.inf).argmin(-1)  # (S, N, K)
    other = np.empty(images, np.int64)  # a random cycle: no image is paired with itself
    order = np.random.default_rng(SEED).permutation(images)
    other[order] = np.roll(order, 1)
    paired = valid & valid[:, other] & (seen & seen[other])[:, None]
    same = (nearest == nearest[:, other]) & paired
    above = np.stack([(pointing & valid).sum(2), (mass * valid).sum(2), same.sum(2)], 2)
    return above.astype(float), np.stack([valid.sum(2), valid.sum(2), paired.sum(2)], 2).astype(float)


def _covered(spans: np.ndarray, cells: int) -> np.ndarray:
    """(N, cells) share of each of a side's cells that spans (N, 2) cover."""
    edges = np.arange(cells + 1) / cells
    covered = np.minimum(spans[:, 1:], edges[1:]) - np.maximum(spans[:, :1], edges[:-1])
    return covered.clip(0) * cells


def max_box_acc_v2(maps: np.ndarray, boxes: np.ndarray, side: int, thresholds: int) -> float:
    """MaxBoxAccV2: how often the best box around a map's thresholded regions is the object's, at the best threshold; mean over
    :data:`OVERLAPS` (Choe, Oh, Lee, Chun, Akata and Shim, *Evaluating weakly-supervised object localization methods right*, CVPR
    2020).

    Args:
        maps: (N, h, w), finite; each is enlarged bilinearly to ``side`` × ``side`` and stretched to 0..1. A
            constant map finds nothing.
        boxes: (N, 4) left, top, right and bottom in the unit square.
        thresholds: T, evenly from 0; a region is what lies above one. (Their code uses 1000; on 60 sparrows 400 and
            100 gave the same.)
    """
    found = np.zeros((thresholds, len(OVERLAPS)))
    levels = np.arange(thresholds) / thresholds
    for each, box in zip(maps, np.asarray(boxes, np.float64) * side, strict=True):
        small = torch.from_numpy(np.asarray(each, np.float32))[None, None]
        large = interpolate(small, (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()
        low, high = large.min(), large.max()
        if high == low:
            continue
        stretched = (large - low) / (high - low)
        for at, level in enumerate(levels):
            overlaps = box_iou(torch.from_numpy(regions(stretched > level)), torch.from_numpy(box)[None]).numpy()
            found[at] += np.greater_equal(overlaps.max(), OVERLAPS)
    return float((found / max(len(maps), 1)).max(0).mean())


def regions(mask: np.ndarray) -> np.ndarray:
    """(R, 4) left, top, right and bottom, in pixels, of a mask's regions (joined by sides or corners)."""
    labels, _ = label(mask, np.ones((3, 3)))
    return np.array([(x.start, y.start, x.stop, y.stop) for y, x in find_objects(labels)], np.float64).reshape(-1, 4)
