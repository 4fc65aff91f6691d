"""Near-duplicates: against all pairs one by one, and on pictures that were changed in known ways."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from lapml.data import similar


def photograph(seed: int, side: int = 240) -> Image.Image:
    """Coarse and fine patches of colour."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for cells in (5, 12, 60)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.15)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(buffer)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """As the module says it, of two thumbnails, level by level."""
    bits = 0
    for y in range(8):
        for x in range(8):
            bits += (one[y][x + 1] > one[y][x]) != (other[y][x + 1] > other[y][x])
            bits += (one[y + 1][x] > one[y][x]) != (other[y + 1][x] > other[y][x])
    flat = one.min() == one.max() or other.min() == other.max()
    return not flat and bits <= 16 and np.corrcoef(one.ravel(), other.ravel())[0, 1] >= 0.97


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0, 12))
def test_pairs_are_those_of_all_pairs(seed, count, noise):
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (4, 9, 9))
    originals[3] = 128  # of one level
    thumbnails = (
        (originals[rng.integers(0, 4, count)] + rng.normal(0, noise, (count, 9, 9))).clip(0, 255).astype(np.uint8)
    )
    expected = [
        [one, other]
        for one in range(count)
        for other in range(one + 1, count)
        if alike(thumbnails[one], thumbnails[other])
    ]
    assert similar.near(thumbnails).tolist() == expected


def test_few_and_equal_thumbnails():
    assert similar.near(np.zeros((1, 9, 9), np.uint8)).shape == (0, 2)
    assert similar.near(np.full((3, 9, 9), 255, np.uint8)).shape == (0, 2)  # white: nothing to compare
    same = np.random.default_rng(0).integers(0, 256, (1, 9, 9), np.uint8).repeat(4, 0)
    assert len(similar.near(same)) == 6


def test_pairs_that_many_bands_find_are_held_once():
    same = np.random.default_rng(0).integers(0, 256, (1, 9, 9), np.uint8).repeat(300, 0)
    tracemalloc.start()
    pairs = similar.near(same)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) == 300 * 299 // 2
    assert peak < 6 * pairs.nbytes  # 24 bands


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, 30),
        lambda image: image.resize((120, 90)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: image.crop((3, 3, 237, 237)),
        lambda image: image.convert("L"),
    ],
    ids=["encoded", "smaller", "darker", "cut", "gray"],
)
def test_changed_copies_are_found_among_others(change):
    others = [photograph(seed) for seed in range(60)]
    thumbnails = np.stack([similar.thumbnail(image) for image in [*others, change(others[7])]])
    assert similar.near(thumbnails).tolist() == [[7, 60]]


def test_a_box_is_what_is_seen():
    image = photograph(0)
    box = (24, 24, 216, 200)
    seen, cut = (similar.thumbnail(*each).astype(int) for each in ((image, box), (image.crop(box),)))
    assert (
        np.abs(seen - cut).max() <= 4 < np.abs(seen - similar.thumbnail(image)).max()
    )  # Pillow's filter looks beyond it
