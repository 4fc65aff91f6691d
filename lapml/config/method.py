"""A method in params.yaml: what it mixes, how it labels, which loss it adds."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PlainValidator, SerializeAsAny, ValidationInfo, model_validator

from lapml import mixing
from lapml.common import custom
from lapml.common.sections import LATER, TUNED, Count, Distance, NonNegative, Section, Share, Text
from lapml.mixing import Mixer
from lapml.mixing.custom import Custom

LOCALISED = ("objects", "parts", "activation")  # maps that the stage `localise` makes
READING = "a params file"  # validation context: a user's keys, not the record of a run


class Mix(Section):
    prob: Share  # probability that a batch is mixed
    warmup_epochs: Annotated[int, Field(ge=0)]  # first epochs without mixing: a fresh head localises nothing
    cooldown_epochs: Annotated[int, Field(ge=0), LATER] = 0  # last epochs without mixing

    def at_work(self, epoch: int, epochs: int | None) -> bool:
        """Whether batches of an epoch, counted from 0, are mixed in a run of ``epochs`` (None: without end)."""
        return self.warmup_epochs <= epoch and (epochs is None or epoch < epochs - self.cooldown_epochs)


class CustomLoss(Section):
    """A custom loss, added to the method's with a weight; further keys are arguments of its function."""

    model_config = ConfigDict(extra="allow")
    name: Text  # dotted path of the function, or an entry point of group lapml.losses
    weight: NonNegative  # in the whole loss
    reference: bool = False  # takes the clean images' embeddings: another forward pass of a mixed batch
    sha256: str  # of the file that holds the function; filled in when params are read

    @model_validator(mode="before")
    @classmethod
    def _looked_up(cls, keys: Any, info: ValidationInfo) -> Any:
        ours = ("name", "weight", "reference")
        return custom.looked_up(keys, "lapml.losses", custom.arguments_of, ours, info.context == READING)


def _by_name(keys: Any, info: ValidationInfo) -> Mixer:
    return mixing.settings_of(keys, reading=info.context == READING)


AnyMixer = Annotated[SerializeAsAny[Mixer], PlainValidator(_by_name)]  # settings of the mixer ``name``


class Margin(Section):
    m: Distance | TUNED
    weight: NonNegative | TUNED
    pos_margin: Distance  # m+, for donors of the same class
    scale: Literal["constant", "share"]
    reference: Literal["detached", "joint"]
    every: Count  # the losses are taken of every n-th mixed batch


class Adaptive(Section):
    delta: Distance | TUNED
    quantile: Annotated[float, Field(ge=0, lt=1)] | TUNED


class MethodOverrides(Section):
    """Keys of other sections that differ for one method, at any depth; applied after those of the data set."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    view: dict[str, Any] = {}


class Method(Section):
    """A method: what it mixes, how it labels, which loss it adds, and the keys in which its recipe differs."""

    mix: Mix | None = None
    mixer: AnyMixer | None = None
    label: Literal["area", "semantic", "snapmix"] | None = None
    margin: Margin | None = None
    adaptive: Adaptive | None = None
    loss: CustomLoss | None = None
    overrides: MethodOverrides | None = None

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if (self.mix is None) != (self.mixer is None):
            raise ValueError("mix and mixer go together: give both, or none for a method that does not mix")
        if not isinstance(self.mixer, Custom) or info.context == READING:  # a record was checked when it was read
            allowed = self.mixer.labels() if self.mixer else ()
            if self.label not in (allowed or (None,)):
                expected = self.mixer.allowed() if self.mixer else "no label: a method without a mixer has none"
                raise ValueError(f"label: found {self.label!r}, expected {expected}")
            if self.margin and not (self.mixer and self.mixer.shows_donor):
                raise ValueError("margin: needs a mixer that shows something of a donor")
            if self.adaptive and self.margin and not (self.mixer and self.mixer.finds_similar):
                raise ValueError(
                    f"adaptive: needs mixer.name {mixing.names('finds_similar')} (or a custom mixer), which finds similar parts"
                )
        if self.adaptive and not self.margin:
            raise ValueError("adaptive: needs a margin section: it adds a term to that loss")
        if self.margin and self.joint and self.margin.every != 1:
            raise ValueError(
                f"margin.every: found {self.margin.every}, expected 1 with margin.reference 'joint', whose pass embeds all"
            )
        return self

    @property
    def joint(self) -> bool:
        """Whether the model also learns from the clean images of a mixed batch, in a second pass."""
        return self.margin is not None and self.margin.reference == "joint"

    def needs(self) -> tuple[str, ...]:
        """The evidence that its mixer asks for."""
        return self.mixer.needs() if self.mixer else ()

    def annotated(self) -> bool:
        """Whether it mixes by the data set's own boxes and parts."""
        return "truth" in self.needs()

    def localised(self) -> list[str]:
        """The maps of :data:`LOCALISED` that it needs."""
        return [need for need in LOCALISED if need in self.needs()]

    def unresolved(self) -> list[str]:
        """Keys whose value is 'tuned', such as ``margin.m``."""
        parts = {"margin": self.margin, "adaptive": self.adaptive}
        return [
            f"{part}.{key}" for part, section in parts.items() if section for key, value in section if value == "tuned"
        ]

    def open_names(self) -> list[str]:
        """The same keys as in a tuned file, such as ``m``."""
        return [key.partition(".")[2] for key in self.unresolved()]

    def refuse_unmixed(self, name: str, epochs: int, where: str = "") -> None:
        """Check that a method that mixes has epochs to mix in.

        Args:
            name: of the method.
            epochs: of its runs.
            where: whose epochs these are, for the message: `` for DATASET`` where they are not the suite's.

        Raises:
            ValueError: its warm-up and cool-down leave none.
        """
        left = epochs - self.mix.warmup_epochs if self.mix else 0
        if self.mix and left <= self.mix.cooldown_epochs:
            key, most = "warmup_epochs", f"train.epochs{where} ({epochs})"
            if left > 0:
                key, most = (
                    "cooldown_epochs",
                    f"the {left} epochs that {most} leaves after warmup_epochs ({self.mix.warmup_epochs})",
                )
            raise ValueError(
                f"methods.{name}.mix.{key}: found {getattr(self.mix, key)}, expected less than {most}: the method would never mix"
            )

    def always_mixing(self, after: int = 0) -> Self:
        """The same method, mixing every batch from epoch ``after`` to the end: for benchmarks, pictures, smoke runs."""
        if not self.mix:
            return self
        always = {"prob": 1.0, "warmup_epochs": after, "cooldown_epochs": 0}
        return self.model_copy(update={"mix": self.mix.model_copy(update=always)})
