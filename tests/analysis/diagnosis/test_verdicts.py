"""What is said of each part of the hypothesis, at its limits."""

import math

import numpy as np
import pandas as pd
import pytest

from lapml.analysis.diagnosis import tables
from lapml.analysis.diagnosis.metrics import MIXING


def lines(*rows: tuple[str, str, float, float, float]) -> list[str]:
    return tables.verdicts(pd.DataFrame(list(rows), columns=["metric", "against", "ratio", "low", "high"]))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "outcome"),
    [
        (0.3, 0.2, 0.4, "holds"),
        (0.3, 0.2, 0.5, "holds"),  # the whole interval is at most 0.5
        (0.5, 0.5, 0.5, "holds"),
        (0.0, 0.0, 0.0, "holds"),
        (0.3, 0.2, float(np.nextafter(0.5, 1)), "open"),
        (0.6, 0.5, 0.7, "open"),  # not wholly above
        (0.6, float(np.nextafter(0.5, 1)), 0.7, "fails"),
        (1.2, 0.9, 1.5, "fails"),
        (0.4, 0.0, math.inf, "open"),
        (3.0, 0.6, math.inf, "fails"),
    ],
)
@pytest.mark.parametrize("metric", ["meaningless", "obscured", "label_error_masks", "label_error_parts"])
@pytest.mark.parametrize("against", ["cutmix", "random places"])
def test_a_verdict(ratio, low, high, outcome, metric, against):
    (line,) = lines((metric, against, ratio, low, high))
    assert line.endswith(f"{outcome}.")
    assert sum(word in line for word in ("holds", "fails", "open", "cannot be told")) == 1
    assert line.startswith(MIXING[metric]) and f"{ratio:.2f}" in line and f"of {against};" in line


@pytest.mark.parametrize(
    ("ratio", "low", "high"),
    [
        (math.nan, math.nan, math.nan),
        (math.inf, math.nan, math.nan),
        (math.inf, 0.2, math.inf),
        (math.nan, 0.2, 0.4),
        (0.4, math.nan, math.nan),
    ],
)
def test_what_cannot_be_told(ratio, low, high):
    (line,) = lines(("meaningless", "cutmix", ratio, low, high))
    assert "cannot be told" in line and "cutmix" in line and MIXING["meaningless"] in line
    assert not any(word in line for word in ("holds", "fails", "open"))


def test_a_line_a_row_in_their_order():
    rows = [("meaningless", "cutmix", 0.1, 0.0, 0.2), ("obscured", "cutmix", 2.0, 1.0, 3.0)]
    first, second = lines(*rows)
    assert first.endswith("holds.") and second.endswith("fails.")
    assert first.startswith(MIXING["meaningless"]) and second.startswith(MIXING["obscured"])
    assert lines() == []
