"""ResizeMix, SaliencyMix and FMix against slow recomputations of their papers' definitions, one image at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torchvision.transforms.v2 import functional as v2

from lapml import config
from lapml.mixing import Draws, Evidence, fmix, mix, mixer, saliencymix
from lapml.training import loop

ROOT, SIDE = Path(__file__).parents[2], 40


def batch_of(seed: int, count: int = 4, side: int = SIDE, uniform: int = 3) -> Draws:
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, side, side, generator=g)
    lam, numbers = torch.rand(count, generator=g), torch.rand(count, uniform, generator=g)
    return Draws(images, torch.arange(count), torch.arange(count).roll(1), lam, numbers)


def check_labels(mixed, shares) -> None:
    expected = torch.tensor(shares, dtype=torch.float32)
    for found, value in ((mixed.pasted, expected), (mixed.rho, expected), (mixed.kept, 1 - expected)):
        torch.testing.assert_close(found, value, atol=1e-6, rtol=0)


# --- ResizeMix ---


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_resizemix(seed):
    batch = batch_of(seed)
    mixed = mix(batch, Evidence(), mixer("resizemix", scale=[0.1, 0.8]))
    shares = []
    for i in range(batch.count):
        u, v, t = batch.uniform[i].tolist()
        half = int(SIDE * (0.1 + 0.7 * t) + 1e-6) // 2
        x, y = int(u * SIDE), int(v * SIDE)
        x0, x1, y0, y1 = max(x - half, 0), min(x + half, SIDE), max(y - half, 0), min(y + half, SIDE)
        expected = batch.images[i].clone()
        if x1 > x0 and y1 > y0:
            expected[:, y0:y1, x0:x1] = v2.resize(
                batch.images[int(batch.donors[i])], [y1 - y0, x1 - x0], antialias=True
            )
        torch.testing.assert_close(mixed.images[i], expected, atol=1e-4, rtol=1e-4)
        shares.append((x1 - x0) * (y1 - y0) / SIDE**2)
    check_labels(mixed, shares)


def test_resizemix_shows_the_whole_donor():
    """At any scale, the small image has the donor's mean colour."""
    batch = batch_of(0)
    batch.uniform[:, :2] = 0.5  # in the middle: nothing is clipped
    mixed = mix(batch, Evidence(), mixer("resizemix", scale=[0.3, 0.8]))
    for i, (x0, y0, x1, y1) in enumerate(mixed.box_reference.tolist()):
        small = mixed.images[i, :, y0:y1, x0:x1]
        assert (small.mean((1, 2)) - batch.images[int(batch.donors[i])].mean((1, 2))).abs().max() < 0.08


# --- SaliencyMix ---


def spectral_residual(image: np.ndarray) -> np.ndarray:
    """By scipy, of a (64, 64) image."""
    spectrum = np.fft.fft2(image)
    amplitude, phase = np.log(np.maximum(np.abs(spectrum), 1e-8)), np.angle(spectrum)
    residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="wrap")
    found = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** 2
    return ndimage.gaussian_filter(found, 2.5, mode="mirror", radius=7)


@pytest.mark.parametrize("seed", range(4))
def test_saliency_is_the_spectral_residual(seed):
    images = batch_of(seed, side=64).images
    found = saliencymix.saliency(images)
    for image, map_ in zip(images, found, strict=True):
        expected = spectral_residual(image.double().mean(0).numpy())
        np.testing.assert_allclose(map_.numpy(), expected, rtol=2e-2, atol=1e-3 * expected.max())


