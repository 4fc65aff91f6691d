"""Pictures of the data for the report: mixed images and class maps of each method, and the hardest mistakes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lapml.analysis import mistakes
from lapml.config import Params, Run
from lapml.config.parts import View
from lapml.data import views
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

Answered = dict[str, mistakes.Answers]  # of mistakes.read
MIXED_SHOWN, CAMS_SHOWN = 3, 6  # pictures of each method
FOUND_SHOWN = 8  # images whose objects and parts are shown
MISTAKES_SHOWN = 12  # of the best method


class Pictures(NamedTuple):
    """Pictures of one data set; the items are those of :class:`lapml.report.tiles.Tiles`."""

    mixed: list[dict[str, Any]]
    cams: list[dict[str, Any]]
    objects: bytes | None  # contact sheet (PNG) of objects and parts, if a method mixes by them
    best: str  # the method whose mistakes are shown
    mistakes: list[dict[str, Any]]


def galleries(params: Params, paths: Paths) -> Callable[[str, Answered], Pictures]:
    """A function of a data set's name and answers that gives the pictures of the first seed's runs, and the hardest mistakes of
    all seeds'.

    Every method mixes the same references with the same donors, by its own model's maps. Runs taken over without weights have
    no picture but of their mistakes.
    """

    def of(dataset: str, answers: Answered) -> Pictures:
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
        best = mistakes.ranked(answers, params)[0]
        hardest = mistakes.hardest(answers[best], mistakes.probabilities(params, paths, dataset, best), MISTAKES_SHOWN)
        shown = _mistakes(hardest, packed, params.data[dataset].view)
        return Pictures(mixed, cams, sheet, best, shown)

    return of


def _mistakes(hardest: list[mistakes.Mistake], packed: Packed, view: View) -> list[dict[str, Any]]:
    """Images that runs get wrong, each with a training image of the answer's class, as the model sees them."""
    labels, trained = packed.index["label"].to_numpy(), packed.index["split"].to_numpy(dtype=object) == "train"
    row_of = {path: row for row, path in enumerate(packed.index["path"])}

    def seen(rows: np.ndarray) -> np.ndarray | None:
        if not len(rows):  # no training image of that class
            return None
        windows = views.evaluation_windows(packed.index[["width", "height"]].to_numpy()[rows[:1]], view)
        stored = torch.from_numpy(np.array(packed.images[rows[:1]]))
        cut = views.cut(stored, torch.from_numpy(windows).float(), view.side)
        return cut[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy()

    return [
        {
            "image": seen(np.array([row_of[each.image]])),
            "near": seen(np.flatnonzero((labels == each.answer) & trained)),
            "label": packed.class_names[each.label],
            "answer": packed.class_names[each.answer],
            "wrong": each.wrong,
            "runs": each.runs,
            "truly": each.truly,
        }
        for each in hardest
    ]


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
