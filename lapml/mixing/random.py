"""Localized CutMix without localisation, a control: squares of its sizes, from anywhere to anywhere."""

from typing import Literal

from lapml.mixing import cutmix
from lapml.mixing.boxes import Mixed, centred, square_sides
from lapml.mixing.protocol import Area, Draws, Evidence


class Settings(cutmix.Pasted):
    name: Literal["random"] = "random"
    area: Area  # of the patch: clip(1 − λ, a_min, a_max), a share of the image

    summary = "a square of the donor, from anywhere to anywhere"
    second = True  # for where the donor's square is; the reference's is where CutMix of the same sizes has it


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Paste a square of every donor, whose centre is drawn uniformly, around a centre of its own in the reference."""
    side = batch.images.shape[-1]
    assert batch.second is not None
    extents = square_sides(batch.lam, settings.area, side)
    boxes = (centred(place * side, extents, side) for place in (batch.uniform[:, :2], batch.second[:, 1:]))
    return cutmix.pasted(batch, evidence, settings, *boxes)
