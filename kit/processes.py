"""The processes of a kit: what asks them to stop, and that none outlives the kit or meets another one's."""

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from lapml.errors import LapmlError, Stopped

TICK = 0.1  # seconds between looks at what is running
GRACE = 60.0  # seconds for a run to save its state
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None)  # loaded here, not between fork and exec


class Asked:
    """Whether to stop: after SIGTERM, Ctrl-C, or a number of seconds."""

    def __init__(self, seconds: float = 0):
        self.started, self.seconds, self.signal = time.monotonic(), seconds, 0
        self.before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        self.before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number

    def __bool__(self) -> bool:
        return bool(self.signal or self.seconds and self.elapsed() > self.seconds)

    def elapsed(self) -> float:
        return time.monotonic() - self.started


@contextmanager
def alone(file: Path, wait: float = 10) -> Iterator[int]:
    """Hold a lock that every started process holds too, so that what a killed kit left running is waited for; LapmlError where
    another one has it. Yields the descriptor that those processes inherit."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LapmlError(
                        f"{file}: another kit/run.sh, or a run that it started, is working here; wait for it, or end it"
                    ) from None
                time.sleep(TICK)
        yield lock.fileno()


def _end_with_parent() -> None:
    """In the child: a kit that is killed takes its runs along (they save their state)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(command: Sequence[str], log: Path, env: Mapping[str, str], lock: int) -> subprocess.Popen:
    """Start a command in a process group of its own (Ctrl-C reaches the kit alone), its output added to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(env), process_group=0,
            pass_fds=[lock], preexec_fn=_end_with_parent,
        )  # fmt: skip


def end(processes: Sequence[subprocess.Popen], grace: float = GRACE) -> None:
    """SIGTERM to each, SIGKILL to those that are still there after ``grace`` seconds, and to what they left behind."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + grace
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(TICK)
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def finish(what: str, command: Sequence[str], log: Path, env: Mapping[str, str], lock: int, asked: Asked) -> None:
    """Run a command to its end; LapmlError with the end of its output where it failed, Stopped where it was asked to stop."""
    log.unlink(missing_ok=True)
    process = start(command, log, env, lock)
    while process.poll() is None:
        if asked:
            end([process], grace=10)
            raise Stopped(f"stopped in: {what}; run the same command again to continue")
        time.sleep(TICK)
    if process.returncode:
        raise LapmlError(f"{what}: failed with status {process.returncode}; {log} ends in:\n{tail(log)}")


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
