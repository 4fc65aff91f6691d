"""Part localization-aware CutMix, part for part: the same part of the donor over the reference's, at the size of its object.

Our second reading of stage 1 of Kim, Kim and Byun (IEEE Access 2021), see docs/methods.md: objects and parts are found before
training, without labels.
"""

from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import Positive
from lapml.mixing.boxes import Mixed, area, centred, mass, middles, paste_resized, square_sides, weighed
from lapml.mixing.maps import draw_cells
from lapml.mixing.protocol import Area, Draws, Evidence, Patch

OBJECT = 0.1  # of an object map's peak: the cells above it are the object's


class Settings(Patch):
    name: Literal["parts"] = "parts"
    area: Area  # of the patch: clip(1 − λ, a_min, a_max), a share of the object
    threshold: Positive  # an image shows a part whose map is stronger than this somewhere in the view; 1 is strong

    summary = "a part of the donor, resized, over the same part"
    asks = ("objects", "parts")


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Replace a part of each reference, drawn among those that both images show, by the same part of its donor.

    Where they share none, the peaks of their object maps stand in for it.

    Returns:
        Similarity is the cosine of the two parts' descriptors; 0 where no part is shared.
    """
    images, donors, count, side = batch.images, batch.donors, batch.count, batch.images.shape[-1]
    assert evidence.part_maps is not None and evidence.part_descriptors is not None
    both = slice(count), donors  # places in the batch of the references, of their donors
    objects, parts = evidence.seen("objects"), evidence.part_maps.nan_to_num(0, 0, 0)
    strength, cells = parts.flatten(2).max(2)  # (≥ B, K) each
    common = (strength[both[0]] > settings.threshold) & (strength[both[1]] > settings.threshold)
    shared = common.any(1)
    part = draw_cells((common | ~shared[:, None]).float()[:, None], 1.0, batch.uniform[:, 0])

    boxes = []
    for each in both:
        place = middles(cells[each].gather(1, part[:, None])[:, 0], parts.shape[2:], side)
        whole, peak = _extent(objects[each], side)
        extents = square_sides(batch.lam, settings.area, side, whole)
        boxes.append(centred(torch.where(shared[:, None], place, peak), extents, side))
    box_reference, box_donor = boxes
    share = area(box_reference, side)
    kept, pasted = 1 - mass(objects[:count], box_reference, side), mass(objects[donors], box_donor, side)
    mixed = paste_resized(images, donors, box_reference, box_donor)
    weights = weighed(settings.label, share, kept, pasted)
    similarity = _similarity(evidence.part_descriptors, both, part) * shared
    return Mixed(mixed, donors, *weights, box_reference, box_donor, similarity)


def _extent(objects: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(B,) sides in pixels of squares as large as the objects, and (B, 2) where their maps (B, h, w) peak, the view's middle
    for a map that is the same everywhere."""
    flat = objects.flatten(1)
    top, cell = flat.max(1)
    covered = (flat > OBJECT * top[:, None]).to(flat.dtype).mean(1)
    peak = middles(cell, objects.shape[1:], side)
    return covered.sqrt() * side, torch.where((top > flat.amin(1))[:, None], peak, side / 2)


def _similarity(descriptors: Tensor, both: tuple[slice, Tensor], part: Tensor) -> Tensor:
    """(B,) cosine of two images' descriptors (≥ B, K, D) of a part, clamped to [0, 1]."""
    rows = torch.arange(len(part), device=part.device)
    ours, theirs = (descriptors[each][rows, part].float() for each in both)
    return (ours * theirs).sum(1).nan_to_num(0, 0, 0).clamp(0, 1)
