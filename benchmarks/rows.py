"""What each method costs, end to end, against the bare model.

`bare` is the same model, precision and batch: forward + backward + step on one fixed batch that lies on the device.
The methods are timed with their data path, at ``mix.prob = 1`` after warm-up, so that their whole cost shows.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import circumstances, interleaved, interval, ratio, revision, table, written
from lapml.common.provenance import device_name
from lapml.config import Method, Params, Run, resolve
from lapml.data.batches import Batch, Batches
from lapml.data.fetch.sources import refuse_other
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.localise.evidence import opened
from lapml.models.device import DTYPES, pick_device
from lapml.models.model import build
from lapml.paths import Paths
from lapml.runs.execute import PLACEHOLDER
from lapml.training.step import Learner, make_learner, take_step

# Dense bf16 operations a second that the maker states, by a part of the device's name.
BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


class Bench:
    """One data set on one device, shared by the contenders of a benchmark; ``params``: of the data set, overrides in place."""

    def __init__(self, params: Params, paths: Paths, dataset: str):
        self.params, self.paths, self.dataset = params, paths, dataset
        refuse_other(dataset, params.data[dataset], paths)
        self.packed = Packed.open(paths.pack(dataset), params.data[dataset])
        self.device, self.precision = pick_device(params.train)
        torch.set_num_threads(params.train.threads)
        torch.backends.cudnn.deterministic = True

    def config(self, method: str) -> Run:
        """The run of a method, mixing every batch; `bare` is the first method without mixing."""
        bare = method == "bare"
        name = self.params.all_methods()[0] if bare else method
        config = resolve(self.params, self.dataset, name, 0, PLACEHOLDER)  # a margin's value does not change its cost
        if bare:
            return config.model_copy(update={"settings": Method(), "localise": None})
        return config.model_copy(update={"settings": config.settings.always_mixing()})

    def make_learner(self, config: Run) -> tuple[Learner, dict[str, Any]]:
        """A fresh model of a run, and the record of its input."""
        model, weights = build(config.model, len(self.packed.class_names), config.data.view.side, 0)
        maps = opened(config, self.paths, self.packed)
        return make_learner(config, model, len(self.packed.index), self.device, self.precision, maps), weights

    def batches(self, config: Run, weights: dict[str, Any]) -> Batches:
        rows = rows_of(self.packed.index, config.fit)
        mean, std = weights["mean"], weights["std"]
        return Batches(self.packed, rows, config.data.view, mean, std, self.device, DTYPES[self.precision])

    def ends(self) -> list[str]:
        """The first and the last method, for measures that are not taken of all."""
        methods = self.params.all_methods()
        return list(dict.fromkeys((methods[0], methods[-1])))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, step: Callable[[], Any], steps: int) -> float:
        """Mean seconds per step."""
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        return (time.perf_counter() - started) / steps

    def record(self, rounds: int, steps: int) -> dict[str, Any]:
        """The circumstances of a benchmark, for its record."""
        train, data = self.params.train, self.params.data[self.dataset]
        return {
            **circumstances(device_name(self.device)),
            "precision": self.precision,
            "threads": train.threads,
            "data": {"dataset": self.dataset, "sha256": self.packed.meta["sha256"], "side": data.view.side},
            "model": self.params.model.model_dump(),
            "batch": train.batch,
            "rounds": rounds,
            "steps": steps,
        }


def endless(batches: Batches, config: Run, learner: Learner) -> Iterator[Batch]:
    """A model's training batches, epoch after epoch."""
    for epoch in itertools.count():
        yield from batches.training(0, epoch, config.train.batch, config.settings, then=learner.ahead)


def stepper(learner: Learner, source: Iterator[Batch]) -> Callable[[], tuple[int, int]]:
    """A function that trains on the next batch; it returns the images (forwarded, gone backward)."""
    return lambda: take_step(learner, next(source))[1:]


class Contender(NamedTuple):
    step: Callable[[], Any]  # trains on the next batch
    flops: float  # of a step
    memory: int  # bytes that a step takes on a GPU, beside what lies there between steps
    parameters: int
    batch: int  # images of a step


def contender(here: Bench, name: str) -> Contender:
    """A method of the suite, or `bare`, warmed up."""
    config = here.config(name)
    learner, weights = here.make_learner(config)
    source = endless(here.batches(config, weights), config, learner)
    step = stepper(learner, itertools.repeat(next(source)) if name == "bare" else source)
    step()  # allocations and kernel choice
    period = range(config.settings.margin.every if config.settings.margin else 1)
    forwards, backwards = np.mean([step() for _ in period], 0)
    forward, learns = _forward_flops(here, learner, config.data.view.side)
    parameters = sum(value.numel() for value in learner.model.parameters())
    return Contender(
        step,
        forward * forwards + 2 * learns * backwards,
        max(_peak(here, step) for _ in period),
        parameters,
        config.train.batch,
    )


