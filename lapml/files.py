"""Files: checksums, text that is written whole or not at all, folders to work in, and what a finished run left."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lapml.errors import LapmlError
from lapml.paths import RUN_FILES
from lapml.recorded import Config, Provenance, checked

NOT_KEPT = "The run was taken over from results/published, where no weights are kept.\n"  # in place of them


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, record: Any) -> None:
    """Write JSON, see :func:`write_text`."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; folders are made."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new, empty folder that is gone afterwards; one that a killed process left there is removed first."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when its process dies; another that wants it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, which becomes ``path`` at the end; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def open_run(folder: Path, optional: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and provenance.json of a complete run folder.

    Args:
        optional: files that may be absent, as the model is from a published copy.

    Raises:
        LapmlError: a file is missing or damaged, or is not the one that provenance.json was written with.
    """
    missing = [name for name in RUN_FILES if name not in optional and not (folder / name).is_file()]
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


def kept(path: Path) -> bool:
    """Whether a file that is not published holds what it should, and not the note in its place."""
    return path.stat().st_size != len(NOT_KEPT) or path.read_bytes() != NOT_KEPT.encode()
