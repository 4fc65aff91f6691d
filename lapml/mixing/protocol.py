"""What a mixer is: settings, and a function ``mix(batch, evidence, settings) -> Mixed``.

A mixer's file holds both, by these names: the class ``Settings``, a :class:`Mixer`, and the function ``mix``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, Field, PrivateAttr

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import OpenShare, Positive, Section
from lapml.mixing.maps import normalised

if TYPE_CHECKING:
    from torch import Generator, device

Maps = Literal["recent", "fresh"]  # of the image's last visits (bank.py) | of a forward pass of their own
Found = Literal["objects", "activation"]  # before training: object maps | class maps of the frozen ImageNet classifier
LABELS = {  # rules by which a mixed image may be labelled, see boxes.weighed
    "area": "labelled by area",
    "semantic": "labelled by what is seen",
    "snapmix": "weights by what is seen",
}
FIELDS = {  # what a mixer may ask for: the fields of Evidence that it is then given
    "recent": ("maps", "features"),
    "fresh": ("maps", "features"),
    "scores": ("scores",),
    "attention": ("attention",),
    "truth": ("truth",),
    "objects": ("objects",),
    "parts": ("part_maps", "part_descriptors"),
    "activation": ("activation",),
}


@dataclass(frozen=True)
class Draws:
    """A batch to be mixed, and every random number of it. B images are references; those after them, if any, are donors only."""

    images: Tensor  # (≥ B, 3, H, H) normalised, the references first
    labels: Tensor  # (≥ B,) int64
    donors: Tensor  # (B,) int64, the position of each reference's donor, never its own
    lam: Tensor  # (B,) λ ~ Beta(α, α)
    uniform: Tensor  # (B, Mixer.uniform) in [0, 1)
    second: Tensor | None = None  # (B, 3) another λ, and two uniform numbers more, where Mixer.second

    @property
    def count(self) -> int:
        """B."""
        return len(self.donors)


def draws(
    images: Tensor,
    labels: Tensor,
    donors: Tensor | None = None,
    alpha: float = 1.0,
    uniform: int = 2,
    generator: "Generator | None" = None,
) -> Draws:
    """Draw whatever a mixer takes, for a batch of tensors; numbers are drawn on the host, so that no device is waited for.

    Args:
        images: (≥ B, 3, H, H) normalised.
        labels: (≥ B,) int64.
        donors: (B,) int64 positions of the donors; left out, a random cycle through the batch, so that no image is its own.
        alpha: of λ ~ Beta(α, α).
        uniform: columns of uniform numbers, see :attr:`Mixer.uniform`.
        generator: of the CPU; left out, torch's own, which ``torch.manual_seed`` seeds.
    """
    import numpy as np  # for its beta distribution, which torch cannot draw from a generator; not needed to read settings

    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    rng, device = np.random.default_rng(seed), images.device
    if donors is None:
        order = rng.permutation(len(images))
        cycle = np.empty_like(order)
        cycle[order] = np.roll(order, 1)
        donors = torch.from_numpy(cycle).to(device, non_blocking=True)
    count = len(donors)
    lam, second_lam = rng.beta(alpha, alpha, (2, count))
    second = np.column_stack([second_lam, rng.random((count, 2))])
    drawn = (
        torch.from_numpy(each).float().to(device, non_blocking=True)
        for each in (lam, rng.random((count, uniform)), second)
    )
    return Draws(images, labels, donors, *drawn)


class Truth(NamedTuple):
    """What a data set itself says of N views of ``side`` pixels."""

    boxes: Tensor  # (N, 4) x0, y0, x1, y1 in pixels, clipped to the view; empty where the object is outside
    parts: Tensor  # (N, P ≥ 1, 3) x and y in pixels, and 1 where the part is seen in the view, else 0

    def to(self, place: "device") -> Self:
        """The same on another device."""
        return type(self)(*(each.to(place, non_blocking=True) for each in self))


@dataclass(frozen=True)
class Evidence:
    """What the mixer asks for of a batch's images, beside their pixels."""

    maps: Tensor | None = None  # (≥ B, h, w) class activation maps that sum to 1
    features: Tensor | None = None  # (≥ B, C, h, w) by which places are compared
    scores: Tensor | None = None  # (≥ B, H, H) SnapMix's semantic percentage maps
    attention: Tensor | None = None  # (≥ B, h, w) mean feature maps of the model as it was before training
    truth: Truth | None = None  # the data set's own boxes and parts
    objects: Tensor | None = None  # (≥ B, h, w) where the object is, by maps made before training; they sum to 1
    part_maps: Tensor | None = None  # (≥ B, K, h, w) where each of its parts is; 1 is strong
    part_descriptors: Tensor | None = None  # (≥ B, K, D) what each looks like, unit vectors; 0 where it is nowhere
    activation: Tensor | None = None  # (≥ B, h, w) class maps of the frozen ImageNet classifier that sum to 1

    def seen(self, maps: Maps | Found, grid: tuple[int, int] | None = None) -> Tensor:
        """(≥ B, h, w) the maps that a mixer's key ``maps`` names; they sum to 1, and are uniform where they say nothing.

        Args:
            grid: (h, w) that maps made before training are averaged to; None leaves theirs.
        """
        if maps not in get_args(Found):
            assert self.maps is not None
            return self.maps
        found = getattr(self, maps)
        if grid:
            found = torch.nn.functional.adaptive_avg_pool2d(found[:, None], grid)[:, 0]
        return normalised(found)


