"""Tables and figures (by Optuna) of the studies, from their tuned files."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes

from lapml.config import Choices, Params, Range
from lapml.report.figures import STYLE, svg
from lapml.report.html import data_uri

if TYPE_CHECKING:
    import optuna

FEW = 4  # fewer scored trials give no importances
CAPTIONS = {
    "history": "every trial's score, and the best so far",
    "importances": "how much of the scores' variance each setting explains, by a random forest on the trials (fANOVA)",
    "parallel": "every trial as a line across its settings; darker is better",
}


def shown(records: dict[str, dict[str, Any]], params: Params) -> dict[str, Any] | None:
    """The best values and all trials, as two tables, and the figures of each study as data URIs; None without a study.
    ``records``: {method: tuned file}; ``params``: of the data set."""
    if not records:
        return None
    names = list(dict.fromkeys(key for record in records.values() for key in record["values"]))
    rows, trials, charts = [], [], []
    for method, record in records.items():
        best = [_figure(record["values"].get(key)) for key in names]
        seeds = ", ".join(str(seed) for seed in record["seeds"])
        epochs = "tuned" if "train.epochs" in record["values"] else record["epochs"]
        rows.append([method, *best, _figure(record.get("score")), epochs, seeds])
        pictures = figures(record, params.tune.ranges(method))
        charts += [
            (data_uri(pictures[name], "svg+xml"), f"{method}: {CAPTIONS[name]}")
            for name in CAPTIONS
            if name in pictures
        ]
        for trial in record.get("trials", []):
            values = [_figure(trial["values"].get(key)) for key in names]
            trials.append(
                [f"{method} {trial['number']}", *values, _figure(trial.get("score")), trial.get("state", "–")]
            )
        if (plain := record.get("without")) is not None:
            trials.append([f"{method}, no margin losses", *["–"] * len(names), _figure(plain), "first"])
    heads = ["method", *names, "validation score", "epochs", "seeds"]
    return {
        "heads": heads,
        "rows": rows,
        "trial_heads": ["trial", *heads[1:-2], "state"],
        "trials": trials,
        "charts": charts,
    }


def figures(record: dict[str, Any], space: dict[str, Range | Choices]) -> dict[str, bytes]:
    """The history of a tuned file's scores, what they depend on, and every trial as a line across its settings; SVG by name. {}
    without a scored trial; no importances with fewer than four, or if all scores are equal."""
    scores = [trial["score"] for trial in record.get("trials", []) if trial["state"] == "COMPLETE"]
    if not scores:
        return {}
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as draw

    study = _study(record, space)
    paths = [name for name in study.trials[0].params if "." in name]  # longer names than those of margins
    width = max(6.5, 1.2 + 1.2 * len(study.trials[0].params)) if paths else 5.0
    made = {
        "history": _draw(lambda: draw.plot_optimization_history(study, target_name="validation top-1 %"), width),
        "parallel": _draw(lambda: draw.plot_parallel_coordinate(study, target_name="validation top-1 %"), width),
    }
    if len(scores) >= FEW and len(set(scores)) > 1:
        evaluator = FanovaImportanceEvaluator(seed=0)
        made["importances"] = _draw(lambda: draw.plot_param_importances(study, evaluator=evaluator), width)
    return made


def _study(record: dict[str, Any], space: dict[str, Range | Choices]) -> "optuna.Study":
    """The study in memory, with margins in their own units."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    names = [name for name in space if name in record["trials"][0]["values"]]
    ranges = {}
    for name in names:
        each, values = space[name], [trial["values"][name] for trial in record["trials"]]
        ranges[name] = (
            CategoricalDistribution(each.choices)
            if isinstance(each, Choices)
            else FloatDistribution(min(values), max(values), log=each.log and min(values) > 0)
        )
    for trial in record["trials"]:
        study.add_trial(
            create_trial(
                state=TrialState[trial["state"]],
                value=trial["score"],
                params={name: trial["values"][name] for name in names},
                distributions=ranges,
            )
        )
    return study


def _draw(draw: Callable[[], Axes], width: float) -> bytes:
    """Draw by Optuna with pyplot, so many inches wide, and restore the style and close the figure afterwards."""
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({**STYLE, "text.parse_math": True, "backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its figures are experimental; that a range holds one value
        figure = draw().figure
        figure.set_size_inches(width, 3.3)
        figure.set_layout_engine("tight")
        for axes in figure.axes:
            for collection in axes.collections:
                collection.set_rasterized(False)  # a colour bar would be
        try:
            return svg(figure)
        finally:
            plt.close(figure)


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
