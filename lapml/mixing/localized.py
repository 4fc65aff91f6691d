"""Part localization-aware CutMix: our reading of stage 1 of Kim, Kim and Byun (IEEE Access 2021); see method.md."""

from typing import Literal

from lapml.localize import draw_cells, match_cells
from lapml.mixing.boxes import Mixed, area, around, mass, paste, square_sides, weighed
from lapml.mixing.protocol import Draws, Evidence, Maps, Patch
from lapml.sections import Positive, Share


class Settings(Patch):
    name: Literal["localized"] = "localized"
    temperature: Positive  # of drawing the donor's part from its class map
    support: Share  # the reference's part has at least this share of its map's peak
    maps: Maps

    summary = "a part of the donor over the most similar place"


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Replace the part of each reference that looks most like a part drawn from its donor."""
    images, donors, count = batch.images, batch.donors, batch.count
    side, grid = images.shape[-1], (evidence.maps.shape[1], evidence.maps.shape[2])
    theirs, maps = evidence.maps[donors], evidence.maps[:count]
    donor_cells = draw_cells(theirs, settings.temperature, batch.uniform[:, 0])
    part = evidence.features.flatten(2)[donors, :, donor_cells]
    cells, similarity = match_cells(evidence.features[:count], maps, part, settings.support)
    extents = square_sides(batch.lam, settings.area, side)
    box_reference = around(cells, grid, extents, side)
    box_donor = around(donor_cells, grid, extents, side)

    share = area(box_reference, side)
    weights = weighed(settings.label, share, 1 - mass(maps, box_reference, side), mass(theirs, box_donor, side))
    mixed = paste(images, donors, box_reference, box_donor)
    return Mixed(mixed, donors, *weights, box_reference, box_donor, similarity)
