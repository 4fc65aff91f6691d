"""Risk against coverage: how many mistakes are left where the least confident answers are not given."""

import math
from typing import Any

import numpy as np
import pandas as pd

from lapml.analysis.tables import number
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table
from lapml.config import Params
from lapml.paths import Paths

COVERAGES = (0.95, 0.9, 0.8, 0.5)  # of a table
HEADINGS = ["method", "area (%)", *(f"top-1 of {100 * share:.0f} %" for share in COVERAGES)]
NOTE = (
    "Answers by falling confidence (the probability of the first answer), means over the seeds. Area: under the curve of risk, "
    "the share of wrong answers among those given, against coverage, the share of images that get one; less is better (Geifman "
    "and El-Yaniv, NeurIPS 2017). Top-1 of 80 %: accuracy on the 80 % of the images of which a model is surest."
)


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,) the share of wrong answers, 0 to 1, among the k most confident of N, for k = 1, …, N. Answers of equal confidence have
    their mean share of mistakes, so that their order does not matter.

    Args:
        confidence: (N,); right: (N,) bool.
    """
    levels, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, ~right, len(levels)) / sizes
    return np.cumsum(np.repeat(wrong, sizes)) / np.arange(1, len(right) + 1)


def read(params: Params, paths: Paths, dataset: str) -> dict[str, np.ndarray]:
    """{method: (N,) :func:`risks`, the mean over seeds} of the methods whose runs all recorded their confidence."""
    found = {}
    for method in params.all_methods():
        curves = []
        for seed in params.seeds:
            table = pd.read_parquet(paths.run(dataset, method, seed) / "predictions.parquet")
            if "confidence" in table:
                right = (table["top1"] == table["label"]).to_numpy()
                curves.append(risks(table["confidence"].to_numpy(), right))
        if len(curves) == len(params.seeds):
            found[method] = np.mean(curves, axis=0)
    return found


def rows(curves: dict[str, np.ndarray]) -> list[list[str]]:
    """The cells of each method, in the order of :data:`HEADINGS`."""
    found: list[list[Any]] = []
    for method, risk in curves.items():
        kept = [risk[math.ceil(share * len(risk)) - 1] for share in COVERAGES]
        found.append([method, number(100 * risk.mean(), ".2f"), *(number(100 * (1 - each), ".1f") for each in kept)])
    return found


def markdown(curves: dict[str, dict[str, np.ndarray]]) -> str:
    """The tables of all data sets and their note; empty where no run recorded its confidence."""
    lines: list[str] = []
    for dataset, of_dataset in curves.items():
        if of_dataset:
            cells = [[escaped(name), *numbers] for name, *numbers in rows(of_dataset)]
            lines += [f"### {escaped(dataset)}: risk against coverage", "", *markdown_table(HEADINGS, cells), ""]
    return "\n".join([*lines, NOTE, ""]) if lines else ""
