"""The drawn birds: always the same, true to their annotations, and sisters but for their marks."""

import re
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lapml.config import Drawn
from lapml.data import synthetic
from lapml.data.anatomy import CUB_PARTS, bird
from lapml.data.species import SISTERS, differing, species
from lapml.data.synthetic import Placement, draw, footprint, render
from lapml.errors import LapmlError

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


def drawn(**change) -> Drawn:
    some = {"classes": 5, "train_images": 2, "test_images": 2, "side": 48, "seed": 3, "nuisance": 0.7}
    return Drawn(**(some | change))


@cache
def pixels(label: int, side: int = 64, nuisance: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.asarray(render(species(label), np.random.default_rng(seed), side, nuisance).image, float)


def rows(root: Path, name: str) -> list[list[str]]:
    return [line.split(" ") for line in (root / f"{name}.txt").read_text().splitlines()]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@cache
def _outer(label: int) -> bytes:
    kind = replace(species(label), beak="thin")
    return render(kind, np.random.default_rng(0), 64, 0.0).mask.tobytes()


@pytest.fixture(scope="module")
def cub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "new" / "birds"
    draw(root, drawn())
    return root


def test_same_settings_same_bytes(cub, tmp_path):
    draw(tmp_path / "again", drawn())
    assert files(tmp_path / "again") == files(cub)
    draw(tmp_path / "other", drawn(seed=4))
    assert files(tmp_path / "other") != files(cub)


def test_an_image_does_not_depend_on_how_many_are_drawn(cub, tmp_path):
    draw(tmp_path / "more", drawn(classes=6, train_images=4, test_images=3))
    few, more = files(cub), files(tmp_path / "more")
    pictures = [name for name in few if name.endswith(".png")]
    assert len(pictures) == 2 * 5 * 4
    assert all(few[name] == more[name] for name in pictures)

    def truth(root: Path) -> dict[str, tuple]:
        boxes, parts = rows(root, "bounding_boxes"), rows(root, "parts/part_locs")
        splits = rows(root, "train_test_split")
        return {
            name: (splits[i][1], boxes[i][1:], [row[1:] for row in parts[15 * i : 15 * i + 15]])
            for i, (_, name) in enumerate(rows(root, "images"))
        }

    assert truth(cub).items() <= truth(tmp_path / "more").items()


def test_the_files_are_cubs(cub):
    names = {"images", "classes", "image_class_labels", "train_test_split", "bounding_boxes"}
    assert {path.name for path in cub.iterdir()} == {f"{name}.txt" for name in names} | {
        "images",
        "segmentations",
        "parts",
    }
    assert list(cub.parent.iterdir()) == [cub]
    classes = dict(rows(cub, "classes"))
    assert list(classes) == ["1", "2", "3", "4", "5"]
    assert all(re.fullmatch(rf"{int(key):03d}\.[A-Z][A-Za-z_]+", name) for key, name in classes.items())
    images = rows(cub, "images")
    assert [int(row[0]) for row in images] == list(range(1, 21))
    assert len({name for _, name in images}) == 20
    labels, splits, boxes = (rows(cub, name) for name in ("image_class_labels", "train_test_split", "bounding_boxes"))
    for (number, name), (n1, label), (n2, train), (n3, *box) in zip(images, labels, splits, boxes, strict=True):
        assert number == n1 == n2 == n3
        assert re.fullmatch(rf"{classes[label]}/{classes[label][4:]}_\d{{4}}\.png", name)
        assert train in "01"
        with Image.open(cub / "images" / name) as image, Image.open(cub / "segmentations" / name) as mask:
            assert (image.mode, mask.mode) == ("RGB", "L")
            assert image.size == mask.size
            assert max(image.size) == 48
            assert min(image.size) >= 36
            assert set(np.unique(mask)) == {0, 255}
            x, y, width, height = map(float, box)
            left, top, right, bottom = mask.getbbox()
            assert (x, y, x + width, y + height) == (left, top, right, bottom)
    assert [train for _, train in splits].count("1") == 10
    assert [tuple(row) for row in ((n, " ".join(p)) for n, *p in rows(cub, "parts/parts"))] == [
        (str(i), part) for i, part in enumerate(CUB_PARTS, 1)
    ]
    locations = rows(cub, "parts/part_locs")
    assert [(int(i), int(p)) for i, p, *_ in locations] == [(i, p) for i in range(1, 21) for p in range(1, 16)]
    for _, _, x, y, seen in locations:
        assert (x, y) == ("0.0", "0.0") if seen == "0" else (seen == "1" and float(x) >= 0 and float(y) >= 0)


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


def test_an_existing_folder_is_left_alone(cub):
    before = files(cub)
    with pytest.raises(LapmlError, match="exists already"):
        draw(cub, drawn())
    assert files(cub) == before


def test_nothing_half_done_remains(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("disk full")

    monkeypatch.setattr(synthetic, "render", broken)
    with pytest.raises(RuntimeError):
        draw(tmp_path / "birds", drawn())
    assert list(tmp_path.iterdir()) == []
