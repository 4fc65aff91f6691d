"""Fetch a data set, and check at every later stage that it is the one in params.yaml.

Two files say what was fetched. ``source.json``, an output, says what the data are, by number and checksums
(contents.py): no place and no name, so that the same data are the same to both orchestrators wherever they lie and
whatever they are called. ``places/NAME.json`` (places.py) says where they lie on this machine; without it (in a
fresh clone, in an experiment's own folder) they are laid out again where they are asked for, and compared.

The environment variable ``LAPML_<NAME>`` sets *where* the data lie; ``data.NAME.source`` alone sets what they are.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lapml import config
from lapml.data.fetch import places, shown
from lapml.data.fetch.contents import KEYS, alike, described, looked_at
from lapml.data.fetch.laying import lay_out, located, root_in
from lapml.data.fetch.places import asked_for, named, variable
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.files import json_object, locked, write_text
from lapml.paths import Paths


def fetch(name: str, data: config.Data, paths: Paths, anew: bool = False) -> None:
    """Make the data set available; write ``paths.source(name)`` (source.json) and ``paths.place(name)``.

    ``data.source`` is "synthetic"; "official" (where the reader's authors offer it); a folder, used in place, or one with
    archives to unpack; an archive (.tgz, .tar, .zip …; unpacked to ``data/NAME``); an http(s) URL of one (kept in
    ``data/downloads``), which may end in ``#md5=…`` or ``#sha256=…``; or a list of such URLs, mirrors to try in this
    order. The environment variable ``LAPML_<NAME>`` (upper-case, ``-`` as ``_``) says for all but "synthetic" where the data lie
    instead. Relative paths start at ``paths.root``.

    Args:
        anew: take the data that the variable names even if other data were fetched before.

    Raises:
        LapmlError: the source is missing, broken, unsafe to unpack or cannot be downloaded, or holds no data set; or the
            variable names other data than were fetched by the same settings before, or than lie at ``data.source``.
    """
    asked, advice = asked_for(name, data), _advice(name)
    try:
        kind, used, root = lay_out(name, asked, data, paths, advice)
        stamp, found = looked_at(root, data)
        if asked != data.source and not anew:
            _refuse_elsewhere(name, data, paths, found)
        write_text(paths.source(name), json.dumps(found, indent=1) + "\n")
        known = {"kind": kind, "source": used, "asked": shown(asked)}
        places.keep(name, data, paths, known, root, stamp, found)
    except OSError as error:
        raise LapmlError(f"data set {name}: {error}; check permissions, free some disk space, or {advice}") from None


def laid_out(name: str, paths: Paths, data: config.Data | None = None) -> tuple[dict[str, Any], Path]:
    """What is known of a fetched data set (``kind``, ``source`` and :data:`~lapml.data.fetch.contents.KEYS`), and its root.

    Args:
        data: the settings that must name it. Then it is also compared with what was fetched: its files by names, sizes and
            times of change, and only where these differ by their bytes; and laid out again where this machine has not done so.

    Raises:
        LapmlError: source.json is missing or broken, the folder is gone; or the data are other ones than were fetched, or than
            the settings name.
    """
    record = _record(name, paths)
    if record is None:
        raise LapmlError(f"{paths.source(name)}: missing; run `lapml data fetch {name}`")
    if "root" in record and (root := paths.root / record["root"]).is_dir():  # an old record
        place = record
        found = dict(zip(KEYS, reader(data.reader).fingerprint(root), strict=False)) if data else record
        if not alike(found, record):
            raise LapmlError(_changed(name, data, data.source, root, found, record))
    else:
        place = _placed(name, data, paths, record) if data else places.read(name, paths, record)
    if place is None:
        raise LapmlError(f"{paths.place(name)}: missing, or of other data; run `lapml data fetch {name}`")
    root = paths.root / place["root"]
    if not root.is_dir():
        raise LapmlError(
            f"{root}: no such folder, though it was fetched from there; run `lapml data fetch {name}` again"
        )
    return {"kind": place["kind"], "source": place["source"], **record}, root


def refuse_other(name: str, data: config.Data, paths: Paths) -> None:
    """Refuse a data set that was fetched or packed from other data than those of the settings.

    Records are compared with each other. No file of the data is looked at, unless the environment variable names another
    folder than they were fetched from; that is compared once. What is not there is not compared.

    Raises:
        LapmlError: the settings, or the variable, name other data than were fetched; or other data were packed.
    """
    record, asked = _record(name, paths), asked_for(name, data)
    if record is None or "root" not in record:
        place = places.read(name, paths, record)
        _refuse_renamed(name, data, paths, place)
        elsewhere = not places.is_where(place, asked, data, paths) if place else asked != data.source
        here = isinstance(asked, str) and located(asked, paths)
        # A folder or an archive that is not there stops no work on packed data.
        reached = not here or asked == "official" or "://" in asked or here.exists()
        if record and elsewhere and (here and here.is_dir() or place and reached):
            _placed(name, data, paths, record)
    # A damaged pack is reported when it is opened.
    packed = json_object(paths.pack(name) / "meta.json").get("source")
    if record and isinstance(packed, dict) and not alike(packed, record):
        raise LapmlError(
            f"{paths.pack(name)}: was packed of other data ({described(packed)}) than were fetched since ({described(record)}); "
            f"run `lapml data prepare {name}`"
        )


# --- where it lies ---


def _advice(name: str) -> str:
    return f"set data.{name}.source or the environment variable {variable(name)}"


def _placed(name: str, data: config.Data, paths: Paths, record: dict[str, Any]) -> dict[str, Any]:
    """Where the data lie, which is looked up anew where that is not known or is no longer what is asked for; they are what
    ``record`` says."""
    place, asked = places.read(name, paths, record), asked_for(name, data)
    _refuse_renamed(name, data, paths, place)
    with locked(paths.places / f"{name}.lock"):
        if place and places.is_where(place, asked, data, paths):
            known, root = place, paths.root / place["root"]
            if not root.is_dir():
                return place  # as it was
        elif place and not (isinstance(asked, str) and located(asked, paths).is_dir()):
            if asked == data.source:
                raise LapmlError(
                    f"{shown(asked)}: has changed since data.{name} was fetched from it; run `lapml data fetch {name}`"
                )
            raise LapmlError(
                f"{variable(name)} is {shown(asked)!r}, and the data were fetched from elsewhere, or before it changed; run "
                f"`lapml data fetch {name}`, which compares the two, or unset it"
            )
        else:
            kind, used, root = lay_out(name, asked, data, paths, _advice(name))
            known = {"kind": kind, "source": used, "asked": shown(asked)}
        stamp, found = looked_at(root, data, place if place and root == paths.root / place["root"] else None)
        if not alike(found, record):
            raise LapmlError(_changed(name, data, asked, root, found, record))
        return places.keep(name, data, paths, known, root, stamp, found)


def _record(name: str, paths: Paths) -> dict[str, Any] | None:
    """source.json; None if it is not there."""
    file = paths.source(name)
    if not file.exists():
        return None
    record = json_object(file)
    if not {*(("root", "kind", "source", *KEYS[:2]) if "root" in record else KEYS)} <= record.keys():
        raise LapmlError(f"{file}: damaged, or not written by lapml; run `lapml data fetch {name}`")
    return record


# --- what is refused ---


def _refuse_renamed(name: str, data: config.Data, paths: Paths, place: dict[str, Any] | None) -> None:
    """The settings name what was fetched: as the place says, or, where none is known, those that DVC's stage was given."""
    before = place["named"] if place else json_object(paths.settings(name) / "fetch.json")
    if not before:
        return
    before = {"min_images": None} | before  # which is named where it is set
    for key, now in ({"min_images": None} | named(data)).items():
        was = shown(before.get(key))
        if key in before and was != now:
            raise LapmlError(
                f"data.{name}.{key} is {now!r}, what lies there was fetched {'from' if key == 'source' else 'with'} "
                f"{was!r}; run `lapml data fetch {name}`"
            )


def _refuse_elsewhere(name: str, data: config.Data, paths: Paths, found: dict[str, Any]) -> None:
    """What the variable names is what was fetched by the same settings before, or what lies at ``data.source`` itself."""
    before, what = places.read(name, paths, None), "were fetched before"
    known, now = None, named(data)
    if before and all(before["named"].get(key) == now[key] for key in ("reader", "source")):
        chosen = all(before["named"].get(key) == now.get(key) for key in ("labels", "classes", "min_images"))
        known = {key: before["contents"][key] for key in (KEYS if chosen else KEYS[:2])}
    if known is None and isinstance(data.source, str) and (folder := located(data.source, paths)).is_dir():
        with suppress(LapmlError):  # it is no whole data set
            _, known = looked_at(root_in(folder, reader(data.reader), ""), data)
            what = f"lie at data.{name}.source ({data.source})"
    if known is not None and not alike(found, known):
        raise LapmlError(
            _other(name, asked_for(name, data), found, f"than {what}", known)
            + f", or run `lapml data fetch {name} --anew` to take them anyway"
        )


def _changed(
    name: str, data: config.Data, asked: Any, root: Path, found: dict[str, Any], record: dict[str, Any]
) -> str:
    if asked != data.source:
        return _other(name, asked, found, "than were fetched", record) + f" and run `lapml data fetch {name}`"
    return (
        f"{root}: holds other data ({described(found)}) than were fetched ({described(record)}); run `lapml data fetch {name}`, "
        "which takes them as they are now"
    )


def _other(name: str, asked: Any, found: dict[str, Any], than: str, record: dict[str, Any]) -> str:
    return (
        f"{variable(name)} is {shown(asked)!r}, which holds other data ({described(found)}) {than} ({described(record)}): the "
        f"variable says where data lie, not what they are; unset it, or name them in data.{name}.source"
    )
