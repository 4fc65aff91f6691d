"""TransMix (Chen, Sun, He, Torr, Yuille and Bai, CVPR 2022): CutMix, labelled by what a transformer's class token attends to."""

from dataclasses import replace
from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import Positive
from lapml.mixing import cutmix
from lapml.mixing.boxes import Mixed, area, mass, paste
from lapml.mixing.protocol import Draws, Evidence, Mixer


class Settings(Mixer):
    name: Literal["transmix"] = "transmix"
    alpha: Positive

    summary = "CutMix’s box, labelled by area and by what the class token attends to"
    attends = True


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """CutMix, labelled by area until :func:`attended`."""
    side = batch.images.shape[-1]
    box = cutmix.boxes(batch.lam, batch.uniform[:, :2], side)
    share = area(box, side)
    return Mixed(paste(batch.images, batch.donors, box, box), batch.donors, 1 - share, share, share, box, box)


def attended(mixed: Mixed, attention: Tensor) -> Mixed:
    """The same, labelled as in the authors' code: by the mean of the box's area and of the attention within it. (Cells that the
    box cuts count by their share; the authors' are in or out.)

    Args:
        attention: (B, h, w) of the class token in the mixed images, which sums to 1; area alone decides where it is not finite.
    """
    assert mixed.box_reference is not None
    side = mixed.images.shape[-1]
    share, seen = area(mixed.box_reference, side), mass(attention, mixed.box_reference, side)
    rho = torch.where(seen.isfinite(), (share + seen) / 2, share)
    return replace(mixed, kept=1 - rho, pasted=rho, rho=rho)
