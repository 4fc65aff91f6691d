"""Stronger random changes of light and colour than jitter: those operations of RandAugment (Cubuk et al., NeurIPS 2020) that move
nothing, so that windows, maps, boxes and parts stay where they are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import rgb_to_grayscale as grey

from lapml.config.parts import Augment

STRONGEST = 30  # magnitude, as in the paper
FARTHEST = 0.9  # from 1, of a factor at the strongest


def augment(images: Tensor, uniform: np.ndarray, settings: Augment) -> Tensor:
    """Some random operations for each image, one after another; in a batch, all images of an operation at once.

    Args:
        images: (B, 3, H, W) in 0..255.
        uniform: (B, ops, 2) in [0, 1): which operation, and whether its factor is below or above 1. On the host, so that
            which images meet which operation is known without waiting for the device.
    """
    strength, images = settings.magnitude / STRONGEST, images / 255
    send = lambda array: torch.from_numpy(array).to(images.device, non_blocking=True)  # noqa: E731
    for which, sign in uniform.transpose(1, 2, 0):
        which = (which * len(OPERATIONS)).astype(int)
        order = np.argsort(which, kind="stable")
        factors = 1 + FARTHEST * strength * np.where(sign[order] < 0.5, -1, 1)
        counts = np.bincount(which, minlength=len(OPERATIONS)).tolist()
        parts = images[send(order)].split(counts)
        factors = send(factors.astype(np.float32))[:, None, None, None].split(counts)
        changed = [
            operation(part, factor, strength)
            for operation, part, factor in zip(OPERATIONS.values(), parts, factors, strict=True)
            if len(part)
        ]
        images = torch.cat(changed)[send(np.argsort(order))]
    return (255 * images).contiguous(memory_format=torch.channels_last)


def _sharpness(images: Tensor, factor: Tensor, strength: float) -> Tensor:
    """Its border stays, as in Pillow. (torchvision's waits for the device.)"""
    inner, changed = images[:, :, 1:-1, 1:-1], images.clone()
    smooth = (9 * avg_pool2d(images, 3, 1) + 4 * inner) / 13  # weights 1, that of the centre 5
    changed[:, :, 1:-1, 1:-1] = _blend(inner, smooth, factor)
    return changed


def _autocontrast(images: Tensor, factor: Tensor, strength: float) -> Tensor:
    """Each channel from 0 to 1; one of a single value stays. (torchvision's asks for a mask.)"""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low), images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Factor 0 is the other one, 1 the image, and more goes beyond."""
    return (other + (images - other) * factor).clamp(0, 1)


# Each takes images (n, 3, H, W) in 0..1, factors (n, 1, 1, 1) and the strength in 0..1.
OPERATIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "nothing": lambda images, factor, strength: images,
    "brightness": lambda images, factor, strength: (images * factor).clamp(0, 1),
    "contrast": lambda images, factor, strength: _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor),
    "colour": lambda images, factor, strength: _blend(images, grey(images), factor),
    "sharpness": _sharpness,
    "posterize": lambda images, factor, strength: functional.posterize(images, 8 - round(4 * strength)),
    "solarize": lambda images, factor, strength: functional.solarize(images, 1 - strength),
    "autocontrast": _autocontrast,
    "equalize": lambda images, factor, strength: functional.equalize(images),
}
