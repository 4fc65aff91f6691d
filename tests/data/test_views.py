"""Windows and the batched cut, against torchvision and against coordinates."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional

from lapml.config import View
from lapml.data import views

TOLERANCE = 0.01  # of 255: float rounding


def view_of(**changes) -> View:
    given = {"side": 32, "aspect": "keep", "crop": "resized", "scale": [0.35, 1.0], "flip": True, "jitter": 0.0}
    return View(**{**given, **changes})


def uniform_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, views.DRAWS))


def windows_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


# --- the cut ---


@given(st.integers(8, 48), st.integers(4, 40), st.integers(0, 2**31 - 1), st.data())
@settings(max_examples=60)
def test_cut_is_torchvisions_resized_crop(stored, side, seed, data):
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, stored, stored, 3), dtype=np.uint8))
    boxes, rows = [], []
    for _ in range(3):
        w, h = (data.draw(st.integers(2, stored)) for _ in "wh")
        x, y = data.draw(st.integers(0, stored - w)), data.draw(st.integers(0, stored - h))
        flip = data.draw(st.booleans())
        boxes.append((x, y, w, h, flip))
        rows.append((x / stored, y / stored, w / stored, h / stored, float(flip)))
    found = views.cut(images, windows_of(*rows), side)
    assert found.shape == (3, 3, side, side) and found.dtype == torch.float32
    for i, (x, y, w, h, flip) in enumerate(boxes):
        planes = images[i].permute(2, 0, 1).float()
        expected = functional.resized_crop(planes, y, x, h, w, [side, side], antialias=True)
        expected = functional.horizontal_flip(expected) if flip else expected
        assert (found[i] - expected).abs().max() <= 255 * TOLERANCE


def test_cut_of_the_whole_at_its_own_size_is_the_image():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8))
    found = views.cut(images, windows_of((0, 0, 1, 1, 0), (0, 0, 1, 1, 1)), 24)
    torch.testing.assert_close(found[0], images[0].permute(2, 0, 1).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], images[1].permute(2, 0, 1).float().flip(2), atol=1e-3, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(st.floats(0.001, 1), st.floats(0, 1), st.floats(0.001, 1), st.floats(0, 1), st.booleans())
def test_a_constant_image_stays_constant(w, x, h, y, flip):
    """Wherever the window lies, and however small it is: its weights sum to 1."""
    images = torch.full((1, 16, 16, 3), 200.0)
    found = views.cut(images, windows_of((x * (1 - w), y * (1 - h), w, h, float(flip))), 20)
    assert (found - 200).abs().max() <= 0.1


# --- erasing ---


@given(st.integers(8, 40), st.integers(0, 1000))
def test_what_is_erased_is_one_rectangle_inside(side, seed):
    uniform = torch.from_numpy(np.random.default_rng(seed).random((50, 5))).float()
    found = views.erase(torch.ones(50, 3, side, side), uniform, 0.6)
    for image, drawn in zip(found, uniform, strict=True):
        hit = image[0] == 0
        assert (
            torch.equal(image[1] == 0, hit)
            and torch.equal(image[2] == 0, hit)
            and image[~hit.expand(3, -1, -1)].eq(1).all()
        )
        assert hit.any() == (drawn[0] < 0.6)
        if hit.any():
            rows, columns = (hit.any(axis).nonzero().flatten() for axis in (1, 0))
            assert hit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            assert len(rows) < side and len(columns) < side


def test_rectangles_are_distributed_as_torchvisions():
    side, n = 100, 4000
    uniform = torch.from_numpy(np.random.default_rng(0).random((n, 5))).float()
    hit = views.erase(torch.ones(n, 1, side, side), uniform, 1.0)[:, 0] == 0
    torch.manual_seed(0)
    blank = torch.ones(1, side, side)
    drawn = [RandomErasing.get_params(blank, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(n)]
    theirs = np.array(drawn)  # top, left, height, width
    rows, columns = hit.any(2), hit.any(1)
    height, width = rows.sum(1).numpy(), columns.sum(1).numpy()
    top, left = rows.float().argmax(1).numpy(), columns.float().argmax(1).numpy()
    pairs = [(height * width / side**2, theirs[:, 2] * theirs[:, 3] / side**2)]
    pairs += [(np.log(height / width), np.log(theirs[:, 2] / theirs[:, 3]))]
    pairs += [((top + height / 2) / side, (theirs[:, 0] + theirs[:, 2] / 2) / side)]
    pairs += [((left + width / 2) / side, (theirs[:, 1] + theirs[:, 3] / 2) / side)]
    for ours, others in pairs:
        assert ours.mean() == pytest.approx(others.mean(), abs=0.02)
        levels = [0.05, 0.25, 0.5, 0.75, 0.95]
        assert np.quantile(ours, levels) == pytest.approx(np.quantile(others, levels), abs=0.05)


# --- the windows ---


@given(
    st.lists(st.tuples(st.integers(10, 4000), st.integers(10, 4000)), min_size=1, max_size=20),
    st.sampled_from(["keep", "warp"]),
    st.sampled_from(["resized", "fixed"]),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    st.integers(0, 1000),
)
def test_windows_lie_in_the_unit_square(sizes, aspect, crop, scale, seed):
    view = view_of(aspect=aspect, crop=crop, scale=sorted(scale))
    for windows in (
        views.training_windows(np.array(sizes), view, uniform_of(len(sizes), seed)),
        views.evaluation_windows(np.array(sizes), view),
    ):
        assert windows.shape == (len(sizes), 5) and windows.dtype == np.float64
        assert (windows[:, :2] >= -1e-12).all() and (windows[:, 2:4] > 0).all()
        assert (windows[:, :2] + windows[:, 2:4] <= 1 + 1e-12).all()
        assert np.isin(windows[:, 4], (0, 1)).all()


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (500, 500), (1000, 200)])
def test_training_windows_are_distributed_as_torchvisions(size):
    """In the original frame; the last size is so long that the fallback is common."""
    n, (width, height), scale = 4000, size, (0.35, 1.0)
    windows = views.training_windows(np.tile([width, height], (n, 1)), view_of(scale=list(scale)), uniform_of(n))
    ours = windows[:, :4] * [width, height, width, height]
    torch.manual_seed(0)
    blank = torch.empty(3, height, width, device="meta")
    drawn = [RandomResizedCrop.get_params(blank, scale, (3 / 4, 4 / 3)) for _ in range(n)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in drawn], np.float64)
    for measure in (
        lambda box: box[:, 2] * box[:, 3] / (width * height),
        lambda box: np.log(box[:, 2] / box[:, 3]),
        lambda box: (box[:, 0] + box[:, 2] / 2) / width,
        lambda box: (box[:, 1] + box[:, 3] / 2) / height,
    ):
        a, b = measure(ours), measure(theirs)
        assert a.mean() == pytest.approx(b.mean(), abs=0.015)
        assert np.quantile(a, [0.05, 0.25, 0.5, 0.75, 0.95]) == pytest.approx(
            np.quantile(b, [0.05, 0.25, 0.5, 0.75, 0.95]), abs=0.03
        )
    assert 0.46 < windows[:, 4].mean() < 0.54


@given(st.integers(20, 1000), st.integers(20, 1000), st.integers(0, 1000))
def test_resized_windows_have_an_allowed_aspect_and_area(width, height, seed):
    n = 20
    for aspect, frame in (("keep", (width, height)), ("warp", (1, 1))):
        view = view_of(aspect=aspect, scale=[0.4, 0.8])
        windows = views.training_windows(np.tile([width, height], (n, 1)), view, uniform_of(n, seed))
        w, h = windows[:, 2] * frame[0], windows[:, 3] * frame[1]
        assert (w / h >= 3 / 4 - 1e-9).all() and (w / h <= 4 / 3 + 1e-9).all()
        share = windows[:, 2] * windows[:, 3]
        centred = np.isclose(windows[:, 0], (1 - windows[:, 2]) / 2) & np.isclose(
            windows[:, 1], (1 - windows[:, 3]) / 2
        )
        assert (((share >= 0.4 - 1e-9) & (share <= 0.8 + 1e-9)) | centred).all()


def test_fallback_is_the_largest_centred_crop():
    """1000 × 100 with at least 0.9 of the area fits no allowed aspect."""
    uniform = uniform_of(5)
    wide = views.training_windows(np.tile([1000, 100], (5, 1)), view_of(scale=[0.9, 1.0], flip=False), uniform)
    share = 100 * 4 / 3 / 1000
    assert wide == pytest.approx(np.tile([(1 - share) / 2, 0, share, 1, 0], (5, 1)))
    tall = views.training_windows(np.tile([100, 1000], (5, 1)), view_of(scale=[0.9, 1.0], flip=False), uniform)
    assert tall == pytest.approx(np.tile([0, (1 - share) / 2, 1, share, 0], (5, 1)))


def test_fixed_windows_are_seven_eighths():
    n, sizes = 500, np.tile([400, 300], (500, 1))
    for aspect, extent in (("keep", (262.5 / 400, 262.5 / 300)), ("warp", (7 / 8, 7 / 8))):
        windows = views.training_windows(sizes, view_of(aspect=aspect, crop="fixed"), uniform_of(n))
        assert windows[:, 2:4] == pytest.approx(np.tile(extent, (n, 1)))
        for axis in (0, 1):  # uniform over the places that there are
            room = 1 - extent[axis]
            assert windows[:, axis].min() < 0.02 * room + 1e-9 and windows[:, axis].max() > 0.98 * room
            assert windows[:, axis].mean() == pytest.approx(room / 2, abs=0.05 * room)
        centred = views.evaluation_windows(sizes[:1], view_of(aspect=aspect, crop="fixed"))
        assert centred == pytest.approx(np.array([[(1 - extent[0]) / 2, (1 - extent[1]) / 2, *extent, 0]]))


@pytest.mark.parametrize("crop", ["resized", "fixed"])
def test_evaluation_is_the_centred_window_whatever_the_crop(crop):
    windows = views.evaluation_windows(np.array([[300, 400], [400, 300]]), view_of(crop=crop))
    assert windows == pytest.approx(
        np.array([[1 / 16, 0.171875, 7 / 8, 0.65625, 0], [0.171875, 1 / 16, 0.65625, 7 / 8, 0]])
    )


def test_no_flip_where_none_is_asked_for():
    assert not views.training_windows(np.full((50, 2), 100), view_of(flip=False), uniform_of(50))[:, 4].any()


# --- geometry, by images whose values are their own coordinates ---


def ramps(width: int, height: int, stored: int) -> torch.Tensor:
    """(1, S, S, 3): x and y in pixels of the original image, squashed to a stored square by Pillow, as in a pack."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    planes = [np.asarray(Image.fromarray(plane).resize((stored, stored), Image.Resampling.LANCZOS)) for plane in (x, y)]
    return torch.from_numpy(np.stack([*planes, planes[0]], 2))[None]


