"""Open and check the folder of a finished run."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lapml.common.recorded import Config, Provenance, checked
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import RUN_FILES

NOT_KEPT = "The run was taken over from results/published, where no weights are kept.\n"  # in place of them


def open_run(folder: Path, optional: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and provenance.json of a complete run folder.

    Args:
        optional: files that may be absent, such as the model in a published copy.

    Raises:
        LapmlError: a file is missing or damaged, or its checksum is not that of provenance.json.
    """
    missing = [name for name in RUN_FILES if name not in optional and not (folder / name).is_file()]
    if missing:
        raise LapmlError(f"{folder}: {missing[0]} is missing: the run is not complete; train it (again)")
    again = "train the run again"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        files = dict(provenance["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LapmlError(f"{folder}: config.json or provenance.json is damaged ({error}); {again}") from None
    checked(folder / "provenance.json", provenance, Provenance, again)
    checked(folder / "config.json", config, Config, again)
    for name, expected in files.items():
        if name in optional and not ((folder / name).exists() and kept(folder / name)):
            continue
        if sha256(folder / name) != expected:
            if not kept(folder / name):
                raise LapmlError(
                    f"{folder / name}: holds no weights: the run was taken over from results/published, which keeps none; "
                    "delete its folder and train the run again to have them"
                )
            raise LapmlError(
                f"{folder / name}: is not the file that this run wrote (checksum differs); train the run again"
            )
    return config, provenance


def kept(path: Path) -> bool:
    """Whether a file holds its content, and not the note :data:`NOT_KEPT`."""
    return path.stat().st_size != len(NOT_KEPT) or path.read_bytes() != NOT_KEPT.encode()
