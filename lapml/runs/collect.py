"""Read the runs of a suite, and refuse those that were not made by its settings.

Either orchestrator can leave results that no longer belong to params.yaml (a file restored from a cache, an edit after
the fact), so tables are made only of runs whose own records fit.
"""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lapml import config
from lapml.common.recorded import Provenance, Tuned, checked, read_json
from lapml.config import Params
from lapml.config.renamed import TUNED, named
from lapml.config.tuning import ADAPTIVE, MARGIN
from lapml.data.fetch.sources import refuse_other
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import READS, RUN_FILES, Paths
from lapml.runs.records import differences, history_of, parquet, predictions, refuse, scores

ACCURACIES = ("top1", "top5", "mean_class", "recall1", "recall5")  # percent
SCALED = ("loss_scaled", "ece_scaled", "temperature")  # null for fewer than ten images
METRICS = (*ACCURACIES, "n", "loss", "ece", "brier", *SCALED, "images_forward", "images_backward", "seconds")
PROVENANCE = (
    "command", "commit", "dirty", "data_sha256", "localised_sha256", "weights", "versions", "device", "precision", "threads",
    "started", "finished", "seconds", "peak_memory_bytes", "resumed", "test_reads",
)  # fmt: skip
LATER = ("localised_sha256", "ece", "brier", *SCALED)  # of METRICS and PROVENANCE: added later, empty for older runs
NULLABLE = ("top5", "recall1", "recall5", *SCALED)  # null where nothing can be missed, see lapml.runs.evaluate
UNREAD = ("model.safetensors",)  # large, not needed for tables
CURVES = ("loss", "accuracy")  # columns of history.csv that every method has


