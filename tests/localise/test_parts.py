"""Parts: least squares against scipy, the factorisation against scikit-learn and planted parts, descriptors by loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.decomposition import NMF

from lapml.localise import parts
from lapml.localise.parts import Parts, Reservoir, describe, factorise, loadings, part_maps


def planted(cells=400, kinds=3, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Cells that are each a multiple of one of ``kinds`` patterns which share no channel; and which one."""
    rng = np.random.default_rng(seed)
    patterns = np.zeros((kinds, 4 * kinds))
    for kind in range(kinds):
        patterns[kind, 4 * kind : 4 * kind + 4] = rng.uniform(0.5, 2, 4)
    which = np.sort(rng.integers(0, kinds, cells))
    return (patterns[which] * rng.uniform(0.5, 2, (cells, 1))).astype(np.float16), which


# --- least squares ---


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 20))
def test_loadings_against_scipy(seed, count, channels):
    """The fit is as good as scipy's: where components are alike, which one takes the share is free."""
    rng = np.random.default_rng(seed)
    components = rng.random((count, channels)).astype(np.float32)
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    cells = rng.random((4, channels)).astype(np.float32)
    found = loadings(torch.from_numpy(cells), torch.from_numpy(components)).T.numpy()
    assert (found >= 0).all()
    for cell, own in zip(cells, found, strict=True):
        best = nnls(components.T.astype(float), cell.astype(float))[1]
        assert np.linalg.norm(cell - own @ components) <= best + 0.02 * np.linalg.norm(cell)


def test_loadings_of_birds_parts_are_exact():
    """Components as different as those of a factorisation (cosines about a half): equal to scipy's own numbers."""
    rng = np.random.default_rng(0)
    components = rng.gamma(0.3, size=(4, 50)).astype(np.float32)
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    cells = rng.gamma(0.3, size=(30, 50)).astype(np.float32)
    expected = [nnls(components.T.astype(float), cell.astype(float))[0] for cell in cells]
    np.testing.assert_allclose(loadings(torch.from_numpy(cells), torch.from_numpy(components)).T, expected, atol=1e-5)


def test_a_component_of_zeros_takes_nothing():
    components = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0.6, 0.8]])
    found = loadings(torch.tensor([[2.0, 0.6, 0.8]]), components)
    assert found.T.tolist() == [[2.0, 0.0, pytest.approx(1.0)]]


# --- sample ---


@given(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 9))
def test_reservoir_is_algorithm_r_whatever_the_blocks(count, cuts, limit):
    rows = np.arange(count, dtype=np.float16)[:, None] * np.ones(2, np.float16)
    sample = Reservoir(2, seed=3)
    sample.limit = limit
    for block in np.split(rows, sorted(min(cut, count) for cut in cuts)):
        sample.add(block)
    expected, rng = list(range(min(count, limit))), np.random.default_rng([3, 0])
    for number in range(limit + 1, count + 1):  # Vitter: the n-th row replaces one of the kept with probability limit/n
        place = int(rng.random() * number)
        if place < limit:
            expected[place] = number - 1
    assert sample.kept[:, 0].tolist() == expected and sample.seen == count


