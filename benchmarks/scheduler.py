"""What SLURM costs a suite, against Snakemake alone; and how long Snakemake plans one, by the number of its runs."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.record import circumstances, revision, table, written
from lapml.common.provenance import device_name
from lapml.config import load
from lapml.errors import LapmlError

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "params.yaml", "suites", "profiles")
SEEDS = "seeds: [0, 1, 2]"  # of params.yaml
WAYS = {"alone": "--cores {cores}", "SLURM": "--workflow-profile profiles/slurm"}


def slurm(suite: str, output: Path | None) -> str:
    """Time a suite both ways, one after the other, each from nothing in a folder of its own; LapmlError where there is no
    SLURM, or a job failed. Returns a Markdown table of the seconds of each rule, written with its figures to slurm.json and
    slurm.md in ``output`` if given."""
    if shutil.which("sbatch") is None:
        raise LapmlError("sbatch: found none, expected SLURM; run this on a cluster, or give `make bench-slurm`")
    cores = os.cpu_count() or 1
    totals, rules = {}, {}
    for way, options in WAYS.items():
        totals[way], rules[way] = _timed(suite, options.format(cores=cores))
    record = {**circumstances(device_name()), "suite": suite, "cores": cores, "seconds": totals, "rules": rules}
    heads, rows = ["rule", "jobs", "Snakemake alone (s)", "SLURM (s)", "more per job (s)"], []
    for rule, alone in rules["alone"].items():
        means = [sum(each) / len(each) for each in (alone, rules["SLURM"][rule])]
        rows.append([rule, f"{len(alone)}", *(f"{mean:.0f}" for mean in (*means, means[1] - means[0]))])
    last = f"| all, from start to end | | {totals['alone']:.0f} | {totals['SLURM']:.0f} | |"
    about = (
        f"Mean seconds of a rule's jobs in {suite}, from Snakemake's start of a job until it knows of its end. fetch and report "
        f"are not submitted. One run of each way, {cores} cores; {record['device']}; load average {record['load_average']:.1f} "
        f"at the end; {revision(record)}."
    )
    return written(record, "\n".join([about, "", *table(heads, rows), last]), output, "slurm")


def project(folder: Path) -> None:
    """Copy what Snakemake needs of the project into a new folder, or an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)


def _timed(suite: str, options: str) -> tuple[float, dict[str, list[float]]]:
    """Seconds of a suite, and of the jobs of each rule."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on the file system that the cluster's machines share
        project(Path(folder))
        seconds, log = run(Path(folder), "snakemake", *options.split(), "--configfile", suite)
    return seconds, durations(log)


def run(folder: Path, *command: str) -> tuple[float, str]:
    """Run a module of this project or of its environment in a folder; returns its seconds, and what it says on standard error.
    LapmlError where it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise LapmlError(f"{' '.join(command)}: status {done.returncode}\n{(done.stderr or done.stdout)[-3000:]}")
    return time.perf_counter() - started, done.stderr


def durations(log: str) -> dict[str, list[float]]:
    """Seconds of each rule's jobs by Snakemake's log, from its start of a job until it says that it is finished."""
    started, seconds = {}, {}
    for stamp, block in re.findall(r"^\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]\n(.*?)(?=^\[|\Z)", log, re.M | re.S):
        when = datetime.strptime(stamp, "%a %b %d %H:%M:%S %Y").timestamp()
        if found := re.match(r"(?:local)?rule \w+:.*?^    jobid: (\d+)$", block, re.M | re.S):
            started.setdefault(found[1], when)  # an attempt that failed counts
        elif (found := re.match(r"Finished jobid: (\d+) \(Rule: (\w+)\)", block)) and found[1] in started:
            seconds.setdefault(found[2], []).append(when - started[found[1]])
    return seconds


def plans(runs: list[int], repeats: int, output: Path | None) -> str:
    """How long Snakemake plans a suite, nothing made yet and nothing but the report missing: dry runs of the main job with other
    numbers of seeds, and nothing but its help, which is Snakemake's own start.

    Args:
        runs: how many the suite is to have, each rounded up to whole seeds of all methods.

    Returns:
        a Markdown table; written with its figures to plans.json and plans.md in ``output`` if given.
    """
    methods = len(load(ROOT / "params.yaml").all_methods())
    start = [_seconds(Path.cwd(), "--help") for _ in range(repeats)]
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
            seconds[seeds * methods] = [_seconds(Path(folder), "-n", "--quiet") for _ in range(repeats)]
    record = {**circumstances(device_name()), "cores": os.cpu_count(), "start": start, "seconds": seconds}
    lines = ["| runs | dry run (s) | without Snakemake's own start (s) |", "|---:|---:|---:|"]
    for count, times in seconds.items():
        lines.append(f"| {count:,} | {np.median(times):.1f} | {np.median(times) - np.median(start):.1f} |")
    about = (
        f"`snakemake -n` of the main job with more seeds, medians of {repeats}; {record['device']}; load average "
        f"{record['load_average']:.1f} at the end; {revision(record)}."
    )
    return written(record, "\n".join([about, "", *lines]), output, "plans")


def _seconds(folder: Path, *options: str) -> float:
    return run(folder, "snakemake", "--cores", "1", *options)[0]
