"""The same training views mixed by every mixer of a suite, by a trained net's maps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lapml import methods
from lapml.config import Method, Params, Run
from lapml.data import views
from lapml.data.batches import Batch, Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.data.truth import Annotations
from lapml.diagnose.metrics import Scene, box_pixels
from lapml.errors import LapmlError
from lapml.methods import Reference
from lapml.mixing.boxes import Mixed
from lapml.model import Net, build
from lapml.optim import DTYPES
from lapml.rows import AttentiveCutMix, Localized

RANDOM = "random places"  # the control: squares of localized CutMix's sizes anywhere
EPOCH = 10**6  # of the random draws: no epoch of training uses them


def distinct(params: Params, annotated: bool = True) -> dict[str, Method]:
    """The rows that mix, each way of mixing once, mixing every batch by maps of a pass of their own.

    Args:
        params: of one data set.
        annotated: the data have boxes; without, rows that mix by them are left out, as are those that attend by a
            pretrained net where there is none.
    """
    rows: dict[str, Method] = {}
    lacking = {"truth": not annotated, "attention": params.model.weights == "none"}
    for name, method in params.methods.items():
        if method.mixer is None or lacking.get(method.mixer.needs()):
            continue
        plain = method.always_mixing().model_copy(update={"margin": None, "adaptive": None, "loss": None})
        plain = freshly(plain)
        if plain not in rows.values():
            rows[name] = plain
    return rows


def freshly(method: Method) -> Method:
    """The same row by maps of a pass of their own: a finished run keeps no bank."""
    if method.mixer is None or method.mixer.needs() != "recent":
        return method
    return method.model_copy(update={"mixer": method.mixer.model_copy(update={"maps": "fresh"})})


def control(rows: dict[str, Method]) -> dict[str, Method]:
    """The row :data:`RANDOM`, if any mixes by localisation, to stand beside it."""
    localized = next((method for method in rows.values() if isinstance(method.mixer, Localized)), None)
    return {RANDOM: localized.model_copy(update={"label": "area"})} if localized else {}


class Mixes:
    """Batches of training views, and what each mixer makes of them.

    Args:
        config: of the run whose net gives the maps; it says which images, views and draws.
        net: on its device, in evaluation mode; weights: the record of its input.
        rows: {name: settings that always mix}, see :func:`distinct`.
        masks: (N, S, S) uint8 of all images of the index, or None.
        annotations: or None, where the data have no boxes: then there are no scenes.
    """

    def __init__(
        self,
        config: Run,
        net: Net,
        weights: dict,
        packed: Packed,
        rows: dict[str, Method],
        masks: np.ndarray | None = None,
        annotations: Annotations | None = None,
        precision: str = "fp32",
    ):
        self.config, self.net, self.rows, self.masks, self.annotations = config, net, rows, masks, annotations
        self.device = next(net.parameters()).device
        chosen = rows_of(packed.index, config.fit)
        view, mean, std = config.data.view, weights["mean"], weights["std"]
        self.batches = Batches(packed, chosen, view, mean, std, self.device, DTYPES[precision])
        self.size = min(config.train.batch, len(chosen))
        self.frozen = None
        if any(isinstance(method.mixer, AttentiveCutMix) for method in rows.values()):
            frozen, _ = build(config.model, len(packed.class_names), view.side, config.seed)
            self.frozen = frozen.to(self.device, DTYPES[precision]).eval()

    @torch.no_grad()
    def generate(self, images: int) -> Iterator[tuple[Batch, Scene | None, dict[str, tuple[Mixed, Reference | None]]]]:
        """At least ``images`` generated images of each mixer: (clean batch, what is true of it, {row: (mixed, maps)})."""
        for number in range(-(-images // (self.size * self.batches.steps(self.size)))):
            epochs = [
                self.batches.training(self.config.seed, EPOCH + number, self.size, method)
                for method in self.rows.values()
            ]
            for each in zip(*epochs, strict=True):
                known: dict[str, Reference] = {}
                made = {}
                for (name, method), batch in zip(self.rows.items(), each, strict=True):
                    seen, needs = None, method.mixer.needs()
                    if name == RANDOM:
                        seen = self._nothing(known["fresh"], number, batch.rows)
                    elif needs in ("fresh", "scores", "attention"):
                        if needs not in known:
                            known[needs] = methods.reference(self.net, method, batch, self.net, self.frozen)[0]
                        seen = known[needs]
                    made[name] = methods.mix(method, batch, seen), seen
                yield each[0], self._scene(each[0]), made
                images -= self.size
                if images <= 0:
                    return

    def maps(self, batch: Batch) -> Tensor:
        """(B, h, w) class maps of the images' own classes."""
        plain = Method.model_validate(LOCALISING)
        return methods.reference(self.net, plain, batch, self.net)[0].maps

    def _nothing(self, like: Reference, number: int, rows: np.ndarray) -> Reference:
        """Maps and parts by which every cell is as likely as any other."""
        generator = torch.Generator().manual_seed(int(rows[0]) + 10**6 * number)
        parts = torch.randn(like.parts.shape, generator=generator).to(like.parts.device)
        return Reference(torch.full_like(like.maps, 1 / like.maps[0].numel()), parts)

    def _scene(self, batch: Batch) -> Scene | None:
        if self.annotations is None:
            return None
        side = batch.images.shape[-1]
        truth = self.annotations.seen(batch.rows, batch.windows.double().cpu().numpy(), side)
        truth = type(truth)(*(each.to(self.device) for each in truth))
        objects = box_pixels(truth.boxes, side)
        if self.masks is not None:
            stored = torch.from_numpy(self.masks[batch.rows]).to(self.device)
            objects = views.cut(stored[..., None], batch.windows, side)[:, 0] > 127.5
        return Scene(truth, objects, self.masks is not None, batch.labels)


LOCALISING = {
    "mix": {"prob": 1.0, "warmup_epochs": 0},
    "mixer": {"name": "cutmix", "beta": 1.0, "maps": "fresh"},
    "label": "semantic",
}


def read_masks(root: Path, packed: Packed) -> np.ndarray | None:
    """The masks of a data set as squares like its packed images, (N, S, S) uint8; None where it has none.

    They lie as CUB-200-2011's do: ``segmentations/CLASS/NAME.png`` for ``images/CLASS/NAME.…``, 255 on the object.

    Raises:
        LapmlError: some images have a mask and one has not.
    """
    folder, side = root / "segmentations", packed.meta["side"]
    if not folder.is_dir():
        return None
    masks = np.empty((len(packed.index), side, side), np.uint8)
    for row, path in enumerate(packed.index["path"]):
        file = (folder / path).with_suffix(".png")
        try:
            with Image.open(file) as mask:
                masks[row] = np.asarray(mask.convert("L").resize((side, side), Image.Resampling.BOX))
        except OSError as error:
            raise LapmlError(
                f"{file}: cannot be read ({error.strerror or error}), expected a mask for every image; lay all masks out, or "
                f"move {folder} away to be measured by boxes"
            ) from None
    return masks
