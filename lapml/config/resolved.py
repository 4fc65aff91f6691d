"""``resolve``: the settings of one run out of a suite's; and the settings in a finished run's record.

Params files are read in reading.py, the models are in schema.py.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lapml.common.recorded import Tuned, Value, checked
from lapml.config import renamed
from lapml.config.method import Method
from lapml.config.parts import UNANNOTATED, Train
from lapml.config.reading import explained
from lapml.config.schema import FORMAT, Params, Run
from lapml.config.spaces import with_values
from lapml.config.suites import find_dataset
from lapml.errors import LapmlError, expected
from lapml.files import json_object, sha256
from lapml.paths import Paths


def digest(record: Any) -> str:
    """A short, stable name for a JSON-able record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def resolve(
    params: Params,
    dataset: str,
    method: str,
    seed: int,
    tuned: dict[str, Value] | None = None,
    development: bool = False,
) -> Run:
    """The settings of one run.

    Args:
        tuned: values from the tuned file: of the keys that say 'tuned' (``m, weight, delta, quantile``), and of the paths in
            ``tune.methods`` (``train.lr``).
        development: train on ``train`` and read ``val``, as in a suite with ``eval_split: val``; otherwise train on
            ``train + val`` and read ``test``.

    Raises:
        LapmlError: unknown data set or method, a tuned value is missing or out of range, or the method would never mix.
    """
    find_dataset(params, dataset)
    values, space = tuned or {}, params.of(dataset).tune.methods.get(method, {})
    if placed := {path: value for path, value in values.items() if path in space}:
        try:
            params = with_values(params, method, placed)
            params.of(dataset, method)
        except ValueError as error:
            raise LapmlError(f"{dataset}/{method}/{seed}: {error}") from None
    run = unseeded(params, dataset, method, development)
    try:
        run.settings.refuse_unmixed(method, run.train.epochs)
    except ValueError as error:
        raise LapmlError(f"{dataset}/{method}/{seed}: {error}") from None
    settings = run.settings.model_dump()
    for key in run.settings.unresolved():
        part, name = key.split(".")
        if name not in values:
            raise LapmlError(
                f"methods.{method}.{key} is 'tuned', and there is no tuned value: run `lapml tune {dataset}` first, "
                f"or give a number with --set methods.{method}.{key}=…"
            )
        settings[part][name] = values[name]
    record = {**run.model_dump(), "seed": seed, "settings": settings}
    try:
        run = Run.model_validate(record)
        if left := run.settings.unresolved():
            raise LapmlError(
                f"{dataset}/{method}/{seed}: {left[0]}: found 'tuned' as the tuned value, expected a number"
            )
        return run
    except ValidationError as error:
        raise LapmlError(explained(f"{dataset}/{method}/{seed}", record, error)) from None


def trial_run(params: Params, dataset: str, method: str, seed: int, values: dict[str, Value]) -> Run:
    """A run of a study: on the validation split, of ``tune.epochs`` unless the epochs are tuned."""
    run = resolve(params, dataset, method, seed, values, development=True)
    tune = params.of(dataset).tune
    if "train.epochs" in tune.methods.get(method, {}):
        return run
    return run.model_copy(update={"train": run.train.shortened(tune.epochs)})


def unseeded(params: Params, dataset: str, method: str, development: bool = False) -> Run:
    """A run of seed 0 without tuned margins: what all runs of a method share, see :func:`resolve`."""
    find_dataset(params, dataset)
    if method not in params.methods:
        raise LapmlError(f"unknown method {method!r}: {expected(method, params.methods)}")
    if params.methods[method].annotated() and (reader := params.data[dataset].reader) in UNANNOTATED:
        raise LapmlError(
            f"method {method}: every image needs a box for it, and data set {dataset} (reader {reader}) has none; choose another"
        )
    params = params.of(dataset, method)
    development = development or params.eval_split == "val"
    record = {
        "suite": params.suite,
        "dataset": dataset,
        "method": method,
        "seed": 0,
        "fit": ["train"] if development else ["train", "val"],
        "evaluate": "val" if development else "test",
        "data": params.data[dataset].model_dump(),
        "model": params.model.model_dump(),
        "train": params.train.model_dump(),
        "settings": params.methods[method].model_dump(),
    }
    if params.localise and params.methods[method].localised():
        record["localise"] = params.localise.model_dump()
    try:
        return Run.model_validate(record)
    except ValidationError as error:
        raise LapmlError(explained(f"{dataset}/{method}", record, error)) from None


