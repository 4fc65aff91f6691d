"""Files of a run folder, read and compared: predictions, history, accuracies, and where records differ."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.common.recorded import MISSING, differing, read_json
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths

TOP = 5  # first answers among which top-5 looks for the class
RECALL = (1, 5)  # neighbours among which Recall@K looks for one of the class
TOP1_TOLERANCE = 0.5  # points between metrics.json and predictions.parquet: equal logits may be ranked in two ways


def differences(found: Any, expected: Any) -> list[str]:
    """Where two JSON records differ: one line per key, as ``train.lr: found 0.1, expected 0.01``."""
    return [
        f"{key}: missing, expected {right!r}"
        if left is MISSING
        else f"{key}: found {left!r}, expected {'no such key' if right is MISSING else repr(right)}"
        for key, left, right in differing(found, expected)
    ]


def mismatch(truth: tuple[list, list], name: str, first: tuple[list, list]) -> str:
    """The first place where two runs' images or labels differ."""
    for row, (found, expected) in enumerate(zip(zip(*truth, strict=True), zip(*first, strict=True), strict=False)):
        if found != expected:
            return f"row {row}: image, label: found {found}, expected {expected} (as in {name})"
    return f"found {len(truth[0])} images, expected {len(first[0])} (as in {name})"


def parquet(path: Path, top: int = 1, shares: tuple[str, ...] = ()) -> pd.DataFrame:
    """A run's predictions: image, label, top1 to top``top``, and ``shares``, columns of such; LapmlError where the file is damaged,
    lacks a column, or has values that are not image names, class numbers and shares."""
    columns = ["image", "label", *(f"top{rank + 1}" for rank in range(top))]
    try:
        table = pd.read_parquet(path, columns=[*columns, *shares])
    except Exception as error:  # pyarrow raises many types for a damaged file
        raise LapmlError(f"{path.name}: cannot be read ({' '.join(str(error).split())})") from None
    if table.empty:
        raise LapmlError(f"{path.name}: found no image, expected at least one")
    if not all(isinstance(name, str) for name in table["image"]):
        raise LapmlError(f"{path.name}: image: expected the name of an image in every row")
    for column in columns[1:]:
        if (
            not pd.api.types.is_integer_dtype(table[column])
            or table[column].isna().any()
            or not (table[column] >= 0).all()
        ):
            raise LapmlError(
                f"{path.name}: {column}: found {table[column].dtype}, expected the number of a class in every row"
            )
    for column in shares:
        if table[column].dtype.kind != "f" or not table[column].between(0, 1).all():
            raise LapmlError(f"{path.name}: {column}: expected a number from 0 to 1 in every row")
    if (twice := table["image"].duplicated()).any():
        raise LapmlError(f"{path.name}: image: found {table['image'][twice].iloc[0]!r} twice, expected each image once")
    return table


def history_of(path: Path, curves: tuple[str, ...], epochs: int) -> list[str]:
    """Faults of a run's history.csv; ``curves``: columns that hold a number in every of so many ``epochs``."""
    try:
        history = pd.read_csv(path)
    except (ValueError, OSError) as error:
        return [f"{path.name}: cannot be read ({' '.join(str(error).split())})"]
    if absent := {"epoch", *curves} - set(history):
        return [f"{path.name}: column {', '.join(sorted(absent))}: missing"]
    if len(history) != epochs:
        return [f"{path.name}: found {len(history)} epochs, expected {epochs}"]
    for column in history:
        numbers = pd.api.types.is_numeric_dtype(history[column]) and not pd.api.types.is_bool_dtype(history[column])
        valid = numbers and (
            np.isfinite(history[column]) | (history[column].isna() & (column not in ("epoch", *curves)))
        )
        if not numbers or not valid.all():
            return [f"{path.name}: column {column}: expected finite numbers"]
    if (history["epoch"].diff().iloc[1:] != 1).any():
        return [f"{path.name}: column epoch: found {str(history['epoch'].tolist())[:80]}, expected consecutive epochs"]
    return []


@dataclass(frozen=True)
class Answers:
    """What the runs of one method answer, one run for each of S seeds, all for the same N images."""

    images: list[str]  # (N,) paths, as in the index
    labels: np.ndarray  # (N,) int
    first: np.ndarray  # (S, N) int, first answers
    names: list[str] | None = None  # the classes by label; None for runs of long ago, which did not record them

    @property
    def right(self) -> np.ndarray:
        """(S, N) bool."""
        return self.first == self.labels


def predictions(params: Params, paths: Paths) -> dict[tuple[str, str], Answers]:
    """What each method answers: {(dataset, method): its runs' answers}.

    Raises:
        LapmlError: lists the runs whose images or labels are not those of the data set's first run, in its order.
    """
    found, faults = {}, []
    for dataset in params.datasets:
        first = names = None
        for method in params.all_methods():
            answers = []
            for seed in params.seeds:
                folder = paths.run(dataset, method, seed)
                table = parquet(folder / "predictions.parquet")
                truth = (table["image"].tolist(), table["label"].tolist())
                if first is None:
                    first, names = (f"{method}/{seed}", truth), read_json(folder / "provenance.json").get("class_names")
                if truth != first[1]:
                    faults.append(f"{dataset}/{method}/{seed}: predictions.parquet: {mismatch(truth, *first)}")
                answers.append(table["top1"].to_numpy())
            if not faults:
                found[dataset, method] = Answers(truth[0], table["label"].to_numpy(), np.stack(answers), names)
    refuse(faults, params)
    return found


def refuse(faults: list[str], params: Params) -> None:
    """LapmlError where there are faults of a suite's runs."""
    if faults:
        raise LapmlError(
            f"the runs of suite {params.suite!r} do not fit its settings, so no table is made:\n  "
            + "\n  ".join(faults)
            + "\nrun `snakemake` or `dvc repro` again: it makes what is missing or out of date; if it finds nothing to "
            "do, delete the folders of these runs first"
        )


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


def only_of_class(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: the images that are the only one of their class."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[members] == 1


def top5_counts(classes: int) -> bool:
    """Whether top-5 can miss: among five classes or fewer every answer is right."""
    return classes > TOP


def recall_counts(k: int, images: int, left_out: int) -> bool:
    """Whether Recall@K exists and can miss: some images count, and there are more than K others."""
    return left_out < images and images - 1 > k


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
