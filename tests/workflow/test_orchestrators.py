"""Snakemake and DVC: the same commands and paths, the same re-runs, and one tiny suite through each to its report.

The commands run in a copy of the project's workflow files, so that nothing of the working tree is touched.
"""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from snakemake.cli import main
from typer.testing import CliRunner

from lapml import config
from lapml.cli.app import app
from lapml.config import overlays
from lapml.paths import RUN_FILES

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PARTS = ("Snakefile", "rules", "dvc.yaml", "params.yaml", "suites", "profiles")
SETS = ("cub200", "aircraft", "cars", "deepfashion", "folder")
MAPPED = """base: tiny.yaml
suite: mapped
ablation: [baseline, by_parts]
tuned_methods: [margin]
localise: {side: 192}
defaults: {mixers: {localized: {maps: recent}}}
methods:
  by_parts: {mixer: {name: parts, alpha: 1.0, area: [0.1, 0.9], threshold: 0.5}, label: semantic}
"""
SEARCHED = """base: tiny.yaml
suite: searched
ablation: [loc_cutmix]
tuned_methods: [baseline, cutmix]
tune:
  methods:
    baseline: {train.lr: {low: 0.003, high: 0.1, log: true}}
    cutmix: {train.lr: {low: 0.003, high: 0.1, log: true}, mix.prob: {low: 0.2, high: 1.0}}
"""
REPORT = ("accuracy.csv", "accuracy.md", "accuracy.tex", "runs.csv", "curves.csv", "summary.json", "report.html")


def copy_project(target: Path, suite: str | None) -> Path:
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target / part)
    if suite:
        (target / "params.yaml").write_text(overlays.composed(ROOT / "suites" / f"{suite}.yaml"))
    return target


