"""The saved state of a run, from which it continues."""

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lapml.common import ranks, saved
from lapml.config import digest
from lapml.errors import LapmlError
from lapml.training.bank import Bank

SAVE_EVERY = (
    60.0  # seconds, at least, from one saved state to the next: on a GPU an epoch takes little longer than saving
)


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
        if self.sums:
            means = ranks.total(torch.stack(list(self.sums.values()))) / ranks.size()
            self.sums = dict(zip(self.sums, means.unbind(), strict=True))

    def values(self) -> dict[str, float]:
        if not self.sums:
            return {}
        sums = torch.stack(list(self.sums.values())).tolist()  # the device is waited for once
        return {name: total / self.counts[name] for name, total in zip(self.sums, sums, strict=True)}


@dataclass
class Epoch:
    """Progress of an epoch."""

    step: int = 0  # steps done
    means: Means = field(default_factory=Means)
    counts: dict[str, int] = field(
        default_factory=lambda: {"images_forward": 0, "images_backward": 0, "mixed_batches": 0}
    )
    seconds: float = 0.0

    def add(self, stats: dict[str, Tensor], forwards: int, backwards: int, mixed: bool) -> None:
        """A step: its statistics, the images that passed over all ranks, and whether its batch was mixed."""
        self.means.add(stats)
        self.counts["images_forward"] += forwards
        self.counts["images_backward"] += backwards
        self.counts["mixed_batches"] += mixed
        self.step += 1

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


class Checkpoint:
    """``last.pt``: where a run stands, from which it continues exactly. Rank 0 writes it.

    Args:
        path: of the file; None: nothing is saved.
        made: settings, data, code, torch, kind of device, …: only a state of the same is used.
        models: all that change in training.
    """

    def __init__(
        self,
        path: Path | None,
        made: dict[str, Any],
        models: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        bank: Bank | None,
    ):
        self.path, self.made, self.models, self.optimizer, self.bank = path, made, models, optimizer, bank
        self.resumed = 0  # how often the run was taken up again
        self.good = "the initial one"  # the last state that was kept, for messages
        self.saved = time.monotonic()

    def restored(
        self, device: torch.device, replace: bool, log: Callable[[str], None]
    ) -> tuple[list[dict[str, Any]], Epoch]:
        """Put a kept state in place, if there is one; returns its history, and how far its last epoch had come.

        Args:
            replace: whether the state of something else is set aside.

        Raises:
            LapmlError: there is one, and it is not to be set aside, or is damaged, though it can be read.
        """
        found = ranks.on_first(lambda: self._found(replace, log))
        if not found:
            return [], Epoch()
        try:
            history, now = self._put(found, device)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise LapmlError(
                f"{self.path}: does not fit the run whose state it is ({text}), so it is damaged; move it away to start again"
            ) from None
        self._is_good(history, now)
        epochs = self.made["settings"]["train"]["epochs"]
        log(f"resumed after epoch {len(history)} of {epochs}" + (f", step {now.step}" if now.step else ""))
        return history, now

    def _put(self, found: dict[str, Any], device: torch.device) -> tuple[list[dict[str, Any]], Epoch]:
        for model, values in zip(self.models, found["models"], strict=True):
            model.load_state_dict(values)
        _put_optimizer(self.optimizer, found["optimizer"])
        if self.bank is not None:
            self.bank.cells.copy_(found["bank"])
        of_rank = found["ranks"][ranks.rank()]  # in mid-epoch they differ
        for buffer, value in zip(self._buffers(), of_rank["buffers"], strict=True):
            buffer.copy_(value)
        history, now, self.resumed = (
            list(found["history"]),
            Epoch.restored(of_rank["epoch"], device),
            found["resumed"] + 1,
        )
        for row in history:
            _numbers(row, ("epoch", "seconds", "images_forward", "images_backward"))
        _numbers({**now.counts, "step": now.step, "seconds": now.seconds}, Epoch().counts)
        _numbers({**{name: float(value) for name, value in now.means.sums.items()}, **now.means.counts}, now.means.sums)
        return history, now

    def _found(self, replace: bool, log: Callable[[str], None]) -> dict[str, Any] | None:
        """The state to continue from, or None; any other is set aside."""
        if self.path is None or not self.path.exists():
            return None
        state = saved.read(self.path)
        if state is None or "key" not in state:
            log(f"{saved.state_aside(self.path)}: was damaged: the run starts again")
            return None
        if state.get("key") == digest(self.made):
            return state
        lines = saved.state_differences(state, self.made)
        if not replace:
            raise LapmlError(
                f"{self.path}: is the saved state of a run that differs, after "
                f"{len(state.get('history', []))} epochs: "
                f"{saved.shown(lines)}; continue it with its settings, or give --replace to set it aside and start again"
            )
        log(f"{saved.state_aside(self.path)}: set aside, it differs: {saved.shown(lines)}")
        return None

    def due(self) -> bool:
        """Whether the last state was kept :data:`SAVE_EVERY` seconds ago, by the first rank's clock."""
        return self.path is not None and ranks.agreed(time.monotonic() - self.saved >= SAVE_EVERY)

    def save(self, history: list[dict[str, Any]], now: Epoch) -> None:
        if self.path is None:
            return
        each = ranks.collected({"epoch": now.state(), "buffers": [buffer.cpu() for buffer in self._buffers()]})
        # none goes on before it is written: the first that ends may have its launcher end the others
        ranks.on_first(partial(self._write, self.path, each, history))
        self.saved = time.monotonic()
        self._is_good(history, now)

    def _write(self, path: Path, each: list[dict[str, Any]], history: list[dict[str, Any]]) -> None:
        record = {
            "key": digest(self.made),
            "made": json.loads(json.dumps(self.made)),
            "models": [model.state_dict() for model in self.models],
            "optimizer": self.optimizer.state_dict(),
        }
        record |= {"ranks": each, "bank": self.bank.cells if self.bank else None, "history": history}
        saved.save(path, {**record, "resumed": self.resumed})

    def _buffers(self) -> list[Tensor]:
        return [buffer for model in self.models for buffer in model.buffers()]

    def _is_good(self, history: list[dict[str, Any]], now: Epoch) -> None:
        self.good = f"that of epoch {len(history)}{f' and step {now.step} after it' if now.step else ''}, {self.path}"


def _put_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Any]) -> None:
    """As load_state_dict, which takes whatever it is given."""
    kinds = [{name: type(value) for name, value in group.items()} for group in optimizer.param_groups]
    optimizer.load_state_dict(found)
    if kinds != [  # some optimizers count their steps in a group, from the first one on
        {name: type(value) for name, value in group.items() if name in kind}
        for group, kind in zip(optimizer.param_groups, kinds, strict=True)
    ]:
        raise ValueError("the optimiser's settings are not of the types that they should be")
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if value is not None and (not isinstance(value, Tensor) or value.shape not in (weight.shape, torch.Size())):
                raise ValueError(f"the optimiser's {name} is no tensor of its weight's shape")


def _numbers(record: dict[str, Any], needed: Collection[str]) -> None:
    """ValueError where a record lacks one of these, or holds anything but numbers and, beside them, None."""
    for name in {*needed, *record}:
        value = record[name]
        if (isinstance(value, bool) or not isinstance(value, int | float)) and (value is not None or name in needed):
            raise ValueError(f"{name}: found {type(value).__name__}, expected a number")


def all_finite(model: nn.Module) -> bool:
    """Whether all weights and running statistics of a model are numbers, on every rank. The device is waited for once."""
    finite = [value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point()]
    return int(ranks.total(torch.stack(finite).all().int())) == ranks.size()
