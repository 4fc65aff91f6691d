"""A suite's runs while they run, for TensorBoard and for `dvc exp show` and `dvc plots show`, made from what the runs write anyway:
nothing of it is on a run's own path."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import write_json, write_text
from lapml.paths import Paths
from lapml.runs.watching import DONE, Standing, history_of

LEFT_OUT = ("epoch", "images_forward", "images_backward", "mixed_batches")  # columns of history.csv that are no curves
FIRST_LINE = "# Written by `lapml watch --dvc`: metrics and plots of the runs of a suite, as far as they are.\n"


class Events:
    """Event files below ``folder``, one folder DATASET/METHOD/SEED for each run; those that are there are replaced.

    Raises:
        LapmlError: the package tensorboard is missing.
    """

    def __init__(self, params: Params, paths: Paths, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LapmlError(
                f"--tensorboard: needs the package tensorboard ({error}); run `pip install tensorboard`"
            ) from None
        self.writer: Callable[[str], Any] = SummaryWriter
        self.params, self.paths, self.folder = params, paths, folder
        self.written: dict[Path, int] = {}  # epochs of each run; a finished one counts one more
        self.open: dict[Path, Any] = {}  # writers of the runs that are under way

    def added(self, standings: list[Standing]) -> None:
        """Write what is new since the last call."""
        for each in standings:
            if found := history_of(self.paths, each):
                top1 = each.top1 if each.state == DONE else None
                self._add(Path(each.dataset, each.method, str(each.seed)), *found, top1)

    def _add(self, run: Path, history: pd.DataFrame, ended: float, top1: float | None) -> None:
        rows = history.to_dict("records")
        known, now = self.written.get(run, 0), len(rows) + (top1 is not None)
        if known > now:  # it began again
            known = 0
        if known == now:
            return
        if not known:
            self.open.pop(run, None)
            for old in (self.folder / run).glob("events.out.tfevents.*"):  # a run's own files may lie beside them
                old.unlink()
        writer = self.open.pop(run, None) or self.writer(str(self.folder / run))
        for at in range(known, len(rows)):
            when = ended - sum(float(row["seconds"]) for row in rows[at + 1 :])
            for name, value in rows[at].items():
                if name not in LEFT_OUT and isinstance(value, int | float) and not math.isnan(value):
                    writer.add_scalar(f"train/{name}", value, int(rows[at]["epoch"]), when)
        if top1 is not None:
            writer.add_scalar(f"{self.params.eval_split}/top1", top1, len(rows), ended)
            writer.close()
        else:
            writer.flush()
            self.open[run] = writer
        self.written[run] = now


class Plots:
    """``dvc.yaml``, ``metrics.json`` and ``curves/DATASET/METHOD/SEED.csv`` in ``folder``, laid out as DVCLive does.

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
        """Write how runs stand."""
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
