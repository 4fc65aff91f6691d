"""`lapml watch`: runs to come, under way, stopped and done, and what an unfinished run writes."""

import csv
import json
import signal

import pandas as pd
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.common.locks import alone
from lapml.errors import Stopped
from lapml.paths import LIVE, Paths
from lapml.runs.execute import execute
from lapml.runs.watching import DONE, OTHER, RUNNING, STOPPED, WAITING, Standing, standings
from lapml.training import loop, step

OVERRIDES = ["seeds=[0, 1]", "ablation=[baseline, cutmix]", "tuned_methods=[margin]"]


def quietly(line: str) -> None:
    pass


@pytest.fixture
def suite(small_params, tmp_path):
    return small_params(*OVERRIDES), Paths("demo", tmp_path)


def stop_at(monkeypatch, number: int) -> None:
    calls, take = 0, step.take_step

    def stopping(*given):
        nonlocal calls
        calls += 1
        if calls == number:
            signal.raise_signal(signal.SIGTERM)
        return take(*given)

    monkeypatch.setattr(loop, "take_step", stopping)


def by_run(rows: list[Standing]) -> dict[tuple[str, int], Standing]:
    return {(row.method, row.seed): row for row in rows}


def test_a_suite_from_its_first_run_to_a_stopped_one(suite, small_run, packed, monkeypatch):
    params, paths = suite
    rows = standings(params, paths)
    assert [(row.method, row.seed) for row in rows] == [
        (m, s) for m in ("baseline", "cutmix", "margin") for s in (0, 1)
    ]
    assert {row.state for row in rows} == {WAITING} and rows[0].epochs == 2 and rows[-1].epochs is None  # not tuned

    folder = paths.run("birds", "baseline", 0)
    metrics = execute(small_run("baseline"), packed, folder, log=quietly)
    assert not (folder / LIVE).exists()
    origin = json.loads((folder / "provenance.json").read_text())
    took = {"took": origin["seconds"], "device": origin["device"]}
    expected = Standing("birds", "baseline", 0, DONE, 2, 2, top1=metrics["top1"], **took)
    assert by_run(standings(params, paths))["baseline", 0] == expected

    stop_at(monkeypatch, 9)  # 6 steps an epoch: in the second
    folder = paths.run("birds", "cutmix", 1)
    with pytest.raises(Stopped):
        execute(small_run("cutmix", seed=1), packed, folder, log=quietly)
    found = by_run(standings(params, paths))["cutmix", 1]
    live = pd.read_csv(folder / LIVE)
    assert (found.state, found.epoch, found.epochs, found.left) == (STOPPED, 1, 2, None) and list(live["epoch"]) == [1]
    assert found.loss == pytest.approx(live["loss"].iloc[-1]) and found.accuracy == pytest.approx(
        live["accuracy"].iloc[-1]
    )

    with alone(folder, quietly):
        found = by_run(standings(params, paths))["cutmix", 1]
        assert found.state == RUNNING and found.left == pytest.approx(live["seconds"].mean())
    monkeypatch.undo()
    execute(small_run("cutmix", seed=1), packed, folder, log=quietly)
    assert not (folder / LIVE).exists()
    whole = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["loss"] for row in whole[:1]] == [str(value) for value in live["loss"]]


def test_what_an_epoch_leaves_is_no_file_of_a_run_before(suite, small_run, packed, monkeypatch):
    """A finished run that is being replaced stays whole until its successor is."""
    params, paths = suite
    folder = paths.run("birds", "baseline", 0)
    execute(small_run("baseline"), packed, folder, log=quietly)
    before = (folder / "history.csv").read_bytes()
    for stops, lr in ((10, 0.02), (3, 0.03), (10, 0.02)):  # the second is stopped in its first epoch
        stop_at(monkeypatch, stops)
        with pytest.raises(Stopped):
            execute(small_run("baseline", f"train.lr={lr}"), packed, folder, log=quietly, replace=True)
        assert (folder / "history.csv").read_bytes() == before and (folder / LIVE).is_file() == (stops == 10)
        monkeypatch.undo()
    execute(small_run("baseline", "train.lr=0.02"), packed, folder, log=quietly, replace=True)
    assert not (folder / LIVE).exists() and not (folder.with_name("0.old-1") / LIVE).exists()


