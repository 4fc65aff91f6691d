"""ResizeMix (Qin, Fang, Zhang, Liu, Wang and Wang, arXiv:2012.11101, 2020): the whole donor, made small, over the reference."""

from typing import Literal

from lapml.common.lazy import torch
from lapml.mixing import cutmix
from lapml.mixing.boxes import Mixed, area, paste_resized
from lapml.mixing.protocol import Area, Draws, Evidence, Mixer


class Settings(Mixer):
    name: Literal["resizemix"] = "resizemix"
    scale: Area  # of the small image's side, share of the reference's; the authors': 0.1 to 0.8, drawn uniformly

    summary = "the whole donor, made small, anywhere, labelled by area"
    uniform = 3  # where its centre is, and its scale


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Paste every donor, resized with antialias to a box that is clipped to the reference, as in the authors' code; the
    label's share is the box's area."""
    images, side = batch.images, batch.images.shape[-1]
    low, high = settings.scale
    scale = low + (high - low) * batch.uniform[:, 2]
    to = cutmix.boxes(1 - scale.double() ** 2, batch.uniform[:, :2], side)
    whole = torch.zeros_like(to)
    whole[:, 2:] = side
    share = area(to, side)
    return Mixed(paste_resized(images, batch.donors, to, whole), batch.donors, 1 - share, share, share, to, whole)
