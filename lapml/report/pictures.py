"""Pictures of the data for the report: mixed images and class maps of each method."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lapml.config import Params, Run
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.localise.evidence import opened
from lapml.localise.sheet import draw_sheet
from lapml.mixing.maps import class_maps
from lapml.models.model import Classifier
from lapml.paths import Paths
from lapml.runs.execute import load_model, resolved
from lapml.runs.folder import kept, open_run
from lapml.training.mixes import Mixes, freshly

if TYPE_CHECKING:
    from lapml.localise.store import Localised

Galleries = tuple[list[dict[str, Any]], list[dict[str, Any]], bytes | None]
MIXED_SHOWN, CAMS_SHOWN = 3, 6  # pictures of each method
FOUND_SHOWN = 8  # images whose objects and parts are shown


def galleries(params: Params, paths: Paths) -> Callable[[str], Galleries]:
    """A function of a data set's name that gives (gallery items, CAM items) of the first seed's runs, and the contact sheet
    (PNG) of objects and parts if a method mixes by them.

    Every method mixes the same references with the same donors, by its own model's maps. Runs taken over without weights have
    no picture.
    """

    def of(dataset: str) -> Galleries:
        packed = Packed.open(paths.pack(dataset))
        mixed, cams, sheet = [], [], None
        for method in params.all_methods():
            folder = paths.run(dataset, method, params.seeds[0])
            if not kept(folder / "model.safetensors"):
                continue
            open_run(folder)
            config = resolved(params, paths, dataset, method, params.seeds[0])
            model, weights = load_model(folder, config, len(packed.class_names))
            if config.settings.mixer:
                maps = opened(config, paths, packed)
                mixed += _mixed(model, weights, packed, config, maps)
                if maps is not None and sheet is None:
                    sheet = draw_sheet(dataset, paths, FOUND_SHOWN)
            cams += _cams(model, weights, packed, config)
        return mixed, cams, sheet

    return of


def _mixed(
    model: Classifier, weights: dict[str, Any], packed: Packed, config: Run, maps: "Localised | None"
) -> list[dict[str, Any]]:
    """Mixed training images of this method, by the maps of the finished model."""
    method = freshly(config.settings.always_mixing())
    mixes = Mixes(config, model, weights, packed, {config.method: method}, maps=maps)
    batch, _, made, _ = next(mixes.generate(1))
    mixed, evidence = made[config.method]
    field = method.mixer.shown(evidence)
    shown = None if field is None else glow(field)
    clean, pictures = (pixels(images, weights) for images in (batch.images, mixed.images))
    names = [packed.class_names[label] for label in batch.labels.tolist()]
    items = []
    for i in range(min(MIXED_SHOWN, len(mixed.donors))):
        j = int(mixed.donors[i])
        items.append(
            {
                "method": config.method,
                "reference": clean[i],
                "donor": clean[j],
                "mixed": pictures[i],
                "reference_map": None if shown is None else shown[i],
                "donor_map": None if shown is None else shown[j],
                "box_reference": None if mixed.box_reference is None else mixed.box_reference[i].tolist(),
                "box_donor": None if mixed.box_donor is None else mixed.box_donor[i].tolist(),
                "rho": float(mixed.rho[i]),
                "s": None if mixed.similarity is None else float(mixed.similarity[i]),
                "labels": (names[i], names[j]),
            }
        )
    return items


@torch.no_grad()
def _cams(model: Classifier, weights: dict[str, Any], packed: Packed, config: Run) -> list[dict[str, Any]]:
    """Class activation maps of the predicted class, on the same validation images for every method."""
    rows = rows_of(packed.index, ["val"])
    rows = rows[np.linspace(0, len(rows) - 1, min(CAMS_SHOWN, len(rows))).astype(int)]
    batches = Batches(packed, rows, config.data.view, weights["mean"], weights["std"], torch.device("cpu"))
    batch = next(batches.evaluation(len(rows)))
    output = model.eval()(batch.images)
    guess = output.logits.argmax(1)
    maps = class_maps(output.features, model.head.weight, guess)
    pictures = pixels(batch.images, weights)
    return [
        {
            "method": config.method,
            "image": pictures[i],
            "map": maps[i].numpy(),
            "title": packed.class_names[int(guess[i])],
            "correct": bool(guess[i] == batch.labels[i]),
        }
        for i in range(len(rows))
    ]


def glow(maps: Tensor) -> np.ndarray:
    """(B, h, w) maps shifted to ≥ 0 and made finite, for drawing; attention may be negative."""
    maps = maps.float().cpu().nan_to_num(0.0, 0.0, 0.0)
    return (maps - maps.amin((1, 2), keepdim=True).clamp_max(0)).numpy()


def pixels(images: Tensor, weights: dict[str, Any]) -> np.ndarray:
    """(B, 3, H, W) normalised → (B, H, W, 3) uint8."""
    mean, std = (torch.tensor(weights[key])[:, None, None] for key in ("mean", "std"))
    return ((images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
