"""Training: one linear loop over the steps of step.py. A method's settings decide what a step mixes and which loss it takes."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU; before CUDA starts

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from lapml.common import ranks  # noqa: E402
from lapml.common.gpus import ALONE, memory  # noqa: E402
from lapml.common.provenance import code_sha256, versions  # noqa: E402
from lapml.config import Run, Train, digest  # noqa: E402
from lapml.data.batches import Batches  # noqa: E402
from lapml.data.draws import step_seed  # noqa: E402
from lapml.data.index import rows_of  # noqa: E402
from lapml.data.pack import Packed  # noqa: E402
from lapml.errors import LapmlError  # noqa: E402
from lapml.files import write_text  # noqa: E402
from lapml.models.device import DTYPES, pick_device  # noqa: E402
from lapml.models.model import Classifier, build  # noqa: E402
from lapml.training import state  # noqa: E402
from lapml.training.optim import schedule, set_rate  # noqa: E402
from lapml.training.progress import Progress  # noqa: E402
from lapml.training.step import make_learner, take_step  # noqa: E402
from lapml.training.watch import Watch  # noqa: E402

if TYPE_CHECKING:
    from lapml.localise.store import Localised

COLUMNS = (
    "epoch lr loss ce loss_margin loss_adaptive loss_custom accuracy d_mean s_mean rho_mean beyond "
    "mixed_batches images_forward images_backward seconds"
).split()


@dataclass
class Fitted:
    models: list[Classifier]  # as the last step left it, and with ``train.ema`` its moving average
    history: list[dict[str, Any]]  # one row per epoch, keys COLUMNS
    weights: dict[str, Any]  # what the model started from
    device: torch.device
    precision: str
    resumed: int  # how often the run was taken up again
    earlier_seconds: float  # of what was done before it was

    @property
    def model(self) -> Classifier:
        """The one that is evaluated and kept."""
        return self.models[-1]


def fit(
    config: Run,
    packed: Packed,
    path: Path | None = None,
    quiet: bool = True,
    log: Callable[[str], None] = print,
    maps: "Localised | None" = None,
    then: Callable[[int, Fitted], None] | None = None,
    replace: bool = False,
    live: Path | None = None,
) -> Fitted:
    """Train one run; on several ranks, all of them call this.

    Args:
        config: the resolved run; trains on its ``fit`` splits.
        packed: its data set.
        path: of ``last.pt``; an interrupted run of the same settings and data goes on from there and ends in the same
            numbers. It is saved after an epoch if :data:`~lapml.training.state.SAVE_EVERY` seconds have passed since the last time,
            after the last epoch, and after the step that SIGTERM or SIGINT falls into.
        quiet: one line per epoch, which ``log`` takes, instead of a progress bar.
        maps: what the stage `localise` found, for methods that mix by it (:func:`lapml.localise.evidence.opened`).
        then: called with the number of an epoch and the run as it is after it, but for the last one; what it raises ends the run.
        live: a file that holds ``history`` after each epoch.
        replace: set a saved state of other settings, data or code aside and begin again, and do not refuse to.

    Raises:
        LapmlError: another number of processes than ``train.gpus``, unsuitable settings (see :func:`lapml.models.model.build`), no
            maps where the method mixes by them, a batch larger than the data, or than the GPU's memory, no GPU where one is
            asked for, or a saved state of something else.
        DivergedError: a loss that is not finite, or that stays far above that of guessing.
        Stopped: after SIGTERM or SIGINT.
    """
    train, settings, seed, (device, precision) = config.train, config.settings, config.seed, _ready(config, maps)
    model, weights = build(config.model, len(packed.class_names), config.data.view.side, seed)
    made = {**_made_alike(config, packed, maps, device), "weights": weights}
    with memory(f"model.name: {config.model.name} and what its training holds", f"take {ALONE}, or a smaller model"):
        rows, mean, std = rows_of(packed.index, config.fit), weights["mean"], weights["std"]
        batches = Batches(packed, rows, config.data.view, mean, std, device, DTYPES[precision])
        steps = batches.steps(train.batch)
        learner = make_learner(config, model, len(packed.index), device, precision, maps)
        saved = state.Checkpoint(path, made, learner.models(), learner.optimizer, learner.bank)
        history, now = saved.restored(device, replace, log)
        _show(history, live)  # what another run of this folder had got to is over
    earlier = sum(row["seconds"] for row in history) + now.seconds
    fitted = lambda: Fitted(learner.models(), history, weights, device, precision, saved.resumed, earlier)  # noqa: E731
    with (
        Watch(config, steps, len(packed.class_names), saved, lag=0 if device.type == "cpu" else 1) as watch,
        memory(f"train.batch: {train.batch} images of {config.data.view.side} px", _less(train)),
        Progress(quiet, log, train, steps, len(history) * steps + now.step) as progress,
    ):
        for epoch in range(len(history), train.epochs):
            started = time.perf_counter() - now.seconds
            watch.epoch = epoch
            for batch in batches.training(seed, epoch, train.batch, settings, now.step, learner.ahead, train.epochs):
                set_rate(learner.optimizer, schedule(train, steps, epoch * steps + now.step))
                torch.manual_seed(step_seed(seed, epoch, now.step, ranks.rank()))  # of what torch itself draws
                stats, forwards, backwards = take_step(learner, batch)
                learner.update_average(epoch * steps + now.step + 1)
                watch.add(now.step, stats)
                now.add(stats, forwards * ranks.size(), backwards * ranks.size(), batch.mixed)
                now.seconds = time.perf_counter() - started
                if watch.asked_to_stop():  # a run that diverged raises
                    watch.refuse_bad_weights(learner.model, now.step)
                    saved.save(history, now)
                    raise watch.stopped(now.step)
                progress.step(epoch, now.means)
            stop = watch.asked_to_stop(lag=0)
            now.seconds = time.perf_counter() - started
            now.means.over_ranks()  # what each has counted for itself becomes the mean, batch norm's statistics too
            ranks.average(buffer for each in learner.models() for buffer in each.moving_buffers())
            watch.refuse_bad_weights(learner.model, now.step)
            _show(history, live, _row(epoch, schedule(train, steps, (epoch + 1) * steps - 1), now))
            now = state.Epoch()
            if stop or epoch + 1 == train.epochs or saved.due():
                saved.save(history, now)
            if stop:
                raise watch.stopped(0)
            progress.epoch(history[-1])
            if then and epoch + 1 < train.epochs:
                then(epoch + 1, fitted())
    return fitted()


def _show(history: list[dict[str, Any]], live: Path | None, *rows: dict[str, Any]) -> None:
    """Add epochs to the history, and write it to the file that is looked at meanwhile; an empty one removes that."""
    history += rows
    if live is None or ranks.rank():
        return
    if history:
        write_text(live, as_csv(history))
    else:
        live.unlink(missing_ok=True)


def as_csv(history: list[dict[str, Any]]) -> str:
    """The text of history.csv."""
    return pd.DataFrame(history).to_csv(index=False, lineterminator="\n")


def _row(epoch: int, lr: float, done: state.Epoch) -> dict[str, Any]:
    """What history.csv records of an epoch."""
    row = {"epoch": epoch + 1, "lr": lr, **done.means.values(), **done.counts, "seconds": done.seconds}
    return {column: row.get(column) for column in COLUMNS}


def _ready(config: Run, maps: "Localised | None") -> tuple[torch.device, str]:
    """Device and precision of a run; LapmlError where it cannot begin."""
    train = config.train
    if ranks.size() != train.gpus:
        raise LapmlError(ranks.other_count(ranks.size(), train.gpus))
    device, precision = pick_device(train)
    torch.set_num_threads(train.threads)
    if train.batch % (ranks.size() * train.accumulate):
        shared = f"the {ranks.size()} processes that share it"
        times = f" times the {train.accumulate} parts of train.accumulate" if train.accumulate > 1 else ""
        raise LapmlError(f"train.batch: found {train.batch}, expected a multiple of {shared}{times}")
    if config.localise is not None and maps is None:
        raise LapmlError(f"{config.method}: found no maps, expected those of `lapml localise {config.dataset}`")
    return device, precision


def made_of(config: Run, packed: Packed, maps: "Localised | None", device: torch.device) -> dict[str, Any]:
    """All that decides a run's numbers, but for its initial weights: a run is gone on with, or taken for done, by the same."""
    return {
        "settings": config.record(),
        "data_sha256": packed.meta["sha256"],
        "localised_sha256": maps.meta["sha256"] if maps else None,
        "code_sha256": code_sha256(),
        "torch": versions()["torch"],
        "device": device.type,
        "processes": ranks.size(),
    }


def _made_alike(config: Run, packed: Packed, maps: "Localised | None", device: torch.device) -> dict[str, Any]:
    """:func:`made_of`; LapmlError where it is not the same in all processes, of which the first one's is recorded."""
    made = made_of(config, packed, maps, device)
    digests = ranks.collected(digest(made))
    if len(set(digests)) > 1:
        at = next(rank for rank, each in enumerate(digests) if each != digests[0])
        raise LapmlError(
            f"process {at} differs from process 0 in settings, data, maps, code, torch or kind of device; expected the same "
            "line, on the same files, on each machine"
        )
    return made


def _less(train: Train) -> str:
    """What to do where a batch is too large for a GPU."""
    parts = 2 * train.accumulate
    pieces = parts * ranks.size()
    fits = train.batch % pieces == 0 and train.batch // pieces > 1
    return f"try {f'train.accumulate={parts}' if fits else 'a smaller data.*.view.side'}, or {ALONE}"
