"""Which runs a kit makes, and in which order; and how many of them side by side finish soonest."""

import numpy as np

from lapml.config import Params
from lapml.errors import LapmlError
from lapml.report.carried import Job


def jobs(params: Params) -> list[Job]:
    """Seeds outermost: whenever the time is over, as many methods as possible have as many seeds as possible."""
    return [
        Job(dataset, method, seed) for seed in params.seeds for dataset in params.datasets for method in params.ablation
    ]


def refuse_unfit(params: Params) -> None:
    """LapmlError for a suite whose runs need more than the other machine has."""
    if params.tuned_methods:
        methods = ", ".join(params.tuned_methods)
        raise LapmlError(
            f"tuned_methods: found {methods}, expected none: they are tuned by Optuna, which a kit does not bring. Tune where "
            "it is (`lapml tune`), write the numbers that it finds, and list these methods under ablation"
        )


def finish(rates: dict[int, float], runs: int, together: int) -> float:
    """How long equal runs take, in images a run over images a second, with ``together`` runs side by side.

    Full rounds go at the speed measured for ``together``, what is left over at that of its number, between measured ones
    in a straight line.

    Args:
        rates: images a second of all runs together, by how many there are.
    """
    known = sorted(rates)
    full, rest = divmod(runs, together)
    speed = lambda count: float(np.interp(count, known, [rates[each] for each in known]))  # noqa: E731
    return full * together / speed(together) + (rest / speed(rest) if rest else 0.0)


def soonest(rates: dict[int, float], runs: int) -> int:
    """How many runs side by side finish all of them soonest; of equals the fewest.

    Raises:
        LapmlError: none came so far that its speed is known.
    """
    measured = {count: rate for count, rate in rates.items() if rate > 0}
    if not measured:
        raise LapmlError(
            "side by side: no run came to its first step in that time; give more --probe-seconds, or --jobs"
        )
    return min(sorted(measured), key=lambda count: finish(measured, runs, min(count, runs)))
