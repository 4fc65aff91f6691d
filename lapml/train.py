"""Training: one linear loop. A row's settings decide what a step mixes and which loss it takes (methods.py)."""

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU; before CUDA starts

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from lapml import losses, methods  # noqa: E402
from lapml.config import Localized, Method, Run, Train, digest  # noqa: E402
from lapml.data.batches import Batch, Batches  # noqa: E402
from lapml.data.index import rows_of  # noqa: E402
from lapml.data.pack import Packed  # noqa: E402
from lapml.errors import DivergedError, LapmlError  # noqa: E402
from lapml.model import GRID, Net, build, frozen_statistics, groups  # noqa: E402
from lapml.provenance import code_sha256  # noqa: E402

COLUMNS = (
    "epoch lr loss ce loss_margin loss_adaptive accuracy d_mean d0 s_mean rho_mean beyond "
    "mixed_batches images_forward images_backward seconds"
).split()


@dataclass
class Fitted:
    net: Net
    history: list[dict[str, Any]]  # a row an epoch, keys COLUMNS
    weights: dict[str, Any]  # what the net started from
    device: torch.device
    precision: str
    resumed: int  # how often the run was taken up again
    earlier_seconds: float  # of the epochs before it was


def fit(
    config: Run,
    packed: Packed,
    state: Path | None = None,
    quiet: bool = True,
    log: Callable[[str], None] = print,
) -> Fitted:
    """Train one run.

    Args:
        config: the resolved run; trains on its ``fit`` splits.
        packed: its data set.
        state: where ``last.pt`` lies; an interrupted run of the same settings and data goes on from there and ends in
            the same numbers.
        quiet: a line an epoch instead of a progress bar.
        log: takes those lines.

    Raises:
        LapmlError: unsuitable settings (see :func:`lapml.model.build`), a batch larger than the data, no GPU where one
            is asked for, or a loss that is not finite.
    """
    train, settings = config.train, config.settings
    device, precision = pick_device(train)
    torch.set_num_threads(train.threads)
    torch.backends.cudnn.deterministic = True
    side = config.data.view.side
    net, weights = build(config.model, len(packed.class_names), side, config.seed)
    if isinstance(settings.mixer, Localized):
        _check_scale(net.stride, side, settings.mixer.scale)
    net.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(net, train)
    rows = rows_of(packed.index, config.fit)
    batches = Batches(packed, rows, config.data.view, weights["mean"], weights["std"], device)
    steps = batches.steps(train.batch)

    key = digest([config.record(), packed.meta["sha256"], weights, code_sha256(), torch.__version__, str(device)])
    history: list[dict[str, Any]] = []
    resumed = 0
    if state is not None and (saved := _load_state(state, key, device)):
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        history, resumed = saved["history"], saved["resumed"] + 1
        log(f"resumed after epoch {len(history)} of {train.epochs}")

    earlier = sum(row["seconds"] for row in history)

    bar = _bar(quiet, len(history), train.epochs, steps * train.batch)
    for epoch in range(len(history), train.epochs):
        started, net_stats, last_shown = time.perf_counter(), Means(), 0.0
        counts = {"images_forward": 0, "images_backward": 0, "mixed_batches": 0}
        floor = None  # d₀, measured once an epoch
        if bar is not None:
            bar.set_description(f"epoch {epoch + 1}/{train.epochs}")
        for step, batch in enumerate(batches.training(config.seed, epoch, train.batch, settings)):
            lr = schedule(train, steps, epoch * steps + step)
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr, lr * train.head_lr
            if batch.mixed and floor is None and settings.margin and settings.margin.reference == "detached":
                with autocast(device, precision):
                    floor = noise_floor(net, settings, batch)
                counts["images_forward"] += 2 * len(batch.rows)
            stats, forwards, backwards = take_step(net, optimizer, settings, batch, autocast(device, precision))
            net_stats.add(stats)
            counts["images_forward"] += forwards * len(batch.rows)
            counts["images_backward"] += backwards * len(batch.rows)
            counts["mixed_batches"] += batch.mixed
            if bar is not None and time.perf_counter() - last_shown > 0.5:  # showing waits for the device
                last_shown = time.perf_counter()
                means = net_stats.values()
                bar.set_postfix_str(f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1f} %")
            if bar is not None:
                bar.update(len(batch.rows))
        means = net_stats.values()
        if not math.isfinite(means["loss"]):
            raise DivergedError(
                f"{config.dataset}/{config.method}/{config.seed}: the loss became {means['loss']} in epoch {epoch + 1} at "
                f"lr {lr:.3g}; the last good state is that of epoch {epoch}. Lower train.lr or the row's alpha"
            )
        if floor is not None:
            means["d0"] = float(floor)
        row = {"epoch": epoch + 1, "lr": lr, **means, **counts, "seconds": time.perf_counter() - started}
        history.append({column: row.get(column) for column in COLUMNS})
        if state is not None:
            _save_state(
                state,
                {
                    "key": key,
                    "net": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": history,
                    "resumed": resumed,
                },
            )
        if quiet:
            speed = steps * train.batch / row["seconds"]
            log(
                f"epoch {epoch + 1}/{train.epochs}  loss {means['loss']:.4f}  accuracy {means['accuracy']:.1f} %  "
                f"{speed:.0f} images/s  {row['seconds'] * (train.epochs - epoch - 1):.0f} s left"
            )
    if bar is not None:
        bar.close()
    return Fitted(net, history, weights, device, precision, resumed, earlier)


