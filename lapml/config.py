"""Reading params.yaml, and ``resolve``: one run's settings out of a suite's.

An unknown key, a wrong type, NaN or a value out of range is one :class:`~lapml.errors.LapmlError` that names the file,
the key, what was found and what is allowed. The models are in schema.py.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import Paths
from lapml.rows import READING, Method
from lapml.schema import Data, Drawn, Model, Params, Range, Run, Train, View

__all__ = [
    "Data", "Drawn", "Method", "Model", "Params", "Range", "Run", "Train", "View",
    "digest", "frozen_margins", "load", "resolve", "study_identity", "tuned_values",
]  # fmt: skip


def digest(record: Any) -> str:
    """A short, stable name for a JSON-able record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def load(path: str | Path = "params.yaml", overrides: list[str] | tuple[str, ...] = ()) -> Params:
    """Read and check a params file.

    Args:
        path: a complete params file.
        overrides: ``"train.lr=0.01"`` strings, applied in order; the value is read as YAML.

    Raises:
        LapmlError: the file is missing or not YAML, an override names no key, or a value is not allowed.
    """
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LapmlError(f"{path}: no such file; run from the project's folder, or name one with --params") from None
    except (YAMLError, ValueError, IsADirectoryError) as error:
        # ValueError: bad UTF-8, impossible dates, endless integers
        raise LapmlError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise LapmlError(f"{path}: found {type(raw).__name__}, expected a mapping of sections (suite, datasets, …)")
    try:
        raw = json.loads(json.dumps(raw, default=str))  # anchors become copies: an override changes one place only
    except (TypeError, ValueError, RecursionError) as error:
        raise LapmlError(f"{path}: expected plain YAML with text keys and no anchor inside itself ({error})") from None
    for override in overrides:
        _override(raw, override)
    try:
        return Params.model_validate(raw, context=READING)
    except ValidationError as error:
        raise LapmlError(_explain(path, raw, error)) from None


def resolve(
    params: Params,
    dataset: str,
    method: str,
    seed: int,
    tuned: dict[str, float] | None = None,
    development: bool = False,
) -> Run:
    """The settings of one run.

    Args:
        tuned: values for the keys that say 'tuned' (``m, alpha, delta, quantile``), from the tuned file.
        development: train on ``train`` and read ``val``, as in a suite with ``read: val``; otherwise train on
            ``train + val`` and read ``test``.

    Raises:
        LapmlError: unknown data set or method, or a tuned value is missing or out of range.
    """
    for key, name, known in (("data set", dataset, params.data), ("method", method, params.methods)):
        if name not in known:
            raise LapmlError(f"unknown {key} {name!r}: expected one of {', '.join(known)}")
    params = params.of(dataset, method)
    development = development or params.read == "val"
    settings = params.methods[method].model_dump()
    for key in params.methods[method].unresolved():
        part, name = key.split(".")
        if name not in (tuned or {}):
            raise LapmlError(
                f"methods.{method}.{key} is 'tuned', and no tuned value is at hand: run `lapml tune {dataset}` first, "
                f"or give a number with --set methods.{method}.{key}=…"
            )
        settings[part][name] = tuned[name]
    record = {
        "suite": params.suite,
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "fit": ["train"] if development else ["train", "val"],
        "evaluate": "val" if development else "test",
        "data": params.data[dataset].model_dump(),
        "model": params.model.model_dump(),
        "train": params.train.model_dump(),
        "settings": settings,
    }
    try:
        run = Run.model_validate(record)
        if left := run.settings.unresolved():
            raise LapmlError(
                f"{dataset}/{method}/{seed}: {left[0]}: found 'tuned' as the tuned value, expected a number"
            )
        return run
    except ValidationError as error:
        raise LapmlError(_explain(f"{dataset}/{method}/{seed}", record, error)) from None


