"""What each row costs: every contender timed once a round, rounds repeated, ratios taken within a round.

`bare` is the same model, precision and batch: forward + backward + step on one fixed batch that lies on the device.
The rows are timed end to end, data path included, at ``mix.prob = 1`` after warm-up, so that a row's whole price shows.
Absolute times on a shared machine are noisy; the ratios, with Student-t intervals over rounds, are what to read.
"""

import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from lapml.config import Method, Params, resolve
from lapml.data import index as tables
from lapml.data.batches import Batch, Batches
from lapml.data.decode import cores
from lapml.data.index import rows_of
from lapml.data.pack import Packed, Packing
from lapml.data.readers import reader
from lapml.data.sources import laid_out
from lapml.model import build
from lapml.paths import Paths
from lapml.provenance import commit, device_name, versions
from lapml.run import PLACEHOLDER, write_json
from lapml.stats import t_interval
from lapml.train import autocast, make_optimizer, pick_device, take_step


def bench(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time the rows; returns a Markdown table, and writes bench.json and bench.md into ``output/SUITE`` if given."""
    params = params.of(dataset)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    device, precision = pick_device(params.train)
    torch.set_num_threads(params.train.threads)
    torch.backends.cudnn.deterministic = True
    contenders = {
        name: _contender(params, packed, dataset, name, device, precision) for name in ("bare", *params.all_rows())
    }
    for run in contenders.values():
        run(2)  # warm-up: allocations and kernel choice
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = np.random.default_rng(0)
    for _ in range(repeats):
        for name in order.permutation(list(contenders)):
            seconds[name].append(contenders[name](steps) / steps)
    record = {
        **_circumstances(device),
        "precision": precision,
        "threads": params.train.threads,
        "data": {"dataset": dataset, "sha256": packed.meta["sha256"], "side": params.data[dataset].view.side},
        "model": params.model.model_dump(),
        "batch": params.train.batch,
        "rounds": repeats,
        "steps": steps,
        "seconds_per_step": seconds,
        "rows": _ratios(seconds, params.train.batch, params.report.confidence),
    }
    return _written(record, _markdown(record), output and output / params.suite, "bench")


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
        **_circumstances(torch.device("cpu")),
        "pillow": PIL.__version__,
        "data": {"dataset": dataset, "images": len(files), "bytes": total, "stored_side": data.stored_side},
        "cores": cores(),
        "seconds": seconds,
        "images_per_second": speed,
        "speed_vs_loop": ratio,
    }
    text = (
        f"Packing {dataset} at {data.stored_side} px, {len(files)} images, {cores()} cores: {speed['pack']:.0f} images/s; "
        f"a plain Pillow loop {speed['loop']:.0f}; ratio {_interval(ratio)} over {repeats} interleaved rounds; "
        f"{record['device']}; commit {(record['commit'] or 'none')[:10]}{' (changed)' if record['dirty'] else ''}."
    )
    return _written(record, text, output and output / params.suite, "prepare")


def _circumstances(device: torch.device) -> dict[str, Any]:
    revision, dirty = commit()
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": revision,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "device": device_name(device),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def _written(record: dict[str, Any], text: str, folder: Path | None, name: str) -> str:
    if folder is not None:
        write_json(folder / f"{name}.json", record)
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    return text


def _contender(
    params: Params, packed: Packed, dataset: str, name: str, device: torch.device, precision: str
) -> Callable[[int], float]:
    """A function that runs some steps and returns their seconds."""
    method = params.all_rows()[0] if name == "bare" else name
    config = resolve(params, dataset, method, 0, PLACEHOLDER)  # a margin's value does not change its cost
    settings = config.settings.always_mixing() if name != "bare" else Method()
    net, weights = build(config.model, len(packed.class_names), config.data.view.side, 0)
    net.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(net, config.train)
    batches = Batches(
        packed, rows_of(packed.index, config.fit), config.data.view, weights["mean"], weights["std"], device
    )

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from batches.training(0, epoch, config.train.batch, settings)

    source = itertools.repeat(next(endless())) if name == "bare" else endless()

    def run(count: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            take_step(net, optimizer, settings, next(source), autocast(device, precision))
        _wait(device)
        return time.perf_counter() - started

    return run


def _ratios(seconds: dict[str, list[float]], batch: int, confidence: float) -> dict[str, dict[str, Any]]:
    """Per contender: images/s, speed against bare, step time against the baseline (mean, half-width over rounds)."""
    rows = {}
    for name, times in seconds.items():
        row: dict[str, Any] = {"images_per_second": batch / float(np.median(times))}
        row["speed_vs_bare"] = t_interval(np.divide(seconds["bare"], times), confidence)
        if "baseline" in seconds:
            row["step_vs_baseline"] = t_interval(np.divide(times, seconds["baseline"]), confidence)
        rows[name] = {
            key: [float(x) for x in value] if isinstance(value, tuple) else value for key, value in row.items()
        }
    return rows


def _markdown(record: dict[str, Any]) -> str:
    model, data = record["model"]["name"], record["data"]
    lines = [
        f"{model} (truncate {record['model']['truncate']}), {data['dataset']} at {data['side']} px, batch {record['batch']}, "
        f"{record['precision']}, {record['threads']} thread(s), {record['device']}; {record['rounds']} interleaved rounds of "
        f"{record['steps']} steps; commit {(record['commit'] or 'none')[:10]}{' (changed)' if record['dirty'] else ''}.",
        "",
        "| | images/s (median) | speed / bare | step time / baseline |",
        "|---|---:|---:|---:|",
    ]
    for name, row in record["rows"].items():
        cells = [_interval(row.get(key)) for key in ("speed_vs_bare", "step_vs_baseline")]
        lines.append(f"| {name} | {row['images_per_second']:.1f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _interval(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
