"""Runs that a machine without a network made are published after the checks that all runs pass."""

import hashlib
import json

import pytest
from typer.testing import CliRunner

from lapml import config
from lapml.cli import app
from lapml.common import tars
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.report import accumulate, carried


@pytest.fixture
def there(make, seal):
    """(params, paths) of a suite without tuned rows, with all of its runs."""
    params, paths = make("tuned_methods=[]")
    for run in paths.base.glob("runs/*/*/*"):
        seal(run)
    return params, paths


@pytest.fixture
def pack(there, tmp_path):
    """Packs the runs that are whole as they are now."""
    return lambda **about: carried.pack(*there, about, [], tmp_path / "came/runs.tar")[0]


@pytest.fixture
def home(there, tmp_path):
    """Where they are published."""
    return Paths(there[0].suite, tmp_path / "home")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def altered(tar, change):
    """The same tar, its members (name: bytes) changed by ``change``."""
    folder = tar.parent / "altered"
    record = tars.extract(tar, folder)
    members = files(folder)
    change(members)
    paths = {}
    for name, content in members.items():
        paths[name] = folder / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(content)
    tars.write(tar, {key: value for key, value in record.items() if key != "members"}, paths)
    return tar


def test_the_runs_are_published_as_they_came_and_the_same_tar_again_changes_nothing(there, pack, home):
    params, paths = there
    assert accumulate.publish_from(params, home, pack()) == f"{home.published}: 6 runs added, 6 of 6 are there"
    published = files(home.published)
    assert set(published) == {
        f"runs/birds/{row}/{seed}/{name}"
        for row in params.ablation for seed in params.seeds for name in carried.FILES
    }  # fmt: skip
    assert all(content == (paths.base / name).read_bytes() for name, content in published.items())
    assert "0 runs added, 6 of 6 are there" in accumulate.publish_from(params, home, pack())
    assert files(home.published) == published
    assert "0 runs added, 6 of 6" in accumulate.publish_finished(params, home)  # which finds that all of it fits


def test_what_came_later_is_added_and_what_is_there_stays(there, pack, home, edit):
    params, paths = there
    kept = paths.run("birds", "cutmix", 1) / "metrics.json"
    whole = kept.read_bytes()
    kept.unlink()
    assert "5 runs added, 5 of 6 are there" in accumulate.publish_from(params, home, pack())
    before = files(home.published)
    kept.write_bytes(whole)
    edit(paths.run("birds", "baseline", 0) / "provenance.json", started="later")  # made once more
    with pytest.raises(
        LapmlError,
        match="1 runs added, 6 of 6(?s:.*)birds/baseline/0: another run of that name is published, and stays",
    ):
        accumulate.publish_from(params, home, pack())
    after = files(home.published)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + len(carried.FILES)


def damage(name):
    def change(members):
        members[name] = members[name][:-5] + b"wrong"

    return change


