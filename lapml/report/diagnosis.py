"""Measure a data set's mixers, and write :data:`~lapml.paths.DIAGNOSIS_FILES`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lapml.analysis.diagnosis import tables
from lapml.analysis.diagnosis.measure import Known, Measured, measure, mixers, opened, settings, truths
from lapml.common.recorded import read_json
from lapml.config import Params
from lapml.config.renamed import DIAGNOSIS, named
from lapml.data.fetch.sources import laid_out
from lapml.data.truth import MASKS
from lapml.errors import LapmlError
from lapml.files import locked, scratch, write_json
from lapml.paths import DIAGNOSIS_FILES, Paths
from lapml.report.html import render, shows_pictures
from lapml.runs.folder import kept, open_run


def diagnose(params: Params, paths: Paths, dataset: str) -> Path:
    """Write the diagnosis of a data set; returns its folder. An older one is replaced at the end.

    Raises:
        LapmlError: see :func:`~lapml.analysis.diagnosis.measure.measure`.
    """
    from lapml.report import diagnosis_figures as figures  # matplotlib, which `publish --finished` does without

    known = truths(params, paths, dataset)
    found = measure(params, paths, dataset, known)
    folder = paths.diagnosis(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")), scratch(folder / ".partial") as partial:
        found.table.to_csv(partial / "diagnosis.csv", index=False)
        (partial / "diagnosis.md").write_text(tables.markdown(found, params), encoding="utf-8")
        write_json(partial / "diagnosis.json", tables.record(found))
        (partial / "quality.svg").write_bytes(figures.quality(found, params.all_methods()))
        (partial / "labels.svg").write_bytes(figures.labels(found, params.all_methods()))
        (partial / "gallery.html").write_text(_gallery(params, paths, dataset, known), encoding="utf-8")
        (folder / "diagnosis.json").unlink(missing_ok=True)  # never an old one beside new tables
        for name in DIAGNOSIS_FILES:  # diagnosis.json is the last
            (partial / name).replace(folder / name)
    return folder


def fits(params: Params, paths: Paths, dataset: str) -> bool:
    """Whether there is a diagnosis of these settings and runs."""
    try:
        return read(params, paths, dataset) is not None
    except LapmlError:
        return False


def read(params: Params, paths: Paths, dataset: str) -> Measured | None:
    """The finished diagnosis of a data set, or None where there is none.

    Raises:
        LapmlError: it is damaged, the maps' record is, or it was made with other settings, data or models than the present ones.
    """
    file = paths.diagnosis(dataset) / "diagnosis.json"
    if not file.is_file():
        return None
    again = f"run `lapml diagnose {dataset}` again"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        frames = [_table(record.pop(name)) for name in ("mixers", "maps", "ratios", "labels")]
        beside = _table(record.pop("localisers", []))  # added later
        localised = record.get("localised_sha256")  # added later
        record["settings"] = named(record["settings"], DIAGNOSIS)
        made = (*(record[key] for key in ("settings", "seeds", "data_sha256", "models_sha256", "object")), localised)
        _ = record["images"], record["generated"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the last two: null, or a list
        raise LapmlError(f"{file}: is damaged ({error}); {again}") from None
    origins = {
        str(seed): open_run(paths.run(dataset, params.diagnose.method, seed), optional=("model.safetensors",))[1]
        for seed in params.seeds
    }
    now = (
        settings(params, dataset, bool(localised or params.localising())),
        params.seeds,
        next(iter(origins.values()))["data_sha256"],
        {seed: origin["files"]["model.safetensors"] for seed, origin in origins.items()},
        _objects(paths, dataset, record["object"]),
        _maps(params, paths, dataset, localised),
    )
    for name, found, expected in zip(("settings", "seeds", "data", "models", "masks", "maps"), made, now, strict=True):
        if found != json.loads(json.dumps(expected)):
            raise LapmlError(f"{file}: was made with other {name} than the present ones; {again}")
    *frames, beside = (frame.replace({None: np.nan, "inf": np.inf}) for frame in (*frames, beside))
    return Measured(*frames, record, beside)


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(records).rename(columns={"row": "method"})  # its old name


def _maps(params: Params, paths: Paths, dataset: str, recorded: str | None) -> str | None:
    """Checksum of the present maps, if a diagnosis used maps; of the maps that it used if they are gone, or another machine's, and
    its models' runs were taken over, which cannot be diagnosed again, with runs that mix by those maps."""
    file = paths.localised(dataset) / "meta.json"
    if recorded is None or not file.is_file():
        return recorded
    present = read_json(file).get("sha256")
    models = [paths.run(dataset, params.diagnose.method, seed) / "model.safetensors" for seed in params.seeds]
    if present == recorded or any(kept(file) for file in models if file.is_file()):
        return present
    runs = [paths.run(dataset, method, seed) for method in params.localising() for seed in params.seeds]
    origins = [read_json(run / "provenance.json") for run in runs if (run / "provenance.json").is_file()]
    return recorded if any(origin.get("localised_sha256") == recorded for origin in origins) else present


def _objects(paths: Paths, dataset: str, recorded: str) -> str:
    """What a diagnosis would use as objects now; if the data are gone, what it used."""
    try:
        _, root = laid_out(dataset, paths)
    except LapmlError:
        return recorded
    if (root / MASKS).is_dir():
        return "masks"
    return "boxes" if recorded == "masks" else recorded


def refuse_gallery(params: Params, paths: Paths, dataset: str) -> None:
    """Raise a LapmlError if an old gallery shows pictures that may no longer be shown."""
    file = paths.diagnosis(dataset) / "gallery.html"
    if not params.report.images and file.is_file() and shows_pictures(file) is not False:
        raise LapmlError(
            f"{file}: shows pictures of the data, and report.images is false; run `lapml diagnose {dataset}` again, or delete it"
        )


def _gallery(params: Params, paths: Paths, dataset: str, known: Known) -> str:
    from lapml.report import gallery
    from lapml.report.pairs import pairs

    title = f"Mixed images: {dataset}"
    if not params.report.images:
        subtitle = f"Training images of {dataset} mixed by each method of suite {params.suite}."
        return render("no_gallery.html.j2", title=title, subtitle=subtitle)
    packed, methods = known[0], mixers(params, dataset, known)
    mixes, weights, _ = opened(params, paths, dataset, params.seeds[0], methods, known)
    shown = list(pairs(mixes, weights, packed.class_names, params.diagnose.pairs))
    subtitle = (
        f"Training images of {dataset} mixed by each method of suite {params.suite}; class maps by {params.diagnose.method}, seed "
        f"{params.seeds[0]}."
    )
    return gallery.page(title, subtitle, shown, packed.meta["source"]["kind"] == "drawn")