def tuned_values(params: Params, paths: Paths, dataset: str, method: str) -> dict[str, float] | None:
    """What the tuned file of a row says, or None for a row without tuned keys."""
    if method not in params.methods or not params.methods[method].unresolved():
        return None
    path = paths.tuned(dataset, method)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["values"]
    except FileNotFoundError:
        raise LapmlError(f"{path}: no tuned margins yet; run `lapml tune {dataset}` first") from None
    except (ValueError, KeyError):
        raise LapmlError(f"{path}: damaged; delete it and run `lapml tune {dataset}`") from None


def study_identity(
    params: Params, dataset: str, method: str, frozen: dict[str, float], data_sha256: str
) -> dict[str, Any]:
    """Everything that a tuning study's scores depend on; the study's name is its :func:`digest`.

    Args:
        frozen: what an earlier study found, see :func:`frozen_margins`.
        data_sha256: of the packed data.
    """
    params = params.of(dataset, method)
    space = getattr(params.tune, method)
    placeholder = {**frozen, **{name: each.low for name, each in space}}
    run = resolve(params, dataset, method, params.tune.seeds[0], placeholder, development=True)
    record = run.model_copy(update={"train": run.train.shortened(params.tune.epochs)}).record()
    return {
        "run": {key: value for key, value in record.items() if key not in ("suite", "seed")},
        "frozen": frozen,
        "space": space.model_dump(),
        "trials": params.tune.trials,
        "seeds": params.tune.seeds,
        "data_sha256": data_sha256,
        **_weights_file(params.model.weights),
    }


def _weights_file(source: str) -> dict[str, str]:
    """What a weights file holds, by checksum: its path says nothing of it."""
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    return {"weights_sha256": sha256(path)}


def frozen_margins(settings: Method, earlier: dict[str, float] | None) -> dict[str, float]:
    """What the tuning of a row takes over from the values that ``margin`` was tuned to: those of its own open keys."""
    return {name: earlier[name] for name in ("m", "alpha") if name in settings.open_names() and name in (earlier or {})}


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    where: Any = raw
    *parents, last = key.strip().split(".")
    for part in parents:
        where = where.get(part) if isinstance(where, dict) else None
    if not equals or not isinstance(where, dict) or last not in where:
        known = ", ".join(where) if isinstance(where, dict) else "nothing below it"
        raise LapmlError(f"--set {override}: expected KEY=VALUE with a key of the params file; here are: {known}")
    try:
        where[last] = YAML(typ="safe", pure=True).load(text)
        json.dumps(where[last], default=str)
    except (YAMLError, TypeError, ValueError, RecursionError):
        raise LapmlError(f"--set {override}: the value is not plain YAML") from None


def _explain(where: str | Path, raw: Any, error: ValidationError) -> str:
    """A line a mistake: file, key, found, expected (the alternatives of a union together)."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        key = ".".join(_keys(raw, item["loc"], item["type"] == "missing"))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":  # ours: already says what was found
            line = message
        elif item["type"] == "union_tag_invalid":
            tag = item["ctx"]
            line = f"{tag['discriminator']}: found {tag['tag']!r}, expected one of {tag['expected_tags']}"
        elif item["type"] == "missing":
            line = "missing; add it"
        elif item["type"] == "extra_forbidden":
            line = "unknown key; remove it or mend its spelling"
        else:
            line = f"found {item['input']!r}, expected: {message[0].lower() + message[1:]}"
        known = lines.setdefault(key, [])
        known.append(line if not known else line.partition("expected: ")[2] or line)
    return "\n".join(f"{where}: {key + ': ' if key else ''}{', or '.join(line)}" for key, line in lines.items())


def _keys(raw: Any, loc: tuple[int | str, ...], missing: bool) -> list[str]:
    """The keys of a pydantic location, without the names of union members that it also holds.

    Args:
        missing: the last key is one that is not there.
    """
    keys = []
    for at, part in enumerate(loc):
        inside = isinstance(raw, dict) and part in raw or isinstance(raw, list) and isinstance(part, int)
        if inside or (missing and at == len(loc) - 1):
            keys.append(str(part))
            raw = raw[part] if inside else None
    return keys
