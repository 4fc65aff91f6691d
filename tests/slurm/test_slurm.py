"""profiles/slurm on a SLURM of this machine (cluster.py): docs/cluster.md's commands, interrupted and cancelled jobs."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cluster
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "params.yaml", "suites", "profiles")
PROFILE = "snakemake --workflow-profile profiles/slurm"
TINY = f"{PROFILE} --configfile suites/tiny.yaml"
LEFT_OUT = {  # beginning of a command of docs/cluster.md: why it is not run
    "ssh ": "wants another machine",
    "git clone ": "this is a checkout",
    "make setup": "this environment is set up",
    ". .venv/": "and active",
    "python -m pip ": "make test-slurm has done it",
    "export ": "names data of yours",
    f"{PROFILE} --configfile suites/cub200.yaml": "takes days; its dry run stands above it",
}
RUNS = Path("results/tiny/runs/birds/baseline")
lacking = cluster.missing()
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    lacking.append("snakemake-executor-plugin-slurm")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking), reason=f"found no {', '.join(lacking)}: make test-slurm installs them"),
]


def commands() -> list[str]:
    """The lines of the page's blocks of commands, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/cluster.md").read_text(), re.M | re.S)
    return [re.sub(r"\s+# .*$", "", line) for block in blocks for line in block.splitlines() if line]


def environment_of(cluster: dict[str, str]) -> dict[str, str]:
    """The environment of a cluster's commands, with this Python's programs and this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{cluster['PATH']}"
    return {**cluster, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def copied(target: Path) -> Path:
    """The project's workflow files, and a suite of one run that lasts, over the data of the tiny one."""
    target.mkdir(exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target / part)
    (target / "again.yaml").write_text("base: suites/tiny.yaml\nseeds: [1]\ntrain: {epochs: 60}\n")
    (target / "long.yaml").write_text("base: suites/tiny.yaml\nseeds: [3]\ntrain: {epochs: 400}\n")
    (target / "wide.yaml").write_text("base: suites/tiny.yaml\nseeds: [2]\ntrain: {gpus: 2, threads: 2}\n")
    return target


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with cluster.cluster() as environment:
        yield environment_of(environment)


