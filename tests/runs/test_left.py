"""How much of a suite is left: counted and timed by its finished runs alone."""

import json
from importlib import import_module

import pytest
from typer.testing import CliRunner

from lapml import config
from lapml.cli.app import app
from lapml.common.locks import alone
from lapml.common.provenance import device_name
from lapml.data.pack import Packed
from lapml.models.device import pick_device
from lapml.paths import Paths
from lapml.runs.left import left

OVERRIDES = ["ablation=[baseline, cutmix]", "tuned_methods=[]", "seeds=[0, 1, 2]"]


@pytest.fixture
def params(small_params):
    return small_params(*OVERRIDES)


@pytest.fixture
def finished(params, tmp_path):
    """finished(method, seed, seconds): a finished run."""
    device = device_name(pick_device(params.train)[0])

    def made(method, seed, seconds, device=device, **changes):
        folder = Paths(params.suite, tmp_path).run("birds", method, seed)
        folder.mkdir(parents=True)
        record = config.resolve(params, "birds", method, seed).record() | changes
        (folder / "config.json").write_text(json.dumps(record))
        (folder / "provenance.json").write_text(json.dumps({"seconds": seconds, "device": device}))
        (folder / "metrics.json").write_text(json.dumps({"top1": 50.0}))
        return folder

    return made


def test_runs_left_take_as_long_as_those_of_their_method(params, tmp_path, finished):
    paths = Paths(params.suite, tmp_path)
    assert left(params, paths) == "0 of 6 runs of suite demo are done"
    finished("baseline", 0, 10), finished("baseline", 1, 30)
    # baseline/2: 20 s; cutmix, of which none is done: as baseline
    assert left(params, paths) == "2 of 6 runs of suite demo are done; the other 4 take about 80 s, 1 at a time"
    finished("cutmix", 2, 60)
    assert left(params, paths) == "3 of 6 runs of suite demo are done; the other 3 take about 2 min, 1 at a time"
    for run in (("baseline", 2), ("cutmix", 0), ("cutmix", 1)):
        finished(*run, 1)
    assert left(params, paths) == "6 of 6 runs of suite demo are done"


def test_runs_of_other_settings_are_not_done(params, tmp_path, finished):
    finished("baseline", 0, 10, evaluate="val")
    assert left(params, Paths(params.suite, tmp_path)).startswith("0 of 6 runs")


def test_records_are_read_by_their_meaning(params, tmp_path, finished):
    folder = finished("baseline", 0, 10)
    record = json.loads((folder / "config.json").read_text())
    record["train"]["ema"] = None  # as if it were left out
    (folder / "config.json").write_text(json.dumps(record))
    assert left(params, Paths(params.suite, tmp_path)).startswith("1 of 6 runs")


def test_runs_of_another_device_are_done_but_say_nothing_of_the_time(params, tmp_path, finished):
    finished("baseline", 0, 10, device="a GPU")
    assert left(params, Paths(params.suite, tmp_path)) == "1 of 6 runs of suite demo are done"


def test_runs_under_way_share_the_time(params, tmp_path, finished):
    paths = Paths(params.suite, tmp_path)
    finished("baseline", 0, 20)
    before = sorted(tmp_path.rglob("*"))
    assert left(params, paths).endswith("the other 5 take about 2 min, 1 at a time")
    assert sorted(tmp_path.rglob("*")) == before, "asking leaves nothing behind"
    with alone(paths.run("birds", "cutmix", 0), print):
        assert left(params, paths).endswith("the other 5 take about 50 s, 2 at a time")


def test_a_run_that_succeeded_has_not_failed_where_nothing_can_be_said_of_the_others(params, packed, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(import_module("lapml.cli.app"), "load", lambda *_: (params, Paths(params.suite)))
    monkeypatch.setattr("lapml.data.fetch.sources.refuse_other", lambda *_: None)
    monkeypatch.setattr(Packed, "open", lambda *_: packed)
    monkeypatch.setattr("lapml.runs.execute.execute", lambda *_: {"top1": 50.0})
    monkeypatch.setattr("lapml.runs.left.left", refused)
    done = CliRunner().invoke(app, ["train", "birds", "baseline", "0"])
    assert done.exit_code == 0 and "test top-1 50.00 %" in done.output and "denied" not in done.output
