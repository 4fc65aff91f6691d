"""How all runs of a suite stand, for `lapml watch`: what is finished, under way, stopped and still to come."""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import LIVE, Paths
from lapml.runs.execute import resolved
from lapml.runs.folder import is_under_way

DONE, RUNNING, STOPPED, WAITING = "done", "running", "stopped", "to come"


class Standing(NamedTuple):
    """How a run stands; None where a number is not known.

    Attributes:
        epoch: epochs that are done, of ``epochs``.
        loss: mean of the last epoch in training; accuracy: likewise, in percent, mixed images counted by their shares.
        left: seconds to its end at the pace of its epochs so far.
        top1: in percent, of a finished run.
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


def standings(params: Params, paths: Paths) -> list[Standing]:
    """Every run of a suite, in the order of its tables."""
    return [
        _standing(params, paths, dataset, method, seed)
        for dataset in params.datasets
        for method in params.all_methods()
        for seed in params.seeds
    ]


def _standing(params: Params, paths: Paths, dataset: str, method: str, seed: int) -> Standing:
    folder = paths.run(dataset, method, seed)
    try:
        epochs = resolved(params, paths, dataset, method, seed).train.epochs
    except LapmlError:  # its margins are not tuned yet
        epochs = None
    running = is_under_way(folder)
    if not running and (folder / "provenance.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return Standing(dataset, method, seed, DONE, epochs, epochs, top1=metrics["top1"])
    rows = _rows(folder / LIVE)
    if rows is None:
        return Standing(dataset, method, seed, RUNNING if running else WAITING, 0 if running else None, epochs)
    done, last = len(rows), rows.iloc[-1]
    left = None if epochs is None or not running else float(rows["seconds"].mean()) * (epochs - done)
    state = RUNNING if running else STOPPED
    return Standing(dataset, method, seed, state, done, epochs, float(last["loss"]), float(last["accuracy"]), left)


def _rows(file: Path) -> pd.DataFrame | None:
    """The epochs so far; None if there are none."""
    try:
        rows = pd.read_csv(file)
    except (OSError, ValueError):
        return None
    return rows if len(rows) else None
