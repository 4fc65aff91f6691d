"""The accuracies of a run as tables show them: those of metrics.json, checked against the predictions."""

import math
from typing import Any

import pandas as pd

from lapml.errors import LapmlError
from lapml.runs.results import RECALL, only_of_class, recall_counts, top5_counts

TOP1_TOLERANCE = 0.5  # points between metrics.json and predictions.parquet: equal logits may be ranked in two ways


def scores(
    metrics: dict[str, Any], table: pd.DataFrame, class_names: list[str] | None
) -> tuple[dict[str, float], list[str]]:
    """Top-5 and Recall@K in percent, NaN if no answer can miss, and ``recall_left_out``.

    Runs made before ``recall_left_out`` counted images that are the only one of their class as misses; this is corrected.

    Args:
        metrics: of metrics.json; numbers, or null for no result.
        table: image, label, top1, at least.
        class_names: of provenance.json, which the oldest runs lack.

    Returns:
        (the numbers, one line per fault).
    """
    if len(table) != metrics["n"]:
        return {}, [f"predictions.parquet: found {len(table)} images, expected {metrics['n']} (metrics.json)"]
    top1 = 100 * (table["top1"] == table["label"]).mean()
    if not abs(top1 - metrics["top1"]) <= TOP1_TOLERANCE:
        return {}, [f"predictions.parquet: top1: found {top1:.2f} %, expected {metrics['top1']:.2f} (metrics.json)"]
    try:
        classes = class_count(table, class_names)
    except LapmlError as error:
        return {}, [str(error)]
    if classes < 2:
        return {}, ["provenance.json: class_names: found one class, expected at least two: every answer is right"]
    count, lone = len(table), int(only_of_class(table["label"].to_numpy()).sum())
    if metrics.get("recall_left_out", lone) != lone:
        return {}, [
            f"metrics.json: recall_left_out: found {metrics['recall_left_out']!r}, expected {lone} (predictions)"
        ]
    before = count / (count - lone) if "recall_left_out" not in metrics and lone < count else 1.0
    found = {f"recall{k}": _number(metrics[f"recall{k}"]) * before for k in RECALL}
    found["top5"] = _number(metrics["top5"])
    says = {f"recall{k}": recall_counts(k, count, lone) for k in RECALL}
    says["top5"] = top5_counts(classes)
    faults = [
        f"metrics.json: {name}: found None, expected a finite number" for name in found
        if says[name] and math.isnan(found[name])
    ]  # fmt: skip
    return {name: found[name] if says[name] else math.nan for name in found} | {"recall_left_out": lone}, faults


def class_count(table: pd.DataFrame, class_names: list[str] | None) -> int:
    """The number of classes of a run; without class names, the smallest that fits its predictions."""
    most = 1 + int(table.drop(columns="image").to_numpy().max())
    if class_names and most > len(class_names):
        raise LapmlError(
            f"predictions.parquet: found class {most - 1}, expected 0 to {len(class_names) - 1} (provenance.json)"
        )
    return len(class_names) if class_names else most


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
