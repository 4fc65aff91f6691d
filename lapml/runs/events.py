"""TensorBoard's event files of a suite's runs, made from what the runs write anyway: nothing of it is on a run's own path."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs.watching import DONE, Standing, history_of

LEFT_OUT = ("epoch", "images_forward", "images_backward", "mixed_batches")  # columns of history.csv that are no curves


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
        """Write what is new since the last call.

        Args:
            standings: of :func:`~lapml.runs.watching.standings`.
        """
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
            shutil.rmtree(self.folder / run, ignore_errors=True)
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
