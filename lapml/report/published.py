"""Publish a whole suite, its report and runs, to results/published, to be committed."""

import json
import shutil
from pathlib import Path

import pandas as pd

from lapml.analysis import backbones, tables
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import locked, scratch
from lapml.paths import DIAGNOSIS_FILES, READS, REPORT_FILES, Paths
from lapml.report import diagnosis
from lapml.report.carried import FILES
from lapml.report.html import as_published, is_of_settings, shows_pictures
from lapml.runs.collect import UNREAD

GALLERY = "gallery.html"  # large, with pictures of the data: not published
PUBLISHED_DIAGNOSIS_FILES = tuple(name for name in DIAGNOSIS_FILES if name != GALLERY)
LOCK = "publishing.lock"  # one process publishes at a time


def publish(params: Params, paths: Paths, replace: bool = False) -> Path:
    """Copy a suite's report, diagnoses, tuned files and runs (without model weights) to ``paths.published``, to be committed, and
    each chart as an SVG into its ``figures/``. The old copy is replaced when the new one is complete.

    Args:
        replace: also if published runs that the settings no longer have are deleted.

    Raises:
        LapmlError: no complete report, runs that do not fit the settings, a report of other runs, settings or diagnoses, a page
            with pictures that may not be published, or published runs would be deleted.
    """
    if missing := [name for name in REPORT_FILES if not (paths.report / name).is_file()]:
        raise LapmlError(f"{paths.report}: {', '.join(missing)}: missing; run `lapml report` first")
    runs = tables.collect(params, paths)
    if (paths.report / "runs.csv").read_text(encoding="utf-8") != runs.to_csv(index=False):
        raise LapmlError(f"{paths.report / 'runs.csv'}: is not of the present runs; run `lapml report` again")
    _refuse_pictures(params, paths, paths.report / "report.html")
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    if (paths.report / "accuracy.csv").read_text(encoding="utf-8") != table.to_csv(index=False):
        raise LapmlError(f"{paths.report / 'accuracy.csv'}: is not of the present settings; run `lapml report` again")
    if not is_of_settings(html := paths.report / "report.html", params):  # what the tables above do not hold
        raise LapmlError(f"{html}: is not of the present settings (section report); run `lapml report` again")
    for file in (paths.diagnosis(dataset) / "diagnosis.json" for dataset in params.datasets):
        if file.is_file() and file.stat().st_mtime > (paths.report / "report.html").stat().st_mtime:
            raise LapmlError(f"{file}: is later than {paths.report / 'report.html'}; run `lapml report` again")
    paths.published.parent.mkdir(parents=True, exist_ok=True)
    folder = _scratch_folder(paths)
    new, old = folder / "new", folder / "old"
    with locked(paths.base / LOCK):
        recover(paths)
        if not replace:
            _refuse_loss(paths, runs)
        with scratch(folder):
            _copy(params, paths, runs, table, new)
            try:
                if paths.published.exists():
                    paths.published.rename(old)
                new.rename(paths.published)
            finally:
                recover(paths)
    return paths.published


def publish_tables(params: Params, params_path: Path, paths: Paths) -> Path:
    """Make report, tables and charts in ``paths.published`` from the records of the runs there: of a suite that was completed over
    several occasions or machines, or that a later version of lapml tells more of. Nothing is trained, and the page has no pictures.

    Args:
        params_path: the file that ``params`` was read from.

    Returns:
        The page.

    Raises:
        LapmlError: not all runs of the suite are published, or they do not fit the settings; nothing is changed then.
    """
    there = paths.as_published()
    with locked(paths.base / LOCK):
        recover(paths)
        if not paths.published.is_dir():
            raise LapmlError(
                f"{paths.published}: not there, expected published runs; run `lapml publish --finished` first"
            )
        with scratch(_scratch_folder(paths)) as beside:
            there.report = folder = beside / "new"
            from lapml.report import build  # matplotlib, which `publish --finished` does without

            html = build.report(params, params_path, there, published=True)
            html.write_text(as_published(html.read_text(encoding="utf-8")), encoding="utf-8")
            runs = tables.collect(params, there, UNREAD)
            table = tables.accuracy(runs, tables.predictions(params, there), params)
            _draw(params, there, runs, table, folder / "figures")
            (paths.published / "report.html").unlink(missing_ok=True)  # never an old page beside new tables
            shutil.rmtree(paths.published / "figures", ignore_errors=True)
            (folder / "figures").rename(paths.published / "figures")
            for name in REPORT_FILES:  # report.html is the last
                (folder / name).replace(paths.published / name)
    return paths.published / "report.html"


