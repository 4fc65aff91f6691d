"""Where each image of a batch is cut out of its stored square, and the batched cut itself.

A *window* is ``(x0, y0, w, h, flip)`` in the unit square of the stored image. A crop drawn in the original frame is
such a window too, because the stored square is the whole image, squashed.

The cut is two batched matrix products A_y X A_xᵀ with triangle filters: crop, flip and resize with antialias in
one go, equal to torchvision's ``resized_crop(antialias=True)`` (``grid_sample`` has no antialias).
"""

import numpy as np
import torch
from torch import Tensor

from lapml.config import View

TRIES = 10  # of a random area and aspect, as in torchvision's RandomResizedCrop
DRAWS = 2 * TRIES + 3  # uniform numbers that a training window takes
ASPECT = (3 / 4, 4 / 3)
ERASED, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)  # of a rectangle that is erased, as in torchvision
WINDOW = 7 / 8  # the classic 448 of 512


def training_windows(sizes: np.ndarray, view: View, uniform: np.ndarray) -> np.ndarray:
    """Random windows, one per image.

    Args:
        sizes: (N, 2) width and height of the original images in pixels.
        view: its ``crop``, ``scale``, ``aspect`` and ``flip``.
        uniform: (N, DRAWS) numbers in [0, 1).

    Returns:
        (N, 5) float64 windows. ``crop: resized`` follows torchvision's RandomResizedCrop: the first of ten draws of
        area and log aspect that fits, else the largest centred crop of an allowed aspect.
    """
    frame = _frame(sizes, view)
    if view.crop == "fixed":
        extent = _fixed_extent(frame, view)
        centred = np.zeros(len(frame), bool)
    else:
        area = frame.prod(1, keepdims=True) * (view.scale[0] + uniform[:, :TRIES] * (view.scale[1] - view.scale[0]))
        low, high = np.log(ASPECT)
        aspect = np.exp(low + uniform[:, TRIES : 2 * TRIES] * (high - low))
        tried = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 2)  # (N, TRIES, 2)
        fits = (tried <= frame[:, None]).all(2)
        centred = ~fits.any(1)
        extent = tried[np.arange(len(frame)), fits.argmax(1)]
        bounded = np.stack(
            [np.minimum(frame[:, 0], frame[:, 1] * ASPECT[1]), np.minimum(frame[:, 1], frame[:, 0] / ASPECT[0])], 1
        )
        extent = np.where(centred[:, None], bounded, extent)
    place = np.where(centred[:, None], 0.5, uniform[:, -3:-1])
    flip = (uniform[:, -1] < 0.5) & view.flip
    return np.concatenate([place * (frame - extent) / frame, extent / frame, flip[:, None]], 1)


def evaluation_windows(sizes: np.ndarray, view: View) -> np.ndarray:
    """(N, 5) centred 7/8 windows in the frame of ``view.aspect``, not flipped; ``sizes`` as in training."""
    frame = _frame(sizes, view)
    extent = _fixed_extent(frame, view)
    return np.concatenate([(frame - extent) / 2 / frame, extent / frame, np.zeros((len(frame), 1))], 1)


def cut(images: Tensor, windows: Tensor, side: int) -> Tensor:
    """Cut windows out of stored squares and resize them.

    Args:
        images: (B, S, S, C) uint8 or float.
        windows: (B, 5) float32 on the same device.
        side: of the output in pixels.

    Returns:
        (B, C, side, side) float32 (or float64) in the range of the input, in channels_last memory.
    """
    batch, stored, _, channels = images.shape
    kind = torch.promote_types(images.dtype, torch.float32)
    filter_x = _filters(windows[:, 0], windows[:, 2], side, stored, windows[:, 4] > 0.5).to(kind)
    filter_y = _filters(windows[:, 1], windows[:, 3], side, stored).to(kind)
    with torch.autocast(images.device.type, enabled=False):
        columns = images.transpose(1, 2).to(kind, memory_format=torch.contiguous_format)
        columns = torch.bmm(filter_x, columns.reshape(batch, stored, stored * channels))
        rows = columns.view(batch, side, stored, channels).transpose(1, 2).reshape(batch, stored, side * channels)
        return torch.bmm(filter_y, rows).view(batch, side, side, channels).permute(0, 3, 1, 2)


