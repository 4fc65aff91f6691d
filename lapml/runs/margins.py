"""Values of a trial: drawn from their ranges, margins by quantiles of the distances that occur too."""

from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, Trial

from lapml.common.recorded import Value
from lapml.config import Choices, Params, Range
from lapml.config.method import Margin
from lapml.config.spaces import is_whole
from lapml.runs.occurring import Distances
from lapml.runs.study import VALUES


def valued(
    drawn: dict[str, Any],
    space: dict[str, Range | Choices],
    margin: Margin,
    frozen: dict[str, float],
    without: dict[str, Any],
) -> dict[str, Any]:
    """The values that were drawn, with distances in the place of their quantiles."""
    values, distances = dict(drawn), Distances.read(without)
    own = {"m": margin.m, "scale": margin.scale, **frozen}
    own |= {path.removeprefix("margin."): value for path, value in drawn.items()}
    by_quantile = [name for name in drawn if space[name].quantile]
    for name in {"m", "margin.m"}.intersection(by_quantile):
        own["m"] = values[name] = distances.margin(drawn[name], own["scale"])
    for name in {"delta", "adaptive.delta"}.intersection(by_quantile):
        values[name] = distances.delta(drawn[name], own["m"], own["scale"])
    return values


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """Those of a trial."""
    return trial.user_attrs.get(VALUES, trial.params)


def quantiles(without: dict[str, Any]) -> dict[str, float]:
    """Of the distances that occur, for the tuned file."""
    return {f"{share:.0%}": round(float(np.quantile(without["d"], share)), 4) for share in (0.1, 0.25, 0.5, 0.75, 0.9)}


def draw(trial: Trial, params: Params, dataset: str, method: str) -> dict[str, Value]:
    """One value of each setting that is searched; ``params``: of the data set."""
    values: dict[str, Value] = {}
    for name, each in params.searched(method).items():
        if isinstance(each, Choices):
            values[name] = trial.suggest_categorical(name, each.choices)
        elif name in params.tune.methods.get(method, {}) and is_whole(params, dataset, method, name):
            values[name] = trial.suggest_int(name, int(each.low), int(each.high), log=each.log)
        else:
            values[name] = trial.suggest_float(name, each.low, each.high, log=each.log)
    return values


def shown(values: dict[str, Value]) -> str:
    """Values for a line of the log."""
    return ", ".join(f"{name} = {figure(value)}" for name, value in values.items())


def figure(value: Value) -> str:
    """One value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
