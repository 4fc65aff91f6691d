"""Training: one linear loop. A row's settings decide what a step mixes and which loss it takes (methods.py)."""

import copy
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU; before CUDA starts

import torch  # noqa: E402
from timm.layers import convert_sync_batchnorm  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.autograd.profiler import record_function  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from lapml.common import ranks  # noqa: E402
from lapml.common.gpus import ALONE, memory  # noqa: E402
from lapml.common.provenance import code_sha256, versions  # noqa: E402
from lapml.config import Method, Run, Train  # noqa: E402
from lapml.data.batches import Batch, Batches  # noqa: E402
from lapml.data.index import rows_of  # noqa: E402
from lapml.data.pack import Packed  # noqa: E402
from lapml.errors import DivergedError, LapmlError, Stopped  # noqa: E402
from lapml.localise.evidence import stored  # noqa: E402
from lapml.mixing.boxes import Mixed  # noqa: E402
from lapml.models.device import DTYPES, autocast, make_optimizer, pick_device, schedule  # noqa: E402
from lapml.models.model import Classifier, Output, build, running_statistics, training_mode  # noqa: E402
from lapml.training import (
    losses,  # noqa: E402
    methods,  # noqa: E402
    state,  # noqa: E402
)
from lapml.training.bank import Bank  # noqa: E402

if TYPE_CHECKING:
    from lapml.localise.store import Localised

COLUMNS = (
    "epoch lr loss ce loss_margin loss_adaptive loss_custom accuracy d_mean s_mean rho_mean beyond "
    "mixed_batches images_forward images_backward seconds"
).split()
PARTS = ("localise", "mix", "forward", "reference", "loss", "bank", "backward", "update")  # of a step, in its profile


@dataclass
class Fitted:
    model: Classifier
    history: list[dict[str, Any]]  # a row an epoch, keys COLUMNS
    weights: dict[str, Any]  # what the model started from
    device: torch.device
    precision: str
    resumed: int  # how often the run was taken up again
    earlier_seconds: float  # of what was done before it was


@dataclass
class Learner:
    """A model as it trains, and everything that a step of it needs."""

    model: Classifier
    forward: Callable[[Tensor], Output]  # the model, or DDP around it
    optimizer: torch.optim.Optimizer
    settings: Method
    batch_norm: str
    label_smoothing: float
    bank: Bank | None
    frozen: Classifier | None  # as it was before training, for mixers that attend by it
    cast: Callable[[], AbstractContextManager]
    maps: dict[str, methods.Stored] = field(default_factory=dict)  # what the stage `localise` found, as evidence

    @property
    def stored(self) -> dict[str, methods.Stored]:
        """The evidence that is at hand before a batch's step, and what gives it."""
        return ({"recent": self.bank} if self.bank else {}) | self.maps

    def ahead(self, batch: Batch) -> Mixed | None:
        """What can be mixed before a batch's step."""
        return methods.ahead(self.settings, batch, self.stored)


