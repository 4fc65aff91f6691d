"""The content of a data set, by number of images and checksums, independent of its place.

    images               how many are listed, of all classes
    annotations_sha256   over the annotations that the reader uses
    files_sha256         over the names and bytes of the chosen classes' image files; of synthetic birds over the name of their
                         folder, which their settings give: other libraries may write other bytes

All bytes are read when a data set is fetched, and again when names, sizes or times of its files change (:func:`stamp`).
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lapml.config import Data, digest
from lapml.data.readers import read, reader
from lapml.files import sha256

KEYS = ("images", "annotations_sha256", "files_sha256")


def listed(root: Path, data: Data) -> list[str]:
    """The image files of the chosen classes, sorted, as paths below ``root`` with forward slashes.

    Raises:
        LapmlError: the reader cannot read what lies there.
    """
    images = reader(data.reader).IMAGES
    below = f"{images}/" if images else ""
    return sorted(f"{below}{path}" for path in read(root, data)["image"])


def stamp(root: Path, files: list[str]) -> str:
    """Checksum of the files' names, sizes and times of change: no byte of them is read."""
    total = hashlib.sha256()
    for path in files:
        about = os.stat(root / path)
        total.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return total.hexdigest()


def contents(root: Path, data: Data, files: list[str], files_sha256: str | None = None) -> dict[str, Any]:
    """A value for each of :data:`KEYS`.

    Args:
        files: of :func:`listed`.
        files_sha256: if known and no file has changed.
    """
    images, annotations = reader(data.reader).fingerprint(root)
    known = files_sha256 or _files_sha256(root, data, files)
    return {"images": images, "annotations_sha256": annotations, "files_sha256": known}


def _files_sha256(root: Path, data: Data, files: list[str]) -> str:
    if data.source == "synthetic":
        return hashlib.sha256(root.name.encode()).hexdigest()
    total = hashlib.sha256()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        for path, checksum in zip(files, pool.map(lambda path: sha256(root / path), files), strict=True):
            total.update(f"{path}\0{checksum}\n".encode())
    return total.hexdigest()


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records are of the same data, by their common :data:`KEYS`; old records have no files_sha256."""
    return all(one[key] == other[key] for key in KEYS if key in one and key in other)


def described(record: dict[str, Any]) -> str:
    """For messages."""
    known = {key: record[key] for key in KEYS if key in record}
    return f"{record['images']} images, checksum {digest(known)[:12]}"
