"""How fast packing is, and what every benchmark says of itself.

No torch here, as none is loaded where data sets are packed.
"""

import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from lapml.config import Params
from lapml.data import index as tables
from lapml.data.decode import cores
from lapml.data.pack import Packing
from lapml.data.readers import reader
from lapml.data.sources import laid_out
from lapml.files import write_json
from lapml.paths import Paths
from lapml.provenance import commit, device_name, versions
from lapml.stats import t_interval


def preparing(params: Params, paths: Paths, dataset: str, images: int, repeats: int, output: Path | None) -> str:
    """Time packing against a plain Pillow loop (open, RGB, LANCZOS, array) over the same images, round by round.

    Packing is timed with all cores, checksums and writing. Every file is read once before, so that neither waits for
    the disk.

    Args:
        dataset: one that is fetched; ``images`` of it, evenly spaced.

    Returns:
        a Markdown line; written with its figures to prepare.json and prepare.md in ``output/SUITE`` if given.
    """
    data = params.data[dataset]
    _, root = laid_out(dataset, paths)
    how = reader(data.reader)
    index = tables.read(root, data)
    chosen = np.unique(np.linspace(0, len(index) - 1, images).round().astype(int))
    files = [root / how.IMAGES / index["path"][at] for at in chosen]
    total = sum(len(file.read_bytes()) for file in files)

    def loop() -> float:
        started = time.perf_counter()
        for file in files:
            with Image.open(file) as image:
                np.asarray(image.convert("RGB").resize((data.stored_side,) * 2, Image.Resampling.LANCZOS))
        return time.perf_counter() - started

    def pack() -> float:
        with tempfile.TemporaryDirectory(dir=paths.base) as folder:
            started = time.perf_counter()
            with Packing.begun(Path(folder) / "pack", files, data.stored_side, how.BANNER) as packing:
                packing.work(dataset, progress=False)
            return time.perf_counter() - started

    pack()  # a file that is no image is refused here
    seconds: dict[str, list[float]] = {"loop": [], "pack": []}
    for _ in range(repeats):
        for name, work in (("loop", loop), ("pack", pack)):
            seconds[name].append(work())
    speed = {name: len(files) / float(np.median(times)) for name, times in seconds.items()}
    ratio = [float(x) for x in t_interval(np.divide(seconds["loop"], seconds["pack"]), params.report.confidence)]
    record = {
        **circumstances(device_name()),
        "pillow": PIL.__version__,
        "data": {"dataset": dataset, "images": len(files), "bytes": total, "stored_side": data.stored_side},
        "cores": cores(),
        "seconds": seconds,
        "images_per_second": speed,
        "speed_vs_loop": ratio,
    }
    text = (
        f"Packing {dataset} at {data.stored_side} px, {len(files)} images, {cores()} cores: {speed['pack']:.0f} images/s; "
        f"a plain Pillow loop {speed['loop']:.0f}; ratio {interval(ratio)} over {repeats} interleaved rounds; "
        f"{record['device']}; commit {(record['commit'] or 'none')[:10]}{' (changed)' if record['dirty'] else ''}."
    )
    return written(record, text, output and output / params.suite, "prepare")


def circumstances(device: str) -> dict[str, Any]:
    """When, where and by which code something was measured."""
    revision, dirty = commit()
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": revision,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "device": device,
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def written(record: dict[str, Any], text: str, folder: Path | None, name: str) -> str:
    """``text``, put beside the record into ``folder`` if that is given."""
    if folder is not None:
        write_json(folder / f"{name}.json", record)
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    return text


def interval(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"
