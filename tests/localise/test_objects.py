"""Deep Descriptor Transforming against numpy from scratch, and by its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapml.localise.objects import Moments, border, object_maps

CPU = torch.device("cpu")


def features(images=5, grid=6, channels=7, seed=0) -> torch.Tensor:
    """Noise everywhere, and one pattern in the inner cells: the object."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(images, grid, grid, channels, generator=generator)
    pattern = 3 * torch.rand(channels, generator=generator)
    cells[:, 2:4, 2:4] += pattern
    return cells.flatten(1, 2).half()


def axis_of(cells: torch.Tensor, *pieces: int):
    moments = Moments(cells.shape[2], round(cells.shape[1] ** 0.5), CPU)
    for piece in cells.split(list(pieces) or len(cells)):
        moments.add(piece)
    return moments.axis()


def literal(cells: torch.Tensor):
    """(μ, v, σ, O) as the paper has it, in float64, all cells in memory."""
    flat = cells.double().flatten(0, 1).numpy()
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    direction = vectors[:, -1]
    projected = ((flat - mean) @ direction).reshape(cells.shape[:2])
    grid = round(cells.shape[1] ** 0.5)
    edge = [u for u in range(grid**2) if u // grid in (0, grid - 1) or u % grid in (0, grid - 1)]
    if projected[:, edge].mean() > 0:
        direction, projected = -direction, -projected
    return mean, direction, values[-1] ** 0.5, np.maximum(projected, 0) / values[-1] ** 0.5


@pytest.mark.parametrize("channels", [3, 7, 300])  # 300: more than a tile
def test_against_numpy(channels):
    cells = features(20, channels=channels)
    axis = axis_of(cells, 9, 1, 10)
    mean, direction, deviation, objects = literal(cells)
    np.testing.assert_allclose(axis.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(axis.direction, direction, atol=1e-9)
    assert axis.deviation == pytest.approx(deviation, rel=1e-9)
    total = np.cov(cells.double().flatten(0, 1).numpy().T, bias=True).trace()
    assert axis.explained == pytest.approx(deviation**2 / total, rel=1e-9)
    np.testing.assert_allclose(object_maps(cells, axis), objects, atol=2e-5)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(0, 12))
def test_blocks_do_not_matter(seed, images, cut):
    cells = features(images, seed=seed)
    cut = min(cut, images)
    one, two = axis_of(cells), axis_of(cells, cut, images - cut)
    assert torch.allclose(one.mean, two.mean, rtol=1e-12) and one.deviation == pytest.approx(two.deviation, rel=1e-9)
    assert abs(one.direction @ two.direction) == pytest.approx(1, abs=1e-9)


@given(st.integers(0, 1000), st.sampled_from([2.0**-6, 0.5, 8.0]))
def test_the_scale_of_features_does_not_matter(seed, factor):
    cells = features(3, seed=seed).float()
    one, other = object_maps(cells, axis_of(cells)), object_maps(factor * cells, axis_of(factor * cells))
    assert torch.allclose(one, other, atol=1e-4)


@given(st.integers(0, 1000), st.booleans())
def test_sign_is_the_one_that_makes_borders_negative(seed, bright):
    """Whether the object has more or less of the features than what is around it."""
    cells = features(4, seed=seed)
    cells = cells if bright else 5 - cells
    axis = axis_of(cells)
    projected = (cells.double() - axis.mean) @ axis.direction
    assert projected[:, border(6)].mean() <= 0
    assert object_maps(cells, axis).view(4, 6, 6)[:, 2:4, 2:4].mean() > object_maps(cells, axis).mean()


def test_border():
    assert border(2).all() and border(1).all()
    assert border(4).view(4, 4).tolist() == [[1] * 4, [1, 0, 0, 1], [1, 0, 0, 1], [1] * 4]


def test_cells_that_are_all_alike_have_no_object():
    for value in (0.0, 0.1, 60000.0):
        cells = torch.full((3, 36, 5), value).half()
        axis = axis_of(cells)
        assert axis.deviation == 0 and not axis.direction.any()
        assert not object_maps(cells, axis).any()


def test_one_image():
    cells = features(1)
    np.testing.assert_allclose(object_maps(cells, axis_of(cells)), literal(cells)[3], atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_noticed(bad):
    moments = Moments(7, 6, CPU)
    moments.add(features())
    assert moments.finite()
    cells = features()
    cells[2, 7, 3] = bad
    moments.add(cells)
    moments.add(features())
    assert not moments.finite()


def test_restored_moments_go_on_to_the_bit():
    cells = features(9, channels=300)
    whole, first, second = (Moments(300, 6, CPU) for _ in range(3))
    for moments, pieces in ((whole, cells.split(3)), (first, cells.split(3)[:2])):
        for piece in pieces:
            moments.add(piece)
    second.restore(first.state())
    second.add(cells[6:])
    assert second.images == 9
    assert all(torch.equal(getattr(whole, name), getattr(second, name)) for name in ("total", "edge", "outer"))
    assert torch.equal(whole.axis().direction, second.axis().direction)
