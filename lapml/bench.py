"""What each row costs: every contender timed once a round, rounds repeated, ratios taken within a round.

`bare` is the same model, precision and batch: forward + backward + step on one fixed batch that lies on the device.
The rows are timed end to end, data path included, at ``mix.prob = 1`` after warm-up, so that a row's whole price shows.
Absolute times on a shared machine are noisy; the ratios, with Student-t intervals over rounds, are what to read.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lapml.config import Method, Params, resolve
from lapml.data.batches import Batch, Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.model import build
from lapml.optim import DTYPES, pick_device
from lapml.paths import Paths
from lapml.provenance import device_name
from lapml.run import PLACEHOLDER
from lapml.speed import circumstances, interval, written
from lapml.stats import t_interval
from lapml.train import learner, take_step


def bench(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time the rows; returns a Markdown table, and writes bench.json and bench.md into ``output/SUITE`` if given."""
    params = params.of(dataset)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    device, precision = pick_device(params.train)
    torch.set_num_threads(params.train.threads)
    torch.backends.cudnn.deterministic = True
    contenders = {
        name: contender(params, packed, dataset, name, device, precision) for name in ("bare", *params.all_rows())
    }
    for run in contenders.values():
        run(2)  # warm-up: allocations and kernel choice
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = np.random.default_rng(0)
    for _ in range(repeats):
        for name in order.permutation(list(contenders)):
            seconds[name].append(contenders[name](steps) / steps)
    record = {
        **circumstances(device_name(device)),
        "precision": precision,
        "threads": params.train.threads,
        "data": {"dataset": dataset, "sha256": packed.meta["sha256"], "side": params.data[dataset].view.side},
        "model": params.model.model_dump(),
        "batch": params.train.batch,
        "rounds": repeats,
        "steps": steps,
        "seconds_per_step": seconds,
        "rows": _ratios(seconds, params.train.batch, params.report.confidence),
    }
    return written(record, _markdown(record), output and output / params.suite, "bench")


def contender(
    params: Params, packed: Packed, dataset: str, name: str, device: torch.device, precision: str
) -> Callable[[int], float]:
    """A function that runs some steps and returns their seconds."""
    method = params.all_rows()[0] if name == "bare" else name
    config = resolve(params, dataset, method, 0, PLACEHOLDER)  # a margin's value does not change its cost
    config = config.model_copy(update={"settings": config.settings.always_mixing() if name != "bare" else Method()})
    net, weights = build(config.model, len(packed.class_names), config.data.view.side, 0)
    it = learner(config, net, len(packed.index), device, precision)
    rows = rows_of(packed.index, config.fit)
    mean, std = weights["mean"], weights["std"]
    batches = Batches(packed, rows, config.data.view, mean, std, device, DTYPES[precision])

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from batches.training(0, epoch, config.train.batch, it.settings)

    source = itertools.repeat(next(endless())) if name == "bare" else endless()

    def run(count: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            take_step(it, next(source))
        _wait(device)
        return time.perf_counter() - started

    return run


def _ratios(seconds: dict[str, list[float]], batch: int, confidence: float) -> dict[str, dict[str, Any]]:
    """Per contender: images/s, speed against bare, step time against the baseline (mean, half-width over rounds)."""
    rows = {}
    for name, times in seconds.items():
        row: dict[str, Any] = {"images_per_second": batch / float(np.median(times))}
        row["speed_vs_bare"] = t_interval(np.divide(seconds["bare"], times), confidence)
        if "baseline" in seconds:
            row["step_vs_baseline"] = t_interval(np.divide(times, seconds["baseline"]), confidence)
        rows[name] = {
            key: [float(x) for x in value] if isinstance(value, tuple) else value for key, value in row.items()
        }
    return rows


def _markdown(record: dict[str, Any]) -> str:
    model, data = record["model"]["name"], record["data"]
    lines = [
        f"{model} (truncate {record['model']['truncate']}), {data['dataset']} at {data['side']} px, batch {record['batch']}, "
        f"{record['precision']}, {record['threads']} thread(s), {record['device']}; {record['rounds']} interleaved rounds of "
        f"{record['steps']} steps; commit {(record['commit'] or 'none')[:10]}{' (changed)' if record['dirty'] else ''}.",
        "",
        "| | images/s (median) | speed / bare | step time / baseline |",
        "|---|---:|---:|---:|",
    ]
    for name, row in record["rows"].items():
        cells = [interval(row.get(key)) for key in ("speed_vs_bare", "step_vs_baseline")]
        lines.append(f"| {name} | {row['images_per_second']:.1f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
