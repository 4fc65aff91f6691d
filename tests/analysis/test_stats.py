import math
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lapml.analysis.stats import (
    BOOTSTRAP_SEED,
    MOST_SEEDS,
    compare_rows,
    holm,
    mcnemar,
    paired_bootstrap,
    seeds_needed,
    t_interval,
)
from lapml.errors import LapmlError


def test_t_interval_is_scipys():
    values = [36.9, 34.8, 35.0, 37.4]
    mean, half = t_interval(values, 0.95)
    low, high = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_t_interval_of_one_value_has_no_width():
    mean, half = t_interval([61.5], 0.95)
    assert mean == 61.5 and math.isnan(half)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_t_interval_refuses(values):
    with pytest.raises(LapmlError, match="expected one or more finite numbers"):
        t_interval(values, 0.95)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_confidence_is_a_share(confidence):
    with pytest.raises(LapmlError, match="between 0 and 1"):
        t_interval([1.0, 2.0], confidence)


def test_t_interval_covers():
    rng = np.random.default_rng(0)
    intervals = [t_interval(row, 0.9) for row in rng.normal(50, 2, (2000, 3))]
    covered = np.mean([abs(mean - 50) <= half for mean, half in intervals])
    assert covered == pytest.approx(0.9, abs=0.02)


def answers(rng, seeds, images, gap=0.0, seed_sd=0.0):
    """Right or wrong answers: images of differing difficulty, models of differing luck."""
    ease = rng.normal(0.5, 1.5, images)
    return [
        (ease + shift + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, 1.2, (seeds, images)) > 0).astype(np.uint8)
        for shift in (gap, 0.0)
    ]


def test_bootstrap_is_the_literal_loop():
    rng = np.random.default_rng(1)
    a, b = answers(rng, 3, 60, gap=0.3)
    means = []
    for _ in range(4000):
        seeds, images = rng.integers(0, 3, 3), rng.integers(0, 60, 60)
        means.append(np.mean([[float(a[s, i]) - float(b[s, i]) for i in images] for s in seeds]))
    low, high = np.quantile(means, [0.05, 0.95])
    found = paired_bootstrap(a, b, 20_000, 0.9, seed=0)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert found.p == pytest.approx(2 * np.mean(np.asarray(means) <= 0), abs=0.025)


def test_bootstrap_is_deterministic_antisymmetric_and_paired():
    a, b = answers(np.random.default_rng(2), 3, 200, gap=0.2)
    one, again = (paired_bootstrap(a, b, 2000, 0.95, seed=7) for _ in range(2))
    assert one == again
    assert paired_bootstrap(a, b, 2000, 0.95, seed=8) != one
    turned = paired_bootstrap(b, a, 50_000, 0.95, seed=7)
    assert turned.mean == -one.mean
    assert -turned.high == pytest.approx(one.low, abs=0.01)
    order = np.random.default_rng(3).permutation(200)
    assert paired_bootstrap(a[:, order], b[:, order], 2000, 0.95, seed=7) == one


def test_bootstrap_of_equal_rows():
    a = np.ones((3, 50))
    assert paired_bootstrap(a, a, 100, 0.95, seed=0) == (0.0, 0.0, 0.0, 1.0)


def test_p_is_never_zero():
    a = np.ones((3, 50))
    assert paired_bootstrap(a, 0 * a, 999, 0.95, seed=0).p == pytest.approx(2 / 1000)


def test_chunks_do_not_show(monkeypatch):
    rng = np.random.default_rng(4)
    a, b = rng.random((3, 300)), rng.random((3, 300))  # 300 kinds of columns
    monkeypatch.setattr("lapml.analysis.stats.CELLS", 300 * 70)
    found = paired_bootstrap(a, b, 5000, 0.95, seed=0)
    monkeypatch.setattr("lapml.analysis.stats.CELLS", 10**9)
    whole = paired_bootstrap(a, b, 5000, 0.95, seed=0)
    assert tuple(found) == pytest.approx(tuple(whole), abs=0.02)


