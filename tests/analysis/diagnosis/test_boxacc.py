"""MaxBoxAccV2 against a literal version (flood fill, loops), and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml.analysis.diagnosis.localisers import OVERLAPS, max_box_acc_v2, regions


def literal_regions(mask: np.ndarray) -> list[list[int]]:
    """The box of each region, by flood fill over the eight neighbours."""
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
        found.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
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
    assert sorted(regions(mask).tolist()) == sorted(literal_regions(mask))


def test_against_a_literal_version():
    """At the maps' own size, so that nothing is interpolated."""
    rng = np.random.default_rng(0)
    maps = rng.random((12, 8, 8)) ** 3
    boxes = np.sort(rng.random((12, 2, 2)), 1)
    boxes[:, 1] = np.minimum(boxes[:, 1] + 0.2, 1)
    boxes = np.round(boxes.reshape(12, 4), 2)
    best = np.zeros((10, 3))
    for each, box in zip(maps.astype(np.float32), boxes * 8, strict=True):
        stretched = (each - each.min()) / (each.max() - each.min())
        for at in range(10):
            overlaps = [overlap(region, box) for region in literal_regions(stretched > at / 10)]
            best[at] += [max(overlaps) >= least for least in OVERLAPS]
    assert max_box_acc_v2(maps, boxes, side=8, thresholds=10) == pytest.approx((best / 12).max(0).mean())


def test_by_hand():
    """A map that is its box; one of which a weaker and smaller region is; one that is flat, which finds nothing."""
    maps = np.zeros((3, 10, 10))
    maps[0, 2:6, 1:9] = 1
    maps[1, 0:3, 3:10], maps[1, 5:9, 5:9] = 1, 0.5
    maps[2] = 0.3
    boxes = np.array([[0.1, 0.2, 0.9, 0.6], [0.5, 0.5, 0.9, 0.9], [0, 0, 1, 1]])
    assert max_box_acc_v2(maps, boxes, side=10, thresholds=20) == pytest.approx(2 / 3)
    maps[1, 5:9, 5:9] = 0  # a region is what lies above the threshold
    assert max_box_acc_v2(maps, boxes, side=10, thresholds=20) == pytest.approx(1 / 3)


def test_regions_touch_at_corners():
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], bool)
    assert sorted(regions(mask).tolist()) == [[0, 0, 2, 2], [3, 1, 4, 4]]
    assert regions(np.zeros((3, 3), bool)).shape == (0, 4)


@pytest.mark.parametrize("factor", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, -2.0, 5.0])
def test_scale_and_offset_do_not_matter(factor, offset):
    """In these maps no pixel lies so near a threshold that rounding moves it to the other side."""
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.2, 0.3, 0.9, 1.0]])
    for seed in range(20):
        maps = np.random.default_rng(seed).random((2, 4, 4))
        one, other = (max_box_acc_v2(each, boxes, side=16, thresholds=7) for each in (maps, factor * maps + offset))
        assert one == pytest.approx(other, abs=1e-9), seed


def test_no_image():
    assert max_box_acc_v2(np.zeros((0, 4, 4)), np.zeros((0, 4)), side=16, thresholds=3) == 0
