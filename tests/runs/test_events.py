"""`lapml watch --tensorboard`: event files, read back by TensorBoard's own reader, hold what the runs wrote."""

import os
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.errors import LapmlError
from lapml.paths import LIVE, Paths
from lapml.runs.execute import execute
from lapml.runs.live import LEFT_OUT, Events
from lapml.runs.watching import DONE, RUNNING, STOPPED, Standing

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def suite(small_params, tmp_path):
    return small_params("seeds=[0]", "ablation=[baseline, cutmix]", "tuned_methods=[]"), Paths("demo", tmp_path)


def read(folder) -> dict[str, list]:
    """{name: events (step, value, wall_time)} of a run."""
    found = event_accumulator.EventAccumulator(str(folder), {"scalars": 0})
    found.Reload()
    return {name: found.Scalars(name) for name in found.Tags()["scalars"]}


def test_a_finished_run(suite, small_run, packed, tmp_path, monkeypatch):
    params, paths = suite
    folder = paths.run("birds", "cutmix", 0)
    metrics = execute(small_run("cutmix"), packed, folder, log=lambda line: None)
    monkeypatch.setattr("lapml.cli.watch.load", lambda *given: suite)
    for _ in range(2):  # the second replaces what the first wrote
        printed = CliRunner().invoke(app, ["watch", "--once", "--tensorboard", str(tmp_path / "events")])
        assert printed.exit_code == 0, printed.output
    found, history = read(tmp_path / "events/birds/cutmix/0"), pd.read_csv(folder / "history.csv")
    curves = {f"train/{name}" for name in history.dropna(axis=1) if name not in LEFT_OUT}
    assert set(found) == curves | {"test/top1"} and "train/loss" in curves and "train/loss_margin" not in curves
    for name in curves:
        assert [event.step for event in found[name]] == [1, 2]
        assert [event.value for event in found[name]] == pytest.approx(
            history[name.removeprefix("train/")].to_list(), rel=1e-5
        )
    times = [event.wall_time for event in found["train/loss"]]
    assert [b - a for a, b in zip(times, times[1:], strict=False)] == pytest.approx(
        history["seconds"][1:].to_list(), abs=1e-3
    )
    assert times[-1] == pytest.approx(os.stat(folder / "history.csv").st_mtime)
    assert [(event.step, event.value) for event in found["test/top1"]] == [(2, pytest.approx(metrics["top1"]))]
    assert not (tmp_path / "events/birds/baseline").exists()


def test_runs_are_not_deleted(suite, small_run, packed):
    """Where events are asked for in the folder of the runs themselves, they lie beside the runs' own files."""
    params, paths = suite
    folder = paths.run("birds", "cutmix", 0)
    metrics = execute(small_run("cutmix"), packed, folder, log=lambda line: None)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    for _ in range(2):
        Events(params, paths, paths.base / "runs").added([Standing("birds", "cutmix", 0, DONE, top1=metrics["top1"])])
        assert {name: (folder / name).read_bytes() for name in before} == before
        assert (folder / ".kept").is_dir() and len(list(folder.glob("events.*"))) == 1


def test_a_run_that_goes_on_begins_again_and_ends(suite, tmp_path):
    """Each epoch is written once; a run that was begun anew leaves nothing of the one before."""
    params, paths = suite
    folder = paths.run("birds", "baseline", 0)
    folder.mkdir(parents=True)
    events = Events(params, paths, tmp_path / "events")
    row = Standing("birds", "baseline", 0, RUNNING)

    def look(losses, file=LIVE, state=RUNNING, top1=None):
        history = {"epoch": range(1, len(losses) + 1), "loss": losses, "seconds": 2.0, "images_forward": 8}
        pd.DataFrame(history).to_csv(folder / file, index=False)
        events.added([row._replace(state=state, top1=top1)])
        found = read(tmp_path / "events/birds/baseline/0")
        assert set(found) - {"test/top1"} == {"train/loss", "train/seconds"}
        return [event.value for event in found["train/loss"]], found.get("test/top1")

    assert look([3.0]) == ([3.0], None)
    assert look([3.0]) == ([3.0], None)
    assert look([3.0, 2.5], state=STOPPED) == ([3.0, 2.5], None)
    assert look([1.5]) == ([1.5], None)
    assert look([1.5, 1.25]) == ([1.5, 1.25], None)
    losses, top1 = look([1.5, 1.25, 1.0], "history.csv", DONE, 70.0)
    assert losses == [1.5, 1.25, 1.0] and [(event.step, event.value) for event in top1] == [(3, 70.0)]
    assert look([1.5, 1.25, 1.0], "history.csv", DONE, 70.0)[0] == losses


def test_without_the_package(suite, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        LapmlError, match="--tensorboard: needs the package tensorboard .* run `pip install tensorboard`"
    ):
        Events(*suite, tmp_path)
