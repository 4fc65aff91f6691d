"""MaxBoxAcc against a literal version (flood fill, loops), and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml.analysis.diagnosis.localisers import OVERLAPS, max_box_acc, regions


def literal_regions(mask: np.ndarray) -> list[tuple[int, list[int]]]:
    """(size, box) of each region, by flood fill over the eight neighbours."""
    left, found = {(y, x) for y, x in np.argwhere(mask).tolist()}, []
    while left:
        open_cells, region = [left.pop()], []
        while open_cells:
            y, x = open_cells.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            open_cells += near
        ys, xs = zip(*region, strict=True)
        found.append((len(region), [min(xs), min(ys), max(xs) + 1, max(ys) + 1]))
    return found


def overlap(one, other) -> float:
    """By counting hundredths of pixels along each axis."""
    grid = np.arange(0, 8, 0.01) + 0.005
    inside = [[(grid >= box[axis]) & (grid < box[axis + 2]) for axis in (0, 1)] for box in (one, other)]
    areas = [x.sum() * y.sum() for x, y in inside]
    both = (inside[0][0] & inside[1][0]).sum() * (inside[0][1] & inside[1][1]).sum()
    return both / (sum(areas) - both)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_regions_against_flood_fill(seed, side):
    mask = np.random.default_rng(seed).random((side, side)) < 0.4
    found, expected = regions(mask).tolist(), literal_regions(mask)
    assert sorted(found) == sorted(box for _, box in expected)
    if expected:
        assert found[0] in [box for size, box in expected if size == max(size for size, _ in expected)]


def test_against_a_literal_version():
    """At the maps' own size, so that nothing is interpolated."""
    rng = np.random.default_rng(0)
    maps = rng.random((12, 8, 8)) ** 3
    boxes = np.sort(rng.random((12, 2, 2)), 1)
    boxes[:, 1] = np.minimum(boxes[:, 1] + 0.2, 1)
    boxes = np.round(boxes.reshape(12, 4), 2)
    found = max_box_acc(maps, boxes, side=8, thresholds=10)
    largest, best = np.zeros((2, 10, 3))
    for each, box in zip(maps.astype(np.float32), boxes * 8, strict=True):
        stretched = (each - each.min()) / (each.max() - each.min())
        for at in range(10):
            seen = sorted(literal_regions(stretched > at / 10), key=lambda region: -region[0])
            sizes = [size for size, _ in seen]
            overlaps = [overlap(region, box) for _, region in seen]
            for number, least in enumerate(OVERLAPS):
                best[at, number] += max(overlaps) >= least
                if sizes.count(sizes[0]) == 1:
                    largest[at, number] += overlaps[0] >= least
                else:  # several are the largest: whichever was taken
                    largest[at, number] = np.nan
    np.testing.assert_allclose(found.best, best / 12)
    known = np.isfinite(largest)
    assert known.sum() >= 6
    np.testing.assert_allclose(found.largest[known], largest[known] / 12)
    assert found.max_box_acc_v2 == pytest.approx((best / 12).max(0).mean())


def test_by_hand():
    """A map that is its box; one of which a weaker and smaller region is; one that is flat, which finds nothing."""
    maps = np.zeros((3, 10, 10))
    maps[0, 2:6, 1:9] = 1
    maps[1, 0:3, 3:10], maps[1, 5:9, 5:9] = 1, 0.5
    maps[2] = 0.3
    boxes = np.array([[0.1, 0.2, 0.9, 0.6], [0.5, 0.5, 0.9, 0.9], [0, 0, 1, 1]])
    found = max_box_acc(maps, boxes, side=10, thresholds=20)
    assert found.max_box_acc == pytest.approx(1 / 3) and found.max_box_acc_v2 == pytest.approx(2 / 3)
    np.testing.assert_allclose(found.largest, np.full((20, 3), 1 / 3))
    np.testing.assert_allclose(found.best[:10], np.full((10, 3), 2 / 3))
    np.testing.assert_allclose(found.best[10:], np.full((10, 3), 1 / 3))  # a region is what lies above the threshold


def test_regions_touch_at_corners_and_the_largest_is_first():
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], bool)
    assert regions(mask).tolist() == [[3, 1, 4, 4], [0, 0, 2, 2]]
    assert regions(np.zeros((3, 3), bool)).shape == (0, 4)


@given(st.integers(0, 1000), st.sampled_from([0.01, 1.0, 300.0]), st.sampled_from([0.0, -2.0, 5.0]))
def test_scale_and_offset_do_not_matter(seed, factor, offset):
    maps = np.random.default_rng(seed).random((2, 4, 4))
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.2, 0.3, 0.9, 1.0]])
    one, other = (max_box_acc(each, boxes, side=16, thresholds=7) for each in (maps, factor * maps + offset))
    np.testing.assert_allclose(one.best, other.best, atol=0.5)  # a pixel at a threshold may fall on either side
    assert one.max_box_acc_v2 == pytest.approx(other.max_box_acc_v2, abs=0.35)


def test_no_image():
    found = max_box_acc(np.zeros((0, 4, 4)), np.zeros((0, 4)), thresholds=3)
    assert found.max_box_acc == 0 and found.max_box_acc_v2 == 0