@pytest.mark.parametrize("aspect", ["keep", "warp"])
@pytest.mark.parametrize("kind", ["resized", "fixed", "evaluation"])
@pytest.mark.parametrize("width, height, stored, side", [(200, 150, 96, 64), (90, 160, 64, 48), (100, 100, 40, 40)])
def test_geometry_in_the_original_frame(aspect, kind, width, height, stored, side):
    image, sizes = ramps(width, height, stored), np.array([[width, height]])
    for seed in range(5):
        if kind == "evaluation":
            windows = views.evaluation_windows(sizes, view_of(aspect=aspect))
        else:
            windows = views.training_windows(sizes, view_of(aspect=aspect, crop=kind), uniform_of(1, seed))
        found = views.cut(image, torch.from_numpy(windows).float(), side)[0].double().numpy()
        x0, y0, w, h, flip = windows[0]
        place = (np.arange(side) + 0.5) / side
        x = (x0 + w * (1 - place if flip else place)) * width
        y = (y0 + h * place) * height
        for plane, expected, extent, size in ((found[0], x[None], w, width), (found[1], y[:, None], h, height)):
            pixel = max(extent * size / side, size / stored)  # of the view or of the stored square, the larger one
            error = np.abs(plane - expected)
            assert error.max() <= 0.5 * pixel + 0.1
            assert error[4:-4, 4:-4].max() <= 0.1 * pixel
        if aspect == "keep" and kind != "resized":
            assert w * width == pytest.approx(h * height)  # a square of the original: nothing is distorted


