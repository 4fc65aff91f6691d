"""Intervals of ratios of sums: against loops, against another bootstrap, and by how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.analysis.diagnosis import intervals


def drawn(rng: np.random.Generator, models: int, images: int, metrics: int) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators, some denominators 0."""
    below = rng.integers(0, 4, (models, images, metrics)).astype(float)
    return below * rng.random(below.shape), below


def blocks(models: int, images: int, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """How often each model and each image is drawn in each replicate: as many draws as there are."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        size = min(intervals.BLOCK, count - len(found))
        of_models = rng.multinomial(models, [1 / models] * models, size=size)
        of_images = rng.multinomial(images, [1 / images] * images, size=size)
        found += list(zip(of_models, of_images, strict=True))
    return found


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), models=st.integers(1, 4), images=st.integers(1, 7), metrics=st.integers(1, 3),
    count=st.integers(1, 25),
)  # fmt: skip
def test_replicates_are_ratios_of_sums_over_drawn_models_and_images(seed, models, images, metrics, count):
    above, below = drawn(np.random.default_rng(seed), models, images, metrics)
    found = intervals.replicates(above, below, count, seed)
    assert found.shape == (count, metrics)
    for r, (of_models, of_images) in enumerate(blocks(models, images, count, seed)):
        assert of_models.sum() == models and of_images.sum() == images
        for m in range(metrics):
            top = bottom = 0.0
            for s in range(models):
                for n in range(images):
                    top += of_models[s] * of_images[n] * above[s, n, m]
                    bottom += of_models[s] * of_images[n] * below[s, n, m]
            if bottom == 0:
                assert math.isnan(found[r, m])
            else:
                assert found[r, m] == pytest.approx(top / bottom, rel=1e-5, abs=1e-7)


def test_replicates_beyond_a_block_are_further_draws():
    """No block repeats another, and a count that is no multiple of the block is kept."""
    above, below = drawn(np.random.default_rng(0), 3, 12, 2)
    count = 2 * intervals.BLOCK + 7
    found = intervals.replicates(above, below, count, 5)
    assert len(found) == count and len(np.unique(found[:, 0].round(9))) > 0.9 * count
    for r, (of_models, of_images) in list(enumerate(blocks(3, 12, count, 5)))[:: intervals.BLOCK // 2]:
        weights = np.outer(of_models, of_images)[..., None]
        assert found[r] == pytest.approx((weights * above).sum((0, 1)) / (weights * below).sum((0, 1)), rel=1e-5)


def test_replicates_are_spread_as_those_of_a_bootstrap_that_draws_one_by_one():
    """Another bootstrap, written out: models and images are drawn with replacement, all pairs of the drawn are summed."""
    rng = np.random.default_rng(3)
    above, below = drawn(rng, 4, 15, 1)
    above += 0.3 * np.arange(4)[:, None, None] * below
    others = []
    for _ in range(4000):
        models = [int(rng.integers(4)) for _ in range(4)]
        images = [int(rng.integers(15)) for _ in range(15)]
        top = sum(above[s, n, 0] for s in models for n in images)
        others.append(top / sum(below[s, n, 0] for s in models for n in images))
    found = intervals.replicates(above, below, 4000, 0)[:, 0]
    assert found.mean() == pytest.approx(np.mean(others), abs=5 * np.std(others) * math.sqrt(2 / 4000))
    assert found.std() == pytest.approx(np.std(others), rel=0.08)
    assert np.quantile(found, 0.05) == pytest.approx(np.quantile(others, 0.05), abs=0.2 * np.std(others))


def test_two_calls_with_one_seed_are_paired():
    """The same models and images in each replicate, whatever the numbers and how many metrics there are."""
    rng = np.random.default_rng(1)
    above, below = drawn(rng, 3, 20, 2)
    one = intervals.replicates(above, below, 300, 7)
    half = intervals.replicates(above / 2, below, 300, 7)
    assert half == pytest.approx(one / 2, rel=1e-4)
    wide = intervals.replicates(np.concatenate([above, above], 2), np.concatenate([below, below], 2), 300, 7)
    assert wide == pytest.approx(np.concatenate([one, one], 1), rel=1e-4)
    other = intervals.replicates(above, below, 300, 8)
    assert not np.allclose(one, other)
    # Two mixers whose difference does not vary: paired, the interval of their ratio is a point.
    low, high = intervals.percentiles(half / one, 0.95)
    assert low == pytest.approx(0.5, rel=1e-4) and high == pytest.approx(0.5, rel=1e-4)
    low, high = intervals.percentiles(other / one, 0.95)
    assert (high - low > 0.05).all()


def test_the_whole_is_the_ratio_of_all_sums():
    above, below = drawn(np.random.default_rng(2), 3, 9, 2)
    below[..., 1] = above[..., 1] = 0
    found = intervals.whole(above, below)
    assert found[0] == pytest.approx(sum(above[s, n, 0] for s in range(3) for n in range(9)) / below[..., 0].sum())
    assert math.isnan(found[1])  # applies to nothing
    above, below = np.array([[[1.0], [0.0]]]), np.array([[[1.0], [3.0]]])
    assert intervals.whole(above, below)[0] == 0.25  # not the mean of ratios, 0.5


def test_images_that_a_metric_does_not_apply_to_do_not_count():
    above, below = drawn(np.random.default_rng(4), 2, 10, 1)
    above[:, 3:], below[:, 3:] = 0, 0
    assert intervals.whole(above, below)[0] == pytest.approx(intervals.whole(above[:, :3], below[:, :3])[0])
    above[:], below[:] = 0, 0
    assert np.isnan(intervals.replicates(above, below, 20, 0)).all()


def test_replicates_that_draw_no_image_with_the_metric_are_not_numbers():
    """Only one image of five has it: about (4/5)^5 of the replicates have none, and the others all say 0.5."""
    above, below = np.zeros((2, 5, 1)), np.zeros((2, 5, 1))
    above[:, 2], below[:, 2] = 1, 2
    found = intervals.replicates(above, below, 2000, 0)[:, 0]
    assert np.isnan(found).mean() == pytest.approx(0.8**5, abs=0.05)
    assert set(found[~np.isnan(found)]) == {0.5}
    assert [float(end) for end in intervals.percentiles(found, 0.95)] == [0.5, 0.5]


@pytest.mark.parametrize("confidence", [0.95, 0.9, 0.5])
def test_percentiles_leave_out_an_equal_share_on_both_sides(confidence):
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    low, high = intervals.percentiles(np.stack([values, 2 * values], 1), confidence)
    tail = (1 - confidence) / 2
    assert low == pytest.approx([1000 * tail, 2000 * tail], abs=2)
    assert high == pytest.approx([1000 * (1 - tail), 2000 * (1 - tail)], abs=2)


def test_percentiles_of_infinite_and_missing_values():
    values = np.array([math.nan, 0.0, 1.0, 2.0, math.inf, math.inf, math.nan])
    low, high = intervals.percentiles(values, 0.9)
    assert low == 0 and high == math.inf
    low, high = intervals.percentiles(np.full(5, math.nan), 0.9)
    assert math.isnan(low) and math.isnan(high)
    low, high = intervals.percentiles(np.array([0.0] * 90 + [math.inf] * 10), 0.95)
    assert low == 0 and high == math.inf


# --- coverage ---


def covers(images: int, models: int, spread: tuple[float, float, float], trials: int, seed: int) -> float:
    """How often the 95 % interval holds the true ratio of a metric that applies to about 0.8 of the images.

    A value is 0.5, plus what is the model's own, the image's own, and this image's own by this model: uniform numbers within
    plus or minus each of ``spread``.
    """
    rng, held = np.random.default_rng(seed), 0
    for trial in range(trials):
        shapes = ((models, 1), (1, images), (models, images))
        value = 0.5 + sum(rng.uniform(-each, each, shape) for each, shape in zip(spread, shapes, strict=True))
        applies = np.broadcast_to(rng.random((1, images)) < 0.8, (models, images)).astype(float)
        found = intervals.replicates((value * applies)[..., None], applies[..., None], 300, trial)
        low, high = intervals.percentiles(found, 0.95)
        held += int(low[0] <= 0.5 <= high[0])
    return held / trials


@pytest.mark.parametrize(
    ("models", "spread", "band"),
    [
        (5, (0.0, 0.4, 0.0), (0.91, 0.98)),  # models alike, images differ: nominal
        (5, (0.0, 0.0, 0.4), (0.98, 1.0)),  # all is chance of (model, image): too wide, as pigeonhole bootstraps are
        (5, (0.03, 0.3, 0.3), (0.93, 1.0)),  # some of each
        (4, (0.2, 0.2, 0.2), (0.70, 0.93)),  # models differ much: four of them are too few, and it is too narrow
    ],
)
def test_coverage(models, spread, band):
    """Nominally 0.95; 300 trials, so that a standard error is 0.013."""
    found = covers(400, models, spread, 300, 1)
    assert band[0] <= found <= band[1], found
