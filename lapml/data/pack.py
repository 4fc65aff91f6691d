"""Decode every image once, into one array of squares beside its index; and open that pack again.

A pack is a folder of three files:

    index.parquet   the common table (:mod:`lapml.data.index`), with the images' real widths and heights
    images.u8       raw uint8 (N, side, side, 3), C order, RGB; row i is row i of the index
    meta.json       counts, names, checksums; written last, so a folder that holds it is whole

How one image is decoded: :mod:`lapml.data.decode`. Width, height, box and parts of the index are in the pixels of the
*upright* image without its banner. A box or a part that the annotations put outside its image stays there (but a box
ends where a banner began).

While it is being made, a pack lies in ``.packing`` beside its folder: what a killed process packed stays packed. One process at a
time packs a data set, by the lock ``.packing.lock``.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lapml import __version__
from lapml.config import Data, digest
from lapml.data import index
from lapml.data.decode import in_order, square, upright
from lapml.data.fetch.contents import KEYS
from lapml.data.fetch.sources import laid_out
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.files import locked
from lapml.paths import PACK_FILES, Paths

VERSION = 2  # of what is made of an image: raise it with every change that moves a pixel
# Of a square: upright width and height and orientation of its image; its checksum, as a system that crashes may lose
# bytes that were written; size and time of change of its file.
SEEN = np.dtype([("size", np.int32, 3), ("crc32", np.uint32), ("file", np.int64, 2)])
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.int64(),
        "class_name": pa.string(),
        "split": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "box": pa.list_(pa.float64()),
        "parts": pa.list_(pa.list_(pa.float64())),
    }
)


def prepare(name: str, data: Data, paths: Paths, progress: bool = True, boxed: Collection[str] = ()) -> None:
    """Read, index, decode and write the pack of one data set to ``paths.pack(name)``.

    The result is bit for bit the same whatever the number of cores, and whether or not it was made in one go. Memory
    does not grow with the data set's pixels.

    Args:
        progress: show images, images a second and the time left (once in half a minute where it is no terminal).
        boxed: the methods that mix by boxes: every image must have one then.

    Raises:
        LapmlError: source.json or the laid-out data set is missing, or other data than the settings name; an annotation is
            wrong, an image cannot be read, the disk is too small or full, or another process is packing. The images packed
            so far are kept for the next attempt, and an older pack stays as it was.
    """
    record, root = laid_out(name, paths, data)
    how = reader(data.reader)
    table = index.read(root, data)
    index.refuse_unboxed(table, name, boxed)
    folder = paths.pack(name)
    partial = folder.parent / ".packing"

    def busy() -> None:
        raise LapmlError(f"{partial}: another process is packing this data set; wait for it, or stop it")

    try:
        files = [root / how.IMAGES / path for path in table["path"]]
        with locked(partial.with_name(".packing.lock"), busy):
            packing = Packing(partial, files, data.stored_side, how.BANNER)
            seen = zip(table.to_dict("records"), packing.work(name, progress), strict=True)
            rows = [upright(row, *size, banner=how.BANNER) for row, size in seen]
            source = {key: record[key] for key in ("kind", *KEYS) if key in record}
            about = {"parts": how.part_names(root), "source": source, "settings": data.packing()}
            _finish(packing, folder, rows, about)
    except OSError as error:
        raise LapmlError(f"{folder}: cannot be written ({error}); free some space, or check its permissions") from None


class Packing:
    """Squares on their way to the disk, in ``folder``: ``images.u8``, ``seen`` (a :data:`SEEN` for each square) and ``key``,
    which says what they are made of and how. What lies there is taken up if it was made of the same files in the same way.
    """

    def __init__(self, folder: Path, files: list[Path], side: int, banner: int):
        self.folder, self.files, self.side, self.banner = folder, files, side, banner
        self.row = side * side * 3  # bytes of a square
        self.sha256 = hashlib.sha256()
        self.images, self.seen, self.key = parts = [folder / name for name in ("images.u8", "seen", "key")]
        key = digest([VERSION, PIL.__version__, side, banner, [str(file) for file in files]])
        if not all(file.is_file() for file in parts) or self.key.read_text() != key:
            folder.mkdir(parents=True, exist_ok=True)
            self.key.unlink(missing_ok=True)  # first: without it the others do not count
            self.images.write_bytes(b"")
            self.seen.write_bytes(b"")
            self.key.write_text(key)

    def work(self, name: str, progress: bool) -> list[list[int]]:
        """Pack what is not packed yet; returns upright width and height and stored orientation of each image."""
        bar = tqdm(total=len(self.files), desc=f"pack {name}", unit="img",
                   mininterval=0.1 if sys.stderr.isatty() else 30, disable=not progress)  # fmt: skip
        with bar:
            done = self._done(bar)
            for file, size in ((self.images, self.row), (self.seen, SEEN.itemsize)):
                os.truncate(file, done * size)
            need, free = (len(self.files) - done) * self.row, shutil.disk_usage(self.folder).free
            if need > free:
                raise LapmlError(
                    f"{self.folder}: {len(self.files) - done} squares of side {self.side} need {need / 1e9:.1f} GB, found "
                    f"{free / 1e9:.1f} GB free; free some space, or choose a smaller stored_side or fewer classes"
                )
            with open(self.images, "ab") as images, open(self.seen, "ab", 0) as seen:
                for pixels, about in in_order(self._square, self.files[done:]):
                    images.write(pixels)
                    seen.write(about)
                    self.sha256.update(pixels)
                    bar.update()
        return np.fromfile(self.seen, SEEN)["size"].tolist()

    def _done(self, bar: tqdm) -> int:
        """Number of complete squares of unchanged files; adds them to the checksum."""
        with open(self.images, "rb") as images:
            known = np.fromfile(self.seen, SEEN)
            for at, (checksum, file) in enumerate(zip(known["crc32"].tolist(), known["file"].tolist(), strict=True)):
                pixels = images.read(self.row)
                if len(pixels) < self.row or crc32(pixels) != checksum or file != _stat(self.files[at]):
                    return at
                self.sha256.update(pixels)
                bar.update()
        return len(known)

    def _square(self, file: Path) -> tuple[bytes, bytes]:
        known = _stat(file)  # before it is read: a change in between is seen next time
        pixels, size = square(file, self.side, self.banner)
        return pixels, np.array((size, crc32(pixels), known), SEEN).tobytes()


def _stat(file: Path) -> list[int]:
    """Size and time of change: a file that was replaced is packed again."""
    try:
        stat = os.stat(file)
    except OSError:
        return [-1, -1]  # reported by decoding
    return [stat.st_size, stat.st_mtime_ns]


def _finish(packing: Packing, folder: Path, rows: list[dict[str, Any]], meta: dict[str, Any]) -> None:
    """Put the pack in its place, meta.json last."""
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, packing.folder / "index.parquet")
    names = {row["label"]: row["class_name"] for row in rows}
    meta = {
        "count": len(rows),
        "side": packing.side,
        "classes": len(names),
        "class_names": [names[label] for label in sorted(names)],
        "splits": {split: sum(row["split"] == split for row in rows) for split in index.SPLITS},
        **meta,
        "images_sha256": packing.sha256.hexdigest(),
        "index_sha256": _index_sha256(table.to_pylist()),
    }
    meta["sha256"] = hashlib.sha256(f"{meta['images_sha256']} {meta['index_sha256']}".encode()).hexdigest()
    meta |= {"lapml": __version__, "pillow": PIL.__version__}  # another Pillow may decode to other pixels
    with open(packing.images, "rb") as images:
        os.fsync(images.fileno())
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (packing.folder / "meta.json").write_text(text, encoding="utf-8")
    packing.key.unlink()  # from here on nothing is left to go on with
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").unlink(missing_ok=True)  # never an old one beside new images
    for file in PACK_FILES:
        os.replace(packing.folder / file, folder / file)
    shutil.rmtree(packing.folder)


def _index_sha256(rows: list[dict[str, Any]]) -> str:
    """Of what the index says, not of the parquet file's bytes, which change with pyarrow's version."""
    return hashlib.sha256(json.dumps([[row[key] for key in index.COLUMNS] for row in rows]).encode()).hexdigest()


# --- a pack ---


@dataclass(frozen=True)
class Packed:
    """An open pack.

    Attributes:
        index: N rows, columns :data:`lapml.data.index.COLUMNS`; box and parts are lists, or None.
        images: read-only memory map, uint8 (N, side, side, 3), RGB.
        meta: what meta.json holds; ``meta["sha256"]`` is the state of the data that runs record.
        class_names: one name per label.
    """

    index: pd.DataFrame
    images: np.memmap
    meta: dict[str, Any]
    class_names: list[str]

    @classmethod
    def open(cls, folder: Path, data: Data | None = None) -> Self:
        """Open the pack in ``folder``.

        Args:
            data: the settings that it must have been made with.

        Raises:
            LapmlError: a file is missing, the files do not belong together, or it was made with other settings.
        """
        again = f"make it again with `lapml data prepare {folder.parent.name}`"
        for file in PACK_FILES:
            if not (folder / file).is_file():
                raise LapmlError(f"{folder / file}: no such file, the pack is not whole; {again}")
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            shape = (meta["count"], meta["side"], meta["side"], 3)
            class_names, index_sha256 = meta["class_names"], meta["index_sha256"]
            rows = pq.read_table(folder / "index.parquet", schema=SCHEMA).to_pylist()
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise LapmlError(f"{folder}: meta.json or index.parquet is damaged ({error}); {again}") from None
        if (found := (folder / "images.u8").stat().st_size) != (expected := int(np.prod(shape, dtype=np.int64))):
            raise LapmlError(f"{folder / 'images.u8'}: found {found} bytes, expected {expected} by meta.json; {again}")
        if len(rows) != meta["count"] or _index_sha256(rows) != index_sha256:
            raise LapmlError(f"{folder / 'index.parquet'}: is not the table that meta.json describes; {again}")
        made = meta.get("settings", {})
        for key, expected in ({"min_images": None} | data.packing() if data else {}).items():  # named where it is set
            if made.get(key) != expected:
                raise LapmlError(
                    f"{folder}: was made with {key} {made.get(key)!r}, expected data.{folder.parent.name}.{key}: {expected!r}; "
                    f"{again}"
                )
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
        return cls(pd.DataFrame(rows, columns=list(index.COLUMNS)), images, meta, class_names)