def collect(params: Params, paths: Paths, optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """All runs of a suite, checked against its settings: one row per (dataset, method, seed), in the suite's order.

    Columns: dataset, method, seed; the metrics (percent, images, seconds of training); ``m, weight, scale, delta, quantile``
    (empty if a method has none); ``recall_left_out`` (images that R@K leaves out);
    ``weights_name, weights_sha256``, ``run_seconds`` and the rest of provenance.json
    (``versions`` as JSON).

    Args:
        optional: files that may be missing, such as :data:`UNREAD` of published runs.

    Raises:
        LapmlError: lists every run that is missing, half written, made with other settings, other data or other
            weights, or evaluated on other images than the others, and the keys in which it differs.
    """
    rows: dict[str, list[dict[str, Any]]] = {dataset: [] for dataset in params.datasets}
    faults: dict[str, list[str]] = {dataset: [] for dataset in params.datasets}
    for job, found in examined(params, paths, optional):
        if isinstance(found, Untuned):
            faults[job.dataset] += [str(found)] if str(found) not in faults[job.dataset] else []
        elif isinstance(found, LapmlError):
            faults[job.dataset] += [f"{job}: {line}" for line in str(found).splitlines()]
        else:
            rows[job.dataset].append(found)
    for dataset in params.datasets:
        faults[dataset] += one_origin(params, rows[dataset], paths.pack(dataset) / "meta.json")
    refuse([line for lines in faults.values() for line in lines], params)
    predictions(params, paths)
    return pd.DataFrame([row for of_dataset in rows.values() for row in of_dataset])


class Job(NamedTuple):
    """One run of a suite."""

    dataset: str
    method: str
    seed: int

    def __str__(self) -> str:
        return "/".join(map(str, self))


class Untuned(LapmlError):
    """A method has no tuned margins to check its runs with."""


def examined(
    params: Params, paths: Paths, optional: tuple[str, ...] = ()
) -> Iterator[tuple[Job, dict[str, Any] | LapmlError]]:
    """Each run of a suite, in its order, and its row of :func:`collect`, or the error; ``optional``: files that may be missing.

    Raises:
        LapmlError: the fetched or packed data are not those of the settings.
    """
    for dataset in params.datasets:
        refuse_other(dataset, params.data[dataset], paths)
    for dataset in params.datasets:
        for method in params.all_methods():
            failed = values = None
            try:
                if method in params.tuned_methods:
                    values = tuned_record(params, paths, dataset, method)["values"]
                config.resolve(params, dataset, method, params.seeds[0], tuned=values)
            except LapmlError as error:
                failed = Untuned(str(error))
            for seed in params.seeds:
                job = Job(dataset, method, seed)
                if failed:
                    yield job, failed
                    continue
                try:
                    found = _run(paths.run(*job), config.resolve(params, *job, tuned=values).record(), optional)
                    yield job, job._asdict() | found
                except LapmlError as error:
                    yield job, error


def histories(params: Params, paths: Paths) -> pd.DataFrame:
    """The epochs of every run: dataset, method, seed and the columns of history.csv (NaN where empty)."""
    parts = []
    for dataset in params.datasets:
        for method in params.all_methods():
            for seed in params.seeds:
                history = pd.read_csv(paths.run(dataset, method, seed) / "history.csv")
                parts.append(history.assign(dataset=dataset, method=method, seed=seed))
    return pd.concat(parts, ignore_index=True)


def studies(params: Params, paths: Paths, dataset: str) -> dict[str, dict[str, Any]]:
    """{method: tuned file} of a data set: those that its tables take values from; then those of other methods of ``tune.methods``
    whose study is made, with these settings."""
    found = {name: tuned_record(params, paths, dataset, name) for name in params.tuned_methods}
    for name in params.of(dataset).tune.methods:
        if name not in found and paths.tuned(dataset, name).is_file():
            with suppress(LapmlError):
                found[name] = tuned_record(params, paths, dataset, name)
    return found


def tuned_record(params: Params, paths: Paths, dataset: str, method: str) -> dict[str, Any]:
    """The tuned file of a method that is searched, whether the tables take its values or not.

    Raises:
        LapmlError: it is missing, damaged, of another method, or was tuned with other seeds, epochs or data.
    """
    path = paths.tuned(dataset, method)
    record = _read_tuned(path, dataset)
    if (found := (record.get("dataset"), record.get("method"))) != (dataset, method):
        raise LapmlError(f"{path}: found the tuned values of {found}, expected those of {(dataset, method)}")
    params = params.of(dataset)
    asked = {"seeds": params.tune.seeds, "epochs": params.tune.epochs}
    if faults := differences({key: record.get(key) for key in asked}, asked):
        raise LapmlError(f"{path}: {'; '.join(faults)} (tune)")
    meta = paths.pack(dataset) / "meta.json"
    if meta.exists() and (packed := read_json(meta).get("sha256")) != record.get("data_sha256"):
        raise LapmlError(f"{path}: data_sha256: found {record.get('data_sha256')}, expected {packed} ({meta})")
    follows = method == ADAPTIVE and params.starts_from_margin()
    earlier = _read_tuned(paths.tuned(dataset, MARGIN), dataset)["values"] if follows else None
    frozen = config.frozen_margins(params.methods[method], earlier)
    made_of = (record.get(name) for name in ("data_sha256", "localised_sha256"))
    study = config.study_identity(params, dataset, method, frozen, *made_of)
    trials = len(record.get("trials", []))
    names = config.study_names(study, trials, params.of(dataset, method).train)
    if record.get("study") not in names:
        raise LapmlError(
            f"{path}: study: found {record.get('study')}, expected {names[0]}: the settings of its runs, its search range or "
            "the margins it started from have changed"
        )
    if trials != params.tune.trials:
        raise LapmlError(
            f"{path}: found {trials} trials, expected {params.tune.trials} (tune.trials); run `lapml tune {dataset}`, which keeps "
            "those that are made"
        )
    for name, each in params.searched(method).items():
        for values in (made["values"] for made in [record, *record.get("trials", [])]):
            if not each.fits(values.get(name)):
                said = f"{path}: values: {name}: found {values.get(name)!r}, expected a value of its range"
                raise LapmlError(f"{said}; {_retune_advice(dataset)}")
    return record


def _read_tuned(path: Path, dataset: str) -> dict[str, Any]:
    return named(checked(path, read_json(path), Tuned, _retune_advice(dataset)), TUNED)


def _run(folder: Path, expected: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """One run as a row of the table; raises LapmlError with one line per fault."""
    faults = [f"{name}: missing" for name in RUN_FILES if name not in optional and not (folder / name).is_file()]
    faults += [
        f"{name}: empty (half written?)" for name in RUN_FILES
        if (folder / name).is_file() and not (folder / name).stat().st_size
    ]  # fmt: skip
    if faults:
        raise LapmlError("\n".join(faults))
    record, metrics, origin = (
        read_json(folder / name, name) for name in ("config.json", "metrics.json", "provenance.json")
    )
    checked("provenance.json", origin, Provenance, "train the run again")
    try:
        found = config.settings_of("config.json", record).record()
        faults += [f"config.json: {line}" for line in differences(found, expected)]
    except LapmlError as error:
        faults.append(str(error))
    faults += [
        f"metrics.json: {name}: found {str(metrics.get(name))[:80]}, expected a finite number" for name in METRICS
        if not _is_valid(name, metrics.get(name)) and (name in metrics or name not in LATER)
        and not (name in NULLABLE and name in metrics and metrics[name] is None)
    ]  # fmt: skip
    if metrics.get("split") != expected["evaluate"]:
        faults.append(f"metrics.json: split: found {metrics.get('split')!r}, expected {expected['evaluate']!r}")
    faults += [f"provenance.json: {name}: missing" for name in PROVENANCE if name not in origin and name not in LATER]
    faults += [
        f"{name}: is not the file that this run wrote (checksum differs from provenance.json)"
        for name, checksum in (origin.get("files") or {}).items()
        if name not in UNREAD and sha256(folder / name) != checksum
    ]
    gpus = expected["train"]["gpus"]
    if (count := origin.get("processes", gpus)) != gpus:
        faults.append(f"provenance.json: processes: found {count}, expected {gpus} (train.gpus)")
    faults += history_of(folder / "history.csv", CURVES, expected["train"]["epochs"])
    try:
        table = parquet(folder / "predictions.parquet")
    except LapmlError as error:
        faults.append(str(error))
    if faults:
        raise LapmlError("\n".join(faults))
    accuracies, faults = scores(metrics, table, origin.get("class_names"))
    if faults:
        raise LapmlError("\n".join(faults))
    margin, adaptive = (expected["settings"].get(name) or {} for name in ("margin", "adaptive"))
    weights = origin["weights"] or {}
    row = {name: metrics.get(name, math.nan) for name in METRICS} | accuracies
    row |= {name: section.get(name) for section, names in ((margin, ("m", "weight", "scale")), (adaptive, ("delta", "quantile")))
            for name in names}  # fmt: skip
    row |= {"weights_name": weights.get("name"), "weights_sha256": weights.get("sha256")}
    row |= {name: origin.get(name) for name in PROVENANCE if name not in ("weights", "seconds", "versions")}
    if (reads := folder / READS).is_file():  # with later readings
        row["test_reads"] = len(reads.read_text(encoding="utf-8").splitlines())
    return row | {"run_seconds": origin["seconds"], "versions": json.dumps(origin["versions"], sort_keys=True)}


def _retune_advice(dataset: str) -> str:
    return f"delete it and run `lapml tune {dataset}`"


def _is_valid(name: str, value: Any) -> bool:
    """Whether the value of a metric is a number in its range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**63) <= value < 2**63:
        return False
    return (0 <= value <= 100 or name not in ACCURACIES) and (name != "n" or isinstance(value, int))


def one_origin(params: Params, rows: list[dict[str, Any]], meta: Path) -> list[str]:
    """Faults of runs made from other data than the packed, from other weights than the file that ``model.weights`` names, or from
    other data or weights than the first run; weights are those of one model (methods may override it). (Object maps of the same
    settings may differ by rounding between machines: reports say so.)
    """
    faults = []
    packed = read_json(meta).get("sha256") if meta.exists() else None
    first: dict[tuple[str, ...], tuple[Any, object]] = {("data_sha256",): (packed, meta)} if packed else {}
    for key in ("data_sha256", "weights_sha256"):
        for row in rows:
            name = f"{row['dataset']}/{row['method']}/{row['seed']}"
            model = params.of(row["dataset"], row["method"]).model
            alike = (key, model.name, model.weights) if key == "weights_sha256" else (key,)
            if alike not in first:
                given = config.weights_file(model.weights) if key == "weights_sha256" else {}
                first[alike] = (given[key], model.weights) if given else (row[key], f"as in {name}")
            expected, source = first[alike]
            if row[key] != expected:
                faults.append(f"{name}: provenance.json: {key}: found {row[key]}, expected {expected} ({source})")
    return faults
