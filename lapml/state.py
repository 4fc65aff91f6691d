"""What a run needs to go on where it stopped: its saved state, and the wish to stop."""

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lapml import ranks
from lapml.files import atomic


class Means:
    """Running means of 0-d tensors that stay on the device until :meth:`values` is called."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, stats: dict[str, Tensor]) -> None:
        for name, value in stats.items():
            # fp32 numbers whose sums are exact, in whatever order and over however many ranks they are taken
            self.sums[name] = self.sums.get(name, 0) + value.float().double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def over_ranks(self) -> None:
        """The sums become the mean over the ranks, which counted alike."""
        self.sums = {name: ranks.total(total) / ranks.size() for name, total in self.sums.items()}

    def values(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


@dataclass
class Epoch:
    """How far an epoch has come."""

    step: int = 0  # steps done
    means: Means = field(default_factory=Means)
    counts: dict[str, int] = field(
        default_factory=lambda: {"images_forward": 0, "images_backward": 0, "mixed_batches": 0}
    )
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """To be saved, or sent to another process."""
        sums = {name: value.cpu() for name, value in self.means.sums.items()}
        return {**vars(self), "means": {"sums": sums, "counts": self.means.counts}}

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device) -> "Epoch":
        means = Means()
        means.sums = {name: value.to(device) for name, value in state["means"]["sums"].items()}
        means.counts = state["means"]["counts"]
        return cls(**{**state, "means": means})


def save(path: Path, state: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a name, torch would hide what the system says
                torch.save(state, file)
        except RuntimeError as error:  # closing its archive fails too
            raise next(
                (each for each in (error.__context__, error.__cause__) if isinstance(each, OSError)), error
            ) from None


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The saved state, if it is one of the same settings, data, torch and kind of device."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file is worth no more than none: the run starts over
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None


class Watch:
    """Looks at steps: was the loss finite, and has SIGTERM or SIGINT (Ctrl-C) asked to stop, on any rank.

    A second signal acts at once, as it would without this.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal
        self.pending: list[tuple[int, Tensor, torch.cuda.Event | None]] = []
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

    def add(self, step: int, loss: Tensor) -> None:
        """A step and its loss (0-d, on the device)."""
        diverged = ~loss.isfinite()
        asked = torch.full_like(diverged, self.asked is not None)
        flags, arrived = ranks.total(torch.stack([diverged, asked]).int()), None
        if flags.is_cuda:
            flags = torch.empty(2, dtype=torch.int32, pin_memory=True).copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.pending.append((step, flags, arrived))

    def look(self, lag: int) -> tuple[int | None, bool]:
        """(the first step whose loss was not finite, whether to stop), without the last ``lag`` steps."""
        bad, asked = None, False
        while len(self.pending) > lag:
            step, flags, arrived = self.pending.pop(0)
            if arrived is not None:
                arrived.synchronize()  # waits for that step only
            diverged, stop = flags.tolist()
            bad = step if diverged and bad is None else bad
            asked |= bool(stop)
        return bad, asked

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked, ranks.asked = number, True
        signal.signal(number, self.before[number])
