"""Random operations on light and colour, against torchvision's and Pillow's own, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional

from lapml.config.parts import Augment
from lapml.data.augment import OPERATIONS, augment

NAMES = list(OPERATIONS)
# name: what torchvision makes of one image in 0..1, by a factor or by the magnitude
TORCHVISIONS = {
    "nothing": lambda image, factor, magnitude: image,
    "brightness": lambda image, factor, magnitude: functional.adjust_brightness(image, factor),
    "contrast": lambda image, factor, magnitude: functional.adjust_contrast(image, factor),
    "colour": lambda image, factor, magnitude: functional.adjust_saturation(image, factor),
    "sharpness": lambda image, factor, magnitude: functional.adjust_sharpness(image, factor),
    "posterize": lambda image, factor, magnitude: functional.posterize(image, round(8 - magnitude / 7.5)),
    "solarize": lambda image, factor, magnitude: functional.solarize(image, 1 - magnitude / 30),
    "autocontrast": lambda image, factor, magnitude: functional.autocontrast(image),
    "equalize": lambda image, factor, magnitude: functional.equalize(image),
}
PILLOWS = {
    "nothing": lambda image, factor, magnitude: image,
    "brightness": lambda image, factor, magnitude: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor, magnitude: ImageEnhance.Contrast(image).enhance(factor),
    "colour": lambda image, factor, magnitude: ImageEnhance.Color(image).enhance(factor),
    "sharpness": lambda image, factor, magnitude: ImageEnhance.Sharpness(image).enhance(factor),
    "posterize": lambda image, factor, magnitude: ImageOps.posterize(image, round(8 - magnitude / 7.5)),
    "solarize": lambda image, factor, magnitude: ImageOps.solarize(image, round(255 * (1 - magnitude / 30))),
    "autocontrast": lambda image, factor, magnitude: ImageOps.autocontrast(image),
    "equalize": lambda image, factor, magnitude: ImageOps.equalize(image),
}


def pictures(count: int, seed: int = 0, side: int = 20) -> torch.Tensor:
    """(N, 3, side, side) in 0..255, whole numbers, smooth and of different brightness, as photographs are."""
    coarse = 20 + 180 * torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = functional.resize(coarse, [side, side], antialias=True)
    return smooth.mul_(torch.linspace(0.6, 1.2, count)[:, None, None, None]).round_()


def drawn(names: list[str], signs: list[int]) -> np.ndarray:
    """(B, 1, 2) numbers that choose an operation and a sign for each image."""
    which = [(NAMES.index(name) + 0.5) / len(NAMES) for name in names]
    return np.stack([which, [0.25 + 0.5 * (sign > 0) for sign in signs]], 1)[:, None]


@pytest.mark.parametrize("magnitude", [3, 9, 15, 30])
def test_operations_are_torchvisions(magnitude):
    """All in one batch, each with either sign."""
    names, signs = [*NAMES, *NAMES], [-1] * len(NAMES) + [1] * len(NAMES)
    images = pictures(len(names))
    before = images.clone()
    found = augment(images, drawn(names, signs), Augment(ops=1, magnitude=magnitude))
    for image, changed, name, sign in zip(images, found, names, signs, strict=True):
        expected = 255 * TORCHVISIONS[name](image / 255, 1 + sign * 0.9 * magnitude / 30, magnitude)
        torch.testing.assert_close(changed, expected, atol=1e-3, rtol=0, msg=name)
        assert name == "nothing" or magnitude < 30 or (changed - image).abs().max() > 1
    assert torch.equal(images, before) and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("magnitude", [9, 30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_operations_are_pillows(magnitude, sign):
    images = pictures(len(NAMES), 1)
    found = augment(images, drawn(NAMES, [sign] * len(NAMES)), Augment(ops=1, magnitude=magnitude))
    for image, changed, name in zip(images, found, NAMES, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
        theirs = np.asarray(PILLOWS[name](picture, 1 + sign * 0.9 * magnitude / 30, magnitude), np.float64)
        error = np.abs(changed.permute(1, 2, 0).double().numpy() - theirs)
        # Pillow has whole numbers, and where a value meets an edge of solarize or posterize either side is right.
        allowed = {"posterize": 256 // 2 ** round(8 - magnitude / 7.5)}.get(name, 3)
        assert np.quantile(error, 0.98) <= allowed, name


@given(st.integers(1, 12), st.integers(1, 4), st.floats(0, 30), st.integers(0, 1000))
def test_an_image_meets_its_own_operations_in_its_own_order(count, ops, magnitude, seed):
    """Whatever else is in the batch."""
    images, settings = pictures(count, seed, 12), Augment(ops=ops, magnitude=magnitude)
    uniform = np.random.default_rng(seed).random((count, ops, 2))
    found = augment(images, uniform, settings)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert found.min() >= 0 and found.max() <= 255.001
    for i in range(count):
        alone = augment(images[i : i + 1], uniform[i : i + 1], settings)
        step = images[i : i + 1]
        for op in range(ops):
            step = augment(step, uniform[i : i + 1, op : op + 1], Augment(ops=1, magnitude=magnitude))
        # a level of a posterized or equalized image is a whole step where rounding differs
        for other in (alone[0], step[0]):
            assert ((found[i] - other).abs() > 0.01).float().mean() < 0.02


def test_each_operation_is_as_frequent_as_another(monkeypatch):
    seen = {}
    for name in NAMES:
        counted = lambda images, factor, strength, name=name: seen.update({name: len(images)}) or images  # noqa: E731
        monkeypatch.setitem(OPERATIONS, name, counted)
    images = torch.arange(9000.0)[:, None, None, None].expand(-1, 3, 2, 2)
    found = augment(images, np.random.default_rng(0).random((9000, 1, 2)), Augment(ops=1, magnitude=9))
    torch.testing.assert_close(found, images)  # in its own place again
    assert sum(seen.values()) == 9000 and all(900 < seen[name] < 1100 for name in NAMES)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast", "colour", "sharpness"])
def test_a_flat_image_stays(name):
    images = torch.full((2, 3, 6, 6), 100.0)
    torch.testing.assert_close(
        augment(images, drawn([name] * 2, [-1, 1]), Augment(ops=1, magnitude=30)), images, atol=0.02, rtol=0
    )
