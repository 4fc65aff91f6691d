"""Decode every image once, into one array of squares beside its index; and open that pack again.

A pack is a folder of three files:

    index.parquet   the common table (:mod:`lapml.data.index`), with the images' real widths and heights
    images.u8       raw uint8 (N, side, side, 3), C order, RGB; row i is row i of the index
    meta.json       counts, names, checksums; written last, so a folder that holds it is whole

Each image is turned upright (EXIF), brought to RGB and squashed to a square with Pillow's LANCZOS filter, which
antialiases. (JPEG draft mode and ``reducing_gap`` were measured on CUB-200-2011: the same pixels at side 128 and
256, and off by up to 3.5 mean levels at 64 and 96. So neither is used.) Colour profiles are ignored.
Width, height, box and parts of the index are in the *upright* image's pixels. A box or a part that the annotations
put outside its image stays there.
"""

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from lapml import __version__
from lapml.config import Data
from lapml.data import cub200
from lapml.data.index import COLUMNS, SPLITS, build
from lapml.data.sources import laid_out
from lapml.errors import LapmlError
from lapml.paths import PACK_FILES, Paths

READERS = {"cub200": cub200}
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
Result = TypeVar("Result")
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# --- one image ---


def decode(file: Path) -> tuple[Image.Image, int]:
    """An upright RGB image, and the EXIF orientation (1–8) that it was stored with.

    Transparency is put on white; 16-bit gray is scaled by 1/257.

    Raises:
        LapmlError: the file is missing, empty, truncated or no image.
    """
    try:
        if file.stat().st_size == 0:
            raise ValueError("it is empty")
        with Image.open(file) as image:
            orientation = _orientation(image)
            image.load()  # a TIFF is turned here by Pillow itself; its tag is then gone
            return _rgb(image.transpose(UPRIGHT[turn]) if (turn := _orientation(image)) > 1 else image), orientation
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        why = " ".join(str(error).split()) or type(error).__name__
        raise LapmlError(
            f"{file}: cannot be read as an image ({why}); lay the data set out again, or replace this file"
        ) from None


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return 1
    return orientation if orientation in UPRIGHT else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of gray; Pillow's own conversion would clip at 255
        gray = np.clip(np.rint(np.asarray(image, np.float64) / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range, expected integers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _square(file: Path, side: int) -> tuple[bytes, int, int, int]:
    """The square's bytes, and the upright width and height and the stored orientation of the image."""
    image, orientation = decode(file)
    return image.resize((side, side), Image.Resampling.LANCZOS).tobytes(), *image.size, orientation


def points_upright(points: np.ndarray, width: int, height: int, orientation: int) -> np.ndarray:
    """Map points (..., 2) of the stored frame into the upright ``width`` × ``height`` frame.

    The frame is continuous: pixel i covers [i, i + 1), so mirroring takes x to width − x.
    """
    x, y = points[..., 0], points[..., 1]
    if orientation >= 5:  # the stored image lies on its side
        x, y = y, x
    if orientation in (2, 3, 6, 7):
        x = width - x
    if orientation in (3, 4, 7, 8):
        y = height - y
    return np.stack([x, y], -1)


def upright(row: dict[str, Any], width: int, height: int, orientation: int) -> dict[str, Any]:
    """A row of the index for the upright ``width`` × ``height`` image: sizes set, box and visible parts mapped.

    (A hidden part's coordinates mean nothing and stay.)
    """
    row = row | {"width": width, "height": height}
    size = (width, height, orientation)
    if orientation == 1:
        return row
    if row["box"] is not None:
        x, y, w, h = row["box"]
        corners = points_upright(np.array([[x, y], [x + w, y + h]], np.float64), *size)
        row["box"] = [*corners.min(0).tolist(), *np.abs(corners[1] - corners[0]).tolist()]
    if row["parts"] is not None:
        row["parts"] = [
            [*points_upright(np.array(part[:2], np.float64), *size).tolist(), part[2]] if part[2] else part
            for part in row["parts"]
        ]
    return row


# --- all images ---


def prepare(name: str, data: Data, paths: Paths, progress: bool = True) -> None:
    """Read, index, decode and write the pack of one data set to ``paths.pack(name)``.

    The result is bit for bit the same whatever the number of cores. Memory does not grow with the data set's pixels.

    Raises:
        LapmlError: source.json or the laid-out data set is missing, an annotation is wrong, or an image cannot be
            read. Then no half-written file stays.
    """
    record, root = laid_out(name, paths)
    reader = READERS[data.reader]
    index = build(reader.read(root, data.classes), data.val_fraction, data.split_seed)
    listed, annotations = reader.fingerprint(root)  # of now: the files may have changed since they were fetched
    folder = paths.pack(name)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {file: folder / f".{file}.tmp" for file in PACK_FILES}
    try:
        rows, images_sha256 = [], hashlib.sha256()
        files = [root / "images" / path for path in index["path"]]
        squares = in_order(lambda file: _square(file, data.stored_side), files)
        bar = tqdm(total=len(index), desc=f"pack {name}", unit="img", disable=not (progress and sys.stderr.isatty()))
        with open(temporary["images.u8"], "wb") as out, bar:
            for row, (pixels, *size) in zip(index.to_dict("records"), squares, strict=True):
                out.write(pixels)
                images_sha256.update(pixels)
                rows.append(upright(row, *size))
                bar.update()
        table = pa.Table.from_pylist(rows, SCHEMA)
        pq.write_table(table, temporary["index.parquet"])
        class_names = index.drop_duplicates("label").sort_values("label")["class_name"].tolist()
        meta = {
            "count": len(rows),
            "side": data.stored_side,
            "classes": len(class_names),
            "class_names": class_names,
            "splits": {split: int((index["split"] == split).sum()) for split in SPLITS},
            "parts": reader.part_names(root),
            "source": {"kind": record["kind"], "images": listed, "annotations_sha256": annotations},
            "images_sha256": images_sha256.hexdigest(),
            "index_sha256": _index_sha256(table.to_pylist()),
        }
        meta["sha256"] = hashlib.sha256(f"{meta['images_sha256']} {meta['index_sha256']}".encode()).hexdigest()
        meta |= {"lapml": __version__, "pillow": PIL.__version__}  # another Pillow may decode to other pixels
        temporary["meta.json"].write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "meta.json").unlink(missing_ok=True)  # an old one must never stand beside new images
        for file in PACK_FILES:
            os.replace(temporary[file], folder / file)
    except OSError as error:
        raise LapmlError(f"{folder}: cannot be written ({error}); free some space, or mend its permissions") from None
    finally:
        for file in temporary.values():
            file.unlink(missing_ok=True)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Path], Result], files: Iterable[Path]) -> Iterator[Result]:
    """``work(file)`` of each file, in the files' order, computed on all cores a few files ahead.

    Threads, not processes: Pillow decodes and resizes without holding Python's lock.
    """
    Image.init()  # registers the formats once, here: not safe to leave to the threads
    with ThreadPoolExecutor(workers := cores()) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(work, file))
                if len(waiting) > 4 * workers:  # a bounded window, so that memory stays small
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _index_sha256(rows: list[dict[str, Any]]) -> str:
    """Of what the index says, not of the parquet file's bytes, which change with pyarrow's version."""
    return hashlib.sha256(json.dumps([[row[key] for key in COLUMNS] for row in rows]).encode()).hexdigest()


