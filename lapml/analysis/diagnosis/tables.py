"""A diagnosis as tables, Markdown and JSON."""

import math
from typing import Any

import numpy as np
import pandas as pd

from lapml.analysis.diagnosis import localisers
from lapml.analysis.diagnosis.measure import Measured
from lapml.analysis.diagnosis.metrics import LOCALISATION, MIXING
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table
from lapml.config import Params
from lapml.training.mixes import RANDOM

# The others are shares of 1.
PERCENT = ("area", "meaningless", "obscured", "ghost", "agreement", *LOCALISATION, *localisers.METRICS)
LIMIT = 0.5  # ratio of the hypothesis


def verdicts(ratios: pd.DataFrame) -> list[str]:
    """One sentence per part of the hypothesis."""
    lines = []
    for row in ratios.to_dict("records"):
        name, against = MIXING[row["metric"]], row["against"]
        if math.isnan(row["low"]) or not math.isfinite(row["ratio"]):
            lines.append(f"{name}: loc_cutmix over {against} cannot be told: too few images of {against} are affected.")
            continue
        outcome = "open"
        if row["high"] <= LIMIT:
            outcome = "holds"
        elif row["low"] > LIMIT:
            outcome = "fails"
        lines.append(
            f"{name}: loc_cutmix has {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] times that of {against}; "
            f"at most {LIMIT:g}: {outcome}."
        )
    return lines


def columns(found: Measured) -> dict[str, str]:
    """Metric → heading of the table of mixers; metrics without values are left out."""
    return {
        name: f"{title} %" if name in PERCENT else title
        for name, title in MIXING.items()
        if name in found.table and found.table[name].notna().any()
    }


def cell(row: dict[str, Any], metric: str) -> str:
    """A metric with its interval as text; – where it does not apply."""
    values = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
    if math.isnan(values[0]):
        return "–"
    if metric in PERCENT:
        value, low, high = (f"{100 * each:.1f}" for each in values)
        if math.isnan(values[1]):  # no interval
            return value
    else:
        value, low, high = (f"{each:.3f}" for each in values)
    return f"{value} [{low}, {high}]"


def of_maps(found: Measured) -> list[list[str]]:
    """Each metric of localisation: its name, the measured value, and the value by chance."""
    return [
        [f"{LOCALISATION[metric]} %", cell(row, metric), cell(row, f"{metric}_chance")]
        for row in found.maps.to_dict("records")
        for metric in ("pointing", "near", "iou")
    ]


def of_localisers(found: Measured) -> list[list[str]]:
    """One line per localiser: its name, and each of its metrics."""
    return [
        [row["method"], *(cell(row, metric) for metric in localisers.METRICS)]
        for row in found.localisers.to_dict("records")
    ]


LOCALISERS = ["localiser", *(f"{title} %" for title in localisers.METRICS.values())]  # heading of their table


def note(found: Measured, params: Params) -> str:
    """Note on the numbers."""
    record = found.record
    object_ = {"masks": "masks", "boxes": "boxes", "unknown": "nothing: not every image has a box"}[record["object"]]
    return (
        f"Definitions: docs/diagnosis.md. {record['generated']:,} generated images of each mixer and model, of "
        f"{record['images']:,} training images; class maps of a forward pass by the trained models of {params.diagnose.method}, "
        f"seeds {', '.join(map(str, record['seeds']))}; objects by {object_}. [Interval]: {100 * params.report.confidence:g} %, "
        f"hierarchical bootstrap over models and images, {params.report.bootstrap:,} replicates. {RANDOM}: the control."
        + (f" Localisers: of {record['compared']} whole training images." if "compared" in record else "")
    )


def markdown(found: Measured, params: Params) -> str:
    """The tables, the hypothesis and the note."""
    heads = columns(found)
    lines = [f"### {escaped(found.record['dataset'])}: mixed images and labels", ""]
    rows = [[escaped(row["method"]), *(cell(row, each) for each in heads)] for row in found.table.to_dict("records")]
    lines += markdown_table(["method", *heads.values()], rows) if rows else ["No method mixes."]
    if maps := of_maps(found):
        lines += ["", *markdown_table(["class maps", "measured", "chance"], maps)]
    if beside := of_localisers(found):
        lines += ["", *markdown_table(LOCALISERS, beside)]
    if len(found.ratios):
        lines += ["", "Hypothesis: at most half of plain CutMix’s meaningless images, obscured images and label error."]
        lines += ["", *(f"- {line}" for line in verdicts(found.ratios))]
    return "\n".join([*lines, "", note(found, params), ""])


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if not isinstance(value, float) or np.isfinite(value):
        return value
    return None if np.isnan(value) else str(value)


def record(found: Measured) -> dict[str, Any]:
    """Everything as JSON; missing numbers are null, infinite ones "inf"."""
    frames = {"mixers": found.table, "maps": found.maps, "ratios": found.ratios, "labels": found.labels}
    if len(found.localisers):
        frames["localisers"] = found.localisers
    tables = {
        name: [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
        for name, frame in frames.items()
    }
    return {**found.record, **tables}