@pytest.mark.parametrize(("a", "b"), [((2, 5), (3, 5)), ((5,), (5,)), ((0, 5), (0, 5))])
def test_bootstrap_refuses_shapes(a, b):
    with pytest.raises(LapmlError, match=r"expected the same \(seeds, images\)"):
        paired_bootstrap(np.zeros(a), np.zeros(b), 10, 0.95, 0)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "most"), [(1, 0.0, 0.09), (3, 0.0, 0.05), (3, 0.06, 0.06), (5, 0.06, 0.06)]
)
def test_false_positives_without_a_difference(seeds, seed_sd, most):
    """At level 0.05, 400 test images; a seed_sd of 0.06 moves the accuracy of a model by about 1.2 points."""
    rng = np.random.default_rng(5)
    p = [paired_bootstrap(*answers(rng, seeds, 400, 0.0, seed_sd), 500, 0.95, k).p for k in range(200)]
    assert np.mean(np.asarray(p) < 0.05) <= most


def test_a_real_difference_is_found():
    rng = np.random.default_rng(6)
    p = [paired_bootstrap(*answers(rng, 3, 400, 0.5), 500, 0.95, k).p for k in range(50)]
    assert np.mean(np.asarray(p) < 0.05) > 0.8


def test_bootstrap_of_cub_size_is_quick():
    rng = np.random.default_rng(7)
    start = time.perf_counter()
    paired_bootstrap(rng.random((5, 5794)) < 0.85, rng.random((5, 5794)) < 0.84, 10_000, 0.95, 0)
    assert time.perf_counter() - start < 10


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_leaves_out_what_was_not_tested():
    corrected = holm([math.nan, 0.02, 0.01])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.02, 0.02])


def test_holm_rejects_as_the_step_down_procedure():
    rng = np.random.default_rng(8)
    for _ in range(200):
        p = rng.random(6) ** 3
        order, rejected = np.argsort(p), set()
        for step, index in enumerate(order):
            if p[index] > 0.05 / (6 - step):
                break
            rejected.add(int(index))
        assert {k for k, value in enumerate(holm(p)) if value <= 0.05} == rejected


def test_holm_refuses():
    with pytest.raises(LapmlError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])


def test_holm_is_statsmodels():
    rng = np.random.default_rng(9)
    for size in (1, 2, 7):
        p = rng.random(size) ** 4
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


chances = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(chances, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_and_does_not_depend_on_it(p, random):
    corrected = holm(p)
    assert all(after >= before for before, after in zip(p, corrected, strict=True))
    in_order = [corrected[k] for k in np.argsort(p, kind="stable")]
    assert in_order == sorted(in_order)
    shuffled = random.sample(range(len(p)), len(p))
    assert holm([p[k] for k in shuffled]) == [corrected[k] for k in shuffled]


@given(chances, st.integers(0, 7), st.floats(0, 1))
def test_a_smaller_p_never_makes_another_larger(p, which, factor):
    smaller = [each * factor if k == which % len(p) else each for k, each in enumerate(p)]
    assert all(after <= before for before, after in zip(holm(p), holm(smaller), strict=True))


def test_mcnemar_by_hand():
    a, b = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 1, 1, 1, 1, 0])
    assert mcnemar(a, b) == (1, 5, pytest.approx(2 * (1 + 6) / 2**6))
    assert mcnemar(a, a) == (0, 0, 1.0)
    assert mcnemar([1, 0], [0, 1]) == (1, 1, 1.0)  # 2·P(X ≤ 1) is 1.5


def test_mcnemar_is_statsmodels():
    rng = np.random.default_rng(10)
    for images, gap in ((5, 0.0), (40, 0.3), (2000, 0.15)):
        (a,), (b,) = answers(rng, 1, images, gap)
        table = [[np.sum((a == i) & (b == j)) for j in (1, 0)] for i in (1, 0)]
        expected = statsmodels_mcnemar(table, exact=True)
        found = mcnemar(a, b)
        assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
        assert found.p == pytest.approx(expected.pvalue)


