"""A suite over several occasions and machines: publish what is finished of it here or what a kit made elsewhere, and take published
runs over, so that none is repeated."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lapml.analysis import tables
from lapml.common.locks import holder_of
from lapml.common.recorded import read_json
from lapml.common.saved import state_aside
from lapml.config import Params
from lapml.config.renamed import TUNED, named
from lapml.config.tuning import ADAPTIVE, MARGIN
from lapml.errors import LapmlError
from lapml.files import locked, write_json, write_text
from lapml.paths import READS, RUN_FILES, Paths
from lapml.report import diagnosis
from lapml.report.carried import FILES, unpack
from lapml.report.published import GALLERY, LOCK, PUBLISHED_DIAGNOSIS_FILES, copy_file, copy_folder, copy_run, recover
from lapml.runs.collect import UNREAD, examined, one_origin
from lapml.runs.folder import NOT_KEPT
from lapml.runs.kept import STATE, readings, same_run

NOT_PUBLISHED = '<meta name="lapml-images" content="none">\n<p>The gallery is not published.</p>\n'


def publish_finished(params: Params, paths: Paths) -> str:
    """Copy what is finished of a suite and not published yet: runs (without weights), tuned files, diagnoses. What is published
    already stays (but for a diagnosis of fewer seeds), so that a suite can be completed over occasions, see :func:`restore`.

    The runs that a diagnosis takes its models from are published together with it: it is of these models and of no others.

    Returns:
        How many runs were added, how many are there, and which are missing.

    Raises:
        LapmlError: what is published does not fit the settings, the packed data or the pretrained weights as they are now,
            or the margins tuned since.
    """
    there, added, missing, held = paths.as_published(), 0, [], []
    with locked(paths.base / LOCK):
        recover(paths)
        published = _refuse_unfit(params, paths, there)
        paths.published.mkdir(parents=True, exist_ok=True)
        _copy_tuned(params, paths, there)
        diagnosed = {dataset: diagnosis.fits(params, paths, dataset) for dataset in params.datasets}
        for job, found in examined(params, paths, UNREAD):
            if there.run(*job).exists():
                continue
            if isinstance(found, LapmlError):
                missing.append(str(job))
            elif job.method == params.diagnose.method and not diagnosed[job.dataset]:
                held.append(str(job))
            elif faults := one_origin(params, [*published[job.dataset], found], paths.pack(job.dataset) / "meta.json"):
                raise LapmlError(
                    f"{there.base}: {faults[0]}; only runs of the same data and weights are published together"
                )
            else:
                copy_run(paths.run(*job), there.run(*job))
                published[job.dataset].append(found)
                added += 1
        for dataset in params.datasets:
            # none yet, or one of fewer seeds
            behind = diagnosed[dataset] and not diagnosis.fits(params, there, dataset)
            if behind and _same_models(params, paths, there, dataset):
                copy_folder(paths.diagnosis(dataset), there.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
    count = len(params.datasets) * len(params.all_methods()) * len(params.seeds)
    text = f"{paths.published}: {added} runs added, {count - len(missing + held)} of {count} are there"
    text += f"; not finished: {', '.join(missing)}" if missing else ""
    return text + (f"; waiting for their diagnosis: {', '.join(held)}" if held else "")


def publish_from(params: Params, paths: Paths, tar: Path) -> str:
    """Add the runs in a tar that kit/run.sh wrote on another machine to what is published; given twice, it changes nothing.

    They come without weights, so no diagnosis can be made of them: those of ``diagnose.method`` are published like the others.

    Returns:
        How many runs were added, and how many are there.

    Raises:
        LapmlError: the tar is cut off, damaged or unsafe, or what is published does not fit (then nothing is added); or
            some of its runs are not whole, not of this suite's settings, or not made with the same data and weights (the
            others are added).
    """
    there, added, faults = paths.as_published(), 0, []
    with locked(paths.base / LOCK), TemporaryDirectory(prefix="lapml-") as folder:
        recover(paths)
        record, jobs = unpack(tar, Path(folder))
        given = type(paths)(params.suite, paths.root)
        given.base = Path(folder)
        if record["suite"] != params.suite:
            raise LapmlError(
                f"{tar}: holds runs of suite {record['suite']!r}, expected {params.suite!r}; give its --params"
            )
        published = _refuse_unfit(params, paths, there)
        suite = dict(examined(params, given, UNREAD))
        known = {job: found for job, found in suite.items() if given.run(*job).exists()}
        faults += [f"{job}: no run of this suite" for job in jobs if job not in known]
        for job, found in known.items():
            if isinstance(found, LapmlError):
                faults += [f"{job}: {line}" for line in str(found).splitlines()]
                continue
            _name_commit(given.run(*job) / "provenance.json", record.get("about") or {})
            if there.run(*job).exists():
                if not same_run(given.run(*job), there.run(*job)):
                    faults.append(f"{job}: another run of that name is published, and stays")
            elif origin := one_origin(params, [*published[job.dataset], found], paths.pack(job.dataset) / "meta.json"):
                faults += origin
            else:
                copy_run(given.run(*job), there.run(*job))
                published[job.dataset].append(found)
                added += 1
    text = f"{paths.published}: {added} runs added, {sum(there.run(*job).exists() for job in suite)} of {len(suite)} are there"
    if faults:
        made = f"; they were made with --set {' --set '.join(record['overrides'])}" if record.get("overrides") else ""
        raise LapmlError(f"{text}; {tar}: holds what is not taken{made}:\n  " + "\n  ".join(faults))
    return text


def _name_commit(file: Path, kit: dict[str, Any]) -> None:
    """Where a run's checkout differed from its commit, but its code has the checksum of the kit's, which was committed: record that
    commit, and what the checkout said under ``checkout``."""
    origin = read_json(file)
    if origin.get("dirty") and kit.get("dirty") is False and origin.get("code_sha256") == kit.get("code_sha256"):
        checkout = {name: origin[name] for name in ("commit", "dirty")}
        write_json(file, {**origin, "commit": kit["commit"], "dirty": False, "checkout": checkout})


def restore(params: Params, paths: Paths) -> str:
    """Take the published runs of a suite over, so that neither orchestrator makes them again: each with its tuned file,
    if they fit the settings and the packed data as they are now. What was made here already is left alone.

    Of weights only their checksum was published; those who need them train the run again. The runs that the diagnosis
    takes its models from are therefore taken over together with a published diagnosis of them, or not at all. Maps of the same
    settings differ between kinds of machines by rounding: runs that mix by others than those here are taken over.

    Returns:
        How many runs were taken over, which of them mix by other maps than those here, and why the others were not.

    Raises:
        LapmlError: a data set is not prepared: only of packed data can be told whether a run is theirs. Or there are no maps
            of it, by which published runs mix: once these were made, all runs that wait for them would be made again.
    """
    there = paths.as_published()
    with locked(paths.base / LOCK):
        recover(paths)
    packed, diagnosed = {}, {}
    for dataset in params.datasets:
        try:
            packed[dataset] = json.loads((paths.pack(dataset) / "meta.json").read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError):
            raise LapmlError(
                f"{paths.pack(dataset)}: not prepared yet; run `lapml data fetch {dataset} && lapml data prepare {dataset}` first"
            ) from None
        # taken over with all of its models' runs, of which those that are here are the same ones, or not at all
        diagnosed[dataset] = diagnosis.fits(params, there, dataset) and _same_models(
            params, there, paths, dataset, absent=True
        )
    published = [(job, found) for job, found in examined(params, there, UNREAD) if there.run(*job).exists()]
    mixing = {job.dataset for job, found in published if isinstance(found, dict) and found["localised_sha256"]}
    maps = {dataset: _maps_sha256(paths.localised(dataset) / "meta.json") for dataset in mixing}
    _copy_tuned(params, there, paths)
    taken, left = [], []
    for job, found in published:
        dataset, method, own = job.dataset, job.method, paths.run(*job)
        if all((own / file).is_file() for file in RUN_FILES):
            continue
        if isinstance(found, LapmlError):
            why = str(found)
        elif found["data_sha256"] != packed[dataset]:
            why = f"was made with other data ({found['data_sha256'][:12]}) than the packed"
        elif method == params.diagnose.method and not diagnosed[dataset]:
            why = "the diagnosis needs its weights, which are not published"
        elif method in params.tuned_methods and not _same_tuned(params, paths, there, dataset, method):
            why = f"was trained with other tuned values than lie in {paths.tuned(dataset, method).parent}"
        elif holder := holder_of(own):
            why = f"{holder} is training it"
        else:
            _take_over(there.run(*job), own)
            taken.append(job)
            if found["localised_sha256"] in (None, maps.get(dataset)):
                continue
            why = f"taken over; it mixes by maps of another machine ({found['localised_sha256'][:12]}), as tables then say"
        left.append(f"{job}: {why}")
    for dataset, fits in diagnosed.items():
        if fits and not (paths.diagnosis(dataset) / "diagnosis.json").is_file():
            copy_folder(there.diagnosis(dataset), paths.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
            (paths.diagnosis(dataset) / GALLERY).write_text(NOT_PUBLISHED, encoding="utf-8")
    return "\n  ".join([f"{paths.published}: {len(taken)} runs taken over", *left])


def _maps_sha256(meta: Path) -> str:
    if not meta.is_file():
        raise LapmlError(
            f"{meta.parent}: no maps yet, and published runs mix by them; run `lapml localise {meta.parent.name}` first"
        )
    return str(read_json(meta).get("sha256"))


def _refuse_unfit(params: Params, paths: Paths, there: Paths) -> dict[str, list[dict[str, Any]]]:
    """The rows of the published runs by data set; LapmlError where they do not fit the settings, the packed data, each other,
    or the margins that were tuned here."""
    rows: dict[str, list[dict[str, Any]]] = {dataset: [] for dataset in params.datasets}
    faults = []
    for job, found in examined(params, there, UNREAD):
        if there.run(*job).exists() and isinstance(found, LapmlError):
            faults += [f"{job}: {line}" for line in str(found).splitlines()]
        elif there.run(*job).exists():
            rows[job.dataset].append(found)
    for dataset in params.datasets:
        faults += one_origin(params, rows[dataset], paths.pack(dataset) / "meta.json")
        for method in params.tuned_methods:
            if not _same_tuned(params, paths, there, dataset, method):
                faults.append(
                    f"{paths.tuned(dataset, method).parent}: has other values than {there.tuned(dataset, method).parent}"
                )
    if faults:
        advice = "give the suite another name, or move what is published away"
        raise LapmlError(f"{there.base}: holds what does not fit; {advice}:\n  " + "\n  ".join(dict.fromkeys(faults)))
    return rows


def _started_from(params: Params, method: str) -> list[str]:
    """The methods whose tuned files a tuned method depends on, its own among them."""
    names = dict.fromkeys([*params.studies(), method])
    return [name for name in names if name == method or (name, method) == (MARGIN, ADAPTIVE)]


def _same_tuned(params: Params, paths: Paths, there: Paths, dataset: str, method: str) -> bool:
    """Whether the tuned files that a method depends on do not contradict the published ones."""
    for name in _started_from(params, method):
        files = [each.tuned(dataset, name) for each in (paths, there)]
        if all(file.exists() for file in files):
            mine, published = (named(read_json(file), TUNED).get("values") for file in files)
            if mine != published:
                return False
    return True


def _same_models(params: Params, one: Paths, other: Paths, dataset: str, absent: bool = False) -> bool:
    """Whether the runs that the diagnosis takes its models from are the same in both places; ``absent``: those of ``other`` may be
    missing."""
    for seed in params.seeds:
        files = [each.run(dataset, params.diagnose.method, seed) / "provenance.json" for each in (one, other)]
        if absent and not files[1].is_file():
            continue
        if not all(file.is_file() for file in files):
            return False
        models = [(read_json(file).get("files") or {}).get(UNREAD[0]) for file in files]
        if models[0] != models[1]:
            return False
    return True


def _copy_tuned(params: Params, source: Paths, target: Paths) -> None:
    """Copy the tuned files that fit the settings, each with the one that it started from, if they are not there."""
    for dataset in params.datasets:
        for method in dict.fromkeys([*params.tuned_methods, *params.of(dataset).tune.methods]):
            try:
                tables.tuned_record(params, source, dataset, method)
            except LapmlError:
                continue
            if not _same_tuned(params, source, target, dataset, method):
                continue
            for name in _started_from(params, method):
                if not target.tuned(dataset, name).exists():
                    copy_file(source.tuned(dataset, name), target.tuned(dataset, name))


def _take_over(published: Path, own: Path) -> None:
    """Copy a published run, in place of what is unfinished there, which is set aside; readings of the test split that are
    recorded stay, and none counts twice."""
    earlier = readings(own).splitlines(keepends=True)
    later = [line for line in readings(published).splitlines(keepends=True) if line not in earlier]
    if earlier or later:
        write_text(own / READS, "".join(earlier + later))  # first: no kill loses any
    copy_folder(published, own, FILES)
    if (own / STATE).exists():
        state_aside(own / STATE)
    write_text(own / UNREAD[0], NOT_KEPT)
