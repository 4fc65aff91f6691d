"""The tables of a report: compare the methods of a suite, and write Markdown, LaTeX, CSV and JSON.

Accuracies and gains are in percent (points) in every table.
"""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from lapml.analysis import stats
from lapml.common.text import markdown, markdown_table, tex
from lapml.config import Params
from lapml.runs.collect import ACCURACIES, CURVES, collect, histories, studies, tuned_record
from lapml.runs.records import Answers, predictions

__all__ = [
    "accuracy", "cells", "chance", "collect", "cost", "curves", "emphasised", "headings", "histories", "interval", "note",
    "points", "predictions", "studies", "summary", "tuned_record", "write",
]  # fmt: skip

BASELINE = "baseline"
CALIBRATION = ("loss", "loss_scaled", "temperature", "ece", "ece_scaled", "brier")


def accuracy(runs: pd.DataFrame, predictions: dict[tuple[str, str], Answers], params: Params) -> pd.DataFrame:
    """The main table: one row per (dataset, method), in the order of the suite; missing numbers are NaN.

    Columns:
        n_seeds; top1 (mean over seeds) and top1_half (half-width of its Student-t interval; NaN for one seed);
        top5, mean_class, recall1, recall5: means, percent (NaN if no answer can miss, as with five classes);
        recall_left_out: images that R@K leaves out, the only ones of their class;
        gain, gain_low, gain_high, p, p_holm, significant, gain_seeds: points over ``baseline``, by
        :func:`lapml.analysis.stats.compare_rows` over the data set's methods, and the number of seeds needed to show it (NaN
        without a baseline);
        previous, step, step_low, step_high, step_p, step_p_holm, step_significant, step_seeds: the same over the method in
        ``report.steps``, else over the one before in the suite's order;
        images_forward, images_backward, seconds: means of a training run;
        loss, loss_scaled, temperature, ece, ece_scaled, brier: means over the runs (NaN for older ones, which lack
        them), see :func:`lapml.runs.evaluate.calibration`;
        cost_ratio: cost over the baseline's, see :func:`cost`; seconds_ratio: seconds over the baseline's.
    """
    table = []
    methods = params.all_methods()
    before = [
        other if (other := params.report.steps.get(method)) in methods else place
        for method, place in zip(methods, [None, *methods[:-1]], strict=True)
    ]
    for dataset in params.datasets:
        gains, steps = (
            stats.compare_rows(
                [
                    (predictions[dataset, method].right, predictions[dataset, other].right)
                    if other is not None and other != method and (dataset, other) in predictions
                    else None
                    for method, other in zip(methods, others, strict=True)
                ],
                params.report.bootstrap,
                params.report.confidence,
            )
            for others in ([BASELINE] * len(methods), before)
        )
        rows: list[dict[str, Any]] = []
        for method, gain, step, previous in zip(methods, gains, steps, before, strict=True):
            of_method = runs[(runs["dataset"] == dataset) & (runs["method"] == method)]
            top1, half = stats.t_interval(of_method["top1"].to_list(), params.report.confidence)
            row = {"dataset": dataset, "method": method, "n_seeds": len(of_method), "top1": top1, "top1_half": half}
            row |= {name: of_method[name].mean() for name in ACCURACIES[1:]}
            row["recall_left_out"] = of_method["recall_left_out"].iloc[0]  # all share the images
            row |= _points("gain", "", gain) | _points("step", "step_", step)
            row |= {"previous": previous}
            row |= {
                name: of_method[name].mean() for name in ("images_forward", "images_backward", "seconds", *CALIBRATION)
            }
            rows.append(row | {"cost": cost(of_method).mean()})
        base: dict[str, Any] = next(
            (row for row in rows if row["method"] == BASELINE), {"cost": math.nan, "seconds": math.nan}
        )
        for row in rows:
            row["cost_ratio"] = row["cost"] / base["cost"] if base["cost"] else math.nan
            row["seconds_ratio"] = row["seconds"] / base["seconds"] if base["seconds"] else math.nan
        table += rows
    return pd.DataFrame(table)


