"""Intervals over seeds, and tests of the difference between two methods.

The unit of evidence is a training run (a seed) *and* a test image: another seed would give another model, another
test set other images. So the difference of two methods is tested by resampling both (a hierarchical, or "pigeonhole",
bootstrap: Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 2007), and the p-values of one table are
corrected by Holm's method (Holm, *A simple sequentially rejective multiple test procedure*, 1979). Two single runs
are compared by McNemar's test on the images.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from lapml.errors import LapmlError

CELLS = 4_000_000  # drawn counts held at once: 32 MB
POWER = 0.8  # the usual probability of finding an existing difference
MOST_SEEDS = 1000  # larger numbers are infinite
BOOTSTRAP_SEED = 0  # of the resampling, the same for every comparison: a table depends only on its runs


class Difference(NamedTuple):
    """Mean of ``a − b``, its percentile interval and its two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float


class McNemar(NamedTuple):
    """Images that only ``a``, and that only ``b`` gets right, and the two-sided p-value."""

    only_a: int
    only_b: int
    p: float


class Seeds(NamedTuple):
    """The number of seeds needed; low and high: with the spread at either end of its interval.

    NaN: unknown. Infinite: more than :data:`MOST_SEEDS`.
    """

    needed: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One of several differences that were tested together, see :func:`compare_rows`; all NaN without a pair."""

    difference: Difference
    p_holm: float
    significant: bool
    seeds: Seeds

    def in_points(self) -> dict[str, Any]:
        """difference, low, high, in percent; p, p_holm, significant; seeds_needed to show it."""
        mean, low, high, p = self.difference
        tested = {"p": p, "p_holm": self.p_holm, "significant": self.significant, "seeds_needed": self.seeds.needed}
        return {"difference": 100 * mean, "low": 100 * low, "high": 100 * high, **tested}


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean and half-width of the Student-t interval of the mean.

    Args:
        values: (n,) one number per seed.
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

    Its calibration, by simulation at level 0.05 (``tests/analysis/test_stats.py`` repeats a part): resampling S seeds understates
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


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """McNemar's exact test of two single runs on the same images (McNemar, *Note on the sampling error of the difference
    between correlated proportions or percentages*, Psychometrika 1947).

    If both models were equally good, an image that only one of them gets right would be either's with chance 1/2. It says
    whether these two trained models differ, nothing about training once more: that takes several seeds.

    Args:
        a, b: (N,) 1 where the answer is right, else 0; entry j of both is the same image.

    Returns:
        :class:`McNemar`; p = 2·P(X ≤ min(only_a, only_b)), X ~ Binomial(only_a + only_b, 1/2), at most 1.

    Raises:
        LapmlError: shapes differ, are empty or not (N,), or a value is neither 0 nor 1.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise LapmlError(f"mcnemar: found shapes {a.shape} and {b.shape}, expected the same (images,)")
    if not np.isin([a, b], (0, 1)).all():
        raise LapmlError("mcnemar: found a value that is neither 0 nor 1, expected right (1) or wrong (0)")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(only_a, only_b, min(1.0, float(p)))


def seeds_needed(differences: Sequence[float], confidence: float, power: float = POWER) -> Seeds:
    """The smallest number of seeds with which a two-sided paired t-test would see a difference like the one found.

    That is: if the true difference had the mean of ``differences``, and its spread from seed to seed their standard
    deviation, the test at level 1 − confidence would find it with probability ``power`` (by the noncentral t: Cohen,
    *Statistical Power Analysis for the Behavioral Sciences*, 1988).

    It takes the test images as they are: more seeds do not shrink what other images would have changed. And it is
    rough: behind the standard deviation of 3 seeds may be one half or six times as large, which is why ``low`` and
    ``high`` are given, for the ends of its chi-square interval. The mean is taken as exact in all three.

    Args:
        differences: (S,) the difference of two methods, one per seed, in any unit.
        confidence: of the test, and of the interval behind ``low`` and ``high``.
        power: such as 0.8.

    Returns:
        :class:`Seeds`: from 2, or infinite above :data:`MOST_SEEDS`; NaN for one seed, which has no spread, and for no
        difference, which no number of seeds would show. If all differences are equal, 2, and no range.

    Raises:
        LapmlError: no value, a value that is not finite, or a confidence or power outside (0, 1).
    """
    sample = np.asarray(differences, dtype=float)
    _check_confidence(confidence)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise LapmlError(f"seeds_needed: found {sample.tolist()}, expected one or more finite numbers")
    if not 0 < power < 1:
        raise LapmlError(f"power: found {power}, expected a number between 0 and 1, such as 0.8")
    freedom, mean, rounding = sample.size - 1, abs(sample.mean()), 1e-12 * np.abs(sample).max()
    if freedom == 0 or mean <= rounding:
        return Seeds(math.nan, math.nan, math.nan)
    spread = sample.std(ddof=1)
    if spread <= rounding:
        return Seeds(2, math.nan, math.nan)
    tail = (1 - confidence) / 2
    counts = range(2, MOST_SEEDS + 1)

    def needed(effect: float) -> float:
        def reached(seeds: int) -> float:  # t² is noncentral F, which has both tails in one
            return stats.ncf.sf(stats.t.isf(tail, seeds - 1) ** 2, 1, seeds - 1, seeds * effect**2)

        first = bisect_left(counts, power, key=reached)
        return counts[first] if first < len(counts) else math.inf

    ends = np.sqrt(freedom / stats.chi2.isf([tail, 1 - tail], freedom))  # over the spread found
    return Seeds(*(needed(mean / (spread * scale)) for scale in (1.0, *ends)))


def compare_rows(
    pairs: Sequence[tuple[np.ndarray, np.ndarray] | None], replicates: int, confidence: float
) -> list[Comparison]:
    """The differences of one table: each pair by :func:`paired_bootstrap`, all corrected together by :func:`holm`.

    Args:
        pairs: (a, b), each (S, N) as in :func:`paired_bootstrap`; None where there is nothing to compare.
        replicates, confidence: of the bootstrap; every pair starts from the same seed, :data:`BOOTSTRAP_SEED`.

    Returns:
        One :class:`Comparison` per pair. ``significant``: the corrected p is below 1 − confidence, and there is more than
        one seed: a single seed says nothing about the method.

    Raises:
        LapmlError: as :func:`paired_bootstrap`.
    """
    none = Difference(*[math.nan] * 4)
    differences = [paired_bootstrap(*pair, replicates, confidence, BOOTSTRAP_SEED) if pair else none for pair in pairs]
    corrected = holm([difference.p for difference in differences])
    compared = []
    for pair, difference, p in zip(pairs, differences, corrected, strict=True):
        gaps = np.mean(pair[0], axis=1) - np.mean(pair[1], axis=1) if pair else [0.0]
        significant = bool(p < 1 - confidence and len(gaps) > 1)
        compared.append(Comparison(difference, p, significant, seeds_needed(gaps, confidence)))
    return compared


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise LapmlError(f"confidence: found {confidence}, expected a number between 0 and 1, such as 0.95")
