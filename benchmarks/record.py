"""How benchmarks are taken and written. No torch here, as none is loaded where data sets are packed."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lapml.analysis.stats import t_interval
from lapml.common.provenance import command, commit, versions
from lapml.files import write_json, write_text


def interleaved(contenders: dict[Any, Callable[[], float]], repeats: int) -> dict[Any, list[float]]:
    """Each contender's times, measured once per round, in a new random order each round."""
    times: dict[Any, list[float]] = {name: [] for name in contenders}
    names, order = list(contenders), np.random.default_rng(0)
    for _ in range(repeats):
        for at in order.permutation(len(names)):
            times[names[at]].append(contenders[names[at]]())
    return times


def ratio(above: list[float], below: list[float], confidence: float) -> list[float]:
    """(mean, half-width of the Student-t interval) of the rounds' ratios."""
    return [float(x) for x in t_interval(np.divide(above, below), confidence)]


def circumstances(device: str) -> dict[str, Any]:
    """When, where and by which code something was measured."""
    revision, dirty = commit()
    return {
        "command": command(),
        "commit": revision,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "device": device,
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def revision(record: dict[str, Any]) -> str:
    """The commit of :func:`circumstances`, as it is written below tables."""
    return f"commit {(record['commit'] or 'none')[:10]}{' (changed)' if record['dirty'] else ''}"


def written(record: dict[str, Any], text: str, folder: Path | None, name: str) -> str:
    """``text``, put beside the record into ``folder`` if that is given."""
    if folder is not None:
        write_json(folder / f"{name}.json", record)
        write_text(folder / f"{name}.md", text + "\n")
    return text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column is of names, the others of numbers."""
    lines = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [next(lines), f"|---|{'---:|' * (len(heads) - 1)}", *lines]


def interval(value: list[float] | None) -> str:
    """A ratio with its half interval, as text; empty where there is none."""
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"
