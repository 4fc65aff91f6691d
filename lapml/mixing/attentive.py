"""Attentive CutMix (Walawalkar, Shen, Liu and Savvides, ICASSP 2020): the donor's most attended cells, each in its place."""

from typing import Annotated, Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import LATER, OpenShare
from lapml.mixing.boxes import Mixed
from lapml.mixing.protocol import Draws, Evidence, Mixer

GRID = 7  # the authors' cells a side, to which finer object maps are averaged


class Settings(Mixer):
    name: Literal["attentive_cutmix"] = "attentive_cutmix"
    cells: OpenShare  # share of the map's cells that is pasted (the authors': 6 of 7 × 7); at least one is, and one is kept
    maps: Annotated[Literal["attention", "objects"], LATER] = "attention"  # or object maps made before training

    summary = "the donor’s most attended cells, in place, labelled by area"


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Paste the donors' most attended cells at the same places; the label's share is that of the cells.

    Cells whose attention is not finite come last.
    """
    images, donors, count = batch.images, batch.donors, batch.count
    attention = evidence.attention if settings.maps == "attention" else _objects(evidence)
    assert attention is not None
    height, width = attention.shape[1:]
    top = min(max(round(settings.cells * height * width), 1), height * width - 1)
    seen = attention[donors].flatten(1)
    best = seen.masked_fill(~seen.isfinite(), -torch.inf).topk(top, dim=1).indices
    mask = torch.zeros_like(seen, dtype=torch.float32).scatter(1, best, 1.0).view(count, height, width)
    pasted = torch.full((count,), top / (height * width), device=images.device)
    over = torch.nn.functional.interpolate(mask[:, None], images.shape[-2:], mode="nearest") > 0
    return Mixed(torch.where(over, images[donors], images[:count]), donors, 1 - pasted, pasted, pasted, mask=mask)


def _objects(evidence: Evidence) -> Tensor:
    """(≥ B, h, w) object maps on at most GRID × GRID cells: on finer ones the pasted cells would be smaller than the authors'."""
    assert evidence.objects is not None
    height, width = evidence.objects.shape[1:]
    return evidence.seen("objects", (min(height, GRID), min(width, GRID)))
