"""Pictures of the data for the report: mixed images and class maps of each method, and the hardest mistakes."""

from typing import Any

import numpy as np
import torch

from lapml.analysis import mistakes
from lapml.common.text import class_name
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
from lapml.report.html import data_uri
from lapml.report.pairs import pairs, pixels
from lapml.report.tiles import Tiles
from lapml.runs.execute import load_model, resolved
from lapml.runs.folder import kept, open_run
from lapml.runs.records import Answers
from lapml.training.mixes import Mixes, freshly

MIXED_SHOWN, CAMS_SHOWN = 3, 6  # pictures of each method
FOUND_SHOWN = 8  # images whose objects and parts are shown
MISTAKES_SHOWN = 12  # of the best method


def gallery(params: Params, paths: Paths, dataset: str, answers: dict[str, Answers]) -> dict[str, Any]:
    """What the page shows of a data set in pictures: of the first seed's runs, and of the hardest mistakes of all seeds'.

    Every method mixes the same references with the same donors, by its own model's maps. Runs taken over without weights have
    no picture but of their mistakes.

    Returns:
        mixes and cams {method: tiles}; objects, a contact sheet of objects and parts, if a method mixes by them; best, the method
        whose mistakes are shown, and these; all pictures.
    """
    packed, tiles = Packed.open(paths.pack(dataset)), Tiles(f"{dataset}-picture")
    mixed, cams, sheet = {}, {}, None
    for method in params.all_methods():
        folder = paths.run(dataset, method, params.seeds[0])
        if not kept(folder / "model.safetensors"):
            continue
        open_run(folder)
        config = resolved(params, paths, dataset, method, params.seeds[0])
        model, weights = load_model(folder, config, len(packed.class_names))
        if config.settings.mixer:
            maps, mixing = opened(config, paths, packed), freshly(config.settings.always_mixing())
            mixes = Mixes(config, model, weights, packed, {method: mixing}, maps=maps)
            mixed[method] = tiles.mixes(pairs(mixes, weights, packed.class_names, MIXED_SHOWN, coarse=False))
            if maps is not None and sheet is None:
                sheet = data_uri(draw_sheet(dataset, paths, FOUND_SHOWN), "png")
        cams[method] = _cams(model, weights, packed, config)
    looks = {method: [tiles.tile(*each) for each in found] for method, found in cams.items()}
    best = mistakes.ranked(answers, params)[0]
    hardest = mistakes.hardest(answers[best], mistakes.probabilities(params, paths, dataset, best), MISTAKES_SHOWN)
    wrong = _mistakes(tiles, hardest, packed, params.of(dataset, best).data[dataset].view)
    shown = {"mixes": mixed, "cams": looks, "objects": sheet, "best": best, "mistakes": wrong}
    return shown | {"all": list(tiles.pictures.values())}


def _mistakes(tiles: Tiles, hardest: list[mistakes.Mistake], packed: Packed, view: View) -> list[dict[str, Any]]:
    """Images that runs get wrong, each with a training image of the answer's class, as the model sees them."""
    labels, trained = packed.index["label"].to_numpy(), packed.index["split"].to_numpy(dtype=object) == "train"
    row_of = {path: row for row, path in enumerate(packed.index["path"])}

    def seen(row: int) -> np.ndarray:
        windows = views.evaluation_windows(packed.index[["width", "height"]].to_numpy()[[row]], view)
        stored = torch.from_numpy(np.array(packed.images[[row]]))
        cut = views.cut(stored, torch.from_numpy(windows).float(), view.side)
        return cut[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy()

    found = []
    for each in hardest:
        label, answer = (class_name(packed.class_names[number]) for number in (each.label, each.answer))
        near = np.flatnonzero((labels == each.answer) & trained)[:1]
        shown = [tiles.tile(seen(row_of[each.image]), f"is: {label}")]
        shown += [tiles.tile(seen(row), f"taken for: {answer}") for row in near]
        truly = "below 0.001" if each.truly < 0.001 else f"{each.truly:.3f}"
        facts = f"wrong in {each.wrong} of {each.runs} runs; probability of the true class {truly}"
        found.append({"views": shown, "facts": facts if len(near) else f"taken for: {answer}; {facts}"})
    return found


@torch.no_grad()
def _cams(model: Classifier, weights: dict[str, Any], packed: Packed, config: Run) -> list[tuple[Any, ...]]:
    """Class activation maps of the predicted class, on the same validation images for every method; as of :meth:`Tiles.tile`."""
    rows = rows_of(packed.index, ["val"])
    rows = rows[np.linspace(0, len(rows) - 1, min(CAMS_SHOWN, len(rows))).astype(int)]
    batches = Batches(packed, rows, config.data.view, weights["mean"], weights["std"], torch.device("cpu"))
    batch = next(batches.evaluation(len(rows)))
    output = model.eval()(batch.images)
    guess = output.logits.argmax(1)
    maps = class_maps(output.features, model.head.weight, guess).numpy()
    kinds = ["right" if right else "wrong" for right in guess == batch.labels]
    names = [class_name(packed.class_names[label]) for label in guess.tolist()]
    return list(zip(pixels(batch.images, weights), names, maps, [None] * len(rows), kinds, strict=True))