RUN = "runs/birds/cutmix/1"


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda members: members.pop(f"{RUN}/history.csv"), "history.csv: missing"),
        (damage(f"{RUN}/history.csv"), "history.csv: is not the file that this run wrote"),
        (damage(f"{RUN}/predictions.parquet"), "predictions.parquet: is not the file"),
        (lambda members: members.update({f"{RUN}/provenance.json": b"{"}), "provenance.json: cannot be read as JSON"),
        (lambda members: members.update({f"{RUN}/metrics.json": b""}), r"metrics.json: empty"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_and_the_others_are_published(there, pack, home, change, says):
    with pytest.raises(LapmlError, match=rf"5 runs added, 5 of 6(?s:.*)birds/cutmix/1: {says}"):
        accumulate.publish_from(there[0], home, altered(pack(), change))
    assert not (home.published / RUN).exists()


@pytest.mark.parametrize(
    "name", ["runs/birds/cutmix/1/extra", "runs/birds/cutmix/x/metrics.json", "tuned/birds/margin.json", "results/x",
             "runs/birds/cutmix/01/metrics.json", "runs/birds/cutmix/1/model.safetensors"]
)  # fmt: skip
def test_a_tar_with_anything_else_is_refused_whole(there, pack, home, name):
    with pytest.raises(LapmlError, match=f"{name}: .*nothing is used"):
        accumulate.publish_from(there[0], home, altered(pack(), lambda members: members.update({name: b"{}"})))
    assert not home.published.exists()


def test_a_tar_that_is_cut_off_or_is_a_piece_of_a_kit_is_refused_whole(there, pack, home):
    tar = pack()
    whole = tar.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        tar.write_bytes(whole[: int(share * len(whole)) // 512 * 512])
        with pytest.raises(LapmlError, match="cut off|nothing|damaged"):
            accumulate.publish_from(there[0], home, tar)
    tars.write(tar, {"format": 1, "piece": 1, "suite": "suites/x.yaml"}, {})
    with pytest.raises(LapmlError, match="holds no runs of a suite"):
        accumulate.publish_from(there[0], home, tar)
    assert not home.published.exists()


def test_runs_of_another_suite_other_settings_or_none_of_its_seeds_are_refused(there, pack, home):
    params, _ = there
    tar = pack(overrides=["train.lr=0.3"])
    with pytest.raises(LapmlError, match="holds runs of suite 'fake', expected 'other'; give its --params"):
        accumulate.publish_from(params.model_copy(update={"suite": "other"}), Paths("other", home.root), tar)
    slower = params.model_copy(update={"train": params.train.model_copy(update={"lr": 0.3})})
    found = f"0 runs added(?s:.*)made with --set train.lr=0.3(?s:.*)train.lr: found {params.train.lr}, expected 0.3"
    with pytest.raises(LapmlError, match=found):
        accumulate.publish_from(slower, home, tar)
    with pytest.raises(LapmlError, match="3 runs added, 3 of 3 are there(?s:.*)birds/baseline/1: no run of this suite"):
        accumulate.publish_from(params.model_copy(update={"seeds": [0]}), home, tar)


def test_runs_of_other_data_or_weights_do_not_come_together(there, pack, home):
    params, _ = there

    def other(members):
        record = json.loads(members[f"{RUN}/provenance.json"])
        members[f"{RUN}/provenance.json"] = json.dumps(record | {"data_sha256": "f" * 64}).encode()

    tar = altered(pack(), other)
    with pytest.raises(LapmlError, match="5 runs added(?s:.*)birds/cutmix/1: provenance.json: data_sha256: found ffff"):
        accumulate.publish_from(params, home, tar)
    home.pack("birds").mkdir(parents=True)
    (home.pack("birds") / "meta.json").write_text(json.dumps({"sha256": "a" * 64}))
    with pytest.raises(
        LapmlError, match="data_sha256: found dddd"
    ):  # what is published, now that other data are packed
        accumulate.publish_from(params, home, tar)


def test_the_command_takes_a_tar_and_settings_in_place_of_the_files(there, pack, home, params_file, monkeypatch):
    params, _ = there
    home.root.mkdir()
    monkeypatch.chdir(home.root)
    settings = config.load(params_file).model_dump(mode="json") | params.model_dump(mode="json")
    settings["train"]["lr"] = 0.5
    (home.root / "params.yaml").write_text(json.dumps(settings))
    failed = CliRunner().invoke(app, ["publish", "--from", str(pack())])
    assert failed.exit_code == 1 and "train.lr: found" in failed.output
    done = CliRunner().invoke(app, ["publish", "--from", str(pack()), "--set", f"train.lr={params.train.lr}"])
    assert done.exit_code == 0 and "6 runs added, 6 of 6 are there" in done.output
    origin = json.loads((home.published / RUN / "provenance.json").read_text())
    for name, checksum in origin["files"].items():
        if (home.published / RUN / name).exists():
            assert hashlib.sha256((home.published / RUN / name).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize(("dirty", "same"), [(True, True), (True, False), (False, True)])
def test_a_checkout_that_says_another_commit_is_named_by_the_kit_s_where_the_code_is_the_kit_s(
    there, pack, home, seal, dirty, same
):
    params, paths = there
    for file in paths.base.glob("runs/*/*/*/provenance.json"):
        record = json.loads(file.read_text()) | {"commit": "c" * 40, "dirty": dirty, "code_sha256": "e" * 64}
        file.write_text(json.dumps(record, indent=2) + "\n")
    kit = {"commit": "d" * 40, "dirty": False, "code_sha256": ("e" if same else "f") * 64}
    for _ in range(2):
        accumulate.publish_from(params, home, pack(about=kit))
    [*published] = home.published.glob("runs/*/*/*/provenance.json")
    assert len(published) == 6
    for file in published:
        found = json.loads(file.read_text())
        if dirty and same:
            assert (found["commit"], found["dirty"]) == ("d" * 40, False)
            assert found["checkout"] == {"commit": "c" * 40, "dirty": True}
        else:
            assert (found["commit"], found["dirty"]) == ("c" * 40, dirty) and "checkout" not in found


def test_runs_of_data_that_were_packed_anew_since_do_not_travel(there, edit):
    params, paths = there
    assert len(carried.finished(params, paths)) == len(params.all_methods()) * len(params.seeds)
    edit(paths.pack("birds") / "meta.json", sha256="a" * 64)
    assert carried.finished(params, paths) == []


def test_options_that_are_given_together_all_count(there, pack, home, monkeypatch):
    """Of a tar that lacks a run which is finished here."""
    params, paths = there
    run = paths.run("birds", "cutmix", 1)
    whole = (run / "metrics.json").read_bytes()
    (run / "metrics.json").unlink()
    tar = pack()
    (run / "metrics.json").write_bytes(whole)
    monkeypatch.setattr("lapml.cli.published.load", lambda *_: there)
    said = CliRunner().invoke(app, ["publish", "--finished", "--from", str(tar)])
    assert said.exit_code == 0, said.output
    assert "5 runs added, 5 of 6" in said.output and "1 runs added, 6 of 6" in said.output
    for options in (["--finished"], ["--from", str(tar)], ["--tables"]):
        refused = CliRunner().invoke(app, ["publish", "--replace", *options], env={"COLUMNS": "200"})
        assert refused.exit_code == 2 and "--replace" in refused.output
        assert "give it without --finished, --from and --tables" in refused.output
