"""Publish a suite, whole or what is finished of it, to results/published; and take published runs over from there."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd

from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import NOT_KEPT, locked, scratch
from lapml.paths import DIAGNOSIS_FILES, READS, REPORT_FILES, RUN_FILES, Paths
from lapml.report import diagnosis, page, tables
from lapml.report.runs import UNREAD, examined, read_json, tuned_files

GALLERY = "gallery.html"  # large, and full of pictures of the data: it is not published
PUBLISHED_RUN_FILES = tuple(name for name in RUN_FILES if name not in UNREAD)
PUBLISHED_DIAGNOSIS_FILES = tuple(name for name in DIAGNOSIS_FILES if name != GALLERY)
LOCK = "publishing.lock"  # one publishes at a time
IMAGES = re.compile(r'<meta name="lapml-images" content="(none|data)">')


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
    with locked(paths.base / LOCK), scratch(folder):
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
        _copy_run(paths.run(*run), target.joinpath("runs", *run))
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
            _copy_folder(paths.diagnosis(dataset), target / "diagnosis" / dataset, PUBLISHED_DIAGNOSIS_FILES)
        for method in tuned_files(params):
            _copy_file(paths.tuned(dataset, method), target / "tuned" / dataset / f"{method}.json")


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


def publish_finished(params: Params, paths: Paths) -> str:
    """Copy what is finished of a suite and not published yet: runs (without weights), tuned files, diagnoses. What is
    published already stays as it is, so that a suite can be completed over several occasions, see :func:`restore`.

    Returns:
        How many runs were added, how many are there, and which are missing.

    Raises:
        LapmlError: what is published does not fit the settings as they are now, or the margins tuned since.
    """
    there, added, missing = paths.as_published(), [], []
    with locked(paths.base / LOCK):
        _refuse_unfit(params, paths, there)
        paths.published.mkdir(parents=True, exist_ok=True)
        _copy_tuned(params, paths, there)
        for (dataset, method, seed), found in examined(params, paths, UNREAD):
            if there.run(dataset, method, seed).exists():
                continue
            if isinstance(found, LapmlError):
                missing.append(f"{dataset}/{method}/{seed}")
                continue
            _copy_run(paths.run(dataset, method, seed), there.run(dataset, method, seed))
            added.append(f"{dataset}/{method}/{seed}")
        for dataset in params.datasets:
            if not there.diagnosis(dataset).exists() and _fits(params, paths, dataset):
                _copy_folder(paths.diagnosis(dataset), there.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
    count = len(params.datasets) * len(params.all_rows()) * len(params.seeds)
    text = f"{paths.published}: {len(added)} runs added, {count - len(missing)} of {count} are there"
    return text + (f"; not finished: {', '.join(missing)}" if missing else "")


def restore(params: Params, paths: Paths) -> str:
    """Take the published runs of a suite over, so that neither orchestrator makes them again: each with its tuned file,
    if they fit the settings and the packed data as they are now. What was made here already is left alone.

    Of weights only their checksum was published; those who need them train the run again. The runs that the diagnosis
    takes its nets from are therefore taken over together with a published diagnosis of them, or not at all.

    Returns:
        How many runs were taken over, and why the others were not.

    Raises:
        LapmlError: a data set is not prepared: only of packed data can be told whether a run is theirs.
    """
    there = paths.as_published()
    packed, diagnosed = {}, {}
    for dataset in params.datasets:
        try:
            packed[dataset] = json.loads((paths.pack(dataset) / "meta.json").read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError):
            raise LapmlError(
                f"{paths.pack(dataset)}: not prepared yet; run `lapml data fetch {dataset} && lapml data prepare {dataset}` first"
            ) from None
        diagnosed[dataset] = there.base.is_dir() and _fits(params, there, dataset)
    _copy_tuned(params, there, paths)
    taken, left = [], []
    for (dataset, method, seed), found in examined(params, there, UNREAD):
        name, own = f"{dataset}/{method}/{seed}", paths.run(dataset, method, seed)
        if not there.run(dataset, method, seed).exists() or all((own / file).is_file() for file in RUN_FILES):
            continue
        if isinstance(found, LapmlError):
            left.append(f"{name}: {found}")
        elif found["data_sha256"] != packed[dataset]:
            left.append(f"{name}: was made with other data ({found['data_sha256'][:12]}) than the packed")
        elif method == params.diagnose.row and not diagnosed[dataset]:
            left.append(
                f"{name}: the diagnosis needs its weights, which are not published, and is not published itself"
            )
        elif method in params.tuned_rows and not _same_tuned(paths, there, dataset, method):
            left.append(f"{name}: {paths.tuned(dataset, method)} has other values than the published run")
        else:
            _copy_run(there.run(dataset, method, seed), own)
            (own / UNREAD[0]).write_text(NOT_KEPT, encoding="utf-8")
            taken.append(name)
    for dataset, fits in diagnosed.items():
        if fits and not paths.diagnosis(dataset).exists():
            _copy_folder(there.diagnosis(dataset), paths.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
            (paths.diagnosis(dataset) / GALLERY).write_text("<p>The gallery is not published.</p>\n", encoding="utf-8")
    return "\n  ".join([f"{paths.published}: {len(taken)} runs taken over", *left])


def _refuse_unfit(params: Params, paths: Paths, there: Paths) -> None:
    """What is published fits the settings, and the margins that were tuned here."""
    advice = "give the suite another name, or move what is published away"
    faults = [
        f"{dataset}/{method}/{seed}: {line}"
        for (dataset, method, seed), found in examined(params, there, UNREAD)
        if isinstance(found, LapmlError) and there.run(dataset, method, seed).exists()
        for line in str(found).splitlines()
    ]
    for dataset in params.datasets:
        for method in tuned_files(params):
            if not _same_tuned(paths, there, dataset, method):
                faults.append(f"{paths.tuned(dataset, method)}: has other values than {there.tuned(dataset, method)}")
    if faults:
        raise LapmlError(f"{there.base}: holds what does not fit these settings; {advice}:\n  " + "\n  ".join(faults))


def _same_tuned(paths: Paths, there: Paths, dataset: str, method: str) -> bool:
    """Whether a row's tuned file here and the published one do not contradict each other."""
    files = [each.tuned(dataset, method) for each in (paths, there)]
    if not all(file.exists() for file in files):
        return True
    mine, published = (read_json(file).get("values") for file in files)
    return mine == published


