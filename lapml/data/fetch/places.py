"""The place of a fetched data set on this machine, and its settings: ``places/NAME.json``.

    kind, source    drawn, folder, archive or url; of several URLs the one that was used
    asked           what was asked for: ``data.NAME.source``, or what the environment variable had in its place
    named           the settings that named the data
    origin          how a folder or an archive that was asked for looked: where its name led to, and an archive's size and time
    root            the folder that the reader knows, relative to the project's if it lies inside
    stamp           how its files looked when their bytes were last read
    contents        what they were

Not an output of a stage, and no stage depends on it, since it differs between machines.
"""

import json
import os
from pathlib import Path
from typing import Any

from lapml import config
from lapml.data.fetch import shown
from lapml.data.fetch.contents import KEYS, alike
from lapml.data.fetch.laying import archives_in, located
from lapml.files import json_object, write_text
from lapml.paths import Paths


def asked_for(name: str, data: config.Data) -> str | list[str]:
    """``data.source``; or the environment variable, if it is set and the data are not synthetic."""
    return data.source if data.source == "synthetic" else os.environ.get(variable(name)) or data.source


def variable(name: str) -> str:
    """The environment variable that says where a data set lies on this machine."""
    return "LAPML_" + name.upper().replace("-", "_")


def named(data: config.Data) -> dict[str, Any]:
    """The settings that say what the data are."""
    return {key: shown(value) for key, value in data.fetching().items()}


def read(name: str, paths: Paths, record: dict[str, Any] | None) -> dict[str, Any] | None:
    """The place, if it is of the data that source.json (``record``) names; whatever it is of, if there is no source.json."""
    place = json_object(paths.place(name))
    named, contents = (each if isinstance(each := place.get(key), dict) else {} for key in ("named", "contents"))
    whole = (
        named
        and set(KEYS) <= contents.keys()
        and {"kind", "source", "asked", "origin", "root", "stamp"} <= place.keys()
    )
    return place if whole and (record is None or alike(contents, record)) else None


def keep(
    name: str, data: config.Data, paths: Paths, place: dict[str, Any], root: Path, stamp: str, found: dict[str, Any]
) -> dict[str, Any]:
    """Write the place, and return it.

    Args:
        place: kind, source and asked.
        found: the data's content.
    """
    home = paths.root.resolve()
    where = (root.resolve().relative_to(home) if root.resolve().is_relative_to(home) else root).as_posix()
    place = {
        **{key: place[key] for key in ("kind", "source", "asked")},
        "named": named(data),
        "origin": _origin(place["asked"], paths, root),
        "root": where,
        "stamp": stamp,
        "contents": found,
    }
    if place != read(name, paths, None):
        write_text(paths.place(name), json.dumps(place, indent=1, ensure_ascii=False) + "\n")
    return place


def is_where(place: dict[str, Any], asked: str | list[str], data: config.Data, paths: Paths) -> bool:
    """Whether what is asked for now is what was fetched from there, and has not been put in place of it since. Where the
    variable is not set any more, and where what was fetched is gone but for what was unpacked of it, it still is."""
    if asked != data.source and shown(asked) != place["asked"]:
        return False
    now = _origin(place["asked"], paths, paths.root / place["root"])
    return now is None or now == place["origin"]


def _origin(asked: str | list[str], paths: Paths, root: Path) -> list[Any] | None:
    """Of a folder or an archive that is there: what its name leads to, and of archives the sizes and times of change."""
    if not isinstance(asked, str) or not (path := located(asked, paths)).exists():
        return None
    used_in_place = path.is_dir() and root.resolve().is_relative_to(path.resolve())
    packed = [path] if path.is_file() else [] if used_in_place else archives_in(path)
    looks = [(each.stat().st_size, each.stat().st_mtime_ns) for each in packed]
    return [str(path.resolve()), config.digest(looks)]
