"""The metrics of docs/diagnosis.md, per image: a value, and whether it applies. Batched, on the CPU or a GPU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lapml.data.truth import Scene
from lapml.mixing import Truth
from lapml.mixing.boxes import Mixed, inside

COVERED, SHOWN = 0.5, 0.1  # obscured: more than, and at most
GHOST = 0.05  # weight of a label above which its class should be seen
NEAR = 0.1  # of the box's longer side
POINTS = 64  # random points in a box
THRESHOLD = 0.2  # of a map's peak
MIXING = {
    "area": "area",
    "meaningless": "meaningless",
    "obscured": "obscured",
    "label_error_masks": "label error (masks)",
    "label_error_parts": "label error (parts)",
    "ghost": "ghost labels",
    "agreement": "part agreement",
}
LOCALISATION = {
    "pointing": "pointing game",
    "pointing_chance": "pointing game, chance",
    "near": "near a part",
    "near_chance": "near a part, chance",
    "iou": "IoU",
    "iou_chance": "IoU, chance",
}


class Shares(NamedTuple):
    """Which pixels of each generated image show what, (B, H, H) each in 0..1."""

    hidden: Tensor  # of the reference's pixels: replaced, erased or blended over
    shown: Tensor  # of the donor's pixels, in the donor's own view
    scale: Tensor  # (B,) pixels of the generated image for a pixel of the donor


def shares(mixed: Mixed) -> Shares:
    """The pixel shares that a mixer reports for its images."""
    count, side = len(mixed.donors), mixed.images.shape[-1]
    scale = torch.ones(count, device=mixed.images.device)
    if mixed.mask is not None:
        over = interpolate(mixed.mask.float()[:, None], (side, side), mode="nearest")[:, 0]
        return Shares(over, over, scale)
    assert mixed.box_reference is not None
    to = inside(mixed.box_reference, side).float()
    if mixed.box_donor is None:
        return Shares(to, torch.zeros_like(to), scale)
    source = inside(mixed.box_donor, side).float()
    return Shares(to, source, to.sum((1, 2)) / source.sum((1, 2)).clamp_min(1))


def mixing(mixed: Mixed, scene: Scene) -> dict[str, tuple[Tensor, Tensor]]:
    """{metric of :data:`MIXING`: (value (B,), whether it applies (B,) bool)} of a generated batch.

    Values are shares; one that does not apply is 0.
    """
    count, pixels = len(mixed.donors), shares(mixed)
    donor, seen = scene.objects[mixed.donors], _seen_objects(mixed, scene, pixels)
    parts, theirs = scene.truth.parts[:count], scene.truth.parts[mixed.donors]
    seen_parts, their_seen = parts[..., 2].sum(1), theirs[..., 2].sum(1)
    blended = mixed.mask is not None and mixed.mask.shape[1:] == (1, 1)
    whole = (pixels.hidden == pixels.hidden.round()).all((1, 2)) & (not blended)
    pasted = whole & pixels.shown.any((1, 2))
    both = (seen_parts > 0) & (their_seen > 0)
    kept, shown = seen["parts"]

    covered = 1 - kept / seen_parts.clamp_min(1)
    obscured = (covered > COVERED + 1e-6) & (shown / their_seen.clamp_min(1) <= SHOWN + 1e-6)
    errors = {}
    for kind, (left, added) in seen.items():
        share, applies = _share(left, added)
        errors[f"label_error_{kind}"] = (mixed.rho - share).abs(), applies & (scene.masked if kind == "masks" else True)
    same = scene.labels[:count] == scene.labels[mixed.donors]
    neither = (kept <= 1e-6) & (shown <= 1e-6)
    unseen = (1 - mixed.rho > GHOST) & (kept <= 1e-6) | (mixed.rho > GHOST) & (shown <= 1e-6)
    common = _at(pixels.shown, theirs) * theirs[..., 2] * parts[..., 2]
    agreeing = (common * _at(pixels.hidden, parts)).sum(1) / common.sum(1).clamp_min(1)
    found = {
        "area": (pixels.hidden.mean((1, 2)), torch.ones_like(pasted)),
        "meaningless": ((pixels.shown * donor).sum((1, 2)) == 0, pasted & donor.any((1, 2))),
        "obscured": (obscured, both & whole),
        **errors,
        "ghost": (torch.where(same, neither, unseen), both),
        "agreement": (agreeing, pasted & (common.sum(1) > 0)),
    }
    return {name: (value.float() * applies, applies) for name, (value, applies) in found.items()}


def true_share(mixed: Mixed, scene: Scene) -> tuple[Tensor, Tensor]:
    """The donor's share of the seen object, by the primary count (masks, else parts), (B,), and whether any object is seen."""
    return _share(*_seen_objects(mixed, scene, shares(mixed))["masks" if scene.masked else "parts"])


