"""What a run's steps are watched for: a loss that is not finite or stays far above that of guessing, and the wish to stop."""

import signal
import threading
from collections import deque
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from lapml.common import ranks
from lapml.config import Run
from lapml.errors import DivergedError, Stopped
from lapml.training.optim import schedule
from lapml.training.state import Checkpoint, all_finite

FAR, LONG = 3.0, 100  # times the cross-entropy of guessing; steps in a row after the warm-up
HARDLY = 1.5  # times as many right as by guessing: one that learns, if with too large numbers, has more


class Watch:
    """Looks at steps: was the loss finite, and has SIGTERM or SIGINT (Ctrl-C) asked to stop, on any rank. And is the run lost:
    after the warm-up, :data:`LONG` steps in a row whose cross-entropy is more than :data:`FAR` times that of guessing, while
    less than :data:`HARDLY` times as many images as by guessing are right.

    A second signal acts at once, as it would without this.

    Args:
        run: whose steps they are; steps: per epoch; classes: of its data; saved: of the run.
        lag: steps that are not waited for: none on a CPU, one on a GPU.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, run: Run, steps: int, classes: int, saved: Checkpoint, lag: int) -> None:
        self.run, self.steps, self.classes, self.saved, self.lag = run, steps, classes, saved, lag
        self.epoch = 0  # counted from 0
        self.asked: int | None = None  # the signal
        self.pending: list[tuple[int, Tensor, torch.cuda.Event | None]] = []
        self.far: deque[float] = deque(
            maxlen=LONG
        )  # accuracies of the last steps, all of which were far above guessing
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self.before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked and kind is None:  # after the last step: whoever comes next has to stop
            signal.raise_signal(self.asked)

    def add(self, step: int, stats: dict[str, Tensor]) -> None:
        """A step and its statistics (0-d, on the device): ``loss``, ``accuracy`` in percent, and its cross-entropy as a multiple
        of that of guessing."""
        asked = torch.full_like(stats["loss"], self.asked is not None)
        flags = [~stats["loss"].isfinite(), asked, stats["of_guessing"] > FAR, stats["accuracy"]]
        seen, arrived = ranks.total(torch.stack([each.float() for each in flags])), None
        if seen.is_cuda:
            seen = torch.empty(len(flags), pin_memory=True).copy_(seen, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.pending.append((step, seen, arrived))

    def asked_to_stop(self, lag: int | None = None) -> bool:
        """Whether any rank was asked to. Where one was, all steps until now are looked at; else all but the last ``lag`` ones.

        Raises:
            DivergedError: the loss of one of them was not finite, or the run is lost.
        """
        asked = self._look(self.lag if lag is None else lag)
        return asked and (self._look(0) or True)

    def _look(self, lag: int) -> bool:
        bad, asked = None, False
        while len(self.pending) > lag:
            step, seen, arrived = self.pending.pop(0)
            if arrived is not None:
                arrived.synchronize()  # waits for that step only
            diverged, stop, far, accuracy = seen.tolist()
            bad = step if diverged and bad is None else bad
            asked |= bool(stop)
            if bad is None:
                self._follow(step, far == ranks.size(), accuracy / ranks.size())
        if bad is not None:
            raise self._diverged("the loss was not finite", bad)
        return asked

    def _follow(self, step: int, far: bool, accuracy: float) -> None:
        """Take a step into account; DivergedError where the run is lost."""
        if not far or self.epoch * self.steps + step < self.run.train.warmup_epochs * self.steps:
            self.far.clear()
            return
        self.far.append(accuracy)
        right = sum(self.far) / len(self.far)
        if len(self.far) == LONG and right < HARDLY * 100 / self.classes:
            what = f"the cross-entropy was above {FAR:g} times that of guessing for {LONG} steps, with {right:.1f} % right,"
            raise self._diverged(what, step)

    def refuse_bad_weights(self, model: nn.Module, step: int) -> None:
        """DivergedError where weights are not finite after ``step`` steps of the epoch: a finite loss may have had a gradient
        that was not, and such a state is neither saved nor evaluated."""
        if not all_finite(model):
            raise self._diverged("the weights were not finite", step - 1)

    def _diverged(self, what: str, step: int) -> DivergedError:
        run, train = self.run, self.run.train
        lr = schedule(train, self.steps, self.epoch * self.steps + step)
        return DivergedError(
            f"{run.dataset}/{run.method}/{run.seed}: {what} in epoch {self.epoch + 1}, step {step + 1} of {self.steps}, at lr "
            f"{lr:.3g}; the last good state is {self.saved.good}. Lower train.lr or margin.weight, or set train.clip_grad"
        )

    def stopped(self, step: int) -> Stopped:
        """What ends a run that was asked to stop after ``step`` steps of the epoch; 0: after the whole epoch."""
        where = (
            f"in epoch {self.epoch + 1} after step {step} of {self.steps}" if step else f"after epoch {self.epoch + 1}"
        )
        then = "run the same command again" + (" to go on from there" if self.saved.path else "")
        return Stopped(f"{self.run.dataset}/{self.run.method}/{self.run.seed}: stopped {where}; {then}")

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked, ranks.asked = number, True
        signal.signal(number, self.before[number])