def run(folder: Path, *command: str, ok: bool = True) -> str:
    """Run a command of the environment in a folder; its output, and an assertion that it went well."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert not ok or done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def planned(folder: Path, *options: str, ok: bool = True) -> str:
    """What `snakemake -n` says in a folder."""
    return forked(folder, main, ["-n", *options], ok=ok)


def forked(folder: Path, function: Callable[..., Any], *arguments: Any, ok: bool = True) -> str:
    """What a function prints in a folder. It runs in a fork of this process, which has Snakemake imported."""
    with tempfile.TemporaryFile() as output:
        process = multiprocessing.get_context("fork").Process(
            target=_within, args=(folder, output.fileno(), function, arguments)
        )
        process.start()
        process.join()
        output.seek(0)
        said = output.read().decode()
    assert not ok or process.exitcode == 0, said[-6000:]
    return said


def _within(folder: Path, output: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # in place of those of pytest
    sys.argv = ["snakemake"]
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(folder)
    function(*arguments)


def lapml(folder: Path, *command: str) -> str:
    """What `lapml` says in a folder, in this process."""
    with chdir(folder):
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return done.output


def dvc_init(folder: Path) -> None:
    """What `dvc init --no-scm` and `dvc config core.analytics false` write."""
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in params.yaml"
    (folder / "params.yaml").write_text(text.replace(old, new))


def snakemake_jobs(folder: Path, *options: str) -> set[tuple[str, frozenset[str]]]:
    """(command, outputs) of every job that a dry run would start."""
    text = planned(folder, "-p", "--cores", "2", *options)
    jobs = set()
    for block in text.split("\n\n"):
        outputs = re.search(r"^    output: (.*)$", block, re.M)
        command = re.search(r"^Shell command: (lapml .*?) > \S+ 2>&1(?: && tail -n 2 \S+)?$", block, re.M)
        if outputs and command:
            jobs.add((command[1], frozenset(outputs[1].split(", "))))
    return jobs


def dvc_stages(folder: Path) -> set[tuple[str, frozenset[str]]]:
    """(command, outputs) of every stage of dvc.yaml."""
    import dvc.repo  # noqa: F401  before the fork

    said = forked(folder, _print_stages)
    return {(command, frozenset(outputs)) for command, outputs in json.loads(said.split("STAGES")[1])}


def _print_stages() -> None:
    from dvc.repo import Repo

    stages = [[each.cmd, [out.def_path for out in each.outs]] for each in Repo(".").index.stages if each.cmd]
    print("STAGES" + json.dumps(stages), flush=True)


@pytest.mark.parametrize("suite", [None, "tiny", "sparrows", "cub200", "fixtures", "paper", "recipe-cub200"])
def test_both_run_the_same_commands_on_the_same_paths(tmp_path: Path, suite: str | None) -> None:
    folder = copy_project(tmp_path, suite)
    dvc_init(folder)
    jobs, stages = snakemake_jobs(folder), dvc_stages(folder)
    assert jobs <= stages
    own = {command.split(" --params")[0] for command, _ in stages - jobs}  # of DVC
    resolve = {command for command in own if command.startswith("lapml config resolve ")}
    assert len(resolve) == len({command for command, _ in jobs if "data fetch" in command})
    # It has stages for maps and studies that nothing asks for, which then write that there is nothing to find or to tune.
    localise = {command for command in own if command.startswith("lapml localise ")}
    assert len(localise) == (0 if any("lapml localise" in command for command, _ in jobs) else len(resolve))
    tune = own - resolve - localise
    assert all(command.startswith("lapml tune ") for command in tune)
    assert not tune or suite in ("cub200", "recipe-cub200")


def mapped(target: Path) -> Path:
    """A copy of the project whose params.yaml has one method that mixes by maps."""
    folder = copy_project(target, None)
    (folder / "suites/mapped.yaml").write_text(MAPPED)
    (folder / "params.yaml").write_text(overlays.composed(folder / "suites/mapped.yaml"))
    return folder


def test_only_methods_that_mix_by_maps_wait_for_them(tmp_path: Path) -> None:
    folder = mapped(tmp_path)
    dvc_init(folder)
    maps = "results/mapped/localised/birds"
    jobs, stages = snakemake_jobs(folder), dvc_stages(folder)
    assert jobs <= stages
    assert ("lapml localise birds --params params.yaml", frozenset([maps])) in jobs
    waiting = set()
    for block in planned(folder, "-p", "--cores", "2").split("\n\n"):
        given = re.search(r"^    input: (.*)$", block, re.M)
        if given and maps in given[1].split(", "):
            waiting.add(re.search(r"^Shell command: lapml (.*?) --params", block, re.M)[1])
    assert waiting == {"train birds by_parts 0", "diagnose birds"}


def test_any_method_is_tuned_before_it_trains(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, None)
    (folder / "suites/searched.yaml").write_text(SEARCHED)
    (folder / "params.yaml").write_text(overlays.composed(folder / "suites/searched.yaml"))
    dvc_init(folder)
    jobs, stages = snakemake_jobs(folder), dvc_stages(folder)
    assert jobs <= stages
    asked = {}  # {command: inputs}
    for block in planned(folder, "-p", "--cores", "2").split("\n\n"):
        given = re.search(r"^    input: (.*)$", block, re.M)
        if command := re.search(r"^Shell command: lapml (.*?) --params", block, re.M):
            asked[command[1]] = given[1].split(", ") if given else []
    for method in ("baseline", "cutmix"):
        tuned = f"results/searched/tuned/birds/{method}.json"
        tune = (f"lapml tune birds --method {method} --params params.yaml", frozenset([tuned]))
        assert tune in jobs and tuned in asked[f"train birds {method} 0"]
    assert not any("/tuned/" in file for file in asked["train birds loc_cutmix 0"])
    assert "tune birds --method margin" not in asked


def test_where_nothing_mixes_by_maps_none_are_made(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "sparrows")
    said = lapml(folder, "localise", "cub200")  # without any data
    assert "no method of suite sparrows mixes by object or part maps: nothing to do" in said
    where = folder / "results/sparrows/localised/cub200"
    made = {path.relative_to(where).as_posix(): json.loads(path.read_text()) for path in where.rglob("*.json")}
    params = config.load(folder / "params.yaml")
    names = [*(f"runs/{row}" for row in params.methods), "diagnosis"]
    assert made == {f"{name}.json": {"localised_sha256": None} for name in names}
    lapml(folder, "config", "resolve", "cub200")
    localise = json.loads((folder / "results/sparrows/settings/cub200/localise.json").read_text())
    assert localise == {"stage": None, "methods": dict.fromkeys(params.methods, False)}


@pytest.mark.slow
def test_dvc_makes_again_what_mixes_by_maps_where_these_have_changed(tmp_path: Path) -> None:
    folder = mapped(tmp_path)
    dvc_init(folder)
    run(folder, "dvc", "repro", "diagnose@birds", "train@birds-by_parts-0")
    made = {
        method: json.loads((folder / f"results/mapped/runs/birds/{method}/0/provenance.json").read_text())
        for method in ("baseline", "by_parts")
    }
    meta = json.loads((folder / "results/mapped/localised/birds/meta.json").read_text())
    assert made["baseline"]["localised_sha256"] is None
    assert made["by_parts"]["localised_sha256"] == meta["sha256"]
    assert "| object maps |" in (folder / "results/mapped/diagnosis/birds/diagnosis.md").read_text()
    run(folder, "lapml", "data", "show", "birds", "--objects", "--count", "3", "--output", "sheet.png")
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    run(folder, "lapml", "report", "--set", "tuned_methods=[]")
    page = (folder / "results/mapped/report/report.html").read_text()
    assert "Training images with their object and part maps" in page

    before = changed_of_maps(folder)
    concerned = {"localise@birds", "train@birds-by_parts-0", "diagnose@birds"}
    assert not concerned & before
    edit(folder, "  side: 192 ", "  side: 224 ")
    assert changed_of_maps(folder) - before == concerned
    edit(folder, "  side: 224 ", "  side: 192 ")
    assert changed_of_maps(folder) == before
    # Other maps of the same settings, as other weights would give: only their checksum says so.
    for name in ("runs/by_parts", "diagnosis"):
        (folder / f"results/mapped/localised/birds/{name}.json").write_text('{"localised_sha256": "other"}')
    assert changed_of_maps(folder) - before == concerned


@pytest.mark.slow
def test_dvc_takes_a_method_that_a_suite_gains(tmp_path: Path) -> None:
    """One that the params file has already, and a new one; maps are not made again, nor the runs by them. Training is played."""
    folder = mapped(tmp_path)
    dvc_init(folder)
    file, names = folder / "dvc.yaml", " ".join(RUN_FILES)
    play = f"cd results/mapped/runs/birds/${{item.method}}/${{item.seed}} && touch {names}"
    command = "cmd: lapml train ${item.dataset} ${item.method} ${item.seed} --params params.yaml --replace"
    file.write_text(file.read_text().replace(command, f"cmd: {play}"))

    def ran(methods: list[str], more: dict[str, Any] | None = None) -> set[str]:
        mine = {
            "base": "mapped.yaml",
            "suite": "mapped",
            "ablation": methods,
            "tuned_methods": [],
            "methods": more or {},
        }
        (folder / "suites/mine.yaml").write_text(json.dumps(mine))
        (folder / "params.yaml").write_text(overlays.composed(folder / "suites/mine.yaml"))
        for method in methods:
            (folder / f"results/mapped/runs/birds/{method}/0").mkdir(parents=True, exist_ok=True)
        said = run(folder, "dvc", "repro", *(f"train@birds-{method}-0" for method in methods))
        return set(re.findall(r"Running stage '(\S+)'", said))

    maps = folder / "results/mapped/localised/birds/meta.json"
    assert {"localise@birds", "train@birds-baseline-0", "train@birds-by_parts-0"} <= ran(["baseline", "by_parts"])
    first = maps.read_bytes()
    assert ran(["baseline", "by_parts", "cutmix"]) == {"settings@birds", "train@birds-cutmix-0"}
    new = {"other_parts": {"mixer": {"name": "parts", "alpha": 2.0}, "label": "semantic"}}
    names = ["baseline", "by_parts", "cutmix", "other_parts"]
    assert ran(names, new) == {"settings@birds", "localise@birds", "train@birds-other_parts-0"}
    assert maps.read_bytes() == first


def changed_of_maps(folder: Path) -> set[str]:
    """Stages that DVC would run again once it has resolved the settings."""
    run(folder, "dvc", "repro", "settings@birds")
    return set(json.loads(run(folder, "dvc", "status", "--json")))


def test_where_nothing_is_tuned_dvc_tunes_nothing(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "recipe-cub200")
    lapml(folder, "config", "resolve", "cub200")  # what the stages depend on is there
    assert json.loads((folder / "results/recipe-cub200/settings/cub200/studies/margin.json").read_text()) is None
    for method in ("margin", "adaptive_margin"):  # without any data
        lapml(folder, "tune", "cub200", "--method", method)
        assert json.loads((folder / f"results/recipe-cub200/tuned/cub200/{method}.json").read_text())["trials"] == []


def test_a_suite_without_margins_has_what_dvc_wants_of_them(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, None)
    mine = "base: tiny.yaml\nsuite: mine\ntuned_methods: []\nmethods: {margin: null, adaptive_margin: null}\n"
    mine += "report: {steps: {margin: null, adaptive_margin: null}}\n"
    (folder / "suites/mine.yaml").write_text(mine)
    (folder / "params.yaml").write_text(overlays.composed(folder / "suites/mine.yaml"))
    lapml(folder, "config", "resolve", "birds")
    lapml(folder, "localise", "birds")
    for method in ("margin", "adaptive_margin"):
        assert json.loads((folder / f"results/mine/settings/birds/studies/{method}.json").read_text()) is None
        maps = folder / f"results/mine/localised/birds/runs/{method}.json"
        assert json.loads(maps.read_text()) == {"localised_sha256": None}
        lapml(folder, "tune", "birds", "--method", method)
        assert json.loads((folder / f"results/mine/tuned/birds/{method}.json").read_text())["trials"] == []


def test_a_configfile_replaces_params_yaml(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, None)
    jobs = snakemake_jobs(folder, "--configfile", "suites/tiny.yaml")
    # fetch, prepare, localise, two studies, two runs, diagnosis, report: no row or seed of params.yaml is left
    assert len(jobs) == 9
    assert all("--params suites/tiny.yaml" in command for command, _ in jobs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--configfile", "suites/tiny.yaml", "suites/demo.yaml"), "--configfile: found"),
        (("--config", "suite=other"), "--config: settings live in params.yaml"),
        (("--configfile", "suites/none.yaml"), "suites/none.yaml"),
        (("--software-deployment-method", "apptainer"), "--software-deployment-method apptainer: found"),
    ],
)
def test_what_snakemake_would_do_by_itself_is_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    folder = copy_project(tmp_path, None)
    assert said in planned(folder, *options, ok=False)


def test_an_overlay_of_ones_own_is_a_configfile(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, None)
    (folder / "mine.yaml").write_text("base: suites/tiny.yaml\nsuite: mine\nseeds: [4]\ntuned_methods: []\n")
    jobs = {command for command, _ in snakemake_jobs(folder, "--configfile", "mine.yaml")}
    assert "lapml train birds baseline 4 --params mine.yaml --replace" in jobs and len(jobs) == 5


def test_lint(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, None)
    assert "Congratulations" in forked(folder, main, ["--lint"])


def test_params_that_are_wrong_stop_snakemake_with_the_reason(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "tiny")
    edit(folder, "lr: 0.01 ", "lr: -1 ")
    text = planned(folder, ok=False)
    assert "params.yaml: train.lr: found -1" in text


def test_a_run_on_several_gpus_asks_snakemake_for_as_many_and_for_its_threads(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "tiny")
    edit(folder, "gpus: 1 ", "gpus: 2 ")
    before = "auto"
    for device, count in (("auto", 2), ("cuda", 2), ("cpu", 0)):
        edit(folder, f"device: {before} ", f"device: {device} ")
        said = planned(folder, "--cores", "4", "--resources", "gpu=4")
        training = re.findall(r"threads: 2\n    resources: tmpdir=\S+, gpu=(\d), nodes=1$", said, re.M)
        assert training == [str(count)] * 4, device  # two studies and two runs
        alone = re.findall(r"^rule (localise|diagnose):$.*?gpu=(\d)", said, re.M | re.S)
        assert alone == [("localise", str(min(1, count))), ("diagnose", str(min(1, count)))], device
        before = device


def test_a_run_on_several_nodes_asks_for_what_each_of_them_needs(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "tiny")
    edit(folder, "gpus: 1 ", "gpus: 6 ")
    edit(folder, "nodes: 1 ", "nodes: 2 ")
    for before, device, gres in (("auto", "cuda", ", gres=gpu:3"), ("cuda", "cpu", "")):
        edit(folder, f"device: {before} ", f"device: {device} ")
        said = planned(folder, "--cores", "4")
        asked = re.findall(r"threads: 3\n    resources: tmpdir=\S+, (.*)", said)
        two_studies_and_two_runs = [f"gpu=0, nodes=2, tasks=2, tasks_per_gpu=0, mpi=srun{gres}"] * 4
        assert asked == two_studies_and_two_runs, device


def test_the_machine_that_submits_does_not_say_what_a_job_asks_for(tmp_path: Path, monkeypatch) -> None:
    """With a GPU and without: the same requests, and a limit only where there is one, or where another machine runs them."""
    folder = copy_project(tmp_path, "tiny")
    (tmp_path / "bin").mkdir()
    asked, limits = [], []
    for gpu in (False, True):
        if gpu:
            (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\n")
            (tmp_path / "bin/nvidia-smi").chmod(0o755)
            monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        asked.append(re.findall(r"resources: .*gpu=\d", planned(folder, "--cores", "2")))
        said = forked(folder, main, ["--cores", "2", "--until", "fetch", "--forcerun", "fetch"])
        limits.append(int(re.search(r'^Provided resources: gpu=Resource\("gpu", (\d+)\)', said, re.M)[1]))
    assert len(asked[0]) == 6 and all(each.endswith("gpu=1") for each in asked[0]) and asked[0] == asked[1]
    assert limits[0] > 1000 and limits[1] == 1


def changed_stages(folder: Path) -> set[str]:
    """Stages that DVC would run again once it has resolved the settings: in those files lies what each depends on."""
    run(folder, "dvc", "repro", *(f"settings@{name}" for name in SETS))
    return set(json.loads(run(folder, "dvc", "status", "--json")))


def started(folder: Path) -> dict[str, str]:
    """When the run of each data set was made."""
    runs = sorted(folder.glob("results/fixtures/runs/*/adaptive_margin/0/provenance.json"))
    return {path.parts[-4]: json.loads(path.read_text())["started"] for path in runs}


@pytest.mark.slow
def test_snakemake_takes_all_five_data_sets_to_the_report_and_only_what_changed_again(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, "fixtures")
    run(folder, "snakemake", "--cores", "2")
    for name in REPORT:
        assert (folder / "results/fixtures/report" / name).stat().st_size > 0, name
    page = (folder / "results/fixtures/report/report.html").read_text()
    assert all(f'<h2 id="data-{name}">' in page for name in SETS)
    for name in SETS:
        check_predictions(folder, name, "baseline")
        check_predictions(folder, name, "adaptive_margin")
    assert "Nothing to be done" in run(folder, "snakemake", "--cores", "2")
    run(folder, "snakemake", "--report", "workflow.html")
    assert (folder / "workflow.html").stat().st_size > 10_000

    what_is_published_is_not_run_again(folder, tmp_path / "elsewhere")

    # Where and how a run is computed is not what it is.
    edit(folder, "device: auto ", "device: cpu ")
    edit(folder, "threads: 1 ", "threads: 2 ")
    assert snakemake_jobs(folder) == set()
    edit(folder, "device: cpu ", "device: auto ")
    edit(folder, "threads: 2 ", "threads: 1 ")
    assert snakemake_jobs(folder, "--configfile", "suites/fixtures.yaml") == set()
    edit(folder, "prob: 1.0 ", "prob: 0.9 ")
    commands = " ".join(command for command, _ in snakemake_jobs(folder))
    assert "train cars adaptive_margin 0" in commands and "baseline 0" not in commands and "diagnose" not in commands
    edit(folder, "prob: 0.9 ", "prob: 1.0 ")

    edit(folder, "pos_margin: 0.0 ", "pos_margin: 0.1 ")
    commands = " ".join(command for command, _ in snakemake_jobs(folder))
    assert "tune cars --method margin" in commands
    assert "train folder adaptive_margin 0" in commands
    assert "train cub200 baseline" not in commands and "prepare" not in commands
    edit(folder, "pos_margin: 0.1 ", "pos_margin: 0.0 ")

    edit(folder, "lr: 0.01 ", "lr: 0.02 ")
    commands = " ".join(command for command, _ in snakemake_jobs(folder))
    for part in (
        "tune cub200 --method margin",
        "tune folder --method adaptive_margin",
        "adaptive_margin 0",
        "baseline 0",
        "report",
    ):
        assert part in commands
    assert "prepare" not in commands
    edit(folder, "lr: 0.02 ", "lr: 0.01 ")

    edit(folder, "labels: variant", "labels: family")
    commands = " ".join(command for command, _ in snakemake_jobs(folder))
    assert "prepare aircraft" in commands and "prepare cars" not in commands and "fetch cars" not in commands
    edit(folder, "labels: family", "labels: variant")
    edit(folder, "overrides: {train: {batch: 6}}", "overrides: {train: {batch: 5}}")  # of one data set
    commands = " ".join(command for command, _ in snakemake_jobs(folder))
    assert "train folder baseline 0" in commands and "train cars" not in commands and "prepare" not in commands


def what_is_published_is_not_run_again(folder: Path, other: Path) -> None:
    """Publish what is finished in one folder; take it over in another, where data are prepared and nothing else is."""
    report = (folder / "results/fixtures/report/accuracy.csv").read_bytes()
    shutil.move(folder / "results/fixtures/runs/cars/baseline/0/metrics.json", folder / "kept")  # as if unfinished
    assert "9 runs added, 9 of 10 are there; not finished: cars/baseline/0" in run(
        folder, "lapml", "publish", "--finished"
    )
    shutil.move(folder / "kept", folder / "results/fixtures/runs/cars/baseline/0/metrics.json")
    other.mkdir()
    shutil.copytree(folder / "results/published", copy_project(other, "fixtures") / "results/published")
    for part in ("data", "localised"):
        shutil.copytree(folder / "results/fixtures" / part, other / "results/fixtures" / part)
    shutil.copytree(folder / "data", other / "data")
    assert "9 runs taken over" in run(other, "lapml", "restore")
    commands = {command for command, _ in snakemake_jobs(other)}
    left = ("train cars baseline 0", "diagnose cars", "report")
    assert {command.removesuffix(" --replace") for command in commands} == {
        f"lapml {command} --params params.yaml" for command in left
    }
    run(other, "snakemake", "--cores", "2")
    assert (other / "results/fixtures/report/accuracy.csv").read_bytes().splitlines()[0] == report.splitlines()[0]
    assert "1 runs added, 10 of 10 are there" in run(other, "lapml", "publish", "--finished")
    assert "delete its folder and train the run again" in run(
        other, "lapml", "evaluate", "results/fixtures/runs/folder/baseline/0", ok=False
    )


def check_predictions(folder: Path, name: str, method: str) -> None:
    """Each of the set's 12 test images once, and as many classes as there are."""
    table = pd.read_parquet(folder / f"results/fixtures/runs/{name}/{method}/0/predictions.parquet")
    assert len(table) == table["image"].nunique() == 12 and sorted(set(table["label"])) == [0, 1, 2, 3]