def learner(
    config: Run,
    model: Classifier,
    images: int,
    device: torch.device,
    precision: str,
    maps: "Localised | None" = None,
) -> Learner:
    """Put a model on its device, ready to train.

    Args:
        images: in the data set.
        maps: as of :func:`fit`.
    """
    train, settings = config.train, config.settings
    if train.batch_norm == "sync":
        if device.type != "cuda" or ranks.size() == 1:
            raise LapmlError(
                f"train.batch_norm: found sync on {ranks.size()} process(es) on {device.type}, expected several GPUs; "
                "set it to local"
            )
        # timm's: torch's own drops the activations that timm fuses into batch norm
        model = convert_sync_batchnorm(model)
    model.to(device, DTYPES[precision], memory_format=torch.channels_last)
    training_mode(model, train.batch_norm)
    needs = settings.mixer.needs() if settings.mixer else ()
    bank = frozen = None
    if "recent" in needs:
        bank = Bank(images, model.head.in_features, config.data.view.side // model.stride, device)
    if "attention" in needs:
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
    forward = model if ranks.size() == 1 else ranks.shared(model)
    optimizer = make_optimizer(model, train)
    found = {} if maps is None else stored(maps, needs, images, device)
    return Learner(
        model,
        forward,
        optimizer,
        settings,
        train.batch_norm,
        train.label_smoothing,
        bank,
        frozen,
        lambda: autocast(device, precision),
        found,
    )


def fit(
    config: Run,
    packed: Packed,
    path: Path | None = None,
    quiet: bool = True,
    log: Callable[[str], None] = print,
    maps: "Localised | None" = None,
    then: Callable[[int, Fitted], None] | None = None,
    replace: bool = False,
) -> Fitted:
    """Train one run; on several ranks, all of them call this.

    Args:
        config: the resolved run; trains on its ``fit`` splits.
        packed: its data set.
        path: of ``last.pt``; an interrupted run of the same settings and data goes on from there and ends in the same
            numbers. It is saved after an epoch if :data:`~lapml.training.state.SAVE_EVERY` seconds have passed since the last time,
            after the last epoch, and after the step that SIGTERM or SIGINT falls into.
        quiet: a line an epoch instead of a progress bar.
        log: takes those lines.
        maps: what the stage `localise` found, for methods that mix by it (:func:`lapml.localise.evidence.opened`).
        then: called with the number of an epoch and the run as it is after it, but for the last one; what it raises ends the run.
        replace: set a saved state of other settings, data or code aside and begin again, and do not refuse to.

    Raises:
        LapmlError: another number of processes than ``train.gpus``, unsuitable settings (see :func:`lapml.models.model.build`), no
            maps where the method mixes by them, a batch larger than the data, or than the GPU's memory, no GPU where one is
            asked for, or a saved state of something else.
        DivergedError: a loss that is not finite.
        Stopped: after SIGTERM or SIGINT.
    """
    train, settings, seed = config.train, config.settings, config.seed
    if ranks.size() != train.gpus:
        raise LapmlError(ranks.other_count(ranks.size(), train.gpus))
    device, precision = pick_device(train)
    torch.set_num_threads(train.threads)
    if train.batch % ranks.size():
        raise LapmlError(
            f"train.batch: found {train.batch}, expected a multiple of the {ranks.size()} processes that share it"
        )
    if config.localise is not None and maps is None:
        raise LapmlError(f"{config.method}: found no maps, expected those of `lapml localise {config.dataset}`")
    model, weights = build(config.model, len(packed.class_names), config.data.view.side, seed)
    made = {**made_of(config, packed, maps, device), "weights": weights}
    with memory(f"model.name: {config.model.name} and what its training holds", f"take {ALONE}, or a smaller model"):
        rows = rows_of(packed.index, config.fit)
        batches = Batches(packed, rows, config.data.view, weights["mean"], weights["std"], device, DTYPES[precision])
        steps = batches.steps(train.batch)
        it = learner(config, model, len(packed.index), device, precision, maps)
        saved = state.Checkpoint(path, made, it.model, it.optimizer, it.bank)
        history, now = saved.restored(device, replace, log)
    if saved.resumed:
        log(f"resumed after epoch {len(history)} of {train.epochs}" + (f", step {now.step}" if now.step else ""))
    earlier = sum(row["seconds"] for row in history) + now.seconds

    def settle(bad: int | None, what: str = "the loss was") -> None:
        if bad is not None:
            raise DivergedError(
                f"{config.dataset}/{config.method}/{seed}: {what} not finite in epoch {epoch + 1}, step {bad + 1} of "
                f"{steps}, at lr {schedule(train, steps, epoch * steps + bad):.3g}; the last good state is {saved.good}. "
                "Lower train.lr or margin.weight"
            )

    def settle_weights() -> None:
        """A finite loss may have had a gradient that was not: such a state is neither saved nor evaluated."""
        settle(None if state.all_finite(it.model) else now.step - 1, "the weights were")

    def stopped() -> Stopped:
        where = f"epoch {epoch + 1} after step {now.step} of {steps}" if now.step else f"after epoch {epoch + 1}"
        then = "run the same command again to go on from there" if path else "run the same command again"
        return Stopped(f"{config.dataset}/{config.method}/{seed}: stopped in {where}; {then}")

    def fitted() -> Fitted:
        return Fitted(it.model, history, weights, device, precision, saved.resumed, earlier)

    bar = _bar(quiet, (len(history) * steps + now.step) * train.batch, train.epochs * steps * train.batch)
    with (
        state.Watch() as watch,
        memory(f"train.batch: {train.batch} images of {config.data.view.side} px", _less(train)),
    ):
        for epoch in range(len(history), train.epochs):
            started, last_shown = time.perf_counter() - now.seconds, 0.0
            if bar is not None:
                bar.set_description(f"epoch {epoch + 1}/{train.epochs}")
            for batch in batches.training(seed, epoch, train.batch, settings, now.step, it.ahead, epochs=train.epochs):
                lr = schedule(train, steps, epoch * steps + now.step)
                it.optimizer.param_groups[0]["lr"], it.optimizer.param_groups[1]["lr"] = lr, lr * train.head_lr_mult
                stats, forwards, backwards = take_step(it, batch)
                watch.add(now.step, stats["loss"])
                now.add(stats, forwards * ranks.size(), backwards * ranks.size(), batch.mixed)
                now.seconds = time.perf_counter() - started
                bad, asked = watch.look(lag=0 if device.type == "cpu" else 1)  # a GPU is not waited for
                settle(bad)
                if asked:
                    settle(watch.look(lag=0)[0])
                    now.seconds = time.perf_counter() - started
                    settle_weights()
                    saved.save(history, now)
                    raise stopped()
                if bar is not None and time.perf_counter() - last_shown > 0.5:  # showing waits for the device
                    last_shown = time.perf_counter()
                    means = now.means.values()
                    bar.set_postfix_str(f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1f} %")
                if bar is not None:
                    bar.update(train.batch)
            bad, asked = watch.look(lag=0)
            now.seconds = time.perf_counter() - started
            settle(bad)
            now.means.over_ranks()  # what each has counted for itself becomes the mean, batch norm's statistics too
            ranks.average_buffers(it.model.moving_buffers())
            settle_weights()
            means, lr = now.means.values(), schedule(train, steps, (epoch + 1) * steps - 1)
            row = {"epoch": epoch + 1, "lr": lr, **means, **now.counts, "seconds": now.seconds}
            history.append({column: row.get(column) for column in COLUMNS})
            now = state.Epoch()
            if asked or epoch + 1 == train.epochs or saved.due():
                saved.save(history, now)
            if asked:
                raise stopped()
            if quiet:
                speed = steps * train.batch / row["seconds"]
                log(
                    f"epoch {epoch + 1}/{train.epochs}  loss {means['loss']:.4f}  accuracy {means['accuracy']:.1f} %  "
                    f"{speed:.0f} images/s  {row['seconds'] * (train.epochs - epoch - 1):.0f} s left"
                )
            if then and epoch + 1 < train.epochs:
                then(epoch + 1, fitted())
    if bar is not None:
        bar.close()
    return fitted()


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


def take_step(it: Learner, batch: Batch) -> tuple[dict[str, Tensor], int, int]:
    """One step of a row.

    Returns:
        (0-d statistics on the device, images forwarded, images gone backward).
    """
    settings, labels, margin = it.settings, batch.labels[: batch.count], it.settings.margin
    if not it.model.training:  # as a step leaves it that took references
        training_mode(it.model, it.batch_norm)
    forwards = backwards = batch.count
    mixed = batch.made or it.ahead(batch)
    clean = clean_logits = embedded = donor_labels = None
    with it.cast():
        if batch.mixed and mixed is None:
            with record_function("localise"):
                seen, more, back = methods.reference(it.model, settings, batch, it.forward, it.frozen, it.stored)
            forwards, backwards = forwards + more, backwards + back
            clean, clean_logits = seen.embedding, seen.logits
            with record_function("mix"):
                mixed = methods.mix(settings, batch, seen.evidence)
        asked = batch.mixed and settings.loss is not None and settings.loss.reference
        detached = asked or batch.margins and margin.reference == "detached"
        before = running_statistics(it.model) if detached else None
        with record_function("forward"):
            output = it.forward(mixed.images if mixed else batch.images)
        if detached:
            with record_function("reference"):
                embedded = methods.embedded(it.model, batch.images[: batch.count], before)
            forwards += len(embedded)
            clean = embedded if batch.margins and clean is None else clean
        with record_function("loss"):
            guess = output.logits.detach().argmax(1)
            credit = (guess == labels).float()
            if mixed is None:
                loss = cross_entropy(losses.full(output.logits), labels, label_smoothing=it.label_smoothing)
                stats = {"ce": loss.detach()}
            else:
                loss, stats = methods.loss(
                    settings, output, batch.labels, mixed, clean, clean_logits, it.label_smoothing
                )
                donor_labels = batch.labels[mixed.donors]
                credit = credit * (1 - mixed.rho) + (guess == donor_labels) * mixed.rho
            if settings.loss is not None:
                seen = methods.Seen(output, labels, donor_labels, mixed, embedded)
                extra = methods.custom_loss(settings, seen)
                loss, stats = loss + settings.loss.weight * extra, stats | {"loss_custom": extra.detach()}
            if it.model.projects:
                loss = loss + 0 * output.embedding.sum()  # DDP wants a gradient for each parameter in every step
    if it.bank is not None:
        weight, hidden = it.model.head.weight.detach(), mixed.hidden(it.bank.grid) if mixed else None
        index, windows = batch.index[: batch.count], batch.windows[: batch.count]
        with record_function("bank"):
            it.bank.keep(index, windows, output.features.detach(), weight, labels, hidden)
    with record_function("backward"):
        it.optimizer.zero_grad(set_to_none=True)
        loss.backward()
    with record_function("update"):
        it.optimizer.step()
    return {**stats, "loss": loss.detach(), "accuracy": 100 * credit.mean()}, forwards, backwards


def _less(train: Train) -> str:
    """What to do where a batch is too large for a GPU."""
    return f"try {f'train.batch={train.batch // 2}' if train.batch > 3 else 'a smaller data.*.view.side'}, or {ALONE}"


def _bar(quiet: bool, done: int, images: int):  # noqa: ANN202
    """One bar for the whole run, so that the time left is the run's."""
    if quiet or ranks.rank():
        return None
    from tqdm import tqdm

    return tqdm(total=images, initial=done, unit="img", file=sys.stderr)
