"""A row of the ablation in params.yaml: what it mixes, how it labels, which loss it adds."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

from lapml import own
from lapml.sections import TUNED, Count, Distance, NonNegative, OpenShare, Positive, Section, Share, Text

Maps = Literal["recent", "fresh"]  # of the image's last visits (bank.py) | of a forward pass of their own
READING = "a params file"  # validation context: keys are a user's, not the record of a run
LABELS = ("area", "semantic", "snapmix")


class Mix(Section):
    prob: Share  # of a batch being mixed
    warmup_epochs: Annotated[int, Field(ge=0)]  # epochs without mixing: a fresh head localises nothing


class Mixer(Section):
    """What training asks of a mixer's settings; each mixer has a file of its own in lapml/mixing/."""

    second: ClassVar[bool] = False  # it takes the draws of a second box

    def needs(self) -> str | None:
        """What of the clean images it mixes by: ``recent`` or ``fresh`` class maps, ``scores``, ``attention``, ``truth``."""
        return getattr(self, "maps", None)

    def labels(self) -> tuple[str, ...]:
        """Rules that it may be labelled by; none where it has its own."""
        return ()


class Mixup(Mixer):
    name: Literal["mixup"]
    beta: Positive


class Cutout(Mixer):
    name: Literal["cutout"]
    side: OpenShare  # of the square, share of the image's side


class CutMix(Mixer):
    name: Literal["cutmix"]
    beta: Positive
    maps: Maps | None  # for a label by what is seen

    def labels(self) -> tuple[str, ...]:
        return LABELS[1:] if self.maps else LABELS[:1]


class SnapMix(Mixer):
    name: Literal["snapmix"]
    beta: Positive
    same_class: Literal["official", "single"]  # weights of a pair of one class: twice their sum | once
    second: ClassVar[bool] = True

    def needs(self) -> str:
        return "scores"


class AttentiveCutMix(Mixer):
    name: Literal["attentive_cutmix"]
    cells: OpenShare  # share of the map's cells that is pasted

    def needs(self) -> str:
        return "attention"


class _Patch(Mixer):
    beta: Positive
    area: Annotated[list[OpenShare], Field(min_length=2, max_length=2)]

    def labels(self) -> tuple[str, ...]:
        return LABELS

    @model_validator(mode="after")
    def _area(self) -> Self:
        if self.area[0] > self.area[1]:
            raise ValueError(f"area: found {self.area}, expected [a_min, a_max] with a_min <= a_max")
        return self


class Localized(_Patch):
    name: Literal["localized"]
    temperature: Positive
    support: Share
    maps: Maps


class Oracle(_Patch):
    name: Literal["oracle"]

    def needs(self) -> str:
        return "truth"


class Own(Mixer):
    """A user's own mixer: every key beyond these is an argument of its function, see docs/methods.md."""

    model_config = ConfigDict(extra="allow")
    name: Text  # dotted path of the function, or an entry point of group lapml.mixers
    beta: Positive = 1.0
    maps: Literal["recent", "fresh", "truth"] | None = None
    sha256: str  # of the file that holds the function; filled in when params are read
    second: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _looked_up(cls, keys: Any, info: ValidationInfo) -> Any:
        return own.looked_up(keys, "lapml.mixers", ("name", "beta", "maps"), info.context == READING, tuple(BUILT_IN))


class OwnLoss(Section):
    """A user's own loss, added to the row's with a weight; every key beyond these is an argument of its function."""

    model_config = ConfigDict(extra="allow")
    name: Text  # dotted path of the function, or an entry point of group lapml.losses
    alpha: NonNegative  # its weight
    reference: bool = False  # it takes the clean images' embeddings: another forward pass where a batch is mixed
    sha256: str  # as above

    @model_validator(mode="before")
    @classmethod
    def _looked_up(cls, keys: Any, info: ValidationInfo) -> Any:
        return own.looked_up(keys, "lapml.losses", ("name", "alpha", "reference"), info.context == READING)


BUILT_IN = {
    "mixup": Mixup,
    "cutout": Cutout,
    "cutmix": CutMix,
    "snapmix": SnapMix,
    "attentive_cutmix": AttentiveCutMix,
    "localized": Localized,
    "oracle": Oracle,
}


