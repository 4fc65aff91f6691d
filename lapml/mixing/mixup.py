"""Mixup (Zhang, Cissé, Dauphin and Lopez-Paz, ICLR 2018), one share per image."""

from typing import Literal

from lapml.common.sections import Positive
from lapml.mixing.boxes import Mixed
from lapml.mixing.protocol import Draws, Evidence, Mixer


class Settings(Mixer):
    name: Literal["mixup"] = "mixup"
    alpha: Positive

    summary = "both images blended, labelled by λ"


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Blend every reference with its donor, x̃ = λ·x_i + (1 − λ)·x_j; the label likewise."""
    share = (1 - batch.lam)[:, None, None]
    mixed = batch.images[: batch.count].lerp(batch.images[batch.donors], share[..., None].to(batch.images.dtype))
    return Mixed(mixed, batch.donors, batch.lam, 1 - batch.lam, 1 - batch.lam, mask=share)