def test_a_run_of_other_settings_is_not_done(suite, small_run, packed, small_params):
    params, paths = suite
    execute(small_run("baseline"), packed, paths.run("birds", "baseline", 0), log=quietly)
    other = small_params(*OVERRIDES, "train.lr=0.02")
    assert [standings(each, paths)[0].state for each in (params, other)] == [DONE, OTHER]
    longer = standings(small_params(*OVERRIDES, "train.epochs=99"), paths)[0]
    assert (longer.state, longer.epoch, longer.epochs) == (OTHER, 2, 2)  # what it had


def test_a_run_of_another_user_is_looked_at(suite, monkeypatch):
    """Whose lock cannot be taken: not opened for writing."""
    params, paths = suite
    folder = paths.run("birds", "baseline", 0)
    refused = PermissionError(13, "Permission denied")
    with alone(folder, quietly), monkeypatch.context() as patch:
        holder = folder.with_name(".0.holder").read_bytes()
        patch.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(refused))
        assert standings(params, paths)[0].state == RUNNING
        folder.with_name(".0.lock").rename(folder.with_name("lock"))
        assert standings(params, paths)[0].state == WAITING  # there is none
        folder.with_name("lock").rename(folder.with_name(".0.lock"))
    folder.with_name(".0.holder").write_bytes(holder)  # it was killed
    assert standings(params, paths)[0].state == WAITING


def test_a_damaged_file_is_no_progress(suite):
    params, paths = suite
    folder = paths.run("birds", "baseline", 0)
    folder.mkdir(parents=True)
    for text in ("", "epoch,loss,accuracy,seconds\n", "\0\0"):
        (folder / LIVE).write_text(text)
        assert standings(params, paths)[0].state == WAITING


def test_the_command(suite, small_run, packed, monkeypatch):
    params, paths = suite
    execute(small_run("baseline"), packed, paths.run("birds", "baseline", 0), log=quietly)
    monkeypatch.setattr("lapml.cli.watch.load", lambda *given: suite)
    printed = CliRunner().invoke(app, ["watch", "--once"], env={"COLUMNS": "120"})
    assert printed.exit_code == 0 and "suite demo: 1 of 6 runs done" in printed.output
    line = next(line for line in printed.output.splitlines() if "baseline" in line)
    assert line.replace("│", " ").split()[:5] == ["birds", "baseline", "0", "done", "2/2"]


def test_it_ends_with_the_last_run_and_by_ctrl_c(suite, monkeypatch):
    row = Standing("birds", "baseline", 0, RUNNING, 1, 3, 0.5, 50.0, 4.0)
    looks = [[row], [row._replace(state=DONE, epoch=3, top1=70.0)]]
    monkeypatch.setattr("lapml.cli.watch.load", lambda *given: suite)
    monkeypatch.setattr("lapml.runs.watching.standings", lambda *given: looks.pop(0))
    assert CliRunner().invoke(app, ["watch", "--every", "0.5"]).exit_code == 0 and not looks
    looks.append([row])

    def interrupted(*given):
        raise KeyboardInterrupt

    for place in ("time.sleep", "lapml.cli.watch._table"):  # while it waits, and while it reads
        looks[:] = [[row]]
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            ended = CliRunner().invoke(app, ["watch"])
        assert ended.exit_code == 0 and "1 runs go on" in ended.output
    monkeypatch.setattr("lapml.runs.watching.standings", interrupted)
    ended = CliRunner().invoke(app, ["watch"])
    assert ended.exit_code == 0 and ended.output.strip() == ""
