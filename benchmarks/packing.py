"""How fast packing is. No torch here, as none is loaded where data sets are packed."""

import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.record import circumstances, interleaved, interval, ratio, revision, written
from lapml.common.provenance import device_name
from lapml.config import Params
from lapml.data import index as tables
from lapml.data.decode import cores
from lapml.data.fetch.sources import laid_out
from lapml.data.pack import Packing
from lapml.data.readers import reader
from lapml.paths import Paths


def preparing(params: Params, paths: Paths, dataset: str, images: int, repeats: int, output: Path | None) -> str:
    """Time packing against a plain Pillow loop (open, RGB, LANCZOS, array) over the same images, round by round.

    Packing is timed with all cores, checksums and writing. Every file is read once before, so that neither waits for
    the disk. So many ``images`` of a data set that is fetched are taken, evenly spaced. Returns a Markdown line, written with its
    figures to prepare.json and prepare.md in ``output/SUITE`` if given.
    """
    data = params.data[dataset]
    files, banner = images_of(params, paths, dataset)
    files = [files[at] for at in np.unique(np.linspace(0, len(files) - 1, images).round().astype(int))]
    total = sum(len(file.read_bytes()) for file in files)

    def loop() -> float:
        started = time.perf_counter()
        for file in files:
            with Image.open(file) as image:
                np.asarray(image.convert("RGB").resize((data.stored_side,) * 2, Image.Resampling.LANCZOS))
        return time.perf_counter() - started

    def pack() -> float:
        return packing(files, data.stored_side, banner, paths)

    pack()  # a file that is no image is refused here
    seconds = interleaved({"loop": loop, "pack": pack}, repeats)
    speed = {name: len(files) / float(np.median(times)) for name, times in seconds.items()}
    ahead = ratio(seconds["loop"], seconds["pack"], params.report.confidence)
    record = {
        **circumstances(device_name()),
        "pillow": PIL.__version__,
        "data": {"dataset": dataset, "images": len(files), "bytes": total, "stored_side": data.stored_side},
        "cores": cores(),
        "seconds": seconds,
        "images_per_second": speed,
        "speed_vs_loop": ahead,
    }
    text = (
        f"Packing {dataset} at {data.stored_side} px, {len(files)} images, {cores()} cores: {speed['pack']:.0f} images/s; "
        f"a plain Pillow loop {speed['loop']:.0f}; ratio {interval(ahead)} over {repeats} interleaved rounds; "
        f"{record['device']}; {revision(record)}."
    )
    return written(record, text, output and output / params.suite, "prepare")


def images_of(params: Params, paths: Paths, dataset: str) -> tuple[list[Path], int]:
    """(all image files of a fetched data set, the height in pixels of the banner that its reader cuts off)."""
    data = params.data[dataset]
    _, root = laid_out(dataset, paths, data)
    how = reader(data.reader)
    return [root / how.IMAGES / path for path in tables.read(root, data)["path"]], how.BANNER


def packing(files: list[Path], side: int, banner: int, paths: Paths) -> float:
    """Seconds that packing takes, into a temporary folder beside the suite's results."""
    paths.base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.base) as folder:
        started = time.perf_counter()
        Packing(Path(folder) / "pack", files, side, banner).work("bench", progress=False)
        return time.perf_counter() - started
