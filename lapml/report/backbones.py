"""Accuracy against the cost of training over backbones: on the page of a suite, and as files of any runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from lapml.analysis import backbones, gather
from lapml.analysis.tables import interval, number
from lapml.files import write_text
from lapml.report import figures
from lapml.report.html import data_uri

HEADINGS = ["backbone", "method", "seeds", "top-1", "Gflop per image", "parameters (M)", "Tflop of training",
            "training (s)"]  # fmt: skip


def shown(table: pd.DataFrame, order: list[str]) -> dict[str, Any] | None:
    """What the page shows of a data set: rows, chart and csv as data URIs; None for an empty table.

    Args:
        table: of ``backbones.of_suite``; order: of all methods, for their colours.
    """
    if table.empty:
        return None
    rows = [
        [row["backbone"], row["method"], f"{row['n_seeds']}", interval(row["top1"], row["top1_half"]),
         number(row["gflop"], ".3g"), f"{row['parameters'] / 1e6:.1f}", number(row["tflop"], ",.3g"), f"{row['seconds']:,.0f}"]
        for row in table.to_dict("records")
    ]  # fmt: skip
    return {
        "rows": rows,
        "chart": data_uri(figures.over_backbones(table, order), "svg+xml"),
        "csv": data_uri(_csv(table).encode(), "csv", "text"),
    }


def write(folder: Path, runs: list[Path], baseline: str | None, confidence: float, without: str) -> None:
    """Write backbones.svg and backbones.csv of the runs in and below some folders.

    Args:
        runs, baseline, without: see :func:`lapml.analysis.gather.rows`.

    Raises:
        LapmlError: as there, or a run's metrics.json is damaged.
    """
    table = backbones.of_runs(gather.rows(runs, baseline, without=without), confidence)
    write_text(folder / "backbones.csv", _csv(table))
    write_text(folder / "backbones.svg", figures.over_backbones(table, list(dict.fromkeys(table["method"]))).decode())


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")
