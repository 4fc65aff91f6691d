"""What further workers give a study: `lapml tune --workers N` by its wall time."""

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.record import circumstances, revision, table, written
from benchmarks.scheduler import project, run
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
    asked = ("--params", str(file.resolve()))
    seconds, scores = {}, {}
    with tempfile.TemporaryDirectory() as name:
        project(folder := Path(name))
        here = Paths(paths.suite, folder)
        for stage in (("data", "fetch"), ("data", "prepare"), ("localise", "--anyway")):
            run(folder, "lapml", *stage, dataset, *asked)
        # Without the suite's database, in which its own study lies.
        own = ["--set", f"tune.trials={trials}", "--set", "tune.storage=null"]
        if "storage" in params.data[dataset].overrides.tune:
            own += ["--set", f"data.{dataset}.overrides.tune.storage=null"]
        study = ("lapml", "tune", dataset, "--method", tuned[0], *asked, *own, "--workers")
        for count in counts:
            for old in (here.base / "studies", here.base / "tuned"):
                shutil.rmtree(old, ignore_errors=True)
            seconds[count], _ = run(folder, *study, str(count))
            scores[count] = read_json(here.tuned(dataset, tuned[0]))["score"]
    record = {
        **circumstances(device_name()), "suite": paths.suite, "method": tuned[0], "trials": trials, "cores": os.cpu_count(),
        "seconds": seconds, "scores": scores,
    }  # fmt: skip
    rows = [
        (f"{count}", f"{taken:.0f}", f"{seconds[counts[0]] / taken:.2f}", f"{scores[count]:.2f}")
        for count, taken in seconds.items()
    ]
    about = (
        f"`lapml tune {dataset} --method {tuned[0]} --workers N` of suite {paths.suite} with {trials} trials, from its start to "
        f"its end, once each; {os.cpu_count()} cores, one thread a process; {record['device']}; load average "
        f"{record['load_average']:.1f} at the end; {revision(record)}."
    )
    return written(
        record, "\n".join([about, "", *table(["workers", "seconds", "speed", "best score"], rows)]), output, "workers"
    )
