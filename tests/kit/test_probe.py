"""What is tried before the runs: how far a run came, and CUDA's multi-process service where it is."""

import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kit import offline, probe
from kit.runs import Bench, Job
from lapml import config
from lapml.errors import LapmlError, Stopped
from lapml.paths import Paths
from lapml.report import carried
from lapml.runs.execute import execute
from lapml.training.loop import fit

ROOT = Path(__file__).parents[2]


def test_images_and_seconds_of_a_run_that_was_stopped_and_of_one_that_finished(small_run, packed, tmp_path):
    run = small_run("cutmix")
    with pytest.raises(Stopped) as stopped:
        fit(run, packed, tmp_path / "last.pt", log=lambda line: os.kill(os.getpid(), signal.SIGTERM))
    epoch, step, steps = map(int, re.search(r"epoch (\d+) after step (\d+) of (\d+)", str(stopped.value)).groups())
    images, seconds = probe.progress(tmp_path)
    assert images == ((epoch - 1) * steps + step) * run.train.batch and seconds > 0
    metrics = execute(run, packed, tmp_path, log=lambda line: None)
    images, seconds = probe.progress(tmp_path)
    assert images == metrics["images_backward"] == run.train.epochs * steps * run.train.batch
    assert seconds == pytest.approx(metrics["seconds"])
    assert probe.progress(tmp_path / "nothing") == (0, 0.0)


@pytest.mark.parametrize("suite", ["cub200", "cub200-scratch", "tiny"])
def test_rates_are_tried_on_a_suite_of_one_method(tmp_path, monkeypatch, suite):
    """Whose settings are valid, whatever comparisons the suite names; the best on the validation split is taken."""
    params, job = config.load(ROOT / f"suites/{suite}.yaml"), ("a", "baseline", 0)

    def train(job, log, *overrides, development=False):
        found = config.load(ROOT / f"suites/{suite}.yaml", overrides)
        assert development and found.ablation == ["baseline"]
        folder = Paths(found.suite, tmp_path).development(*job)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"top1": 50 - abs(found.train.lr - 0.02)}))
        return subprocess.Popen(["true"])

    bench = SimpleNamespace(
        params=params, jobs=lambda: [Job(*job)], beside=lambda name: Paths(name, tmp_path), train=train,
        log=lambda job, name: tmp_path / f"{name}.log",
    )  # fmt: skip
    assert probe.learning_rate(bench, [0.01, 0.02, 0.04], 3, False) == 0.02


@pytest.mark.parametrize(
    "given, expected", [(["train.lr=0.3"], 0.3), (["train.momentum=0.8"], 0.5), (["train.lr = 0.3", "seeds=[0]"], 0.3)]
)
def test_a_rate_that_is_given_is_not_replaced_by_the_chosen_one(tmp_path, monkeypatch, given, expected):
    state = {"about": {"suite": str(ROOT / "suites/cub200.yaml")}, "found": {"rate": 0.5}}
    work, rates = SimpleNamespace(state=state, logs=tmp_path, env={}), []
    monkeypatch.setattr(offline, "make_ready", lambda *_: None)
    monkeypatch.setattr(Bench, "left", lambda bench: [])
    monkeypatch.setattr(carried, "pack", lambda params, *_: rates.append(params.train.lr) or [])
    plan = Namespace(overrides=given, gpu_tests=0, jobs=1, rates=[], probe=[], limit=0, output=tmp_path)
    offline._suite(plan, work, False)
    assert rates == [expected]


def test_a_rate_is_given_or_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Namespace(overrides=["train.lr=0.2"], rates=[0.1], stop=0, work=tmp_path / "work", pieces=tmp_path)
    with pytest.raises(LapmlError, match="--rates: found beside --set train.lr, expected one of the two"):
        offline.offline(plan)
    assert not plan.work.exists()


@pytest.fixture
def bench(tmp_path):
    work = SimpleNamespace(folder=tmp_path / "work", env=dict(os.environ))
    return SimpleNamespace(work=work, env={"OWN": "1"})


def control(folder, monkeypatch, works):
    """A stand-in for the service's control program, which notes how it was called, and a Python that sees a GPU or none."""
    folder.mkdir()
    (folder / probe.MPS).write_text(
        f'#!/bin/sh\necho "$@" $CUDA_MPS_PIPE_DIRECTORY >> {folder}/calls\n[ "$1" ] || cat >> {folder}/calls\n'
    )
    (folder / "python").write_text(f"#!/bin/sh\nexit {0 if works else 1}\n")
    for name in (probe.MPS, "python"):
        (folder / name).chmod(0o755)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("works", [True, False])
def test_the_service_is_started_for_the_runs_and_ended_after_them(bench, tmp_path, monkeypatch, works):
    control(tmp_path / "bin", monkeypatch, works)
    bench.work.env["PATH"] = os.environ["PATH"]
    pipe = str(bench.work.folder / "mps")
    with pytest.raises(RuntimeError, match="in a run"), probe.mps(bench) as on:
        assert on == works
        assert bench.env.get("CUDA_MPS_PIPE_DIRECTORY") == (pipe if works else None)
        raise RuntimeError("in a run")
    assert bench.env == {"OWN": "1"}
    assert (tmp_path / "bin/calls").read_text().split("\n")[:-1] == [pipe, "quit", f"-d {pipe}", pipe, "quit"]


def test_without_it_the_runs_share_the_gpu_as_they_are(bench, monkeypatch):
    monkeypatch.setattr(probe.shutil, "which", lambda name: None)
    with probe.mps(bench) as on:
        assert not on and bench.env == {"OWN": "1"}
