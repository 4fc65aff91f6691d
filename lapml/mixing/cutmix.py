"""CutMix (Yun et al., ICCV 2019), a box an image."""

import torch
from torch import Tensor

from lapml.mixing.boxes import Mixed, area, mass, paste, weighed


def boxes(lam: Tensor, uniform: Tensor, side: int) -> Tensor:
    """CutMix's boxes, clipped to the image.

    Args:
        lam: (B,) λ ~ Beta(β, β).
        uniform: (B, 2) in [0, 1), for the centre's x and y.
        side: of the square image in pixels.

    Returns:
        (B, 4): edges c ± cut//2 with cut = ⌊side·√(1−λ)⌋, as torchvision's v2.CutMix for the same draws.
    """
    half = ((1 - lam.double()).sqrt() * side).floor().long().div(2, rounding_mode="floor")[:, None]
    centre = (uniform.double() * side).long().clamp_max(side - 1)
    return torch.cat([centre - half, centre + half], 1).clamp(0, side)


def mix(
    images: Tensor,
    donors: Tensor,
    lam: Tensor,
    uniform: Tensor,
    label: str = "area",
    maps: Tensor | None = None,
) -> Mixed:
    """Mix a batch; the label's share is the clipped box's area, or what is seen of either class map.

    Args:
        images: (≥ B, 3, H, H), the references first.
        donors: (B,) int64, no image its own.
        lam: (B,), uniform: (B, ≥ 2) as in :func:`boxes`.
        label: a rule of :func:`~lapml.mixing.boxes.weighed`.
        maps: (≥ B, h, w) class maps that sum to 1, for a label other than ``area``.
    """
    side = images.shape[-1]
    box = boxes(lam, uniform[:, :2], side)
    share = area(box, side)
    kept, pasted = 1 - share, share
    if label != "area":
        kept, pasted = 1 - mass(maps[: len(donors)], box, side), mass(maps[donors], box, side)
    return Mixed(paste(images, donors, box, box), donors, *weighed(label, share, kept, pasted), box, box)
