"""How long a suite takes on this machine: each kind of step of its runs is timed (timing.py), and its jobs are laid out as
Snakemake does.
"""

import heapq
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lapml.common.provenance import device_name
from lapml.common.text import duration
from lapml.config import Data, Localise, Params, Run, Train, resolve, trial_run
from lapml.config.tuning import ADAPTIVE, MARGIN
from lapml.data import index
from lapml.data.decode import cores, square
from lapml.data.fetch.laying import lay_out
from lapml.data.fetch.places import asked_for, variable
from lapml.data.fetch.sources import laid_out
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.localise.extract import SLICE, side_of
from lapml.localise.extract import load as load_extractor
from lapml.models.device import pick_device
from lapml.paths import Paths
from lapml.runs import timing
from lapml.runs.execute import PLACEHOLDER
from lapml.runs.timing import Speed, mixture

SAMPLE = 24  # images that are decoded
# In times that a command takes to begin: the factorisation of `localise`, the figures of `diagnose`, and `report`.
FACTORISING, DRAWING, REPORTING = 2, 3, 4
SEEN = 16  # forward passes that an image of the diagnosis costs, all mixers and their pictures together


class Images(NamedTuple):
    """Of a data set."""

    splits: dict[str, int]  # how many
    packing: float  # seconds to decode one for the pack, on one core
    localising: float  # seconds to localise one; 0 where no method asks for maps

    def count(self, *splits: str) -> int:
        """Of some splits together."""
        return sum(self.splits.get(split, 0) for split in splits)


class Jobs(NamedTuple):
    """Jobs of a suite that take equally long."""

    dataset: str
    name: str  # a method, or what else is done
    seconds: float  # of one
    count: int = 1
    after: tuple[tuple[str, str], ...] = ()  # (data set, name) of those that end before


class Estimate(NamedTuple):
    """Of every data set: maps and studies where there are some, the runs of each method, and the diagnosis."""

    jobs: list[Jobs]
    seconds: float  # of the whole suite by Snakemake, from the images to the report


# --- what is timed ---


def runs(params: Params, dataset: str) -> dict[str, Run]:
    """A run of each method of the tables and studies, by its name."""
    names = dict.fromkeys([*params.all_methods(), *params.studies()])
    return {name: resolve(params, dataset, name, 0, _tried(params, dataset, name)) for name in names}


def kinds(params: Params, dataset: str) -> list[Run]:
    """What :func:`~lapml.runs.timing.speeds` is to time for a data set."""
    return [kind for run in runs(params, dataset).values() for _, kind in mixture(run)]


def _tried(params: Params, dataset: str, method: str) -> dict[str, Any]:
    """A value for what is tuned: of margins any, which change no cost, of other settings the last that a trial may have."""
    space = params.of(dataset).tune.methods.get(method, {}) if method in params.tuned_methods else {}
    return {**PLACEHOLDER, **{name: each.tried()[-1] for name, each in space.items()}}


