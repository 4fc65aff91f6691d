"""Open and check the folder of a finished run; find runs, where another folder was given."""

import json
import os
import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lapml.common.locks import is_held
from lapml.common.recorded import Config, Provenance, checked
from lapml.errors import LapmlError
from lapml.files import json_object, sha256
from lapml.paths import RUN_FILES, Paths

MARKS = {*RUN_FILES, "last.pt"}  # a folder with any of them is a run, complete or not
SHOWN = 5  # runs in a message
NOT_KEPT = "The run was taken over from results/published, where no weights are kept.\n"  # in place of them


def open_run(folder: Path, optional: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and provenance.json of a complete run folder.

    Args:
        optional: files that may be absent, such as the model in a published copy.

    Raises:
        LapmlError: the folder is no run, a file is missing or damaged, or its checksum is not that of provenance.json.
    """
    if not _is_run(folder):
        raise LapmlError(f"{folder}: {_no_run(folder)}")
    missing = [name for name in RUN_FILES if name not in optional and not (folder / name).is_file()]
    if missing == ["model.safetensors"]:
        raise LapmlError(
            f"{folder}: model.safetensors is missing, as in published runs; train the run to have its weights"
        )
    if missing:
        raise LapmlError(f"{folder}: {missing[0]} is missing: the run is not complete; train it (again)")
    again = "train the run again"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        files = dict(provenance["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LapmlError(f"{folder}: config.json or provenance.json is damaged ({error}); {again}") from None
    checked(folder / "provenance.json", provenance, Provenance, again)
    checked(folder / "config.json", config, Config, again)
    if unknown := [name for name in RUN_FILES if name != "provenance.json" and name not in files]:
        raise LapmlError(f"{folder / 'provenance.json'}: files: {unknown[0]}: missing; {again}")
    for name, expected in files.items():
        if name in optional and not ((folder / name).exists() and kept(folder / name)):
            continue
        if sha256(folder / name) != expected:
            if not kept(folder / name):
                raise LapmlError(
                    f"{folder / name}: holds no weights: the run was taken over from results/published, which keeps none; "
                    "delete its folder and train the run again to have them"
                )
            raise LapmlError(
                f"{folder / name}: is not the file that this run wrote (checksum differs); train the run again"
            )
    return config, provenance


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in MARKS)


def runs_below(folder: Path) -> list[Path]:
    """The run folders at and below a folder, complete or not, in the order of their paths."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.name in MARKS)
    # Hidden folders are runs being written; SEED.old-1 is a replaced run (lapml/runs/kept.py).
    hidden = re.compile(r"\.|.*\.old-\d+$")
    return sorted({folder / path.parent for path in files if not any(map(hidden.match, path.parts))})


def _no_run(folder: Path) -> str:
    """What is wrong with a path that is no run's, and which runs may be meant."""
    if folder.is_dir():
        runs = runs_below(folder)
        some = ", ".join(map(str, runs[:SHOWN])) + (", …" if len(runs) > SHOWN else "")
        return f"is no run, but holds {len(runs)}; give one of them: {some}" if runs else "is no run, and holds none"
    if _is_run(folder.parent):
        return f"is {'a file' if folder.exists() else 'no file'} of a run, expected its folder; give {folder.parent}"
    if not folder.is_absolute():
        above = (parent / folder for parent in Path.cwd().parents)
        if here := next((each for each in above if each.is_dir() and runs_below(each)), None):
            return f"no such folder in {Path.cwd()}; give {os.path.relpath(here)}"
    above = next(each for each in folder.parents if each.is_dir())
    above = above if "results" in above.resolve().parts else above / "results"  # elsewhere may lie anything
    runs = [str(each) for each in runs_below(above)] if above.is_dir() else []
    close = get_close_matches(str(folder), runs, SHOWN)
    if close:
        return f"no such folder; did you mean {' or '.join(close)}?"
    if runs:
        return f"no such folder, and none of the {len(runs)} runs below {above} is called alike"
    return "no such folder; a run lies in results/SUITE/runs/DATASET/METHOD/SEED of the project's folder"


def class_names(folder: Path, provenance: dict[str, Any]) -> list[str]:
    """One name per label, of a run's provenance.json; LapmlError where an old version wrote that without them."""
    if not provenance.get("class_names"):
        raise LapmlError(f"{folder / 'provenance.json'}: class_names: missing, as in old runs; train it again")
    return provenance["class_names"]


def paths_of(folder: Path, record: dict[str, Any], root: Path, data_sha256: str = "") -> Paths:
    """Where the data of a run, given its config.json, lie: below ``root``, or, where they do not, in the project that holds the
    run's folder; there too where those below ``root`` have another checksum than the run's, if it is given, and those have it."""
    given = Paths(record["suite"], root)
    home = next((each.parent for each in folder.resolve().parents if each.name == "results"), root)
    own = Paths(record["suite"], home)
    if not given.pack(record["dataset"]).exists():
        return own
    here, there = (json_object(each.pack(record["dataset"]) / "meta.json").get("sha256") for each in (given, own))
    return own if here != data_sha256 == there else given


def kept(path: Path) -> bool:
    """Whether a file holds its content, and not the note :data:`NOT_KEPT`."""
    return path.stat().st_size != len(NOT_KEPT) or path.read_bytes() != NOT_KEPT.encode()


def is_under_way(folder: Path) -> bool:
    """Whether a process works on a run; no lock is made or taken."""
    return folder.with_name(f".{folder.name}.holder").is_file() and is_held(folder)
