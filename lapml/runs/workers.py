"""Further processes on this machine that share the work of a command."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lapml.errors import LapmlError, Stopped

CONTEXT: Any = multiprocessing.get_context("spawn")  # CUDA cannot be forked


@contextmanager
def beside(
    count: int, help_with: Callable[..., None], arguments: tuple[Any, ...], log: Callable[[str], None]
) -> Iterator[None]:
    """Processes that call ``help_with(*arguments)``. At the end they are waited for; where the work here fails, they are asked to
    stop first. One that dies is reported, and its work is left to the others.
    """
    processes = [
        CONTEXT.Process(target=_run, args=(help_with, arguments), daemon=True, name=f"worker {number + 2}")
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
            if process.exitcode:
                log(f"{process.name} ended early, with status {process.exitcode}")


def _run(help_with: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        help_with(*arguments)
    except LapmlError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(Stopped.status)


def say(line: str) -> None:
    """Print a line at once, in one of several processes."""
    print(line, flush=True)