def places(params: Params) -> tuple[torch.device, int]:
    """The device, and how many jobs run on it at a time."""
    device, _ = pick_device(params.train)
    if device.type != "cpu":
        return device, 1
    count = len(params.datasets) * len(params.all_methods()) * len(params.seeds)
    return device, max(1, min(cores() // (params.train.threads * params.train.gpus), count))


def where(device: torch.device, at_once: int, train: Train) -> str:
    """The same in words."""
    return device_name(device) if device.type == "cuda" else f"{at_once * train.threads * train.gpus} CPU cores"


def sample(files: list) -> list:
    """Some of the images, spread over all."""
    return files[:: max(1, len(files) // SAMPLE)][:SAMPLE]


def decoding(files: list[Path], side: int, banner: int = 0) -> float:
    """Seconds to decode an image to a square, on one core."""
    started = time.process_time()
    for file in files:
        square(file, side, banner)
    return (time.process_time() - started) / len(files)


def localising(settings: Localise, sizes: np.ndarray, threads: int, device: torch.device) -> float:
    """Seconds to take an image's features for its maps.

    Args:
        sizes: (n, 2) widths and heights of some images, in pixels.
    """
    extractor = load_extractor(settings.model, settings.weights, device)
    side = side_of(sizes, settings.side, extractor.stride, settings.enlarge)
    cuda = device.type == "cuda"
    pixels = np.random.default_rng(0).integers(0, 256, (SLICE["cuda"] if cuda else 4, side, side, 3), np.uint8)
    torch.set_num_threads(threads)
    extractor(pixels).cpu()
    clock = time.perf_counter if cuda else time.process_time
    started = clock()
    extractor(pixels).cpu()
    return (clock() - started) / len(pixels) / (1 if cuda else threads)


def images_of(params: Params, paths: Paths, dataset: str, device: torch.device) -> tuple[Images, int]:
    """What there is of a data set, fetched or not, and its number of classes.

    Raises:
        LapmlError: it would have to be downloaded first; or it is not there, or not as its reader expects it.
    """
    data = params.data[dataset]
    how, root = reader(data.reader), _root(dataset, data, paths)
    table = index.read(root, data)
    files = [root / how.IMAGES / path for path in sample(table["path"].tolist())]
    packing, maps = decoding(files, data.stored_side, how.BANNER), 0.0
    if params.localising():
        resolved = params.of(dataset)
        assert resolved.localise is not None
        sizes = np.array([square(file, 16, how.BANNER)[1][:2] for file in files])
        maps = packing + localising(resolved.localise, sizes, resolved.train.threads, device)
    return Images(table["split"].value_counts().to_dict(), packing, maps), table["label"].nunique()


def _root(dataset: str, data: Data, paths: Paths) -> Path:
    """Where a data set lies; what is only to be drawn, unpacked or found is."""
    if paths.source(dataset).is_file():
        return laid_out(dataset, paths, data)[1]
    asked = asked_for(dataset, data)
    if isinstance(asked, list) or asked == "official" or "://" in asked:
        raise LapmlError(
            f"data set {dataset}: is not there yet, and how long its runs take depends on its images; run "
            f"`lapml data fetch {dataset}` first, or set {variable(dataset)} to where it lies"
        )
    return lay_out(dataset, asked, data, paths, f"set data.{dataset}.source or {variable(dataset)}")[2]


# --- what it adds up to ---


def suite(params: Params, speed: Speed, images: dict[str, Images], at_once: int) -> Estimate:
    """What each job of a suite takes, and the whole.

    Args:
        images: of each data set.
        at_once: jobs at a time.
    """
    found = [job for dataset in params.datasets for job in _jobs(params, dataset, speed, images[dataset])]
    packing = sum(
        2 * speed.begin + each.packing * sum(each.splits.values()) / at_once for each in images.values()
    )  # fetch and prepare
    return Estimate(found, _ends(found, at_once) + packing + REPORTING * speed.begin)


def _jobs(params: Params, dataset: str, speed: Speed, images: Images) -> list[Jobs]:
    """Of a data set, those first that others wait for."""
    own, found, waiting = runs(params, dataset), [], params.localising()
    if waiting:
        fit = images.count(*params.localised_splits())
        found.append(Jobs(dataset, "maps", (1 + FACTORISING) * speed.begin + images.localising * fit))
    maps = {name: ((dataset, "maps"),) if name in waiting else () for name in own}
    for name in params.studies():
        before = ((dataset, f"tuning {MARGIN}"),) if name == ADAPTIVE and MARGIN in params.studies() else ()
        seconds = speed.begin + _study(params, dataset, name, speed, images)
        found.append(Jobs(dataset, f"tuning {name}", seconds, after=(*maps[name], *before)))
    for name in params.all_methods():
        before = ((dataset, f"tuning {name}"),) if name in params.tuned_methods else ()
        seconds = speed.begin + _trained(own[name], speed, images)
        found.append(Jobs(dataset, name, seconds, len(params.seeds), (*maps[name], *before)))
    diagnosed = own[params.diagnose.method]
    glance = speed.of(mixture(diagnosed)[0][1]).glance
    seconds = (1 + DRAWING) * speed.begin + SEEN * glance * params.diagnose.images * len(params.seeds)
    before = ((dataset, diagnosed.method), *([(dataset, "maps")] if waiting else []))
    return [*found, Jobs(dataset, "diagnosis", seconds, after=before)]


def _trained(run: Run, speed: Speed, images: Images) -> float:
    """Seconds of a run after its begin."""
    steps = run.train.epochs * (images.count(*run.fit) // run.train.batch)
    parts = mixture(run)
    seen = images.count(run.evaluate) * (2 if run.train.ema else 1) / run.train.gpus
    return (
        steps * sum(share * speed.of(kind).step for share, kind in parts if share) + seen * speed.of(parts[0][1]).glance
    )


def _study(params: Params, dataset: str, method: str, speed: Speed, images: Images) -> float:
    """Seconds of a study after its begin, if none of its trials is ended early."""
    tune = params.of(dataset).tune
    run = trial_run(params, dataset, method, tune.seeds[0], _tried(params, dataset, method))
    trials = tune.trials + any(each.quantile for each in params.of(dataset).searched(method).values())
    return trials * len(tune.seeds) * _trained(run, speed, images)


def _ends(jobs: list[Jobs], at_once: int) -> float:
    """When the last of the jobs ends, of which so many run at a time: the first in order among those that wait for nothing."""
    free, ends = [0.0] * at_once, dict[tuple[str, str], float]()
    left = {(job.dataset, job.name): job.count for job in jobs}
    while left:
        now = heapq.heappop(free)
        ready = {}
        for job in jobs:
            key = (job.dataset, job.name)
            if key in left and not any(each in left for each in job.after):
                ready[key] = (max([now, *(ends[each] for each in job.after)]), job.seconds)
        key = min(ready, key=lambda each: ready[each][0])
        end = sum(ready[key])
        heapq.heappush(free, end)
        ends[key] = max(end, ends.get(key, 0.0))
        left[key] -= 1
        if not left[key]:
            del left[key]
    return max(ends.values())


def estimated(params: Params, paths: Paths) -> str:
    """A table of how long the jobs of a suite take here, and the whole of it.

    Raises:
        LapmlError: see :func:`images_of`; or a model cannot be built.
    """
    device, at_once = places(params)
    seen = {dataset: images_of(params, paths, dataset, device) for dataset in params.datasets}
    timed = [kind for dataset in params.datasets for kind in kinds(params, dataset)]
    speed = timing.speeds(timed, max(classes for _, classes in seen.values()), at_once)
    found = suite(params, speed, {dataset: images for dataset, (images, _) in seen.items()}, at_once)
    names = [f"{job.dataset}: {job.name}" if len(seen) > 1 else job.name for job in found.jobs]
    wide = max(map(len, names))
    lines = [f"{'':{wide}}  {'a run':>8}  {'runs':>4}  {'together':>8}"]
    for name, job in zip(names, found.jobs, strict=True):
        lines.append(
            f"{name:{wide}}  {duration(job.seconds):>8}  {job.count:>4}  {duration(job.seconds * job.count):>8}"
        )
    return "\n".join(
        [
            f"suite {params.suite} on {where(device, at_once, params.train)} if nothing else runs there, {at_once} at a time, "
            "nothing made yet:",
            *lines,
            f"in all about {duration(found.seconds)}, from the images to the report",
        ]
    )