def _kind(keys: Any) -> str:
    """By a mixer's name: the model that its keys are checked against."""
    name = keys.get("name") if isinstance(keys, dict) else getattr(keys, "name", None)
    return name if isinstance(name, str) and name in BUILT_IN else "own"


AnyMixer = Annotated[
    Annotated[Mixup, Tag("mixup")]
    | Annotated[Cutout, Tag("cutout")]
    | Annotated[CutMix, Tag("cutmix")]
    | Annotated[SnapMix, Tag("snapmix")]
    | Annotated[AttentiveCutMix, Tag("attentive_cutmix")]
    | Annotated[Localized, Tag("localized")]
    | Annotated[Oracle, Tag("oracle")]
    | Annotated[Own, Tag("own")],
    Discriminator(_kind),
]


class Margin(Section):
    m: Distance | TUNED
    alpha: NonNegative | TUNED
    positive: Distance  # m+, for donors of the same class
    scale: Literal["constant", "share"]
    reference: Literal["detached", "joint"]
    every: Count  # the losses are taken of every n-th mixed batch


class Adaptive(Section):
    delta: Distance | TUNED
    quantile: Annotated[float, Field(ge=0, lt=1)] | TUNED


class RowOverrides(Section):
    """Keys of other sections that differ for one row, at any depth; they come after those of the data set."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    view: dict[str, Any] = {}


class Method(Section):
    """A row of the ablation: what it mixes, how it labels, which loss it adds, and in what its recipe differs."""

    mix: Mix | None = None
    mixer: AnyMixer | None = None
    label: Literal["area", "semantic", "snapmix"] | None = None
    margin: Margin | None = None
    adaptive: Adaptive | None = None
    loss: OwnLoss | None = None
    overrides: RowOverrides | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mix is None) != (self.mixer is None):
            raise ValueError("mix and mixer go together: give both, or none for a row that does not mix")
        allowed = self.mixer.labels() if self.mixer else ()
        if self.label not in (allowed or (None,)):
            raise ValueError(f"label: found {self.label!r}, {self._labelled_by(allowed)}")
        if self.margin and (self.mixer is None or isinstance(self.mixer, Cutout)):
            raise ValueError("margin: needs a mixer that shows something of a donor")
        if self.adaptive and not self.margin:
            raise ValueError("adaptive: needs a margin section: it adds a term to that loss")
        if self.adaptive and not isinstance(self.mixer, Localized | Oracle | Own):
            raise ValueError(
                "adaptive: needs mixer.name 'localized' (or oracle, or a mixer of your own), which finds similar parts"
            )
        if self.margin and self.margin.reference == "joint":
            if self.mixer.needs() != "fresh":
                raise ValueError(
                    f"mixer.maps: found {self.mixer.needs()!r}, expected 'fresh' with margin.reference 'joint', whose pass "
                    "localises"
                )
            if self.margin.every != 1:
                raise ValueError(
                    f"margin.every: found {self.margin.every}, expected 1 with margin.reference 'joint', whose pass embeds all"
                )
        return self

    def _labelled_by(self, allowed: tuple[str, ...]) -> str:
        if not allowed:
            return "expected no label: " + (
                "this mixer has its own rule" if self.mixer else "a row without a mixer has none"
            )
        expected = "expected " + (allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}")
        if isinstance(self.mixer, CutMix):
            expected += f" with mixer.maps {self.mixer.maps or 'null'}"
        return expected

    def unresolved(self) -> list[str]:
        """Keys that still say 'tuned', as ``margin.m``."""
        parts = {"margin": self.margin, "adaptive": self.adaptive}
        return [
            f"{part}.{key}" for part, section in parts.items() if section for key, value in section if value == "tuned"
        ]

    def open_names(self) -> list[str]:
        """The same keys by the names that a tuned file has for them, as ``m``."""
        return [key.partition(".")[2] for key in self.unresolved()]

    def always_mixing(self, after: int = 0) -> Self:
        """The same row, mixing every batch once ``after`` epochs are over: for benchmarks, pictures and smoke runs."""
        if not self.mix:
            return self
        return self.model_copy(update={"mix": self.mix.model_copy(update={"prob": 1.0, "warmup_epochs": after})})
