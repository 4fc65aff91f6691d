"""One process at a time at a run folder or a study. The system frees these locks when their holder dies, however it does."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lapml.common import ranks
from lapml.files import write_json

WAIT = 20.0  # seconds between two looks of those that wait; several ranks meet in between, which may take no minutes


@contextmanager
def alone(thing: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file or folder. Who comes second waits, and says for whom. Of several ranks the first one holds it; all
    of them call this.

    Args:
        thing: its lock is ``.NAME.lock`` beside it, which stays; ``.NAME.holder`` says who holds it.
        log: takes a line where there is somebody to wait for.
    """
    lock, holder = _files(thing)
    if not ranks.on_first(lambda: _taken(lock, 0)):
        log(f"{thing}: {_who(holder)} is at work on it; waiting for its end")
        while not ranks.on_first(lambda: _taken(lock, WAIT)):
            pass
    try:
        if ranks.rank() == 0:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        if ranks.rank() == 0:
            holder.unlink(missing_ok=True)
            lock.release()


def holder_of(thing: Path) -> str | None:
    """Who holds the lock of a file or folder, in words; None where nobody does."""
    lock, holder = _files(thing)
    if not _taken(lock, 0):
        return _who(holder)
    lock.release()
    return None


def _files(thing: Path) -> tuple[FileLock, Path]:
    thing.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(thing.with_name(f".{thing.name}.lock")), thing.with_name(f".{thing.name}.holder")


def _taken(lock: FileLock, wait: float) -> bool:
    try:
        lock.acquire(timeout=wait, poll_interval=0.2)
    except Timeout:
        return False
    return True


def _who(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, since {found['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its note
        return "another process"
