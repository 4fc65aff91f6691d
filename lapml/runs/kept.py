"""Copies in and beside a run folder, so that no finished run and no saved state is lost silently.

A finished run lies twice in its folder: in ``.kept``, and by hard links under its usual names. An orchestrator deletes the latter
before it runs a stage again; a run in ``.kept`` that is the one asked for is then put back. Otherwise it is moved to ``SEED.old-1``
beside the folder (or the next number), with the files that later commands wrote, once its replacement is complete. Saved states of
other settings are moved there too.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lapml.common.saved import differences, next_old, olds, read, shown, state_aside, state_differences
from lapml.config import settings_of, weights_file
from lapml.errors import LapmlError
from lapml.files import link, scratch, synced, write_text
from lapml.paths import LIVE, READS, RUN_FILES
from lapml.runs.folder import kept as holds
from lapml.runs.folder import open_run

KEPT = ".kept"
STATE = "last.pt"  # of an unfinished run
MODEL = "model.safetensors"
Record = dict[str, Any]


def finished(
    folder: Path, asked: Record, weights: str, replace: bool, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """Metrics of the run in a folder, if it is finished and the one asked for; else None. A saved state of another one, begun
    since, is then set aside.

    Args:
        asked: settings, data and code, see :func:`lapml.training.loop.made_of`.
        weights: its ``model.weights``.

    Raises:
        LapmlError: there is another finished run, and not ``replace``.
        OSError: there is a saved state that cannot be read now.
    """
    here, copy = (_differences(place, asked, weights) for place in (folder, folder / KEPT))
    if here == []:
        log(f"{folder}: is finished with the same settings, data and code (delete it to train again)")
    elif (other := here or copy) and not replace:
        raise LapmlError(
            f"{folder}: holds a finished run that differs: {shown(other)}; give --replace to train again (it is then "
            f"kept as {next_old(folder).name}), or another suite or seed"
        )
    elif copy == []:
        for place in _move_files_aside(folder) if here else ():
            log(f"{place}: the former files of {folder}")
        put_back(folder)
        log(f"{folder}: is put back: finished before with the same settings, data and code")
    else:
        return None
    _set_other_state_aside(folder, asked, log)
    _forget(folder)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def readings(folder: Path) -> str:
    """The recorded readings of the test split."""
    return (folder / READS).read_text(encoding="utf-8") if (folder / READS).is_file() else ""


def finish(folder: Path, new: Path, reads: str, log: Callable[[str], None]) -> None:
    """Make the folder ``new``, which holds :data:`~lapml.paths.RUN_FILES`, the finished run of ``folder``; an earlier one is set
    aside, with ``reads``, the earlier readings of the test split."""
    for place in (*new.iterdir(), new):
        synced(place)  # before the saved state is removed, so that no crash can take both
    for place in set_aside(folder, reads):
        log(f"{place}: the former files of {folder}")
    os.rename(new, folder / KEPT)
    put_back(folder)
    synced(folder)
    _forget(folder)


def _set_other_state_aside(folder: Path, asked: Record, log: Callable[[str], None]) -> None:
    """Move a saved state beside its finished run, unless it is this run's own, or damaged."""
    path = folder / STATE
    state = read(path) if path.exists() else None
    if state is None or "key" not in state:
        return
    origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    if lines := state_differences(state, {**asked, "weights": origin.get("weights")}):
        log(f"{state_aside(path)}: set aside, it differs: {shown(lines)}")


def _forget(folder: Path) -> None:
    """Remove what an unfinished run needs alone."""
    for name in (STATE, LIVE):
        (folder / name).unlink(missing_ok=True)


def put_back(folder: Path) -> None:
    """Link the files of the finished run to their usual names, provenance.json last."""
    for name in sorted(RUN_FILES, key=lambda name: name == "provenance.json"):
        link(folder / KEPT / name, folder / name)
        os.utime(folder / name)  # for orchestrators that compare times


def set_aside(folder: Path, reads: str) -> list[Path]:
    """Move the files of a run folder, except its saved state, beside it, and copy ``reads``, the readings of the test split;
    returns the new folders, none if there was nothing."""
    kept, places = folder / KEPT, []
    if _read_whole(folder) and not same_run(folder, kept):  # of an older version, or taken over
        if kept.exists():
            places.append(_move_run_aside(kept, folder))
        with scratch(folder / ".keeping") as copies:
            for name in RUN_FILES:
                if (folder / name).is_file():
                    link(folder / name, copies / name)
            copies.rename(kept)
    if kept.exists():
        if reads and not (kept / READS).exists():
            write_text(kept / READS, reads)  # before the move, in case the process is killed
        places.append(_move_run_aside(kept, folder))
    return list(dict.fromkeys(places + _move_files_aside(folder, places)))


def _differences(place: Path, asked: Record, weights: str) -> list[str] | None:
    """How the finished run in a folder differs from the one asked for; None: there is none."""
    run = _read_whole(place)
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
    given, recorded = weights_file(weights).get("weights_sha256"), (origin.get("weights") or {}).get("sha256")
    lines += differences(recorded, given, "weights_sha256") if given else []
    if not (place / MODEL).is_file() or not holds(place / MODEL):
        lines.append(f"{MODEL}: its weights are missing")
    return lines


def _read_whole(place: Path) -> tuple[Record, Record] | None:
    """config.json and provenance.json of a finished run, whose weights may be missing."""
    try:
        return open_run(place, optional=(MODEL,)) if (place / "provenance.json").is_file() else None
    except (LapmlError, OSError):
        return None


def _move_files_aside(folder: Path, places: Sequence[Path] = ()) -> list[Path]:
    """Move the files of a run folder to the last of ``places`` or a new folder; files already kept beside it are removed."""
    files = [each for each in folder.iterdir() if each.is_file() and each.name not in (STATE, READS, LIVE)]
    files = [each for each in files if not each.name.startswith(".")]
    files.sort(key=lambda each: each.name != "provenance.json")  # first: the folder is then not a complete run
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


def _move_run_aside(kept: Path, folder: Path) -> Path:
    """Move a whole run beside its folder, unless a killed process already did."""
    for place in olds(folder):
        if same_run(kept, place):
            shutil.rmtree(kept)
            return place
    target = next_old(folder)
    os.rename(kept, target)
    return target


def same_run(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same run: provenance.json has the checksums of its other files."""
    files = [each / "provenance.json" for each in (one, other)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
