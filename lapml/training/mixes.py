"""The same training views mixed by every mixer of a suite, by the maps of a trained model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lapml import mixing
from lapml.config import Method, Params, Run
from lapml.config.method import LOCALISED
from lapml.data import views
from lapml.data.batches import Batch, Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.data.truth import Annotations, Scene
from lapml.localise.evidence import stored
from lapml.mixing import Evidence, Mixed, localized
from lapml.mixing.boxes import inside
from lapml.models.attention import refuse_without_class_token
from lapml.models.device import DTYPES
from lapml.models.model import Classifier, build
from lapml.training import methods

if TYPE_CHECKING:
    from lapml.localise.store import Localised

RANDOM = "random places"  # the control: squares of localized CutMix's sizes anywhere
EPOCH = 10**6  # of the random draws: no epoch of training uses them
# Gives views and class maps, whatever the methods.
DRIVER = Method.model_validate(
    {
        "mix": {"prob": 1.0, "warmup_epochs": 0},
        "mixer": {"name": "cutmix", "alpha": 1.0, "maps": "fresh"},
        "label": "semantic",
    }
)


def distinct(params: Params, annotated: bool = True, localised: bool = False) -> dict[str, Method]:
    """The methods that mix, each way of mixing once, mixing every batch by fresh maps, with the common recipe.

    Args:
        params: of one data set.
        annotated: the data have boxes; without, methods that mix by them are left out, as are those that need a
            pretrained model if there is none.
        localised: the data have object and part maps; without, methods that mix by them are left out.
    """
    found: dict[str, Method] = {}
    plainly = sorted(
        params.methods.items(), key=lambda item: bool(item[1].margin or item[1].loss)
    )  # these give the name
    absent = {
        "truth": not annotated,
        "attention": params.model.weights == "none",
        **dict.fromkeys(LOCALISED, not localised),
    }
    lacking = {need for need, missing in absent.items() if missing}
    for name, method in plainly:
        if method.mixer is None or lacking & set(method.mixer.needs()):
            continue
        plain = method.always_mixing().model_copy(
            update={"margin": None, "adaptive": None, "loss": None, "overrides": None}
        )
        plain = freshly(plain)
        if plain not in found.values():
            found[name] = plain
    return {name: found[name] for name in params.methods if name in found}


def freshly(method: Method) -> Method:
    """The same method by maps and features of a forward pass of their own, since a finished run has no bank."""
    return method.model_copy(update={"mixer": method.mixer.freshly()}) if method.mixer else method


def control(methods: dict[str, Method]) -> dict[str, Method]:
    """The method :data:`RANDOM`, if any method mixes by localized CutMix."""
    for method in methods.values():
        if isinstance(keys := method.mixer, localized.Settings):
            mixer = mixing.mixer("random", "area", alpha=keys.alpha, area=keys.area, maps=None)
            return {RANDOM: method.model_copy(update={"mixer": mixer, "label": "area"})}
    return {}


class Made(NamedTuple):
    mixed: Mixed
    evidence: Evidence  # by which it was mixed


class Mixes:
    """Batches of training views, mixed by each mixer.

    Args:
        config: of the run whose model gives the maps; it sets images, views and draws.
        model: on its device, in evaluation mode; weights: the record of its input.
        mixing: {name: settings that always mix}, see :func:`distinct`.
        masks: (N, S, S) uint8 of all images of the index, or None.
        annotations: None if the data have no boxes; there are then no scenes.
        maps: what the stage `localise` found, or None if no method mixes by it.
    """

    def __init__(
        self,
        config: Run,
        model: Classifier,
        weights: dict,
        packed: Packed,
        mixing: dict[str, Method],
        masks: np.ndarray | None = None,
        annotations: Annotations | None = None,
        precision: str = "fp32",
        maps: "Localised | None" = None,
    ):
        self.config, self.model, self.methods, self.masks, self.annotations = config, model, mixing, masks, annotations
        self.device = next(model.parameters()).device
        chosen = rows_of(packed.index, config.fit)
        view, mean, std = config.data.view, weights["mean"], weights["std"]
        self.batches = Batches(packed, chosen, view, mean, std, self.device, DTYPES[precision])
        self.size = min(config.train.batch, len(chosen))
        for method in mixing.values():
            if method.mixer is not None and method.mixer.attends:
                refuse_without_class_token(model, config.model.name, method.mixer.name)
        needs = {need for method in mixing.values() for need in method.needs()}
        self.stored = {} if maps is None else stored(maps, needs, len(packed.index), self.device)
        self.frozen = None
        if "attention" in needs:
            frozen, _ = build(config.model, len(packed.class_names), view.side, config.seed)
            self.frozen = frozen.to(self.device, DTYPES[precision]).eval()

    @torch.no_grad()
    def generate(self, images: int) -> Iterator[tuple[Batch, Scene | None, dict[str, Made], Tensor]]:
        """At least ``images`` generated images of each mixer, by batches.

        Yields:
            (clean batch, what is true of it, {method: its mixed batch}, (B, h, w) class maps of its images' own classes).
        """
        for number in range(-(-images // (self.size * self.batches.steps(self.size)))):
            epochs = [
                self.batches.training(self.config.seed, EPOCH + number, self.size, method)
                for method in (DRIVER, *self.methods.values())
            ]
            for clean, *each in zip(*epochs, strict=True):
                maps = methods.reference(self.model, DRIVER, clean, self.model)[0].evidence
                assert maps.maps is not None
                evidence = {DRIVER.needs(): maps}
                made: dict[str, Made] = {}
                for (name, method), batch in zip(self.methods.items(), each, strict=True):
                    needs = method.needs()
                    if needs not in evidence:
                        asked = methods.reference(self.model, method, batch, self.model, self.frozen, self.stored)
                        evidence[needs] = asked[0].evidence
                    made[name] = Made(methods.mix(method, batch, evidence[needs], self.model), evidence[needs])
                yield clean, self._scene(clean), made, maps.maps
                images -= self.size
                if images <= 0:
                    return

    def _scene(self, batch: Batch) -> Scene | None:
        if self.annotations is None:
            return None
        side = batch.images.shape[-1]
        truth = self.annotations.seen(batch.rows, batch.windows.double().cpu().numpy(), side).to(self.device)
        objects = inside(truth.boxes - 0.5, side)  # pixels whose centre lies in the box
        if self.masks is not None:
            stored = torch.from_numpy(self.masks[batch.rows]).to(self.device)
            objects = views.cut(stored[..., None], batch.windows, side)[:, 0] > 127.5
        return Scene(truth, objects, self.masks is not None, batch.labels)