def jitter(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation, each by a factor in 1 ± strength per image.

    Args:
        images: (B, 3, H, W) in 0..255.
        uniform: (B, 3) in [0, 1).
    """
    if strength == 0:
        return images
    bright, contrast, colour = (1 + strength * (2 * uniform - 1)).T[:, :, None, None, None].unbind(0)
    images = (images * bright).clamp(0, 255)
    mean = _grey(images).mean((2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast).clamp(0, 255)
    grey = _grey(images)
    return (grey + (images - grey) * colour).clamp(0, 255)


def erase(images: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """Random erasing (Zhong et al., AAAI 2020): a rectangle of 2 to 33 % of the image, of an aspect from 0.3 to 3.3, becomes the
    mean of the input, 0. One that would be longer than the image ends at its border, where torchvision's draws again.

    Args:
        images: (B, 3, H, H), normalised.
        uniform: (B, 5) in [0, 1): whether, area, aspect, and the place in y and x.
    """
    side = images.shape[2]
    area, (low, high) = ERASED[0] + uniform[:, 1] * (ERASED[1] - ERASED[0]), np.log(ERASED_ASPECT)
    root = torch.exp((low + uniform[:, 2] * (high - low)) / 2)
    extent = torch.stack([area.sqrt() * root, area.sqrt() / root], 1)  # height, width
    extent = extent.mul(side).round().clamp(1, side - 1)
    start = (uniform[:, 3:] * (side - extent + 1)).floor()
    place = torch.arange(side, device=images.device)
    hit = (place >= start[:, :, None]) & (place < (start + extent)[:, :, None])  # (B, 2, side): rows and columns
    hit = hit[:, 0, :, None] & hit[:, 1, None] & (uniform[:, :1, None] < probability)
    return images.masked_fill(hit[:, None], 0)


def to_view(windows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points of the whole image into the view.

    Args:
        windows: (N, 5).
        points: (N, P, 2) x and y in the unit square of the whole image.

    Returns:
        (N, P, 2) in the unit square of the view; outside 0..1 means cut away.
    """
    mapped = (points - windows[:, None, :2]) / windows[:, None, 2:4]
    flipped = windows[:, None, 4] > 0.5
    mapped[..., 0] = np.where(flipped, 1 - mapped[..., 0], mapped[..., 0])
    return mapped


def _grey(images: Tensor) -> Tensor:
    """(B, 1, H, W) luma of ITU-R 601, as torchvision has it."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _frame(sizes: np.ndarray, view: View) -> np.ndarray:
    """(N, 2) extents in which geometry is drawn: the original image, or the squashed square."""
    return np.asarray(sizes, np.float64) if view.aspect == "keep" else np.ones((len(sizes), 2))


def _fixed_extent(frame: np.ndarray, view: View) -> np.ndarray:
    return np.repeat(frame.min(1, keepdims=True), 2, 1) * WINDOW


def _filters(start: Tensor, extent: Tensor, side: int, stored: int, flip: Tensor | None = None) -> Tensor:
    """(B, side, S) rows of triangle filters that see only pixels that the window touches."""
    start, extent = start[:, None] * stored, extent[:, None] * stored
    step = extent / side
    output = torch.arange(side, device=start.device) + 0.5
    centres = start + step * output
    if flip is not None:
        centres = torch.where(flip[:, None], start + extent - step * output, centres)
    pixels = torch.arange(stored, device=start.device) + 0.5
    width = step.clamp_min(1.0)[:, :, None]
    weights = (1 - (pixels - centres[:, :, None]).abs() / width).clamp_min_(0)
    inside = (pixels + 0.5 > start + 1e-3) & (pixels - 0.5 < start + extent - 1e-3)  # (B, S)
    weights = weights * inside[:, None]
    return weights / weights.sum(2, keepdim=True).clamp_min(1e-6)
