"""Localisers beside each other, against loops over images and cells, and on maps whose numbers are known."""

import numpy as np
import pytest

from lapml import config
from lapml.analysis.diagnosis import localisers
from lapml.analysis.diagnosis.localisers import METRICS, OBJECTS, PARTS, WHOLE, Places, compare, gaussian, places, sums
from lapml.data.truth import Annotations


@pytest.fixture
def truth() -> Places:
    rng = np.random.default_rng(0)
    corners = rng.uniform([0.05, 0.05, 0.55, 0.55], [0.45, 0.45, 0.95, 0.95], (20, 4))
    parts = np.concatenate([rng.random((20, 4, 2)), rng.random((20, 4, 1)) < 0.6], 2)
    parts[0, :, 2] = 0  # of one image no part is seen
    aspect = rng.uniform(0.6, 1, (20, 2))
    return Places(corners, parts, aspect / aspect.max(1, keepdims=True))


def literal(maps: np.ndarray, truth: Places, only_shown: bool) -> tuple[list, list]:
    """Of one model: (pointing, mass, agreement) numerators and denominators by image, each image's partner by the cycle."""
    images, count, grid, _ = maps.shape
    order = np.random.default_rng(localisers.SEED).permutation(images)
    partner = {int(order[i]): int(order[i - 1]) for i in range(images)}
    known, nearest, above, below = {}, {}, [], []
    for i in range(images):
        pointing, mass = 0.0, 0.0
        left, top, right, bottom = truth.boxes[i]
        for k in range(count):
            found = maps[i, k]
            known[i, k] = found.max() >= 0.5 if only_shown else found.sum() > 0
            y, x = ((each + 0.5) / grid for each in np.unravel_index(found.argmax(), found.shape))
            distance = [
                np.hypot((x - px) * truth.aspect[i, 0], (y - py) * truth.aspect[i, 1]) if seen else np.inf
                for px, py, seen in truth.parts[i]
            ]
            nearest[i, k] = int(np.argmin(distance)) if np.isfinite(distance).any() else None
            if known[i, k]:
                pointing += left <= x < right and top <= y < bottom
                for row in range(grid):
                    for column in range(grid):
                        width = max(0, min(right, (column + 1) / grid) - max(left, column / grid)) * grid
                        height = max(0, min(bottom, (row + 1) / grid) - max(top, row / grid)) * grid
                        mass += found[row, column] * width * height / found.sum()
        above.append([pointing, mass])
        below.append([sum(known[i, k] for k in range(count))] * 2)
    for i in range(images):
        j, same, pairs = partner[i], 0, 0
        for k in range(count):
            if known[i, k] and known[j, k] and nearest[i, k] is not None and nearest[j, k] is not None:
                pairs, same = pairs + 1, same + (nearest[i, k] == nearest[j, k])
        above[i].append(same)
        below[i].append(pairs)
    return above, below


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("only_shown", [False, True])
def test_against_loops(truth, count, only_shown):
    maps = np.random.default_rng(1).random((2, 20, count, 5, 5)) ** 4
    maps[0, 3, 0] = 0
    maps[1, 4] *= 0.3  # weak
    above, below = sums(maps, truth, only_shown)
    for model in range(2):
        expected = literal(maps[model], truth, only_shown)
        np.testing.assert_allclose(above[model], expected[0], atol=1e-9)
        np.testing.assert_array_equal(below[model], expected[1])


def test_the_table(annotated, maps_of):
    """Maps that are their boxes find them; everything else has its own line, in shares of 1."""
    maps = maps_of(annotated)
    rows = localisers.chosen(maps, 1000)
    np.testing.assert_array_equal(rows, maps.rows)
    assert len(localisers.chosen(maps, 7)) == 7
    truth = places(Annotations(annotated.index), annotated.index[["width", "height"]].to_numpy(float), rows)
    at = (np.arange(6) + 0.5) / 6
    inside = (
        (at >= truth.boxes[:, :1]) & (at < truth.boxes[:, 2:3]),
        (at >= truth.boxes[:, 1:2]) & (at < truth.boxes[:, 3:]),
    )
    maps.objects[:] = inside[1][:, :, None] & inside[0][:, None]
    params = config.load("params.yaml", ["report.bootstrap=200"])
    models = [np.random.default_rng(seed).random((len(rows), 6, 6)) for seed in range(2)]
    table = compare(maps, truth, rows, models, params).set_index("method")
    assert list(table.index) == [OBJECTS, PARTS, "ImageNet class maps", "class maps", "centred Gaussian", WHOLE]
    assert table.loc[OBJECTS, "pointing"] == 1 and table.loc[OBJECTS, "mass"] > 0.85
    assert table.loc[OBJECTS, "box_acc"] > 0.9
    assert np.isnan(table.loc[PARTS, "box_acc"]) and 0 <= table.loc[PARTS, "agreement"] <= 1
    share = float((truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1).mean())
    assert table.loc[WHOLE, "mass"] == pytest.approx(share)
    assert abs(table.loc["class maps", "mass"] - share) < 0.1  # noise
    known = table.drop(index=WHOLE)
    for metric in ("pointing", "mass", "agreement"):
        assert (known[f"{metric}_low"] <= known[metric]).all() and (known[metric] <= known[f"{metric}_high"]).all()
    assert set(METRICS) <= set(table.columns)
    without = compare(maps_of(annotated, classes=0), truth, rows, [], params)
    assert list(without["method"]) == [OBJECTS, PARTS, "centred Gaussian", WHOLE]


def test_the_gaussian_is_centred_and_symmetric():
    made = gaussian(7)
    assert np.unravel_index(made.argmax(), made.shape) == (3, 3)
    np.testing.assert_allclose(made, made.T)
    np.testing.assert_allclose(made, made[::-1, ::-1])
    assert made[3, 5] / made[3, 3] == pytest.approx(np.exp(-((2 / 7) ** 2) / (2 * 0.25**2)))
