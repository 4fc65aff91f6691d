"""The tables of a report: compare the rows of a suite, and write them for people, papers and programs.

Accuracies and gains are in percent (points) in every table.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml import stats
from lapml.config import Params
from lapml.report.runs import ACCURACIES, CURVES, collect, histories, predictions, tuned_record

__all__ = [
    "accuracy", "cells", "collect", "cost", "curves", "emphasised", "headings", "histories", "note", "predictions",
    "summary", "tuned_record", "write",
]  # fmt: skip

BASELINE = "baseline"
BOOTSTRAP_SEED = 0  # of the resampling, the same for every comparison: a table is a function of its runs
TEX = {"\\": r"\textbackslash{}", **{c: "\\" + c for c in "&%$#_{}"}, "~": r"\textasciitilde{}",
       "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "<": "$<$", ">": "$>$"}  # fmt: skip


def accuracy(runs: pd.DataFrame, predictions: dict[tuple[str, str], np.ndarray], params: Params) -> pd.DataFrame:
    """The main table: a row a (dataset, method), in the order of the suite; NaN where a number does not exist.

    Columns:
        n_seeds; top1 (mean over seeds) and top1_half (half-width of its Student-t interval; NaN for one seed);
        top5, mean_class, recall1, recall5: means, percent;
        gain, gain_low, gain_high, p, p_holm: points over the row ``baseline``, by the hierarchical paired bootstrap,
        p corrected over the data set's rows (NaN without a baseline);
        previous, step, step_low, step_high, step_p, step_p_holm: the same over the row above;
        significant, step_significant: the corrected p is below 1 − confidence, and there is more than one seed;
        images_forward, images_backward, seconds: means of a training run;
        cost_ratio: cost over the baseline's, see :func:`cost`; seconds_ratio: seconds over the baseline's.
    """
    table = []
    for dataset in params.datasets:
        rows: list[dict[str, Any]] = []
        for method in params.all_rows():
            of_row = runs[(runs["dataset"] == dataset) & (runs["method"] == method)]
            top1, half = stats.t_interval(of_row["top1"].to_list(), params.report.confidence)
            row = {"dataset": dataset, "method": method, "n_seeds": len(of_row), "top1": top1, "top1_half": half}
            row |= {name: of_row[name].mean() for name in ACCURACIES[1:]}
            above = rows[-1]["method"] if rows else None
            for prefix, other in (("gain", BASELINE), ("step", above)):
                other = None if other == method else other
                row |= _difference(prefix, predictions, dataset, method, other, params)
            row["previous"] = above
            row |= {name: of_row[name].mean() for name in ("images_forward", "images_backward", "seconds")}
            rows.append(row | {"cost": cost(of_row).mean()})
        base = next((row for row in rows if row["method"] == BASELINE), {"cost": math.nan, "seconds": math.nan})
        for row in rows:
            row["cost_ratio"] = row["cost"] / base["cost"] if base["cost"] else math.nan
            row["seconds_ratio"] = row["seconds"] / base["seconds"] if base["seconds"] else math.nan
        for p, flag in (("p", "significant"), ("step_p", "step_significant")):
            for row, corrected in zip(rows, stats.holm([row[p] for row in rows]), strict=True):
                row[f"{p}_holm"] = corrected
                row[flag] = bool(corrected < 1 - params.report.confidence and row["n_seeds"] > 1)
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
    """Column → heading of the table that people read; accuracy.md, accuracy.tex and the page share it."""
    level = f"{100 * params.report.confidence:g} %"
    return {
        "method": "row",
        "top1": f"top-1 (± {level})",
        "top5": "top-5",
        "mean_class": "class mean",
        "recall1": "R@1",
        "recall5": "R@5",
        "gain": f"points over {BASELINE} [{level}], p",
        "step": f"points over the row above [{level}], p",
        "cost_ratio": "cost ×",
        "seconds": "train s",
    }


def cells(row: dict[str, Any]) -> dict[str, str]:
    """One row of :func:`accuracy` as text, with the columns of :func:`headings`; a number that is not there is –."""
    half = f" ± {row['top1_half']:.1f}" if row["n_seeds"] > 1 else " (one seed)"
    return {
        "method": row["method"],
        "top1": f"{row['top1']:.1f}{half}",
        **{name: _number(row[name], ".1f") for name in ACCURACIES[1:]},
        "gain": _comparison(row["gain"], row["gain_low"], row["gain_high"], row["p_holm"]),
        "step": _comparison(row["step"], row["step_low"], row["step_high"], row["step_p_holm"]),
        "cost_ratio": _number(row["cost_ratio"], ".2f"),
        "seconds": _number(row["seconds"], ".0f"),
    }


def summary(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """{dataset: {method: {top1, top1_half, gain, p, p_holm}}} for ``dvc metrics``; a number that is not there is
    left out, because JSON has no NaN."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.to_dict("records"):
        numbers = {name: row[name] for name in ("top1", "top1_half", "gain", "p", "p_holm")}
        numbers = {name: round(value, 6) for name, value in numbers.items() if not math.isnan(value)}
        result.setdefault(row["dataset"], {})[row["method"]] = numbers
    return result


