"""Batches: an indexed read of the packed array, then crop, flip, jitter (or stronger) and normalise on the device.

Its random numbers are those of draws.py.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapml.common import ranks
from lapml.config import Method, View
from lapml.data import draws, views
from lapml.data.pack import Packed
from lapml.data.truth import Annotations, Truth
from lapml.errors import LapmlError

CHUNK = 1024  # images that are copied to a GPU at once
AHEAD = 3  # batches that a thread makes or reads before they are asked for
_held: tuple[weakref.ref, Tensor] | None = None  # the array that lies on the GPU, and where, see _resident


@dataclass(frozen=True)
class Batch:
    """A batch, or a rank's share of it: B references, and after them images that are donors only, if any."""

    images: Tensor  # (≥ B, 3, side, side), normalised, channels_last
    labels: Tensor  # (≥ B,) int64
    rows: np.ndarray  # (≥ B,) rows of the index
    index: Tensor  # (≥ B,) the same, on the device
    windows: Tensor  # (≥ B, 5) what of the stored squares the images show
    count: int  # B
    mixed: bool = False  # known on the host: no synchronisation
    margins: bool = False  # mixed, and margin losses are taken of it
    donors: Tensor | None = None  # (B,) int64 positions in the batch, no image its own
    lam: Tensor | None = None  # (B,) λ ~ Beta(α, α)
    uniform: Tensor | None = None  # (B, Mixer.uniform)
    second: Tensor | None = None  # (B, 3) another λ, and two uniform numbers more
    truth: Truth | None = None  # of the images, where the mixer asks for it
    made: Any = None  # what `then` of Batches.training made of it


