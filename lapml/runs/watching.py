"""How all runs of a suite stand: what is finished, under way, stopped and still to come."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lapml.config import Params, settings_of
from lapml.errors import LapmlError
from lapml.paths import LIVE, Paths
from lapml.runs.execute import resolved
from lapml.runs.folder import is_under_way

DONE, RUNNING, STOPPED, WAITING, OTHER = "done", "running", "stopped", "to come", "of other settings"


class Standing(NamedTuple):
    """How a run stands; None where a number is not known.

    Attributes:
        epoch: epochs that are done, of ``epochs``.
        loss: mean of the last epoch in training; accuracy: likewise, in percent, mixed images counted by their shares.
        left: seconds to its end at the pace of its epochs so far.
        top1: in percent, of a finished run; took: its seconds, on ``device``.
    """

    dataset: str
    method: str
    seed: int
    state: str
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    left: float | None = None
    top1: float | None = None
    took: float | None = None
    device: str | None = None


def standings(params: Params, paths: Paths) -> list[Standing]:
    """Every run of a suite, in the order of its tables."""
    found = []
    for dataset in params.datasets:
        for method in params.all_methods():
            try:
                record = resolved(params, paths, dataset, method, 0).record()
            except LapmlError:  # its margins are not tuned yet
                record = None
            found += [_standing(paths, record, dataset, method, seed) for seed in params.seeds]
    return found


def _standing(paths: Paths, record: dict[str, Any] | None, dataset: str, method: str, seed: int) -> Standing:
    """
    Args:
        record: what config.json says of the method's runs, but for the seed; None: not known.
    """
    folder = paths.run(dataset, method, seed)
    epochs = record["train"]["epochs"] if record else None
    running = is_under_way(folder)
    if not running and (whole := _whole(folder)):
        made, origin, top1 = whole
        state = DONE if record is not None and made == record | {"seed": seed} else OTHER
        had = made["train"]["epochs"]
        run = Standing(dataset, method, seed, state, had, had, top1=top1)
        return run._replace(took=origin["seconds"], device=origin["device"]) if state == DONE else run
    rows = _rows(folder / LIVE)
    if rows is None:
        return Standing(dataset, method, seed, RUNNING if running else WAITING, 0 if running else None, epochs)
    done, last = len(rows), rows.iloc[-1]
    left = None if epochs is None or not running else float(rows["seconds"].mean()) * (epochs - done)
    state = RUNNING if running else STOPPED
    return Standing(dataset, method, seed, state, done, epochs, float(last["loss"]), float(last["accuracy"]), left)


def _whole(folder: Path) -> tuple[dict[str, Any], dict[str, Any], float] | None:
    """Settings, circumstances and top-1 of a run that lies there whole."""
    names = ("config.json", "provenance.json", "metrics.json")
    try:
        made, origin, metrics = (json.loads((folder / name).read_text(encoding="utf-8")) for name in names)
        made = settings_of(folder / names[0], made).record()  # by meaning: older records too
        return made, {"seconds": float(origin["seconds"]), "device": origin["device"]}, float(metrics["top1"])
    except (OSError, ValueError, KeyError, TypeError, LapmlError):
        return None


def history_of(paths: Paths, run: Standing) -> tuple[pd.DataFrame, float] | None:
    """The epochs of a run, finished or not, and when the last of them was written; None if there are none."""
    file = paths.run(run.dataset, run.method, run.seed) / ("history.csv" if run.state == DONE else LIVE)
    rows = _rows(file)
    try:
        return None if rows is None else (rows, file.stat().st_mtime)
    except OSError:  # it is being replaced
        return None


def _rows(file: Path) -> pd.DataFrame | None:
    """The epochs so far; None if there are none."""
    try:
        rows = pd.read_csv(file)
    except (OSError, ValueError):
        return None
    return rows if len(rows) else None
