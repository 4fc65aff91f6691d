"""Part localization-aware CutMix: our reading of stage 1 of Kim, Kim and Byun (IEEE Access 2021); see method.md."""

from torch import Tensor

from lapml.localize import draw_cells, match_cells
from lapml.mixing.boxes import Mixed, area, around, mass, paste, square_sides, weighed
from lapml.rows import Localized


def mix(
    images: Tensor,
    donors: Tensor,
    maps: Tensor,
    features: Tensor,
    lam: Tensor,
    uniform: Tensor,
    settings: Localized,
    label: str,
) -> Mixed:
    """Replace the part of each reference that looks most like a part drawn from its donor.

    Args:
        images: (≥ B, 3, H, H), the references first; some of the others may be donors only.
        donors: (B,) int64, no image its own.
        maps: (≥ B, h, w) class activation maps that sum to 1.
        features: (≥ B, C, h, w) by which parts are compared.
        lam: (B,) λ ~ Beta(β, β); the patch's area is clip(1 − λ, a_min, a_max).
        uniform: (B, ≥ 1) in [0, 1), for the donor's part.
        settings: area range, temperature and support.
        label: a rule of :func:`~lapml.mixing.boxes.weighed`.
    """
    side, grid = images.shape[-1], (maps.shape[1], maps.shape[2])
    theirs, count = maps[donors], len(donors)
    donor_cells = draw_cells(theirs, settings.temperature, uniform[:, 0])
    part = features.flatten(2)[donors, :, donor_cells]
    maps, features = maps[:count], features[:count]
    cells, similarity = match_cells(features, maps, part, settings.support)
    extents = square_sides(lam, settings.area, side)
    box_reference = around(cells, grid, extents, side)
    box_donor = around(donor_cells, grid, extents, side)

    share = area(box_reference, side)
    weights = weighed(label, share, 1 - mass(maps, box_reference, side), mass(theirs, box_donor, side))
    mixed = paste(images, donors, box_reference, box_donor)
    return Mixed(mixed, donors, *weights, box_reference, box_donor, similarity)
