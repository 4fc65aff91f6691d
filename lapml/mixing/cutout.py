"""Cutout (DeVries and Taylor, arXiv:1708.04552, 2017), one square per image."""

from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import OpenShare
from lapml.mixing.boxes import Mixed, inside
from lapml.mixing.protocol import Draws, Evidence, Mixer


class Settings(Mixer):
    name: Literal["cutout"] = "cutout"
    side: OpenShare  # of the square, share of the image's side

    summary = "a square erased, the label stays"
    shows_donor = False


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


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Erase a square of every reference, to the mean colour; its label stays. Nothing comes from a donor."""
    side = batch.images.shape[-1]
    box = boxes(settings.side, batch.uniform[:, :2], side)
    mixed = batch.images[: batch.count] * ~inside(box, side)[:, None]
    ones = torch.ones(batch.count, device=batch.images.device)
    return Mixed(mixed, batch.donors, ones, 0 * ones, 0 * ones, box)
