"""One self-contained page out of the tables and figures: no request to anywhere, every image inlined; its script only sorts
tables, and its only links to files are to what lies beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lapml.analysis import mistakes, tables
from lapml.analysis.sections import Section
from lapml.common.text import class_name
from lapml.config import Params
from lapml.report import account, backbones, figures, studies
from lapml.report.html import data_uri, render, settings_digest
from lapml.runs.records import Answers

STAGES = ("cutmix", "loc_cutmix", "margin", "adaptive_margin")  # of the ablation; the others are comparators
MAIN = {"accuracy.csv": "csv", "accuracy.tex": "LaTeX", "accuracy.md": "Markdown", "runs.csv": "every run, csv",
        "curves.csv": "training curves, csv"}  # fmt: skip


def build(
    params: Params,
    params_text: str,
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    table: pd.DataFrame,
    tuned: dict[str, dict[str, dict[str, Any]]],
    galleries: dict[str, dict[str, Any]] | None = None,
    overridden: list[str] | None = None,
    diagnoses: dict[str, dict[str, Any] | None] | None = None,
    heading: str = "",
    sections: Sequence[Section] = (),
    answers: dict[str, dict[str, Answers]] | None = None,
    risks: dict[str, dict[str, np.ndarray]] | None = None,
    over: dict[str, pd.DataFrame] | None = None,
) -> str:
    """The report as HTML.

    Args:
        params, params_text: the settings, and the text of their file.
        runs, epochs, table: of ``tables.collect``, ``tables.histories`` and ``tables.accuracy``.
        tuned: {dataset: {method: record of the tuned file}}.
        galleries: the pictures of every data set; None for a page without any picture of the data, which its
            ``lapml-images`` meta element then says.
        overridden: one line per setting in which ``params`` differs from ``params_text``.
        diagnoses: {dataset: heads, rows, maps, verdicts, note, figures (data URIs), links {file: text}, gallery (may be
            linked)}, or None if it was not diagnosed.
        heading: the comment that the suite's own file begins with.
        sections: further tables, in their order.
        answers: {dataset: {method: of ``tables.predictions``}}.
        risks: {dataset: of ``probabilities.curves``}.
        over: {dataset: of ``backbones.of_suite``}.
    """
    text, facts = account.introduction(heading)
    return render(
        "page.html.j2",
        suite=params.suite,
        settings=settings_digest(params),
        plan=account.plan(params, runs),
        introduction=text,
        facts=facts,
        rebuilds_paper=account.rebuilds_paper(params),
        split=params.split_name().capitalize(),
        images=galleries is not None,
        headings=list(tables.headings(params).values()),
        downloads=MAIN,
        datasets=[
            {
                "name": name,
                **_results(params, *(frame[frame["dataset"] == name] for frame in (runs, epochs, table))),
                "beside": [
                    [each.method, f"{each.top1:.2f}", each.source]
                    for each in params.report.beside
                    if each.dataset == name
                ],
                "tuned": studies.shown(tuned.get(name, {}), params.of(name)),
                "pictures": (galleries or {}).get(name),
                "diagnosis": (diagnoses or {}).get(name),
                "sections": [section for section in sections if section.dataset == name],
                "risk": _inline(figures.risk_against_coverage((risks or {}).get(name, {}), params.all_methods())),
                **_mistakes((answers or {}).get(name), params),
                "backbones": backbones.shown((over or {}).get(name, pd.DataFrame()), params.all_methods()),
            }
            for name in params.datasets
        ],
        note=tables.note(table, params),
        trained_on_val=params.eval_split == "test",
        backbone_heads=backbones.HEADINGS,
        ran=account.provenance(runs),
        runs=account.table_of_runs(runs),
        commands=runs["command"].astype(str).to_list(),
        params_text=params_text,
        overridden=overridden or [],
        caveats=account.caveats(params, runs),
    )


def verdict(table: pd.DataFrame) -> dict[str, Any]:
    """Whether each stage improved, in sentences from the numbers of one data set: ``summary`` (one or two sentences) and ``steps``
    (one line per method and the one it is compared with). Stages are the methods :data:`STAGES`; in a table without them, all."""
    rows = [row for row in table.to_dict("records") if row["previous"] is not None and not pd.isna(row["previous"])]
    if not rows:
        return {"summary": "There is only one method, so there is nothing to compare.", "steps": ["No method above."]}
    judged = [row["method"] for row in rows if row["method"] in STAGES] or [row["method"] for row in rows]
    steps, ups, downs = [], [], []
    for row in rows:
        outcome = "no significant change"
        if row["step_significant"]:
            if row["method"] in judged:
                (ups if row["step"] > 0 else downs).append(row["method"])
            outcome = "a significant gain" if row["step"] > 0 else "a significant loss"
        if row["n_seeds"] == 1:
            outcome = "one seed, not judged"
        text = tables.cells(row)["step"].removesuffix(f" ({row['previous']})")
        steps.append(f"{row['method']} over {row['previous']}: {text}: {outcome}.")
    if rows[0]["n_seeds"] == 1:
        summary = "There is one seed only: whether a stage improves cannot be judged from it."
    elif len(ups) == len(judged) == 1:
        summary = f"{ups[0]} improved significantly on the method it is compared with."
    elif len(ups) == len(judged):
        summary = f"Each of the {len(judged)} stages improved significantly on the method it is compared with."
    else:
        silent = [name for name in judged if name not in ups + downs]
        parts = [
            f"{account.listed(names)} {text}"
            for names, text in (
                (ups, "improved significantly"),
                (silent, "did not change significantly"),
                (downs, "was significantly worse" if len(downs) == 1 else "were significantly worse"),
            )
            if names
        ]
        summary = f"Not every stage improved, each against the method that it is compared with: {'; '.join(parts)}."
    return {"summary": f"{summary} {_against_baseline(table)}".strip(), "steps": steps}


def _against_baseline(table: pd.DataFrame) -> str:
    rows = table[table["gain"].notna()]
    if rows.empty or (table["n_seeds"] == 1).any():
        return ""
    better = rows.loc[rows["significant"] & (rows["gain"] > 0), "method"].to_list()
    worse = rows.loc[rows["significant"] & (rows["gain"] < 0), "method"].to_list()
    text = f"Against {tables.BASELINE}, significantly better: {account.listed(better) if better else 'no method'}."
    return text + (f" Significantly worse: {account.listed(worse)}." if worse else "")


def charts(runs: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame) -> dict[str, bytes]:
    """The charts of one data set as SVG, by name; charts without data are missing or empty."""
    return {
        "accuracy": figures.accuracy(table, runs),
        "cost": figures.cost_against_accuracy(table, runs),
        "loss": figures.loss_curves(epochs),
        "train": figures.accuracy_curves(epochs),
        "distances": figures.distances(epochs, runs),
        "beyond": figures.beyond(epochs, runs),
    }


def _results(params: Params, runs: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """The verdict, the main table's rows and the charts of one data set."""
    rows, shown = [], figures.looks(table["method"])
    for row in table.to_dict("records"):
        bold, text = tables.emphasised(row), tables.cells(row)
        cells = []
        for column in tables.headings(params):
            number, bracket, rest = text[column].partition(" [")  # the interval goes below its number
            rest, parenthesis, other = rest.partition(" (")  # the method compared with stays beside it
            detail = (bracket + rest).strip()
            cells.append({"text": number + parenthesis + other, "detail": detail, "bold": column in bold})
        rows.append({"colour": shown[row["method"]][0], "cells": cells})
    images = {key: _inline(image) for key, image in charts(runs, epochs, table).items()}
    return {"verdict": verdict(table), "rows": rows, "charts": images}


