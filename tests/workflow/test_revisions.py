"""Both orchestrators when data or revisions change: another source, experiments in folders of their own, another clone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from snakemake.cli import main
from test_orchestrators import BIN, copy_project, dvc_init, edit, forked, run, snakemake_jobs
from typer.testing import CliRunner

from lapml.cli import app
from lapml.config import overlays

OWN = """base: tiny.yaml
suite: own
datasets: [mine]
ablation: [baseline]
tuned_methods: []
defaults: {data: {stored_side: 16, view: {side: 16}}}
data:
  birds: null
  mine: {reader: folder, source: old}
"""
MINI = """base: tiny.yaml
suite: mini
tuned_methods: []
data:
  birds: {synthetic: {classes: 2, train_images: 8, test_images: 20}}
train: {epochs: 2}
diagnose: {images: 8}
"""
SUMMARY = "results/mini/report/summary.json"


def project(target: Path, suite: str) -> Path:
    target.mkdir(exist_ok=True)
    folder = copy_project(target, None)
    (folder / "suites/own.yaml").write_text(suite)
    (folder / "params.yaml").write_text(overlays.composed(folder / "suites/own.yaml"))
    return folder


def images(root: Path, seed: int) -> None:
    """Two classes; another seed gives other pixels under the same names."""
    rng = np.random.default_rng(seed)
    for folder in (root / split / name for split in ("train", "test") for name in "ab"):
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.bmp")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A project whose suite is of a folder of images, `old`, beside which there is `new`."""
    folder = project(tmp_path, OWN)
    images(folder / "old", 0), images(folder / "new", 1)
    return folder


def known(folder: Path) -> tuple[str, dict]:
    """What is packed, and of what."""
    meta = json.loads((folder / "results/own/data/mine/packed/meta.json").read_text())
    return meta["sha256"], meta["source"]


