"""Intervals of ratios of sums over (model, image), by the hierarchical bootstrap of lapml/analysis/stats.py."""

import warnings
from collections.abc import Iterable

import numpy as np

from lapml.config import Params

BLOCK = 200  # replicates at once
SEED = 0  # of the resampling, the same for all: replicates of two mixers are paired


def estimated(
    above: np.ndarray, below: np.ndarray, metrics: Iterable[str], params: Params
) -> tuple[dict[str, float], np.ndarray]:
    """A table's row, {METRIC, METRIC_low, METRIC_high} of each of M ratios, and the replicates (R, M) of :func:`replicates`
    behind it."""
    draws = replicates(above, below, params.report.bootstrap, SEED)
    row: dict[str, float] = {}
    low, high = percentiles(draws, params.report.confidence)
    for column, (metric, value) in enumerate(zip(metrics, whole(above, below), strict=True)):
        row |= {metric: value, f"{metric}_low": low[column], f"{metric}_high": high[column]}
    return row, draws


def replicates(above: np.ndarray, below: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw models and images with replacement, and take the ratio of sums in each replicate.

    Args:
        above, below: (S, N, M) numerators and denominators of M metrics by model and image.
        count: number of replicates R.
        seed: of the draws, which depend only on it, S and N: replicates of two calls are paired.

    Returns:
        (R, M); NaN where a denominator is 0.
    """
    models, images, metrics = above.shape
    both = np.stack([above, below], 2).astype(np.float32)  # (S, N, 2, M)
    flat = np.moveaxis(both, 1, 0).reshape(images, -1)
    rng = np.random.default_rng(seed)
    found = np.empty((count, 2, metrics))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        model_draws = rng.multinomial(models, np.full(models, 1 / models), size=size)
        image_draws = rng.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float32)
        sums = (image_draws @ flat).reshape(size, models, 2, metrics)
        found[start : start + size] = np.einsum("rs,rskm->rkm", model_draws, sums)
    return _ratio(found[:, 0], found[:, 1])


def whole(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(M,) ratios of all sums; arguments as in :func:`replicates`."""
    return _ratio(above.sum((0, 1)), below.sum((0, 1)))


def percentiles(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of replicates (R, …) along the first axis, NaN ignored; NaN if all are."""
    tail = (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
        low, high = np.nanquantile(values, [tail, 1 - tail], axis=0, method="nearest")  # a ratio may be infinite
    return low, high


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)
