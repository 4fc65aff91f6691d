"""lapml init: the suite that it writes is valid wherever it lies, fits the folder, and is never written over a file."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lapml import config
from lapml.cli import app
from lapml.errors import LapmlError
from lapml.runs import begin, estimate
from lapml.runs.estimate import Images, Speed

ROOT = Path(__file__).parents[2]
SPEED = Speed(begin=5.0, step=0.1, snapmix=0.15)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with images of two classes, where steps of every model take SPEED."""
    (tmp_path / "suites").mkdir()
    for suite in (ROOT / "suites").glob("*.yaml"):
        (tmp_path / "suites" / suite.name).write_bytes(suite.read_bytes())
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos", (200, 160))
    monkeypatch.setattr(estimate, "speeds", lambda kinds, classes, at_once: [SPEED] * len(kinds))
    monkeypatch.setattr(begin, "_localising", lambda *_: 0.1)
    return tmp_path


def images(folder, size, train=20, test=3, val=0):
    for split, name in itertools.product(("train", "test", "val"), ("a", "b")):
        for number in range({"train": train, "test": test, "val": val}[split]):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (number, 0, 0)).save(folder / split / name / f"{number}.png")


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


@pytest.mark.parametrize("output", ["photos.yaml", "mine/deep/photos.yaml", "../elsewhere/photos.yaml"])
def test_the_file_is_a_valid_suite_wherever_it_lies(project, output):
    found = init("photos", "--output", output)
    assert found.exit_code == 0, found.output
    params = config.load(output)
    assert params.all_methods() == ["baseline", "cutmix", "snapmix", "loc_cutmix"] and params.seeds == [0, 1, 2]
    assert params.data["photos"].source == "photos" and params.data["photos"].reader == "folder"
    for method in params.all_methods():
        config.resolve(params, "photos", method, 0)
    assert "Left out: loc_cutmix_oracle" in Path(output).read_text()
    command = found.output.splitlines()[-1].split()
    assert command[:2] == ["snakemake", "--cores"]
    assert Path(command[command.index("--configfile") + 1]).resolve() == Path(output).resolve()
    assert not [each for each in Path(output).parent.iterdir() if each.name.startswith(".")]


def test_images_outside_the_project_are_named_in_full(project, tmp_path_factory):
    there = tmp_path_factory.mktemp("there") / "my pictures: 1"
    images(there, (60, 60), val=2)
    assert init(there).exit_code == 0
    data = config.load("my-pictures-1.yaml").data["my-pictures-1"]
    assert data.source == str(there) and data.val_fraction == "official"
    assert (data.view.side, data.stored_side) == (64, 96), "small images, a small view"


def test_nothing_is_overwritten(project):
    Path("photos.yaml").write_text("mine")
    found = init("photos")
    assert found.exit_code == 1 and "photos.yaml: exists, and is not overwritten" in found.stderr
    assert Path("photos.yaml").read_text() == "mine"
    assert init("photos", "--replace").exit_code == 0
    assert config.load("photos.yaml").suite == "photos"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["suites"], "suites: "),
        (["photos", "--name", "sparrows"], "--name: found 'sparrows'"),
        (["photos", "--name", "birds"], "--name: found 'birds'"),
        (["photos", "--name", "a b"], "--name: found 'a b'"),
    ],
)
def test_what_cannot_be_is_refused(project, arguments, said):
    found = init(*arguments)
    assert found.exit_code == 1 and found.stderr.startswith(f"error: {said}"), found.output
    assert not list(project.glob("*.yaml"))


def test_outside_a_project(tmp_path, monkeypatch):
    images(tmp_path / "photos", (60, 60), 2, 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LapmlError, match="run from the project's folder"):
        begin.init(Path("photos"), "", None, None, 2, False)


def test_a_batch_leaves_several_steps_of_an_epoch(project):
    assert init("photos").exit_code == 0
    train = config.load("photos.yaml").train
    assert train.batch * begin.LEAST_STEPS <= 40 < 2 * train.batch * begin.LEAST_STEPS


@pytest.mark.parametrize(("hours", "side"), [(10, 192), (0.2, 96), (0.001, 64)])
def test_the_largest_model_that_fits_the_time(project, monkeypatch, hours, side):
    by_side = {192: 1.0, 96: 0.1, 64: 0.05}
    monkeypatch.setattr(
        estimate,
        "speeds",
        lambda kinds, *_: [Speed(1.0, by_side[run.data.view.side], by_side[run.data.view.side]) for run, _ in kinds],
    )
    found = init("photos", "--hours", hours)
    assert config.load("photos.yaml").data["photos"].view.side == side
    assert ("more than the" in found.output) == (hours == 0.001)


# --- how long it takes ---


@pytest.fixture(scope="module")
def params():
    before = os.getcwd()
    os.chdir(ROOT)
    made = config.load("suites/base.yaml", ["ablation=[baseline, cutmix, snapmix, loc_cutmix]", "tuned_methods=[]"])
    os.chdir(before)
    return made


def test_one_core_takes_the_sum_of_all(params):
    """Recomputed: 20 epochs, of which 18 mix with probability 0.5; 320 images in batches of 32; 3 seeds."""
    found = Images(fit=320, test=90, packing=0.01, localising=0.2)
    glance = 0.1 / 3 / 32
    steps, mixed = 20 * 10, 0.5 * 18 / 20
    costs = [0.1, 0.1, 0.1 + mixed * 0.05, 0.1 + mixed * 0.1 * (estimate.LOCALISED - 1)]
    runs = [steps * cost + glance * 90 for cost in costs]
    stages = 2 * 5 + 0.01 * 410 + 5 + estimate.FACTORISING * 5 + 0.2 * 320 + 5 + estimate.DRAWING * 5
    stages += estimate.SEEN * glance * params.diagnose.images * 3 + estimate.REPORTING * 5
    longest, whole = estimate.suite(params, SPEED, found, 1)
    assert longest == pytest.approx(5 + max(runs))
    assert whole == pytest.approx(stages + 3 * sum(5 + run for run in runs))


@given(st.integers(1, 40), st.floats(0.001, 10), st.integers(32, 10_000))
def test_more_cores_take_less_but_no_less_than_their_share(params, cores, step, fit):
    found = Images(fit, 100, 0.01, 0.2)
    speed = Speed(1.0, step, 1.5 * step)
    longest, whole = estimate.suite(params, speed, found, cores)
    alone = estimate.suite(params, speed, found, 1)[1]
    assert max(longest, alone / cores) <= whole * (1 + 1e-9) and whole <= alone * (1 + 1e-9)


class Alone:
    """A barrier of one process."""

    def wait(self):
        return 0


@pytest.mark.parametrize("method", ["baseline", "snapmix"])
def test_steps_of_a_model_are_timed(small_run, monkeypatch, method):
    monkeypatch.setattr(estimate, "_together", Alone())
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    steps = []
    take = estimate.take_step
    monkeypatch.setattr(estimate, "take_step", lambda *given: steps.append(given[1].mixed) or take(*given))
    ready, step = estimate._steps(small_run(method), 3)
    assert ready > 0 and step > 0
    assert steps == [method == "snapmix"] * (2 * estimate.WARM)


@pytest.mark.slow
def test_processes_time_at_once(small_run):
    ((begin_, step, snapmix),) = estimate.speeds([[small_run("baseline"), small_run("snapmix")]], 3, 2)
    assert np.isfinite([begin_, step, snapmix]).all() and min(begin_, step, snapmix) > 0