def bench(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time the methods; returns a Markdown table, and writes bench.json and bench.md into ``output/SUITE`` if given."""
    here = Bench(params.of(dataset), paths, dataset)
    names = ("bare", *here.params.all_methods())
    ready = {name: contender(here, name) for name in names}
    batches = {name: each.batch for name, each in ready.items()}
    seconds = interleaved(
        {name: lambda each=each: here.timed(each.step, steps) for name, each in ready.items()}, repeats
    )
    record = {
        **here.record(repeats, steps),
        "seconds_per_step": seconds,
        "rows": {
            name: {
                **ratios(seconds, name, batches, here.params),
                "batch": batches[name],
                "flops_per_step": ready[name].flops,
                "peak_memory_bytes": ready[name].memory,
            }
            for name in names
        },
    }
    return written(record, _markdown(record), output and output / params.suite, "bench")


def ratios(seconds: dict[str, list[float]], name: str, batches: dict[str, int], params: Params) -> dict[str, Any]:
    """A contender's images/s, its speed against bare, image by image, and its step time against the baseline.

    Args:
        seconds: of a step, and ``batches``: the images of one, by contender.
    """
    times, confidence = seconds[name], params.report.confidence
    own, bare = (np.divide(seconds[each], batches[each]).tolist() for each in (name, "bare"))
    row = {
        "images_per_second": batches[name] / float(np.median(times)),
        "speed_vs_bare": ratio(bare, own, confidence),
    }
    if "baseline" in seconds:
        row["step_vs_baseline"] = ratio(times, seconds["baseline"], confidence)
    return row


@torch.no_grad()
def _forward_flops(here: Bench, learner: Learner, side: int) -> tuple[int, int]:
    """Of one image: all, and those of what learns. (Backward is taken as twice these: torch's counter counts it without regard
    to groups.)"""
    with FlopCounterMode(display=False) as counter, learner.cast():
        plain = copy.copy(learner.model.eval())
        plain.frozen = None  # the counter does not know folded modules by their names
        plain(torch.zeros(1, 3, side, side, device=here.device, dtype=DTYPES[here.precision]))
    still = [f"Classifier.backbone.{part}" for part in learner.model.frozen.parts] if learner.model.frozen else []
    counts, total = counter.get_flop_counts(), counter.get_total_flops()
    return total, total - sum(sum(counts[part].values()) for part in still if part in counts)


def _peak(here: Bench, step: Callable[[], Any]) -> int:
    """Bytes that a step takes on a GPU, beside what lies there between steps; 0 on a CPU."""
    if here.device.type != "cuda":
        return 0
    here.wait()
    torch.cuda.reset_peak_memory_stats(here.device)
    before = torch.cuda.memory_allocated(here.device)
    step()
    here.wait()
    return torch.cuda.max_memory_allocated(here.device) - before


def heading(record: dict[str, Any]) -> str:
    """What was measured on what, for the first line of a table."""
    model, data = record["model"], record["data"]
    cut = f" cut at stride {model['truncate']}" if model["truncate"] else ""
    return (
        f"{model['name']}{cut}, {data['dataset']} at {data['side']} px, batch {record['batch']}, {record['precision']}, "
        f"{record['threads']} thread(s), {record['device']}; {record['rounds']} interleaved rounds of {record['steps']} "
        f"steps; {revision(record)}."
    )


def _markdown(record: dict[str, Any]) -> str:
    peak = next((each for name, each in BF16_PEAK.items() if name in record["device"]), None)
    gpu = any(row["peak_memory_bytes"] for row in record["rows"].values())
    heads = ["", "images/s (median)", "speed / bare", "step time / baseline", "Gflop per image"]
    heads += ["share of bf16 peak", "memory of a step, MiB"] if gpu else []
    lines = []
    for name, row in record["rows"].items():
        flops = row["flops_per_step"] / row["batch"]
        shown = name if row["batch"] == record["batch"] else f"{name}, batch {row['batch']}"
        cells = [shown, f"{row['images_per_second']:.1f}", interval(row["speed_vs_bare"])]
        cells += [interval(row.get("step_vs_baseline")), f"{flops / 1e9:.2f}"]
        if gpu:
            cells.append(f"{100 * flops * row['images_per_second'] / peak:.1f} %" if peak else "peak not known")
            cells.append(f"{row['peak_memory_bytes'] / 2**20:,.0f}")
        lines.append(cells)
    return "\n".join([heading(record), "", *table(heads, lines)])
