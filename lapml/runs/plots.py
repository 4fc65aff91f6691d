"""Metrics and plots of a suite's runs for `dvc exp show` and `dvc plots show` while they run, laid out as DVCLive does, made from
what the runs write anyway: nothing of it is on a run's own path."""

import json
import os
from pathlib import Path
from typing import Any

from lapml.errors import LapmlError
from lapml.files import write_json, write_text
from lapml.paths import Paths
from lapml.runs.events import LEFT_OUT
from lapml.runs.watching import Standing, history_of

FIRST_LINE = "# Written by `lapml watch --dvc`: metrics and plots of the runs of a suite, as far as they are.\n"


class Plots:
    """``dvc.yaml``, ``metrics.json`` and ``curves/DATASET/METHOD/SEED.csv`` in ``folder``.

    Raises:
        LapmlError: a dvc.yaml of something else lies there.
    """

    def __init__(self, paths: Paths, folder: Path):
        self.paths, self.folder = paths, folder
        self.written: dict[Path, Any] = {}  # changes of the runs' files that were taken over
        file = folder / "dvc.yaml"
        if os.path.lexists(file) and not file.read_text(encoding="utf-8").startswith(FIRST_LINE):
            raise LapmlError(
                f"--dvc: found a dvc.yaml of something else in {folder}, expected an empty folder; name another one"
            )

    def added(self, standings: list[Standing]) -> None:
        """Write how runs stand.

        Args:
            standings: of :func:`~lapml.runs.watching.standings`.
        """
        plots: dict[str, dict[str, str]] = {}  # {column: {file: column}}
        metrics: dict[str, Any] = {}
        for each in standings:
            if (found := history_of(self.paths, each)) is None:
                continue
            history, changed = found
            file = Path("curves", each.dataset, each.method, f"{each.seed}.csv")
            if self.written.get(file) != changed:
                write_text(self.folder / file, history.to_csv(index=False, lineterminator="\n"))
                self.written[file] = changed
            for name in history.dropna(axis=1, how="all").columns.difference(LEFT_OUT, sort=False):
                plots.setdefault(name, {})[file.as_posix()] = name
            numbers = {"epoch": each.epoch, "loss": each.loss, "accuracy": each.accuracy, "top1": each.top1}
            known = {name: value for name, value in numbers.items() if value is not None}
            metrics.setdefault(each.dataset, {}).setdefault(each.method, {})[str(each.seed)] = known
        write_json(self.folder / "metrics.json", metrics)
        about = {
            "metrics": ["metrics.json"],
            "plots": [{name: {"x": "epoch", "y": files}} for name, files in plots.items()],
        }
        write_text(self.folder / "dvc.yaml", FIRST_LINE + json.dumps(about, indent=2) + "\n")  # JSON is YAML
