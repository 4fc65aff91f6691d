"""The maps of a data set on the disk, and opening them again.

They are a folder of these files; row i of each array belongs to image ``rows[i]`` of the index, maps are in the frame of the
stored square, and 16-bit numbers are floating-point:

    rows.npy             (n,) int64, ascending: the images that were localised
    objects.npy          (n, h, w) fp16 ≥ 0: object maps; 0 where no object is
    parts.npy            (n, K, h, w) fp16 ≥ 0: part maps; 1 is strong
    activation.npy       (n, h, w) fp16 in 0..1: class maps of the model's own classifier (activation.py)
    descriptors.npy      (n, K, D) fp16, unit length: what each part looks like; 0 where it is nowhere
    strengths.npy        (n, K) fp32: the peak of each part's map
    fitted.safetensors   what the maps were made by, to localise other images
    meta.json            counts, settings, provenance, checksums; written last, so a folder that holds it is whole
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from safetensors.torch import load_file

from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.localise.objects import Axis
from lapml.localise.parts import Parts
from lapml.paths import LOCALISED_FILES

FILES = LOCALISED_FILES
FORMAT = 1  # raise it with every change of what the files mean
KEYS = (
    "count",
    "grid",
    "parts",
    "dimensions",
    "data_sha256",
    "splits",
    "settings",
    "explained",
    "iterations",
    "classes",
)
FITTED = ("mean", "direction", "deviation", "components", "scale", "projection")


@dataclass(frozen=True)
class Localised:
    """The maps of a data set; the arrays are read-only memory maps, see the head of this file.

    Attributes:
        meta: what meta.json holds; ``meta["sha256"]`` is what runs record.
        axis: of the objects.
        fitted: the parts.
    """

    rows: np.ndarray
    objects: np.ndarray
    parts: np.ndarray
    activation: np.ndarray
    descriptors: np.ndarray
    strengths: np.ndarray
    axis: Axis
    fitted: Parts
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, data_sha256: str | None = None) -> Self:
        """Open the maps in ``folder``; every file is compared with its checksum.

        Args:
            data_sha256: of the packed data that they must be of.

        Raises:
            LapmlError: a file is missing, damaged or from elsewhere, or the maps are of other data.
        """
        folder = Path(folder)
        again = f"make the maps again with `lapml localise {folder.name}`"
        meta = read_meta(folder, again)
        if data_sha256 is not None and meta["data_sha256"] != data_sha256:
            raise LapmlError(
                f"{folder}: was made of other data ({meta['data_sha256'][:12]}) than is packed now ({data_sha256[:12]}); {again}"
            )
        count, grid, parts, size = (meta[key] for key in ("count", "grid", "parts", "dimensions"))
        shapes = shapes_of(count, grid, parts, size)
        arrays = {name: _array(folder / f"{name}.npy", *expected, again) for name, expected in shapes.items()}
        for name, expected in meta["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise LapmlError(
                    f"{folder / name}: is not the file that meta.json describes (checksum differs); {again}"
                )
        axis, fitted = read_fitted(folder / "fitted.safetensors", meta)
        return cls(**arrays, axis=axis, fitted=fitted, meta=meta)

    def places(self, images: np.ndarray) -> np.ndarray:
        """Where images (index rows, (B,)) are in the arrays: (B,) int64.

        Raises:
            LapmlError: one of them was not localised.
        """
        images = np.asarray(images)
        places = np.searchsorted(self.rows, images).clip(max=len(self.rows) - 1)
        lacking = self.rows[places] != images
        if lacking.any():
            raise LapmlError(
                f"image {images[lacking][0]} of the index has no object map: the maps are of {' + '.join(self.meta['splits'])}; "
                f"{lacking.sum()} of {len(images)} images lack one"
            )
        return places


def shapes_of(count: int, grid: int, parts: int, size: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """{array: (type, shape)} of n images, h = w = ``grid``, K parts and D = ``size``."""
    return {
        "rows": (np.int64, (count,)),
        "objects": (np.float16, (count, grid, grid)),
        "parts": (np.float16, (count, parts, grid, grid)),
        "activation": (np.float16, (count, grid, grid)),
        "descriptors": (np.float16, (count, parts, size)),
        "strengths": (np.float32, (count, parts)),
    }


def read_meta(folder: Path, again: str) -> dict[str, Any]:
    """meta.json, if it is ours and has not been changed; LapmlError otherwise."""
    file = folder / "meta.json"
    if not file.is_file():
        raise LapmlError(f"{file}: no such file, the maps are not there or not whole; {again}")
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        made, files = meta["format"], dict(meta["files"])
        known = {key: meta[key] for key in KEYS}
        whole = set(files) == set(FILES) - {"meta.json"} and meta["sha256"] == checksum(files, meta["data_sha256"])
        whole &= all(type(known[key]) is int and known[key] > 0 for key in ("count", "grid", "parts", "dimensions"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LapmlError(f"{file}: damaged, or of another program ({type(error).__name__}: {error}); {again}") from None
    if made != FORMAT:
        raise LapmlError(f"{file}: found format {made}, expected {FORMAT}: another version made the maps; {again}")
    if not whole:
        raise LapmlError(f"{file}: damaged: counts, files and checksum do not belong together; {again}")
    return meta


def checksum(files: dict[str, str], data_sha256: str) -> str:
    """One checksum for all files (of theirs) and the data: when and by what command they were made is not in it."""
    return hashlib.sha256(json.dumps([FORMAT, data_sha256, sorted(files.items())]).encode()).hexdigest()


def fitted_tensors(axis: Axis, parts: Parts) -> dict[str, torch.Tensor]:
    """What fitted.safetensors holds."""
    deviation = torch.tensor([axis.deviation], dtype=torch.float64)
    values = (axis.mean, axis.direction, deviation, parts.components, parts.scale, parts.projection)
    return {name: value.contiguous() for name, value in zip(FITTED, values, strict=True)}


def read_fitted(file: Path, about: dict[str, Any]) -> tuple[Axis, Parts]:
    """fitted.safetensors, with what meta.json says ``about`` it."""
    mean, direction, deviation, *parts = (load_file(file)[name] for name in FITTED)
    return Axis(mean, direction, float(deviation), about["explained"]), Parts(*parts, about["iterations"])


def _array(file: Path, kind: type, shape: tuple[int, ...], again: str) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LapmlError(f"{file}: missing or damaged ({' '.join(str(error).split())}); {again}") from None
    if array.dtype != kind or array.shape != shape:
        raise LapmlError(
            f"{file}: found {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape} by meta.json; {again}"
        )
    return array


class Growing:
    """An .npy file of a known shape that is written row by row, and can be continued after any row.

    Written, not mapped: the pages of a map would count as this process's memory.
    """

    def __init__(self, file: Path, kind: type, shape: tuple[int, ...]):
        self.file, self.kind = file, np.dtype(kind)
        self.row = math.prod(shape[1:]) * self.kind.itemsize  # bytes
        head = BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, form)
        self.head = head.getvalue()
        self.stream: BinaryIO | None = None

    def holds(self, done: int) -> bool:
        """Whether ``done`` rows are there."""
        return self.file.is_file() and self.file.stat().st_size >= len(self.head) + done * self.row

    def begin(self, done: int) -> None:
        """Continue after ``done`` rows, 0 for a new file."""
        if done:
            os.truncate(self.file, len(self.head) + done * self.row)
        else:
            self.file.write_bytes(self.head)
        self.stream = open(self.file, "ab")

    def write(self, rows: np.ndarray) -> None:
        self.stream.write(np.ascontiguousarray(rows, self.kind).data)

    def sync(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
