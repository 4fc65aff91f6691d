"""Class activation maps, the choice of parts, and their correspondence between two images.

Our reading of "part localization-aware CutMix" (docs/methods.md, stage 1). Maps are (B, h, w), non-negative, and sum to 1;
cells are flat indices into h·w. Nothing here waits for the device.
"""

from lapml.common.lazy import Tensor, torch

SPREAD = 0.25  # standard deviation of the centred Gaussian, share of the view's side


def class_maps(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The class activation map of each image's own class (Zhou et al., CVPR 2016), ReLU, normalised to sum 1.

    Args:
        features: (B, C, h, w).
        weight: (K, C) of the linear head.
        labels: (B,) int64.

    Returns:
        (B, h, w) in fp32 (or float64); uniform where every cell is 0 or any is not finite.
    """
    kind = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        return normalised(torch.einsum("bchw,bc->bhw", features.to(kind), weight[labels].to(kind)).relu())


def normalised(maps: Tensor) -> Tensor:
    """Non-negative (B, h, w) divided by their sums; uniform where every cell is 0 or any is not finite."""
    maps = maps / maps.amax((1, 2), keepdim=True)  # 0/0 and inf/inf give NaN, which the last line replaces
    total = maps.sum((1, 2), keepdim=True)
    return torch.where(total.isfinite(), maps / total, 1.0 / maps[0].numel())


def centred_gaussian(like: Tensor) -> Tensor:
    """(B, h, w) fp32 maps of one Gaussian around the middle of the view, normalised to sum 1: an object map that knows nothing.

    Args:
        like: (B, C, h, w).
    """
    axes = []
    for cells in like.shape[2:]:
        at = (torch.arange(cells, device=like.device) + 0.5) / cells - 0.5
        axes.append((-0.5 * (at / SPREAD) ** 2).exp())
    bell = axes[0][:, None] * axes[1]
    return (bell / bell.sum()).expand(len(like), -1, -1)


def draw_cells(maps: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Draw a cell of each map with probability ∝ S(u)^(1/T), by the inverse of the cumulated distribution.

    Args:
        maps: (B, h, w).
        temperature: T > 0; towards 0 the peak, large values towards uniform over the support of S.
        uniform: (B,) in [0, 1).

    Returns:
        (B,) flat cells; never one of probability 0.
    """
    flat = maps.flatten(1)
    weight = (flat / flat.amax(1, keepdim=True)).pow(1 / temperature)
    cumulated = torch.where(flat > 0, weight, 0.0).cumsum(1)  # 0^(1/T) rounds to 1 for a huge T
    total = cumulated[:, -1:]
    level = torch.minimum(uniform[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, level, right=True)[:, 0]


def match_cells(features: Tensor, maps: Tensor, part: Tensor, support: float) -> tuple[Tensor, Tensor]:
    """The cell of each image's object that is most similar to a given part.

    Args:
        features: (B, C, h, w) of the references.
        maps: (B, h, w) of the references.
        part: (B, C) the donors' features at their drawn cells.
        support: τ; only cells with S ≥ τ·max S are searched.

    Returns:
        (B,) flat cells, and (B,) their cosine similarity clamped to [0, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        kind = maps.dtype
        cells = torch.nn.functional.normalize(features.to(kind).flatten(2), dim=1)
        similarity = torch.einsum("bcn,bc->bn", cells, torch.nn.functional.normalize(part.to(kind), dim=1))
    flat = maps.flatten(1)
    outside = flat < support * flat.amax(1, keepdim=True)
    best, cell = similarity.nan_to_num(0.0).masked_fill(outside, -2.0).max(1)
    return cell, best.clamp(0, 1)
