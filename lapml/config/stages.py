"""The settings that each stage of a data set depends on, by which both orchestrators decide what to run again.

A stage runs again when its resolved settings change, whichever key or file they come from. Device, threads and the path of
the params file are not among them.
"""

from pathlib import Path
from typing import Any

from lapml.config import Params, Run, unseeded, weights_file
from lapml.config.tuning import ADAPTIVE, MARGIN
from lapml.files import scratch, write_json
from lapml.paths import Paths


def settings(params: Params, dataset: str) -> dict[str, Any]:
    """{name: settings}: ``fetch``, ``prepare``, ``localise`` (None if no method mixes by its maps), ``runs/METHOD`` of every
    method of the tables, ``studies/METHOD`` of those that can be tuned (None if they are not), and ``diagnosis``.
    All are JSON."""
    resolved = params.of(dataset)
    runs = {method: _run(unseeded(params, dataset, method)) for method in params.all_methods()}
    localise = resolved.localise if params.localising() else None
    made: dict[str, Any] = {
        "fetch": resolved.data[dataset].fetching(),
        "prepare": resolved.data[dataset].packing(),
        "localise": None,
        "diagnosis": {
            "run": runs[params.diagnose.method],
            "seeds": params.seeds,
            "diagnose": params.diagnose.recorded(),
            "report": params.report.recorded(include={"confidence", "bootstrap"}),
            "methods": {
                name: method.always_mixing().recorded(include={"mix", "mixer", "label"})
                for name, method in params.methods.items()
            },
        },
    }
    if localise:
        splits = {"splits": params.localised_splits()}
        made["localise"] = {"settings": localise.recorded(), **splits, **weights_file(localise.weights)}
        made["diagnosis"]["localise"] = made["localise"]
    if not params.report.images:  # the gallery then shows none; recorded only if false, as in old records
        made["diagnosis"]["report"]["images"] = False
    made |= {f"runs/{method}": record for method, record in runs.items()}
    for method in dict.fromkeys([MARGIN, ADAPTIVE, *resolved.tune.methods]):
        if method not in (*params.studies(), *resolved.tune.methods):
            made[f"studies/{method}"] = None  # DVC's stage exists anyway
            continue
        # without the margins of an earlier study, a dependency of their own
        trial = unseeded(params, dataset, method, development=True)
        trial = trial.model_copy(update={"train": trial.train.shortened(resolved.tune.epochs)})
        made[f"studies/{method}"] = {
            "run": _run(trial),
            "tune": resolved.tune.recorded(include={"trials", "seeds", "epochs", "prune"}),
            "space": {name: each.recorded() for name, each in resolved.tune.ranges(method).items()},
        }
    return made


def _run(run: Run) -> dict[str, Any]:
    """What all runs of a method share; tuned margins read 'tuned'."""
    record = {key: value for key, value in run.record().items() if key not in ("format", "seed")}
    return record | weights_file(run.model.weights)


def by_maps(params: Params) -> dict[str, bool]:
    """Whether each method of the params file mixes by the maps of ``localise``; DVC has stages of the two margins anyway."""
    asking = {name: bool(method.localised()) for name, method in params.methods.items()}
    return {MARGIN: False, ADAPTIVE: False, **asking}


def write(params: Params, paths: Paths, dataset: str) -> Path:
    """Write :func:`settings` of a data set, one file each; returns the folder, which appears whole.

    In localise.json they are ``stage``, beside :func:`by_maps` as ``methods``: DVC's stage `localise` also writes a file for each
    method, on which the method's runs depend.
    """
    folder = paths.settings(dataset)
    made = settings(params, dataset)
    made["localise"] = {"stage": made["localise"], "methods": by_maps(params)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.with_name(f".{folder.name}.partial")) as partial:
        for name, record in made.items():
            write_json(partial / f"{name}.json", record)
        with scratch(folder.with_name(f".{folder.name}.old")) as old:
            if folder.exists():
                folder.rename(old / folder.name)
            partial.rename(folder)
    return folder
