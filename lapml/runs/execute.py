"""One run: train, evaluate, and write the run folder atomically."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lapml.common import ranks
from lapml.common.gpus import ALONE, memory
from lapml.common.locks import alone
from lapml.common.provenance import code_sha256, command, commit, device_name, versions
from lapml.config import Params, Run, resolve, settings_of, tuned_values
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import sha256, write_json, write_text
from lapml.models.device import DTYPES, pick_device, tf32, without_gpu
from lapml.models.model import Classifier, build
from lapml.paths import LIVE, READS, RUN_FILES, Paths
from lapml.runs import evaluate, kept
from lapml.runs.folder import paths_of
from lapml.training.loop import Fitted, as_csv, fit, made_of

if TYPE_CHECKING:
    from lapml.localise.store import Localised
    from lapml.runs.corruptions import Change

RAW = ("top1", "loss", "recall1")  # in metrics.json of the last step's weights too, where their average is evaluated
PLACEHOLDER = {"m": 0.8, "weight": 0.1, "delta": 0.4, "quantile": 0.5}  # in place of tuned margins, if none are needed


def execute(
    config: Run,
    packed: Packed,
    folder: Path,
    quiet: bool = True,
    log: Callable[[str], None] = print,
    maps: "Localised | None" = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Train, evaluate once, and write :data:`~lapml.paths.RUN_FILES` into ``folder``; returns the metrics. All ranks
    call this, and rank 0 writes. Another process that makes the same run waits. A run that is finished already, with the same
    settings, data and code, is left as it is.

    The files are written to a temporary folder and renamed, provenance.json last: it holds the others' checksums.
    ``last.pt`` lies beside them until the run is complete.

    Args:
        maps: see :func:`~lapml.training.loop.fit`.
        replace: also train over a finished run or a saved state of other settings, data or code, which is kept beside
            (:mod:`lapml.runs.kept`).

    Raises:
        LapmlError: there is such a run or state and ``replace`` is False; or as :func:`~lapml.training.loop.fit`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, log):
        asked = made_of(config, packed, maps, pick_device(config.train)[0])
        done = ranks.on_first(lambda: kept.finished(folder, asked, config.model.weights, replace, log))
        if done:
            return done
        started, clock = datetime.now(UTC), time.perf_counter()
        code = dict(zip(("commit", "dirty"), commit(), strict=True)) | {"code_sha256": code_sha256()}
        fitted = fit(config, packed, folder / kept.STATE, quiet, log, maps, replace=replace, live=folder / LIVE)
        reads = kept.readings(folder)
        if ranks.rank() == 0:
            record_read(folder, config.evaluate, "train")  # first, so that no reading goes unrecorded
        found = evaluate.predict(fitted.model, packed, config, fitted.weights, fitted.device, fitted.precision)
        totals = {
            key: sum(row[key] for row in fitted.history) for key in ("images_forward", "images_backward", "seconds")
        }
        metrics = {**evaluate.metrics(found), **totals, "split": config.evaluate}
        if config.train.ema:  # the weights that were averaged, beside
            raw = evaluate.predict(fitted.models[0], packed, config, fitted.weights, fitted.device, fitted.precision)
            metrics |= {f"raw_{name}": value for name, value in evaluate.metrics(raw).items() if name in RAW}
        if ranks.rank():
            return metrics

        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_json(partial / "config.json", config.record())
        write_text(partial / "history.csv", as_csv(fitted.history))
        write_json(partial / "metrics.json", metrics)
        evaluate.table(found, packed).to_parquet(partial / "predictions.parquet", index=False)
        try:
            save_file(
                {name: value.contiguous().cpu() for name, value in fitted.model.state_dict().items()},
                partial / "model.safetensors",
            )
        except SafetensorError as error:  # safetensors' own error for a full disk
            raise OSError(None, str(error), str(folder / "model.safetensors")) from None
        files = {name: sha256(partial / name) for name in RUN_FILES if name != "provenance.json"}
        seconds = time.perf_counter() - clock + fitted.earlier_seconds
        provenance = _provenance(config, packed, fitted, code, started, seconds, folder, maps)
        write_json(partial / "provenance.json", {**provenance, "files": files})
        kept.finish(folder, partial, reads, log)
        return metrics


def load_model(folder: Path, config: Run, classes: int) -> tuple[Classifier, dict[str, Any]]:
    """The trained model of a run on the CPU, in evaluation mode, and the record of its input (mean, std, grid)."""
    model, weights = build(config.model, classes, config.data.view.side, config.seed, initial=False)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # safetensors and torch raise several types for a damaged or foreign file
        raise LapmlError(
            f"{folder / 'model.safetensors'}: does not fit the run's config ({str(error)[:200]})"
        ) from None
    return model.to(memory_format=torch.channels_last).eval(), weights


class Ready(NamedTuple):
    config: Run
    model: Classifier  # on the device, in evaluation mode
    weights: dict[str, Any]  # of its input: mean, std, grid
    device: torch.device
    precision: str

    def predict(self, packed: Packed, split: str = "", change: "Change | None" = None) -> evaluate.Predictions:
        """:func:`lapml.runs.evaluate.predict`, on another split than the run's if one is named."""
        config = self.config.model_copy(update={"evaluate": split or self.config.evaluate})
        return evaluate.predict(self.model, packed, config, self.weights, self.device, self.precision, change)


