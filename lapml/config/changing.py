"""Sections with changes in place, and what is said of changes that are not allowed."""

from collections.abc import Callable, Collection
from typing import Any

from pydantic import ValidationError

from lapml.common.sections import Section, mistake
from lapml.config.renamed import new_name
from lapml.errors import expected


def with_changes(own: Section, changes: dict[str, Any], where: str) -> Section:
    """A section with ``changes`` in place; ValueError, with the key, where they are not allowed."""
    return validated(type(own).model_validate, merged(own.model_dump(), changes), where)


def validated(read: Callable[[Any], Section], keys: dict[str, Any], where: str) -> Section:
    """A section of these keys; ValueError, with the key, where they are not allowed."""
    try:
        return read(keys)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden" and (new := new_name(key)):
            raise ValueError(f"{key}: was renamed; write {new} instead") from None
        raise ValueError(mistake(error, where)) from None


def merged(whole: Any, changes: Any) -> Any:
    """``whole`` with ``changes`` in place, section by section; the changes themselves, where one of the two is no section."""
    if not (isinstance(whole, dict) and isinstance(changes, dict)):
        return changes
    return {**whole, **{key: merged(whole.get(key), value) for key, value in changes.items()}}


def refuse_unknown(key: str, name: str, known: Collection[str], why: str = "") -> None:
    """ValueError for a name that is none of these."""
    if name not in known:
        raise ValueError(f"{key}: found {name!r}, {why}{expected(name, sorted(known))}")