@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.integers(0, 10_000), st.sampled_from(["keep", "warp"]))
@settings(max_examples=60)
def test_to_view_finds_what_cut_shows(x, y, seed, aspect):
    stored, side = 64, 96
    column, row = int(x * stored), int(y * stored)
    image = torch.zeros(1, stored, stored, 3)
    image[0, row, column] = 255
    windows = views.training_windows(np.array([[80, 60]]), view_of(aspect=aspect), uniform_of(1, seed))
    point = views.to_view(windows, np.array([[[(column + 0.5) / stored, (row + 0.5) / stored]]]))[0, 0] * side
    found = views.cut(image, torch.from_numpy(windows).float(), side)[0, 0].double().numpy()
    if (point > 5).all() and (point < side - 5).all():
        ys, xs = np.mgrid[:side, :side] + 0.5
        centre = (found * xs).sum() / found.sum(), (found * ys).sum() / found.sum()
        assert centre == pytest.approx(tuple(point), abs=0.5)
    elif (point < -5).any() or (point > side + 5).any():
        assert found.max() < 1


def test_to_view_leaves_its_input_alone_and_maps_corners():
    windows = np.array([[0.25, 0.5, 0.5, 0.25, 0], [0.25, 0.5, 0.5, 0.25, 1]])
    points = np.tile(np.array([[0.25, 0.5], [0.75, 0.75], [0.0, 0.0]]), (2, 1, 1))
    before = points.copy()
    found = views.to_view(windows, points)
    assert found[0].tolist() == [[0, 0], [1, 1], [-0.5, -2]]
    assert found[1].tolist() == [[1, 0], [0, 1], [1.5, -2]]
    assert (points == before).all()


# --- jitter ---


@pytest.mark.parametrize("strength", [0.1, 0.4, 1.0])
def test_jitter_is_torchvisions(strength):
    g = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(6, 3, 9, 7, generator=g)
    uniform = torch.rand(6, 3, generator=g)
    uniform[0] = 0
    before = images.clone()
    found = views.jitter(images, uniform, strength)
    for i in range(6):
        bright, contrast, colour = (1 + strength * (2 * uniform[i] - 1)).tolist()
        expected = functional.adjust_brightness(images[i] / 255, bright)
        expected = functional.adjust_contrast(expected, contrast)
        expected = functional.adjust_saturation(expected, colour)
        assert (found[i] - 255 * expected).abs().max() <= 0.3  # the weights of grey differ in the fourth decimal
    assert torch.equal(images, before)


def test_no_jitter_changes_nothing():
    images = 255 * torch.rand(2, 3, 8, 8)
    assert torch.equal(views.jitter(images, torch.rand(2, 3), 0.0), images)
    torch.testing.assert_close(views.jitter(images, torch.full((2, 3), 0.5), 0.7), images)
    assert math.isclose(views.jitter(images, torch.zeros(2, 3), 1.0).abs().max().item(), 0, abs_tol=1e-4)
