"""Accuracy against the cost of training over backbones: of a suite whose methods override the model, or of several suites.

A backbone is a model of timm with its cut, its output stride and the side of its input: what an image's cost depends on.
Accuracies are in percent.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from lapml.analysis import gather, stats
from lapml.analysis.tables import cost
from lapml.common.recorded import read_json
from lapml.config import Params
from lapml.errors import LapmlError

MEASURED = ("images_forward", "images_backward", "seconds")  # keys of metrics.json


class Backbone(NamedTuple):
    name: str  # timm's
    side: int  # pixels of the square input
    truncate: int | None
    output_stride: int | None


class Trained(NamedTuple):
    """The runs of one method."""

    method: str
    label: str  # where another line has that name
    backbone: Backbone
    settings: dict[str, Any]  # of the method, without its recipe
    top1: list[float]  # percent, by seed
    runs: pd.DataFrame  # MEASURED


def of_suite(dataset: str, runs: pd.DataFrame, params: Params) -> pd.DataFrame:
    """:func:`table` of one data set; empty if all of its methods share a backbone.

    Args:
        runs: of ``tables.collect``.
    """
    found = []
    for method in params.all_methods():
        own, rows = params.of(dataset, method), runs[(runs["dataset"] == dataset) & (runs["method"] == method)]
        backbone = _backbone(own.model.model_dump(), own.data[dataset].view.side)
        settings = params.methods[method].model_dump(mode="json", exclude={"overrides"})
        found.append(Trained(method, method, backbone, settings, rows["top1"].to_list(), rows))
    if len({each.backbone for each in found}) == 1:
        return pd.DataFrame()
    return table(found, params.report.confidence)


def of_runs(methods: dict[str, gather.Row], confidence: float) -> pd.DataFrame:
    """:func:`table` of runs, on one backbone too.

    Args:
        methods: of :func:`lapml.analysis.gather.rows` with top-1 answers.

    Raises:
        LapmlError: a run's metrics.json is damaged.
    """
    found = []
    for label, by_seed in methods.items():
        config = next(iter(by_seed.values())).config
        backbone = _backbone(config["model"], config["data"]["view"]["side"])
        top1 = [100 * float(run.right.mean()) for run in by_seed.values()]
        runs = pd.DataFrame([_measured(run) for run in by_seed.values()])
        found.append(Trained(config["method"], label, backbone, config["settings"], top1, runs))
    return table(found, confidence)


def table(trained: Sequence[Trained], confidence: float) -> pd.DataFrame:
    """One row per backbone and method, methods in the order given, each by the cost of its backbones.

    Methods of one name are one method, and so are those whose settings differ in their recipe (backbone, learning rate, …) alone,
    but for a second one on the same backbone; it has the name of the first.

    Columns:
        backbone, method, n_seeds; top1 (mean over seeds) and top1_half (half-width of its Student-t interval; NaN for one seed);
        gflop (of one image's forward pass, see :func:`lapml.models.catalogue.row`) and parameters of the backbone;
        tflop of a training run, a backward pass counted as two; seconds of one (both means over seeds).

    Raises:
        LapmlError: timm has no such model.
    """
    from lapml.models.catalogue import row  # torch is slow to import

    sizes = {backbone: row(*backbone) for backbone in dict.fromkeys(each.backbone for each in trained)}
    names, rows = _names(list(sizes)), []
    for method, line in _lines(trained).items():
        of_line = []
        for each in line:
            top1, half = stats.t_interval(each.top1, confidence)
            size = sizes[each.backbone]
            of_line.append({
                "backbone": names[each.backbone], "method": method, "n_seeds": len(each.top1), "top1": top1,
                "top1_half": half, "gflop": size["gflop"], "parameters": size["parameters"],
                "tflop": float(cost(each.runs).mean()) * size["gflop"] / 1e3, "seconds": float(each.runs["seconds"].mean()),
            })  # fmt: skip
        rows += sorted(of_line, key=lambda mark: mark["tflop"])
    return pd.DataFrame(rows)


def _lines(trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    """What is one method on several backbones, by its name."""
    lines: dict[str, list[Trained]] = {}
    for each in trained:
        free = [line for line in lines.values() if each.backbone not in [other.backbone for other in line]]
        same = [line for line in free if each.method in [other.method for other in line]]
        same += [line for line in free if each.settings == line[0].settings]
        if same:
            same[0].append(each)
        else:
            lines[each.label if each.method in lines else each.method] = [each]
    return lines


def _names(backbones: list[Backbone]) -> dict[Backbone, str]:
    """Their models' names, and where others have the same name, what differs: ``resnet50 (side=448)``."""
    found = {}
    for each in backbones:
        alike = [other for other in backbones if other.name == each.name]
        differing = [key for key in Backbone._fields if len({getattr(other, key) for other in alike}) > 1]
        details = gather.listed(f"{key}={json.dumps(getattr(each, key))}" for key in differing)
        found[each] = f"{each.name} ({details})" if details else each.name
    return found


def _backbone(model: dict[str, Any], side: int) -> Backbone:
    return Backbone(model["name"], side, model["truncate"], model["output_stride"])


def _measured(run: gather.Run) -> dict[str, float]:
    path = run.folder / "metrics.json"
    metrics = read_json(path)
    for key in MEASURED:
        if not isinstance(value := metrics.get(key), int | float) or value < 0:
            raise LapmlError(f"{path}: {key}: found {value!r}, expected a number of 0 or more; train the run again")
    return {key: metrics[key] for key in MEASURED}