class Mixer(Section):
    """A mixer's settings: its fields are its keys in params.yaml. What it declares of itself:"""

    summary: ClassVar[str] = ""  # how it mixes, in one line for the gallery
    asks: ClassVar[tuple[str, ...]] = ()  # keys of FIELDS; for class maps give it a field ``maps: Maps`` instead
    rules: ClassVar[tuple[str, ...]] = ()  # keys of LABELS that it takes; none where it has a rule of its own
    shows_donor: ClassVar[bool] = True  # in its images: the margin losses can be taken
    finds_similar: ClassVar[bool] = False  # its Mixed has the parts' similarity: the adaptive margin can be taken
    uniform: ClassVar[int] = 2  # numbers that it draws for each image; mixers that draw as many are given the same ones
    second: ClassVar[bool] = False  # it takes the draws of a second box too
    attends: ClassVar[bool] = False  # its label is by what the model's class token attends to in the mixed image

    if TYPE_CHECKING:
        name: str  # a field of every mixer that params.yaml can name; a custom mixer's own model has none

    _label: str | None = PrivateAttr(None)

    @property
    def label(self) -> str | None:
        """The rule that it labels by, one of :attr:`rules`; in params.yaml it stands beside the mixer."""
        return self._label

    def labelled(self, label: str | None) -> Self:
        """The same settings with a label rule."""
        copy = self.model_copy()
        copy._label = label
        return copy

    def needs(self) -> tuple[str, ...]:
        """The evidence that it asks for, keys of :data:`FIELDS`."""
        maps = getattr(self, "maps", None)
        return (maps, *self.asks) if maps else self.asks

    def freshly(self) -> Self:
        """The same by a forward pass of its own, where it asks for what was seen at the images' last visits."""
        return self.model_copy(update={"maps": "fresh"}) if "recent" in self.needs() else self

    def shown(self, evidence: Evidence) -> Tensor | None:
        """(≥ B, h, w) the map to show beside a picture, if it goes by one (maps of parts are several)."""
        fields = [FIELDS[need][0] for need in self.needs() if need not in ("truth", "parts")]
        return getattr(evidence, fields[0]) if fields else None

    def labels(self) -> tuple[str, ...]:
        """The label rules that these settings allow."""
        return self.rules

    def allowed(self) -> str:
        """The same in words, with the key that they depend on where they do."""
        labels = self.labels()
        if not labels:
            return "no label: this mixer has its own rule"
        return labels[0] if len(labels) == 1 else f"one of {', '.join(labels)}"

    def describe(self, label: str | None) -> str:
        """How it mixes and labels, in one line."""
        return f"{self.summary}, {LABELS[label]}" if label else self.summary


def _ascending(area: list[float]) -> list[float]:
    if area[0] > area[1]:
        raise ValueError(f"found {area}, expected [a_min, a_max] with a_min <= a_max")
    return area


Area = Annotated[list[OpenShare], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Patch(Mixer):
    """The common settings of mixers that paste a square patch of a part over a similar one."""

    alpha: Positive
    area: Area  # of the patch: clip(1 − λ, a_min, a_max), a share of the image

    rules = tuple(LABELS)
    finds_similar = True
