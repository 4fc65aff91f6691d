"""Saved states of interrupted work, and where they are moved when other work replaces them."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from lapml.common.lazy import torch
from lapml.common.recorded import MISSING, differing
from lapml.files import atomic

SHOWN = 6  # differences that a message names
NOT_NOW = {  # errors of the system that say nothing of a file's content
    errno.EACCES, errno.EAGAIN, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM, errno.ESTALE,
    errno.ETIMEDOUT,
}  # fmt: skip


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state whole or not at all; OSError, with what the system says, where it cannot be."""
    with atomic(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a name, torch hides the system's error
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # else a crash may leave it empty
        except RuntimeError as error:  # closing its archive fails too
            raise next(
                (each for each in (error.__context__, error.__cause__) if isinstance(each, OSError)), error
            ) from None


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The saved state, if it has that key."""
    state = read(path)
    return state if state and state.get("key") == key else None


def read(path: Path) -> dict[str, Any] | None:
    """A saved state, or None if missing or damaged.

    Raises:
        OSError: it cannot be read now: for want of memory, or of the disk.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from None
        if isinstance(error, OSError) and error.errno in NOT_NOW:
            raise
        return None
    return state if isinstance(state, dict) else None


def state_differences(state: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """How the record ``made`` of a saved state differs from that of the work at hand, see :func:`differences`."""
    found = state.get("made")
    return differences(found, json.loads(json.dumps(made))) if found else ["lapml: found another version"]


def differences(found: Any, asked: Any, key: str = "") -> list[str]:
    """Where two records differ: ``train.epochs: found 12, asked for 2``. Absent keys count as null."""
    pairs = [
        (each, *(None if value is MISSING else value for value in values))
        for each, *values in differing(found, asked, key)
    ]
    return [
        f"{each.removeprefix('settings.')}: found {_short(left)}, asked for {_short(right)}"
        for each, left, right in pairs
        if left != right
    ]


def shown(lines: list[str]) -> str:
    """The first differences in one line, and how many there are beyond."""
    more = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def state_aside(path: Path) -> Path:
    """Move a saved state beside its run folder; returns its path."""
    target = next_old(path.parent)
    target.mkdir(parents=True)
    os.replace(path, target / path.name)
    return target / path.name


def olds(folder: Path) -> list[Path]:
    """Where what lay in a folder before is kept: NAME.old-1 beside it, and so on."""
    return [each for each in folder.parent.glob(f"{folder.name}.old-*") if each.is_dir()]


def next_old(folder: Path) -> Path:
    """Where the content of a folder is kept when replaced: ``NAME.old-1`` beside it, or the next number."""
    numbers = [int(each.name.rpartition("-")[2]) for each in olds(folder) if each.name.rpartition("-")[2].isdigit()]
    return folder.with_name(f"{folder.name}.old-{max(numbers, default=0) + 1}")


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text[:12] if len(text) in (40, 64) else text[:60]
