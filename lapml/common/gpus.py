"""GPUs: choose one of several, and report when its memory does not suffice."""

import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from lapml.errors import LapmlError, OutOfMemoryError
from lapml.files import locked

SHORT = ("out of memory", "ALLOC_FAILED")  # in errors of CUDA, cuBLAS and cuDNN that torch passes on
ALONE = "a GPU that no other process uses"  # advice
_taken: tuple[int, IO] | None = None  # this process's GPU, and its open slot


def why_none() -> str:
    """Why torch sees no GPU here, in a few words."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {visible!r}"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        return str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"torch counts {torch.cuda.device_count()} GPUs"


def take(device: int | None = None) -> int:
    """Take one of the visible GPUs for this process; torch's ``cuda`` is that one from now on.

    It is the one that the fewest processes of this user hold, of any suite or checkout, so that jobs spread evenly over the
    GPUs of a machine.

    Args:
        device: its number among the visible ones, if it is chosen already.

    Returns:
        That number; at a later call the same.

    Raises:
        LapmlError: CUDA does not start.
    """
    global _taken
    if _taken is None:
        try:
            visible = range(torch.cuda.device_count())
            names = [str(torch.cuda.get_device_properties(each).uuid) for each in visible]  # the same for every process
            _taken = slot(names, Path(tempfile.gettempdir()) / f"lapml-gpus-{os.getuid()}", device)
            torch.cuda.set_device(_taken[0])
        except (RuntimeError, AssertionError) as error:
            text = str(error).strip().partition("\n")[0]
            raise LapmlError(
                f"train.device: a GPU is here, but CUDA does not start ({text}); check the driver and the job's GPUs, or set "
                "train.device to cpu"
            ) from None
    return _taken[0]


def slot(names: list[str], folder: Path, number: int | None = None) -> tuple[int, IO]:
    """Take a slot of one of several shared things.

    A slot is a locked file, ``NAME.xxxx`` in ``folder``. The system frees the lock when its holder dies.

    Args:
        names: what is shared.
        number: which of them; by default the one with the fewest slots taken, the first of equals.

    Returns:
        (its number, the slot, which is held until it is closed).
    """
    with locked(folder / "lock"):
        held = Counter(path.name.partition(".")[0] for path in folder.glob("*.*") if _is_held(path))
        if number is None:
            number = min(range(len(names)), key=lambda each: held[names[each]])
        handle, _ = tempfile.mkstemp(prefix=f"{names[number]}.", dir=folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return number, os.fdopen(handle, "w")


def _is_held(path: Path) -> bool:
    """Whether a slot's holder lives; the slot of a dead one is removed."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        path.unlink()
        return False


@contextmanager
def memory(what: str, advice: str) -> Iterator[None]:
    """Turn lack of GPU memory into a :class:`~lapml.errors.OutOfMemoryError`.

    Args:
        what: what does not fit, in the plural.
        advice: what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SHORT)):
            raise
        raise OutOfMemoryError(f"{what} do not fit into the GPU's memory", error, advice) from None
