"""The command line: help with examples, exit statuses, and one clear line for bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lapml.cli import app
from lapml.cli.group import WORK
from lapml.config import overlays

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    [name, *below]
    for name, command in typer.main.get_command(app).commands.items()
    for below in ([[each] for each in command.commands] if hasattr(command, "commands") else [[]])
]
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
        (["evaluate", "results/none"], "results/none: no such folder"),
        (["suite", "use", "x"], "no suite 'x'"),
        (["suite", "report"], "no report yet"),
        (["report"], "baseline/0"),
        (["diagnose", "birds"], "lapml data prepare birds"),
        (["diagnose", "x"], "unknown data set 'x'"),
        (["compare", "results/none"], "results/none"),
        (["predict", "results/none", "params.yaml"], "results/none: no such folder"),
        (["explain", "results/none", "params.yaml"], "results/none: no such folder"),
        (["export", "results/none", "--format", "onnx"], "results/none: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_input_is_status_1_and_says_what_to_do(arguments: list[str], part: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert part in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "birds", "cutmx", "0"], "did you mean cutmix?"),
        (["data", "fetch", "brids"], "did you mean birds?"),
        (["suite", "use", "sparows"], "did you mean sparrows?"),
        (["config", "show", "--params", "suites/sparows.yaml"], "did you mean suites/sparrows.yaml?"),
        (["config", "show", "--set", "train.epoch=5"], "did you mean train.epochs?"),
        (["config", "show", "--set", "lr=5"], "did you mean train.lr?"),
        (["config", "show", "--set", "seeds.0=5"], "did you mean seeds?"),
    ],
)
def test_a_misspelt_name_is_answered_by_the_one_that_was_meant(arguments: list[str], part: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1 and part in result.stderr


@pytest.mark.parametrize("command", [["data", "fetch"], ["data", "prepare"], ["localise"], ["tune"], ["train"]])
def test_a_data_set_of_other_suites_is_answered_by_those_suites(command: list[str]) -> None:
    found = runner.invoke(app, [*command, "cub200", *(["cutmix", "0"] if command == ["train"] else [])])
    assert found.exit_code == 1 and "suites that have it: birds50, choices-cub200, cub200, " in found.stderr


def test_the_suites_that_have_a_data_set() -> None:
    found = runner.invoke(app, ["data", "fetch", "cub200"])
    listed = found.stderr.partition("suites that have it: ")[2].partition(" (give")[0].split(", ")
    loaded = (overlays.merged(overlays.layers(file)) for file in Path("suites").glob("*.yaml"))
    assert listed == sorted(raw["suite"] for raw in loaded if "cub200" in raw["data"])


def test_a_suite_that_cannot_be_read_does_not_hide_the_others(project: Path) -> None:
    whole = "data: {cub200: {}}\n"
    for name, text in {"b": "base: 3\n", "c": "base: c.yaml\n", "d": "[", "e": f"base:\n{whole}", "f": whole}.items():
        (project / "suites" / f"zz{name}.yaml").write_text(text)
    found = runner.invoke(app, ["data", "fetch", "cub200"])
    assert found.exit_code == 1 and "warblers-trials, zze, zzf (give --params" in found.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--epochs", "5"], "write --set train.epochs=5"),
        (["--lr=0.1"], "write --set train.lr=0.1"),
        (["--batch-size", "16"], "write --set train.batch=16"),
        (["--truncate"], "write --set model.truncate=VALUE"),
        (["--epochs", "--replace"], "write --set train.epochs=VALUE"),
        (["--bends", "3", "--params=mine.yaml"], "write --set model.bands=3"),
        (["--side", "128"], "Settings are given by --set KEY=VALUE"),  # of the view, of localise, of cutout
        (["--alpha", "0.5"], "Settings are given by --set KEY=VALUE"),
        (["--model", "resnet50"], "Settings are given by --set KEY=VALUE"),
        (["--seed", "3"], "--seed. It is given by its place: "),
        (["-ex"], "Settings are given by --set KEY=VALUE"),
        (["--learning-rate", "1"], "Settings are given by --set KEY=VALUE"),
        (["--smok"], "--smoke"),
    ],
)
def test_an_option_that_is_a_setting_is_answered_by_set(given: list[str], meant: str) -> None:
    Path("mine.yaml").write_text("base: suites/base.yaml\nmodel: {bands: 1}\n")
    result = runner.invoke(app, ["train", "birds", "cutmix", "0", *given])
    assert result.exit_code == 2 and meant in result.stderr


@pytest.mark.parametrize("command", [["train", "--dataset", "birds"], ["tune", "birds", "--seed", "0"]])
def test_an_option_that_is_no_setting_is_not_answered_by_one(command: list[str]) -> None:
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    said = "by its place: " if command[0] == "train" else "by --set KEY=VALUE; "
    assert said in result.stderr and "=" not in result.stderr.partition(said)[2]


def test_an_unknown_option_of_a_command_without_settings() -> None:
    result = runner.invoke(app, ["suite", "list", "--epochs", "5"])
    assert result.exit_code == 2 and "--set" not in result.stderr


def test_help_lists_every_command_once_in_the_order_of_the_work() -> None:
    text = runner.invoke(app, ["--help"]).output.partition("\nBegin:")[2]
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    assert listed == [name for names in WORK.values() for name in names]
    assert set(listed) == set(typer.main.get_command(app).commands)


def test_starting_up_imports_nothing_heavy() -> None:
    """What makes `lapml --help` slow is imported by the commands that want it."""
    heavy = "{'torch', 'numpy', 'pandas', 'pydantic', 'optuna', 'rich', 'PIL'}"
    script = f"import sys, lapml.cli; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


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