def ready(folder: Path, record: dict[str, Any], classes: int) -> Ready:
    """A finished run, given its config.json and K, on the GPU if there is one, in the precision of its settings.

    Raises:
        LapmlError: another version made the run, its model does not fit its settings, or its device is missing.
    """
    config = settings_of(folder / "config.json", record)
    model, weights = load_model(folder, config, classes)
    device, precision = pick_device(config.train)
    with memory(f"{folder}: its weights", f"take {ALONE}"):
        model.to(device, DTYPES[precision])
    return Ready(config, model, weights, device, precision)


def open_data(folder: Path, record: dict[str, Any], provenance: dict[str, Any], root: Path = Path(".")) -> Packed:
    """The packed data of a finished run (of :func:`open_run`); LapmlError if they are gone or changed."""
    where = paths_of(folder, record, root, provenance["data_sha256"]).pack(record["dataset"])
    packed = Packed.open(where)
    if packed.meta["sha256"] != provenance["data_sha256"]:
        raise LapmlError(
            f"{where}: holds other data ({packed.meta['sha256'][:12]}) than the run's "
            f"({provenance['data_sha256'][:12]}); prepare that data again, or train the run again"
        )
    return packed


def record_read(folder: Path, split: str, why: str) -> None:
    """Record a reading of the test split; there should be one per run."""
    if split == "test":
        with open(folder / READS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}) + "\n")


def resolved(params: Params, paths: Paths, dataset: str, method: str, seed: int, development: bool = False) -> Run:
    """:func:`lapml.config.resolve` with the values of the tuned file."""
    return resolve(params, dataset, method, seed, tuned_values(params, paths, dataset, method), development)


def resolve_smoke(params: Params, dataset: str, method: str, seed: int) -> Run:
    """A development run of two epochs, every batch of the second one mixed, with placeholders for untuned margins."""
    run = resolve(params, dataset, method, seed, PLACEHOLDER, development=True)
    train = run.train.shortened(2).model_copy(update={"warmup_epochs": 0.0})
    return run.model_copy(update={"train": train, "settings": run.settings.always_mixing(after=1)})


def _provenance(
    config: Run,
    packed: Packed,
    fitted: Fitted,
    code: dict[str, Any],
    started: datetime,
    seconds: float,
    folder: Path,
    maps: "Localised | None",
) -> dict[str, Any]:
    cuda = fitted.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reads = (folder / READS).read_text().splitlines() if (folder / READS).exists() else []
    return {
        "command": command(),
        **code,
        "data_sha256": packed.meta["sha256"],
        "localised_sha256": maps.meta["sha256"] if maps else None,
        "source": packed.meta["source"],
        "class_names": packed.class_names,
        "weights": fitted.weights,
        "versions": versions(),
        "device": device_name(fitted.device),
        "device_asked": config.train.device,
        "without_gpu": without_gpu(config.train),
        "precision": fitted.precision,
        "tf32": tf32(fitted.device),
        "threads": config.train.threads,
        "processes": ranks.size(),
        "nodes": int(os.environ.get("GROUP_WORLD_SIZE", 1)),  # torchrun's word
        "seed": config.seed,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "resumed": fitted.resumed,
        "test_reads": len(reads),
    }
