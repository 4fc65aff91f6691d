"""Mutations of files, drawn from a seed, and what comes of reading them: used by test_fuzz.py.

Outcomes: ``right`` (what the sound file gives), ``other`` (it is read, to something else: no format can tell every flipped
bit), ``error`` (a LapmlError of one line, or a finding of check), ``traceback`` (any other exception, or a message of several
lines), ``hang``.
"""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lapml.errors import LapmlError

LONGEST = 10  # seconds
Rng = np.random.Generator


class _Hang(BaseException):
    pass


def outcome(read: Callable[[], Any], expected: Any, same: Callable[[Any, Any], bool]) -> tuple[str, str]:
    """What comes of ``read``, and a few words about it."""

    def ring(*_):
        raise _Hang

    before, started = signal.signal(signal.SIGALRM, ring), time.monotonic()
    signal.alarm(LONGEST)
    try:
        found = read()
        kind, about = ("right" if same(found, expected) else "other"), ""
    except LapmlError as error:
        about = str(error)
        kind = "error" if about.strip() and "\n" not in about else "traceback"
    except _Hang:
        kind, about = "hang", ""
    except BaseException as error:  # what a user would see as a traceback
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, about = "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ("hang" if time.monotonic() - started > LONGEST else kind), about


def of_bytes(content: bytes, rng: Rng, count: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the bytes): cut at every tenth, flipped bits, pieces removed, doubled, blanked and overwritten."""
    for tenth in range(10):
        yield f"cut at {tenth}/10", content[: len(content) * tenth // 10]
    yield "cut by a byte", content[:-1]
    yield "with a tail", content + b"tail" * 9
    for number in range(count - 12):
        data, at = bytearray(content), int(rng.integers(len(content)))
        early = int(rng.integers(min(len(content), 64)))  # headers lie at the start
        size = int(rng.integers(1, max(2, len(content) // 8)))
        match number % 8:
            case 0 | 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2 | 3:
                data[early] ^= 1 << int(rng.integers(8))
            case 4:
                data[at : at + size] = b"\0" * len(data[at : at + size])
            case 5:
                data[at : at + size] = rng.bytes(len(data[at : at + size]))
            case 6:
                del data[at : at + size]
            case 7:
                for _ in range(8):
                    data[int(rng.integers(len(data)))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
        yield f"mutation {number}", bytes(data)


VALUES = (
    "-1", "0", "1e400", "nan", "NaN", "inf", "-inf", "1e-320", "99999999999999999999", "2147483648", "1.5", "", "٣", "²", "0x10",
    "1_000", "a", "../../etc/passwd", "/etc/passwd", "\0", "é", "\ud7ff", "x" * 5000, "1,5", "-0", "+1", "True", "None", "'", '"',
)  # fmt: skip


def of_text(content: bytes, rng: Rng, count: int) -> Iterator[tuple[str, bytes]]:
    """As :func:`of_bytes`, and by lines, values and encodings."""
    text = content.decode()
    lines = text.splitlines(keepends=True)
    for encoding in ("utf-16", "utf-8-sig", "utf-32", "cp500"):
        yield encoding, text.encode(encoding)
    yield "latin-1", (text.replace("a", "\xe9", 3)).encode("latin-1")
    yield "carriage returns", text.replace("\n", "\r\n").encode()
    yield "old carriage returns", text.replace("\n", "\r").encode()
    yield "one line", text.replace("\n", " ").encode()
    yield "spaces", text.replace(" ", "   ").replace("\n", "  \n\n").encode()
    yield "tabs", text.replace(" ", "\t").encode()
    yield "commas", text.replace(" ", ",").encode()
    yield "blank", b"\n \n"
    yield "nothing but zeros", bytes(len(content))
    yield "a web page", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "an image", b"\xff\xd8\xff\xe0" + rng.bytes(200)
    for number in range(count - 15 - 30):
        made, at, other = list(lines), int(rng.integers(len(lines))), int(rng.integers(len(lines)))
        match number % 6:
            case 0:
                made.insert(other, made[at])
            case 1:
                del made[at]
            case 2:
                made[at], made[other] = made[other], made[at]
            case _:
                words = made[at].split(" ")
                words[int(rng.integers(len(words)))] = VALUES[int(rng.integers(len(VALUES)))]
                made[at] = " ".join(words).rstrip("\n") + "\n"
        yield f"lines {number}", "".join(made).encode("utf-8", "surrogatepass")
    yield from of_bytes(content, rng, 30)
