"""How long Snakemake plans a suite: `snakemake -n` by the number of runs, nothing made yet and nothing but the report missing."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import circumstances, revision, written
from benchmarks.scheduler import ROOT, project
from lapml.common.provenance import device_name
from lapml.config import load
from lapml.errors import LapmlError

SEEDS = "seeds: [0, 1, 2]"  # of params.yaml


def plans(runs: list[int], repeats: int, output: Path | None) -> str:
    """Time dry runs of the main job with other numbers of seeds, and of nothing but its help, which is Snakemake's own start.

    Args:
        runs: how many the suite is to have, each rounded up to whole seeds of all methods.

    Returns:
        a Markdown table; written with its figures to plans.json and plans.md in ``output`` if given.

    Raises:
        LapmlError: a dry run failed.
    """
    methods = len(load(ROOT / "params.yaml").all_methods())
    start = [_seconds(["--help"], Path.cwd()) for _ in range(repeats)]
    seconds: dict[int, list[float]] = {}
    for count in sorted(runs):
        seeds = -(-count // methods)
        with tempfile.TemporaryDirectory() as folder:
            project(Path(folder))
            params = Path(folder) / "params.yaml"
            text = params.read_text(encoding="utf-8")
            if text.count(SEEDS) != 1:
                raise LapmlError(f"{params}: found no {SEEDS!r}, expected it once; give `lapml suite use demo`")
            params.write_text(text.replace(SEEDS, f"seeds: {list(range(seeds))}"), encoding="utf-8")
            seconds[seeds * methods] = [_seconds(["-n", "--quiet"], Path(folder)) for _ in range(repeats)]
    record = {**circumstances(device_name()), "cores": os.cpu_count(), "start": start, "seconds": seconds}
    lines = ["| runs | dry run (s) | without Snakemake's own start (s) |", "|---:|---:|---:|"]
    for count, times in seconds.items():
        lines.append(f"| {count:,} | {np.median(times):.1f} | {np.median(times) - np.median(start):.1f} |")
    about = (
        f"`snakemake -n` of the main job with more seeds, medians of {repeats}; {record['device']}; load average "
        f"{record['load_average']:.1f} at the end; {revision(record)}."
    )
    return written(record, "\n".join([about, "", *lines]), output, "plans")


def _seconds(options: list[str], folder: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise LapmlError(f"{' '.join(command[2:])}: status {done.returncode}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started