@pytest.mark.slow
def test_dvc_takes_all_five_data_sets_to_the_report_and_only_what_changed_again(tmp_path: Path) -> None:
    """Through the longest chain of each set: two studies, and the method that they are for."""
    folder = copy_project(tmp_path, "fixtures")
    edit(folder, "ablation: [baseline]  ", "ablation: []  ")
    edit(folder, "  method: baseline  ", "  method: adaptive_margin  ")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    (folder / ".gitignore").write_text("/results/\n/data/\n")
    run(folder, "dvc", "repro")
    for name in REPORT:
        assert (folder / "results/fixtures/report" / name).stat().st_size > 0, name
    for name in SETS:
        check_predictions(folder, name, "adaptive_margin")
    first = started(folder)
    assert "up to date" in run(folder, "dvc", "repro").lower()
    assert started(folder) == first
    assert "top1" in run(folder, "dvc", "metrics", "show")
    run(folder, "dvc", "plots", "show", "--out", "plots")
    page = (folder / "plots/index.html").read_text()
    assert "loss_mean" in page and "adaptive_margin" in page
    identity = ("-c", "user.name=lapml", "-c", "user.email=lapml@localhost")
    run(folder, "git", "add", "dvc.yaml", "dvc.lock", "params.yaml", ".gitignore")
    run(folder, "git", *identity, "commit", "-qm", "results")

    edit(folder, "quantile: {low: 0.0,", "quantile: {low: 0.1,")
    assert "tune.adaptive_margin.quantile.low" in run(folder, "dvc", "params", "diff")
    # and what depends on the files that these make
    assert changed_stages(folder) == {f"tune_adaptive@{name}" for name in SETS}
    edit(folder, "quantile: {low: 0.1,", "quantile: {low: 0.0,")
    edit(folder, "pos_margin: 0.0 ", "pos_margin: 0.1 ")
    assert changed_stages(folder) == {stage for name in SETS for stage in training(name)}
    edit(folder, "pos_margin: 0.1 ", "pos_margin: 0.0 ")
    edit(folder, "device: auto ", "device: cpu ")
    edit(folder, "threads: 1 ", "threads: 2 ")
    assert changed_stages(folder) == set()
    edit(folder, "device: cpu ", "device: auto ")
    edit(folder, "threads: 2 ", "threads: 1 ")
    edit(folder, "labels: variant", "labels: manufacturer")
    assert changed_stages(folder) == {"fetch@aircraft", "prepare@aircraft"} | training("aircraft")
    edit(folder, "labels: manufacturer", "labels: variant")
    edit(folder, "overrides: {train: {batch: 6}}", "overrides: {train: {batch: 5}}")  # of one data set
    assert changed_stages(folder) == training("folder")
    run(folder, "dvc", "repro", "train_tuned@folder-adaptive_margin-0")
    again = started(folder)
    assert again.pop("folder") > first.pop("folder") and again == first


def training(name: str) -> set[str]:
    """The stages of a data set that train, and the one that looks at all methods."""
    stages = {f"tune_margin@{name}", f"tune_adaptive@{name}", f"train_tuned@{name}-adaptive_margin-0"}
    return stages | {f"diagnose@{name}"}
