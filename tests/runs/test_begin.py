"""lapml init: the suite that it writes is valid wherever it lies, fits the folder, and is never written over a file."""

import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lapml import config
from lapml.cli import app
from lapml.errors import LapmlError
from lapml.runs import begin, estimate, timing
from lapml.runs.timing import Speed, Step

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with images of two classes, where steps of every model take SPEED."""
    (tmp_path / "suites").mkdir()
    for suite in (ROOT / "suites").glob("*.yaml"):
        (tmp_path / "suites" / suite.name).write_bytes(suite.read_bytes())
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos", (200, 160))
    steps_take(monkeypatch, lambda run: 0.1)
    monkeypatch.setattr(estimate, "localising", lambda *_: 0.1)
    return tmp_path


def steps_take(monkeypatch, seconds):
    """Let steps of a run take ``seconds(run)``."""

    def speeds(runs, classes, at_once):
        return Speed(1.0, {timing.key(run): Step(seconds(run), 0.001) for run in runs})

    monkeypatch.setattr(timing, "speeds", speeds)


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


@pytest.mark.parametrize("name", ["2024", "007", "true", "null", "1e3", "2024-01-02", "-1", "no"])
def test_names_that_yaml_would_take_for_something_else(project, name):
    found = init("photos", "--name", name)
    if name == "-1":
        assert found.exit_code and "--name" in found.output
        return
    assert found.exit_code == 0, found.output
    params = config.load(f"{name}.yaml")
    assert params.suite == name and params.datasets == [name] and params.data[name].source == "photos"


def test_how_long_it_takes_is_asked_again_after_an_edit(project):
    """By a command that the file and the output name, which agrees with init before the edit."""
    said = init("photos").output
    command = "lapml suite time --params photos.yaml"
    assert command in said and command in Path("photos.yaml").read_text()
    whole = re.search(r"the whole suite about (.*) on ", said)[1]
    asked = CliRunner().invoke(app, command.split()[1:])
    assert asked.exit_code == 0 and f"in all about {whole}, from the images" in asked.output, asked.output
    half = CliRunner().invoke(app, [*command.split()[1:], "--set", "seeds=[0]", "--set", "train.epochs=10"]).output
    first, second = ([line.split() for line in text.splitlines()] for text in (asked.output, half))
    lines = {line[0]: line for line in first if line}, {line[0]: line for line in second if line}
    assert lines[0]["baseline"][3] == "3" and lines[1]["baseline"][3] == "1"
    assert not list(project.glob("results/*/data")), "nothing was fetched"


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


def test_a_suite_among_the_others_is_replaced_by_itself(project):
    again = ("photos", "--output", "suites/photos.yaml")
    assert init(*again).exit_code == 0
    assert init(*again, "--replace").exit_code == 0
    assert config.load("suites/photos.yaml").suite == "photos"
    found = init("photos", "--output", "suites/other.yaml", "--replace")
    assert found.exit_code == 1 and "--name: found 'photos'" in found.stderr  # which is another suite's


@pytest.mark.parametrize("recipe", [begin.GPU, begin.WHOLE, begin.CUT, begin.SMALL], ids=lambda recipe: recipe.model)
def test_a_recipe_is_that_of_the_suite_which_it_names(recipe):
    theirs = config.load(ROOT / re.search(r"suites/\w+\.yaml", recipe.what)[0])
    train = [f"train.{key}={value}" for key, value in recipe.train.items()]
    model = YAML(typ="safe").load(recipe.model).items()
    own = config.load(
        ROOT / "suites/base.yaml", [*train, *(f"model.{key}={json.dumps(value)}" for key, value in model)]
    )
    assert own.train == theirs.train and own.model == theirs.model
    (data,) = (theirs.data[name] for name in theirs.datasets)
    assert (recipe.side, recipe.stored) == (data.view.side, data.stored_side)


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
    by_side = {192: 1.0, 96: 0.1, 64: 0.05}  # seconds of a step
    steps_take(monkeypatch, lambda run: by_side[run.data.view.side])
    found = init("photos", "--hours", hours)
    assert config.load("photos.yaml").data["photos"].view.side == side
    assert ("more than the" in found.output) == (hours == 0.001)
