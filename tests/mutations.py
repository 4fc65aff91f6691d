"""Damage to files, by seed: what a user's editor, a full disk, another tool or another version may leave; and how it ends."""

import copy
import json
import math
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.errors import LapmlError

SECONDS = 10  # of computing that a command may take to find out
WAITING = 120  # seconds after which it waits for something: other work on the machine takes its time too
ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.0, -0.5, 1.5, 1e308, 5e-324, math.nan, math.inf, -math.inf, "", " ", "x",
    "tuned", "null", "0", "1e3", "a\nb", "\x00", "\ud800", "ü" * 300, "../../x", [], {}, [[]], {"": {}}, {"a": 1}, [1, 2, 3], ["x"],
    [None], list(range(1000)), {"name": "x"}, {"name": None}, {"name": "localized", "alpha": 1}, "drawn", "all",
]  # fmt: skip
DEEP = 100_000  # brackets within brackets


def odd(rng: np.random.Generator) -> Any:
    return copy.deepcopy(ODD[rng.integers(len(ODD))])


def places(record: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values of a JSON record."""
    inside = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    return [path, *(each for key, value in inside for each in places(value, (*path, key)))]


def structure(rng: np.random.Generator, record: Any) -> Any:
    """A copy with one to three values replaced, gone, renamed, doubled, or beside an unknown one."""
    record = copy.deepcopy(record)
    for _ in range(rng.integers(1, 4)):
        found = places(record)[1:]
        if not found:
            return odd(rng)
        *parents, last = found[rng.integers(len(found))]
        where = record
        for key in parents:
            where = where[key]
        how = rng.integers(6)
        if how <= 2:
            where[last] = odd(rng)
        elif how == 3:
            del where[last]
        elif isinstance(where, dict):
            where[f"{last}_" if how == 4 else "novelty"] = where.pop(last) if how == 4 else odd(rng)
        else:
            where.insert(0, odd(rng))
    return record


def noise(rng: np.random.Generator, content: bytes) -> bytes:
    """A copy cut off, with bytes flipped, put in or gone, empty, doubled, in another encoding, or something else altogether."""
    at, end = sorted(rng.integers(len(content) + 1, size=2).tolist())
    how = rng.integers(13)
    if how == 0:
        return content[:at]
    if how == 1:
        return content[at:]
    if how == 2:
        return content[:at] + content[end:]
    if how == 3:
        return content[:at] + rng.bytes(int(rng.integers(1, 9))) + content[at:]
    if how == 4:
        flipped = bytearray(content)
        for place in rng.integers(len(content), size=int(rng.integers(1, 9))) if content else ():
            flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    if how == 5:
        return content + content
    if how == 6:
        return b"\xef\xbb\xbf" + content
    if how == 7:
        return content.replace(b"\n", b"\r\n")
    if how == 8:
        return content.decode("utf-8", "replace").encode("utf-16")
    if how == 9:
        lines = content.splitlines(keepends=True)
        rng.shuffle(lines)
        return b"".join(lines)
    if how == 10:
        return content[:at] + b"\0" * int(rng.integers(1, 5000)) + content[end:]
    if how == 11:
        return [
            b"",
            b"\n",
            b"[" * DEEP,
            b'{"a":' * DEEP,
            b"null",
            b"[]",
            b'""',
            b"NaN",
            b"\xff\xfe",
            b"PAR1",
            b"\x80\x02.",
        ][rng.integers(11)]
    swapped = bytearray(content)
    if len(content) > 1:
        a, b = rng.integers(len(content), size=2)
        swapped[a], swapped[b] = swapped[b], swapped[a]
    return bytes(swapped)


def json_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    if rng.random() < 0.35:
        return noise(rng, content)
    return json.dumps(structure(rng, json.loads(content)), indent=2).encode()


def csv_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """History of a run."""
    if rng.random() < 0.4:
        return noise(rng, content)
    lines = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.integers(1, 4)):
        row, column = int(rng.integers(len(lines))), int(rng.integers(len(lines[0])))
        how = rng.integers(5)
        if how == 0 and column < len(lines[row]):
            lines[row][column] = ["", "x", "nan", "inf", "-1", "1e999", '"', '"a,b"', "0x1", "1,5", "\x00", "ü"][
                rng.integers(12)
            ]
        elif how == 1:
            lines = [line[:column] + line[column + 1 :] for line in lines]
        elif how == 2 and len(lines) > 1:
            del lines[row]
        elif how == 3:
            lines.insert(row, list(lines[row]))
        else:
            lines[row] = lines[row][: column + 1] + ["y"] * int(rng.integers(3))
        lines = [line for line in lines if line] or [[""]]
    return "\n".join(",".join(line) for line in lines).encode()


def parquet_file(rng: np.random.Generator, path: Path) -> None:
    """Predictions of a run."""
    if rng.random() < 0.35:
        path.write_bytes(noise(rng, path.read_bytes()))
        return
    table = pd.read_parquet(path)
    column = table.columns[rng.integers(len(table.columns))]
    how = rng.integers(9)
    if how == 0:
        table = table.drop(columns=column)
    elif how == 1:
        table = table.rename(columns={column: f"{column}_"})
    elif how == 2:
        table[column] = [["x", None, -1, 10**9, math.nan, True, "", 1.5, b"\xff"][rng.integers(9)]] * len(table)
    elif how == 3:
        table[column] = table[column].astype(object).where(rng.random(len(table)) < 0.5, None)
    elif how == 4:
        table = table.iloc[: int(rng.integers(3))]
    elif how == 5:
        table = pd.concat([table, table.iloc[:3]])
    elif how == 6:
        table = table.sample(frac=1, random_state=int(rng.integers(99)))
    elif how == 7:
        table[column] = table[column].astype(str)
    else:
        table[column] = [[1, 2]] * len(table)
    table.to_parquet(path, index=bool(rng.integers(2)))


class Hang(BaseException):
    pass


@contextmanager
def alarm():
    def late(*_):
        raise Hang

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, WAITING), signal.SIGPROF: (signal.ITIMER_PROF, SECONDS)}
    before = {number: signal.signal(number, late) for number in timers}
    try:
        for timer, seconds in timers.values():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def outcome(run: Callable[[], Any], names: Path | str = "") -> str:
    """``right``, ``clear error``, ``traceback: …`` or ``hang``.

    Args:
        names: what a clear error's message holds: the name of the file.
    """
    try:
        with alarm():
            run()
    except LapmlError as error:
        message = str(error)
        if str(names) not in message:
            return f"traceback: LapmlError without {names}: {message[:300]}"
        return "clear error"
    except Hang:
        return "hang"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [each for each in last if "/lapml/" in each.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"traceback: {where}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "right"


def counted(outcomes: list[str]) -> Counter:
    return Counter(each.partition(":")[0] for each in outcomes)
