"""Part maps and descriptors by Deep Feature Factorization.

Collins, Achanta and Süsstrunk, *Deep feature factorization for concept discovery*, ECCV 2018: F ≈ H W, both non-negative,
over the cells of all images at once; the rows of W are the parts, a column of H is where one is. Here W is found on a sample
of object cells, and H then for every cell.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CELLS = 100_000  # of the sample, at most
VALUES = 2**24  # numbers in the sample, at most: 67 MB in fp32, of which scikit-learn makes two copies
ITERATIONS = 200  # of the factorisation, at most
SWEEPS = 20  # of coordinate descent for H; on birds it is exact to fp32 after 15
QUANTILE = 0.95  # of a part's values over the sample: 1 on its map
DIMENSIONS = 64  # of a descriptor


class Parts(NamedTuple):
    """K parts, on the CPU in float32."""

    components: Tensor  # (K, C) W, rows of unit length (0 where the data have fewer parts), the strongest first
    scale: Tensor  # (K,) what a part's loadings are divided by
    projection: Tensor  # (C, D) for descriptors
    iterations: int  # that the factorisation took


class Reservoir:
    """A uniform sample of the rows offered (Vitter's algorithm R), of at most ``limit``, in the memory of the sample.

    Args:
        channels: C of a row.
        seed: what is drawn for a row depends on this and on the number of rows before.
    """

    def __init__(self, channels: int, seed: int):
        self.limit = min(CELLS, max(VALUES // channels, 1))
        self.kept = np.empty((0, channels), np.float16)
        self.seen = 0
        self.random = np.random.default_rng([seed, 0])

    def add(self, rows: np.ndarray) -> None:
        """(n, C) float16."""
        room = min(self.limit - len(self.kept), len(rows))
        self.kept = np.concatenate([self.kept, rows[:room]]) if room else self.kept
        self.seen += room
        later = rows[room:]
        number = self.seen + 1 + np.arange(len(later))  # number of each row
        self.seen += len(later)
        place = np.floor(self.random.random(len(later)) * number).astype(np.int64)
        for row in np.flatnonzero(place < self.limit):  # a later one replaces an earlier one
            self.kept[place[row]] = later[row]


def factorise(cells: np.ndarray, count: int, seed: int) -> Parts:
    """Find ``count`` parts in a sample of object cells.

    Args:
        cells: (n, C) float16; negative features count as 0.
        seed: of the start, where it is random.

    Returns:
        The parts. Fewer than ``count`` are other than 0 where the sample's rank is less.
    """
    from sklearn.decomposition import NMF  # slow to import, and maps are opened without it
    from sklearn.exceptions import ConvergenceWarning

    positive = np.maximum(cells, 0).astype(np.float32)
    projection = torch.from_numpy(_projection(positive))
    peak = positive.max(initial=0)
    if peak == 0:
        return Parts(torch.zeros(count, cells.shape[1]), torch.ones(count), projection, 0)
    unit = np.float32(2.0 ** np.ceil(np.log2(peak)))  # a power of two: dividing by it loses nothing
    positive /= unit  # to size 1: the factorisation's tolerance and random start know no scale
    init = "nndsvda" if count <= min(positive.shape) else "random"  # it needs as many singular vectors as parts
    model = NMF(count, init=init, random_state=seed, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few more iterations change nothing to see
        model.fit(positive)
    components = torch.from_numpy(_unit(model.components_))
    values = loadings(torch.from_numpy(positive), components) * float(unit)
    order = values.mean(1).argsort(descending=True, stable=True)
    scale = torch.from_numpy(np.quantile(values.numpy(), QUANTILE, axis=1).astype(np.float32))
    scale = torch.where(scale > 0, scale, values.amax(1))  # a part of few cells
    scale = torch.where(scale > 0, scale, 1.0)
    return Parts(components[order], scale[order], projection, int(model.n_iter_))


def loadings(cells: Tensor, components: Tensor) -> Tensor:
    """H ≥ 0 that minimises ‖F − H W‖ for each cell, by coordinate descent.

    Args:
        cells: (n, C) float32.
        components: (K, C) W.

    Returns:
        (K, n) float32; 0 for a component that is 0.
    """
    components = components.to(cells.device)
    match, gram = components @ cells.T, components @ components.T
    found = torch.zeros_like(match)
    for _ in range(SWEEPS):
        for part, size in enumerate(gram.diagonal().tolist()):
            if size > 0:
                found[part] += (match[part] - gram[part] @ found) / size
                found[part].relu_()
    return found


def part_maps(cells: Tensor, parts: Parts) -> Tensor:
    """(B, h·w, C) float32 features ≥ 0 → (B, K, h·w) part maps ≥ 0; 1 is the 95 % quantile over object cells."""
    found = loadings(cells.flatten(0, 1), parts.components) / parts.scale.to(cells.device)[:, None]
    return found.view(-1, *cells.shape[:2]).transpose(0, 1)


def describe(cells: Tensor, maps: Tensor, projection: Tensor) -> Tensor:
    """What each part looks like in each image: F averaged by the part's map, projected, of unit length.

    Args:
        cells: (B, h·w, C) float32 features ≥ 0.
        maps: (B, K, h·w).
        projection: (C, D).

    Returns:
        (B, K, D) float32; 0 if the part is absent.
    """
    share = maps / maps.sum(2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.nn.functional.normalize(share @ cells @ projection.to(cells.device), dim=2)


def _projection(cells: np.ndarray) -> np.ndarray:
    """(C, D) the principal directions of cells about 0, which keep their inner products best: cosines of 300 sparrows' parts
    correlate with those of all channels by 0.98, those of a random projection to as many dimensions by 0.82."""
    vectors = np.linalg.eigh((cells.T @ cells).astype(np.float64))[1][:, ::-1][:, :DIMENSIONS]
    peak = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return (vectors * np.where(peak < 0, -1, 1)).astype(
        np.float32
    )  # the sign is free: fixed so as not to depend on LAPACK


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)