pairs_of_answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@given(pairs_of_answers, st.randoms(use_true_random=False))
def test_mcnemar_is_symmetric_and_blind_to_order(pairs, random):
    a, b = np.array(pairs).T
    found, turned = mcnemar(a, b), mcnemar(b, a)
    assert turned == (found.only_b, found.only_a, found.p)
    order = random.sample(range(len(pairs)), len(pairs))
    assert mcnemar(a[order], b[order]) == found
    agreed = np.append(a, 1), np.append(b, 1)
    assert mcnemar(*agreed) == found  # an image on which both agree tells nothing


def test_mcnemar_false_positives_and_power():
    rng = np.random.default_rng(11)
    alike, apart = (
        np.mean([mcnemar(*(each[0] for each in answers(rng, 1, 400, gap))).p < 0.05 for _ in range(1000)])
        for gap in (0.0, 0.5)
    )
    assert 0.02 < alike <= 0.05  # exact: never above the level, and not far below it
    assert apart > 0.8


@pytest.mark.parametrize(("a", "b"), [((5,), (6,)), ((2, 5), (2, 5)), ((0,), (0,))])
def test_mcnemar_refuses_shapes(a, b):
    with pytest.raises(LapmlError, match=r"expected the same \(images,\)"):
        mcnemar(np.zeros(a), np.zeros(b))


@pytest.mark.parametrize("value", [2, -1, 0.5, math.nan])
def test_mcnemar_refuses_other_values(value):
    with pytest.raises(LapmlError, match="neither 0 nor 1"):
        mcnemar([0, 1, value], [0, 1, 1])


def sample(mean, spread, size):
    """Numbers of exactly this mean and standard deviation."""
    raw = np.arange(size) ** 1.5
    return mean + spread * (raw - raw.mean()) / raw.std(ddof=1)


def power_of(effect, confidence, seeds):
    """Both tails by statsmodels, apart: the further one is NaN where it is next to nothing."""
    sides = [
        TTestPower().power(effect, seeds, (1 - confidence) / 2, alternative=side) for side in ("larger", "smaller")
    ]
    return sides[0] + np.nan_to_num(sides[1])


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("effect", [0.15, 0.5, -1.0, 3.0])
def test_seeds_needed_is_statsmodels(confidence, power, effect):
    values = sample(effect, 1.0, 5)
    found = seeds_needed(values, confidence, power)
    ends = np.sqrt(4 / scipy_stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], 4))
    for number, spread in zip(found, (1.0, *ends), strict=True):
        reached = partial(power_of, abs(effect) / spread, confidence)
        if math.isinf(number):
            assert reached(MOST_SEEDS) < power
        else:
            assert reached(number) >= power
            assert number == 2 or reached(number - 1) < power
    if abs(effect) <= 1:  # where statsmodels' own search, over fractions of a seed, comes to an end
        exact = TTestPower().solve_power(abs(effect), alpha=1 - confidence, power=power)
        assert found.needed == math.ceil(exact)


@pytest.mark.parametrize("effect", [0.6, 1.0, 1.7])
def test_seeds_needed_reach_the_power(effect):
    """Paired t-tests on simulated seeds: with that many the difference is found, with one less not often enough."""
    rng = np.random.default_rng(12)
    needed = seeds_needed(sample(effect, 1.0, 4), 0.95).needed
    found = [
        np.mean(scipy_stats.ttest_1samp(rng.normal(effect, 1, (20_000, n)), 0, axis=1).pvalue < 0.05)
        for n in (needed - 1, needed)
    ]
    assert found[0] < 0.8 + 0.01 and found[1] > 0.8 - 0.01 and found[0] < found[1] - 0.01


