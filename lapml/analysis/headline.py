"""What a suite is judged by: the comparisons that it names before its test images are read (``report.primary``), and accuracy on
the images of other classes than those that a method was developed on (``report.developed_on``).

Every other difference of a table is an estimate with its interval. Accuracies and differences are in percent (points).
"""

from typing import Any

import numpy as np

from lapml.analysis import stats
from lapml.analysis.gather import kept
from lapml.analysis.sections import Section
from lapml.analysis.tables import BASELINE, chance, interval, points
from lapml.config import Params
from lapml.runs.records import Answers

Rows = list[dict[str, Any]]


def developed(params: Params) -> dict[str, str]:
    """Of the data sets that the suite runs: the classes on which something was developed."""
    return {name: classes for name, classes in params.report.developed_on.items() if name in params.datasets}


def others(answers: dict[tuple[str, str], Answers], params: Params) -> dict[tuple[str, str], Answers]:
    """The answers of the data sets that ``report.developed_on`` names, on the images of the other classes. LapmlError where it
    names a class that the set has not."""
    found = {}
    for (dataset, method), each in answers.items():
        if dataset in params.report.developed_on:
            classes, without = params.data[dataset].classes, params.report.developed_on[dataset]
            mask = kept(each.labels.tolist(), classes, each.names, without)
            images = [image for image, left in zip(each.images, mask, strict=True) if left]
            found[dataset, method] = Answers(images, each.labels[mask], each.first[:, mask], each.names)
    return found


def headline(answers: dict[tuple[str, str], Answers], params: Params) -> Rows:
    """For each data set and method, of the answers of :func:`others`: dataset, method, images, top1 (mean over seeds), half;
    and over ``baseline``, corrected over the data set's methods, :meth:`lapml.analysis.stats.Comparison.in_points`."""
    rows = []
    for dataset in developed(params):
        right = {method: answers[dataset, method].right for method in params.all_methods()}
        base = right.get(BASELINE)
        pairs = [None if base is None or method == BASELINE else (each, base) for method, each in right.items()]
        compared = stats.compare_rows(pairs, params.report.bootstrap, params.report.confidence)
        for (method, each), found in zip(right.items(), compared, strict=True):
            top1, half = stats.t_interval(list(100 * each.mean(1)), params.report.confidence)
            row = {"dataset": dataset, "method": method, "images": each.shape[1], "top1": top1, "half": half}
            rows.append(row | found.in_points())
    return rows


def contrasts(answers: dict[tuple[str, str], Answers], params: Params) -> Rows:
    """For each data set and comparison of ``report.primary``: dataset, method, against; and, corrected over the data set's
    comparisons alone, :meth:`lapml.analysis.stats.Comparison.in_points`."""
    rows = []
    for dataset in params.datasets:
        pairs = [(answers[dataset, one].right, answers[dataset, other].right) for one, other in params.report.primary]
        compared = stats.compare_rows(pairs, params.report.bootstrap, params.report.confidence)
        for (method, against), found in zip(params.report.primary, compared, strict=True):
            rows.append({"dataset": dataset, "method": method, "against": against, **found.in_points()})
    return rows


def sections(heads: Rows, named: Rows, params: Params) -> list[Section]:
    """The tables of :func:`headline` and :func:`contrasts` by data set."""
    level, found = f"{100 * params.report.confidence:g} %", []
    for dataset, classes in developed(params).items():
        rows = [row for row in heads if row["dataset"] == dataset]
        cells = []
        for row in rows:
            compared = ["–", "–"] if np.isnan(row["difference"]) else [_points(row), chance(row["p_holm"])]
            cells.append([row["method"], interval(row["top1"], row["half"]), *compared])
        note = (
            f"The headline: the {rows[0]['images']:,} {params.split_name()} images of all classes but {classes}, on which the "
            "method was developed."
        )
        columns = ["method", f"top-1 (± {level})", f"points over {BASELINE} [{level}]", "p, Holm"]
        bold = [row["significant"] for row in rows]
        title = "classes that nothing was developed on"
        found.append(Section(dataset, title, columns, cells, note, bold, label="headline"))
    for dataset in params.datasets if named else ():
        note = (
            f"The comparisons that the suite named before a {params.split_name()} image was read (`report.primary`); p corrected "
            f"by Holm’s method over these {len(params.report.primary)} alone."
        )
        if dataset in params.report.developed_on:
            note += (
                f" They are of the headline’s images: those of all classes but {params.report.developed_on[dataset]}."
            )
        cells = [
            [f"{row['method']} − {row['against']}", _points(row), chance(row["p"]), chance(row["p_holm"])]
            for row in named
            if row["dataset"] == dataset
        ]
        columns = ["primary contrast", f"points [{level}]", "p", "p, Holm"]
        found.append(Section(dataset, "primary contrasts", columns, cells, note))
    return found


def _points(row: dict[str, Any]) -> str:
    return points(row["difference"], row["low"], row["high"])
