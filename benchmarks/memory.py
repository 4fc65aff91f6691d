"""What it saves that freed memory is kept for the next step (:func:`lapml.models.device.keep_memory`), on a CPU."""

import multiprocessing
from pathlib import Path
from typing import Any

from benchmarks.record import interleaved, interval, ratio, written
from benchmarks.rows import Bench, contender, heading
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.models.device import keep_memory
from lapml.paths import Paths

WAYS = {"given back to the system": False, "kept": True}


def memory(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time the first method's step both ways, each time in a process of its own; returns a Markdown table, and writes memory.json
    and memory.md into ``output/SUITE`` if given."""
    here = Bench(params.of(dataset), paths, dataset)
    if here.device.type != "cpu":
        raise LapmlError(f"memory: found {here.device.type}, expected a CPU; set train.device to cpu")
    given = (params, paths, dataset, steps)
    seconds = interleaved({way: lambda kept=kept: _apart(*given, kept) for way, kept in WAYS.items()}, repeats)
    plain = seconds["given back to the system"]
    record = {**here.record(), "rounds": repeats, "steps": steps, "seconds_per_step": seconds}
    lines = [heading(record), "", "| freed memory is | ms per step | over given back |", "|---|---:|---:|"]
    for way, times in seconds.items():
        mean = 1000 * sum(times) / len(times)
        lines.append(f"| {way} | {mean:.0f} | {interval(ratio(times, plain, params.report.confidence))} |")
    return written(record, "\n".join(lines), output and output / params.suite, "memory")


def _apart(*given: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_seconds, given)


def _seconds(params: Params, paths: Paths, dataset: str, steps: int, kept: bool) -> float:
    """In a process: seconds per step."""
    if kept:
        keep_memory()
    here = Bench(params.of(dataset), paths, dataset)
    return here.timed(contender(here, here.params.all_methods()[0]).step, steps)