# --- a pack ---


@dataclass(frozen=True)
class Packed:
    """An open pack.

    Attributes:
        index: N rows, columns :data:`lapml.data.index.COLUMNS`; box and parts are lists, or None.
        images: read-only memory map, uint8 (N, side, side, 3), RGB.
        meta: what meta.json holds; ``meta["sha256"]`` is the state of the data that runs record.
        class_names: one name a label.
    """

    index: pd.DataFrame
    images: np.memmap
    meta: dict[str, Any]
    class_names: list[str]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the pack in ``folder``.

        Raises:
            LapmlError: a file is missing, or the files do not belong together.
        """
        folder = Path(folder)
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
            raise LapmlError(f"{folder}: meta.json or index.parquet is broken ({error}); {again}") from None
        if (found := (folder / "images.u8").stat().st_size) != (expected := int(np.prod(shape, dtype=np.int64))):
            raise LapmlError(f"{folder / 'images.u8'}: found {found} bytes, expected {expected} by meta.json; {again}")
        if len(rows) != meta["count"] or _index_sha256(rows) != index_sha256:
            raise LapmlError(f"{folder / 'index.parquet'}: is not the table that meta.json describes; {again}")
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
        return cls(pd.DataFrame(rows, columns=list(COLUMNS)), images, meta, class_names)
