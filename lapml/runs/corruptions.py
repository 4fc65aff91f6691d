"""How a finished model bears images that are worse than those it was trained on, and on what of them it relies.

Corruptions and their five severities are those of ImageNet-C (Hendrycks and Dietterich, *Benchmarking neural network robustness to
common corruptions and perturbations*, ICLR 2019), one of each of its groups, applied to the view that the model sees. Beside them:
the object, or all but the object, hidden by the mean colour, by the data set's own boxes.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, pad

from lapml.data.batches import Batch, Batches
from lapml.mixing import boxes

SEVERITIES: dict[str, tuple[float, ...]] = {  # of ImageNet-C, from mild to severe
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation of Gaussian noise, of values in 0..1
    "blur": (1, 2, 3, 4, 6),  # sigma of a Gaussian, in pixels
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the value of HSV
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor on the distance from each colour's mean
    "jpeg": (25, 18, 15, 10, 7),  # quality
}
HIDDEN = ("object", "background")
TRUNCATED = 4.0  # sigmas that a Gaussian reaches


def corrupted(pixels: Tensor, name: str, severity: int, rows: np.ndarray) -> Tensor:
    """Images as they are after a corruption.

    Args:
        pixels: (B, 3, H, W) float32 in 0..1.
        name: a key of :data:`SEVERITIES`.
        severity: 1 to 5.
        rows: (B,) of the index, which seed the noise: it depends on no other image.

    Returns:
        The same shape, in 0..1, in steps of 1/255 as of a file.
    """
    strength = SEVERITIES[name][severity - 1]
    made = CORRUPTIONS[name](pixels, strength, rows).clamp(0, 1)
    return (made * 255).round() / 255


def _noise(pixels: Tensor, deviation: float, rows: np.ndarray) -> Tensor:
    drawn = [
        np.random.default_rng([int(row), round(1000 * deviation)]).standard_normal(pixels.shape[1:]) for row in rows
    ]
    return pixels + deviation * torch.from_numpy(np.stack(drawn)).to(pixels)


def _blur(pixels: Tensor, sigma: float, _: np.ndarray) -> Tensor:
    reach = int(TRUNCATED * sigma + 0.5)
    wide = gaussian_blur(pad(pixels, [reach] * 4, padding_mode="edge"), [2 * reach + 1] * 2, [sigma] * 2)
    return wide[..., reach:-reach, reach:-reach]


def _brightness(pixels: Tensor, added: float, _: np.ndarray) -> Tensor:
    value = pixels.amax(1, keepdim=True)
    more = (value + added).clamp_max(1)
    return torch.where(value > 0, pixels * more / value.clamp_min(1e-6), more)


def _contrast(pixels: Tensor, factor: float, _: np.ndarray) -> Tensor:
    mean = pixels.mean((2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def _jpeg(pixels: Tensor, quality: float, _: np.ndarray) -> Tensor:
    made = []
    for image in (pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        made.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(pixels) / 255


CORRUPTIONS: dict[str, Callable[[Tensor, float, np.ndarray], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
Change = Callable[[Batch, Batches], Tensor]  # what predict() makes of the images of a batch, one of these batches


def changes(boxes: bool) -> Iterator[tuple[str, Change | None]]:
    """Every way in which images are changed, by its name, such as ``blur 3``; the clean images first. ``boxes``: whether the
    data set has them: else nothing is hidden."""
    yield "clean", None
    for name, strengths in SEVERITIES.items():
        for severity in range(1, len(strengths) + 1):
            yield f"{name} {severity}", partial(_worse, name=name, severity=severity)
    if boxes:
        for what in HIDDEN:
            yield f"{what} hidden", partial(_hidden, what=what)


def _worse(batch: Batch, batches: Batches, name: str, severity: int) -> Tensor:
    pixels = ((batch.images.float() * batches.std + batches.mean) / 255).clamp(0, 1)
    worse = corrupted(pixels, name, severity, batch.rows)
    return ((worse * 255 - batches.mean) / batches.std).to(batch.images)


def _hidden(batch: Batch, batches: Batches, what: str) -> Tensor:
    side = batch.images.shape[-1]
    seen = batches.annotations.seen(batch.rows, batch.windows.cpu().double().numpy(), side)
    inside = boxes.inside(seen.boxes.to(batch.images.device) - 0.5, side)[:, None]  # by their centres
    return batch.images * (~inside if what == "object" else inside)
