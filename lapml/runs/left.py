"""How many runs of a suite are left, and how long they take, by the finished ones."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from lapml.common.provenance import device_name
from lapml.common.text import duration
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.models.device import pick_device
from lapml.paths import Paths
from lapml.runs.execute import resolved
from lapml.runs.folder import is_under_way


def left(params: Params, paths: Paths) -> str:
    """One line: how many runs are done, and how long the others take, at as many at a time as are under way now.

    A run is expected to take as long as those of its method that this kind of device has finished, else as those of its data
    set, else as all. One that is under way counts as a whole one, since how far it has come is not known here.
    """
    device = device_name(pick_device(params.train)[0])
    seconds: dict[Any, list[float]] = defaultdict(list)
    waiting, under_way, total = [], 0, 0
    for dataset in params.datasets:
        for method in params.all_methods():
            record = _record(params, paths, dataset, method)
            for folder in (paths.run(dataset, method, seed) for seed in params.seeds):
                total += 1
                took = _seconds(folder, record, device)
                if took is None:
                    waiting.append((dataset, method))
                    under_way += is_under_way(folder)
                else:
                    for key in ((dataset, method), dataset, None) if took else ():
                        seconds[key].append(took)
    done = f"{total - len(waiting)} of {total} runs of suite {params.suite} are done"
    if not waiting or not seconds:
        return done
    each = [fmean(seconds.get(run) or seconds.get(run[0]) or seconds[None]) for run in waiting]
    at_once = min(under_way + 1, len(waiting))  # this process, which is done, makes room for the next
    return f"{done}; the other {len(waiting)} take about {duration(sum(each) / at_once)}, {at_once} at a time"


def _record(params: Params, paths: Paths, dataset: str, method: str) -> dict[str, Any] | None:
    """What config.json says of a method's runs, but for the seed; None as long as its margins are not tuned."""
    try:
        return resolved(params, paths, dataset, method, 0).record()
    except LapmlError:
        return None


def _seconds(folder: Path, record: dict[str, Any] | None, device: str) -> float | None:
    """How long a finished run took, 0 if on another device; None if it is not there, or of other settings."""
    try:
        origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        made = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if record is None or made != record | {"seed": made["seed"]}:
            return None
        return float(origin["seconds"]) if origin["device"] == device else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return None