def test_reservoir_is_uniform():
    times = np.zeros(30)
    for seed in range(2000):
        sample = Reservoir(1, seed)
        sample.limit = 6
        sample.add(np.arange(30, dtype=np.float16)[:, None])
        times[sample.kept[:, 0].astype(int)] += 1
    assert times.sum() == 12000 and np.abs(times - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_reservoir_keeps_to_its_memory():
    assert Reservoir(1, 0).limit == parts.CELLS == 100_000
    assert Reservoir(2048, 0).limit * 2048 <= parts.VALUES
    assert Reservoir(10**9, 0).limit == 1


# --- factorisation ---


@pytest.mark.parametrize("factor", [1.0, 2.0**-9, 100.0])
def test_planted_parts_are_found(factor):
    cells, which = planted()
    found = factorise((cells * np.float16(factor)).astype(np.float16), 3, 0)
    values = loadings(torch.from_numpy(cells.astype(np.float32)), found.components)
    part = values.argmax(0).numpy()
    assert len({(a, b) for a, b in zip(part, which, strict=True)}) == 3  # one part for each pattern
    patterns = np.stack([cells[part == k].astype(float).mean(0) for k in range(3)])
    cosines = (patterns / np.linalg.norm(patterns, axis=1, keepdims=True) * found.components.numpy()).sum(1)
    assert (cosines > 0.99).all()


def test_as_good_as_sklearn_on_dense_cells():
    rng = np.random.default_rng(1)
    cells = (rng.gamma(0.4, size=(500, 5)) @ rng.gamma(0.4, size=(5, 30)) + 0.01 * rng.random((500, 30))).astype(
        np.float16
    )
    found = factorise(cells, 4, 0)
    dense = cells.astype(np.float64)
    values = loadings(torch.from_numpy(cells.astype(np.float32)), found.components).T.numpy()
    own = np.linalg.norm(dense - values @ found.components.numpy())
    model = NMF(4, init="nndsvda", random_state=0, max_iter=1000).fit(dense)
    assert own <= 1.02 * np.linalg.norm(dense - model.transform(dense) @ model.components_)


def test_scale_order_and_length():
    cells, _ = planted(kinds=4, seed=2)
    found = factorise(cells, 4, 0)
    values = loadings(torch.from_numpy(cells.astype(np.float32)), found.components)
    np.testing.assert_allclose(np.quantile(values.numpy(), 0.95, axis=1), found.scale, rtol=1e-4)
    assert torch.allclose(found.components.norm(dim=1), torch.ones(4), atol=1e-5)
    assert (values.mean(1).diff() <= 1e-6).all()
    assert found.projection.shape == (16, 16)


def test_a_part_of_few_cells_is_scaled_by_its_peak():
    cells, which = planted(kinds=2)
    few = np.concatenate([cells[which == 0][:100], cells[which == 1][:3]])  # 3 % of the cells
    found = factorise(few, 2, 0)
    values = loadings(torch.from_numpy(few.astype(np.float32)), found.components)
    assert float(found.scale[1]) == pytest.approx(float(values[1].max()), rel=1e-4) and values[1].max() > 0


@pytest.mark.parametrize(("cells", "count"), [(400, 9), (2, 4), (1, 4)])
def test_more_parts_than_rank(cells, count):
    """Three patterns, or fewer cells than parts: finite numbers, and what is there is found."""
    sample = planted(cells)[0]
    found = factorise(sample, count, 0)
    assert found.components.shape == (count, 12)
    assert all(value.isfinite().all() for value in (found.components, found.scale, found.projection))
    maps = part_maps(torch.from_numpy(sample.astype(np.float32))[None], found)
    rebuilt = (maps[0] * found.scale[:, None]).T @ found.components
    np.testing.assert_allclose(rebuilt, sample.astype(np.float32), atol=0.05)


@pytest.mark.parametrize("cells", [np.zeros((5, 12)), np.zeros((0, 12)), -np.ones((5, 12))])
def test_nothing_to_factorise(cells):
    found = factorise(cells.astype(np.float16), 4, 0)
    assert not found.components.any() and found.projection.isfinite().all()
    maps = part_maps(torch.rand(2, 9, 12), found)
    assert maps.shape == (2, 4, 9) and not maps.any()
    assert not describe(torch.rand(2, 9, 12), maps, found.projection).any()


def test_same_seed_same_bits():
    cells = planted(2, seed=5)[0]  # fewer than parts: the start is random
    one, two, other = (factorise(cells, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one.components, two.components) and not torch.equal(one.components, other.components)


# --- maps and descriptors ---


def test_maps_and_descriptors_by_loops():
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(rng.random((2, 9, 12)).astype(np.float32))
    found = Parts(torch.eye(3, 12), torch.tensor([1.0, 2.0, 0.5]), torch.from_numpy(rng.random((12, 5), np.float32)), 1)
    maps = part_maps(cells, found)
    described = describe(cells, maps, found.projection)
    for image in range(2):
        for part in range(3):
            expected = [cells[image, cell, part] / found.scale[part] for cell in range(9)]  # components are axes here
            np.testing.assert_allclose(maps[image, part], expected, rtol=1e-5)
            mean = sum(maps[image, part, cell] * cells[image, cell] for cell in range(9)) / maps[image, part].sum()
            seen = mean @ found.projection
            np.testing.assert_allclose(described[image, part], seen / seen.norm(), rtol=1e-4)


def test_descriptors_of_few_channels_keep_their_cosines():
    """With no more channels than dimensions the projection is a rotation."""
    rng = np.random.default_rng(0)
    sample = rng.random((200, 40)).astype(np.float16)
    found = factorise(sample, 3, 0)
    cells = torch.from_numpy(sample.astype(np.float32)).view(4, 50, 40)
    maps = part_maps(cells, found)
    whole, short = (describe(cells, maps, by).flatten(0, 1) for by in (torch.eye(40), found.projection))
    np.testing.assert_allclose(short @ short.T, whole @ whole.T, atol=1e-4)


def test_descriptors_of_many_channels_are_closer_than_a_random_projections():
    rng = np.random.default_rng(0)
    cells = rng.gamma(0.2, size=(600, 20)) @ rng.gamma(0.2, size=(20, 300))
    cells = torch.from_numpy((cells + 0.1 * rng.random((600, 300))).astype(np.float16)).float()
    found = factorise(cells.numpy().astype(np.float16), 4, 0)
    assert found.projection.shape == (300, parts.DIMENSIONS)
    maps = part_maps(cells.view(12, 50, 300), found)
    gauss = torch.randn(300, parts.DIMENSIONS, generator=torch.Generator().manual_seed(0))
    whole, own, random = (
        torch.nn.functional.normalize(describe(cells.view(12, 50, 300), maps, by).flatten(0, 1), dim=1)
        for by in (torch.eye(300), found.projection, gauss)
    )
    error = [(each @ each.T - whole @ whole.T).abs().mean() for each in (own, random)]
    assert error[0] < error[1] / 3
