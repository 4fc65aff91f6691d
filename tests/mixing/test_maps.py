"""Class maps, the draw of a donor's part, and its match on the reference, against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapml.mixing.maps import class_maps, draw_cells, match_cells

ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_maps(batch: int, h: int, w: int, seed: int, zeros: float = 0.3, dtype=torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, h, w, generator=g, dtype=torch.float64) ** 3
    maps[torch.rand(batch, h, w, generator=g) < zeros] = 0
    maps[:, -1, -1] += 0.01  # no map is empty
    return (maps / maps.sum((1, 2), keepdim=True)).to(dtype)


# --- class maps ---


def loop_map(features, weight, label: int) -> list[list[float]]:
    channels, h, w = features.shape
    cells = [
        [max(sum(float(weight[label, k]) * float(features[k, y, x]) for k in range(channels)), 0.0) for x in range(w)]
        for y in range(h)
    ]
    total = sum(map(sum, cells))
    return [[cell / total if total else 1 / (h * w) for cell in row] for row in cells]


@pytest.mark.parametrize("seed", range(3))
def test_class_maps(seed):
    features, weight = random(4, 5, 3, 6, seed=seed), random(7, 5, seed=seed + 10)
    labels = torch.tensor([6, 0, 3, 3])
    found = class_maps(features, weight, labels)
    assert found.dtype == torch.float64 and found.shape == (4, 3, 6)
    for i, label in enumerate(labels.tolist()):
        np.testing.assert_allclose(found[i], loop_map(features[i], weight, label), atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_maps_without_a_peak_are_uniform(bad):
    features, weight = torch.ones(3, 2, 4, 5), torch.ones(2, 2)
    features[0] = bad
    features[1, :, 2, 2] = bad if bad > 0 or math.isnan(bad) else 1.0  # a single cell that is not finite is enough
    found = class_maps(features, weight, torch.tensor([0, 1, 0]))
    assert torch.equal(found[0], torch.full((4, 5), 1 / 20)) and torch.equal(found[1], torch.full((4, 5), 1 / 20))
    torch.testing.assert_close(found[2], torch.full((4, 5), 1 / 20))


@given(st.integers(-37, 36), st.integers(0, 1000))
def test_maps_sum_to_one_at_any_scale(exponent, seed):
    features = random(2, 3, 4, 4, seed=seed, dtype=torch.float32).abs() * 10.0**exponent
    found = class_maps(features, torch.ones(1, 3), torch.zeros(2, dtype=torch.long))
    assert (found >= 0).all() and found.sum((1, 2)).tolist() == pytest.approx([1, 1], rel=1e-5)
    torch.testing.assert_close(found, class_maps(features * 4, torch.ones(1, 3), torch.zeros(2, dtype=torch.long)))


def test_maps_of_half_precision_are_fp32_also_under_autocast():
    features, weight = random(2, 16, 3, 3).to(torch.bfloat16), random(4, 16, seed=1).float()
    labels = torch.tensor([0, 3])
    expected = class_maps(features.float(), weight, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = class_maps(features, weight, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


# --- the donor's part ---


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_draw_has_exactly_the_expected_counts(temperature):
    """On an even grid of uniform numbers, each cell is drawn n·p times, to within one at each of its edges."""
    maps, n = random_maps(1, 4, 5, seed=3), 20_000
    uniform = (torch.arange(n) + 0.5) / n
    counts = torch.bincount(draw_cells(maps.expand(n, 4, 5), temperature, uniform), minlength=20)
    weights = maps.double().flatten() ** (1 / temperature)
    expected = n * weights / weights.sum()
    assert (counts - expected).abs().max() <= 1.5
    assert not counts[maps.flatten() == 0].any()


def test_draw_is_by_the_uniform_number():
    maps = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 4.0, 0.0]]]) / 8
    for u, cell in ((0.0, 0), (0.124, 0), (0.126, 2), (0.499, 2), (0.501, 4), (0.99, 4), (ALMOST_ONE, 4)):
        assert draw_cells(maps, 1.0, torch.tensor([u])).item() == cell


@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 1e-12, 0.5, ALMOST_ONE]), st.sampled_from([1e-3, 0.1, 1.0, 10.0, 1e6])
)
def test_a_cell_of_probability_zero_is_never_drawn(seed, u, temperature):
    maps = random_maps(5, 3, 7, seed, zeros=0.8)
    cells = draw_cells(maps, temperature, torch.full((5,), u))
    assert (maps.flatten(1).gather(1, cells[:, None]) > 0).all()


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e38, 1e300])
def test_extreme_temperatures_that_the_config_allows(temperature):
    """Towards 0 the peak; towards infinity any cell of the support, never one outside."""
    maps = random_maps(4, 6, 6, seed=5, zeros=0.6)
    for u in (0.0, 0.3, 0.7, ALMOST_ONE):
        cells = draw_cells(maps, temperature, torch.full((4,), u))
        assert (maps.flatten(1).gather(1, cells[:, None]) > 0).all()
        if temperature < 1:
            assert cells.tolist() == maps.flatten(1).argmax(1).tolist()


def test_temperature_limits():
    maps, n = random_maps(1, 6, 6, seed=8, zeros=0.5), 3600
    uniform = (torch.arange(n) + 0.5) / n
    cold = draw_cells(maps.expand(n, 6, 6), 1e-3, uniform)
    assert (cold == maps.flatten().argmax()).all()
    hot = torch.bincount(draw_cells(maps.expand(n, 6, 6), 1e5, uniform), minlength=36)
    inside = maps.flatten() > 0
    assert not hot[~inside].any()
    assert (hot[inside] - n / inside.sum()).abs().max() <= 2


def test_draw_from_a_uniform_map_and_a_single_cell():
    uniform = torch.full((3, 2, 2), 0.25)
    assert draw_cells(uniform, 1.0, torch.tensor([0.1, 0.6, ALMOST_ONE])).tolist() == [0, 2, 3]
    single = torch.zeros(2, 3, 3)
    single[:, 1, 2] = 1
    assert draw_cells(single, 0.5, torch.tensor([0.0, ALMOST_ONE])).tolist() == [5, 5]


# --- the reference's part ---


@pytest.mark.parametrize("support", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_match_by_brute_force(support, seed):
    features, part = random(5, 6, 4, 3, seed=seed), random(5, 6, seed=seed + 20)
    maps = random_maps(5, 4, 3, seed, dtype=torch.float64)
    cells, similarity = match_cells(features, maps, part, support)
    for i in range(5):
        best = -math.inf, -1
        for v in range(12):
            y, x = divmod(v, 3)
            if maps[i, y, x] < support * maps[i].max():
                continue
            dot = sum(float(features[i, k, y, x] * part[i, k]) for k in range(6))
            norm = math.sqrt(float((features[i, :, y, x] ** 2).sum()) * float((part[i] ** 2).sum()))
            best = max(best, (dot / norm, v))
        assert cells[i].item() == best[1]
        assert similarity[i].item() == pytest.approx(min(max(best[0], 0), 1), abs=1e-12)


def test_match_stays_on_the_object():
    """The very part, but off the object, is passed over."""
    features = torch.zeros(1, 2, 1, 3)
    features[0, :, 0] = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]])
    part, maps = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.1, 0.4, 0.5]]])
    cells, similarity = match_cells(features, maps, part, 0.3)
    assert cells.tolist() == [1] and similarity.tolist() == pytest.approx([0.6])
    cells, similarity = match_cells(features, maps, part, 0.2)  # 0.1 ≥ 0.2 · 0.5: the edge belongs to the support
    assert cells.tolist() == [0] and similarity.tolist() == [1]


def test_similarity_is_clamped_and_finite():
    features = torch.ones(3, 4, 2, 2)
    features[2] = 0
    part = torch.stack([-torch.ones(4), 5 * torch.ones(4), torch.ones(4)])
    maps = torch.full((3, 2, 2), 0.25)
    cells, similarity = match_cells(features, maps, part, 0.3)
    assert similarity.tolist() == pytest.approx([0, 1, 0])  # opposite, equal but for length, nothing to compare
    assert (similarity <= 1).all() and ((0 <= cells) & (cells < 4)).all()
    features[0, 0, 0, 0] = math.nan
    cells, similarity = match_cells(features, maps, part, 0.3)
    assert similarity.isfinite().all() and ((0 <= cells) & (cells < 4)).all()
