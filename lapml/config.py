"""Reading a params file, and ``resolve``: one run's settings out of a suite's.

An unknown key, a wrong type, NaN or a value out of range is one :class:`~lapml.errors.LapmlError` that names the file,
the key, what was found and what is allowed. The models are in schema.py.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lapml import overlays
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import Paths
from lapml.rows import READING, Method
from lapml.schema import FORMAT, WHERE, Data, Drawn, Model, Params, Range, Run, Train, View, merged

__all__ = [
    "Data", "Drawn", "Method", "Model", "Params", "Range", "Run", "Train", "View",
    "digest", "frozen_margins", "load", "resolve", "settings_of", "study_identity", "study_names", "tuned_values",
    "unseeded", "weights_file",
]  # fmt: skip


def digest(record: Any) -> str:
    """A short, stable name for a JSON-able record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def load(path: str | Path = "params.yaml", overrides: list[str] | tuple[str, ...] = ()) -> Params:
    """Read and check a params file.

    Args:
        path: a complete params file, or an overlay (overlays.py).
        overrides: ``"train.lr=0.01"`` strings, applied in order; the value is read as YAML.

    Raises:
        LapmlError: the file is missing or not YAML, an override names no key, or a value is not allowed.
    """
    found = overlays.layers(Path(path))
    raw = overlays.merged(found)
    for override in overrides:
        _override(raw, override)
    try:
        return Params.model_validate(expanded(raw), context=READING)
    except ValidationError as error:
        raise LapmlError(_explain(found, raw, error)) from None


def expanded(raw: dict[str, Any]) -> dict[str, Any]:
    """Raw settings in which every data set and method has the keys that it takes from `defaults` too; those that it has
    itself come first. Whatever is not of the expected form is left for the models to refuse.
    """
    defaults = _section(raw, "defaults")

    def refined(shared: Any, own: Any) -> Any:
        return merged(shared, own) if isinstance(shared, dict) and isinstance(own, dict) else own

    def method(own: Any) -> Any:
        if not isinstance(own, dict):
            return own
        made = {
            key: refined(defaults.get(key), value) if key in ("margin", "adaptive") else value
            for key, value in own.items()
        }
        if isinstance(mixer := own.get("mixer"), dict):
            mixers = _section(defaults, "mixers")
            made["mixer"] = refined(
                mixers.get(mixer.get("name")) if isinstance(mixer.get("name"), str) else None, mixer
            )
            made["mix"] = refined(defaults.get("mix"), own.get("mix", {}))
        return made

    own = {name: refined(defaults.get("data"), section) for name, section in _section(raw, "data").items()}
    methods = {name: method(section) for name, section in _section(raw, "methods").items()}
    return {**raw, **({"data": own} if own else {}), **({"methods": methods} if methods else {})}


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return section if isinstance(section := raw.get(key), dict) else {}


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
    run = unseeded(params, dataset, method, development)
    settings = run.settings.model_dump()
    for key in run.settings.unresolved():
        part, name = key.split(".")
        if name not in (tuned or {}):
            raise LapmlError(
                f"methods.{method}.{key} is 'tuned', and no tuned value is at hand: run `lapml tune {dataset}` first, "
                f"or give a number with --set methods.{method}.{key}=…"
            )
        settings[part][name] = tuned[name]
    record = {**run.model_dump(), "seed": seed, "settings": settings}
    try:
        run = Run.model_validate(record)
        if left := run.settings.unresolved():
            raise LapmlError(
                f"{dataset}/{method}/{seed}: {left[0]}: found 'tuned' as the tuned value, expected a number"
            )
        return run
    except ValidationError as error:
        raise LapmlError(_explain(f"{dataset}/{method}/{seed}", record, error)) from None


def unseeded(params: Params, dataset: str, method: str, development: bool = False) -> Run:
    """A run of seed 0 whose tuned margins are not in place yet: what all runs of a method are, see :func:`resolve`."""
    for key, name, known in (("data set", dataset, params.data), ("method", method, params.methods)):
        if name not in known:
            raise LapmlError(f"unknown {key} {name!r}: expected one of {', '.join(known)}")
    params = params.of(dataset, method)
    development = development or params.read == "val"
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
    try:
        return Run.model_validate(record)
    except ValidationError as error:
        raise LapmlError(_explain(f"{dataset}/{method}", record, error)) from None


def settings_of(where: str | Path, record: dict[str, Any]) -> Run:
    """A run's config.json as settings, by meaning: keys that joined later are as they were before. Where its data lay and
    what it was computed by are not among them, and no longer matter.

    Raises:
        LapmlError: it is of a format that is not known here, a key is missing, or one is unknown or not allowed.
    """
    if not isinstance(record, dict):
        raise LapmlError(f"{where}: found {type(record).__name__}, expected a JSON object; train the run again")
    number = record.get("format", 1)
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise LapmlError(
            f"{where}: format: found {number!r}, expected 1 to {FORMAT}: a later version of lapml made this run; update lapml"
        )
    known = {key: value for key, value in record.items() if key != "format"}
    if isinstance(data := known.get("data"), dict):
        known["data"] = {**data, "source": "drawn" if data.get("drawn") else "packed", "overrides": {}}
    if isinstance(train := known.get("train"), dict):
        known["train"] = {**train, "device": "auto", "threads": 1}
    try:
        return Run.model_validate(known)
    except ValidationError as error:
        first = _explain(str(where), known, error).partition("\n")[0]
        first = first.removesuffix("; add it").removesuffix("; remove it or mend its spelling")
        raise LapmlError(
            f"{first}; this version has other settings than the one that made the run: use that one (provenance.json names its "
            "commit), or train the run again"
        ) from None


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
        "run": {key: value for key, value in record.items() if key not in ("format", "suite", "seed")},
        "frozen": frozen,
        "space": space.recorded(),
        "trials": params.tune.trials,
        "seeds": params.tune.seeds,
        "data_sha256": data_sha256,
        **weights_file(params.model.weights),
    }