def settings_of(where: str | Path, record: dict[str, Any]) -> Run:
    """A run's config.json as settings, old formats included: keys that were added later have their old meaning. The place
    of its data and its device are left out.

    Raises:
        LapmlError: its format is unknown, or a key is missing, unknown or not allowed.
    """
    if not isinstance(record, dict):
        raise LapmlError(f"{where}: found {type(record).__name__}, expected a JSON object; train the run again")
    number = record.get("format", 1)
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise LapmlError(
            f"{where}: format: found {number!r}, expected 1 to {FORMAT}: a later version of lapml made this run; update lapml"
        )
    known = {key: value for key, value in record.items() if key != "format"}
    if number < 3:
        known = renamed.named(known, renamed.RUN)
    if isinstance(data := known.get("data"), dict):
        known["data"] = {**data, "source": "synthetic" if data.get("synthetic") else "packed", "overrides": {}}
    if isinstance(train := known.get("train"), dict):
        known["train"] = {**train, "device": "auto", "threads": 1}
    try:
        return Run.model_validate(known)
    except ValidationError as error:
        first = explained(str(where), known, error).partition("\n")[0]
        first = first.removesuffix("; add it").removesuffix("; remove it or correct its spelling")
        raise LapmlError(
            f"{first}; this version has other settings than the one that made the run: use that one (provenance.json names its "
            "commit), or train the run again"
        ) from None


def tuned_values(params: Params, paths: Paths, dataset: str, method: str) -> dict[str, Value] | None:
    """The values in a method's tuned file, or None for a method without tuned keys. The keys of ``tune.methods`` are tuned in
    ``tuned_methods`` alone.

    Raises:
        LapmlError: it is missing, damaged, lacks a key, or was tuned on other data than are packed now, or with other maps; or
            the suite does not tune the method.
    """
    find_dataset(params, dataset)
    space = params.of(dataset).tune.methods.get(method, {}) if method in params.tuned_methods else {}
    if method not in params.methods or not (space or params.methods[method].unresolved()):
        return None
    path = paths.tuned(dataset, method)
    tuned = method in (*params.studies(), *params.of(dataset).tune.methods)
    if not tuned and not json_object(path).get("values"):
        key = f"methods.{method}.{params.methods[method].unresolved()[0]}"
        raise LapmlError(
            f"{key} is 'tuned', and this suite does not tune {method}: list it under tuned_methods, or give a number with "
            f"--set {key}=…"
        )
    if not path.exists():
        raise LapmlError(f"{path}: no tuned values yet; run `lapml tune {dataset}` first")
    record = checked(path, json_object(path), Tuned, f"damaged; delete it and run `lapml tune {dataset}`")
    published = json_object(paths.as_published().tuned(dataset, method)) == record
    for key, folder in (("data_sha256", paths.pack(dataset)), ("localised_sha256", paths.localised(dataset))):
        if published and key == "localised_sha256":
            continue  # taken over: maps of the same settings differ between kinds of machines by rounding
        now = json_object(folder / "meta.json").get("sha256")  # a damaged one is reported where it is opened
        if now and record.get(key) not in (None, now):
            raise LapmlError(
                f"{path}: {key}: found {record[key][:12]}, expected {now[:12]} ({folder}): the values were tuned on other data "
                f"or maps; run `lapml tune {dataset}` again"
            )
    values = renamed.named(record, renamed.TUNED)["values"]
    if missing := [key for key in space if key not in values]:
        raise LapmlError(f"{path}: has no value of {missing[0]}; run `lapml tune {dataset}` again")
    return values


def study_identity(
    params: Params,
    dataset: str,
    method: str,
    frozen: dict[str, float],
    data_sha256: str,
    localised_sha256: str | None = None,
) -> dict[str, Any]:
    """Everything that a tuning study's scores depend on; the study's name is its :func:`digest`. The number of trials is not
    among it, so that a study with more of them goes on.

    Args:
        frozen: margins of an earlier study, see :func:`frozen_margins`.
        data_sha256: of the packed data.
        localised_sha256: of the maps that its runs mix by, if any.
    """
    params = params.of(dataset, method)
    space = params.tune.ranges(method)
    placeholder = {**frozen, **{name: each.tried()[0] for name, each in space.items()}}
    record = trial_run(params, dataset, method, params.tune.seeds[0], placeholder).record()
    return {
        "run": {key: value for key, value in record.items() if key not in ("format", "suite", "seed")},
        "frozen": frozen,
        "space": {name: each.recorded() for name, each in space.items()},
        **({"prune": True} if params.tune.prune else {}),
        "seeds": params.tune.seeds,
        "data_sha256": data_sha256,
        **({"localised_sha256": localised_sha256} if localised_sha256 else {}),
        **weights_file(params.model.weights),
    }


def study_names(study: dict[str, Any], trials: int, train: Train) -> tuple[str, ...]:
    """The name of a study, and those that it had in tuned files of before: with its number of trials; so too in format 2, and in
    format 1, which included device and threads."""
    counted = {**study, "trials": trials}
    before = renamed.named(counted, renamed.STUDY)
    where = {**before["run"]["train"], "device": train.device, "threads": train.threads}
    return digest(study), digest(counted), digest(before), digest({**before, "run": {**before["run"], "train": where}})


def weights_file(source: str) -> dict[str, str]:
    """Checksum of a weights file; {} for other sources."""
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    return {"weights_sha256": sha256(path)}


def frozen_margins(settings: Method, earlier: dict[str, float] | None) -> dict[str, float]:
    """The tuned values of ``margin`` that the tuning of a method starts from: those of its own open keys."""
    values = earlier or {}
    return {name: values[name] for name in ("m", "weight") if name in settings.open_names() and name in values}
