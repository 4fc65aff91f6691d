"""The three passes of localising, and what a killed process left of them."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lapml.common import saved
from lapml.common.provenance import code_sha256, command, commit, device_name, versions
from lapml.config import Localise, digest
from lapml.data.decode import in_order
from lapml.errors import LapmlError
from lapml.files import link, sha256, write_json
from lapml.localise import store
from lapml.localise.activation import Classifier, class_maps
from lapml.localise.extract import Extractor, dump, side_of, undump
from lapml.localise.objects import Axis, Moments, object_maps
from lapml.localise.parts import Parts, Reservoir, describe, factorise, part_maps

BLOCK = 32  # images: what is in memory at a time
EVERY = 30.0  # seconds of work between two states that a killed process can go on from
Read = Callable[
    [int, int], np.ndarray
]  # (row of the index, side) → (side, side, 3) uint8 RGB, the whole image squashed


class Work:
    """Maps on their way to the disk, in a hidden folder beside theirs."""

    def __init__(
        self,
        index: pd.DataFrame,
        rows: np.ndarray,
        read: Read,
        folder: Path,
        settings: Localise,
        about: dict[str, Any],
        extractor: Extractor,
        threads: int,
    ):
        self.index, self.rows, self.read, self.folder, self.settings = index, rows, read, folder, settings
        self.extractor, self.threads, self.device = extractor, threads, extractor.device
        self.side = side_of(
            index[["width", "height"]].to_numpy()[rows], settings.side, extractor.stride, settings.enlarge
        )
        extractor.resize(self.side)
        self.grid = self.side // extractor.stride
        self.place = folder.with_name(f".{folder.name}.partial")
        self.kept = folder.with_name(f".{folder.name}.kept")
        self.features = self.place / "features"
        self.about = {
            **about,
            "count": len(rows),
            "grid": self.grid,
            "parts": settings.parts,
            "classes": len(extractor.classifier.bias) if extractor.classifier else 0,
            "side": self.side,
            "settings": settings.model_dump(),
            "weights": extractor.record,
            "versions": {**versions(), "scikit-learn": version("scikit-learn")},
            "device": device_name(self.device),
            "threads": threads,
            "code_sha256": code_sha256(),
        }
        known = {
            key: value for key, value in self.about.items() if key != "source"
        }  # data_sha256 says what was packed of it
        self.key = digest({**known, "rows": rows.tolist()})

    def done(self) -> dict[str, Any] | None:
        """meta.json, where the maps are there already. Those that were made last are put back if they are the ones asked for: an
        orchestrator deletes its outputs before it runs a stage again."""
        for place in (self.folder, self.kept):
            try:
                meta = store.Localised.open(place).meta
            except LapmlError:
                continue
            if meta.get("key") == self.key:
                if place == self.kept:
                    self._put_back()
                shutil.rmtree(self.place, ignore_errors=True)  # a process that was killed at the very end left it
                return meta
        return None

    def run(self, progress: bool, name: str) -> dict[str, Any]:
        started, clock = datetime.now(UTC), time.perf_counter()
        code = dict(zip(("commit", "dirty"), commit(), strict=True))
        key = self.place / "key"
        if not key.is_file() or key.read_text() != self.key:
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(parents=True)
            key.write_text(self.key)
        with self._bar(f"localise {name}", progress) as bar:
            moments = self._extract(bar)
        axis = moments.axis()
        if not axis.deviation:
            raise LapmlError(
                f"{name or self.folder}: {self.settings.model} has the same features everywhere in all {len(self.rows)} images; "
                "check localise.weights"
            )
        fitted = self._fit(axis)
        with self._bar(f"maps {name}", progress) as bar:
            self._write(axis, fitted, bar)
        record = {
            **self.about,
            "dimensions": fitted.projection.shape[1],
            "explained": axis.explained,
            "iterations": fitted.iterations,
            "command": command(),
            **code,
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - clock,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        return self._finish(record, axis, fitted)

    def _extract(self, bar: tqdm) -> Moments:
        """Forward every image once: their moments, and the features in a file."""
        moments = Moments(self.extractor.channels, self.grid, self.device)
        done, size = saved.load(self.place / "moments.pt", self.key), 0
        if done and self.features.is_file() and self.features.stat().st_size >= done["bytes"]:
            moments.restore(done["moments"])
            size = done["bytes"]
        bar.update(moments.images)
        with open(self.features, "ab") as file:
            file.truncate(size)
            last = time.perf_counter()
            for images in self._blocks(moments.images):
                cells = self.extractor(images)
                added = dump(cells, file)
                self._room(added / len(images) * (len(self.rows) - moments.images - len(images)))
                size += added
                moments.add(cells)
                if not moments.finite():
                    self._refuse(cells, moments.images - len(images))
                bar.update(len(images))
                if time.perf_counter() - last >= EVERY or moments.images == len(self.rows):
                    file.flush()
                    os.fsync(file.fileno())  # first: the state vouches for it
                    self._save("moments.pt", {"moments": moments.state(), "bytes": size})
                    last = time.perf_counter()
        return moments

    def _fit(self, axis: Axis) -> Parts:
        """The parts of a sample of object cells; kept for a process that continues."""
        if done := saved.load(self.place / "fitted.pt", self.key):
            return Parts(**done["parts"])
        sample = Reservoir(self.extractor.channels, self.settings.seed)
        for cells in self._features(0):
            inside = object_maps(cells, axis) > 0
            sample.add(cells[inside].cpu().numpy())
        fitted = factorise(sample.kept, self.settings.parts, self.settings.seed)
        self._save("fitted.pt", {"parts": fitted._asdict()})
        return fitted

    def _write(self, axis: Axis, fitted: Parts, bar: tqdm) -> None:
        """The maps of every image, from the file of features."""
        shapes = store.shapes_of(len(self.rows), self.grid, self.settings.parts, fitted.projection.shape[1])
        files = {name: store.Growing(self.place / f"{name}.npy", *shape) for name, shape in shapes.items()}
        done = (saved.load(self.place / "written.pt", self.key) or {"images": 0})["images"]
        done = done if all(file.holds(done) for file in files.values()) else 0
        bar.update(done)
        with ExitStack() as stack:
            for file in files.values():
                file.begin(done)
                stack.callback(file.close)
            last = time.perf_counter()
            for cells in self._features(done):
                made = {
                    "rows": self.rows[done : done + len(cells)],
                    **maps_of(cells, axis, fitted, self.extractor.classifier),
                }
                for name, file in files.items():
                    file.write(made[name])
                done += len(cells)
                bar.update(len(cells))
                if time.perf_counter() - last >= EVERY or done == len(self.rows):
                    for file in files.values():
                        file.sync()
                    self._save("written.pt", {"images": done})
                    last = time.perf_counter()

    def _finish(self, record: dict[str, Any], axis: Axis, fitted: Parts) -> dict[str, Any]:
        """Put the maps in their place, meta.json last: they are kept in a hidden folder, and hard links are their usual names."""
        save_file(store.fitted_tensors(axis, fitted), self.place / "fitted.safetensors")
        files = {name: sha256(self.place / name) for name in store.FILES if name != "meta.json"}
        checksum = store.checksum(files, record["data_sha256"])
        meta = {"format": store.FORMAT, "sha256": checksum, **record, "key": self.key, "files": files}
        write_json(self.place / "meta.json", meta)
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir()
        for name in store.FILES:
            os.replace(self.place / name, self.kept / name)
        self._put_back()
        shutil.rmtree(self.place)
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    def _put_back(self) -> None:
        """Link the maps that are kept to their usual names; others that lie there are set aside."""
        if (self.folder / "meta.json").is_file():  # hours of work, perhaps
            aside = saved.next_old(self.folder)
            self.folder.rename(aside)
            tqdm.write(f"{aside}: the maps that lay in {self.folder} before")
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in store.FILES:
            link(self.kept / name, self.folder / name)
            os.utime(self.folder / name)  # for orchestrators that compare times

    def _blocks(self, done: int) -> Iterator[np.ndarray]:
        """(B, side, side, 3) uint8 of the images from the ``done``-th on, decoded ahead on all cores."""
        images = in_order(lambda row: self.read(int(row), self.side), self.rows[done:])
        while block := list(islice(images, BLOCK)):
            yield np.stack(block)

    def _features(self, done: int) -> Iterator[Tensor]:
        """(B, h·w, C) of the images from the ``done``-th on, out of the file."""
        with open(self.features, "rb") as file:
            for start in range(0, len(self.rows), BLOCK):
                count = min(BLOCK, len(self.rows) - start)
                try:
                    cells = undump((count, self.grid**2, self.extractor.channels), file, self.device)
                except EOFError:
                    raise LapmlError(
                        f"{self.features}: is damaged; delete {self.place} and run the command again"
                    ) from None
                if start >= done:
                    yield cells

    def _refuse(self, cells: Tensor, start: int) -> None:
        bad = int((~cells.isfinite()).flatten(1).any(1).nonzero()[0])
        raise LapmlError(
            f"{self.index['path'].iloc[self.rows[start + bad]]}: {self.settings.model} gives features that are not finite "
            "numbers of 16 bits; check localise.weights"
        )

    def _room(self, need: float) -> None:
        free = shutil.disk_usage(self.place).free
        if need > free:
            raise LapmlError(
                f"{self.place}: the features of the images left need about {need / 1e9:.1f} GB, found {free / 1e9:.1f} GB free; "
                "free some space, or choose a smaller localise.side"
            )

    def _save(self, name: str, record: dict[str, Any]) -> None:
        saved.save(self.place / name, {"key": self.key, **record})

    def _bar(self, what: str, progress: bool) -> tqdm:
        shown = {"mininterval": 0.1 if sys.stderr.isatty() else 30, "disable": not progress}
        return tqdm(total=len(self.rows), desc=what.strip(), unit="img", **shown)


def maps_of(cells: Tensor, axis: Axis, fitted: Parts, classifier: Classifier | None) -> dict[str, np.ndarray]:
    """{array of :mod:`lapml.localise.store`: its rows} for B images, of their features (B, h·w, C)."""
    count, grid = len(cells), round(cells.shape[1] ** 0.5)
    exact = cells.float()
    positive = exact.relu()
    parts = part_maps(positive, fitted)
    made = {
        "objects": object_maps(exact, axis).view(count, grid, grid),
        "parts": parts.reshape(count, -1, grid, grid),
        "activation": class_maps(exact, classifier).view(count, grid, grid),
        "descriptors": describe(positive, parts, fitted.projection),
        "strengths": parts.amax(2),
    }
    return {name: value.cpu().numpy() for name, value in made.items()}
