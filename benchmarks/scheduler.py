"""What SLURM costs a suite: the same suite by Snakemake alone and through profiles/slurm."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.record import circumstances, revision, written
from lapml.common.provenance import device_name
from lapml.errors import LapmlError

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "params.yaml", "suites", "profiles")
WAYS = {"alone": "--cores {cores}", "SLURM": "--workflow-profile profiles/slurm"}


def slurm(suite: str, output: Path | None) -> str:
    """Time a suite both ways, one after the other, each from nothing in a folder of its own.

    Args:
        suite: a file below suites/.

    Returns:
        a Markdown table of the seconds of each rule; written with its figures to slurm.json and slurm.md in ``output`` if given.

    Raises:
        LapmlError: no SLURM here, or a job failed.
    """
    if shutil.which("sbatch") is None:
        raise LapmlError("sbatch: found none, expected SLURM; run this on a cluster, or give `make bench-slurm`")
    cores = os.cpu_count() or 1
    totals, rules = {}, {}
    for way, options in WAYS.items():
        totals[way], rules[way] = _timed(suite, options.format(cores=cores))
    record = {**circumstances(device_name()), "suite": suite, "cores": cores, "seconds": totals, "rules": rules}
    lines = ["| rule | jobs | Snakemake alone (s) | SLURM (s) | more per job (s) |", "|---|---:|---:|---:|---:|"]
    for rule, alone in rules["alone"].items():
        means = [sum(each) / len(each) for each in (alone, rules["SLURM"][rule])]
        lines.append(f"| {rule} | {len(alone)} | {means[0]:.0f} | {means[1]:.0f} | {means[1] - means[0]:.0f} |")
    lines.append(f"| all, from start to end | | {totals['alone']:.0f} | {totals['SLURM']:.0f} | |")
    about = (
        f"Mean seconds of a rule's jobs in {suite}, from Snakemake's start of a job until it knows of its end. fetch and report "
        f"are not submitted. One run of each way, {cores} cores; {record['device']}; load average {record['load_average']:.1f} "
        f"at the end; {revision(record)}."
    )
    return written(record, "\n".join([about, "", *lines]), output, "slurm")


def project(folder: Path) -> None:
    """Copy what Snakemake needs of the project."""
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)


def _timed(suite: str, options: str) -> tuple[float, dict[str, list[float]]]:
    """Seconds of a suite, and of the jobs of each rule."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on the file system that the cluster's machines share
        project(Path(folder))
        command = [sys.executable, "-m", "snakemake", *options.split(), "--configfile", suite]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise LapmlError(f"{' '.join(command[2:])}: status {done.returncode}\n{done.stderr[-3000:]}")
    return seconds, durations(done.stderr)


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
