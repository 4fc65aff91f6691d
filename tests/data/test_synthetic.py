"""The synthetic birds: always the same, true to their annotations, and sisters but for their marks."""

from dataclasses import fields, replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from lapml.config import Synthetic
from lapml.data.synthetic import birds as synthetic
from lapml.data.synthetic.anatomy import CUB_PARTS, bird
from lapml.data.synthetic.birds import Placement, pictures, render
from lapml.data.synthetic.species import SISTERS, Species, species

FAMILIES: dict[int, list[int]] = {}
for number in range(200):
    FAMILIES.setdefault(species(number).family, []).append(number)
SISTER_PAIRS = [pair for family in FAMILIES.values() for pair in combinations(family, 2)]
PART_OF = {
    "crown": "crown",
    "throat": "throat",
    "tail": "tail",
    "bars": "left wing",
    "ring": "left eye",
    "beak": "beak",
}


def drawn(**change) -> Synthetic:
    some = {"classes": 5, "train_images": 2, "test_images": 2, "side": 48, "seed": 3, "nuisance": 0.7}
    return Synthetic(**(some | change))


@cache
def pixels(label: int, side: int = 64, nuisance: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.asarray(render(species(label), np.random.default_rng(seed), side, nuisance).image, float)


def truth(settings: Synthetic) -> dict[tuple, tuple]:
    """All that there is of each drawn image."""
    return {
        (item.label, item.split, item.k): (
            item.picture.image.tobytes(),
            item.picture.mask.tobytes(),
            item.picture.box,
            item.picture.parts.tobytes(),
        )
        for item in pictures(settings)
    }


@cache
def _outer(label: int) -> bytes:
    kind = replace(species(label), beak="thin")
    return render(kind, np.random.default_rng(0), 64, 0.0).mask.tobytes()


def test_order_and_sizes():
    items = list(pictures(drawn()))
    order = [(label, split, k) for label in range(5) for split in ("train", "test") for k in range(2)]
    assert [(item.label, item.split, item.k) for item in items] == order
    assert all(item.kind == species(item.label) for item in items)
    for item in items:
        assert item.picture.image.mode == "RGB" and item.picture.mask.mode == "L"
        assert item.picture.image.size == item.picture.mask.size
        assert max(item.picture.image.size) == 48 and min(item.picture.image.size) >= 36
        assert set(np.unique(item.picture.mask)) == {0, 255}
        x, y, width, height = item.picture.box
        assert (x, y, x + width, y + height) == item.picture.mask.getbbox()


def test_same_settings_same_pictures():
    first = truth(drawn())
    assert truth(drawn()) == first
    assert not set(truth(drawn(seed=4)).values()) & set(first.values())
    assert len(set(first.values())) == len(first) == 20


def test_an_image_does_not_depend_on_how_many_are_drawn():
    assert truth(drawn()).items() <= truth(drawn(classes=6, train_images=4, test_images=3)).items()


def test_sizes_vary():
    sizes = {render(species(0), np.random.default_rng(k), 64, 0.0).image.size for k in range(30)}
    assert len(sizes) > 10
    assert any(w > h for w, h in sizes)
    assert any(w < h for w, h in sizes)


@pytest.mark.parametrize("label", range(0, 36, 3))
def test_box_is_the_extent_of_the_drawing(label):
    rng = np.random.default_rng(label)
    picture = render(species(label), np.random.default_rng(label), 128, 0.0)
    size = synthetic._size(rng, 128)
    move = Placement(bird(species(label)), synthetic._pose(rng, 0.0), size)
    points = np.concatenate([move(shape.points) for shape in bird(species(label)).shapes]).clip(0, size)
    x, y, width, height = picture.box
    # thin ends (a beak's tip, a tail's corner) cover less than half of their last pixels
    assert np.abs(points.min(axis=0) - (x, y)).max() <= 4
    assert np.abs(points.max(axis=0) - (x + width, y + height)).max() <= 4


@settings(max_examples=50, deadline=None)
@given(
    label=st.integers(0, 199),
    seed=st.integers(0, 10**6),
    nuisance=st.floats(0, 1),
    side=st.sampled_from([32, 48, 96, 160]),
)
def test_parts_are_where_the_bird_is_seen(label, seed, nuisance, side):
    picture = render(species(label), np.random.default_rng(seed), side, nuisance)
    seen = np.argwhere(np.asarray(picture.mask) > 0) + 0.5
    assert len(seen) > 0.02 * side**2
    for (x, y, visible), place in zip(picture.parts, picture.places, strict=True):
        # to the nearest pixel's edge; NaN for the far side, which is not less than anything
        near = np.hypot(*np.maximum(np.abs(seen - place[::-1]) - 0.5, 0).T).min()
        if visible:
            assert (x, y) == tuple(place)
            assert 0 <= x < picture.image.width
            assert 0 <= y < picture.image.height
            assert near <= 2
        else:
            assert x == y == 0
            assert not near <= 0
    far = [
        picture.parts[CUB_PARTS.index(f"{side} {part}"), 2] for part in ("eye", "wing") for side in ("left", "right")
    ]
    assert far[0] + far[1] <= 1
    assert far[2] + far[3] <= 1


def test_leaves_hide_parts_and_frames_cut_them():
    pictures = [render(species(0), np.random.default_rng(k), 64, 1.0) for k in range(40)]
    hidden = [np.isfinite(p.places[:, 0]) & (p.parts[:, 2] == 0) for p in pictures]
    assert 0.02 < np.mean(hidden) < 0.4
    calm = render(species(0), np.random.default_rng(0), 64, 0.0)
    assert calm.parts[:, 2].sum() == 13
    assert calm.parts[CUB_PARTS.index("left eye"), 2] == 1
    mirrored = [p for p in pictures if np.isfinite(p.places[CUB_PARTS.index("right eye"), 0])]
    assert 10 < len(mirrored) < 30
    beak, tail = CUB_PARTS.index("beak"), CUB_PARTS.index("tail")
    assert all(p.places[beak, 0] > p.places[tail, 0] for p in mirrored)


MARKS = tuple(field.name for field in fields(Species))[4:]


def differing(first: Species, second: Species) -> set[str]:
    """The marks in which two species differ."""
    return {mark for mark in MARKS if getattr(first, mark) != getattr(second, mark)}


def footprint(kind: Species, marks: set[str], rng: np.random.Generator, side: int, nuisance: float) -> np.ndarray:
    """Where marks of a species lie in the image that render makes of an equal generator: (height, width) bool, with a rim of one
    pixel. It does not ask whether something lies in front of them."""
    size = synthetic._size(rng, side)
    figure = bird(kind)
    move = Placement(figure, synthetic._pose(rng, nuisance), size)
    canvas = Image.new("L", size)
    for shape in figure.shapes:
        if shape.part in marks:
            ImageDraw.Draw(canvas).polygon((move(shape.points) - 0.5).ravel().tolist(), fill=255)
    return np.asarray(canvas.filter(ImageFilter.MaxFilter(3))) > 0


def test_families():
    assert {len(family) for family in FAMILIES.values()} <= set(SISTERS) | {1}
    names = [species(number).name for number in range(200)]
    assert len(set(names)) == 200
    for a, b in SISTER_PAIRS:
        assert 1 <= len(differing(species(a), species(b))) <= 2
        assert _outer(a) == _outer(b), "sisters have one silhouette, but for the beak"
        assert (species(a).form, species(a).palette) == (species(b).form, species(b).palette)
    kinds = {(species(f[0]).form.name, species(f[0]).palette.name) for f in FAMILIES.values()}
    assert len(kinds) == len(FAMILIES)
    assert len({palette for _, palette in kinds}) < len(kinds)  # so a palette alone does not tell the family


def test_sisters_differ_in_their_marks_only():
    for a, b in SISTER_PAIRS:
        marks = differing(species(a), species(b))
        where = np.zeros(1, bool)
        for label in (a, b):
            where = where | footprint(species(label), marks, np.random.default_rng(0), 64, 0.0)
        change = np.abs(pixels(a) - pixels(b)).max(axis=2)
        assert not change[~where].any(), (species(a).name, species(b).name)
        assert (change > 40).sum() >= 6, "at 64 px a difference is a few pixels"
        assert (change > 0).mean() < 0.08, "and no more than a few"


def test_marks_lie_at_the_part_that_bears_them():
    for a, b in SISTER_PAIRS[:80]:
        picture = render(species(a), np.random.default_rng(0), 64, 0.0)
        changed = np.argwhere(np.abs(pixels(a) - pixels(b)).max(axis=2) > 20) + 0.5
        for mark in differing(species(a), species(b)) & PART_OF.keys():
            x, y, _ = picture.parts[CUB_PARTS.index(PART_OF[mark])]
            assert np.hypot(*(changed - (y, x)).T).min() <= 6


def test_nuisance_misleads():
    calm = [pixels(0, nuisance=0.0, seed=k) for k in range(8)]
    wild = [pixels(0, nuisance=1.0, seed=k) for k in range(8)]
    assert np.std([image.mean() for image in calm]) < 3
    assert np.std([image.mean() for image in wild]) > 10
