"""FMix (Harris, Marcu, Painter, Niranjan, Prügel-Bennett and Hare, arXiv:2002.12047, 2020): masks of random shape, where
low-frequency noise is highest."""

import math
from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import Positive
from lapml.mixing.boxes import Mixed
from lapml.mixing.protocol import Draws, Evidence, Mixer

HIGHEST = 8  # waves across the image: with the authors' decay of 3, those above have less than 1/500 of the lowest's amplitude
ROWS, COLUMNS = 2 * HIGHEST + 1, HIGHEST + 1  # of the part of the spectrum that is drawn, as of a real image's


class Settings(Mixer):
    name: Literal["fmix"] = "fmix"
    alpha: Positive
    decay: Positive  # power of the frequency that the noise's amplitude is divided by; the authors': 3

    summary = "a blot of random shape, in place, labelled by area"
    uniform = 2 * ROWS * COLUMNS  # real and imaginary parts of the spectrum


def noise(uniform: Tensor, decay: float, side: int) -> Tensor:
    """(B, side, side) fp32 noise whose spectrum is complex Gaussian over frequency^decay, up to :data:`HIGHEST` waves.

    Args:
        uniform: (B, 2·ROWS·COLUMNS) in [0, 1).
    """
    normal = torch.erfinv((2 * uniform.float() - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * math.sqrt(2)
    real, imaginary = normal.view(-1, 2, ROWS, COLUMNS).unbind(1)
    y = torch.arange(-HIGHEST, HIGHEST + 1, device=uniform.device, dtype=torch.float32)
    x = torch.arange(COLUMNS, device=uniform.device, dtype=torch.float32)
    scale = (y[:, None] ** 2 + x**2).sqrt().clamp_min(1) ** -decay
    scale = scale * torch.where(x > 0, 2.0, 1.0)  # a real image's spectrum has those twice
    spectrum = torch.complex(real * scale, imaginary * scale)
    at = 2 * math.pi * torch.arange(side, device=uniform.device, dtype=torch.float32) / side
    waves_y, waves_x = (torch.polar(torch.ones_like(turn), turn) for turn in (at[:, None] * y, at[:, None] * x))
    return (waves_y @ spectrum @ waves_x.T).real


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Keep the λ of the reference's pixels where the noise is highest, the others are the donor's; labelled by area."""
    images, side = batch.images, batch.images.shape[-1]
    with torch.autocast(images.device.type, enabled=False):
        field = noise(batch.uniform, settings.decay, side).flatten(1)
        kept = (batch.lam.double() * side**2).round().long()
        order = field.sort(dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(side**2, device=order.device).expand_as(order))
        over = (rank >= kept[:, None]).view(-1, side, side)
    share = over.float().mean((1, 2))
    mixed = torch.where(over[:, None], images[batch.donors], images[: batch.count])
    return Mixed(mixed, batch.donors, 1 - share, share, share, mask=over.float())
