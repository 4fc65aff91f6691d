"""What is kept in and beside a run folder, so that no finished run and no saved state is lost without a word.

A finished run lies twice in its folder: in ``.kept``, as it was written, and, by hard links that take no room, under the names that
everything reads. An orchestrator deletes the latter before it runs a stage again; what is whole in ``.kept`` is put back if it is
what was asked for. Else it goes to ``SEED.old-1`` beside the folder (or the next number), together with what later commands left
there, once the run that replaces it is whole. Saved states of other settings go there too.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lapml.common.saved import differences, next_old, olds, shown
from lapml.config import settings_of, weights_file
from lapml.errors import LapmlError
from lapml.files import scratch, write_text
from lapml.paths import READS, RUN_FILES
from lapml.runs.folder import kept as holds
from lapml.runs.folder import open_run

KEPT = ".kept"
STATE = "last.pt"  # of a run that is not finished
MODEL = "model.safetensors"
Record = dict[str, Any]


def finished(
    folder: Path, asked: Record, weights: str, replace: bool, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """Metrics of the run in a folder, if it is finished and what was asked for: then nothing is left to do.

    Args:
        asked: what the run is made of, see :func:`lapml.training.loop.made_of`.
        weights: its ``model.weights``.
        replace: whether a finished run of something else may be replaced.

    Raises:
        LapmlError: there is one, and it may not.
    """
    here, copy = (_differences(place, asked, weights) for place in (folder, folder / KEPT))
    if here == []:
        log(f"{folder}: is finished, of the same settings, data and code (to train it again, delete it)")
    elif (other := here or copy) and not replace:
        raise LapmlError(
            f"{folder}: holds a finished run, made otherwise than asked for: {shown(other)}; give --replace to train again, and "
            f"keep it as {next_old(folder).name}, or another suite or seed"
        )
    elif copy == []:
        for place in _visible_aside(folder) if here else ():
            log(f"{place}: what lay in {folder} before")
        put_back(folder)
        log(f"{folder}: was finished, and is put back: it is of the same settings, data and code")
    else:
        return None
    (folder / STATE).unlink(missing_ok=True)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def readings(folder: Path) -> str:
    """What is recorded of readings of the test split."""
    return (folder / READS).read_text(encoding="utf-8") if (folder / READS).is_file() else ""


def finish(folder: Path, new: Path, reads: str, log: Callable[[str], None]) -> None:
    """Make the folder ``new``, which holds :data:`~lapml.paths.RUN_FILES`, the finished run of ``folder``; an earlier one is set
    aside.

    Args:
        reads: the readings of the test split that are not of the new run.
    """
    for place in set_aside(folder, reads):
        log(f"{place}: what lay in {folder} before")
    os.rename(new, folder / KEPT)
    put_back(folder)
    (folder / STATE).unlink(missing_ok=True)


def put_back(folder: Path) -> None:
    """Give the files of the finished run the names that everything reads, provenance.json last."""
    for name in sorted(RUN_FILES, key=lambda name: name == "provenance.json"):
        _link(folder / KEPT / name, folder / name)
        os.utime(folder / name)  # made now, for an orchestrator that compares times


def set_aside(folder: Path, reads: str = "") -> list[Path]:
    """Move what a run left in its folder beside it, but for its saved state; readings of the test split are copied.

    Args:
        reads: those.

    Returns:
        where to; none where nothing was left.
    """
    kept, places = folder / KEPT, []
    if _whole(folder) and not _same_run(folder, kept):  # made by an older version, or taken over
        if kept.exists():
            places.append(_away(kept, folder))
        with scratch(folder / ".keeping") as copies:
            for name in RUN_FILES:
                if (folder / name).is_file():
                    _link(folder / name, copies / name)
            copies.rename(kept)
    if kept.exists():
        if reads and not (kept / READS).exists():
            write_text(kept / READS, reads)  # before it is moved: a process that is killed comes here only once
        places.append(_away(kept, folder))
    return list(dict.fromkeys(places + _visible_aside(folder, places)))


def _differences(place: Path, asked: Record, weights: str) -> list[str] | None:
    """In what the finished run in a place is not what was asked for; None: there is none."""
    run = _whole(place)
    if run is None:
        return None
    config, origin = run
    try:
        config = settings_of(place / "config.json", config).record()
    except LapmlError:
        pass  # of another version: it differs
    device = "cpu" if str(origin.get("device")).startswith("CPU") else "cuda"
    made = {name: origin.get(name) for name in ("data_sha256", "localised_sha256", "code_sha256", "processes")}
    made |= {"settings": config, "torch": (origin.get("versions") or {}).get("torch"), "device": device}
    lines = differences(made, json.loads(json.dumps(asked)))
    given, known = weights_file(weights).get("weights_sha256"), (origin.get("weights") or {}).get("sha256")
    lines += differences(known, given, "weights_sha256") if given else []
    if not (place / MODEL).is_file() or not holds(place / MODEL):
        lines.append(f"{MODEL}: its weights are not here")
    return lines


def _whole(place: Path) -> tuple[Record, Record] | None:
    """config.json and provenance.json of a finished run, whose weights may have been deleted or never been here."""
    try:
        return open_run(place, optional=(MODEL,))
    except (LapmlError, OSError):
        return None


def _visible_aside(folder: Path, places: Sequence[Path] = ()) -> list[Path]:
    """Move the files of a run folder to the last of ``places``, or the next one; what lies beside it already is removed."""
    files = [each for each in folder.iterdir() if each.is_file() and each.name not in (STATE, READS)]
    files = [each for each in files if not each.name.startswith(".")]
    files.sort(key=lambda each: each.name != "provenance.json")  # first: what is left is not whole
    moved = []
    for file in files:
        if any(_same_file(file, place / file.name) for place in olds(folder)):
            file.unlink()
        else:
            moved.append(file)
    if not moved:
        return []
    target = places[-1] if places and not any((places[-1] / file.name).exists() for file in moved) else next_old(folder)
    target.mkdir(parents=True, exist_ok=True)
    for file in moved:
        os.replace(file, target / file.name)
    return [target]


def _same_file(one: Path, other: Path) -> bool:
    return other.is_file() and (one.samefile(other) or filecmp.cmp(one, other, shallow=False))


def _away(kept: Path, folder: Path) -> Path:
    """Move a whole run beside its folder, unless it lies there already since a process was killed."""
    for place in olds(folder):
        if _same_run(kept, place):
            shutil.rmtree(kept)
            return place
    target = next_old(folder)
    os.rename(kept, target)
    return target


def _same_run(one: Path, other: Path) -> bool:
    files = [each / "provenance.json" for each in (one, other)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none, in the place of ``target``."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
