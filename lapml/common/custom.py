"""A custom mixer or loss: a function that a dotted path or an entry point names (docs/methods.md)."""

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

from lapml.common.sections import Section, mistake
from lapml.errors import LapmlError, words
from lapml.files import sha256


def function(name: str, group: str, known: tuple[str, ...] = ()) -> tuple[Callable, Path]:
    """A user's function and the file that holds it.

    Modules are looked for where Python looks, then in the folder that the command is run in.

    Args:
        name: dotted path such as ``my_methods.stripes``, or an entry point's name.
        group: of entry points.
        known: built-in names, for the message.

    Raises:
        ValueError: nothing of that name can be imported, or it is not a function.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not replace a library's module
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
    except Exception as error:  # the user's file may raise anything
        raise ValueError(
            f"name: found {name!r}, expected the dotted path of a function, but {type(error).__name__}: "
            f"{' '.join(str(error).split())}; the module is looked for among the installed packages and in {os.getcwd()}"
        ) from None
    plain = inspect.unwrap(found) if callable(found) else found  # not the decorator's file
    file = inspect.getsourcefile(plain) if inspect.isfunction(plain) else None
    if file is None or not os.path.isfile(file):
        raise ValueError(f"name: found {name!r}, a {type(found).__name__}, expected a function written in Python")
    return found, Path(file)


def looked_up(
    keys: Any,
    group: str,
    model_of: Callable[[Callable, Path], type[Section]],
    ours: tuple[str, ...],
    reading: bool,
    known: tuple[str, ...] = (),
    filled: tuple[str, ...] = (),
) -> Any:
    """Check a section of params.yaml that names a user's function, and complete it: defaults of its keys, and the checksum
    of its file for the record of a run.

    Args:
        model_of: the model of the keys of a function, which its file holds.
        ours: keys of lapml, not of the function.
        reading: a params file is being read; else, a section that has a checksum is the record of a run and is taken as
            it is.
        known: as of :func:`function`.
        filled: keys of ours that lapml fills in.

    Raises:
        ValueError: see :func:`function`; or a key is unknown, missing, or has a wrong value.
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
    model = model_of(found, file)
    wanted = model.model_fields
    if clash := set(wanted) & {*ours, *filled, "sha256"}:
        raise ValueError(f"{file}: {found.__name__}: its key {min(clash)!r} is a key of lapml; rename it")
    theirs = {key: value for key, value in keys.items() if key not in ours}
    try:
        values = model.model_validate(theirs).model_dump()
        json.dumps(values)
    except ValidationError as error:
        raise ValueError(f"{mistake(error)} (the keys of {keys['name']} are: {', '.join(wanted) or 'none'})") from None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: {found.__name__}: its keys must be numbers, text, lists or the like ({error})"
        ) from None
    return {**{key: keys[key] for key in ours if key in keys}, **values, "sha256": sha256(file)}


def arguments_of(found: Callable, file: Path) -> type[Section]:
    """The model of the keys of a custom loss: its keyword arguments, with types and defaults.

    Raises:
        ValueError: it does not take exactly one positional argument, its annotations cannot be read, or an argument can be no
            key.
    """
    wanted, placed = {}, []
    try:
        hints = get_type_hints(found)
    except Exception as error:  # a name for type checkers only, or misspelt
        raise ValueError(f"{file}: {found.__name__}: its annotations cannot be read ({error})") from None
    for argument in inspect.signature(found).parameters.values():
        if argument.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if argument.default is inspect.Parameter.empty else argument.default
            wanted[argument.name] = (hints.get(argument.name, Any), default)
        else:
            placed.append(argument.name)
    if len(placed) != 1:
        raise ValueError(
            f"{file}: {found.__name__}: found the positional arguments {', '.join(placed) or 'none'}, expected (seen, *, your "
            "keys): write a * before those that are keys of params.yaml"
        )
    try:
        return create_model("Keys", __base__=Section, **wanted)
    except Exception as error:  # pydantic raises many types where it knows nothing of a class
        raise ValueError(
            f"{file}: {found.__name__}: its keys must be numbers, text, lists or the like ({words(error)[:200]})"
        ) from None


def named(name: str, group: str) -> tuple[Callable, Path]:
    """As :func:`function`, for settings that were read before: LapmlError if the function is gone."""
    try:
        return function(name, group)
    except ValueError as error:
        raise LapmlError(str(error)) from None


@lru_cache
def bound(name: str, checksum: str, group: str) -> Callable:
    """The function that a section of settings names.

    Args:
        checksum: sha256 of its file when the settings were read.

    Raises:
        LapmlError: it is gone, or its file has changed since.
    """
    found, file = named(name, group)
    if sha256(file) != checksum:
        raise LapmlError(f"{file}: has changed since the settings were read ({checksum[:12]}); run the command again")
    return found
