"""Corrupted images: against scipy, Pillow, colorsys and the authors' formulas; and a run that is evaluated on them."""

import colorsys
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.errors import LapmlError
from lapml.paths import CORRUPTIONS, READS
from lapml.runs.corruptions import SEVERITIES, corrupted
from lapml.runs.execute import execute
from lapml.runs.reevaluate import robustness

SIDE = 48


def photo(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, smooth as photos are, with black and white in it."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE, 3)), (4, 4, 0))
    image = (image - image.min()) / np.ptp(image)
    image[:4, :4], image[-4:, -4:] = 0, 1
    return (image * 255).round().astype(np.uint8)


def ours(image: np.ndarray, name: str, severity: int, row: int = 3) -> np.ndarray:
    """The same, corrupted, in 0..255."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (corrupted(pixels, name, severity, np.array([row]))[0].permute(1, 2, 0) * 255).numpy()


def as_file(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).round()


@pytest.mark.parametrize("severity", range(1, 6))
def test_against_independent_code(severity):
    image, at = photo(), severity - 1
    values = image / 255
    blurred = ndimage.gaussian_filter(values, (SEVERITIES["blur"][at],) * 2 + (0,), mode="nearest", truncate=4.0)
    assert np.abs(ours(image, "blur", severity) - as_file(blurred)).max() <= 1
    means = values.mean((0, 1), keepdims=True)
    contrast = (values - means) * SEVERITIES["contrast"][at] + means
    assert np.abs(ours(image, "contrast", severity) - as_file(contrast)).max() <= 1
    bright = np.empty_like(values)
    for y in range(SIDE):
        for x in range(SIDE):
            hue, saturation, value = colorsys.rgb_to_hsv(*values[y, x])
            bright[y, x] = colorsys.hsv_to_rgb(hue, saturation, min(value + SEVERITIES["brightness"][at], 1))
    assert np.abs(ours(image, "brightness", severity) - as_file(bright)).max() <= 1
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=SEVERITIES["jpeg"][at])
    assert np.array_equal(ours(image, "jpeg", severity), np.asarray(Image.open(file)))


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_its_deviation_and_is_of_the_image_alone(severity):
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    deviation = SEVERITIES["noise"][severity - 1]
    made = ours(grey, "noise", severity) / 255
    expected = np.clip(128 / 255 + deviation * np.random.default_rng(1).standard_normal(10**6), 0, 1)
    assert made.std() == pytest.approx(expected.std(), rel=0.03) and made.mean() == pytest.approx(
        expected.mean(), abs=0.01
    )
    pixels = torch.rand(3, 3, 8, 8)
    together = corrupted(pixels, "noise", severity, np.array([5, 6, 7]))
    torch.testing.assert_close(corrupted(pixels[1:2], "noise", severity, np.array([6])), together[1:2])


def test_severities_are_those_of_imagenet_c():
    """As in the authors' code: of gaussian_noise, gaussian_blur, brightness, contrast and jpeg_compression."""
    assert SEVERITIES == {
        "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "blur": (1, 2, 3, 4, 6),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "jpeg": (25, 18, 15, 10, 7),
    }


# --- of a run ---


@pytest.fixture
def run(small_run, annotated, tmp_path, monkeypatch):
    """A finished run whose data have boxes."""
    folder = tmp_path / "results/demo/runs/birds/baseline/0"
    metrics = execute(small_run("baseline"), annotated, folder, log=lambda line: None)
    monkeypatch.setattr("lapml.runs.reevaluate.open_data", lambda *given: annotated)
    return folder, metrics


def test_a_run_on_corrupted_images(run, annotated):
    folder, metrics = run
    lines: list[str] = []
    found = robustness(folder, "test", log=lines.append)
    assert found["top1"]["clean"] == pytest.approx(metrics["top1"]) and found["n"] == metrics["n"]
    names = [
        "clean",
        *(f"{name} {k}" for name in SEVERITIES for k in range(1, 6)),
        "object hidden",
        "background hidden",
    ]
    assert list(found["top1"]) == names and len(lines) == len(names)
    for name in SEVERITIES:
        assert found["mean"][name] == pytest.approx(np.mean([found["top1"][f"{name} {k}"] for k in range(1, 6)]))
    assert found["mean"]["all"] == pytest.approx(np.mean([found["mean"][name] for name in SEVERITIES]))
    assert json.loads((folder / CORRUPTIONS).read_text()) == found
    assert "corruptions" in (folder / READS).read_text().splitlines()[-1]


def test_what_is_hidden_is_the_box(annotated):
    """Of the very view that is evaluated: the object by the mean colour, which is 0 once normalised, or all but it."""
    from lapml.config import View
    from lapml.data.batches import Batches
    from lapml.runs.corruptions import changes

    view = View(side=48, aspect="keep", crop="resized", scale=[0.35, 1.0], flip=True, jitter=0.0)
    batches = Batches(annotated, np.arange(6), view, [0.5] * 3, [0.2] * 3, torch.device("cpu"))
    batch = next(iter(batches.evaluation(6)))
    made = {name: change(batch, batches) for name, change in changes(True) if name.endswith("hidden")}
    boxes = batches.annotations.seen(batch.rows, batch.windows.numpy().astype(float), 48).boxes
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for y in range(48):
            for x in range(48):
                inside = x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1
                shown, hidden = ("background", "object") if not inside else ("object", "background")
                assert torch.equal(made[f"{hidden} hidden"][i, :, y, x], batch.images[i, :, y, x])
                assert not made[f"{shown} hidden"][i, :, y, x].any()


def test_the_command(run):
    folder, _ = run
    printed = CliRunner().invoke(app, ["evaluate", str(folder), "--corruptions"]).output.splitlines()
    assert printed[0].startswith("clean: top-1 ") and printed[-1].startswith("mean over severities: noise ")
    refused = CliRunner().invoke(app, ["evaluate", str(folder), "--corruptions", "--dataset", "other"])
    assert refused.exit_code == 2


def test_a_run_is_not_evaluated_on_what_it_was_trained_on(run):
    with pytest.raises(LapmlError, match="was trained on"):
        robustness(run[0], "train")
