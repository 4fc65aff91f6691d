"""The gallery's pairs: the same references and donors, mixed by every mixer of a suite."""

import numpy as np
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from lapml.config import Method
from lapml.diagnose.metrics import Scene, mixing, shares, true_share
from lapml.diagnose.mixes import RANDOM, Mixes
from lapml.methods import Reference
from lapml.mixing.boxes import Mixed
from lapml.report.gallery import Mix, Pair
from lapml.report.pictures import glow, pixels
from lapml.rows import AttentiveCutMix, CutMix, Cutout, Localized, Mixup, Oracle, SnapMix

OUTLINED = 32  # cells a side of a mask, at most, that the gallery outlines
FLAGS = {"meaningless": "meaningless", "obscured": "obscured", "ghost": "ghost label"}


def pairs(mixes: Mixes, weights: dict, class_names: list[str], count: int) -> list[Pair]:
    """The first ``count`` pairs of a net's draws."""
    found: list[Pair] = []
    for batch, scene, made, _ in mixes.generate(count):
        clean = pixels(batch.images.float().cpu(), weights)
        parts = {
            name: _mixes(name, mixes.rows[name], mixed, seen, scene, weights) for name, (mixed, seen) in made.items()
        }
        boxes = None if scene is None else [_visible(box) for box in scene.truth.boxes.tolist()]
        for i in range(min(batch.count, count - len(found))):
            j = int(batch.donors[i])
            found.append(
                Pair(
                    clean[i],
                    clean[j],
                    *(class_names[int(batch.labels[k])] for k in (i, j)),
                    *((boxes[i], boxes[j]) if boxes else (None, None)),
                    [parts[name][i] for name in mixes.rows],
                )
            )
    return found


def _mixes(
    name: str, method: Method, mixed: Mixed, seen: Reference | None, scene: Scene | None, weights: dict
) -> list[Mix]:
    images = pixels(mixed.images.float().cpu(), weights)
    area = shares(mixed).hidden.mean((1, 2))
    truth = applies = None
    flags = {}
    if scene:
        truth, applies = true_share(mixed, scene)
        metrics = mixing(mixed, scene)
        flags = {shown: (metrics[key][0] > 0) & metrics[key][1] for key, shown in FLAGS.items()}
    # Another grid than the maps' (SnapMix's are in pixels) would be too fine to draw cell by cell.
    maps = None if seen is None or name == RANDOM else _cells(seen.maps, seen.parts.shape[-1])
    cells = None
    if mixed.mask is not None and mixed.mask.shape[1:] != (1, 1):  # outlined cell by cell, so not by the pixel
        size = tuple(min(cells, OUTLINED) for cells in mixed.mask.shape[1:])
        cells = (interpolate(mixed.mask.float()[:, None], size, mode="nearest")[:, 0] > 0.5).cpu().numpy()
    return [
        Mix(
            name,
            describe(name, method),
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
            [shown for shown, flag in flags.items() if flag[i]],
        )
        for i in range(len(mixed.donors))
    ]


def describe(name: str, method: Method) -> str:
    """How a row mixes and labels, in one line."""
    rule = {"area": "labelled by area", "semantic": "labelled by what is seen", "snapmix": "weights by what is seen"}
    label = rule.get(method.label, "")
    if name == RANDOM:
        return f"squares of localized CutMix’s sizes, from anywhere to anywhere, {label}"
    match method.mixer:
        case Mixup():
            return "both images blended, labelled by λ"
        case Cutout():
            return "a square erased, the label stays"
        case AttentiveCutMix():
            return "the donor’s most attended cells, in place, labelled by area"
        case SnapMix():
            return "a box of the donor, resized, over another box; weights by what is seen"
        case CutMix():
            return f"the same box of the donor, anywhere, {label}"
        case Localized():
            return f"a part of the donor over the most similar place, {label}"
        case Oracle():
            return f"the same true part of the donor over the reference’s, {label}"
    return f"{method.mixer.name}: an own mixer"


def _cells(maps: Tensor, grid: int) -> np.ndarray:
    return glow(adaptive_avg_pool2d(maps.float().cpu().nan_to_num()[:, None], grid)[:, 0])


def _visible(box: list[float]) -> tuple[float, ...] | None:
    return tuple(box) if box[2] > box[0] and box[3] > box[1] else None
