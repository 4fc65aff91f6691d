"""Read a params file: merge overlays, apply `defaults`, and report each mistake in one line.

An unknown key, a wrong type, NaN or a value out of range is one :class:`~lapml.errors.LapmlError` that names the file,
the key, what was found and what is allowed. The models are in schema.py.
"""

import json
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lapml.common.sections import SAID
from lapml.common.text import line as one_line
from lapml.config import overlays
from lapml.config.changing import merged
from lapml.config.method import READING
from lapml.config.renamed import new_name
from lapml.config.schema import Params
from lapml.errors import LapmlError
from lapml.mixing import MIXERS


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
    given = [override_in(raw, override) for override in overrides]
    try:
        return Params.model_validate(expanded(raw), context=READING)
    except ValidationError as error:
        raise LapmlError(explained(found, raw, error, given)) from None


def expanded(raw: dict[str, Any]) -> dict[str, Any]:
    """Raw settings with `defaults` filled into every data set and method; their own keys take precedence. Values of
    another form than expected are left for the models to refuse.
    """
    defaults = _section(raw, "defaults")

    def method(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        made = {
            key: merged(defaults.get(key), value) if key in ("margin", "adaptive") else value
            for key, value in given.items()
        }
        if isinstance(mixer := given.get("mixer"), dict):
            mixers = _section(defaults, "mixers")
            made["mixer"] = merged(mixers.get(name) if isinstance(name := mixer.get("name"), str) else None, mixer)
        if isinstance(mixer, dict) or isinstance(given.get("mix"), dict):
            made["mix"] = merged(defaults.get("mix"), given.get("mix", {}))
        return made

    data = {name: merged(defaults.get("data"), section) for name, section in _section(raw, "data").items()}
    methods = {name: method(section) for name, section in _section(raw, "methods").items()}
    return {**raw, **({"data": data} if data else {}), **({"methods": methods} if methods else {})}


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return section if isinstance(section := raw.get(key), dict) else {}


def override_in(raw: dict[str, Any], override: str) -> str:
    """Apply one --set; returns its key. A key that a data set or method takes from `defaults` is changed for that one alone."""
    key, equals, text = override.partition("=")
    inherited: Any = expanded(raw)
    *parents, last = _split(key.strip(), inherited)
    where = raw
    for part in parents:
        inherited = inherited.get(part) if isinstance(inherited, dict) else None
    there = isinstance(inherited, dict) and last in inherited
    if not equals or not (there or _may_join(parents, expanded(raw))):
        for end in range(1, len(parents) + 2):
            old = [*parents, last][:end]
            if new := _renamed(old, expanded(raw)):
                raise LapmlError(f"--set {override}: {'.'.join(old)} was renamed; write {new} instead")
        known = inherited if isinstance(inherited, dict) else {}
        if equals and (close := meant(key.strip(), expanded(raw))):
            raise LapmlError(f"--set {override}: there is no such key; did you mean {close}?")
        keys = ", ".join(known) or "nothing below it"
        raise LapmlError(f"--set {override}: expected KEY=VALUE with a key of the params file, one of: {keys}")
    for part in parents:
        where = where.setdefault(part, {})
    try:
        where[last] = YAML(typ="safe", pure=True).load(text)
        json.dumps(where[last], default=str)
    except (YAMLError, TypeError, ValueError, RecursionError):
        raise LapmlError(f"--set {override}: the value is not plain YAML") from None
    return ".".join([*parents, last])


def _may_join(parents: list[str], settings: Any) -> bool:
    """Whether a section may get keys that it lacks, which the models check: one of `overrides`, a custom mixer or loss."""
    match parents:
        case ["data" | "methods", _, "overrides", *_]:
            for part in parents[:2]:
                settings = settings.get(part) if isinstance(settings, dict) else None
            for part in parents[2:]:
                settings = settings.get(part, {}) if isinstance(settings, dict) else None
            return isinstance(settings, dict)
        case ["methods", method, "mixer" | "loss" as part]:
            name = _section(_section(_section(settings, "methods"), method), part).get("name")
            return isinstance(name, str) and name not in MIXERS
    return False


def _split(key: str, settings: Any) -> list[str]:
    """The keys of a path such as ``tune.methods.cutmix.train.lr.low``. One that itself holds dots (``train.lr``) is taken where
    there is one: at each level the longest that is there."""
    parts, keys = key.split("."), []
    while parts:
        known = settings if isinstance(settings, dict) else {}
        size = next((end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in known), 1)
        keys.append(".".join(parts[:size]))
        parts, settings = parts[size:], known.get(keys[-1])
    return keys


def _renamed(keys: list[str], settings: Any) -> str | None:
    """The new name of a key; None if it was not renamed, as the keys of custom mixers never were."""
    for part in keys[:-1]:
        settings = settings.get(part) if isinstance(settings, dict) else None
    name = settings.get("name") if isinstance(settings, dict) else None
    if keys[-2:-1] == ["mixer"] and isinstance(name, str) and name not in MIXERS:
        return None
    return new_name(".".join(keys))


def meant(key: str, raw: dict[str, Any]) -> str | None:
    """The key of some settings that was probably meant by one that they lack: ``train.epochs`` for ``train.epoch``, and for
    ``epochs`` alone; None if several sections have such a key, `train` not among them, for which one is meant is unknown."""
    known = [path for path in paths(raw) if not any(part.isdecimal() for part in path)]  # no items of lists
    if "." in key:
        return next(iter(get_close_matches(key, map(".".join, known), 1)), None)
    ends: dict[str, list[tuple[str, ...]]] = {}
    for path in known:
        ends.setdefault(path[-1], []).append(path)
    having = next((ends[end] for end in get_close_matches(key, ends, 1)), [])
    one = [path for path in having if path[0] == "train"] or having
    return ".".join(one[0]) if len(one) == 1 and len(one[0]) > 1 else None


def explained(
    where: str | list[tuple[Path, dict[str, Any]]], raw: Any, error: ValidationError, overrides: Collection[str] = ()
) -> str:
    """A line for each mistake: file, key, found, expected (the alternatives of a union together).

    Args:
        where: what was read, or the layers of a params file; messages name the topmost that holds the key.
        raw: the settings before `defaults` were applied.
        overrides: the keys that were given by --set: messages of these and of keys below them say so.
    """
    whole = raw if isinstance(where, str) else expanded(raw)
    lines: dict[tuple[str, ...], list[str]] = {}
    absent = [tuple(map(str, item["loc"])) for item in error.errors() if item["type"] == "missing"]
    old = {(*key[:-1], new) for key in paths(whole) if (new := new_name(".".join(key)))}
    for item in error.errors():
        key = _written(raw, tuple(_keys(whole, item["loc"], item["type"] == "missing")))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":  # ours, complete
            line = message
        elif item["type"] == "missing" and key in old:
            continue  # given by its old name, reported in its own line
        elif item["type"] == "missing":
            line = SAID["missing"]
            if len(key) == 1 and not isinstance(where, str) and len(where) == 1:
                line += f", or start with `{overlays.BASE}:` and the file to change"
        elif item["type"] == "extra_forbidden":
            line = SAID["extra_forbidden"]
            if new := new_name(".".join(key)):
                line = f"was renamed; write {new} instead"
            elif close := () if isinstance(where, str) else get_close_matches(key[-1], _beside(whole, key, absent), 1):
                line = f"unknown key; did you mean {close[0]}?"
        else:
            line = f"found {item['input']!r}, expected: {message[0].lower() + message[1:]}"
        found = lines.setdefault(key, [])
        if not found:
            found.append(line)
        elif (more := line.partition("expected: ")[2] or line) not in (found[0].partition("expected: ")[2], *found):
            found.append(more)
    lines = {key: line for key, line in lines.items() if _has(raw, key) or not _is_reported(_shared(raw, key), lines)}
    said = []
    for key, found in lines.items():
        layers = [] if isinstance(where, str) else where
        file = next((path for path, own in layers if _has(own, key)), layers[0][0] if layers else where)
        line = f"{one_line('.'.join(key)) + ': ' if key else ''}{', or '.join(found)}"
        starts = tuple(f"{each}{end}" for each in overrides for end in (":", "."))
        given = line.startswith(starts) or line.replace(": ", ".", 1).startswith(
            starts
        )  # a rule of a section names its key next
        said.append(f"--set {line}" if given else f"{file}: {line}")
    return "\n".join(said)


def _beside(whole: dict[str, Any], key: tuple[str, ...], absent: list[tuple[str, ...]]) -> list[str]:
    """The keys that could stand where an unknown one stands: those beside it in any data set or method, and those that are
    missing there."""

    def place(path: tuple[str, ...]) -> tuple[str, ...]:
        return ("*", *path[2:-1]) if path[0] in ("data", "methods") and len(path) > 2 else path[:-1]

    known = [path for path in (*paths(whole), *absent) if place(path) == place(key)]
    return [path[-1] for path in known if path[-1] != key[-1]]


def _shared(raw: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The key below `defaults` that gives a key of a data set or method its value, if it has none itself."""
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
    """Where a key is written: in its section, or below `defaults`."""
    shared = None if _has(raw, path) else _shared(raw, path)
    return shared if shared and _has(raw, shared) else path


def _is_reported(path: tuple[str, ...] | None, lines: Collection[tuple[str, ...]]) -> bool:
    """Whether a key, or a section that holds it, has a line already."""
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


def paths(raw: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key."""
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in pairs:
        yield (*above, str(key))
        yield from paths(value, (*above, str(key)))


def _keys(raw: Any, loc: tuple[int | str, ...], missing: bool) -> list[str]:
    """The keys of a pydantic location, without the names of union members that it also holds.

    Args:
        missing: whether the last key is absent.
    """
    keys = []
    for at, part in enumerate(loc):
        inside = isinstance(raw, dict) and part in raw or isinstance(raw, list) and isinstance(part, int)
        if inside or (missing and at == len(loc) - 1):
            keys.append(str(part))
            raw = raw[part] if inside else None
    return keys
