"""A run on two nodes by profiles/slurm, on a SLURM that pretends them on this machine."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import cluster
import pandas as pd
import pytest
from test_slurm import PROFILE, copied, details, environment_of, jobs, refuse_other, restarts_of
from test_slurm import pytestmark as pytestmark

SPREAD = """base: suites/tiny.yaml
suite: spread
seeds: [1]
train: {epochs: 40, device: cpu, gpus: 2, nodes: 2}
"""
RUN = "results/spread/runs/birds/baseline/1"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[dict[str, str]]:
    with cluster.cluster(2) as environment:
        yield environment_of(environment)


def test_a_run_on_two_nodes_that_is_preempted_and_requeued_ends_as_on_one_machine(two_nodes, tmp_path):
    folder = copied(tmp_path / "spread")
    (folder / "spread.yaml").write_text(SPREAD)
    command = f"{PROFILE} --configfile spread.yaml --until"
    prepared = subprocess.run(
        f"{command} prepare", shell=True, cwd=folder, env=two_nodes, text=True, capture_output=True
    )
    assert prepared.returncode == 0, prepared.stderr[-6000:]
    alone = shutil.copytree(folder, tmp_path / "alone")
    with (folder / "said.log").open("w") as out:
        snakemake = subprocess.Popen(f"{command} train", shell=True, cwd=folder, env=two_nodes, stdout=out, stderr=out)
    epochs = lambda: (folder / RUN / "live.csv").exists() and len(pd.read_csv(folder / RUN / "live.csv"))  # noqa: E731
    running = partial(jobs, two_nodes, "--states=running", "--partition=low")
    interrupts = ("sbatch -p high --nodes=2 --ntasks-per-node=1 -c 4 --wrap true", "scontrol requeue JOB")
    for restarts, interrupt in enumerate(interrupts, 1):
        cluster.wait_for(lambda: len(running()) == 1, f"a running job before {interrupt}", 300)
        cluster.wait_for(lambda least=15 * restarts - 14: epochs() >= least, f"epochs before {interrupt}", 1200)
        job = running()["id"].item()
        asked = details(two_nodes, job)
        assert "NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 " in asked and " NodeList=node[0-1]\n" in asked, asked
        subprocess.run(interrupt.replace("JOB", job), shell=True, cwd=tmp_path, env=two_nodes, check=True)
        cluster.wait_for(partial(restarts_of, two_nodes, job, restarts), f"a restart after {interrupt}", 300)
    assert snakemake.wait(1800) == 0, (folder / "said.log").read_text()[-6000:]
    said = (folder / "said.log").read_text()
    assert "Trying to restart" not in said and said.count("has been submitted") == 1, said  # the same job
    assert "JobState=COMPLETED" in details(two_nodes, job)
    log = (folder / "results/spread/logs/train/birds-baseline-1.log").read_text()
    assert log.count("resumed after epoch") == log.count("test top-1") == 1, log
    one = "lapml train birds baseline 1 --params spread.yaml --set train.nodes=1"
    assert subprocess.run(one, shell=True, cwd=alone, env=two_nodes).returncode == 0
    refuse_other(folder / RUN, alone / RUN)
