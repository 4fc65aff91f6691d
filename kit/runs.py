"""Run the runs of a suite side by side on one machine."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kit.make import refuse_unfit
from kit.processes import TICK, Asked, end, start, tail
from kit.take import Work
from lapml.config import Params, load
from lapml.errors import Stopped
from lapml.paths import Paths
from lapml.report.carried import finished
from lapml.runs.collect import Job


@dataclass
class Bench:
    """What every run here is started with."""

    suite: Path
    overrides: list[str]
    params: Params
    paths: Paths
    work: Work
    env: dict[str, str] = field(default_factory=dict)  # beside that of ``work``

    @classmethod
    def of(cls, suite: Path, overrides: list[str], work: Work) -> Self:
        """LapmlError for a suite that cannot run here."""
        params = load(suite, overrides)
        refuse_unfit(params)
        return cls(suite, list(overrides), params, Paths(params.suite), work)

    def set(self, override: str) -> None:
        """Make a setting another one for all runs from here on."""
        self.overrides.append(override)
        self.params = load(self.suite, self.overrides)

    def jobs(self) -> list[Job]:
        """The runs of the suite, seeds outermost: whenever the time is over, as many methods as possible have as many seeds as
        possible."""
        params = self.params
        return [
            Job(data, method, seed) for seed in params.seeds for data in params.datasets for method in params.ablation
        ]

    def left(self) -> list[Job]:
        """Those that are not finished."""
        done = finished(self.params, self.paths)
        return [job for job in self.jobs() if job not in done]

    def log(self, job: Job, suite: str = "") -> Path:
        return self.work.logs / f"{suite or self.params.suite}-{str(job).replace('/', '-')}.log"

    def train(self, job: Job, log: Path, *overrides: str, development: bool = False) -> subprocess.Popen:
        """Start a run."""
        options = [part for each in (*self.overrides, *overrides) for part in ("--set", each)]
        options += ["--development"] * development
        command = [sys.executable, "-m", "lapml", "train", *map(str, job), "--params", str(self.suite), "--replace"]
        return start([*command, *options], log, self.work.env | self.env, self.work.lock)

    def beside(self, name: str) -> Paths:
        """The folders of a suite that uses this one's data and maps."""
        other = Paths(name, self.paths.root)
        other.base.mkdir(parents=True, exist_ok=True)
        for folder in (self.paths.data, self.paths.base / "localised"):
            if folder.exists() and not (other.base / folder.name).exists():
                (other.base / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
        return other


@dataclass
class Outcome:
    """How a call ended for each of the runs that were to do."""

    finished: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    stopped: list[Job] = field(default_factory=list)  # to be continued
    left: list[Job] = field(default_factory=list)  # not begun


def run_all(
    bench: Bench,
    todo: list[Job],
    together: int,
    limit: float,
    asked: Asked,
    outcome: Outcome,
    done: Callable[[], object],
) -> None:
    """Run ``todo`` in this order, ``together`` at a time. One that fails or is killed leaves the others alone.

    Args:
        limit: seconds after the kit's start when no further run is begun; 0: never.
        outcome: is filled in.
        done: called after each run that finished.
    """
    waiting, running = list(todo), {}
    while waiting or running:
        if asked:
            end(list(running))
        for process in [each for each in running if each.poll() is not None]:
            job, since = running.pop(process)
            _note(bench, outcome, job, process.returncode, asked, since)
            if process.returncode == 0:
                done()
        if asked or limit and asked.elapsed() > limit:
            outcome.left += waiting
            waiting = []
        while waiting and len(running) < together:
            job = waiting.pop(0)
            bench.log(job).unlink(missing_ok=True)
            running[bench.train(job, bench.log(job))] = job, asked.elapsed()
            print(f"[{asked.elapsed():.0f} s] {job}: begun", flush=True)
        time.sleep(TICK)


def _note(bench: Bench, outcome: Outcome, job: Job, status: int, asked: Asked, since: float) -> None:
    now = asked.elapsed()
    if status == 0:
        outcome.finished.append(job)
        said = "finished"
    elif status == Stopped.status or asked and status < 0:  # ended by us before it could save a state, or later
        outcome.stopped.append(job)
        said = "stopped, to be continued"
    else:
        outcome.failed.append(job)
        how = f"killed by signal {-status}" if status < 0 else f"failed with status {status}"
        said = f"{how}; {bench.log(job)} ends in:\n{tail(bench.log(job), 4)}"
    print(f"[{now:.0f} s] {job}: {said} ({now - since:.0f} s)", flush=True)
