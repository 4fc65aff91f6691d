"""Files: checksums, atomic writes, locks and temporary folders."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, record: Any) -> None:
    """Write JSON, see :func:`write_text`."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; makes its folder."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def linked_or_copied(file: Path, place: Path) -> str:
    """Put a file in another place too; returns by what: hard links, symbolic links or copies, the first that the disk takes."""
    try:
        os.link(file, place)
        return "hard links"
    except OSError:  # on another disk, or of another owner
        pass
    try:
        place.symlink_to(os.path.relpath(file, place.parent.resolve()))
        return "symbolic links"
    except OSError:
        shutil.copy2(file, place)
        return "copies"


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new, empty folder that is removed afterwards; what a killed process left there is removed first."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Replace ``target`` by a hard link, or by a copy if the file system has no links."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def synced(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk itself, where the file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # of a folder, on some of them
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, busy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock, which the system frees when the process dies; others call ``busy``, which may raise, and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to ``path`` at the end; makes its folder."""
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