def test_range_of_seeds_covers():
    """The true number lies in the range that a few seeds give as often as its confidence says."""
    rng = np.random.default_rng(13)
    true = seeds_needed(sample(1.0, 1.0, 4), 0.95).needed
    ranges = [seeds_needed(1.0 + row - row.mean(), 0.95) for row in rng.normal(0, 1, (300, 4))]
    assert np.mean([each.low <= true <= each.high for each in ranges]) >= 0.92
    assert np.mean([each.needed == true for each in ranges]) < 0.5  # which is why there is a range


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0, 0.0], [1.0, -1.0], [0.1, 0.2, -0.3]])
def test_no_number_of_seeds_can_be_told(values):
    assert all(math.isnan(number) for number in seeds_needed(values, 0.95))


@pytest.mark.parametrize("values", [[0.1, 0.1], [-3.0] * 5, [0.1 + 0.2, 0.3, 0.3]])
def test_without_a_spread_two_seeds_do(values):
    needed, low, high = seeds_needed(values, 0.95)
    assert needed == 2 and math.isnan(low) and math.isnan(high)


def test_very_many_seeds_are_not_counted():
    assert seeds_needed(sample(0.01, 1.0, 3), 0.95).needed == math.inf
    assert seeds_needed(sample(0.0001, 1.0, 3), 0.95) == (math.inf, math.inf, math.inf)


@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=6).filter(lambda values: sum(values) and len(set(values)) > 1),
    st.sampled_from([-1.0, 0.01, 8.0]),
    st.sampled_from([0.5, 0.7]),
)
def test_seeds_needed_has_no_unit_no_sign_and_no_order(values, unit, less):
    found = seeds_needed(values, 0.95)
    assert 2 <= found.low <= found.needed <= found.high
    assert seeds_needed([unit * value for value in reversed(values)], 0.95) == found
    assert seeds_needed(values, 0.95, less).needed <= found.needed <= seeds_needed(values, 0.99).needed


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_seeds_needed_refuses(values):
    with pytest.raises(LapmlError, match="expected one or more finite numbers"):
        seeds_needed(values, 0.95)


@pytest.mark.parametrize("power", [0.0, 1.0, 80.0, math.nan])
def test_power_is_a_share(power):
    with pytest.raises(LapmlError, match="power: found"):
        seeds_needed([1.0, 2.0], 0.95, power)


def test_compare_rows_is_its_parts():
    rng = np.random.default_rng(14)
    pairs = [answers(rng, 3, 300, gap) for gap in (0.0, 0.15, 0.6)]
    compared = compare_rows([None, *map(tuple, pairs)], 1000, 0.95)
    none, *others = compared
    assert all(math.isnan(number) for number in (*none.difference, none.p_holm, *none.seeds)) and not none.significant
    assert [each.difference for each in others] == [
        paired_bootstrap(a, b, 1000, 0.95, BOOTSTRAP_SEED) for a, b in pairs
    ]
    corrected = multipletests([each.difference.p for each in others], method="holm")[1]
    assert [each.p_holm for each in others] == pytest.approx(corrected.tolist())
    assert [each.significant for each in others] == (corrected < 0.05).tolist() == [False, False, True]
    for each, (a, b) in zip(others, pairs, strict=True):
        gaps = [np.mean(a[seed].astype(float) - b[seed]) for seed in range(3)]
        assert each.seeds == seeds_needed(gaps, 0.95)


def test_one_seed_is_never_significant():
    a = np.ones((1, 200), np.uint8)
    [found] = compare_rows([(a, 0 * a)], 1000, 0.95)
    assert found.p_holm < 0.05 and not found.significant and math.isnan(found.seeds.needed)
    [found] = compare_rows([(np.repeat(a, 2, 0), np.repeat(0 * a, 2, 0))], 1000, 0.95)
    assert found.significant and found.seeds.needed == 2


def test_comparisons_without_a_difference_are_rarely_significant():
    """Family-wise: of tables of three rows that are all alike, few call any of them different from the first."""
    rng = np.random.default_rng(15)
    alarms = 0
    for _ in range(150):
        base, *rows = (answers(rng, 4, 300, 0.0, 0.05)[0] for _ in range(4))
        alarms += any(each.significant for each in compare_rows([(row, base) for row in rows], 300, 0.95))
    assert alarms / 150 <= 0.05
