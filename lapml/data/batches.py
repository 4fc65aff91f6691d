"""Batches: an indexed read of the packed array, then crop, flip, jitter and normalise on the device.

All randomness is one table an epoch and purpose, indexed by the image's row, so that it depends neither on workers,
cores nor batch order, and a resumed run draws what an uninterrupted one draws.
"""

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapml.config import Method, View
from lapml.data import views
from lapml.data.pack import Packed
from lapml.errors import LapmlError

DRAWS = 2  # uniform numbers that a mixer takes an image
CHUNK = 1024  # images that are copied to a GPU at once


class Purpose(IntEnum):
    """Of a random table; a new purpose takes a new number, so that old results stay what they are."""

    ORDER = 0
    VIEW = 1
    JITTER = 2
    MIXED = 3
    LAMBDA = 4
    PART = 5


def stream(seed: int, epoch: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one purpose in one epoch."""
    return np.random.default_rng([seed, epoch, int(purpose)])


@dataclass(frozen=True)
class Batch:
    images: Tensor  # (B, 3, side, side), normalised, channels_last
    labels: Tensor  # (B,) int64
    rows: np.ndarray  # (B,) rows of the index
    mixed: bool = False  # known on the host: no synchronisation
    donors: Tensor | None = None  # (B,) int64 positions in the batch, no image its own
    lam: Tensor | None = None  # (B,) λ ~ Beta(β, β)
    uniform: Tensor | None = None  # (B, DRAWS)


class Batches:
    """Batches of some rows of a packed data set on a device.

    Args:
        packed: the data set.
        rows: which rows of its index.
        view: how images are cut.
        mean, std: of the network's input, for channels in 0..1.
        device: where batches lie. On a GPU the array lies there too if it fits into half the free memory; else it stays
            on the disk, and a thread reads ahead, through pinned memory. On a CPU it stays on the disk, in the system's
            cache; a thread reads ahead if it is larger than half the machine's memory, as the disk must then be waited
            for. Batches are the same either way.
    """

    def __init__(
        self,
        packed: Packed,
        rows: np.ndarray,
        view: View,
        mean: list[float],
        std: list[float],
        device: torch.device,
    ):
        self.packed, self.rows, self.view, self.device = packed, np.asarray(rows), view, device
        self.sizes = packed.index[["width", "height"]].to_numpy(np.float64)
        self.labels = packed.index["label"].to_numpy(np.int64)
        self.mean = torch.tensor(mean, device=device)[:, None, None] * 255
        self.std = torch.tensor(std, device=device)[:, None, None] * 255
        self.array = None
        self.fits = packed.images.nbytes < _free_memory(device) / 2
        if device.type == "cuda" and self.fits:
            self.array = torch.empty(packed.images.shape, dtype=torch.uint8, device=device)
            # Piece by piece: a copy of the whole might not fit into the host's memory.
            for at in range(0, len(packed.images), CHUNK):
                self.array[at : at + CHUNK] = torch.from_numpy(np.array(packed.images[at : at + CHUNK]))

    def steps(self, batch: int) -> int:
        """Training batches an epoch; the incomplete last one is dropped (its images differ from epoch to epoch).

        Raises:
            LapmlError: a batch is larger than the data.
        """
        if batch > len(self.rows):
            raise LapmlError(
                f"train.batch: found {batch}, expected at most the {len(self.rows)} training images; make it smaller"
            )
        return len(self.rows) // batch

    def training(self, seed: int, epoch: int, batch: int, settings: Method) -> Iterator[Batch]:
        """The batches of one epoch, with the row's random draws."""
        count, steps = len(self.labels), self.steps(batch)
        order = self.rows[stream(seed, epoch, Purpose.ORDER).permutation(len(self.rows))]
        uniform = stream(seed, epoch, Purpose.VIEW).random((count, views.DRAWS))
        tables = {"windows": views.training_windows(self.sizes, self.view, uniform)}
        if self.view.jitter:
            tables["jitter"] = stream(seed, epoch, Purpose.JITTER).random((count, 3))
        mixed = np.zeros(steps, bool)
        if settings.mix and epoch >= settings.mix.warmup_epochs:
            mixed = stream(seed, epoch, Purpose.MIXED).random(steps) < settings.mix.prob
            beta = settings.mixer.beta
            tables["lam"] = stream(seed, epoch, Purpose.LAMBDA).beta(beta, beta, count)
            tables["uniform"] = stream(seed, epoch, Purpose.PART).random((count, DRAWS))
        plan = [(order[step * batch : (step + 1) * batch], bool(mixed[step])) for step in range(steps)]
        # The order is random, so that a shift by one is a random derangement: a random cycle through the batch.
        donors = torch.arange(batch, device=self.device).roll(1)
        for rows, is_mixed, stored in self._read(plan):
            drawn = {name: self._send(table[rows]) for name, table in tables.items()}
            images = self._view(stored, drawn["windows"], drawn.get("jitter"))
            extra: dict[str, Any] = {}
            if is_mixed:
                extra = {"mixed": True, "donors": donors, "lam": drawn["lam"], "uniform": drawn["uniform"]}
            yield Batch(images, self._send(self.labels[rows]), rows, **extra)

    def evaluation(self, batch: int) -> Iterator[Batch]:
        """Every row once, in order, in the evaluation view; the last batch may be smaller."""
        windows = views.evaluation_windows(self.sizes, self.view)
        plan = [(self.rows[at : at + batch], False) for at in range(0, len(self.rows), batch)]
        for rows, _, stored in self._read(plan):
            yield Batch(self._view(stored, self._send(windows[rows])), self._send(self.labels[rows]), rows)

    def _read(self, plan: list[tuple[np.ndarray, bool]]) -> Iterable[tuple[np.ndarray, bool, Tensor]]:
        if self.array is not None:
            return ((rows, mixed, self.array[self._send(rows)]) for rows, mixed in plan)
        read = ((rows, mixed, torch.from_numpy(self.packed.images[rows])) for rows, mixed in plan)
        if self.device.type == "cuda":
            return _ahead((rows, mixed, stored.pin_memory()) for rows, mixed, stored in read)
        return read if self.fits else _ahead(read)

    def _view(self, stored: Tensor, windows: Tensor, jitter: Tensor | None = None) -> Tensor:
        images = views.cut(stored.to(self.device, non_blocking=True), windows, self.view.side)
        if jitter is not None:
            images = views.jitter(images, jitter, self.view.jitter)
        return images.sub_(self.mean).div_(self.std)

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        return tensor.to(self.device, non_blocking=True)


def _free_memory(device: torch.device) -> int:
    """Bytes: free on a GPU, all there is for a CPU (whose cache gives way)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ahead(items: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """Iterate in a thread, at most ``depth`` items ahead; its exception is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stop, end = threading.Event(), object()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
