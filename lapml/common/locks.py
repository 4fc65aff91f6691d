"""Locks: one process at a time per run folder. The system frees them when their holder dies."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lapml.common import ranks
from lapml.files import json_object, write_json

WAIT = 20.0  # seconds between two tries; ranks synchronise in between


@contextmanager
def alone(thing: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file or folder; another process waits, and logs for whom. All ranks call this, rank 0 holds it.

    Args:
        thing: its lock is ``.NAME.lock`` beside it, which stays; ``.NAME.holder`` says who holds it.
        log: takes a line if another process holds the lock.
    """
    lock, holder = _files(thing)
    if not ranks.on_first(lambda: _taken(lock, 0)):
        log(f"{thing}: {_who(holder)} is working on it; waiting for its end")
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
    """Who holds the lock of a file or folder, in words; None if free."""
    lock, holder = _files(thing)
    if not _taken(lock, 0):
        return _who(holder)
    lock.release()
    return None


def is_held(thing: Path) -> bool:
    """Whether a process holds the lock of a file or folder. The lock is only read, as it may be another user's; none is made."""
    try:
        lock = os.open(_lock(thing), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(lock)
    return False


def _lock(thing: Path) -> Path:
    return thing.with_name(f".{thing.name}.lock")


def _files(thing: Path) -> tuple[FileLock, Path]:
    thing.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(_lock(thing)), thing.with_name(f".{thing.name}.holder")


def _taken(lock: FileLock, wait: float) -> bool:
    try:
        lock.acquire(timeout=wait, poll_interval=0.2)
    except Timeout:
        return False
    return True


def _who(holder: Path) -> str:
    found = json_object(holder)
    if not {"pid", "host", "since"} <= found.keys():  # between its lock and its note
        return "another process"
    return f"process {found['pid']} on {found['host']}, since {found['since']},"
