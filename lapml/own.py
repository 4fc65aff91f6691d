"""A user's own mixer or loss: a function that a dotted path or an entry point names (docs/methods.md)."""

import inspect
import json
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.sections import Section

GIVEN = {
    "lapml.mixers": ("batch", "seen"),
    "lapml.losses": ("seen",),
}  # group of entry points: what a function is given


def function(name: str, group: str, known: tuple[str, ...] = ()) -> tuple[Callable, Path]:
    """A user's function and the file that holds it.

    Modules are looked for where Python looks, then in the folder that the command is run in.

    Args:
        name: dotted path such as ``my_methods.stripes``, or an entry point's name.
        group: of entry points.
        known: names that the caller would have taken instead, for its message.

    Raises:
        ValueError: nothing of that name can be imported, or it is no function.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not take the place of a library's module
    point = next(iter(entry_points(group=group, name=name)), None)
    module, _, attribute = (point.value.replace(":", ".") if point else name).rpartition(".")
    if not module.strip("."):
        others = f"one of {', '.join(known)}, " if known else ""
        raise ValueError(
            f"name: found {name!r}, expected {others}the dotted path of a function (module.function) or an entry point of "
            f"group {group}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the user's file raises when it is run
        raise ValueError(
            f"name: found {name!r}, expected the dotted path of a function, but {type(error).__name__}: "
            f"{' '.join(str(error).split())}; the module is looked for among the installed packages and in {os.getcwd()}"
        ) from None
    plain = inspect.unwrap(found) if callable(found) else found  # a decorator's own file is not what the user edits
    file = inspect.getsourcefile(plain) if inspect.isfunction(plain) else None
    if file is None or not os.path.isfile(file):
        raise ValueError(f"name: found {name!r}, a {type(found).__name__}, expected a function written in Python")
    return found, Path(file)


def looked_up(keys: Any, group: str, ours: tuple[str, ...], reading: bool, known: tuple[str, ...] = ()) -> Any:
    """A section of params.yaml that names a user's function: its keys checked against the function's arguments, with the
    defaults of those that are not given, and the checksum of its file, so that a run says which code made it.

    Args:
        ours: keys that are not the function's.
        reading: a params file is being read; else, a section that has a checksum is the record of a run and is taken as
            it is.

    Raises:
        ValueError: see :func:`function`; or a key is no argument of it, is missing, or has a wrong value.
    """
    if not isinstance(keys, dict):
        return keys
    if "sha256" in keys:
        if reading:
            raise ValueError("sha256: unknown key; remove it, it is filled in when a run is recorded")
        return keys
    if not isinstance(keys.get("name"), str):
        others = f"one of {', '.join(known)}, or " if known else ""
        raise ValueError(f"name: found {keys.get('name')!r}, expected {others}a name such as my_methods.stripes")
    found, file = function(keys["name"], group, known)
    wanted = _arguments(found, file, group)
    if clash := set(wanted) & {*ours, "sha256"}:
        raise ValueError(f"{file}: {found.__name__}: its argument {min(clash)!r} is a key of lapml's own; rename it")
    theirs = {key: value for key, value in keys.items() if key not in ours}
    try:
        values = create_model("Keys", __base__=Section, **wanted).model_validate(theirs).model_dump()
        json.dumps(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        says = {"missing": "missing; add it", "extra_forbidden": "unknown key; remove it or mend its spelling"}
        message = says.get(first["type"]) or f"found {first['input']!r}, expected: {first['msg']}"
        raise ValueError(
            f"{key}: {message} (the arguments of {keys['name']} are: {', '.join(wanted) or 'none'})"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: {found.__name__}: its arguments must be numbers, text, lists or the like ({error})"
        ) from None
    return {**{key: keys[key] for key in ours if key in keys}, **values, "sha256": sha256(file)}


def _arguments(found: Callable, file: Path, group: str) -> dict[str, tuple[Any, Any]]:
    """{name: (type, default)} of a function's keyword arguments."""
    wanted, placed = {}, []
    try:
        hints = get_type_hints(found)
    except Exception as error:  # a name that is there for type checkers only, or misspelt
        raise ValueError(f"{file}: {found.__name__}: its annotations cannot be read ({error})") from None
    for argument in inspect.signature(found).parameters.values():
        if argument.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if argument.default is inspect.Parameter.empty else argument.default
            wanted[argument.name] = (hints.get(argument.name, Any), default)
        else:
            placed.append(argument.name)
    if len(placed) != len(GIVEN[group]):
        given = ", ".join((*GIVEN[group], "*", "your keys"))
        raise ValueError(
            f"{file}: {found.__name__}: found the positional arguments {', '.join(placed) or 'none'}, expected ({given}): write "
            "a * before those that are keys of params.yaml"
        )
    return wanted


@lru_cache
def bound(name: str, checksum: str, group: str) -> Callable:
    """The function that a section of settings names.

    Args:
        checksum: sha256 of its file when the settings were read.

    Raises:
        LapmlError: it is gone, or its file has changed since.
    """
    try:
        found, file = function(name, group)
    except ValueError as error:
        raise LapmlError(str(error)) from None
    if sha256(file) != checksum:
        raise LapmlError(f"{file}: has changed since the settings were read ({checksum[:12]}); give the command again")
    return found
