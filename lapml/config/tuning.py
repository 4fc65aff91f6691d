"""The section `tune`: what is searched, and how."""

import math
from typing import Annotated, Any, ClassVar, Self

from pydantic import Discriminator, Field, Tag, model_validator

from lapml.common.recorded import Value
from lapml.common.sections import FARTHEST, LATER, Count, Name, Section, Seed

MARGIN, ADAPTIVE = "margin", "adaptive_margin"  # the methods whose margins are tuned, in this order


class Range(Section):
    low: float
    high: float
    log: bool = False
    quantile: Annotated[bool, LATER] = False  # of the distances that occur without margin losses: for m and delta

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.quantile and (self.log or self.low < 0 or self.high > 1):
            raise ValueError(f"found {self.low}..{self.high}, expected within 0..1, and no log, with quantile: true")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"found {self.low}..{self.high}, expected low < high, and low > 0 if log")
        return self

    def tried(self) -> list[Value]:
        """Its ends; whole numbers as such, for settings that take no others."""
        return [int(end) if end.is_integer() else end for end in (self.low, self.high)]

    def fits(self, value: Value) -> bool:
        """Whether a record may have this value: a number, of distance where quantiles were drawn."""
        return isinstance(value, int | float) and not isinstance(value, bool)


class Choices(Section):
    quantile: ClassVar[bool] = False  # as of a range

    choices: Annotated[list[Value], Field(min_length=2)]

    def tried(self) -> list[Value]:
        """All of them."""
        return self.choices

    def fits(self, value: Value) -> bool:
        """Whether it is one of them."""
        return value in self.choices


def _kind(given: Any) -> str:
    """The tag of a union's member: no key has such a name, for reading.py tells tags from keys by it."""
    return "a choice" if isinstance(given, Choices) or (isinstance(given, dict) and "choices" in given) else "a range"


Searched = Annotated[
    Annotated[Range, Tag("a range")] | Annotated[Choices, Tag("a choice")], Discriminator(_kind)
]  # of a setting


class Space(Section):
    """Margins that are searched; every value of a range must be one that the method's own setting allows."""

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        bounds = {"m": (0, FARTHEST), "weight": (0, math.inf), "delta": (0, FARTHEST), "quantile": (0, 1)}
        for name, each in self:
            low, high = bounds[name]
            if each.quantile and name not in ("m", "delta"):
                raise ValueError(f"{name}.quantile: found true, expected false: it is no distance")
            if each.low < low or each.high > high or (name == "quantile" and each.high == high):
                raise ValueError(f"{name}: found {each.low}..{each.high}, expected within {low}..{high:.4g}")
        return self


class MarginSpace(Space):
    m: Range
    weight: Range


class AdaptiveSpace(Space):
    delta: Range
    quantile: Range


Url = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+]*://")]  # of a database, such as postgresql://USER@HOST/DATABASE


class Tune(Section):
    trials: Count  # for each tuned method; more of them go on with its study
    seeds: Annotated[list[Seed], Field(min_length=1)]  # a trial's score is the mean over them
    epochs: Count
    prune: Annotated[bool, LATER] = False  # trials that stay below the median of those before
    storage: Annotated[Url | None, LATER] = None  # of the database that workers share; None: an SQLite file in results/
    margin: MarginSpace
    adaptive_margin: AdaptiveSpace
    methods: Annotated[dict[Name, Annotated[dict[str, Searched], Field(min_length=1)]], LATER] = {}  # such as train.lr

    def ranges(self, method: str) -> dict[str, Range | Choices]:
        """What is searched of a method: margins by their names, other settings by their paths."""
        margins = {MARGIN: self.margin, ADAPTIVE: self.adaptive_margin}.get(method, ())
        return {**dict(margins), **self.methods.get(method, {})}
