"""How long a suite takes on this machine, by a few steps of its model on random pixels.

On a CPU, steps are timed in as many processes as the suite will run at once, since they take each other's caches, and by the time
of the processors, so that other programs that happen to run do not count. On a GPU one process is timed, by the clock.
"""

import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lapml.config import Params, Run
from lapml.data.batches import Batches
from lapml.data.index import COLUMNS
from lapml.data.pack import Packed
from lapml.models.device import DTYPES, pick_device
from lapml.models.model import build
from lapml.training.optim import set_rate
from lapml.training.step import make_learner, take_step

WARM, SECONDS = 2, 2.0  # steps that come before, and how long steps of a kind are timed
MOST = 8  # processes: more slow each other down no further
LOCALISED = 1.03  # a step of localized CutMix over one of the baseline (docs/performance.md)
# In times that a command takes to begin: the factorisation of `localise`, the figures of `diagnose`, and `report`.
FACTORISING, DRAWING, REPORTING = 2, 3, 4
SEEN = 16  # forward passes that an image of the diagnosis costs, all mixers and their pictures together
_together: Any = None  # in a timing process: what all of them wait at


class Speed(NamedTuple):
    """Seconds on this machine."""

    begin: float  # until a command begins its work
    step: float  # of the baseline
    snapmix: float  # of SnapMix, mixing


class Images(NamedTuple):
    """Of a data set."""

    fit: int  # those that runs are trained on
    test: int
    packing: float  # seconds to decode one for the pack, on one core
    localising: float  # seconds to localise one


def speeds(kinds: list[list[Run]], classes: int, at_once: int) -> list[Speed]:
    """Time steps of several choices of model and images, each a run of the baseline and one of SnapMix."""
    context, count = get_context("spawn"), min(at_once, MOST)
    with ProcessPoolExecutor(count, context, _share, (context.Barrier(count),)) as pool:
        found = np.mean(list(pool.map(_times, [kinds] * count, [classes] * count)), axis=0)
    return [Speed(*each) for each in found.tolist()]


def _share(together: Any) -> None:
    global _together
    _together = together


def _times(kinds: list[list[Run]], classes: int) -> list[list[float]]:
    """In a timing process: (begin, step, snapmix) of each choice."""
    device, _ = pick_device(kinds[0][0].train)
    torch.set_num_threads(kinds[0][0].train.threads)
    steps = [[_steps(run, classes) for run in runs] for runs in kinds]
    begin = min(ready for runs in steps for ready, _ in runs[:1])
    return [[begin, *(step for _, step in runs)] for runs in steps]


def _steps(run: Run, classes: int) -> tuple[float, float]:
    """Processor seconds until training can begin, and seconds per step."""
    device, precision = pick_device(run.train)
    clock: Callable[[], float] = time.perf_counter if device.type == "cuda" else time.process_time
    packed, batch = _random(run, classes), run.train.batch
    model, weights = build(run.model, classes, run.data.view.side, 0)
    learner = make_learner(run, model, len(packed.index), device, precision)
    rows, mean, std = np.arange(len(packed.index)), weights["mean"], weights["std"]
    batches = Batches(packed, rows, run.data.view, mean, std, device, DTYPES[precision])
    set_rate(learner.optimizer, 0.0)  # numbers stay finite
    ready = time.process_time()
    source = itertools.chain.from_iterable(
        batches.training(0, epoch, batch, run.settings, then=learner.ahead) for epoch in itertools.count()
    )
    for _ in range(WARM):
        take_step(learner, next(source))
    _together.wait()
    done, since, used = 0, time.perf_counter(), clock()
    while done < WARM or time.perf_counter() - since < SECONDS:
        take_step(learner, next(source))
        if device.type == "cuda":
            torch.cuda.synchronize()
        done += 1
    return ready, (clock() - used) / done


def _random(run: Run, classes: int) -> Packed:
    """A data set of random pixels: 16 batches."""
    side, count = run.data.stored_side, 16 * run.train.batch
    rows = [(str(row), row % classes, "", "train", side, side, None, None) for row in range(count)]
    images: Any = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return Packed(pd.DataFrame(rows, columns=list(COLUMNS)), images, {}, [""] * classes)


def suite(params: Params, speed: Speed, images: Images, cores: int) -> tuple[float, float]:
    """Seconds of the longest run, and of the whole suite by Snakemake, from the pack to the report.

    Args:
        cores: jobs at a time.
    """
    glance = speed.step / 3 / params.train.batch  # a forward pass of one image
    runs = {name: _run(params, name, speed, images, glance) for name in params.all_methods()}
    free = [2 * speed.begin + images.packing * (images.fit + images.test) / cores] * cores  # after fetch and prepare

    def job(seconds: float, after: float = 0.0) -> float:
        ends = max(heapq.heappop(free), after) + speed.begin + seconds
        heapq.heappush(free, ends)
        return ends

    maps = 0.0
    if waiting := params.localising():
        maps = job(FACTORISING * speed.begin + images.localising * images.fit)
    for name in sorted(runs, key=lambda name: name in waiting):
        for _ in params.seeds:
            job(runs[name], maps if name in waiting else 0.0)
    job(DRAWING * speed.begin + SEEN * glance * params.diagnose.images * len(params.seeds))
    return speed.begin + max(runs.values()), max(free) + REPORTING * speed.begin


def _run(params: Params, method: str, speed: Speed, images: Images, glance: float) -> float:
    """Seconds of a run after its begin."""
    mix, train = params.methods[method].mix, params.train
    mixed = mix.prob * (train.epochs - mix.warmup_epochs - mix.cooldown_epochs) / train.epochs if mix else 0.0
    other = {"snapmix": speed.snapmix, "loc_cutmix": LOCALISED * speed.step}.get(method, speed.step)
    step = (1 - mixed) * speed.step + mixed * other
    return train.epochs * (images.fit // train.batch) * step + glance * images.test
