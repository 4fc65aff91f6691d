import math
import time

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lapml.errors import LapmlError
from lapml.stats import holm, paired_bootstrap, t_interval


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
    """Right or wrong answers: images of differing difficulty, nets of differing luck."""
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
    monkeypatch.setattr("lapml.stats.CELLS", 300 * 70)
    found = paired_bootstrap(a, b, 5000, 0.95, seed=0)
    monkeypatch.setattr("lapml.stats.CELLS", 10**9)
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
    """At level 0.05, 400 test images; a seed_sd of 0.06 moves the accuracy of a net by about 1.2 points."""
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