def cost(runs: pd.DataFrame) -> pd.Series:
    """Training cost of each run in forward passes of one image, a backward pass counted as two."""
    return runs["images_forward"] + 2 * runs["images_backward"]


def curves(epochs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds (0 for one seed) of training loss and accuracy, by epoch."""
    groups = epochs.groupby(["dataset", "method", "epoch"], sort=False)[list(CURVES)]
    table = groups.agg(["mean", lambda values: values.std(ddof=1) if len(values) > 1 else 0.0])
    table.columns = [f"{name}_{what}" for name in CURVES for what in ("mean", "sd")]
    return table.reset_index()


def headings(params: Params) -> dict[str, str]:
    """Column → heading of the table in accuracy.md, accuracy.tex and the page."""
    level = f"{100 * params.report.confidence:g} %"
    return {
        "method": "method",
        "top1": f"top-1 (± {level})",
        "top5": "top-5",
        "mean_class": "class mean",
        "recall1": "R@1",
        "recall5": "R@5",
        "gain": f"points over {BASELINE} [{level}], p",
        "step": f"points over the method named [{level}], p",
        "cost_ratio": "cost ×",
        "seconds": "training (s)",
    }


def cells(row: dict[str, Any]) -> dict[str, str]:
    """One row of :func:`accuracy` as text, with the columns of :func:`headings`; missing numbers are –."""
    return {
        "method": row["method"],
        "top1": interval(row["top1"], row["top1_half"]),
        **{name: number(row[name], ".1f") for name in ACCURACIES[1:]},
        "gain": comparison(row["gain"], row["gain_low"], row["gain_high"], row["p_holm"]),
        "step": comparison(row["step"], row["step_low"], row["step_high"], row["step_p_holm"])
        + ("" if math.isnan(row["step"]) else f" ({row['previous']})"),
        "cost_ratio": number(row["cost_ratio"], ".2f"),
        "seconds": number(row["seconds"], ".0f"),
    }


def summary(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """{dataset: {method: {top1, top1_half, gain, p, p_holm}}} for ``dvc metrics``; missing numbers are
    left out, since JSON has no NaN."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.to_dict("records"):
        numbers = {name: row[name] for name in ("top1", "top1_half", "gain", "p", "p_holm")}
        numbers = {name: round(value, 6) for name, value in numbers.items() if not math.isnan(value)}
        result.setdefault(row["dataset"], {})[row["method"]] = numbers
    return result


def write(
    folder: Path, params: Params, runs: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame, more: str = ""
) -> None:
    """Write accuracy.{csv,md,tex}, runs.csv, curves.csv and summary.json into ``folder``.

    Args:
        runs: of :func:`collect`; epochs: of :func:`histories`; table: of :func:`accuracy`; more: Markdown below that table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "accuracy.csv", index=False)
    runs.to_csv(folder / "runs.csv", index=False)
    curves(epochs).to_csv(folder / "curves.csv", index=False)
    (folder / "summary.json").write_text(json.dumps(summary(table), indent=1) + "\n", encoding="utf-8")
    (folder / "accuracy.md").write_text(_markdown(table, params) + (f"\n{more}" if more else ""), encoding="utf-8")
    (folder / "accuracy.tex").write_text(_latex(table, params), encoding="utf-8")


def _markdown(table: pd.DataFrame, params: Params) -> str:
    names = headings(params)
    lines = []
    for dataset, rows in table.groupby("dataset", sort=False):
        found = []
        for row in rows.to_dict("records"):
            names_of = {name: markdown(row[name]) for name in ("method", "previous") if isinstance(row[name], str)}
            text = cells(row | names_of)
            text |= {name: f"**{text[name]}**" for name in emphasised(row)}
            found.append([text[name] for name in names])
        lines += [f"### {markdown(dataset)}", "", *markdown_table([*names.values()], found), ""]
    return "\n".join([*lines, note(table, params), ""])


def _latex(table: pd.DataFrame, params: Params) -> str:
    names = headings(params)
    blocks = ["% needs \\usepackage{booktabs}"]
    for dataset, rows in table.groupby("dataset", sort=False):
        blocks += [f"% {dataset}", rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule"]
        blocks += [" & ".join(tex(name) for name in names.values()) + r" \\", r"\midrule"]
        for row in rows.to_dict("records"):
            text = {name: tex(cell) for name, cell in cells(row).items()}
            text |= {name: rf"\textbf{{{text[name]}}}" for name in emphasised(row)}
            blocks.append(" & ".join(text[name] for name in names) + r" \\")
        blocks += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join([*blocks, *(f"% {line}" for line in note(table, params).splitlines()), ""])


def note(table: pd.DataFrame, params: Params) -> str:
    """Note on the table: seeds, intervals, tests, cost."""
    seeds = ", ".join(str(seed) for seed in params.seeds)
    means = "of seed" if len(params.seeds) == 1 else "means over the seeds"
    text = (
        f"Accuracies in percent, {means} {seeds}; ±: Student-t interval over seeds. Points, [interval] and p: "
        f"hierarchical paired bootstrap over seeds and {params.split_name()} images, {params.report.bootstrap:,} replicates; "
        f"p corrected by Holm’s method over the methods of a data set; bold where it is below {1 - params.report.confidence:.2g}. "
        "Cost: (images forwarded + 2 × images backwarded) in training, over the baseline’s; it is exact. Training (s): wall "
        "time of a run’s training, which other work on the machine lengthens."
    )
    text += _no_result(table, params)
    if len(params.seeds) == 1:
        text += " One seed: no interval over seeds exists, p is of the images only, and nothing is called significant."
    if BASELINE not in set(table["method"]):
        text += f" No method “{BASELINE}”: gains over it and cost ratios are empty."
    return text


def _no_result(table: pd.DataFrame, params: Params) -> str:
    """Note on accuracies that leave images out, or are missing."""
    text, split = "", params.split_name()
    for dataset, rows in table.groupby("dataset", sort=False):
        row, where = rows.iloc[0], f" ({dataset})" if len(params.datasets) > 1 else ""
        if left_out := int(row["recall_left_out"]):
            images = "image that is" if left_out == 1 else "images that are each"
            text += f" R@K{where} leaves out {left_out:,} {split} {images} the only one of its class."
        heads = headings(params)
        absent = [heads[name] for name in ACCURACIES if math.isnan(row[name])]
        if absent:
            text += f" –{where}: {', '.join(absent)} cannot miss, or does not exist, with so few classes or images."
    return text


def emphasised(row: dict[str, Any]) -> list[str]:
    """Cells to print bold: significant differences of either sign, not maxima."""
    return [name for name, flag in (("gain", "significant"), ("step", "step_significant")) if row[flag]]


def interval(mean: float, half: float) -> str:
    """A mean over seeds and the half-width of its interval (none for one seed)."""
    return f"{mean:.1f} (one seed)" if math.isnan(half) else f"{mean:.1f} ± {half:.1f}"


def points(mean: float, low: float, high: float) -> str:
    """A difference in points, and its interval."""
    return _minus(f"{mean:+.1f} [{low:.1f}, {high:.1f}]")


def chance(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def comparison(mean: float, low: float, high: float, p: float) -> str:
    """A difference in points, its interval and its p-value; – for NaN."""
    if math.isnan(mean):
        return "–"
    text = chance(p)
    return f"{points(mean, low, high)}, p {text if text.startswith('<') else f'= {text}'}"


def number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else _minus(format(value, form))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _points(name: str, prefix: str, found: stats.Comparison) -> dict[str, Any]:
    """Columns of one comparison, its difference in points."""
    names = {"difference": name, "low": f"{name}_low", "high": f"{name}_high", "seeds_needed": f"{name}_seeds"}
    return {names.get(key) or prefix + key: value for key, value in found.in_points().items()}