def take_step(
    net: Net, optimizer: torch.optim.Optimizer, settings: Method, batch: Batch, cast: AbstractContextManager
) -> tuple[dict[str, Tensor], int, int]:
    """One step of a row.

    Returns:
        (0-d statistics on the device, how often each image went forward, how often backward).
    """
    net.train()
    forwards = backwards = 1
    with cast:
        if batch.mixed:
            seen = None
            if isinstance(settings.mixer, Localized):
                seen = methods.reference(net, batch.images, batch.labels, settings)
                forwards += 1
                backwards += seen.output.embedding.requires_grad
            mixed = methods.mix(settings, batch.images, batch.donors, batch.lam, batch.uniform, seen)
            output = net(mixed.images)
            loss, stats = methods.loss(settings, output, batch.labels, mixed, seen)
            guess = output.logits.detach().argmax(1)
            own, other = guess == batch.labels, guess == batch.labels[mixed.donors]
            credit = own * (1 - mixed.rho) + other * mixed.rho
        else:
            output = net(batch.images)
            loss = cross_entropy(output.logits.float(), batch.labels)
            stats = {"ce": loss.detach()}
            credit = (output.logits.detach().argmax(1) == batch.labels).float()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return {**stats, "loss": loss.detach(), "accuracy": 100 * credit.mean()}, forwards, backwards


@torch.no_grad()
def noise_floor(net: Net, settings: Method, batch: Batch) -> Tensor:
    """d₀: how far an image that was *not* mixed lies from its own reference embedding, (mean over half a batch).

    The second half of the batch goes through the net unmixed beside a mixed first half, as its neighbours do in a
    training step, so that the floor holds what batch statistics and the pass's scale add to d.
    """
    net.train()
    seen = methods.reference(net, batch.images, batch.labels, settings)
    mixed = methods.mix(settings, batch.images, batch.donors, batch.lam, batch.uniform, seen)
    half = len(batch.images) // 2
    with frozen_statistics(net):
        output = net(torch.cat([mixed.images[:half], batch.images[half:]]))
    return losses.distance(output.embedding[half:], seen.output.embedding[half:]).mean()


def schedule(train: Train, steps: int, step: int) -> float:
    """The backbone's learning rate at a step: linear warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017), or
    a tenth after each milestone."""
    warm = train.warmup_epochs * steps
    if step < warm:
        return train.lr * (step + 1) / (warm + 1)
    if train.milestones is not None:
        return train.lr * 0.1 ** sum(step >= epoch * steps for epoch in train.milestones)
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (train.epochs * steps - warm)))


def make_optimizer(net: Net, train: Train) -> torch.optim.SGD:
    """SGD, with Nesterov momentum where there is momentum."""
    parameters = groups(net, train.lr, train.head_lr)
    return torch.optim.SGD(
        parameters, momentum=train.momentum, nesterov=train.momentum > 0, weight_decay=train.weight_decay
    )


def pick_device(train: Train) -> tuple[torch.device, str]:
    """(device, precision) that ``auto`` means here; LapmlError if a GPU is asked for and none is there."""
    if train.device == "cuda" and not torch.cuda.is_available():
        raise LapmlError("train.device: found cuda, but torch sees no GPU here; set train.device to auto or cpu")
    name = train.device if train.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    precision = train.precision if train.precision != "auto" else "bf16" if name == "cuda" else "fp32"
    return torch.device(name), precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Means:
    """Running means of 0-d tensors that stay on the device until :meth:`values` is called."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, stats: dict[str, Tensor]) -> None:
        for name, value in stats.items():
            self.sums[name] = self.sums.get(name, 0) + value.float()
            self.counts[name] = self.counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


def _check_scale(stride: int, side: int, scale: float) -> None:
    cells = methods.localisation_side(side, scale, stride) // stride
    if cells < GRID:
        raise LapmlError(
            f"mixer.scale: at {scale} the localisation pass sees {cells}×{cells} cells, expected at least {GRID}×{GRID}; enlarge it"
        )


def _bar(quiet: bool, done: int, epochs: int, images: int):  # noqa: ANN202
    """One bar for the whole run, so that the time left is the run's."""
    if quiet:
        return None
    from tqdm import tqdm

    return tqdm(total=epochs * images, initial=done * images, unit="img", file=sys.stderr)


def _save_state(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _load_state(path: Path, key: str, device: torch.device) -> dict[str, Any] | None:
    """The saved state, if it is one of the same settings, data, torch and kind of device."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file is worth no more than none: the run starts over
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
