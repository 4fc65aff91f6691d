"""Time the steps that a suite's runs take on this machine, on random pixels.

On a CPU, steps are timed in as many processes as the suite will run at once, since they take each other's caches, and by the time
of the processors, so that other programs that happen to run do not count. On a GPU one process is timed, by the clock.
"""

import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lapml.config import Run
from lapml.data.batches import Batches
from lapml.data.index import COLUMNS
from lapml.data.pack import Packed
from lapml.localise.store import Localised, shapes_of
from lapml.models.device import DTYPES, pick_device
from lapml.models.model import build
from lapml.training.optim import set_rate
from lapml.training.step import make_learner, take_step

WARM, SECONDS = 2, 2.0  # steps that come before, and how long steps of a kind are timed
AHEAD = 8  # steps that are queued on a GPU at most
MOST = 8  # processes: more slow each other down no further
MAP_CELLS, DESCRIBED = 14, 64  # a side of the random maps of objects and parts; numbers that describe a part
_together: Any = None  # in a timing process: what all of them wait at


class Step(NamedTuple):
    """Seconds on this machine."""

    step: float  # of a batch
    glance: float  # of the model's forward pass in evaluation, an image


class Speed(NamedTuple):
    """Seconds on this machine."""

    begin: float  # until a command begins its work
    steps: dict[str, Step]  # by kind, see :func:`key`

    def of(self, run: Run) -> Step:
        """Of a run that was timed."""
        return self.steps[key(run)]


def key(run: Run) -> str:
    """What the time of a run's steps depends on, but for the number of classes."""
    schedule = {"epochs", "lr", "warmup_epochs", "milestones"}
    parts = [run.model.model_dump(), run.train.model_dump(exclude=schedule), run.data.view.model_dump()]
    settings = run.settings.model_dump(exclude={"overrides"})
    return json.dumps([*parts, run.data.stored_side, settings, run.localise is not None], sort_keys=True)


def mixture(run: Run) -> list[tuple[float, Run]]:
    """The kinds of steps that a run takes, as runs that take one kind alone, and the share of each."""
    method, train = run.settings, run.train
    shared = {"batch": train.batch // train.gpus, "gpus": 1, "nodes": 1}  # what one process does of it
    if train.batch_norm == "sync":
        shared["batch_norm"] = "local"
    run = run.model_copy(update={"train": train.model_copy(update=shared)})
    without = dict.fromkeys(("mix", "mixer", "label", "margin", "adaptive"))

    def of(**changed: Any) -> Run:
        made = {"settings": method.always_mixing().model_copy(update=changed)}
        return run.model_copy(update=made if "mixer" not in changed else {**made, "localise": None})

    if method.mix is None:
        return [(1.0, of(**without))]
    at_work = sum(method.mix.at_work(epoch, train.epochs) for epoch in range(train.epochs)) / train.epochs
    mixed = method.mix.prob * at_work
    found = [(1 - mixed, of(**without))]
    if method.margin is None:
        return [*found, (mixed, of())]
    every = method.margin.every
    losses = (mixed / every, of(margin=method.margin.model_copy(update={"every": 1})))
    return [*found, losses, *([(mixed - losses[0], of(margin=None, adaptive=None))] if every > 1 else [])]


def speeds(runs: list[Run], classes: int, at_once: int) -> Speed:
    """Time the steps of runs, each kind once.

    Args:
        classes: K of their models.
        at_once: runs at a time.
    """
    kinds = {key(run): run for run in runs}
    context, count = get_context("spawn"), min(at_once, MOST)
    with ProcessPoolExecutor(count, context, _share, (context.Barrier(count),)) as pool:
        found = list(pool.map(_times, [list(kinds.values())] * count, [classes] * count))
    begin = float(np.mean([begin for begin, _ in found]))
    means = np.mean([steps for _, steps in found], axis=0)  # over processes
    return Speed(begin, {kind: Step(*each) for kind, each in zip(kinds, means.tolist(), strict=True)})


def _share(together: Any) -> None:
    global _together
    _together = together


def _times(kinds: list[Run], classes: int) -> tuple[float, list[Step]]:
    """In a timing process: how long it took to begin, and the times of each kind."""
    found = [_steps(run, classes) for run in kinds]
    return found[0][0], [step for _, step in found]


def _steps(run: Run, classes: int) -> tuple[float, Step]:
    """Processor seconds of this process until training could begin, and seconds of what a run then does again and again."""
    device, precision = pick_device(run.train)
    torch.set_num_threads(run.train.threads)
    packed, batch = _random(run, classes), run.train.batch
    model, weights = build(run.model, classes, run.data.view.side, 0)
    learner = make_learner(run, model, len(packed.index), device, precision, _random_maps(run, len(packed.index)))
    rows, mean, std = np.arange(len(packed.index)), weights["mean"], weights["std"]
    batches = Batches(packed, rows, run.data.view, mean, std, device, DTYPES[precision])
    set_rate(learner.optimizer, 0.0)  # numbers stay finite
    ready, count = time.process_time(), itertools.count(1)
    source = itertools.chain.from_iterable(
        batches.training(0, epoch, batch, run.settings, then=learner.ahead) for epoch in itertools.count()
    )

    def step() -> None:
        take_step(learner, next(source))
        learner.update_average(next(count))

    step_seconds = _timed(step, run, device, WARM, SECONDS)
    images, evaluated = next(source).images, learner.models()[-1].eval()

    @torch.no_grad()
    def glance() -> None:
        with learner.cast():
            evaluated(images)

    return ready, Step(step_seconds, _timed(glance, run, device, 1, SECONDS / 4) / len(images))


def _timed(work: Callable[[], None], run: Run, device: torch.device, warm: int, seconds: float) -> float:
    """Seconds of a piece of work, which is done again and again; of what takes long, once before and once timed."""
    cuda, started = device.type == "cuda", time.perf_counter()
    wait = torch.cuda.synchronize if cuda else lambda: None
    for at in range(warm):
        if at and time.perf_counter() - started > 2 * seconds:
            break
        work()
    wait()
    _together.wait()
    clock = time.perf_counter if cuda else time.process_time
    done, since, used = 0, time.perf_counter(), clock()
    while not done or time.perf_counter() - since < seconds:
        work()
        done += 1
        if done % AHEAD == 0:
            wait()
    wait()
    return (clock() - used) / done / (1 if cuda else run.train.threads)


def _random(run: Run, classes: int) -> Packed:
    """A data set of random pixels with boxes and parts: 16 batches."""
    side, count = run.data.stored_side, 16 * run.train.batch
    box, parts = [side / 4, side / 4, side / 2, side / 2], [[side / 2, side / 2, 1.0]]
    rows = [(str(row), row % classes, "", "train", side, side, box, parts) for row in range(count)]
    images: Any = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return Packed(pd.DataFrame(rows, columns=list(COLUMNS)), images, {}, [""] * classes)


def _random_maps(run: Run, count: int) -> Localised | None:
    """Maps of it, where the run mixes by some."""
    if run.localise is None:
        return None
    rng, none = np.random.default_rng(0), {"axis": None, "fitted": None, "meta": {}}
    shapes = shapes_of(count, MAP_CELLS, run.localise.parts, DESCRIBED)
    arrays: Any = {name: rng.random(shape).astype(kind) for name, (kind, shape) in shapes.items()}
    return Localised(**{**arrays, **none, "rows": np.arange(count)})
