"""The headline where a method was developed on some of the classes (``report.developed_on``): accuracy on the images of the others.

Accuracies and differences are in percent (points).
"""

import numpy as np
import pandas as pd

from lapml.analysis import stats
from lapml.analysis.gather import kept
from lapml.analysis.mistakes import class_names
from lapml.analysis.tables import BASELINE, BOOTSTRAP_SEED, chance, interval, points
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table
from lapml.config import Params
from lapml.paths import Paths
from lapml.runs.records import parquet

Right = dict[tuple[str, str], np.ndarray]  # {(dataset, method): (S, N) 1 where a run has an image right}


def others(right: Right, params: Params, paths: Paths) -> Right:
    """The answers of the data sets that ``report.developed_on`` names, on the images of the other classes.

    Raises:
        LapmlError: it names a class that the set has not.
    """
    found: Right = {}
    for dataset, without in params.report.developed_on.items():
        table = parquet(paths.run(dataset, params.all_methods()[0], params.seeds[0]) / "predictions.parquet")
        names = class_names(params, paths, dataset)
        mask = kept(table["label"].to_list(), params.data[dataset].classes, names, without)
        found |= {key: answers[:, mask] for key, answers in right.items() if key[0] == dataset}
    return found


def headline(right: Right, params: Params) -> pd.DataFrame:
    """One row per data set and method: dataset, method, images, top1 (mean over seeds), half; over ``baseline``: gain, low, high,
    p_holm (corrected over the data set's methods), significant.

    Args:
        right: of :func:`others`.
    """
    rows = []
    for dataset in params.report.developed_on:
        methods = [method for method in params.all_methods() if (dataset, method) in right]
        base = right.get((dataset, BASELINE))
        pairs = [None if base is None or method == BASELINE else (right[dataset, method], base) for method in methods]
        compared = stats.compare_rows(pairs, params.report.bootstrap, params.report.confidence, BOOTSTRAP_SEED)
        for method, ((gain, low, high, _), p_holm, significant, _) in zip(methods, compared, strict=True):
            answers = right[dataset, method]
            top1, half = stats.t_interval(list(100 * answers.mean(1)), params.report.confidence)
            row = {"dataset": dataset, "method": method, "images": answers.shape[1], "top1": top1, "half": half}
            row |= {"gain": 100 * gain, "low": 100 * low, "high": 100 * high, "p_holm": p_holm}
            rows.append(row | {"significant": significant})
    return pd.DataFrame(rows)


def headings(params: Params) -> list[str]:
    """Of the columns of :func:`cells`."""
    level = f"{100 * params.report.confidence:g} %"
    return ["method", f"top-1 (± {level})", f"points over {BASELINE} [{level}]", "p, Holm"]


def cells(row: dict) -> list[str]:
    """A row of :func:`headline` as text."""
    accuracy = interval(row["top1"], row["half"])
    if np.isnan(row["gain"]):
        return [row["method"], accuracy, "–", "–"]
    return [row["method"], accuracy, points(row["gain"], row["low"], row["high"]), chance(row["p_holm"])]


def note(dataset: str, rows: pd.DataFrame, params: Params) -> str:
    """What the table of a data set holds."""
    return (
        f"The headline: the {rows['images'].iloc[0]:,} {params.split_name()} images of all classes but "
        f"{params.report.developed_on[dataset]}, on which the method was developed."
    )


def markdown(table: pd.DataFrame, params: Params) -> str:
    """The tables of all data sets, with their notes; nothing where ``report.developed_on`` names none."""
    lines = []
    for dataset, rows in table.groupby("dataset", sort=False) if len(table) else ():
        found = []
        for row in rows.to_dict("records"):
            method, accuracy, gain, p = cells(row)
            found.append([escaped(method), accuracy, f"**{gain}**" if row["significant"] else gain, p])
        lines += [f"### {escaped(str(dataset))}: classes that nothing was developed on", ""]
        lines += [*markdown_table(headings(params), found), "", note(str(dataset), rows, params), ""]
    return "\n".join(lines)
