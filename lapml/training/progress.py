"""What a run is, and how far it has come: a progress bar, or one line per epoch."""

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from lapml.common import ranks
from lapml.common.provenance import device_name
from lapml.config import Run, Train
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.models.device import pick_device
from lapml.training.state import Means

EVERY = 0.5  # seconds from one figure on the bar to the next: showing one waits for the device


def heading(run: Run, packed: Packed, where: str) -> str:
    """What a run is, in two lines.

    Args:
        where: its results go.
    """
    (device, precision), train = pick_device(run.train), run.train
    images, cut = len(rows_of(packed.index, run.fit)), run.model.truncate
    return (
        f"{run.dataset}/{run.method}/{run.seed}: {run.model.name}{f' cut at stride {cut}' if cut else ''}, "
        f"{run.data.view.side} px, {precision} on {device_name(device)}\n"
        f"{images} images of {len(packed.class_names)} classes, {train.epochs} epochs of {images // train.batch} steps of "
        f"{train.batch}; results go to {where}"
    )


class Progress:
    """One bar for the whole run, so that the time left is the run's; on the first of several ranks.

    Args:
        quiet: one line per epoch instead of a bar.
        log: takes those lines.
        steps: per epoch; done: of the run already.
    """

    def __init__(self, quiet: bool, log: Callable[[str], None], train: Train, steps: int, done: int):
        self.quiet, self.log, self.train, self.steps, self.done = quiet, log, train, steps, done
        self.bar, self.shown, self.current = None, 0.0, -1

    def __enter__(self) -> Self:
        if not self.quiet and ranks.rank() == 0:
            from tqdm import tqdm

            batch = self.train.batch
            total = self.train.epochs * self.steps * batch
            self.bar = tqdm(total=total, initial=self.done * batch, unit="img", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, epoch: int, means: Means) -> None:
        """A step of an epoch, counted from 0, is done."""
        if self.bar is None:
            return
        if epoch != self.current:
            self.bar.set_description(f"epoch {epoch + 1}/{self.train.epochs}")
            self.current = epoch
        if time.perf_counter() - self.shown > EVERY:
            self.shown = time.perf_counter()
            values = means.values()
            self.bar.set_postfix_str(f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.1f} %")
        self.bar.update(self.train.batch)

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done; ``row`` is its row of history.csv."""
        if not self.quiet:
            return
        speed = self.steps * self.train.batch / row["seconds"]
        left = row["seconds"] * (self.train.epochs - row["epoch"])
        self.log(
            f"epoch {row['epoch']}/{self.train.epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.1f} %  "
            f"{speed:.0f} images/s  {left:.0f} s left"
        )
