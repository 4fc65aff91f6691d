"""Intervals over seeds, and tests of the difference between two rows of a table.

The unit of evidence is a training run (a seed) *and* a test image: another seed would give another network, another
test set other images. So the difference of two rows is tested by resampling both (a hierarchical, or "pigeonhole",
bootstrap: Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 2007), and the p-values of one table are
corrected by Holm's method (Holm, *A simple sequentially rejective multiple test procedure*, 1979).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from lapml.errors import LapmlError

CELLS = 4_000_000  # drawn counts held at once: 32 MB


class Difference(NamedTuple):
    """Mean of ``a − b``, its percentile interval and its two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean and half-width of the Student-t interval of the mean.

    Args:
        values: (n,) one number a seed.
        confidence: such as 0.95.

    Returns:
        (mean, half_width) in the unit of ``values``; half_width is NaN for n = 1, which has no spread.

    Raises:
        LapmlError: no value, a value that is not finite, or a confidence outside (0, 1).
    """
    sample = np.asarray(values, dtype=float)
    _check_confidence(confidence)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise LapmlError(f"t_interval: found {sample.tolist()}, expected one or more finite numbers")
    mean = float(sample.mean())
    if sample.size == 1:
        return mean, math.nan
    error = sample.std(ddof=1) / math.sqrt(sample.size)
    return mean, float(stats.t.ppf((1 + confidence) / 2, sample.size - 1) * error)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, replicates: int, confidence: float, seed: int) -> Difference:
    """Hierarchical paired bootstrap of the difference of two accuracies.

    A replicate draws S seeds and N images, both with replacement and the same for ``a`` and ``b``, and takes the mean
    of ``a − b`` over all drawn (seed, image) pairs. With S = 1 only the images vary: the interval then says nothing
    about training once more.

    Its calibration, by simulation at level 0.05 (``tests/test_stats.py`` repeats a part): resampling S seeds understates
    what a seed contributes, by (S − 1)/S of its variance, and resampling both overstates what a single answer contributes.
    So it is cautious (rate of false positives below 0.03) on some hundred test images, or where training again moves the
    accuracy by half a point; where that moves it by more than a point on thousands of images, it is too bold with few
    seeds (0.15 at S = 3, 0.07 at S = 5).

    Args:
        a, b: (S, N) 1 where the answer is right, else 0; row i of both is the same seed, column j the same image.
        replicates: number of replicates R.
        confidence: of the percentile interval.
        seed: of the draws; the result depends on nothing else.

    Returns:
        :class:`Difference`, as shares (not percent); p = 2·min(#{≤ 0} + 1, #{≥ 0} + 1)/(R + 1), at most 1.

    Raises:
        LapmlError: shapes differ or are empty, a value is not finite, or a setting is out of range.
    """
    a, b = np.asarray(a), np.asarray(b)
    _check_confidence(confidence)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise LapmlError(f"paired_bootstrap: found shapes {a.shape} and {b.shape}, expected the same (seeds, images)")
    if replicates < 1:
        raise LapmlError(f"paired_bootstrap: found {replicates} replicates, expected at least 1")
    difference = a.astype(float) - b.astype(float)
    if not np.isfinite(difference).all():
        raise LapmlError("paired_bootstrap: found a value that is not finite, expected 0 and 1")
    seeds, images = difference.shape
    # Images with the same differences in all seeds are exchangeable: how often each *kind* is drawn is multinomial
    # too, and there are at most 3^S kinds, so nothing of size (replicates, images) is ever made.
    kinds, counts = np.unique(difference, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    means = np.empty(replicates)
    step = max(1, CELLS // kinds.shape[1])
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        seed_draws = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        image_draws = rng.multinomial(images, counts / images, size=size)
        means[start : start + size] = np.einsum("rk,rk->r", seed_draws @ kinds, image_draws) / (seeds * images)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # Sums of 0, ±1 that cancel are exactly 0 in float64, so these comparisons count ties as ties.
    extreme = min((means <= 0).sum(), (means >= 0).sum()) + 1
    return Difference(
        float(difference.mean()), float(low), float(high), min(1.0, float(2 * extreme / (replicates + 1)))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that keep the family-wise error rate.

    Args:
        p_values: (n,) in [0, 1]; NaN stands for "no test", is kept and not counted.

    Returns:
        (n,) corrected p-values in the order given, each at least its input and at most 1.

    Raises:
        LapmlError: a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise LapmlError(f"holm: found {p.tolist()}, expected p-values in [0, 1]")
    corrected = np.full(p.shape, math.nan)
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected.tolist()


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise LapmlError(f"confidence: found {confidence}, expected a number between 0 and 1, such as 0.95")
