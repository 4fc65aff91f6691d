"""CutMix (Yun et al., ICCV 2019), a box an image."""

from typing import Literal

from lapml.lazy import Tensor, torch
from lapml.mixing.boxes import Mixed, area, mass, paste, weighed
from lapml.mixing.protocol import LABELS, Draws, Evidence, Maps, Mixer
from lapml.sections import Positive


class Settings(Mixer):
    name: Literal["cutmix"] = "cutmix"
    beta: Positive
    maps: Maps | None  # for a label by what is seen

    summary = "the same box of the donor, anywhere"

    def labels(self) -> tuple[str, ...]:
        return tuple(LABELS)[1:] if self.maps else ("area",)

    def allowed(self) -> str:
        return f"{super().allowed()} with mixer.maps {self.maps or 'null'}"


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


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Mix a batch; the label's share is the clipped box's area, or what is seen of either class map."""
    images, donors, maps, side = batch.images, batch.donors, evidence.maps, batch.images.shape[-1]
    box = boxes(batch.lam, batch.uniform[:, :2], side)
    share = area(box, side)
    kept, pasted = 1 - share, share
    if settings.label != "area":
        kept, pasted = 1 - mass(maps[: batch.count], box, side), mass(maps[donors], box, side)
    weights = weighed(settings.label, share, kept, pasted)
    return Mixed(paste(images, donors, box, box), donors, *weights, box, box)