def _mistakes(answers: dict[str, Answers] | None, params: Params) -> dict[str, Any]:
    """The classes where the best method is least and most often right as cells, with a link that holds those of all classes and
    methods; and the confusion matrices as cells: (percent as text, share 0..1, whether it is right)."""
    if answers is None:
        return {"classes": None, "confused": None}
    every = mistakes.by_class(answers)
    shown = mistakes.extremes(every, answers, params)
    rows = [
        [class_name(name), str(images), *(f"{each:.0f}" for each in shares)]
        for name, images, *shares in shown.itertuples(index=False)
    ]
    text = every.round(3).to_csv(index=False, lineterminator="\n")
    classes = {"heads": list(shown), "rows": rows, "all": len(every), "csv": data_uri(text.encode(), "csv", "text")}
    if (found := mistakes.confused(answers, params)) is None:
        return {"classes": classes, "confused": None}
    matrices = {
        method: [
            [(f"{share:.0f}" if share >= 0.5 else "", share / 100, row == column) for column, share in enumerate(line)]
            for row, line in enumerate(shares.tolist())
        ]
        for method, shares in found["shares"].items()
    }
    confused = {
        "classes": [class_name(name) for name in found["classes"]],
        "all": found["all"],
        "images": " to ".join(str(count) for count in sorted({min(found["images"]), max(found["images"])})),
        "split": params.split_name(),
        "matrices": matrices,
    }
    return {"classes": classes, "confused": confused}


def _inline(image: bytes | None) -> str | None:
    return None if image is None else data_uri(image, "svg+xml")
