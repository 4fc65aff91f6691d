"""Runs side by side: their order and number, their ends, and what comes back of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import probe, processes
from kit.processes import Asked
from kit.runs import Bench, Outcome, run_all
from kit.take import Work
from lapml import config
from lapml.errors import LapmlError, Stopped
from lapml.paths import Paths
from lapml.report import carried
from lapml.runs.collect import Job

ROOT = Path(__file__).resolve().parents[2]


def by_rounds(rates, runs, together):
    """Full rounds, then the rest, one run at a time."""
    seconds, left = 0.0, runs
    while left:
        now = min(left, together)
        below, above = max(k for k in rates if k <= now), min(k for k in rates if k >= now)
        share = (now - below) / (above - below) if above > below else 0
        seconds += now / (rates[below] + share * (rates[above] - rates[below]))
        left -= now
    return seconds


@given(st.lists(st.floats(1, 1e4), min_size=4, max_size=4), st.integers(1, 40))
def test_what_is_chosen_finishes_soonest(speeds, runs):
    rates = dict(zip((1, 4, 8, 12), speeds, strict=True))
    for together in rates:
        now = min(together, runs)
        assert np.isclose(probe.finish(rates, runs, now), by_rounds(rates, runs, now))
    best = probe.soonest(rates, runs)
    assert by_rounds(rates, runs, min(best, runs)) <= min(by_rounds(rates, runs, min(k, runs)) for k in rates) * (
        1 + 1e-9
    )


def test_ten_runs_are_done_sooner_by_tens_than_by_eights():
    assert probe.soonest({1: 100, 4: 300, 8: 400, 10: 410}, 10) == 10
    assert probe.soonest({1: 100, 4: 300, 8: 0.0}, 10) == 4  # none of eight came to its first step
    with pytest.raises(LapmlError, match="no run came to its first step"):
        probe.soonest({1: 0.0}, 10)


def test_seeds_are_outermost():
    params = config.load(ROOT / "suites/cub200.yaml")
    order = Bench(Path(), [], params, Paths("cub200"), None).jobs()
    assert [job.seed for job in order] == [0] * 7 + [1] * 7
    assert [job.method for job in order[:7]] == params.ablation == [job.method for job in order[7:]]
    train = params.train
    assert (train.epochs, train.batch, params.data["cub200"].view.side, params.model.truncate) == (30, 32, 224, None)


class Fake:
    """In place of a Bench: a run is a line of Python."""

    def __init__(self, folder, code):
        self.folder, self.code, self.started = folder, code, []

    def log(self, job):
        return self.folder / f"{job.method}.log"

    def train(self, job, log):
        self.started.append(job.method)
        command = [sys.executable, "-c", self.code.get(job.method, "")]
        return processes.start(command, log, os.environ, os.open(os.devnull, os.O_RDONLY))


def ended(outcome):
    return {key: [job.method for job in found] for key, found in vars(outcome).items()}


def test_a_run_that_fails_or_is_killed_leaves_the_others_alone(tmp_path, capsys):
    code = {"a": "exit('no')", "b": "import os; os.kill(os.getpid(), 9)", "d": f"exit({Stopped.status})"}
    outcome, done = Outcome(), []
    jobs = [Job("birds", method, 0) for method in "abcde"]
    with Asked() as asked:
        run_all(Fake(tmp_path, code), jobs, 2, 0, asked, outcome, lambda: done.append(len(outcome.finished)))
    assert ended(outcome) | {"finished": sorted(ended(outcome)["finished"])} == {
        "finished": ["c", "e"], "failed": ["a", "b"], "stopped": ["d"], "left": []
    }  # fmt: skip
    assert sorted(done) == [1, 2]
    said = capsys.readouterr().out
    assert "failed with status 1" in said and "\nno (" in said and "killed by signal 9" in said


def test_no_run_is_begun_after_the_limit_and_those_that_run_go_on(tmp_path):
    fake, outcome = Fake(tmp_path, {}), Outcome()
    with Asked() as asked:
        asked.started -= 100
        run_all(fake, [Job("birds", "a", 0)], 1, 99, asked, outcome, lambda: None)
    assert ended(outcome) == {"finished": [], "failed": [], "stopped": [], "left": ["a"]} and fake.started == []
    # the limit comes while the first one runs: the second looks at a clock that the first one has moved
    with Asked() as asked:
        fake.train = lambda job, log, start=fake.train: (
            setattr(asked, "started", asked.started - 100),
            start(job, log),
        )[1]
        outcome = Outcome()
        run_all(fake, [Job("birds", method, 0) for method in "ab"], 1, 99, asked, outcome, lambda: None)
    assert ended(outcome) == {"finished": ["a"], "failed": [], "stopped": [], "left": ["b"]}


def test_sigterm_reaches_the_runs_and_ends_what_does_not_heed_it(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.end, "__defaults__", (2.0,))
    heeds = f"import signal, time; signal.signal(15, lambda *_: exit({Stopped.status})); print(1, flush=True); time.sleep(99)"
    code = {
        "a": heeds,
        "b": "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)",
    }
    fake, outcome = Fake(tmp_path, code), Outcome()
    with Asked() as asked:

        class Soon:  # SIGTERM as soon as both have set their handlers
            def __bool__(self):
                if not asked and all(fake.log(job).is_file() and fake.log(job).stat().st_size for job in jobs[:2]):
                    os.kill(os.getpid(), signal.SIGTERM)
                return bool(asked)

            elapsed = asked.elapsed

        jobs = [Job("birds", method, 0) for method in "abc"]
        run_all(fake, jobs, 2, 0, Soon(), outcome, lambda: None)
    assert ended(outcome) == {"finished": [], "failed": [], "stopped": ["a", "b"], "left": ["c"]}


def test_what_a_killed_kit_left_running_is_ended_and_kept_apart(tmp_path):
    """The kit is killed: its child gets SIGTERM, and holds the lock until it has gone."""
    script = tmp_path / "killed.py"
    child = (
        "import signal, time\n"
        "def save(*_):\n    time.sleep(1)\n    print('saved', flush=True)\n    exit(0)\n"
        "signal.signal(15, save)\nprint('up', flush=True)\ntime.sleep(99)"
    )
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom kit import processes\n"
        f"with processes.alone(Path({str(tmp_path / 'lock')!r})) as lock:\n"
        f"    processes.start([sys.executable, '-c', {child!r}], Path({str(tmp_path / 'log')!r}), os.environ, lock)\n"
        "    time.sleep(99)\n"
    )
    kit = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not ((tmp_path / "log").is_file() and "up" in (tmp_path / "log").read_text()):
        time.sleep(0.05)
    with pytest.raises(LapmlError, match="another kit/run.sh"), processes.alone(tmp_path / "lock", wait=0.2):
        pass
    kit.kill()
    kit.wait()
    with processes.alone(tmp_path / "lock", wait=30):
        assert (tmp_path / "log").read_text().split() == ["up", "saved"]


def test_a_step_that_fails_shows_the_end_of_what_it_said_and_one_that_is_stopped_can_go_on(tmp_path, work):
    work.lock = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(LapmlError, match=r"unpack: failed with status 3; .*unpack.log ends in:\nlast words"):
        work.call("unpack", sys.executable, "-c", "print('last words'); exit(3)")
    work.asked.signal = signal.SIGTERM
    with pytest.raises(Stopped, match="stopped in: unpack; run the same command again"):
        work.call("unpack", sys.executable, "-c", "import time; time.sleep(99)")
    work.asked.signal = 0
    for _ in range(2):
        Work(work.folder, work.lock, work.asked).once("step", lambda: (work.folder / "count").open("a").write("x"))
    assert (work.folder / "count").read_text() == "x"


def test_what_does_not_fit_into_one_tar_is_in_a_second(files, tmp_path, monkeypatch):
    jobs = [Job("birds", method, 0) for method in ("a", "b", "c")]
    paths = SimpleNamespace(run=lambda *job: tmp_path.joinpath("runs", *map(str, job)))
    for job in jobs:
        paths.run(*job).mkdir(parents=True)
        for name in carried.FILES:
            (paths.run(*job) / name).write_bytes(os.urandom(20_000))
    monkeypatch.setattr(carried, "finished", lambda params, paths: jobs)
    log = tmp_path / "failed.log"
    log.write_bytes(b"begin" + b"x" * 100_000 + b"end")
    params, target = SimpleNamespace(suite="s"), tmp_path / "out/s-runs.tar"
    found = carried.pack(params, paths, {}, [log], target, most=320_000)
    assert [path.name for path in found] == ["s-runs.tar", "s-runs-2.tar"]
    assert all(path.stat().st_size <= 320_000 for path in found)
    assert files(tmp_path / "out").keys() == {"s-runs.tar", "s-runs-2.tar"}
    seen = []
    for at, tar in enumerate(found):
        record, there = carried.unpack(tar, tmp_path / f"got{at}")
        assert record["suite"] == "s"
        seen += there
    assert seen == jobs
    assert (tmp_path / "got0/logs/failed.log").read_bytes() == log.read_bytes()[-carried.MOST_LOG :]
    for job in jobs:
        at = 0 if (tmp_path / "got0/runs" / str(job)).exists() else 1
        assert files(tmp_path / f"got{at}/runs" / str(job)) == files(paths.run(*job))
    with pytest.raises(LapmlError, match="takes 0.1 MiB, expected at most 0.1"):
        carried.pack(params, paths, {}, [], target, most=100_000)
