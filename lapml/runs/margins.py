"""Margins of a trial: drawn from a range, by quantiles of the distances that occur too."""

from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, Trial

from lapml.config import Range
from lapml.config.method import Margin
from lapml.config.parts import Space
from lapml.runs.occurring import Distances
from lapml.runs.study import VALUES


def valued(
    drawn: dict[str, float], space: Space, margin: Margin, frozen: dict[str, float], without: dict[str, Any]
) -> dict[str, float]:
    """The margins that were drawn, with distances in the place of their quantiles."""
    values, distances = dict(drawn), Distances.read(without)
    if "m" in drawn and space.m.quantile:
        values["m"] = distances.margin(drawn["m"], margin.scale)
    if "delta" in drawn and space.delta.quantile:
        m = {"m": margin.m, **frozen, **values}["m"]
        values["delta"] = distances.delta(drawn["delta"], m, margin.scale)
    return values


def values_of(trial: FrozenTrial) -> dict[str, float]:
    """The margins of a trial."""
    return trial.user_attrs.get(VALUES, trial.params)


def quantiles(without: dict[str, Any]) -> dict[str, float]:
    """Of the distances that occur, for the tuned file."""
    return {f"{share:.0%}": round(float(np.quantile(without["d"], share)), 4) for share in (0.1, 0.25, 0.5, 0.75, 0.9)}


def suggested(trial: Trial, name: str, each: Range) -> float:
    """One value, drawn."""
    return trial.suggest_float(name, each.low, each.high, log=each.log)


def shown(values: dict[str, float]) -> str:
    """Margins for a line of the log."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