class Batches:
    """Batches of some rows of a packed data set on a device.

    Args:
        packed: the data set.
        rows: which rows of its index.
        view: how images are cut.
        mean, std: of the network's input, for channels in 0..1.
        device: where batches lie. On a GPU the array lies there too (once, for all batches of it) if it fits into half
            the free memory; else it stays on the disk, and a thread reads ahead, through pinned memory. On a CPU it stays
            on the disk, in the system's cache, and a thread makes batches ahead, so that a core that is free takes them
            off the step's time. Batches are the same either way.
        dtype: of the images.
    """

    def __init__(
        self,
        packed: Packed,
        rows: np.ndarray,
        view: View,
        mean: list[float],
        std: list[float],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):
        self.packed, self.rows, self.view = packed, np.asarray(rows), view
        self.device, self.dtype = device, dtype
        self.sizes = packed.index[["width", "height"]].to_numpy(np.float64)
        self.labels = packed.index["label"].to_numpy(np.int64)
        self.mean = torch.tensor(mean, device=device)[:, None, None] * 255
        self.std = torch.tensor(std, device=device)[:, None, None] * 255
        self.array = _resident(packed.images, device) if device.type == "cuda" else None

    @cached_property
    def annotations(self) -> Annotations:
        return Annotations(self.packed.index)

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

    def training(
        self,
        seed: int,
        epoch: int,
        batch: int,
        settings: Method,
        start: int = 0,
        then: Callable[[Batch], Any] = lambda batch: None,
        epochs: int | None = None,
    ) -> Iterator[Batch]:
        """The batches of one epoch from step ``start`` on, with the method's random draws; of each, this rank's share.

        Args:
            then: what more is made of each; on a CPU in the thread that makes them.
            epochs: of the run, whose last ones are clean if ``mix.cooldown_epochs`` says so; None: there is no last one.
        """
        steps, own = self.steps(batch), ranks.shard(batch)
        order = self.rows[draws.stream(seed, epoch, draws.Purpose.ORDER).permutation(len(self.rows))]
        tables, mixed, margins = draws.tables(self.sizes, self.view, settings, seed, epoch, steps, epochs)
        needs_truth = "lam" in tables and "truth" in settings.mixer.needs()
        annotations = self.annotations if needs_truth else None
        share, plan, donors = own.stop - own.start, [], {}
        for step in range(start, steps):
            whole = order[step * batch : (step + 1) * batch]
            rows = whole[own]
            if mixed[step]:
                rows, donors[step] = draws.donors_of(whole, own)
            plan.append(rows)

        def each() -> Iterator[Batch]:
            for step, (rows, stored) in enumerate(self._read(plan), start):
                drawn = {name: self._send(table[rows]) for name, table in tables.items()}
                operations = tables["augment"][rows] if self.view.augment else None
                images = self._view(stored, drawn["windows"], drawn.get("jitter"), operations)
                if self.view.erase:
                    images = views.erase(images, drawn["erase"], self.view.erase)
                extra: dict[str, Any] = {}
                if mixed[step]:
                    extra = {name: drawn[name][:share] for name in ("lam", "uniform", "second") if name in drawn}
                    extra |= {"donors": self._send(donors[step]), "mixed": True, "margins": bool(margins[step])}
                    if annotations:
                        truth = annotations.seen(rows, tables["windows"][rows], self.view.side)
                        extra["truth"] = truth.to(self.device)
                index, labels = self._send(rows), self._send(self.labels[rows])
                made = Batch(images, labels, rows, index, drawn["windows"], share, **extra)
                yield replace(made, made=then(made))

        return each() if self.device.type == "cuda" else _ahead(each())

    def evaluation(self, batch: int) -> Iterator[Batch]:
        """Every row once, in order, in the evaluation view; the last batch may be smaller."""
        made = self._plain(self.rows, views.evaluation_windows(self.sizes, self.view), batch)
        return made if self.device.type == "cuda" else _ahead(made)

    def whole(self, rows: np.ndarray, batch: int) -> Iterator[Batch]:
        """Some rows as they are stored: whole images, squashed to the view's square."""
        return self._plain(rows, np.tile([0.0, 0.0, 1.0, 1.0, 0.0], (len(self.sizes), 1)), batch)

    def _plain(self, rows: np.ndarray, windows: np.ndarray, batch: int) -> Iterator[Batch]:
        """Some rows in order, in the windows (N, 5) of all images."""
        for own, stored in self._read([rows[at : at + batch] for at in range(0, len(rows), batch)]):
            drawn, labels = self._send(windows[own]), self._send(self.labels[own])
            yield Batch(self._view(stored, drawn), labels, own, self._send(own), drawn, len(own))

    def _read(self, plan: list[np.ndarray]) -> Iterable[tuple[np.ndarray, Tensor]]:
        if self.array is not None:
            return ((rows, self.array[self._send(rows)]) for rows in plan)
        read = ((rows, torch.from_numpy(self.packed.images[rows])) for rows in plan)
        return _ahead((rows, stored.pin_memory()) for rows, stored in read) if self.device.type == "cuda" else read

    def _view(
        self, stored: Tensor, windows: Tensor, jitter: Tensor | None = None, operations: np.ndarray | None = None
    ) -> Tensor:
        images = views.cut(stored.to(self.device, non_blocking=True), windows, self.view.side)
        if jitter is not None:
            images = views.jitter(images, jitter, self.view.jitter)
        if operations is not None:
            from lapml.data.augment import augment  # torchvision's functions are slow to import

            images = augment(images, operations, self.view.augment)
        return images.sub_(self.mean).div_(self.std).to(self.dtype)

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        return tensor.to(self.device, non_blocking=True)


def _resident(images: np.ndarray, device: torch.device) -> Tensor | None:
    """The array on a GPU, where it stays for the next that wants it (evaluation, the next run of a study); None where it would
    take more than half of what is free."""
    global _held
    if _held is not None and _held[0]() is images:
        return _held[1]
    _held = None  # before there is another: its memory is needed
    if images.nbytes >= _free_memory(device) / 2:
        return None
    try:
        array = torch.empty(images.shape, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:  # another process was quicker
        return None
    # Piece by piece: a copy of the whole might not fit into the host's memory.
    for at in range(0, len(images), CHUNK):
        array[at : at + CHUNK] = torch.from_numpy(np.array(images[at : at + CHUNK]))
    _held = weakref.ref(images), array
    return array


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, those included that torch keeps for its next tensors."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Iterate in a thread, at most :data:`AHEAD` items ahead; its exception is raised here."""
    each, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, each, end) for _ in range(AHEAD))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, each, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