def _fits(params: Params, paths: Paths, dataset: str) -> bool:
    """Whether there is a diagnosis of these settings and runs."""
    try:
        return diagnosis.read(params, paths, dataset) is not None
    except LapmlError:
        return False


def _copy_tuned(params: Params, source: Paths, target: Paths) -> None:
    """Copy the tuned files that fit the settings, each with the one that it started from, if they are not there."""
    for dataset in params.datasets:
        for method in params.tuned_rows:
            try:
                tables.tuned_record(params, source, dataset, method)
            except LapmlError:
                continue
            for name in [method] if method == "margin" else tuned_files(params):
                if not target.tuned(dataset, name).exists():
                    _copy_file(source.tuned(dataset, name), target.tuned(dataset, name))


def _copy_run(run: Path, target: Path) -> None:
    _copy_folder(run, target, PUBLISHED_RUN_FILES, optional=READS)


def _copy_folder(source: Path, target: Path, names: tuple[str, ...], optional: str = "") -> None:
    """Copy files into ``target``; a new one appears whole, in one that is there already other files stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.with_name(f".{target.name}.partial")) as partial:
        copied = [name for name in (*names, optional) if name in names or name and (source / name).is_file()]
        for name in copied:
            shutil.copyfile(source / name, partial / name)
        if not target.exists():
            partial.rename(target)
            return
        for name in copied:
            (partial / name).replace(target / name)


def _copy_file(source: Path, target: Path) -> None:
    _copy_folder(source.parent, target.parent, (source.name,))
