"""What further workers give a study: `lapml tune --workers N` by its wall time."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import circumstances, revision, written
from benchmarks.scheduler import ROOT, project
from lapml.common.provenance import device_name
from lapml.common.recorded import read_json
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths


def workers(
    params: Params, paths: Paths, dataset: str, counts: list[int], trials: int, file: Path, output: Path | None
) -> str:
    """Time the first study of a suite by the number of its workers, each from nothing, one after the other.

    Args:
        counts: numbers of workers.
        trials: of the study.
        file: the params file of ``params``.

    Returns:
        a Markdown table; written with its figures to workers.json and workers.md in ``output`` if given.

    Raises:
        LapmlError: no method of the suite is tuned, or a command failed.
    """
    if not (tuned := [*params.studies(), *params.of(dataset).tune.methods]):
        raise LapmlError(f"{file}: found no method to tune, expected some in tuned_methods or tune.methods")
    asked = ["--params", str(file.resolve()), "--set", f"tune.trials={trials}"]
    seconds, scores = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        project(Path(folder))
        here = Paths(paths.suite, folder)
        for stage in (["data", "fetch", dataset], ["data", "prepare", dataset], ["localise", dataset, "--anyway"]):
            _run(["lapml", *stage, *asked[:2]], folder)
        for count in counts:
            for old in (here.base / "studies", here.base / "tuned"):
                shutil.rmtree(old, ignore_errors=True)
            seconds[count] = _run(
                ["lapml", "tune", dataset, "--method", tuned[0], "--workers", str(count), *asked], folder
            )
            scores[count] = read_json(here.tuned(dataset, tuned[0]))["score"]
    record = {
        **circumstances(device_name()), "suite": paths.suite, "method": tuned[0], "trials": trials, "cores": os.cpu_count(),
        "seconds": seconds, "scores": scores,
    }  # fmt: skip
    lines = ["| workers | seconds | speed | best score |", "|---:|---:|---:|---:|"]
    for count, taken in seconds.items():
        lines.append(f"| {count} | {taken:.0f} | {seconds[counts[0]] / taken:.2f} | {scores[count]:.2f} |")
    about = (
        f"`lapml tune {dataset} --method {tuned[0]} --workers N` of suite {paths.suite} with {trials} trials, from its start to "
        f"its end, once each; {os.cpu_count()} cores, one thread a process; {record['device']}; load average "
        f"{record['load_average']:.1f} at the end; {revision(record)}."
    )
    return written(record, "\n".join([about, "", *lines]), output, "workers")


def _run(command: list[str], folder: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise LapmlError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return time.perf_counter() - started