def localisation(maps: Tensor, truth: Truth, side: int, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """{metric of :data:`LOCALISATION`: (value (N,), whether it applies (N,) bool)} of class maps (N, h, w).

    Args:
        side: of the views in pixels.
        generator: of the random points, on the CPU.
    """
    count, height, width = maps.shape
    peak = maps.flatten(1).argmax(1)
    centre = torch.stack([(peak % width + 0.5) * side / width, (peak // width + 0.5) * side / height], 1)
    low, high = truth.boxes[:, :2], truth.boxes[:, 2:]
    extent = high - low
    there = (extent > 0).all(1)
    within = ((centre >= low) & (centre < high)).all(1)
    reach = NEAR * extent.amax(1)
    drawn = torch.rand(count, POINTS, 2, generator=generator).to(maps.device) * extent[:, None] + low[:, None]
    large = interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    above = large >= THRESHOLD * large.amax((1, 2), keepdim=True)
    pixels = inside(truth.boxes - 0.5, side)  # whose centre lies in the box
    iou = (above & pixels).sum((1, 2)) / (above | pixels).sum((1, 2)).clamp_min(1)
    seen = truth.parts[..., 2].any(1)
    found = {
        "pointing": (within, there),
        "pointing_chance": (extent.prod(1) / side**2, there),
        "near": (_nearest(centre[:, None], truth.parts)[:, 0] <= reach, there & seen),
        "near_chance": ((_nearest(drawn, truth.parts) <= reach[:, None]).float().mean(1), there & seen),
        "iou": (iou, there),
        "iou_chance": (pixels.float().mean((1, 2)), there),
    }
    return {name: (value.float() * applies, applies) for name, (value, applies) in found.items()}


def _seen_objects(mixed: Mixed, scene: Scene, pixels: Shares) -> dict[str, tuple[Tensor, Tensor]]:
    """{count: seen amount of (the reference's object, the donor's)}, (B,) each: pixels of objects, and parts."""
    count = len(mixed.donors)
    parts, theirs = scene.truth.parts[:count], scene.truth.parts[mixed.donors]
    left = ((1 - pixels.hidden) * scene.objects[:count]).sum((1, 2))
    added = (pixels.shown * scene.objects[mixed.donors]).sum((1, 2)) * pixels.scale
    kept = ((1 - _at(pixels.hidden, parts)) * parts[..., 2]).sum(1)
    shown = (_at(pixels.shown, theirs) * theirs[..., 2]).sum(1)
    return {"masks": (left, added), "parts": (kept, shown)}


def _share(left: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """The donor's share of what is seen, and whether anything is."""
    return added / (left + added).clamp_min(1e-6), left + added > 1e-6


def _at(pixels: Tensor, parts: Tensor) -> Tensor:
    """(N, P) values of (N, H, H) pixels at parts (N, P, 3); arbitrary for parts that are not seen."""
    x, y = (parts[..., axis].long().clamp(0, pixels.shape[-1] - 1) for axis in (0, 1))
    return pixels[torch.arange(len(pixels), device=pixels.device)[:, None], y, x]


def _nearest(points: Tensor, parts: Tensor) -> Tensor:
    """(N, K) distances in pixels of points (N, K, 2) to the nearest seen part."""
    distance = torch.cdist(points, parts[..., :2])
    return distance.masked_fill(parts[:, None, :, 2] == 0, torch.inf).amin(2)
