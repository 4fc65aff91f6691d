"""How many runs of a suite are left, and how long they take, by the finished ones."""

from collections import defaultdict
from statistics import fmean
from typing import Any

from lapml.common.provenance import device_name
from lapml.common.text import duration
from lapml.config import Params
from lapml.models.device import pick_device
from lapml.paths import Paths
from lapml.runs.watching import DONE, RUNNING, standings


def left(params: Params, paths: Paths) -> str:
    """One line: how many runs are done, and how long the others take, at as many at a time as are under way now.

    A run is expected to take as long as those of its method that this kind of device has finished, else as those of its data
    set, else as all. One that is under way counts as a whole one, since how far it has come is not known here.
    """
    device = device_name(pick_device(params.train)[0])
    runs = standings(params, paths)
    waiting = [run for run in runs if run.state != DONE]
    seconds: dict[Any, list[float]] = defaultdict(list)
    for run in runs:
        if run.state == DONE and run.device == device:
            for key in ((run.dataset, run.method), run.dataset, None):
                seconds[key].append(run.took)
    done = f"{len(runs) - len(waiting)} of {len(runs)} runs of suite {params.suite} are done"
    if not waiting or not seconds:
        return done
    each = [
        fmean(seconds.get((run.dataset, run.method)) or seconds.get(run.dataset) or seconds[None]) for run in waiting
    ]
    under_way = sum(run.state == RUNNING for run in runs)
    at_once = min(under_way + 1, len(waiting))  # this process, which is done, makes room for the next
    rest = f"{len(waiting)} take" if len(waiting) > 1 else "one takes"
    return f"{done}; the other {rest} about {duration(sum(each) / at_once)}, {at_once} at a time"
