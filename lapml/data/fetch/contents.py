"""The content of a data set, by number of images and checksums, independent of its place.

    images               how many are listed, of all classes
    annotations_sha256   over the annotations that the reader uses
    files_sha256         over the names and bytes of the chosen classes' image files; of synthetic birds over the name of their
                         folder, which their settings give: other libraries may write other bytes

All bytes are read when a data set is fetched, and again when names, sizes or times of its files change (its stamp).
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from lapml.config import Data, digest
from lapml.data.decode import in_order
from lapml.data.readers import read, reader
from lapml.files import sha256

KEYS = ("images", "annotations_sha256", "files_sha256")


def looked_at(root: Path, data: Data, known: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """A data set's stamp, which is a checksum of its files' names, sizes and times of change; and a value for each of :data:`KEYS`.

    Args:
        known: stamp and contents of these files (places.py): with an equal stamp no byte of them is read.

    Raises:
        LapmlError: the reader cannot read what lies there.
    """
    how = reader(data.reader)
    files = sorted((f"{how.IMAGES}/" if how.IMAGES else "") + path for path in read(root, data)["image"])
    seen, total = hashlib.sha256(), hashlib.sha256()
    for path in files:  # first: a change while they are read is seen next time
        about = os.stat(root / path)
        seen.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    if known and known["stamp"] == seen.hexdigest():
        files_sha256 = known["contents"]["files_sha256"]
    elif data.source == "synthetic":
        files_sha256 = hashlib.sha256(root.name.encode()).hexdigest()
    else:
        for path, checksum in zip(files, in_order(sha256, [root / path for path in files]), strict=True):
            total.update(f"{path}\0{checksum}\n".encode())
        files_sha256 = total.hexdigest()
    images, annotations = how.fingerprint(root)
    return seen.hexdigest(), {"images": images, "annotations_sha256": annotations, "files_sha256": files_sha256}


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records are of the same data, by their common :data:`KEYS`; old records have no files_sha256."""
    return all(one[key] == other[key] for key in KEYS if key in one and key in other)


def described(record: dict[str, Any]) -> str:
    """For messages."""
    known = {key: record[key] for key in KEYS if key in record}
    return f"{record['images']} images, checksum {digest(known)[:12]}"