@pytest.fixture(scope="module")
def finished(slurm, tmp_path_factory) -> tuple[Path, str]:
    """The tiny suite, made on SLURM by the page's command: its folder, and what Snakemake said."""
    folder = copied(tmp_path_factory.mktemp("suite"))
    assert TINY in commands()
    done = subprocess.run(TINY, shell=True, cwd=folder, env=slurm, text=True, stdout=-1, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder, done.stdout


def jobs(slurm: dict[str, str], *options: str) -> pd.DataFrame:
    """SLURM's jobs, finished ones too: number, comment (rule and wildcards), state, CPUs, memory, start and end."""
    columns = {
        "id": "%i",
        "rule": "%k",
        "state": "%T",
        "cpus": "%C",
        "memory": "%m",
        "start": "%S",
        "end": "%e",
    }
    command = ["squeue", "--states=all", "--noheader", f"--format={'|'.join(columns.values())}", *options]
    said = subprocess.run(command, env=slurm, check=True, text=True, capture_output=True).stdout
    return pd.DataFrame([line.split("|") for line in said.splitlines()], columns=list(columns))


def details(slurm: dict[str, str], job: str) -> str:
    return subprocess.run(
        ["scontrol", "show", "job", job], env=slurm, check=True, text=True, capture_output=True
    ).stdout


def test_the_tiny_suite_runs_to_its_report(slurm, finished):
    folder, said = finished
    assert (folder / "results/tiny/report/report.html").stat().st_size > 100_000
    assert not re.search("Trying to restart|Error in rule", said)
    table = jobs(slurm)
    table["rule"] = table["rule"].str.extract("^rule_(.*)_wildcards", expand=False)
    assert set(table["state"]) == {"COMPLETED"}
    # fetch and report run where Snakemake does
    assert sorted(table["rule"]) == [
        "diagnose",
        "localise",
        "prepare",
        "train",
        "train_tuned",
        "tune_adaptive",
        "tune_margin",
    ]
    by_rule = table.set_index("rule")
    assert by_rule.loc["prepare", "cpus"] == "4" and set(by_rule.drop("prepare")["cpus"]) == {"1"}
    with_gpu = {rule for rule, job in by_rule["id"].items() if "TresPerJob=gres:gpu:1\n" in details(slurm, job)}
    assert with_gpu == set(by_rule.index) - {"prepare"}
    assert set(table["memory"]) == {"8000M"}
    at_once = [
        (one.rule, other.rule)
        for one in table.itertuples()
        for other in table.itertuples()
        if one.Index < other.Index and one.start < other.end and other.start < one.end
    ]
    assert at_once, table


def test_the_page_shows_commands_that_work(slurm, finished):
    others = [
        line for line in commands() if line != TINY and not line.startswith(tuple(LEFT_OUT)) or "--dry-run" in line
    ]
    assert len(others) == 3
    for line in others:
        done = subprocess.run(
            line, shell=True, cwd=finished[0], env=slurm, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}"


@pytest.fixture
def undisturbed(slurm, finished, tmp_path) -> Callable[[str, str], subprocess.Popen]:
    """Begins the run of a params file and seed by the command alone, in a folder of its own with the same data."""
    alone = copied(tmp_path)
    shutil.copytree(finished[0] / "results/tiny/data", alone / "results/tiny/data")
    return lambda params, seed: subprocess.Popen(
        f"lapml train birds baseline {seed} --params {params}", shell=True, cwd=alone, env=slurm
    )


def refuse_other(one: Path, other: Path) -> None:
    """Two folders of a run hold the same, but for its seconds."""
    for name in ("model.safetensors", "predictions.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    histories = [pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (one, other)]
    pd.testing.assert_frame_equal(*histories)


def test_a_job_that_is_preempted_and_requeued_ends_as_if_undisturbed(slurm, finished, tmp_path, undisturbed):
    folder, run = finished[0], RUNS / "1"
    alone = undisturbed("again.yaml", "1")
    command = f"{PROFILE} --configfile again.yaml --until train"
    with (folder / "again.log").open("w") as out:
        snakemake = subprocess.Popen(command, shell=True, cwd=folder, env=slurm, stdout=out, stderr=out)
    epochs = lambda: (folder / run / "live.csv").exists() and len(pd.read_csv(folder / run / "live.csv"))  # noqa: E731
    running = partial(jobs, slurm, "--states=running", "--partition=low")
    job = ""
    for interrupt, restarts in (("sbatch -p high -c 4 --wrap true", 1), ("scontrol requeue JOB", 2)):
        cluster.wait_for(lambda: len(running()) == 1, f"a running job before {interrupt}", 300)
        cluster.wait_for(lambda least=20 * restarts - 19: epochs() >= least, f"epochs before {interrupt}", 1200)
        job = running()["id"].item()
        subprocess.run(interrupt.replace("JOB", job), shell=True, cwd=tmp_path, env=slurm, check=True)
        restarted = partial(restarts_of, slurm, job, restarts)
        cluster.wait_for(restarted, f"a restart after {interrupt}", 300)
    assert snakemake.wait(1800) == 0, (folder / "again.log").read_text()[-6000:]
    said = (folder / "again.log").read_text()
    assert "Trying to restart" not in said and said.count("has been submitted") == 1  # the same job
    assert "JobState=COMPLETED" in details(slurm, job)
    assert alone.wait(1800) == 0
    refuse_other(folder / run, tmp_path / run)


def test_a_job_that_its_time_limit_stops_is_gone_on_with_by_the_next(slurm, finished, tmp_path, undisturbed):
    folder, run = finished[0], RUNS / "3"
    alone, before = undisturbed("long.yaml", "3"), set(jobs(slurm)["id"])
    command = f"{PROFILE} --configfile long.yaml --until train --retries 9 --set-resources train:runtime=1"
    done = subprocess.run(command, shell=True, cwd=folder, env=slurm, text=True, stdout=-1, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-6000:]
    found = jobs(slurm)
    states = found[~found["id"].isin(before)].sort_values("start")["state"].tolist()
    assert len(states) > 1 and set(states[:-1]) == {"TIMEOUT"} and states[-1] == "COMPLETED", states
    assert done.stdout.count("Trying to restart") == len(states) - 1
    assert alone.wait(1800) == 0
    refuse_other(folder / run, tmp_path / run)


def restarts_of(slurm: dict[str, str], job: str, count: int) -> bool:
    return f"Restarts={count} " in details(slurm, job)


GRES = "--set-resources train:gpu=0 train:gres=gpu:2"


@pytest.mark.parametrize(("options", "kind"), [("", "TresPerJob"), (GRES, "TresPerNode")], ids=["gpus", "gres"])
def test_a_run_on_two_gpus_is_one_task_and_a_cancelled_job_a_failure(slurm, finished, options, kind):
    folder, _ = finished
    before = set(jobs(slurm)["id"])
    subprocess.run("scontrol update PartitionName=low State=DOWN", shell=True, env=slurm, check=True)  # all jobs wait
    try:
        command = f"{PROFILE} --configfile wide.yaml --until train --retries 0 {options}"
        done = subprocess.Popen(
            command, shell=True, cwd=folder, env=slurm, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        cluster.wait_for(lambda: set(jobs(slurm)["id"]) > before, "a submitted job", 300)
        (job,) = set(jobs(slurm)["id"]) - before
        asked = details(slurm, job)
        assert re.search(r"NumCPUs=4 NumTasks=1 CPUs/Task=4 ", asked), asked
        assert re.search(rf"{kind}=gres:gpu:2\n", asked), asked
        time.sleep(1)
        subprocess.run(["scancel", job], env=slurm, check=True)
        said = done.communicate(timeout=600)[0]
    finally:
        subprocess.run("scontrol update PartitionName=low State=UP", shell=True, env=slurm, check=True)
    assert done.returncode == 1 and f"SLURM-job '{job}' failed, SLURM status is: 'CANCELLED'" in said, said[-4000:]
