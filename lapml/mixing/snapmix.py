"""SnapMix (Huang, Wang and Tao, AAAI 2021), two boxes per image, weights by what is seen of either class map."""

from typing import Annotated, Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import LATER, Positive
from lapml.mixing import cutmix
from lapml.mixing.boxes import Mixed, area, inside, mass
from lapml.mixing.protocol import Draws, Evidence, Mixer

FLAT = 1e-5  # scores that differ by less, relative to the largest, are equal


class Settings(Mixer):
    name: Literal["snapmix"] = "snapmix"
    alpha: Positive
    same_class: Literal[
        "official", "single"
    ]  # weights of a pair of one class: both the two's sum, as in the authors' code | once

    maps: Annotated[Literal["scores", "objects"], LATER] = "scores"  # SnapMix's own | object maps made before training

    summary = "a box of the donor, resized, over another box; weights by what is seen"
    second = True


def maps(features: Tensor, weight: Tensor, labels: Tensor, side: int) -> Tensor:
    """The semantic percentage map of each image's own class: the class scores of the cells, ReLU'd features first,
    upsampled, less their minimum (in which the class's bias cancels), divided by their sum.

    Args:
        features: (B, C, h, w); weight: (K, C) of the linear head; labels: (B,) int64.
        side: of the map in pixels.

    Returns:
        (B, side, side) in fp32 at least; NaN where a feature is not finite, or where all cells score the same.
    """
    kind = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        scores = torch.einsum("bchw,bc->bhw", features.to(kind).relu(), weight[labels].to(kind))
        size = scores.abs().amax((1, 2), keepdim=True)
        scores = torch.nn.functional.interpolate(scores[:, None], (side, side), mode="bilinear", align_corners=False)[
            :, 0
        ]
        scores = scores - scores.amin((1, 2), keepdim=True)
        told = scores.amax((1, 2), keepdim=True) > FLAT * size  # else the rounding of equal scores
        return torch.where(told, scores / scores.sum((1, 2), keepdim=True), torch.nan)


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Put a box of every donor, resized, over another box of its reference.

    Returns:
        Weights that need not sum to 1; by area where a map is not finite; an image whose either box is empty is not mixed.
    """
    images, donors, count, side = batch.images, batch.donors, batch.count, batch.images.shape[-1]
    maps = evidence.scores if settings.maps == "scores" else evidence.seen(settings.maps)
    assert maps is not None and batch.second is not None
    to = cutmix.boxes(batch.lam, batch.uniform[:, :2], side)
    source = cutmix.boxes(batch.second[:, 0], batch.second[:, 1:], side)
    share = area(to, side)
    empty = (share == 0) | (area(source, side) == 0)
    to, share = to.masked_fill(empty[:, None], 0), share.masked_fill(empty, 0)
    source = source.masked_fill(empty[:, None], 0)

    kept, pasted = 1 - mass(maps[:count], to, side), mass(maps[donors], source, side)
    kept, pasted = kept.where(kept.isfinite(), 1 - share), pasted.where(pasted.isfinite(), share)
    kept, pasted = kept.masked_fill(empty, 1), pasted.masked_fill(empty, 0)
    total = kept + pasted
    rho = torch.where(total > 0, pasted / total, share)
    if settings.same_class == "official":
        doubled = (batch.labels[:count] == batch.labels[donors]) & ~empty
        kept, pasted = total.where(doubled, kept), total.where(doubled, pasted)
    mixed = torch.where(inside(to, side)[:, None], _resized(images[donors], source, to), images[:count])
    return Mixed(mixed, donors, kept, pasted, rho, to, source)


def _resized(images: Tensor, source: Tensor, to: Tensor) -> Tensor:
    """(B, C, H, H) in whose boxes ``to`` lie the boxes ``source`` of the images, resized bilinearly, corners aligned."""
    side = images.shape[-1]
    at = torch.arange(side, device=images.device, dtype=torch.float32)
    axes = []
    for axis in (0, 1):
        start, extent = source[:, axis : axis + 1], source[:, axis + 2 : axis + 3] - source[:, axis : axis + 1]
        first, length = to[:, axis : axis + 1], to[:, axis + 2 : axis + 3] - to[:, axis : axis + 1]
        place = start + (at - first) * (extent - 1) / (length - 1).clamp_min(1)
        axes.append(2 * place / (side - 1) - 1)
    grid = torch.stack([axes[0][:, None, :].expand(-1, side, -1), axes[1][:, :, None].expand(-1, -1, side)], 3)
    # Not functional.grid_sample: on a GPU that hands aligned corners to cuDNN, whose numbers are others than the CPU's.
    return torch.grid_sampler_2d(images, grid.to(images.dtype), 0, 0, True)  # bilinear, zeros outside, corners aligned