def _refuse_loss(paths: Paths, runs: pd.DataFrame) -> None:
    kept = {f"{row['dataset']}/{row['method']}/{row['seed']}" for row in runs.to_dict("records")}
    there = paths.published / "runs"
    gone = sorted({path.parent.relative_to(there).as_posix() for path in there.glob("*/*/*/metrics.json")} - kept)
    if gone:
        raise LapmlError(
            f"{there}: holds {len(gone)} runs that the settings do not have ({', '.join(gone[:5])}{', …' * (len(gone) > 5)}); "
            "they would be deleted; add their methods and seeds, or give --replace (git keeps what is committed)"
        )


def _scratch_folder(paths: Paths) -> Path:
    return paths.published.with_name(f".{paths.suite}.tmp")


def recover(paths: Paths) -> None:
    """Restore the old copy after a publishing that was killed."""
    old = _scratch_folder(paths) / "old"
    if old.exists() and not paths.published.exists():
        old.rename(paths.published)


def _copy(params: Params, paths: Paths, runs: pd.DataFrame, table: pd.DataFrame, target: Path) -> None:
    target.mkdir()
    for name in REPORT_FILES:
        shutil.copyfile(paths.report / name, target / name)
    html = target / "report.html"
    html.write_text(as_published(html.read_text(encoding="utf-8")), encoding="utf-8")
    for row in runs.to_dict("records"):
        run = (str(row["dataset"]), str(row["method"]), str(row["seed"]))
        copy_run(paths.run(*run), target.joinpath("runs", *run))
    _draw(params, paths, runs, table, target / "figures")
    for dataset in params.datasets:
        if diagnosis.read(params, paths, dataset):
            copy_folder(paths.diagnosis(dataset), target / "diagnosis" / dataset, PUBLISHED_DIAGNOSIS_FILES)
        for method in dict.fromkeys([*params.studies(), *tables.studies(params, paths, dataset)]):
            copy_file(paths.tuned(dataset, method), target / "tuned" / dataset / f"{method}.json")


def _draw(params: Params, paths: Paths, runs: pd.DataFrame, table: pd.DataFrame, target: Path) -> None:
    """Each chart of the page as an SVG in a new folder."""
    from lapml.report import figures, page  # matplotlib, which `publish --finished` does without

    target.mkdir()
    epochs = tables.histories(params, paths)
    for dataset in params.datasets:
        charts = page.charts(*(frame[frame["dataset"] == dataset] for frame in (runs, epochs, table)))
        if len(over := backbones.of_suite(dataset, runs, params)):
            charts["backbones"] = figures.over_backbones(over, params.all_methods())
        for name, chart in charts.items():
            if chart:
                (target / f"{dataset}-{name}.svg").write_bytes(chart)


def _refuse_pictures(params: Params, paths: Paths, html: Path) -> None:
    if (shown := shows_pictures(html)) is None:
        raise LapmlError(f"{html}: does not say whether it shows pictures of the data; run `lapml report` again")
    if shown and not params.report.images:
        raise LapmlError(f"{html}: shows pictures of the data, and report.images is false; run `lapml report` again")
    foreign = []
    for name in params.datasets:  # whose packed data, or only the settings' source, are not synthetic
        meta = paths.pack(name) / "meta.json"
        packed = json.loads(meta.read_text(encoding="utf-8"))["source"]["kind"] if meta.is_file() else "drawn"
        if (params.data[name].source, packed) != ("synthetic", "drawn"):
            foreign.append(name)
    if shown and foreign:
        raise LapmlError(
            f"{html}: shows pictures of {', '.join(foreign)}, which are not ours to publish; "
            "run `lapml report --no-images` first"
        )


def copy_run(run: Path, target: Path) -> None:
    """Copy what is published of a run: all but its weights."""
    copy_folder(run, target, (*FILES, *[READS] * (run / READS).is_file()))


def copy_folder(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy files into ``target``; a new folder appears whole, in an existing one other files stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.with_name(f".{target.name}.partial")) as partial:
        for name in names:
            shutil.copyfile(source / name, partial / name)
        if not target.exists():
            partial.rename(target)
            return
        for name in names:
            (partial / name).replace(target / name)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    copy_folder(source.parent, target.parent, (source.name,))
