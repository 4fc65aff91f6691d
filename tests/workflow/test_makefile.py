"""The Makefile: every GPU table has a suite, README names targets that there are, and what they run is accepted."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_blocks import accept

from lapml import config

ROOT = Path(__file__).resolve().parents[2]
SUITES = re.search(r"^GPU_SUITES = (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()


def dry(target: str, *variables: str) -> str:
    """The commands of a target, which are not run."""
    command = ["make", "-n", "-o", ".venv/.main", "-o", ".venv/.test", "VENV=.venv", target, *variables]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, capture_output=True).stdout


@pytest.mark.parametrize("suite", SUITES)
def test_a_gpu_table_is_a_suite_that_goes_on_where_it_ended(suite):
    params = config.load(ROOT / f"suites/{suite}.yaml")
    assert params.suite == suite
    commands = dry(f"gpu-{suite}", "JOBS=3", "LIMIT=99")
    file = f"suites/{suite}.yaml"
    places = [
        commands.index(part)
        for part in (
            "for stage in prepare localise",
            "--until $stage",
            "lapml publish --finished",
            "lapml restore",
            "timeout",
            "lapml report",
        )
    ]
    assert places == sorted(places)
    run = f".venv/bin/snakemake --keep-going --cores all --resources gpu=3 --configfile {file}"
    assert re.search(r"timeout --signal=INT 99 \\\n\s*" + re.escape(run), commands)
    assert run in (unlimited := dry(f"gpu-{suite}", "JOBS=3")) and "timeout" not in unlimited
    assert commands.count("lapml publish --finished $params") == 3 and f'params="--params {file}"' in commands


def test_readme_names_targets_that_there_are():
    text = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    named = {
        target for line in re.findall(r"make ((?:[a-z][a-z0-9-]*(?: |$))+)", text, re.M) for target in line.split()
    }
    named = {target for target in named if target == "test" or target == "reproduce" or "-" in target}
    assert {"test", "reproduce", "gpu-cub200", "gpu-recipe-cub200"} <= named
    for target in named:
        assert dry(target) is not None


def test_setup_makes_a_half_made_environment_anew(tmp_path):
    """One that was stopped before it had pip; it and the Python that makes environments are played by scripts."""
    half, python = tmp_path / "venv/bin/python", tmp_path / "python"
    half.parent.mkdir(parents=True)
    half.write_text("#!/bin/sh\nexit 1\n")
    python.write_text(f'#!/bin/sh\n[ "$2" != venv ] || cp {tmp_path}/whole "$3/bin/python"\n')
    (tmp_path / "whole").write_text("#!/bin/sh\n")
    for script in (half, python, tmp_path / "whole"):
        script.chmod(0o755)
    command = ["make", "setup", "CPU=1", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    made = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "venv/.main").exists()


@pytest.mark.parametrize("target, least", [("bench", 6), ("gpu-bench", 28), ("gpu-why", 2), ("pictures", 1)])
def test_commands_of_targets_that_take_long_are_accepted(tmp_path, target, least):
    """The environment is played by a script that notes what it is asked for, with the variables of shell and make filled in."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("lapml", "python", "snakemake"):
        (bin / name).write_text(
            f'#!/bin/bash\nprintf "%q " {name} "$@" >> {tmp_path}/asked; echo >> {tmp_path}/asked\n'
        )
        (bin / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    there = [f"VENV={tmp_path}", f"BENCH={tmp_path}/bench", f"WHY={tmp_path}/why"]
    command = ["make", "-o", f"{tmp_path}/.main", target, *there]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, capture_output=True)
    asked = [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]
    measured = [words for words in asked if words[0] == "lapml" or words[:3] == ["python", "-m", "benchmarks"]]
    assert len(measured) >= least
    for words in measured:
        try:
            accept(words, True)
        except (Exception, SystemExit) as error:
            pytest.fail(f"make {target}: {shlex.join(words)}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("has", [True, False])
def test_setup_without_gpu_libraries(tmp_path, has):
    """pip is played by a script that notes what it is asked for, and whose index has builds of torch for CPUs or has none."""
    python, lock = tmp_path / "bin/python", (ROOT / "requirements/main.lock").read_text()
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *+cpu*) exit {int(not has)};; esac\n')
    python.chmod(0o755)
    made = subprocess.run(["make", "setup", "CPU=1", f"VENV={tmp_path}"], cwd=ROOT, text=True, capture_output=True)
    if not has:
        assert made.returncode and "PIP_EXTRA_INDEX_URL" in made.stderr and not (tmp_path / "without-gpu").exists()
        return
    assert made.returncode == 0, made.stderr
    assert re.search(r"torch==[\d.]+\+cpu torchvision==[\d.]+\+cpu", (tmp_path / "asked").read_text())
    kept, named = (
        set(re.findall(r"^([\w.-]+)==", text, re.M)) for text in ((tmp_path / "without-gpu").read_text(), lock)
    )
    assert (
        named - kept == {each for each in named if re.match("(torch|torchvision|triton)$|nvidia-|cuda-", each)} != set()
    )
    hashes = (tmp_path / "without-gpu").read_text().count("--hash=")
    assert hashes == sum(
        block.count("--hash=") for block in re.split(r"\n(?=\w)", lock) if block.split("==")[0] in kept
    )
