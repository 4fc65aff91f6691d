"""Make the report of a suite, and publish it: the two commands that end the pipeline."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lapml import config
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import scratch
from lapml.paths import DIAGNOSIS_FILES, READS, REPORT_FILES, Paths
from lapml.report import diagnosis, diagnosis_tables, page, tables
from lapml.report.html import data_uri
from lapml.report.runs import differences

PUBLISHED_RUN_FILES = ("config.json", "history.csv", "metrics.json", "predictions.parquet", "provenance.json")
IMAGES = re.compile(r'<meta name="lapml-images" content="(none|data)">')


def report(
    params: Params,
    params_path: str | Path,
    paths: Paths,
    images: bool,
    galleries: Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]] | None = None,
) -> Path:
    """Write all of ``REPORT_FILES`` into ``paths.report``, each to a temporary name first.

    Args:
        params_path: the file that ``params`` was read from; its text is shown as it stands.
        images: show pictures of the data; without, ``galleries`` is not called and no picture is in the page.
        galleries: dataset → (gallery items, CAM items), see :mod:`lapml.report.figures`.

    Returns:
        The path of report.html.

    Raises:
        LapmlError: the runs do not agree with the settings, see ``tables.collect``; nothing is written then.
    """
    runs = tables.collect(params, paths)
    epochs = tables.histories(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    tuned = {
        (dataset, method): tables.tuned_record(params, paths, dataset, method)
        for dataset in params.datasets
        for method in params.all_rows()
        if method in params.tuned_rows
    }
    pictures = {name: galleries(name) for name in params.datasets} if images and galleries else None
    text, overridden = _settings(params, Path(params_path))
    diagnoses = {name: _diagnosis(params, paths, name) for name in params.datasets}
    html = page.build(params, text, runs, epochs, table, tuned, pictures, overridden, diagnoses)
    paths.report.mkdir(parents=True, exist_ok=True)
    with scratch(paths.report / ".partial") as partial:
        tables.write(partial, params, runs, epochs, table)
        (partial / "report.html").write_text(html, encoding="utf-8")
        (paths.report / "report.html").unlink(missing_ok=True)  # an old one must never stand beside new tables
        for name in REPORT_FILES:  # report.html is the last
            (partial / name).replace(paths.report / name)
    return paths.report / "report.html"


def _diagnosis(params: Params, paths: Paths, dataset: str) -> dict[str, Any] | None:
    """What the page shows of a data set's diagnosis; None where it was not diagnosed."""
    found = diagnosis.read(params, paths, dataset)
    if found is None:
        return None
    heads = diagnosis_tables.columns(found)
    rows = [
        [row["row"], *(diagnosis_tables.cell(row, name) for name in heads)] for row in found.table.to_dict("records")
    ]
    figures = {
        name: data_uri((paths.diagnosis(dataset) / f"{name}.svg").read_bytes(), "svg+xml")
        for name in ("quality", "labels")
    }
    return {
        "heads": ["row", *heads.values()],
        "rows": rows,
        "maps": diagnosis_tables.of_maps(found),
        "verdicts": diagnosis_tables.verdicts(found.ratios),
        "note": diagnosis_tables.note(found, params),
        "figures": figures,
        "gallery": f"{paths.diagnosis(dataset) / 'gallery.html'}",
    }


def publish(params: Params, paths: Paths) -> Path:
    """Copy a suite's report, diagnoses, tuned files and runs (without model weights) to ``paths.published``, to be committed.

    Beside them it writes each chart as an SVG of its own into ``figures/``.

    What lay there is replaced as a whole: it stays until the new copy is complete.

    Returns:
        ``paths.published``.

    Raises:
        LapmlError: no whole report, runs that disagree with the settings, a report that is not of these runs, or a
            page that shows pictures of a data set that is not ours to publish.
    """
    if missing := [name for name in REPORT_FILES if not (paths.report / name).is_file()]:
        raise LapmlError(f"{paths.report}: {', '.join(missing)}: missing; run `lapml report` first")
    runs = tables.collect(params, paths)
    if (paths.report / "runs.csv").read_text(encoding="utf-8") != runs.to_csv(index=False):
        raise LapmlError(f"{paths.report / 'runs.csv'}: is not of the runs as they are now; run `lapml report` again")
    _refuse_pictures(params, paths, paths.report / "report.html")
    paths.published.parent.mkdir(parents=True, exist_ok=True)
    folder = paths.published.with_name(f".{params.suite}.tmp")
    new, old = folder / "new", folder / "old"
    if old.exists() and not paths.published.exists():  # killed between the two renames below
        old.rename(paths.published)
    with scratch(folder):
        _copy(params, paths, runs, new)
        if paths.published.exists():
            paths.published.rename(old)
        try:
            new.rename(paths.published)
        except OSError:
            if old.exists():
                old.rename(paths.published)
            raise
    return paths.published


def _copy(params: Params, paths: Paths, runs: pd.DataFrame, target: Path) -> None:
    target.mkdir()
    for name in REPORT_FILES:
        shutil.copyfile(paths.report / name, target / name)
    for row in runs.to_dict("records"):
        run = (str(row["dataset"]), str(row["method"]), str(row["seed"]))
        folder = target.joinpath("runs", *run)
        folder.mkdir(parents=True)
        for name in PUBLISHED_RUN_FILES:
            shutil.copyfile(paths.run(*run) / name, folder / name)
        if (reads := paths.run(*run) / READS).is_file():
            shutil.copyfile(reads, folder / READS)
    epochs = tables.histories(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    for dataset in params.datasets:
        (target / "figures").mkdir(exist_ok=True)
        for name, chart in page.charts(
            *(frame[frame["dataset"] == dataset] for frame in (runs, epochs, table))
        ).items():
            if chart:
                (target / "figures" / f"{dataset}-{name}.svg").write_bytes(chart)
        if diagnosis.read(params, paths, dataset):
            folder = target / "diagnosis" / dataset
            folder.mkdir(parents=True)
            for name in DIAGNOSIS_FILES:
                if name != "gallery.html":  # large, and full of pictures of the data
                    shutil.copyfile(paths.diagnosis(dataset) / name, folder / name)
        for method in params.tuned_rows:
            folder = target / "tuned" / dataset
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths.tuned(dataset, method), folder / f"{method}.json")


def _drawn(params: Params, paths: Paths, dataset: str) -> bool:
    """Whether what was packed, not only what params name, is drawn."""
    meta = paths.pack(dataset) / "meta.json"
    packed = json.loads(meta.read_text(encoding="utf-8"))["source"]["kind"] if meta.is_file() else "drawn"
    return params.data[dataset].source == "drawn" == packed


def _refuse_pictures(params: Params, paths: Paths, html: Path) -> None:
    found = IMAGES.search(html.read_text(encoding="utf-8"))
    if found is None:
        raise LapmlError(f"{html}: does not say whether it shows pictures of the data; run `lapml report` again")
    foreign = [name for name in params.datasets if not _drawn(params, paths, name)]
    if found.group(1) == "data" and foreign:
        raise LapmlError(
            f"{html}: shows pictures of {', '.join(foreign)}, which are not ours to publish; "
            "run `lapml report --no-images` first"
        )


def _settings(params: Params, path: Path) -> tuple[str, list[str]]:
    """The params file's text, and where ``params`` differs from it (``--set``)."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LapmlError(f"{path}: cannot be read ({error.strerror}); name the suite's file with --params") from None
    used, written = (each.model_dump(mode="json") for each in (params, config.load(path)))
    lines = differences(used, written)
    return text, [line.replace(": found", ": used", 1).replace("expected", "the file says", 1) for line in lines]
