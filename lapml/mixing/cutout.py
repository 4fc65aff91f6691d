"""Cutout (DeVries and Taylor, arXiv:1708.04552, 2017), a square an image."""

import torch
from torch import Tensor

from lapml.mixing.boxes import Mixed, inside


def boxes(share: float, uniform: Tensor, side: int) -> Tensor:
    """Squares at uniformly drawn centre pixels, clipped to the image.

    Args:
        share: of the image's side that the square's side takes.
        uniform: (B, 2) in [0, 1), for the centre's x and y.
        side: of the square image in pixels.

    Returns:
        (B, 4): edges c ± n//2 with n = round(share·side), as in the authors' code.
    """
    half = round(share * side) // 2
    centre = (uniform.double() * side).long().clamp_max(side - 1)
    return torch.cat([centre - half, centre + half], 1).clamp(0, side)


def mix(images: Tensor, donors: Tensor, uniform: Tensor, share: float) -> Mixed:
    """Erase a square of every reference; its label stays. Nothing comes from a donor.

    Args:
        images: (≥ B, 3, H, H) normalised, so that 0 is the mean colour.
        donors: (B,) int64.
        uniform: (B, ≥ 2), share: as in :func:`boxes`.
    """
    box = boxes(share, uniform[:, :2], images.shape[-1])
    mixed = images[: len(donors)] * ~inside(box, images.shape[-1])[:, None]
    ones = torch.ones(len(donors), device=images.device)
    return Mixed(mixed, donors, ones, 0 * ones, 0 * ones, box)