def test_an_odd_thing_is_salient():
    """A small square on a plain ground of stripes."""
    at = torch.arange(128)
    images = ((at // 4) % 2).float().expand(2, 3, 128, 128).clone()
    images[0, :, 30:44, 80:94] = 3.0
    images[1, :, 90:104, 20:34] = -2.0
    peaks = saliencymix.saliency(images).flatten(1).argmax(1)
    for peak, (y, x) in zip(peaks.tolist(), ((37, 87), (97, 27)), strict=True):
        assert abs(peak // 64 * 2 - y) <= 12 and abs(peak % 64 * 2 - x) <= 12


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_saliencymix(seed):
    batch = batch_of(seed)
    mixed = mix(batch, Evidence(), mixer("saliencymix", alpha=1.0))
    shares = []
    for i, j in enumerate(batch.donors.tolist()):
        peak = int(saliencymix.saliency(batch.images[j : j + 1]).argmax())
        x, y = (int((each + 0.5) / 64 * SIDE) for each in (peak % 64, peak // 64))
        half = int(SIDE * (1 - float(batch.lam[i].double())) ** 0.5) // 2
        x0, x1, y0, y1 = max(x - half, 0), min(x + half, SIDE), max(y - half, 0), min(y + half, SIDE)
        expected = batch.images[i].clone()
        expected[:, y0:y1, x0:x1] = batch.images[j, :, y0:y1, x0:x1]
        assert torch.equal(mixed.images[i], expected)
        shares.append((x1 - x0) * (y1 - y0) / SIDE**2)
    check_labels(mixed, shares)


# --- FMix ---


def slow_noise(uniform: np.ndarray, decay: float, side: int) -> np.ndarray:
    """By numpy's inverse transform of the whole spectrum of a real image, of which only low frequencies are not 0."""
    normal = stats.norm.ppf(uniform.astype(np.float64)).reshape(2, fmix.ROWS, fmix.COLUMNS)
    spectrum = np.zeros((side, side // 2 + 1), complex)
    for row, y in enumerate(range(-fmix.HIGHEST, fmix.HIGHEST + 1)):
        for x in range(fmix.COLUMNS):
            scale = max(np.hypot(x, y), 1.0) ** -decay
            spectrum[y % side, x] = scale * (normal[0, row, x] + 1j * normal[1, row, x])
    return np.fft.irfft2(spectrum, (side, side)) * side**2


@pytest.mark.parametrize("decay", [2.0, 3.0])
def test_fmix_noise_is_the_inverse_transform_of_its_spectrum(decay):
    uniform = torch.rand(3, fmix.Settings.uniform, generator=torch.Generator().manual_seed(1))
    found = fmix.noise(uniform, decay, SIDE)
    for each, drawn in zip(found, uniform, strict=True):
        np.testing.assert_allclose(each.numpy(), slow_noise(drawn.numpy(), decay, SIDE), atol=2e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_fmix(seed):
    batch = batch_of(seed, uniform=fmix.Settings.uniform)
    mixed = mix(batch, Evidence(), mixer("fmix", alpha=1.0, decay=3.0))
    field, shares = fmix.noise(batch.uniform, 3.0, SIDE), []
    for i, j in enumerate(batch.donors.tolist()):
        count = round(float(batch.lam[i].double()) * SIDE**2)
        order = sorted(range(SIDE**2), key=lambda k, i=i: -float(field[i].flatten()[k]))
        kept = torch.zeros(SIDE**2, dtype=torch.bool)
        kept[order[:count]] = True
        kept = kept.view(SIDE, SIDE)
        assert torch.equal(mixed.images[i], torch.where(kept, batch.images[i], batch.images[j]))
        assert torch.equal(mixed.mask[i], (~kept).float())
        shares.append(1 - count / SIDE**2)
    check_labels(mixed, shares)


def test_fmix_masks_are_few_large_blots():
    """The noise is smooth: at half and half, hardly a pixel differs from the one beside it."""
    batch = batch_of(3, count=16, side=64, uniform=fmix.Settings.uniform)
    batch.lam[:] = 0.5
    mask = mix(batch, Evidence(), mixer("fmix", alpha=1.0, decay=3.0)).mask
    changes = ((mask[:, :, 1:] != mask[:, :, :-1]).float().mean() + (mask[:, 1:] != mask[:, :-1]).float().mean()) / 2
    assert 0.005 < changes < 0.08
    assert [int(ndimage.label(each.numpy())[1]) for each in mask] <= [8] * 16


# --- as methods ---


@pytest.mark.parametrize("name", ["resizemix", "saliencymix", "fmix"])
def test_they_are_methods(small_params, packed, tmp_path, name):
    """By their mixer alone: the defaults of base.yaml give the rest."""
    overlay = {
        "base": str(ROOT / "suites/demo.yaml"),
        "ablation": ["baseline", "new"],
        "methods": {"new": {"mixer": {"name": name}}},
    }
    (tmp_path / "new.yaml").write_text(json.dumps(overlay))
    params = small_params("methods.new.mix.warmup_epochs=0", "methods.new.mix.prob=1.0", path=tmp_path / "new.yaml")
    fitted = loop.fit(config.resolve(params, "birds", "new", 0, {}, False), packed, log=lambda line: None)
    assert all(0 < row["rho_mean"] < 1 and row["mixed_batches"] for row in fitted.history)