def test_snakemake_fetches_and_packs_an_edited_source(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "results/own/data/mine/packed/meta.json"
    forked(own, main, ["--cores", "1", target])
    first = known(own)
    assert snakemake_jobs(own, target) == set()
    edit(own, "source: old", "source: new")
    monkeypatch.chdir(own)
    for command in (
        ("data", "prepare", "mine"),
        ("data", "check", "mine"),
        ("train", "mine", "baseline", "0"),
        ("report",),
    ):
        said = CliRunner().invoke(app, command)
        assert (said.exit_code, said.output) == (
            1,
            "error: data.mine.source is 'new', what lies there was fetched from 'old'; run `lapml data fetch mine`\n",
        )
    commands = {command for command, _ in snakemake_jobs(own, target)}
    assert commands == {f"lapml data {step} mine --params params.yaml" for step in ("fetch", "prepare")}
    forked(own, main, ["--cores", "1", target])
    second = known(own)
    assert second[0] != first[0] and second[1]["files_sha256"] != first[1]["files_sha256"]
    assert snakemake_jobs(own, target) == set()


def test_dvc_fetches_and_packs_an_edited_source_but_not_one_that_only_moved(own: Path) -> None:
    dvc_init(own)
    run(own, "dvc", "repro", "prepare@mine")
    first = known(own)
    (own / "old").rename(own / "moved")
    edit(own, "source: old", "source: moved")
    said = run(own, "dvc", "repro", "prepare@mine")
    assert "Running stage 'fetch@mine'" in said and "Stage 'prepare@mine' didn't change, skipping" in said
    edit(own, "source: moved", "source: new")
    said = run(own, "dvc", "repro", "prepare@mine")
    assert "Running stage 'prepare@mine'" in said
    assert known(own)[0] != first[0]


def test_a_variable_that_names_other_data_stops_both(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    assert CliRunner().invoke(app, ["data", "fetch", "mine"]).exit_code == 0
    monkeypatch.setenv("LAPML_MINE", str(own / "new"))
    expected = "the variable says where data lie, not what they are"
    for step in ("prepare", "fetch"):
        assert expected in CliRunner().invoke(app, ["data", step, "mine"]).output
    forked(own, main, ["--cores", "1", "results/own/data/mine/packed/meta.json"], ok=False)
    log = (own / "results/own/logs/prepare/mine.log").read_text()
    assert expected in log or expected in (own / "results/own/logs/fetch/mine.log").read_text()


# --- revisions, experiments, clones ---


def versioned(folder: Path) -> Path:
    """A repository of git and DVC, set up as this project's own is."""
    for name in (".gitignore", ".dvcignore"):
        shutil.copy2(Path(__file__).parents[2] / name, folder)
    run(folder, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "lapml"), ("user.email", "lapml@localhost")):
        run(folder, "git", "config", key, value)
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    return folder


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", message)


def top1(folder: Path, *revisions: str) -> list[float | None]:
    """What `dvc metrics show` says of the workspace, or `dvc metrics diff` of two revisions."""
    if not revisions:
        shown = json.loads(run(folder, "dvc", "metrics", "show", "--json"))
        return [shown[""]["data"][SUMMARY]["data"]["birds"]["baseline"]["top1"]]
    shown = json.loads(run(folder, "dvc", "metrics", "diff", "--all", "--json", *revisions))
    found = shown[SUMMARY]["birds.baseline.top1"]
    return [found["old"], found["new"]]


def work_off_queue(folder: Path) -> None:
    """Its worker stays for a while, and would hold a pipe open that its output went to."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with open(folder.parent / "queue.log", "w") as log:
        command = ("dvc", "exp", "run", "--run-all")
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    run(folder, "dvc", "queue", "stop")


@pytest.mark.slow
def test_revisions_experiments_and_clones(tmp_path: Path) -> None:
    """Every number that DVC shows is that revision's; experiments run in folders of their own; a clone takes all from a remote."""
    folder = versioned(project(tmp_path / "project", MINI))
    run(folder, "dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    run(folder, "dvc", "repro")
    commit(folder, "one")
    first = top1(folder)

    # In a folder of its own, where there are no raw data; of other settings of training, and of other data.
    run(folder, "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "train.lr=0.0001")
    run(folder, "dvc", "exp", "run", "--queue", "--name", "queued", "-S", "data.birds.synthetic.seed=5")
    work_off_queue(folder)
    names = run(folder, "dvc", "exp", "list", "--name-only").split()
    assert {"temporary", "queued"} <= set(names)
    assert top1(folder) == first

    for name in ("temporary", "queued"):
        run(folder, "dvc", "exp", "apply", name)
        commit(folder, name)
    summary = json.loads((folder / SUMMARY).read_text())["birds"]["baseline"]["top1"]
    assert top1(folder) == [summary]
    assert top1(folder, "HEAD~2", "HEAD") == [*first, summary]
    middle = top1(folder, "HEAD~1", "HEAD")[0]
    assert len({*first, middle, summary}) > 1
    run(folder, "git", "checkout", "-q", "HEAD~2")
    run(folder, "dvc", "checkout", "-q")
    assert top1(folder) == first == [json.loads((folder / SUMMARY).read_text())["birds"]["baseline"]["top1"]]
    assert "up to date" in run(folder, "dvc", "status")
    run(folder, "git", "checkout", "-q", "main")
    run(folder, "dvc", "checkout", "-q")
    run(folder, "dvc", "plots", "diff", "HEAD~2", "HEAD", "--out", "plots")
    assert "HEAD~2" in (folder / "plots/index.html").read_text()

    run(folder, "dvc", "push")
    run(tmp_path, "git", "clone", "-q", str(folder), "clone")
    clone = tmp_path / "clone"
    run(clone, "dvc", "pull")
    said = run(clone, "dvc", "repro")
    assert "Running stage" not in said and "up to date" in said
    assert top1(clone) == [summary]
    assert not (clone / "data").exists()
    assert "nothing harmful found" in run(clone, "lapml", "data", "check", "birds")  # drawn again where they are wanted
    edit(clone, "  images: 8 ", "  images: 9 ")
    assert "Running stage 'diagnose@birds'" in run(clone, "dvc", "repro", "diagnose@birds")
