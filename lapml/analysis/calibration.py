"""The table of how well probabilities fit, of runs that recorded it."""

from typing import Any

import pandas as pd

from lapml.analysis.tables import CALIBRATION, number
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table

HEADINGS = {
    "method": "method",
    "loss": "cross-entropy",
    "loss_scaled": "after scaling",
    "temperature": "temperature",
    "ece": "calibration error (%)",
    "ece_scaled": "after scaling",
    "brier": "Brier score",
}
NOTE = (
    "Means over the seeds; less is better, but for the temperature: above 1 a model is too sure. Scaling divides the logits by a "
    "temperature, that of least cross-entropy on the other four fifths of the images, since runs are trained on the validation "
    "images too. Calibration error: 15 bins of equal width."
)


def rows(table: pd.DataFrame, dataset: str) -> list[list[str]]:
    """The cells of a data set's methods, in the order of :data:`HEADINGS`; none where no run recorded it.

    Args:
        table: of :func:`lapml.analysis.tables.accuracy`.
    """
    found: list[dict[str, Any]] = table[table["dataset"] == dataset].to_dict("records")
    if not any(row["ece"] == row["ece"] for row in found):
        return []
    forms = {
        "loss": ".3f",
        "loss_scaled": ".3f",
        "temperature": ".2f",
        "ece": ".1f",
        "ece_scaled": ".1f",
        "brier": ".3f",
    }
    return [[row["method"], *(number(row[name], forms[name]) for name in CALIBRATION)] for row in found]


def markdown(table: pd.DataFrame) -> str:
    """The tables of all data sets and their note."""
    lines: list[str] = []
    for dataset in dict.fromkeys(table["dataset"]):
        if found := rows(table, dataset):
            cells = [[escaped(name), *numbers] for name, *numbers in found]
            lines += [
                f"### {escaped(str(dataset))}: probabilities",
                "",
                *markdown_table([*HEADINGS.values()], cells),
                "",
            ]
    return "\n".join([*lines, NOTE, ""]) if lines else ""
