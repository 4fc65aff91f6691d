"""Finished runs, evaluated again: on another split, on corrupted images, on another data set."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lapml.config import Data, Params
from lapml.config.suites import find_dataset
from lapml.data.fetch.sources import refuse_other
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import write_json
from lapml.paths import CORRUPTIONS, TRANSFERS, Paths
from lapml.runs import corruptions, evaluate
from lapml.runs.execute import Ready, open_data, ready, record_read
from lapml.runs.folder import open_run


def reevaluate(folder: Path, split: str, root: Path = Path(".")) -> dict[str, float]:
    """Metrics of a finished run on a split of its own packed data; a reading of the test split is recorded.

    Raises:
        LapmlError: the run is not complete, its data have changed since, or it was trained on that split.
    """
    run, packed, _ = _opened(folder, split, "evaluate", root)
    return evaluate.metrics(run.predict(packed, split))


def robustness(folder: Path, split: str, root: Path = Path("."), log: Callable[[str], None] = print) -> dict[str, Any]:
    """Top-1 of a finished run on corrupted images of its own data, see :mod:`lapml.runs.corruptions`; recorded beside the run in
    :data:`~lapml.paths.CORRUPTIONS`. It counts as one reading of the split.

    Args:
        log: takes a line for each corruption as it is done.

    Returns:
        split, n; ``top1``: {``clean``, ``blur 3``, …: percent}; ``mean``: {corruption: over its severities}, and ``all``.

    Raises:
        LapmlError: as :func:`reevaluate`.
    """
    run, packed, provenance = _opened(folder, split, "evaluate --corruptions", root)
    top1: dict[str, float] = {}
    for name, change in corruptions.changes(bool(packed.index["box"].notna().all())):
        found = run.predict(packed, split, change)
        top1[name] = 100 * float((found.logits.argmax(1) == found.labels).mean())
        log(f"{name}: top-1 {top1[name]:.2f} %")
    mean = {name: float(np.mean([top1[f"{name} {k}"] for k in range(1, 6)])) for name in corruptions.SEVERITIES}
    result = {
        "split": split,
        "n": len(found.labels),
        "top1": top1,
        "mean": mean | {"all": float(np.mean(list(mean.values())))},
        **_made_of(packed, provenance),
    }
    write_json(folder / CORRUPTIONS, result)
    return result


def transfer(folder: Path, dataset: str, split: str, params: Params, root: Path = Path(".")) -> dict[str, Any]:
    """Metrics of a finished run on another packed data set, with the run's own view; recorded beside the run in
    :data:`~lapml.paths.TRANSFERS`.

    If the run knows every class of that data set (by name), all metrics, with predictions among all classes of the run;
    else only Recall@K of the embedding. The run's own data set packed at another size counts as its own: only its test
    split may be read, which is recorded as a reading. Classes of the same source that the run does not have are another,
    and so are other files of the same names in a folder.

    Args:
        dataset: a prepared data set of ``params``' suite.

    Raises:
        LapmlError: the run is not complete or of an old version, the data set is unknown, not prepared or packed with other
            settings, or it is the run's own and the split not its test split.
    """
    record, provenance = open_run(folder)
    data = find_dataset(params, dataset)
    refuse_other(dataset, data, Paths(params.suite, root))
    packed = Packed.open(Paths(params.suite, root).pack(dataset), data)
    names, source = provenance.get("class_names"), provenance.get("source")
    if not names or not source:
        raise LapmlError(
            f"{folder / 'provenance.json'}: class_names or source: missing, as in old runs; train it again"
        )
    made = ready(folder, record, len(names))
    relabelled = record["data"].get("labels") != data.labels  # the same images by other names
    own = _same_source(record["data"], data, source, packed.meta["source"])
    if own and (relabelled or not set(names).isdisjoint(packed.class_names)):
        if split != "test":
            raise LapmlError(
                f"{folder}: {dataset} is the run's own data set, of which only the test split is read so; found --split {split}"
            )
        record_read(folder, split, f"evaluate on {dataset} of {params.suite}")
    foreign = [name for name in packed.class_names if name not in names]
    found = made.predict(packed, split)
    if foreign:
        measured = evaluate.retrieval(found)
    else:
        labels = np.array([names.index(name) for name in packed.class_names])[found.labels]
        measured = evaluate.metrics(replace(found, labels=labels))
    result = {
        "dataset": dataset,
        "split": split,
        "classes": len(packed.class_names),
        "foreign_classes": len(foreign),
        **measured,
        **_made_of(packed, provenance),
    }
    with open(folder / TRANSFERS, "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def _opened(folder: Path, split: str, why: str, root: Path) -> tuple[Ready, Packed, dict[str, Any]]:
    """A finished run, its packed data and its provenance, to be read on a split; a reading of the test split is recorded."""
    record, provenance = open_run(folder)
    if split in (fit := record["fit"]):
        raise LapmlError(
            f"{folder}: this run was trained on {' + '.join(fit)} of this data, so its accuracy on {split} means "
            "nothing; train one with --development to read val"
        )
    packed = open_data(folder, record, provenance, root)
    run = ready(folder, record, len(packed.class_names))
    record_read(folder, split, why)  # before any image is
    return run, packed, provenance


def _same_source(run: dict[str, Any], data: Data, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a run's data and another data set, with their settings and sources' records, are of one source: by annotations,
    and in folders, whose annotations are but the files' names, by the files too where both checksums cover the same classes."""
    if one["annotations_sha256"] != other["annotations_sha256"]:
        return False
    alike = all(run.get(key) == getattr(data, key) for key in ("reader", "labels", "classes", "min_images"))
    if run["reader"] != "folder" or not alike or not all("files_sha256" in each for each in (one, other)):
        return True
    return one["files_sha256"] == other["files_sha256"]


def _made_of(packed: Packed, provenance: dict[str, Any]) -> dict[str, Any]:
    return {
        "data_sha256": packed.meta["sha256"],
        "model_sha256": provenance["files"]["model.safetensors"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
