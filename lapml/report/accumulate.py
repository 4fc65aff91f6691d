"""A suite over several occasions: publish what is finished of it, and take published runs over, so that none is repeated."""

import json
from pathlib import Path
from typing import Any

from lapml.analysis import tables
from lapml.common.locks import holder_of
from lapml.common.recorded import read_json
from lapml.common.saved import state_aside
from lapml.config import Params
from lapml.config.renamed import upgraded_tuned
from lapml.config.tuning import ADAPTIVE, MARGIN
from lapml.errors import LapmlError
from lapml.files import locked, write_text
from lapml.paths import READS, RUN_FILES, Paths
from lapml.report import diagnosis
from lapml.report.published import GALLERY, LOCK, PUBLISHED_DIAGNOSIS_FILES, copy_file, copy_folder, copy_run, recover
from lapml.runs.collect import UNREAD, examined, one_origin
from lapml.runs.folder import NOT_KEPT
from lapml.runs.kept import STATE

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
    there, added, missing, held = paths.as_published(), [], [], []
    with locked(paths.base / LOCK):
        recover(paths)
        published = refuse_unfit(params, paths, there)
        paths.published.mkdir(parents=True, exist_ok=True)
        _copy_tuned(params, paths, there)
        diagnosed = {dataset: _fits(params, paths, dataset) for dataset in params.datasets}
        for (dataset, method, seed), found in examined(params, paths, UNREAD):
            if there.run(dataset, method, seed).exists():
                continue
            name, known = f"{dataset}/{method}/{seed}", published.setdefault(dataset, [])
            if isinstance(found, LapmlError):
                missing.append(name)
                continue
            if method == params.diagnose.method and not diagnosed[dataset]:
                held.append(name)
                continue
            row = {"dataset": dataset, "method": method, "seed": seed, **found}
            if faults := one_origin(params, [*known, row], paths.pack(dataset) / "meta.json"):
                raise LapmlError(
                    f"{there.base}: {faults[0]}; only runs of the same data and weights are published together"
                )
            copy_run(paths.run(dataset, method, seed), there.run(dataset, method, seed))
            known.append(row)
            added.append(name)
        for dataset in params.datasets:
            if (
                diagnosed[dataset]
                and not _fits(params, there, dataset)  # none yet, or one of fewer seeds
                and _same_models(params, paths, there, dataset)
            ):
                copy_folder(paths.diagnosis(dataset), there.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
    count = len(params.datasets) * len(params.all_methods()) * len(params.seeds)
    text = f"{paths.published}: {len(added)} runs added, {count - len(missing + held)} of {count} are there"
    text += f"; not finished: {', '.join(missing)}" if missing else ""
    return text + (f"; waiting for their diagnosis: {', '.join(held)}" if held else "")


def restore(params: Params, paths: Paths) -> str:
    """Take the published runs of a suite over, so that neither orchestrator makes them again: each with its tuned file,
    if they fit the settings and the packed data as they are now. What was made here already is left alone.

    Of weights only their checksum was published; those who need them train the run again. The runs that the diagnosis
    takes its models from are therefore taken over together with a published diagnosis of them, or not at all.

    Returns:
        How many runs were taken over, and why the others were not.

    Raises:
        LapmlError: a data set is not prepared: only of packed data can be told whether a run is theirs. Or there are no maps
            of it, by which published runs mix: once these were made, all runs that wait for them would be made again.
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
        # taken over with all of its models' runs, of which those that are here are the same ones, or not at all
        diagnosed[dataset] = _fits(params, there, dataset) and _same_models(params, there, paths, dataset, absent=True)
    published = [(run, found) for run, found in examined(params, there, UNREAD) if there.run(*run).exists()]
    mixing = {run[0] for run, found in published if isinstance(found, dict) and found["localised_sha256"]}
    maps = {dataset: _maps_sha256(paths, dataset) for dataset in mixing}
    _copy_tuned(params, there, paths)
    taken, left = [], []
    for (dataset, method, seed), found in published:
        name, own = f"{dataset}/{method}/{seed}", paths.run(dataset, method, seed)
        if all((own / file).is_file() for file in RUN_FILES):
            continue
        if isinstance(found, LapmlError):
            why = str(found)
        elif found["data_sha256"] != packed[dataset]:
            why = f"was made with other data ({found['data_sha256'][:12]}) than the packed"
        elif found["localised_sha256"] not in (None, maps.get(dataset)):
            why = f"mixes by other maps ({found['localised_sha256'][:12]}) than those here"
        elif method == params.diagnose.method and not diagnosed[dataset]:
            why = "the diagnosis needs its weights, which are not published"
        elif method in params.tuned_methods and not _same_tuned(params, paths, there, dataset, method):
            why = f"was trained with other tuned values than lie in {paths.tuned(dataset, method).parent}"
        elif holder := holder_of(own):
            why = f"{holder} is training it"
        else:
            _take_over(there.run(dataset, method, seed), own)
            taken.append(name)
            continue
        left.append(f"{name}: {why}")
    for dataset, fits in diagnosed.items():
        if fits and not (paths.diagnosis(dataset) / "diagnosis.json").is_file():
            copy_folder(there.diagnosis(dataset), paths.diagnosis(dataset), PUBLISHED_DIAGNOSIS_FILES)
            (paths.diagnosis(dataset) / GALLERY).write_text(NOT_PUBLISHED, encoding="utf-8")
    return "\n  ".join([f"{paths.published}: {len(taken)} runs taken over", *left])


def _maps_sha256(paths: Paths, dataset: str) -> str:
    """Of the object and part maps of a data set.

    Raises:
        LapmlError: there are none.
    """
    meta = paths.localised(dataset) / "meta.json"
    if not meta.is_file():
        raise LapmlError(
            f"{meta.parent}: no maps yet, and published runs mix by them; run `lapml localise {dataset}` first"
        )
    return str(read_json(meta).get("sha256"))


def refuse_unfit(params: Params, paths: Paths, there: Paths) -> dict[str, list[dict[str, Any]]]:
    """The published runs by data set, as :func:`~lapml.runs.collect.examined` gives them.

    Raises:
        LapmlError: they do not fit the settings, the packed data, each other, or the margins that were tuned here.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    faults = []
    for (dataset, method, seed), found in examined(params, there, UNREAD):
        if not there.run(dataset, method, seed).exists():
            continue
        if isinstance(found, LapmlError):
            faults += [f"{dataset}/{method}/{seed}: {line}" for line in str(found).splitlines()]
        else:
            rows.setdefault(dataset, []).append({"dataset": dataset, "method": method, "seed": seed, **found})
    for dataset in params.datasets:
        faults += one_origin(params, rows.get(dataset, []), paths.pack(dataset) / "meta.json")
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
    return [name for name in params.studies() if name == method or (name, method) == (MARGIN, ADAPTIVE)]


def _same_tuned(params: Params, paths: Paths, there: Paths, dataset: str, method: str) -> bool:
    """Whether the tuned files that a method depends on do not contradict the published ones."""
    for name in _started_from(params, method):
        files = [each.tuned(dataset, name) for each in (paths, there)]
        if all(file.exists() for file in files):
            mine, published = (upgraded_tuned(read_json(file)).get("values") for file in files)
            if mine != published:
                return False
    return True


def _same_models(params: Params, one: Paths, other: Paths, dataset: str, absent: bool = False) -> bool:
    """Whether the runs that the diagnosis takes its models from are the same in both places.

    Args:
        absent: those of ``other`` may be missing.
    """
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


def _fits(params: Params, paths: Paths, dataset: str) -> bool:
    """Whether there is a diagnosis of these settings and runs."""
    try:
        return diagnosis.read(params, paths, dataset) is not None
    except LapmlError:
        return False


def _copy_tuned(params: Params, source: Paths, target: Paths) -> None:
    """Copy the tuned files that fit the settings, each with the one that it started from, if they are not there."""
    for dataset in params.datasets:
        for method in params.tuned_methods:
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
    recorded stay."""
    reads = own / READS
    earlier = reads.read_text(encoding="utf-8") if reads.is_file() else ""
    copy_run(published, own)
    if earlier:
        later = reads.read_text(encoding="utf-8") if (published / READS).is_file() else ""
        reads.write_text(earlier + later, encoding="utf-8")
    if (own / STATE).exists():
        state_aside(own / STATE)
    write_text(own / UNREAD[0], NOT_KEPT)
