"""Object maps by Deep Descriptor Transforming.

Wei, Zhang, Wu, Shen and Zhou, *Unsupervised object discovery and co-localization by deep descriptor transforming*, Pattern
Recognition 88, 2019. Features of all cells of all images; μ and Σ their mean and covariance; v the first eigenvector of
Σ; P = (F − μ)·v. The sign of v, which their paper leaves open, is the one that makes the images' borders negative.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

TILE = 256  # channels: Σ is symmetric, so only tiles on and above its diagonal are computed
PIECE = 8  # images at a time: what a core's caches hold


class Axis(NamedTuple):
    """The direction in which the cells vary most, on the CPU in float64."""

    mean: Tensor  # (C,) μ
    direction: Tensor  # (C,) v, unit length, or 0 where the cells are all alike
    deviation: float  # standard deviation of P over all cells
    explained: float  # share of the total variance


class Moments:
    """Sums over all cells seen, in float64 on the device: their number, F, F Fᵀ, and F of the images' border cells.

    Args:
        channels: C.
        grid: cells per side.
    """

    def __init__(self, channels: int, grid: int, device: torch.device):
        self.border = border(grid).to(device)
        self.images = 0
        self.total = torch.zeros(channels, dtype=torch.float64, device=device)
        self.edge = torch.zeros_like(self.total)
        self.outer = torch.zeros(channels, channels, dtype=torch.float64, device=device)  # lower tiles stay 0

    def add(self, cells: Tensor) -> None:
        """(B, h·w, C) features of B images."""
        self.images += len(cells)
        for piece in cells.split(PIECE):
            exact = piece.double()
            flat = exact.flatten(0, 1)
            self.total += flat.sum(0)
            self.edge += exact[:, self.border].sum((0, 1))
            for start in range(0, flat.shape[1], TILE):
                self.outer[start : start + TILE, start:].addmm_(flat[:, start : start + TILE].T, flat[:, start:])

    def finite(self) -> bool:
        """Whether all features so far were: what is not stays in the sum."""
        return bool(self.total.isfinite().all())

    def state(self) -> dict[str, int | Tensor]:
        return {"images": self.images, "total": self.total, "edge": self.edge, "outer": self.outer}

    def restore(self, state: dict[str, int | Tensor]) -> None:
        self.images = state["images"]
        for name in ("total", "edge", "outer"):
            getattr(self, name).copy_(state[name])

    def axis(self) -> Axis:
        """μ and v of the cells seen."""
        count = self.images * len(self.border)
        mean = (self.total / count).cpu()
        upper = self.outer.triu().cpu()
        covariance = (upper + upper.triu(1).T) / count - torch.outer(mean, mean)
        last, variance = len(mean) - 1, float(covariance.trace())
        values, vectors = eigh(covariance.numpy(), subset_by_index=[last, last])
        noise = 1e-12 * float(upper.trace()) / count  # rounding, where the cells are all alike
        if values[0] <= noise:
            return Axis(mean, torch.zeros_like(mean), 0.0, 0.0)
        direction = torch.from_numpy(np.ascontiguousarray(vectors[:, 0]))
        edge = self.edge.cpu() / (self.images * int(self.border.sum())) - mean
        direction = direction * (-1 if edge @ direction > 0 else 1)
        return Axis(mean, direction, float(values[0]) ** 0.5, float(values[0]) / variance)


def border(grid: int) -> Tensor:
    """(h·w,) bool: the cells at the edge of a map of ``grid`` cells per side."""
    edge = torch.ones(grid, grid, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return edge.flatten()


def object_maps(cells: Tensor, axis: Axis) -> Tensor:
    """O = max(P, 0) in standard deviations of P, so that 16 bits hold it whatever the scale of the features.

    Args:
        cells: (..., C) features on any device.

    Returns:
        (...) float32, ≥ 0.
    """
    if not axis.deviation:
        return torch.zeros(cells.shape[:-1], device=cells.device)
    scaled = axis.direction / axis.deviation
    weight, offset = scaled.to(cells.device, torch.float32), float(axis.mean @ scaled)
    return (cells.float() @ weight - offset).relu()
