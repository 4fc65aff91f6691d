"""Files of a run folder, read and compared: JSON records, and predictions."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lapml.errors import LapmlError


def differences(found: Any, expected: Any, key: str = "") -> list[str]:
    """Where two JSON records differ: a line a key, as ``train.lr: found 0.1, expected 0.01``."""
    if isinstance(found, dict) and isinstance(expected, dict):
        missing = object()
        lines = []
        for name in [*expected, *(extra for extra in found if extra not in expected)]:
            where = f"{key}.{name}" if key else str(name)
            if (left := found.get(name, missing)) is missing:
                lines.append(f"{where}: missing, expected {expected[name]!r}")
            elif (right := expected.get(name, missing)) is missing:
                lines.append(f"{where}: found {left!r}, expected no such key")
            else:
                lines += differences(left, right, where)
        return lines
    return [] if found == expected else [f"{key}: found {found!r}, expected {expected!r}"]


def mismatch(truth: tuple[list, list], name: str, first: tuple[list, list]) -> str:
    """The first place where two runs' images or labels differ."""
    for row, (found, expected) in enumerate(zip(zip(*truth, strict=True), zip(*first, strict=True), strict=False)):
        if found != expected:
            return f"row {row}: image, label: found {found}, expected {expected} (as in {name})"
    return f"found {len(truth[0])} images, expected {len(first[0])} (as in {name})"


def read_json(path: Path, shown: str | None = None) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LapmlError(f"{shown or path}: missing") from None
    except (ValueError, OSError):
        raise LapmlError(f"{shown or path}: cannot be read as JSON (half written?)") from None
    if not isinstance(record, dict):
        raise LapmlError(f"{shown or path}: found {type(record).__name__}, expected a JSON object")
    return record


def parquet(path: Path, top: int = 1) -> pd.DataFrame:
    """A run's predictions: image, label, and top1 to top``top``.

    Raises:
        LapmlError: the file is damaged or has no such column.
    """
    try:
        return pd.read_parquet(path, columns=["image", "label", *(f"top{rank + 1}" for rank in range(top))])
    except Exception as error:  # pyarrow raises many kinds for a file that is cut short or lacks a column
        raise LapmlError(f"{path.name}: cannot be read ({' '.join(str(error).split())})") from None