def write(folder: Path, params: Params, runs: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Write accuracy.{csv,md,tex}, runs.csv, curves.csv and summary.json into ``folder``.

    Args:
        runs: of :func:`collect`; epochs: of :func:`histories`; table: of :func:`accuracy`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "accuracy.csv", index=False)
    runs.to_csv(folder / "runs.csv", index=False)
    curves(epochs).to_csv(folder / "curves.csv", index=False)
    (folder / "summary.json").write_text(json.dumps(summary(table), indent=1) + "\n", encoding="utf-8")
    (folder / "accuracy.md").write_text(_markdown(table, params), encoding="utf-8")
    (folder / "accuracy.tex").write_text(_latex(table, params), encoding="utf-8")


def _markdown(table: pd.DataFrame, params: Params) -> str:
    names = headings(params)
    lines = []
    for dataset, rows in table.groupby("dataset", sort=False):
        lines += [f"### {dataset}", "", "| " + " | ".join(names.values()) + " |"]
        lines += ["|" + "|".join([" --- ", *[" ---: "] * (len(names) - 1)]) + "|"]
        for row in rows.to_dict("records"):
            text = cells(row)
            text |= {name: f"**{text[name]}**" for name in emphasised(row)}
            lines.append("| " + " | ".join(text[name] for name in names) + " |")
        lines.append("")
    return "\n".join([*lines, note(table, params), ""])


def _latex(table: pd.DataFrame, params: Params) -> str:
    names = headings(params)
    blocks = ["% needs \\usepackage{booktabs}"]
    for dataset, rows in table.groupby("dataset", sort=False):
        blocks += [f"% {dataset}", rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule"]
        blocks += [" & ".join(_tex(name) for name in names.values()) + r" \\", r"\midrule"]
        for row in rows.to_dict("records"):
            text = {name: _tex(cell) for name, cell in cells(row).items()}
            text |= {name: rf"\textbf{{{text[name]}}}" for name in emphasised(row)}
            blocks.append(" & ".join(text[name] for name in names) + r" \\")
        blocks += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join([*blocks, *(f"% {line}" for line in note(table, params).splitlines()), ""])


def note(table: pd.DataFrame, params: Params) -> str:
    """What the table's numbers are: seeds, intervals, tests, cost."""
    seeds = ", ".join(str(seed) for seed in params.seeds)
    means = "of seed" if len(params.seeds) == 1 else "means over the seeds"
    text = (
        f"Accuracies in percent, {means} {seeds}; ±: Student-t interval over seeds. Points, [interval] and p: "
        f"hierarchical paired bootstrap over seeds and {params.split_name()} images, {params.report.bootstrap:,} replicates; "
        f"p corrected by Holm’s method over the rows of a data set; bold where it is below {1 - params.report.confidence:.2g}. "
        "Cost: (images forwarded + 2 × images backwarded) in training, over the baseline’s."
    )
    if len(params.seeds) == 1:
        text += " One seed: no interval over seeds exists, p is of the images only, and nothing is called significant."
    if BASELINE not in set(table["method"]):
        text += f" No row “{BASELINE}”: gains over it and cost ratios are empty."
    return text


def emphasised(row: dict[str, Any]) -> list[str]:
    """Cells to print bold: differences that are significant, of either sign; never a mere maximum."""
    return [name for name, flag in (("gain", "significant"), ("step", "step_significant")) if row[flag]]


def _comparison(mean: float, low: float, high: float, p: float) -> str:
    if math.isnan(mean):
        return "–"
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
    return f"{_minus(f'{mean:+.1f}')} [{_minus(f'{low:.1f}')}, {_minus(f'{high:.1f}')}], {chance}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else _minus(format(value, form))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text).replace("–", "--")


def _difference(
    prefix: str, correct: dict, dataset: str, method: str, other: str | None, params: Params
) -> dict[str, float]:
    """Columns of one comparison in points; NaN where there is nothing to compare with."""
    p = "p" if prefix == "gain" else f"{prefix}_p"
    names = (prefix, f"{prefix}_low", f"{prefix}_high", p)
    if other is None or (dataset, other) not in correct:
        return dict.fromkeys(names, math.nan)
    result = stats.paired_bootstrap(
        correct[dataset, method], correct[dataset, other],
        params.report.bootstrap, params.report.confidence, BOOTSTRAP_SEED,
    )  # fmt: skip
    return dict(zip(names, (100 * result.mean, 100 * result.low, 100 * result.high, result.p), strict=True))
