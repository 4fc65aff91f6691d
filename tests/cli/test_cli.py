"""The command line: help with examples, exit statuses, and one clear line for bad input."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lapml.cli import app
from lapml.config import overlays

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    ["config", "show"], ["suite", "list"], ["suite", "use"], ["suite", "report"],
    ["data", "fetch"], ["data", "prepare"], ["data", "check"], ["data", "split"], ["data", "show"],
    ["train"], ["evaluate"], ["tune"], ["report"], ["publish"],
    ["diagnose"], ["compare"], ["predict"], ["explain"], ["export"],
]  # fmt: skip
runner = CliRunner()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "suites").mkdir()
    for suite in (ROOT / "suites").glob("*.yaml"):
        (tmp_path / "suites" / suite.name).write_bytes(suite.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"Example: lapml {' '.join(command)}" in result.output


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["train", "birds"], ["train", "birds", "baseline", "x"], ["data", "show", "birds", "--count", "0"]],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["config", "show", "--set", "train.lr=-1"], "train.lr: found -1"),
        (["config", "show", "--dataset", "x", "--method", "baseline"], "unknown data set 'x'"),
        (["config", "show", "--dataset", "birds", "--method", "x"], "unknown method 'x'"),
        (["config", "show", "--dataset", "birds", "--method", "margin"], "lapml tune birds"),
        (["config", "show", "--params", "none.yaml"], "none.yaml: no such file"),
        (["data", "prepare", "birds"], "lapml data fetch birds"),
        (["data", "prepare", "x"], "unknown data set 'x'"),
        (["train", "birds", "baseline", "0"], "lapml data prepare birds"),
        (["train", "birds", "margin", "0"], "lapml tune birds"),
        (["evaluate", "results/none"], "config.json is missing"),
        (["suite", "use", "x"], "no suite 'x'"),
        (["suite", "report"], "no report yet"),
        (["report"], "baseline/0"),
        (["diagnose", "birds"], "lapml data prepare birds"),
        (["diagnose", "x"], "unknown data set 'x'"),
        (["compare", "results/none"], "results/none"),
        (["predict", "results/none", "params.yaml"], "config.json is missing"),
        (["explain", "results/none", "params.yaml"], "config.json is missing"),
        (["export", "results/none", "--format", "onnx"], "config.json is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_input_is_status_1_and_says_what_to_do(arguments: list[str], part: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert part in result.stderr
    assert "Traceback" not in result.output


def test_config_show_prints_the_resolved_run_with_overrides() -> None:
    arguments = ["config", "show", "--dataset", "birds", "--method", "cutmix", "--seed", "3", "--set", "train.lr=0.5"]
    record = json.loads(runner.invoke(app, arguments).stdout)
    assert record["train"]["lr"] == 0.5
    assert (record["seed"], record["method"], record["fit"], record["evaluate"]) == (
        3,
        "cutmix",
        ["train", "val"],
        "test",
    )


def test_suite_use_keeps_an_edited_file(project: Path) -> None:
    (project / "params.yaml").write_text("# mine\n" + (project / "params.yaml").read_text())
    assert runner.invoke(app, ["suite", "use", "tiny"]).exit_code == 0
    assert (project / "params.yaml").read_text() == overlays.composed(ROOT / "suites/tiny.yaml")
    assert (project / "params.yaml.old").read_text().startswith("# mine\n")
    (project / "params.yaml.old").unlink()
    assert runner.invoke(app, ["suite", "use", "demo"]).exit_code == 0
    assert not (project / "params.yaml.old").exists()
