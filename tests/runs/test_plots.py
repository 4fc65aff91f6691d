"""`lapml watch --dvc`: metrics and plots, read back by DVC itself, hold what the runs wrote."""

import csv
import io
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.errors import LapmlError
from lapml.paths import LIVE, Paths
from lapml.runs.execute import execute
from lapml.runs.live import FIRST_LINE, Plots
from lapml.runs.watching import DONE, RUNNING, STOPPED, WAITING, Standing


@pytest.fixture
def paths(tmp_path):
    return Paths("demo", tmp_path / "results")


def dvc(folder, *arguments) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def leave(paths, run: Standing, losses, file=LIVE, **columns) -> None:
    folder = paths.run(run.dataset, run.method, run.seed)
    folder.mkdir(parents=True, exist_ok=True)
    history = {"epoch": range(1, len(losses) + 1), "loss": losses, "loss_margin": None, "images_forward": 8, **columns}
    pd.DataFrame(history).to_csv(folder / file, index=False)


def plotted(folder) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{column: {file: (epoch, value)}} of the plots, as DVC has them."""
    found = {}
    for name, ((plot),) in json.loads(dvc(folder, "plots", "show", "--json"))["data"].items():
        lines = found[name] = {}
        for point in plot["content"]["data"]["values"]:
            lines.setdefault(point.get("filename"), []).append((int(point["epoch"]), float(point[name])))
    return found


def test_dvc_shows_runs_that_are_under_way(paths, tmp_path):
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "begin"], cwd=tmp_path, check=True
    )
    (tmp_path / ".gitignore").write_text("/results\n")
    one = Standing("birds", "cutmix", 0, RUNNING, 2, 9, 1.5, 40.0)
    two = Standing("birds", "margin", 1, STOPPED, 1, 9, 2.5, 20.0)
    leave(paths, one, [2.0, 1.5])
    leave(paths, two, [2.5], loss_margin=[0.5])
    plots = Plots(paths, tmp_path / "live")
    plots.added([one, two, Standing("birds", "margin", 2, WAITING)])
    assert plotted(tmp_path) == {
        "loss": {"cutmix/0.csv": [(1, 2.0), (2, 1.5)], "margin/1.csv": [(1, 2.5)]},
        "loss_margin": {None: [(1, 0.5)]},  # of a single file
    }
    one = one._replace(epoch=3, loss=1.25)
    leave(paths, one, [2.0, 1.5, 1.25])
    os.utime(paths.run("birds", "cutmix", 0) / LIVE, (2e9, 2e9))
    leave(paths, two, [2.5, 1.0], "history.csv", loss_margin=[0.5, 0.25])
    plots.added([one, two._replace(state=DONE, epoch=2, loss=None, accuracy=None, top1=70.0)])
    assert plotted(tmp_path)["loss"] == {
        "cutmix/0.csv": [(1, 2.0), (2, 1.5), (3, 1.25)],
        "margin/1.csv": [(1, 2.5), (2, 1.0)],
    }
    (workspace, *_) = csv.DictReader(io.StringIO(dvc(tmp_path, "exp", "show", "--csv")))
    shown = {name: float(value) for name, value in workspace.items() if name.startswith("birds.")}
    assert shown == {
        "birds.cutmix.0.epoch": 3, "birds.cutmix.0.loss": 1.25, "birds.cutmix.0.accuracy": 40,
        "birds.margin.1.epoch": 2, "birds.margin.1.top1": 70,
    }  # fmt: skip


def test_the_command(small_params, small_run, packed, tmp_path, monkeypatch):
    params, paths = (
        small_params("seeds=[0]", "ablation=[baseline, cutmix]", "tuned_methods=[]"),
        Paths("demo", tmp_path),
    )
    folder = paths.run("birds", "cutmix", 0)
    metrics = execute(small_run("cutmix"), packed, folder, log=lambda line: None)
    monkeypatch.setattr("lapml.cli.watch.load", lambda *given: (params, paths))
    for _ in range(2):  # the second replaces what the first wrote
        printed = CliRunner().invoke(app, ["watch", "--once", "--dvc", str(tmp_path / "live")])
        assert printed.exit_code == 0, printed.output
    own = tmp_path / "live"
    assert json.loads((own / "metrics.json").read_text()) == {
        "birds": {"cutmix": {"0": {"epoch": 2, "top1": pytest.approx(metrics["top1"])}}}
    }
    pd.testing.assert_frame_equal(pd.read_csv(own / "curves/birds/cutmix/0.csv"), pd.read_csv(folder / "history.csv"))
    plots = json.loads((own / "dvc.yaml").read_text().removeprefix(FIRST_LINE))["plots"]
    assert {"loss": {"x": "epoch", "y": {"curves/birds/cutmix/0.csv": "loss"}}} in plots


def test_a_folder_of_something_else(paths, tmp_path):
    """The dvc.yaml of the repository is not replaced."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(LapmlError, match=r"--dvc: found a dvc.yaml of something else in .*name another one"):
        Plots(paths, tmp_path)
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"
