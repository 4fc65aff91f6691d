"""Boxes against pixel-wise loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.mixing.boxes import area, around, mass, paste, square_sides


def fine_mass(cells: np.ndarray, box: list[int], side: int) -> float:
    """The integral, pixel by pixel on a grid that both the cells and the image's pixels divide."""
    h, w = cells.shape
    rows, columns = math.lcm(h, side), math.lcm(w, side)
    fine = np.kron(cells, np.ones((rows // h, columns // w))) / (rows // h * (columns // w))
    x0, y0, x1, y1 = box
    return float(fine[y0 * rows // side : y1 * rows // side, x0 * columns // side : x1 * columns // side].sum())


@st.composite
def boxed_maps(draw):
    h, w, side = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(4, 40))
    boxes = []
    for _ in range(3):
        x = sorted(draw(st.tuples(st.integers(0, side), st.integers(0, side))))
        y = sorted(draw(st.tuples(st.integers(0, side), st.integers(0, side))))
        boxes.append([x[0], y[0], x[1], y[1]])
    maps = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((3, h, w)) ** 4
    return maps / maps.sum((1, 2), keepdims=True), boxes, side


@given(boxed_maps())
def test_mass(case):
    maps, boxes, side = case
    expected = [fine_mass(cells, box, side) for cells, box in zip(maps, boxes, strict=True)]
    found = mass(torch.from_numpy(maps), torch.tensor(boxes), side)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    single = mass(torch.from_numpy(maps).float(), torch.tensor(boxes), side)
    np.testing.assert_allclose(single, expected, atol=2e-6)


def test_mass_of_everything_and_nothing():
    maps = torch.rand(4, 7, 6)
    maps /= maps.sum((1, 2), keepdim=True)
    assert mass(maps, torch.tensor([[0, 0, 50, 50]] * 4), 50).tolist() == pytest.approx([1] * 4)
    assert mass(maps, torch.tensor([[0, 0, 50, 50]] * 4), 50).max() <= 1
    assert mass(maps, torch.tensor([[7, 9, 7, 30]] * 4), 50).tolist() == [0] * 4


def test_rows_are_y_and_columns_are_x():
    maps = torch.zeros(1, 2, 3)
    maps[0, 0, 2] = 1  # the cell at the upper right
    assert mass(maps, torch.tensor([[8, 0, 12, 6]]), 12).item() == pytest.approx(1)
    assert mass(maps, torch.tensor([[0, 6, 12, 12]]), 12).item() == 0
    assert around(torch.tensor([2]), (2, 3), torch.tensor([2]), 12).tolist() == [[9, 2, 11, 4]]


@pytest.mark.parametrize("h, w, side", [(6, 6, 48), (7, 7, 112), (8, 8, 64), (1, 1, 5), (6, 9, 50), (7, 5, 33)])
def test_around_keeps_size_and_stays_inside(h, w, side):
    cells, extents = (
        grid.flatten() for grid in torch.meshgrid(torch.arange(h * w), torch.arange(1, side + 1), indexing="ij")
    )
    boxes = around(cells, (h, w), extents, side)
    assert boxes.dtype == torch.int64
    assert torch.equal(boxes[:, 2] - boxes[:, 0], extents) and torch.equal(boxes[:, 3] - boxes[:, 1], extents)
    assert boxes.min() >= 0 and boxes.max() <= side
    for low, centre in ((boxes[:, 0], (cells % w + 0.5) / w * side), (boxes[:, 1], (cells // w + 0.5) / h * side)):
        # centred on the cell to half a pixel, unless that leaves the image: then the least shift puts it at an edge
        ideal = centre - extents / 2
        nearest = torch.minimum(ideal.clamp_min(0), side - extents.float())
        assert (low - nearest).abs().max() <= 0.5 + 1e-4


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.5), st.floats(0.5, 0.99), st.integers(8, 300)
)
def test_square_sides(lam, low, high, side):
    found = square_sides(torch.tensor(lam, dtype=torch.float64), [low, high], side)
    expected = [round(math.sqrt(min(max(1 - each, low), high)) * side) for each in lam]
    assert found.tolist() == [min(max(each, 1), side) for each in expected]


def test_area():
    boxes = torch.tensor([[0, 0, 10, 10], [2, 3, 2, 9], [1, 1, 6, 3]])
    assert area(boxes, 10).tolist() == pytest.approx([1, 0, 0.1])


@st.composite
def pastes(draw):
    side, count = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    place = st.integers(0, side)
    reference, donor = [], []
    for _ in range(count):
        w, h = draw(place), draw(place)
        corners = [(draw(st.integers(0, side - w)), draw(st.integers(0, side - h))) for _ in range(2)]
        for boxes, (x, y) in zip((reference, donor), corners, strict=True):
            boxes.append([x, y, x + w, y + h])
    donors = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    return side, donors, reference, donor


@given(pastes(), st.booleans())
@settings(max_examples=60)
def test_paste(case, channels_last):
    side, donors, reference, donor = case
    images = torch.arange(len(donors) * 3 * side * side, dtype=torch.float32).reshape(len(donors), 3, side, side)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    before = images.clone()
    found = paste(images, torch.tensor(donors), torch.tensor(reference), torch.tensor(donor))

    expected = before.clone()
    for i, j in enumerate(donors):
        x0, y0, x1, y1 = reference[i]
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected[i, :, y, x] = before[j, :, donor[i][1] + y - y0, donor[i][0] + x - x0]
    assert torch.equal(found, expected)
    assert torch.equal(images, before)
    assert found.data_ptr() != images.data_ptr()
