"""Settings and paths. Both come from lapml, so that the rules and dvc.yaml cannot drift apart."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from lapml.config import load
from lapml.errors import LapmlError
from lapml.paths import DIAGNOSIS_FILES, PACK_FILES, REPORT_FILES, RUN_FILES, Paths

# The one params file: a suite is complete, so that --configfile replaces params.yaml instead of overlaying it. (The
# first: a process that Snakemake spawns gets `--configfiles` of both.)
PARAMS_FILE = shlex.quote(os.path.relpath([*workflow.overwrite_configfiles, "params.yaml"][0]))
if workflow.config_settings.config:
    raise WorkflowError("--config: settings live in params.yaml; edit it, or name a complete file with --configfile")
try:
    PARAMS = load(*shlex.split(PARAMS_FILE))
except LapmlError as error:
    raise WorkflowError(str(error)) from None
PATHS = Paths(PARAMS.suite)
# The `lapml` beside this Python, whether or not its environment is activated.
shell.prefix(f'export PATH="{Path(sys.executable).parent}:$PATH"; ')
LOGS = f"results/{PARAMS.suite}/logs"


def run_files(dataset, method, seed):
    return [str(PATHS.run(dataset, method, seed) / name) for name in RUN_FILES]


def pack_files(dataset):
    return [str(PATHS.pack(dataset) / name) for name in PACK_FILES]


def diagnosis_files(dataset):
    return [str(PATHS.diagnosis(dataset) / name) for name in DIAGNOSIS_FILES]


def report_files():
    return [str(PATHS.report / name) for name in REPORT_FILES]


def all_runs():
    return [
        path
        for dataset in PARAMS.datasets
        for method in PARAMS.all_rows()
        for seed in PARAMS.seeds
        for path in run_files(dataset, method, seed)
    ]


def diagnosed_runs(dataset):
    """Files of the runs whose nets give a diagnosis its class maps."""
    return [path for seed in PARAMS.seeds for path in run_files(dataset, PARAMS.diagnose.row, seed)]


def data_settings(dataset, *keys):
    """Settings of a data set that a stage depends on."""
    record = PARAMS.data[dataset].model_dump(mode="json")
    return {key: record[key] for key in keys}


def train_params(dataset):
    """The section train, as it is for a data set."""
    return PARAMS.of(dataset).train


def gpus(wildcards):
    """GPUs that a training job asks for: none where it runs on the CPU, so that CPU runs are not made to wait."""
    train = train_params(wildcards.dataset)
    return train.gpus * {"cpu": 0, "cuda": 1, "auto": int(shutil.which("nvidia-smi") is not None)}[train.device]


def train_threads(wildcards):
    """Cores of a training job: torch's threads, in each of its processes."""
    train = train_params(wildcards.dataset)
    return train.threads * train.gpus


def run_settings(dataset, *methods):
    """Settings that a run of these rows depends on, beside its data."""
    own = PARAMS.of(dataset)
    return {
        "view": data_settings(dataset, "view"),
        "model": own.model.model_dump(mode="json"),
        "train": own.train.model_dump(mode="json"),
        "methods": {name: own.methods[name].model_dump(mode="json") for name in methods},
    }


def tune_settings(dataset, method):
    """Settings that a study depends on: those of its runs, its own search space, and the trials."""
    tune = PARAMS.of(dataset).tune
    shared = tune.model_dump(mode="json", include={"trials", "seeds", "epochs"})
    return run_settings(dataset, method) | {"tune": shared, "space": getattr(tune, method).model_dump(mode="json")}


def diagnosis_settings(dataset):
    """Settings that a diagnosis depends on: those of its runs, how every row mixes, and its own."""
    return run_settings(dataset, *PARAMS.methods) | {
        "diagnose": PARAMS.diagnose.model_dump(mode="json"),
        "report": PARAMS.report.model_dump(mode="json", include={"confidence", "bootstrap"}),
        "seeds": PARAMS.seeds,
    }


def row_pattern(rows):
    """A wildcard constraint that lets through these rows only (no row: nothing)."""
    return "|".join(rows) or "(?!)"


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    method="[A-Za-z0-9_-]+",
    seed="[0-9]+",
