"""CutMix (Yun et al., ICCV 2019), one box per image; and, for a fair comparison, with localized CutMix's sizes or label."""

from typing import Annotated, Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import LATER, Positive
from lapml.mixing.boxes import Mixed, area, centred, mass, paste, square_sides, weighed
from lapml.mixing.protocol import LABELS, Area, Draws, Evidence, Found, Maps, Mixer


class Pasted(Mixer):
    """What mixers have in common that :func:`pasted` ends."""

    name: str
    alpha: Positive
    maps: Maps | Found | None  # for a label by what is seen
    area: Annotated[Area | None, LATER] = None  # clip(1 − λ, a_min, a_max), and the box shifted inside, not cut

    def labels(self) -> tuple[str, ...]:
        return tuple(LABELS)[1:] if self.maps else ("area",)

    def allowed(self) -> str:
        return f"{super().allowed()} with mixer.maps {self.maps or 'null'}"


class Settings(Pasted):
    name: Literal["cutmix"] = "cutmix"

    summary = "the same box of the donor, anywhere"


def boxes(lam: Tensor, uniform: Tensor, side: int) -> Tensor:
    """CutMix's boxes, clipped to the image.

    Args:
        lam: (B,) λ ~ Beta(α, α).
        uniform: (B, 2) in [0, 1), for the centre's x and y.
        side: of the square image in pixels.

    Returns:
        (B, 4): edges c ± cut//2 with cut = ⌊side·√(1−λ)⌋, as torchvision's v2.CutMix for the same draws.
    """
    half = ((1 - lam.double()).sqrt() * side).floor().long().div(2, rounding_mode="floor")[:, None]
    centre = (uniform.double() * side).long().clamp_max(side - 1)
    return torch.cat([centre - half, centre + half], 1).clamp(0, side)


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Mix a batch; the label's share is the box's area as it lies in the image, or what is seen of either map."""
    side = batch.images.shape[-1]
    if settings.area is None:
        box = boxes(batch.lam, batch.uniform[:, :2], side)
    else:
        box = centred(batch.uniform[:, :2] * side, square_sides(batch.lam, settings.area, side), side)
    return pasted(batch, evidence, settings, box, box)


def pasted(batch: Draws, evidence: Evidence, settings: Pasted, box_reference: Tensor, box_donor: Tensor) -> Mixed:
    """Paste boxes (B, 4) of one size, and label by area or by what is seen of ``settings.maps``."""
    side = batch.images.shape[-1]
    share = area(box_reference, side)
    ours, theirs = 1 - share, share
    if settings.label != "area":
        assert settings.maps is not None
        maps = evidence.seen(settings.maps)
        ours = 1 - mass(maps[: batch.count], box_reference, side)
        theirs = mass(maps[batch.donors], box_donor, side)
    weights = weighed(settings.label, share, ours, theirs)
    mixed = paste(batch.images, batch.donors, box_reference, box_donor)
    return Mixed(mixed, batch.donors, *weights, box_reference, box_donor)
