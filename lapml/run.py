"""One run, whole: train, evaluate, and write the run folder so that nothing half-written is ever taken for a result."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lapml import evaluate
from lapml.config import Params, Run, resolve, tuned_values
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.model import Net, build
from lapml.paths import READS, RUN_FILES, Paths
from lapml.provenance import code_sha256, commit, device_name, versions
from lapml.train import Fitted, fit, pick_device

PLACEHOLDER = {"m": 0.8, "alpha": 0.1, "delta": 0.4, "quantile": 0.5}  # where no tuned margin is needed


def execute(
    config: Run, packed: Packed, folder: Path, quiet: bool = True, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train, evaluate once, and write :data:`~lapml.paths.RUN_FILES` into ``folder``; returns the metrics.

    The files are written to a temporary folder and renamed, provenance.json last: it holds the others' checksums.
    ``last.pt`` lies beside them until the run is complete.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    code = dict(zip(("commit", "dirty"), commit(), strict=True)) | {"code_sha256": code_sha256()}
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "last.pt"
    fitted = fit(config, packed, state, quiet, log)
    record_read(folder, config.evaluate, "train")  # before it is read, so that no reading goes unrecorded
    seen = evaluate.predict(fitted.net, packed, config, fitted.weights, fitted.device, fitted.precision)
    totals = {key: sum(row[key] for row in fitted.history) for key in ("images_forward", "images_backward", "seconds")}
    metrics = {**evaluate.metrics(seen), **totals, "split": config.evaluate}

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
    seconds = time.perf_counter() - clock + fitted.earlier_seconds
    provenance = _provenance(config, packed, fitted, code, started, seconds, folder)
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


def reevaluate(folder: Path, params: Params, split: str, root: Path = Path(".")) -> dict[str, float]:
    """Metrics of a finished run on a split of its own packed data; a reading of the test split is recorded beside it.

    Raises:
        LapmlError: the run is not complete, its data have changed since, or it was trained on that split.
    """
    record, provenance = open_run(folder)
    if split in record["fit"]:
        raise LapmlError(
            f"{folder}: this run was trained on {' + '.join(record['fit'])}, so {split} says nothing of it; "
            "train one with --development to read val"
        )
    paths = Paths(record["suite"], root)
    if record["dataset"] not in params.data:
        raise LapmlError(
            f"{folder}: data set {record['dataset']!r} is not one of params' data: {', '.join(params.data)}"
        )
    data = {**record["data"], "source": params.data[record["dataset"]].source}
    config = Run.model_validate({**record, "data": data, "evaluate": split})
    packed = Packed.open(paths.pack(config.dataset))
    if packed.meta["sha256"] != provenance["data_sha256"]:
        raise LapmlError(
            f"{paths.pack(config.dataset)}: holds other data ({packed.meta['sha256'][:12]}) than the run was made with "
            f"({provenance['data_sha256'][:12]}); prepare that data again, or train the run again"
        )
    net, weights = load_net(folder, config, packed)
    device, precision = pick_device(config.train)
    torch.set_num_threads(config.train.threads)
    record_read(folder, split, "evaluate")
    seen = evaluate.predict(net.to(device), packed, config, weights, device, precision)
    return evaluate.metrics(seen)


def record_read(folder: Path, split: str, why: str) -> None:
    """Note a reading of the test split: there should be one a run."""
    if split == "test":
        with open(folder / READS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}) + "\n")


def resolved(params: Params, paths: Paths, dataset: str, method: str, seed: int, development: bool = False) -> Run:
    """:func:`lapml.config.resolve` with the tuned file's values."""
    return resolve(params, dataset, method, seed, tuned_values(params, paths, dataset, method), development)


def smoked(params: Params, dataset: str, method: str, seed: int) -> Run:
    """A development run of two epochs whose second is mixed throughout; margins that are not tuned yet are placeholders."""
    run = resolve(params, dataset, method, seed, PLACEHOLDER, development=True)
    train = run.train.model_copy(update={"epochs": 2, "warmup_epochs": 0.0})
    return run.model_copy(update={"train": train, "settings": run.settings.always_mixing(after=1)})


def write_json(path: Path, record: Any) -> None:
    """Write JSON to a temporary name beside ``path`` and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _provenance(
    config: Run,
    packed: Packed,
    fitted: Fitted,
    code: dict[str, Any],
    started: datetime,
    seconds: float,
    folder: Path,
) -> dict[str, Any]:
    cuda = fitted.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reads = (folder / READS).read_text().splitlines() if (folder / READS).exists() else []
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **code,
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