def study_names(study: dict[str, Any], train: Train) -> tuple[str, str]:
    """The name of a study, and the one that it had when its runs' records were of format 1 and named device and threads."""
    run = study["run"]
    before = {**run, "train": {**run["train"], **{name: getattr(train, name) for name in WHERE}}}
    return digest(study), digest({**study, "run": before})


def weights_file(source: str) -> dict[str, str]:
    """What a weights file holds, by checksum: its path says nothing of it."""
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    return {"weights_sha256": sha256(path)}


def frozen_margins(settings: Method, earlier: dict[str, float] | None) -> dict[str, float]:
    """What the tuning of a row takes over from the values that ``margin`` was tuned to: those of its own open keys."""
    return {name: earlier[name] for name in ("m", "alpha") if name in settings.open_names() and name in (earlier or {})}


def _override(raw: dict[str, Any], override: str) -> None:
    """Put one --set in place. A key that a data set or method takes from `defaults` is refined for that one alone."""
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    inherited, where = expanded(raw), raw
    for part in parents:
        inherited = inherited.get(part) if isinstance(inherited, dict) else None
    if not equals or not isinstance(inherited, dict) or last not in inherited:
        known = ", ".join(inherited) if isinstance(inherited, dict) else "nothing below it"
        raise LapmlError(f"--set {override}: expected KEY=VALUE with a key of the params file; here are: {known}")
    for part in parents:
        where = where.setdefault(part, {})
    try:
        where[last] = YAML(typ="safe", pure=True).load(text)
        json.dumps(where[last], default=str)
    except (YAMLError, TypeError, ValueError, RecursionError):
        raise LapmlError(f"--set {override}: the value is not plain YAML") from None


def _shared(raw: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The key below `defaults` that a key of a data set or method takes its value from, where it has none of its own."""
    match path:
        case ("data", _, *rest):
            return ("defaults", "data", *rest)
        case ("methods", name, "mixer", *rest):
            mixer = _section(_section(_section(raw, "methods"), name), "mixer").get("name")
            return ("defaults", "mixers", str(mixer), *rest)
        case ("methods", _, ("mix" | "margin" | "adaptive") as part, *rest):
            return ("defaults", part, *rest)
    return None


def _said(path: tuple[str, ...] | None, lines: Collection[tuple[str, ...]]) -> bool:
    """Whether there is a line for a key already, or for a section that holds it."""
    return path is not None and any(path[:end] in lines for end in range(1, len(path) + 1))


def _written(raw: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """Where a key stands: there, or below `defaults`, if it is only there."""
    shared = None if _has(raw, path) else _shared(raw, path)
    return shared if shared and _has(raw, shared) else path


def _has(raw: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if isinstance(raw, list) and part.isdecimal() and int(part) < len(raw):
            raw = raw[int(part)]
        elif isinstance(raw, dict) and part in raw:
            raw = raw[part]
        else:
            return False
    return True


def _explain(where: str | list[tuple[Path, dict[str, Any]]], raw: Any, error: ValidationError) -> str:
    """A line for each mistake: file, key, found, expected (the alternatives of a union together).

    Args:
        where: what was read, or the layers of a params file, of which the topmost that holds the key is named.
        raw: what was validated, before `defaults` were put in place.
    """
    whole = raw if isinstance(where, str) else expanded(raw)
    lines: dict[tuple[str, ...], list[str]] = {}
    for item in error.errors():
        key = _written(raw, tuple(_keys(whole, item["loc"], item["type"] == "missing")))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":  # ours: already says what was found
            line = message
        elif item["type"] == "union_tag_invalid":
            tag = item["ctx"]
            line = f"{tag['discriminator']}: found {tag['tag']!r}, expected one of {tag['expected_tags']}"
        elif item["type"] == "missing":
            line = "missing; add it"
            if len(key) == 1 and not isinstance(where, str) and len(where) == 1:
                line += f", or begin with `{overlays.BASE}:` and the file that this one changes"
        elif item["type"] == "extra_forbidden":
            line = "unknown key; remove it or mend its spelling"
        else:
            line = f"found {item['input']!r}, expected: {message[0].lower() + message[1:]}"
        known = lines.setdefault(key, [])
        if not known:
            known.append(line)
        elif (more := line.partition("expected: ")[2] or line) not in (known[0].partition("expected: ")[2], *known):
            known.append(more)
    lines = {key: said for key, said in lines.items() if _has(raw, key) or not _said(_shared(raw, key), lines)}
    named = {key: where if isinstance(where, str) else _holder(where, key) for key in lines}
    return "\n".join(
        f"{named[key]}: {'.'.join(key) + ': ' if key else ''}{', or '.join(line)}" for key, line in lines.items()
    )


def _holder(layers: list[tuple[Path, dict[str, Any]]], key: tuple[str, ...]) -> Path:
    """The topmost file that says what a key is."""
    return next((path for path, raw in layers if _has(raw, key)), layers[0][0])


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
