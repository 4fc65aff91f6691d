"""Files of a run folder, read and compared: predictions, history, and where records differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.common.recorded import MISSING, differing
from lapml.errors import LapmlError


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


def parquet(path: Path, top: int = 1) -> pd.DataFrame:
    """A run's predictions: image, label, and top1 to top``top``.

    Raises:
        LapmlError: the file is damaged, lacks a column, or has values that are not image names and class numbers.
    """
    columns = ["image", "label", *(f"top{rank + 1}" for rank in range(top))]
    try:
        table = pd.read_parquet(path, columns=columns)
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
    if (twice := table["image"].duplicated()).any():
        raise LapmlError(f"{path.name}: image: found {table['image'][twice].iloc[0]!r} twice, expected each image once")
    return table


def history_of(path: Path, curves: tuple[str, ...], epochs: int) -> list[str]:
    """Faults of a run's history.csv.

    Args:
        curves: columns that hold a number in every epoch.
        epochs: how many there are.
    """
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
