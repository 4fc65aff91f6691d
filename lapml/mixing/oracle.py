"""Localized CutMix by the data set's own parts and boxes in place of class maps: for diagnosis, no method to train with."""

from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.mixing.boxes import Mixed, area, centred, paste, square_sides, weighed
from lapml.mixing.maps import draw_cells
from lapml.mixing.protocol import Draws, Evidence, Patch


class Settings(Patch):
    name: Literal["oracle"] = "oracle"

    summary = "the same true part of the donor over the reference’s"
    asks = ("truth",)


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Replace a part of each reference by the same part of its donor.

    The part is drawn among those that are seen in both; where there is none, among the donor's, and put over the middle of
    the reference's object. Objects are their boxes: a box's area counts as what is seen of it.

    Returns:
        Similarity is 1 where both show the part, else 0.
    """
    images, donors, count, truth = batch.images, batch.donors, batch.count, evidence.truth
    assert truth is not None
    side = images.shape[-1]
    extents = square_sides(batch.lam, settings.area, side)
    theirs, own = truth.parts[donors], truth.parts[:count]
    seen, both = theirs[..., 2] > 0, (theirs[..., 2] > 0) & (own[..., 2] > 0)
    shared, any_part = both.any(1), seen.any(1)
    choice = torch.where(shared[:, None], both, seen).float()
    part = draw_cells(torch.where(any_part[:, None], choice, 1.0)[:, None], 1.0, batch.uniform[:, 0])
    rows = torch.arange(count, device=images.device)
    middles = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    source = torch.where(any_part[:, None], theirs[rows, part, :2], middles[donors])
    target = torch.where(shared[:, None], own[rows, part, :2], middles[:count])
    box_reference, box_donor = centred(target, extents, side), centred(source, extents, side)
    share = area(box_reference, side)
    kept = 1 - overlap(truth.boxes[:count], box_reference, none=share)
    pasted = overlap(truth.boxes[donors], box_donor, none=share)
    mixed = paste(images, donors, box_reference, box_donor)
    weights = weighed(settings.label, share, kept, pasted)
    return Mixed(mixed, donors, *weights, box_reference, box_donor, shared.float())


def overlap(objects: Tensor, boxes: Tensor, none: Tensor) -> Tensor:
    """(B,) share of each object's box (B, 4) that a box (B, 4) covers; ``none`` (B,) where the object's is empty."""
    corners = torch.maximum(objects[:, :2], boxes[:, :2]), torch.minimum(objects[:, 2:], boxes[:, 2:])
    common = (corners[1] - corners[0]).clamp_min(0).prod(1)
    whole = (objects[:, 2:] - objects[:, :2]).clamp_min(0).prod(1)
    return torch.where(whole > 0, common / whole, none)
