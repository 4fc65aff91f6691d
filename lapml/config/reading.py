"""Reading a params file: overlays merged, `defaults` put in place, and every mistake one line.

An unknown key, a wrong type, NaN or a value out of range is one :class:`~lapml.errors.LapmlError` that names the file,
the key, what was found and what is allowed. The models are in schema.py.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lapml.config import overlays
from lapml.config.method import READING
from lapml.config.renamed import new_name
from lapml.config.schema import Params, merged
from lapml.errors import LapmlError


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
        override_in(raw, override)
    try:
        return Params.model_validate(expanded(raw), context=READING)
    except ValidationError as error:
        raise LapmlError(explained(found, raw, error)) from None


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
            made["mixer"] = refined(mixers.get(name) if isinstance(name := mixer.get("name"), str) else None, mixer)
            made["mix"] = refined(defaults.get("mix"), own.get("mix", {}))
        return made

    own = {name: refined(defaults.get("data"), section) for name, section in _section(raw, "data").items()}
    methods = {name: method(section) for name, section in _section(raw, "methods").items()}
    return {**raw, **({"data": own} if own else {}), **({"methods": methods} if methods else {})}


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return section if isinstance(section := raw.get(key), dict) else {}


def override_in(raw: dict[str, Any], override: str) -> None:
    """Put one --set in place. A key that a data set or method takes from `defaults` is refined for that one alone."""
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    inherited: Any = expanded(raw)
    where = raw
    for part in parents:
        inherited = inherited.get(part) if isinstance(inherited, dict) else None
    if not equals or not isinstance(inherited, dict) or last not in inherited:
        for end in range(1, len(parents) + 2):
            old = [*parents, last][:end]
            if new := new_name(".".join(old)):
                raise LapmlError(f"--set {override}: {'.'.join(old)} has another name now; write {new} in its place")
        known = ", ".join(inherited) if isinstance(inherited, dict) else "nothing below it"
        raise LapmlError(f"--set {override}: expected KEY=VALUE with a key of the params file; here are: {known}")
    for part in parents:
        where = where.setdefault(part, {})
    try:
        where[last] = YAML(typ="safe", pure=True).load(text)
        json.dumps(where[last], default=str)
    except (YAMLError, TypeError, ValueError, RecursionError):
        raise LapmlError(f"--set {override}: the value is not plain YAML") from None


def explained(where: str | list[tuple[Path, dict[str, Any]]], raw: Any, error: ValidationError) -> str:
    """A line for each mistake: file, key, found, expected (the alternatives of a union together).

    Args:
        where: what was read, or the layers of a params file, of which the topmost that holds the key is named.
        raw: what was validated, before `defaults` were put in place.
    """
    whole = raw if isinstance(where, str) else expanded(raw)
    lines: dict[tuple[str, ...], list[str]] = {}
    old = {(*key[:-1], new) for key in _paths(whole) if (new := new_name(".".join(key)))}
    for item in error.errors():
        key = _written(raw, tuple(_keys(whole, item["loc"], item["type"] == "missing")))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":  # ours: already says what was found
            line = message
        elif item["type"] == "missing" and key in old:
            continue  # it is there by its old name, which has a line of its own
        elif item["type"] == "missing":
            line = "missing; add it"
            if len(key) == 1 and not isinstance(where, str) and len(where) == 1:
                line += f", or begin with `{overlays.BASE}:` and the file that this one changes"
        elif item["type"] == "extra_forbidden":
            line = "unknown key; remove it or mend its spelling"
            if new := new_name(".".join(key)):
                line = f"has another name now; write {new} in its place"
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


def _written(raw: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """Where a key stands: there, or below `defaults`, if it is only there."""
    shared = None if _has(raw, path) else _shared(raw, path)
    return shared if shared and _has(raw, shared) else path


def _said(path: tuple[str, ...] | None, lines: Collection[tuple[str, ...]]) -> bool:
    """Whether there is a line for a key already, or for a section that holds it."""
    return path is not None and any(path[:end] in lines for end in range(1, len(path) + 1))


def _has(raw: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if isinstance(raw, list) and part.isdecimal() and int(part) < len(raw):
            raw = raw[int(part)]
        elif isinstance(raw, dict) and part in raw:
            raw = raw[part]
        else:
            return False
    return True


def _paths(raw: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key that there is, with those above it."""
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in pairs:
        yield (*above, str(key))
        yield from _paths(value, (*above, str(key)))


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
