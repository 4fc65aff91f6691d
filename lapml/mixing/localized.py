"""Part localization-aware CutMix: our reading of stage 1 of Kim, Kim and Byun (IEEE Access 2021); see docs/methods.md."""

from typing import Annotated, Literal, Self, get_args

from pydantic import model_validator

from lapml.common.lazy import Tensor
from lapml.common.sections import LATER, Positive, Share
from lapml.mixing.boxes import Mixed, area, around, mass, paste, square_sides, weighed
from lapml.mixing.maps import centred_gaussian, draw_cells, match_cells
from lapml.mixing.protocol import Draws, Evidence, Found, Maps, Patch


class Settings(Patch):
    name: Literal["localized"] = "localized"
    temperature: Positive  # of drawing the donor's part from its map
    support: Share  # the reference's part has at least this share of its map's peak
    maps: Maps | Found | Literal["gaussian"]  # gaussian: a centred one over the view, a control
    features: Annotated[Maps, LATER] = "recent"  # that places are compared by; class maps bring those of their pass

    summary = "a part of the donor over the most similar place"

    @model_validator(mode="after")
    def _features(self) -> Self:
        if self.by_class_maps and self.features != "recent":
            raise ValueError(
                f"features: found {self.features!r}, expected it left out with maps {self.maps!r}: features come with class maps"
            )
        return self

    @property
    def by_class_maps(self) -> bool:
        """Whether it uses class maps of the model in training, not maps made before."""
        return self.maps in get_args(Maps)

    def needs(self) -> tuple[str, ...]:
        if self.by_class_maps:
            return (self.maps,)
        return (self.features,) if self.maps == "gaussian" else (self.maps, self.features)

    def freshly(self) -> Self:
        return super().freshly() if self.by_class_maps else self.model_copy(update={"features": "fresh"})

    def shown(self, evidence: Evidence) -> Tensor | None:
        return _maps(evidence, self)


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Replace the part of each reference that looks most like a part drawn from its donor."""
    images, donors, count = batch.images, batch.donors, batch.count
    features, maps, side = evidence.features, _maps(evidence, settings), images.shape[-1]
    assert features is not None
    grid, theirs, maps = (maps.shape[1], maps.shape[2]), maps[donors], maps[:count]
    donor_cells = draw_cells(theirs, settings.temperature, batch.uniform[:, 0])
    part = features.flatten(2)[donors, :, donor_cells]
    cells, similarity = match_cells(features[:count], maps, part, settings.support)
    extents = square_sides(batch.lam, settings.area, side)
    box_reference = around(cells, grid, extents, side)
    box_donor = around(donor_cells, grid, extents, side)

    share = area(box_reference, side)
    weights = weighed(settings.label, share, 1 - mass(maps, box_reference, side), mass(theirs, box_donor, side))
    mixed = paste(images, donors, box_reference, box_donor)
    return Mixed(mixed, donors, *weights, box_reference, box_donor, similarity)


def _maps(evidence: Evidence, settings: Settings) -> Tensor:
    """(≥ B, h, w) on the grid of the features."""
    assert evidence.features is not None
    if settings.maps == "gaussian":
        return centred_gaussian(evidence.features)
    return evidence.seen(settings.maps, (evidence.features.shape[2], evidence.features.shape[3]))
