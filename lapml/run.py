"""One run, whole: train, evaluate, and write the run folder so that nothing half-written is ever taken for a result."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lapml import evaluate
from lapml.config import Params, Run, resolve
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.model import Net, build
from lapml.paths import RUN_FILES, Paths
from lapml.train import Fitted, fit, pick_device
from lapml.weights import sha256

READS = "test_reads.jsonl"  # beside the declared files: a line for each reading of the test split


def execute(
    config: Run, packed: Packed, folder: Path, quiet: bool = True, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train, evaluate once, and write :data:`~lapml.paths.RUN_FILES` into ``folder``; returns the metrics.

    The files are written to a temporary folder and renamed, provenance.json last: it holds the others' checksums.
    ``last.pt`` lies beside them until the run is complete.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "last.pt"
    fitted = fit(config, packed, state, quiet, log)
    seen = evaluate.predict(fitted.net, packed, config, fitted.weights, fitted.device, fitted.precision)
    totals = {key: sum(row[key] for row in fitted.history) for key in ("images_forward", "images_backward", "seconds")}
    metrics = {**evaluate.metrics(seen), **totals, "split": config.evaluate}
    record_read(folder, config.evaluate, "train")

    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_json(partial / "config.json", config.record())
    pd.DataFrame(fitted.history).to_csv(partial / "history.csv", index=False, lineterminator="\n")
    write_json(partial / "metrics.json", metrics)
    evaluate.table(seen, packed).to_parquet(partial / "predictions.parquet", index=False)
    save_file(
        {name: value.contiguous().cpu() for name, value in fitted.net.state_dict().items()},
        partial / "model.safetensors",
    )
    files = {name: sha256(partial / name) for name in RUN_FILES if name != "provenance.json"}
    provenance = _provenance(config, packed, fitted, started, time.perf_counter() - clock, folder)
    write_json(partial / "provenance.json", {**provenance, "files": files})
    for name in sorted(RUN_FILES, key=lambda name: name == "provenance.json"):
        os.replace(partial / name, folder / name)
    partial.rmdir()
    state.unlink(missing_ok=True)
    return metrics


def open_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and provenance.json of a complete run folder.

    Raises:
        LapmlError: a file is missing, or is not the one that provenance.json was written with.
    """
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if missing:
        raise LapmlError(f"{folder}: {missing[0]} is missing: the run is not complete; train it (again)")
    try:
        config = json.loads((folder / "config.json").read_text())
        provenance = json.loads((folder / "provenance.json").read_text())
        files = provenance["files"]
    except (ValueError, KeyError) as error:
        raise LapmlError(
            f"{folder}: config.json or provenance.json is damaged ({error}); train the run again"
        ) from None
    for name, expected in files.items():
        if sha256(folder / name) != expected:
            raise LapmlError(
                f"{folder / name}: is not the file that this run wrote (checksum differs); train the run again"
            )
    return config, provenance


def load_net(folder: Path, config: Run, packed: Packed) -> tuple[Net, dict[str, Any]]:
    """The trained net of a run on the CPU, in evaluation mode, and the record of its input (mean, std, grid)."""
    net, weights = build(config.model, len(packed.class_names), config.data.view.side, config.seed, initial=False)
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # safetensors and torch raise several types for a damaged or foreign file
        raise LapmlError(
            f"{folder / 'model.safetensors'}: does not fit the run's config ({str(error)[:200]})"
        ) from None
    return net.to(memory_format=torch.channels_last).eval(), weights


def reevaluate(folder: Path, params: Params, paths: Paths, split: str) -> dict[str, float]:
    """Metrics of a finished run on a split of its data set; a reading of the test split is recorded beside the run."""
    record, _ = open_run(folder)
    settings = dict(record)
    if record["dataset"] not in params.data:
        raise LapmlError(
            f"{folder}: data set {record['dataset']!r} is not one of params' data: {', '.join(params.data)}"
        )
    settings["data"] = {**record["data"], "source": params.data[record["dataset"]].source}
    config = Run.model_validate({**settings, "evaluate": split})
    packed = Packed.open(paths.pack(config.dataset))
    net, weights = load_net(folder, config, packed)
    device, precision = pick_device(config.train)
    torch.set_num_threads(config.train.threads)
    seen = evaluate.predict(net.to(device), packed, config, weights, device, precision)
    record_read(folder, split, "evaluate")
    return evaluate.metrics(seen)


def record_read(folder: Path, split: str, why: str) -> None:
    """Note a reading of the test split: there should be one a run."""
    if split == "test":
        with open(folder / READS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}) + "\n")


def tuned_values(params: Params, paths: Paths, dataset: str, method: str) -> dict[str, float] | None:
    """What the tuned file of a row says, or None for a row without tuned keys."""
    if method not in params.methods or not params.methods[method].unresolved():
        return None
    path = paths.tuned(dataset, method)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["values"]
    except FileNotFoundError:
        raise LapmlError(f"{path}: no tuned margins yet; run `lapml tune {dataset}` first") from None
    except (ValueError, KeyError):
        raise LapmlError(f"{path}: damaged; delete it and run `lapml tune {dataset}`") from None


def resolved(params: Params, paths: Paths, dataset: str, method: str, seed: int, development: bool = False) -> Run:
    """:func:`lapml.config.resolve` with the tuned file's values."""
    return resolve(params, dataset, method, seed, tuned_values(params, paths, dataset, method), development)


def write_json(path: Path, record: Any) -> None:
    """Write JSON to a temporary name beside ``path`` and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    names = ("lapml", "torch", "timm", "numpy", "pandas", "pillow", "optuna")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files were changed since) of the project, or Nones outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", "lapml"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def device_name(device: torch.device) -> str:
    """Of the GPU, or of the CPU with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU: {model}, {os.cpu_count()} cores"


def _provenance(
    config: Run, packed: Packed, fitted: Fitted, started: datetime, seconds: float, folder: Path
) -> dict[str, Any]:
    revision, dirty = commit()
    cuda = fitted.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reads = (folder / READS).read_text().splitlines() if (folder / READS).exists() else []
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": revision,
        "dirty": dirty,
        "data_sha256": packed.meta["sha256"],
        "weights": fitted.weights,
        "versions": versions(),
        "device": device_name(fitted.device),
        "precision": fitted.precision,
        "threads": config.train.threads,
        "seed": config.seed,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "resumed": fitted.resumed,
        "test_reads": len(reads),
    }
