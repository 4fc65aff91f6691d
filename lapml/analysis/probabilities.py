"""What the probabilities of runs are worth, where they recorded them: how well they fit, and how many mistakes are left where the
least confident answers are not given."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow.parquet import read_schema

from lapml.analysis.gather import listed
from lapml.analysis.sections import Section
from lapml.analysis.tables import CALIBRATION, number
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs.records import parquet

HEADINGS = ["method", "cross-entropy", "after scaling", "temperature", "calibration error (%)", "after scaling",
            "Brier score"]  # fmt: skip
FORMS = (".3f", ".3f", ".2f", ".1f", ".1f", ".3f")  # of CALIBRATION
NOTE = (
    "Means over the seeds; less is better, but for the temperature: above 1 a model is too sure. Scaling divides the logits by a "
    "temperature, that of least cross-entropy on the other four fifths of the images{why}. Calibration error: 15 bins of equal "
    "width."
)
WHY = ", since runs are trained on the validation images too"  # where they are read on the test split
COVERAGES = (0.95, 0.9, 0.8, 0.5)  # of the table of risks
RISK_HEADINGS = ["method", "area (%)", *(f"top-1 of {100 * share:.0f} %" for share in COVERAGES)]
RISK_NOTE = (
    "Answers by falling confidence (the probability of the first answer), means over the seeds. Area: under the curve of risk, "
    "the share of wrong answers among those given, against coverage, the share of images that get one; less is better (Geifman "
    "and El-Yaniv, NeurIPS 2017). Top-1 of 80 %: accuracy on the 80 % of the images of which a model is surest."
)


def calibrations(table: pd.DataFrame, params: Params) -> list[Section]:
    """How well probabilities fit, of the data sets of which a run recorded it."""
    note = NOTE.format(why=WHY if params.eval_split == "test" else "")
    return [
        Section(
            str(dataset),
            "probabilities",
            HEADINGS,
            [
                [row["method"], *map(number, (row[name] for name in CALIBRATION), FORMS)]
                for row in rows.to_dict("records")
            ],
            note,
        )
        for dataset, rows in table.groupby("dataset", sort=False)
        if rows["ece"].notna().any()
    ]


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,) the share of wrong answers, 0 to 1, among the k most confident of N, for k = 1, …, N. Answers of equal confidence have
    their mean share of mistakes, so that their order does not matter.

    Args:
        confidence: (N,); right: (N,) bool.
    """
    levels, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, ~right, len(levels)) / sizes
    return np.cumsum(np.repeat(wrong, sizes)) / np.arange(1, len(right) + 1)


def curves(params: Params, paths: Paths, dataset: str) -> dict[str, np.ndarray]:
    """{method: (N,) :func:`risks`, the mean over seeds} of the methods whose runs all recorded their confidence; LapmlError where
    that is damaged."""
    found = {}
    for method in params.all_methods():
        files = [paths.run(dataset, method, seed) / "predictions.parquet" for seed in params.seeds]
        if all("confidence" in read_schema(file).names for file in files):
            found[method] = np.mean([_risks(file) for file in files], axis=0)
    return found


def _risks(file: Path) -> np.ndarray:
    try:
        table = parquet(file, shares=("confidence",))
    except LapmlError as error:
        raise LapmlError(f"{file.parent}: {error}; train the run again") from None
    return risks(table["confidence"].to_numpy(), (table["top1"] == table["label"]).to_numpy())


def coverages(dataset: str, found: dict[str, np.ndarray], methods: Sequence[str]) -> list[Section]:
    """The table of :func:`curves`, which says which ``methods`` have none; no table without a curve."""
    rows = []
    for method, risk in found.items():
        kept = [risk[math.ceil(share * len(risk)) - 1] for share in COVERAGES]
        rows.append([method, number(100 * risk.mean(), ".2f"), *(number(100 * (1 - each), ".1f") for each in kept)])
    note, lacking = RISK_NOTE, [method for method in methods if method not in found]
    if lacking:
        note += f" Without {listed(lacking)}: not all runs of {'it' if len(lacking) == 1 else 'them'} recorded their confidence."
    return [Section(dataset, "risk against coverage", RISK_HEADINGS, rows, note)] if rows else []
