"""Where the annotations say that the object and its parts lie in a view: compared with pictures that were cut."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lapml.config import View
from lapml.data import views
from lapml.data.index import COLUMNS
from lapml.data.truth import Annotations
from lapml.errors import LapmlError

WHOLE = [0.0, 0.0, 1.0, 1.0, 0.0]
FLIPPED = [0.0, 0.0, 1.0, 1.0, 1.0]


def index_of(sizes: list, boxes: list, parts: list | None = None) -> pd.DataFrame:
    parts = parts or [None] * len(boxes)
    rows = [
        (f"001.Bird/{row}.png", 0, "001.Bird", "train", *size, box, points)
        for row, (size, box, points) in enumerate(zip(sizes, boxes, parts, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def seen(index: pd.DataFrame, windows: list, side: int, rows: list[int] | None = None):
    rows = list(range(len(index))) if rows is None else rows
    return Annotations(index).seen(np.array(rows), np.array(windows, np.float64), side)


def view_of(crop: str = "resized", aspect: str = "keep", flip: bool = True) -> View:
    return View(side=40, aspect=aspect, crop=crop, scale=[0.2, 1.0], flip=flip, jitter=0.0)


def windows_of(rng: np.random.Generator, sizes: list, view: View) -> np.ndarray:
    return views.training_windows(np.array(sizes, np.float64), view, rng.random((len(sizes), views.DRAWS)))


# --- by eye ---


def test_a_whole_view_is_the_image_scaled():
    truth = seen(index_of([(200, 100)], [[20, 10, 60, 50]], [[[50, 25, 1], [100, 75, 1]]]), [WHOLE], 40)
    assert truth.boxes.tolist() == [[4, 4, 16, 24]]
    assert truth.parts.tolist() == [[[10, 10, 1], [20, 30, 1]]]


def test_a_flipped_view_is_mirrored_and_the_box_keeps_its_order():
    truth = seen(index_of([(200, 100)], [[20, 10, 60, 50]], [[[50, 25, 1], [100, 75, 1]]]), [FLIPPED], 40)
    assert truth.boxes.tolist() == [[24, 4, 36, 24]]
    assert truth.parts.tolist() == [[[30, 10, 1], [20, 30, 1]]]


def test_a_crop_clips_the_box_and_leaves_out_parts():
    """The right half and the lower half of 200 × 100 pixels."""
    parts = [[99, 75, 1], [100, 50, 1], [150, 75, 1], [150, 49, 1], [199, 99, 1], [150, 75, 0]]
    truth = seen(index_of([(200, 100)], [[80, 40, 70, 40]], [parts]), [[0.5, 0.5, 0.5, 0.5, 0]], 40)
    assert truth.boxes.tolist() == [[0, 0, 20, 24]]
    assert truth.parts[0, :, 2].tolist() == [0, 1, 1, 0, 1, 0]
    assert truth.parts[0, 2].tolist() == [20, 20, 1]


@pytest.mark.parametrize("window", [[0.5, 0.0, 0.5, 1.0, 0], [0.5, 0.0, 0.5, 1.0, 1], [0.0, 0.6, 1.0, 0.4, 1]])
def test_a_box_outside_the_view_is_empty(window):
    truth = seen(index_of([(200, 100)], [[20, 10, 60, 50]], [[[50, 25, 1]]]), [window], 40)
    x0, y0, x1, y1 = truth.boxes[0].tolist()
    assert x1 <= x0 or y1 <= y0
    assert 0 <= x0 <= 40 and 0 <= x1 <= 40 and 0 <= y0 <= 40 and 0 <= y1 <= 40
    assert truth.parts[0, 0, 2] == 0


def test_rows_are_those_asked_for_in_that_order_and_again():
    index = index_of([(100, 100)] * 3, [[10 * k, 0, 10, 10] for k in range(3)], [[[10 * k, 5, 1]] for k in range(3)])
    truth = seen(index, [WHOLE, WHOLE, FLIPPED], 100, [2, 0, 2])
    assert truth.boxes[:, 0].tolist() == [20, 0, 70]
    assert truth.parts[:, 0, 0].tolist() == [20, 0, 80]


def test_looking_does_not_change_the_annotations():
    rng = np.random.default_rng(0)
    index = index_of([(200, 100)], [[20, 10, 60, 50]], [[[50, 25, 1], [180, 75, 1]]])
    annotations = Annotations(index)
    first = annotations.seen(np.array([0]), np.array([WHOLE]), 40)
    for window in windows_of(rng, [(200, 100)] * 8, view_of()):
        annotations.seen(np.array([0]), window[None], 40)
    again = annotations.seen(np.array([0]), np.array([WHOLE]), 40)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert index["parts"][0] == [[50, 25, 1], [180, 75, 1]] and index["box"][0] == [20, 10, 60, 50]


@pytest.mark.parametrize("none", [None, []])
def test_images_without_parts_show_none(none):
    """Beside one with parts, and alone."""
    index = index_of([(100, 100)] * 2, [[0, 0, 50, 50]] * 2, [none, [[10, 20, 1], [30, 40, 1]]])
    truth = seen(index, [WHOLE] * 2, 50)
    assert truth.parts.shape == (2, 2, 3)
    assert truth.parts[0, :, 2].tolist() == [0, 0] and truth.parts[1, :, 2].tolist() == [1, 1]
    truth = seen(index_of([(100, 100)], [[0, 0, 50, 50]], [none]), [WHOLE], 50)
    assert truth.parts.shape == (1, 1, 3) and truth.parts[0, 0, 2] == 0
    assert truth.boxes.tolist() == [[0, 0, 25, 25]]


def test_an_image_without_a_box_is_named():
    index = index_of([(100, 100)] * 3, [[0, 0, 50, 50], None, [0, 0, 50, 50]])
    with pytest.raises(LapmlError, match="001.Bird/1.png") as error:
        Annotations(index)
    assert "001.Bird/0.png" not in str(error.value) and "box" in str(error.value)


# --- against to_view, point by point, and against pictures ---


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    crop=st.sampled_from(["resized", "fixed"]),
    aspect=st.sampled_from(["keep", "warp"]),
    side=st.integers(8, 64),
)
def test_every_point_is_where_to_view_has_it(seed, crop, aspect, side):
    rng = np.random.default_rng(seed)
    sizes = [tuple(size) for size in rng.integers(40, 300, (5, 2)).tolist()]
    boxes, parts = [], []
    for width, height in sizes:
        (x0, x1), (y0, y1) = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        boxes.append([x0, y0, x1 - x0, y1 - y0])
        points = np.column_stack([rng.uniform(0, width, 4), rng.uniform(0, height, 4), rng.random(4) < 0.7])
        parts.append(points.tolist())
    windows = windows_of(rng, sizes, view_of(crop, aspect))
    truth = seen(index_of(sizes, boxes, parts), windows, side)
    for i, ((width, height), (x, y, w, h)) in enumerate(zip(sizes, boxes, strict=True)):
        corners = [(x / width, y / height), ((x + w) / width, (y + h) / height)]
        (ax, ay), (bx, by) = (views.to_view(windows[i : i + 1], np.array([[at]]))[0, 0] for at in corners)
        expected = [min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)]
        expected = [side * min(max(edge, 0), 1) for edge in expected]
        assert truth.boxes[i].tolist() == pytest.approx(expected, abs=1e-4)
        for p, (px, py, visible) in enumerate(parts[i]):
            u, v = views.to_view(windows[i : i + 1], np.array([[(px / width, py / height)]]))[0, 0]
            within = 0 <= u < 1 and 0 <= v < 1
            assert bool(truth.parts[i, p, 2]) == (visible > 0 and within)
            if within:
                assert truth.parts[i, p, :2].tolist() == pytest.approx([side * u, side * v], abs=1e-4)


def painted(size: tuple[int, int], box: list[int], stored: int) -> torch.Tensor:
    """(1, S, S, 1): a white box on a black image, squashed to the stored square."""
    picture = np.zeros((size[1], size[0]), np.uint8)
    x, y, w, h = box
    picture[y : y + h, x : x + w] = 255
    square = Image.fromarray(picture).resize((stored, stored), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(square).copy())[None, :, :, None]


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1), crop=st.sampled_from(["resized", "fixed"]), aspect=st.sampled_from(["keep", "warp"])
)
def test_a_painted_box_is_cut_to_the_box(seed, crop, aspect):
    """Rows and columns that are white in the view are those of the box, to one pixel."""
    rng, side, stored = np.random.default_rng(seed), 40, 80
    size = tuple(rng.integers(60, 240, 2).tolist())
    w, h = (int(rng.integers(extent // 4, extent)) for extent in size)
    box = [int(rng.integers(0, size[0] - w + 1)), int(rng.integers(0, size[1] - h + 1)), w, h]
    windows = windows_of(rng, [size], view_of(crop, aspect))
    picture = views.cut(painted(size, box, stored), torch.from_numpy(windows).float(), side)[0, 0] > 127.5
    x0, y0, x1, y1 = seen(index_of([size], [box]), windows, side).boxes[0].tolist()
    if x1 - x0 < 1 or y1 - y0 < 1:
        assert picture.sum() <= 2 * side  # an edge at most
        return
    assume(picture.any())
    rows, columns = picture.any(1).nonzero()[:, 0], picture.any(0).nonzero()[:, 0]
    found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    assert found == pytest.approx([x0, y0, x1, y1], abs=1)


def test_painted_boxes_are_seen_flipped_clipped_and_missed():
    """Of the windows above, some of each: the comparison is of all cases."""
    rng, counts = np.random.default_rng(0), {"flipped": 0, "clipped": 0, "missed": 0}
    sizes = [(200, 100)] * 200
    windows = windows_of(rng, sizes, view_of())
    boxes = seen(index_of(sizes, [[150, 60, 45, 35]] * 200), windows, 40).boxes
    extent = boxes[:, 2:] - boxes[:, :2]
    missed = (extent <= 0).any(1).numpy()
    full = np.stack([45 / 200 / windows[:, 2], 35 / 100 / windows[:, 3]], 1) * 40
    counts["flipped"] = int((windows[:, 4] > 0.5).sum())
    counts["clipped"] = int(((extent.numpy() < full - 1e-3).any(1) & ~missed).sum())
    counts["missed"] = int(missed.sum())
    assert min(counts.values()) >= 10, counts


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), flip=st.booleans())
def test_a_painted_part_is_where_the_view_shows_it(seed, flip):
    """A dot of 5 × 5 pixels: the centre of what is white, to one pixel."""
    rng, side, stored = np.random.default_rng(seed), 40, 80
    size = (160, 80) if rng.random() < 0.5 else (80, 160)
    x, y = int(rng.integers(2, size[0] - 2)), int(rng.integers(2, size[1] - 2))
    windows = windows_of(rng, [size], view_of(flip=False))
    windows[:, 4] = flip
    truth = seen(index_of([size], [[0, 0, 10, 10]], [[[x + 0.5, y + 0.5, 1]]]), windows, side)
    picture = views.cut(painted(size, [x - 2, y - 2, 5, 5], stored), torch.from_numpy(windows).float(), side)[0, 0]
    at, shown = truth.parts[0, 0, :2].tolist(), truth.parts[0, 0, 2]
    inside = all(3 <= each <= side - 3 for each in at)
    if not inside:
        return
    assert shown == 1
    yy, xx = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    centre = [float((each * picture).sum() / picture.sum()) for each in (xx, yy)]
    assert centre == pytest.approx(at, abs=1)
