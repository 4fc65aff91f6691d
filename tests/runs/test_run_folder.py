"""A path that is no run's is told what is wrong with it, and which runs may be meant."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs.execute import open_data
from lapml.runs.folder import open_run, paths_of, runs_below

RUNS = "results/t/runs/mine"


@pytest.fixture
def project(tmp_path, write, monkeypatch):
    """A project with three finished runs and one that was replaced."""
    for name in ("baseline/0", "baseline/1", "cutmix/0"):
        write(f"{RUNS}/{name}")
    shutil.copytree(tmp_path / RUNS / "baseline/0", tmp_path / RUNS / "baseline/0.old-1")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str) -> str:
    with pytest.raises(LapmlError) as caught:
        open_run(Path(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{RUNS}/baseline", f"is no run, but holds 2; give one of them: {RUNS}/baseline/0, {RUNS}/baseline/1"),
        (f"{RUNS}/baselin/0", f"no such folder; did you mean {RUNS}/baseline/0"),
        (f"{RUNS}/baseline/0/model.safetensors", f"is a file of a run, expected its folder; give {RUNS}/baseline/0"),
        (f"{RUNS}/cutmix/0/nothing", f"is no file of a run, expected its folder; give {RUNS}/cutmix/0"),
        ("reslts/t/runs/mine/cutmix/0", f"no such folder; did you mean {RUNS}/cutmix/0"),
        ("other", "is no run, and holds none"),
        ("x", "no such folder, and none of the 3 runs below results is called alike"),
    ],
)
def test_what_is_wrong_with_a_path(project, path, said):
    found = refusal(path)
    assert found.startswith(f"{path}: {said}")
    assert "train" not in found


def test_a_path_that_holds_in_the_folder_above(project, monkeypatch):
    monkeypatch.chdir("other")
    assert refusal(f"{RUNS}/cutmix/0").endswith(f"give ../{RUNS}/cutmix/0")


def test_without_any_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        refusal("runs/x")
        == "runs/x: no such folder; a run lies in results/SUITE/runs/DATASET/METHOD/SEED of the project's folder"
    )


def test_weights_that_were_not_published(project):
    (project / RUNS / "cutmix/0/model.safetensors").unlink()
    assert "model.safetensors is missing, as in published runs" in refusal(f"{RUNS}/cutmix/0")


def test_hidden_and_replaced_runs_are_left_out(project):
    shutil.copytree(RUNS + "/cutmix/0", RUNS + "/cutmix/0/.kept")
    found = [str(each) for each in runs_below(Path("results"))]
    assert found == [f"{RUNS}/baseline/0", f"{RUNS}/baseline/1", f"{RUNS}/cutmix/0"]


def test_the_data_of_a_run_lie_in_its_own_project(project, monkeypatch):
    record = {"suite": "t", "dataset": "mine"}
    monkeypatch.chdir("other")
    run = Path("..", RUNS, "cutmix/0")
    assert paths_of(run, record, Path(".")).pack("mine") == project / "results/t/data/mine/packed"
    Paths("t", ".").pack("mine").mkdir(parents=True)
    assert paths_of(run, record, Path(".")).pack("mine") == Path("results/t/data/mine/packed"), "here, where they are"


def test_data_of_the_same_name_here_are_not_taken_for_the_run_s(project, monkeypatch):
    """A run of another checkout, whose own data are whole; without them, those here are named."""
    record = {"suite": "t", "dataset": "mine"}
    monkeypatch.chdir("other")
    run, own, here = Path("..", RUNS, "cutmix/0"), project / "results/t/data/mine/packed", Paths("t").pack("mine")
    for folder, checksum in ((own, "a"), (here, "b")):
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"sha256": checksum * 64}))
    opened = []
    meta = lambda folder: json.loads((folder / "meta.json").read_text())  # noqa: E731
    monkeypatch.setattr(Packed, "open", lambda folder: opened.append(folder) or SimpleNamespace(meta=meta(folder)))
    for checksum, expected in (("a", own), ("b", here)):
        open_data(run, record, {"data_sha256": checksum * 64})
        assert opened.pop() == expected
    with pytest.raises(LapmlError, match=f"^{here}: holds other data"):
        open_data(run, record, {"data_sha256": "c" * 64})
