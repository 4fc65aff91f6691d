"""`lapml publish --tables`: report, tables and charts of what is published, from its records alone."""

import shutil

import pytest
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.errors import LapmlError
from lapml.paths import REPORT_FILES, RUN_FILES, Paths
from lapml.report import build
from lapml.report.published import publish, publish_tables


@pytest.fixture
def alone(suite, quick, params_file, tmp_path_factory):
    """(params, paths, what `lapml publish` made of it) of a published suite in a folder where nothing else is."""
    params, paths = suite
    build.report(params, params_file, paths)
    publish(params, paths)
    other = Paths(params.suite, tmp_path_factory.mktemp("alone"))
    made = {
        path.relative_to(paths.published): path.read_bytes() for path in paths.published.rglob("*") if path.is_file()
    }
    shutil.copytree(paths.published / "runs", other.published / "runs")
    shutil.copytree(paths.published / "tuned", other.published / "tuned")
    return params, other, made


def test_they_are_those_of_the_suite(alone, params_file):
    """The same files, though neither data nor weights are there; a second time they are made anew."""
    params, paths, made = alone
    for _ in range(2):
        assert publish_tables(params, params_file, paths) == paths.published / "report.html"
        assert not (paths.published / "figures/old.svg").exists()
        (paths.published / "figures/old.svg").write_text("of a chart that is no more")
        found = {
            path.relative_to(paths.published): path.read_bytes()
            for path in paths.published.rglob("*")
            if path.is_file()
        }
        del found[paths.published.joinpath("figures/old.svg").relative_to(paths.published)]
        assert found == made
    assert not list(paths.published.parent.glob(".*")) and not list(paths.published.rglob(RUN_FILES[-1]))


def test_a_damaged_diagnosis_is_left_out(alone, params_file):
    params, paths, made = alone
    folder = paths.as_published().diagnosis("birds")
    folder.mkdir(parents=True)
    (folder / "diagnosis.json").write_text('{"seeds": [0]}')
    page = publish_tables(params, params_file, paths)
    assert page.read_bytes() == made[page.relative_to(paths.published)]


@pytest.mark.parametrize(
    "lost", ["runs/birds/cutmix/1", "runs/birds/cutmix/1/predictions.parquet", "tuned/birds/margin.json"]
)
def test_what_is_not_whole_changes_nothing(alone, params_file, lost):
    params, paths, _ = alone
    publish_tables(params, params_file, paths)
    gone = paths.published / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    before = {path: path.read_bytes() for path in paths.published.rglob("*") if path.is_file()}
    with pytest.raises(LapmlError, match="birds/(cutmix/1|margin)|margin.json"):
        publish_tables(params, params_file, paths)
    assert {path: path.read_bytes() for path in paths.published.rglob("*") if path.is_file()} == before


def test_nothing_is_published(suite, params_file):
    params, paths = suite
    with pytest.raises(LapmlError, match="not there, expected published runs; run `lapml publish --finished` first"):
        publish_tables(params, params_file, paths)
    assert not paths.published.exists()


def test_the_command(alone, params_file, monkeypatch):
    params, paths, _ = alone
    monkeypatch.setattr("lapml.cli.published.load", lambda *given: (params, paths))
    said = CliRunner().invoke(app, ["publish", "--tables", "--params", str(params_file)])
    assert said.exit_code == 0, said.output
    assert said.output.strip() == str(paths.published / "report.html")
    assert {path.name for path in paths.published.iterdir() if path.is_file()} == set(REPORT_FILES)
