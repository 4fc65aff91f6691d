"""Settings and paths. Both come from lapml, so that the rules and dvc.yaml cannot drift apart."""

import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

from lapml.config import load, stages
from lapml.errors import LapmlError
from lapml.paths import DIAGNOSIS_FILES, PACK_FILES, REPORT_FILES, RUN_FILES, Paths

# Only the path of --configfile is taken: lapml itself puts an overlay over its base. Snakemake could not clear a section.
FILES = list(dict.fromkeys(workflow.overwrite_configfiles))
if len(FILES) > 1:
    raise WorkflowError(f"--configfile: found {' '.join(map(str, FILES))}, expected one; let the second begin with `base: {FILES[0]}`")
if workflow.config_settings.config:
    raise WorkflowError("--config: settings live in params.yaml; edit it, or give --configfile an overlay of your own (`base: …`)")
if any(method.name == "APPTAINER" for method in workflow.deployment_settings.deployment_method):
    raise WorkflowError("--software-deployment-method apptainer: found, expected none: jobs run in the environment that Snakemake runs in")
PARAMS_FILE = shlex.quote(os.path.relpath([*FILES, "params.yaml"][0]))
try:
    PARAMS = load(*shlex.split(PARAMS_FILE))
except LapmlError as error:
    raise WorkflowError(str(error)) from None
PATHS = Paths(PARAMS.suite)
# The `lapml` beside this Python, whether or not its environment is activated.
# SLURM requeues a job that it preempts only if the job is still there when the time of grace is over: having saved its state at
# SIGTERM (status 75), it stays until SLURM ends it.
IN_JOB = "SLURM_JOB_ID" in os.environ and not workflow.is_main_process  # not where Snakemake itself runs in a job, by hand
STAYS = "trap : TERM; trap 'test $? != 75 || sleep 600' EXIT; " if IN_JOB else ""
shell.prefix(f'export PATH="{Path(sys.executable).parent}:$PATH"; {STAYS}')
LOGS = f"results/{PARAMS.suite}/logs"


def params_file(wildcards, threads):
    """The path for --params. It asks for `threads`, by which Snakemake takes it for how a job runs and not for what it makes:
    the same settings by another path run nothing again."""
    return PARAMS_FILE


def params_and_replace(wildcards, threads):
    """The same for a job that trains: what it replaces after a change of settings, is kept beside (SEED.old-1)."""
    return f"{PARAMS_FILE} --replace"


def run_files(dataset, method, seed):
    return [str(PATHS.run(dataset, method, seed) / name) for name in RUN_FILES]


def pack_files(dataset):
    return [str(PATHS.pack(dataset) / name) for name in PACK_FILES]


def maps_of(dataset, *methods):
    """The maps of a data set, if one of these methods mixes by them (of none: if any of the suite does)."""
    return [PATHS.localised(dataset)] if set(methods or PARAMS.localising()) & set(PARAMS.localising()) else []


def diagnosis_files(dataset):
    return [str(PATHS.diagnosis(dataset) / name) for name in DIAGNOSIS_FILES]


def report_files():
    return [str(PATHS.report / name) for name in REPORT_FILES]


@cache
def settings_of(dataset):
    """What each stage of a data set depends on, resolved. It is the `params` of its job, which runs again where they change."""
    return stages.settings(PARAMS, dataset)


def train_params(dataset):
    """The section train, as it is for a data set."""
    return PARAMS.of(dataset).train


def gpus(wildcards):
    """GPUs that a training job asks for, by its settings alone: where it runs is not known here. `auto` asks for them as well."""
    train = train_params(wildcards.dataset)
    return 0 if train.device == "cpu" else train.gpus


def nodes(wildcards):
    """Machines of a cluster that a training job's processes are spread over."""
    return train_params(wildcards.dataset).nodes


def over_nodes(value):
    """A resource that only a job of several nodes asks for, by the settings of its training."""

    def resource(wildcards):
        train = train_params(wildcards.dataset)
        return value(train) if train.nodes > 1 else None

    return resource


def gpus_here(wildcards):
    """GPUs of a training job on one machine. One on several asks for the same number on each (gres), which a sum does not say."""
    return gpus(wildcards) if nodes(wildcards) == 1 else 0


# What a job of several nodes asks for besides, in the words of Snakemake's plugin for SLURM: one task on each, which the job's command
# starts by srun itself (lapml/common/ranks.py), as programs of MPI do.
OVER_NODES = dict(
    tasks=over_nodes(lambda train: train.nodes),
    tasks_per_gpu=over_nodes(lambda train: 0),
    mpi=over_nodes(lambda train: "srun"),
    gres=over_nodes(lambda train: None if train.device == "cpu" else f"gpu:{train.gpus // train.nodes}"),
)


# A limit on GPUs is for machines that have some. Without any, where jobs run here and not on a cluster, `auto` means the CPU, and
# its jobs do not wait for one another.
if shutil.which("nvidia-smi") is None and workflow.resource_settings.nodes is None:
    workflow.register_resource("gpu", sys.maxsize)


def train_threads(wildcards):
    """Cores of a training job, on each of its nodes: torch's threads, in each of its processes."""
    train = train_params(wildcards.dataset)
    return train.threads * train.gpus // train.nodes


def method_pattern(methods):
    """A wildcard constraint that lets through these methods only (none: nothing)."""
    return "|".join(methods) or "(?!)"


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    method="[A-Za-z0-9_-]+",
    seed="[0-9]+",
