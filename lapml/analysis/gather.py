"""Find run folders, and group them by method for comparison."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lapml.analysis.tables import BASELINE
from lapml.config import settings_of
from lapml.data.readers.annotations import choose
from lapml.errors import LapmlError
from lapml.paths import RUN_FILES
from lapml.runs.collect import UNREAD
from lapml.runs.folder import open_run, runs_below
from lapml.runs.records import class_count, mismatch, parquet

MAPS = (
    "The runs mix by maps with different checksums, as of several machines: of the same settings, rounded differently."
)
ORIGIN = ("device", "processes", "precision", "commit")  # of provenance.json: what may explain a difference


class Run(NamedTuple):
    """One run folder."""

    folder: Path
    config: dict[str, Any]
    origin: dict[str, Any]  # provenance.json
    truth: tuple[list, list]  # image names and labels
    right: np.ndarray  # (N,) 1 where the label is among the first answers, else 0
    first: np.ndarray  # (N,) the first answers


Row = dict[int, Run]  # the runs of a method by seed


def find(folder: Path) -> list[Path]:
    """The run folders at and below a folder, in the order of their paths; LapmlError where there is none."""
    if not folder.is_dir():
        open_run(folder)  # says which may be meant
    if not (found := runs_below(folder)):
        raise LapmlError(f"{folder}: holds no run, expected folders with {', '.join(RUN_FILES)}; train one first")
    return found


def read(folder: Path, top: int) -> Run:
    """One run; its model may be absent, as from a published copy. LapmlError where it is not complete or damaged, or ``top``, the K
    of top-K accuracy, is not 1 to 5."""
    if not 1 <= top <= 5:
        raise LapmlError(f"--top: found {top}, expected 1 to 5: predictions.parquet holds no more answers per image")
    record, origin = open_run(folder, optional=UNREAD)
    config = settings_of(folder / "config.json", record).record()
    try:
        table = parquet(folder / "predictions.parquet")
        if (classes := class_count(table, origin.get("class_names"))) > top > 1:
            table = parquet(folder / "predictions.parquet", top)
    except LapmlError as error:
        raise LapmlError(f"{folder}: {error}; train the run again") from None
    if classes <= top:
        raise LapmlError(
            f"{folder}: --top: found {top}, expected less than the number of its classes, {classes}: among all of them every "
            "answer is right"
        )
    label = table["label"].to_numpy()
    answers = table[[f"top{rank + 1}" for rank in range(top)]].to_numpy()
    right = (answers == label[:, None]).any(axis=1).astype(np.uint8)
    return Run(folder, config, origin, (table["image"].tolist(), label.tolist()), right, answers[:, 0])


def rows(folders: Sequence[Path], baseline: str | None = None, top: int = 1, without: str = "") -> dict[str, Row]:
    """The methods of the runs in and below some folders, by label; the reference comes first.

    Args:
        baseline: label of the reference; default: ``baseline`` if the first folder has several methods, one of that
            name included, else the first.
        without: classes whose images are left out, as numbers of the set; "": none.

    Raises:
        LapmlError: no run, a damaged one, a seed of a method twice, other data or images than the first run's, fewer
            than two methods, no such baseline, no such class, or classes to leave out of a set with ``min_images``.
    """
    found = [find(folder) for folder in folders]
    runs = [read(folder, top) for several in found for folder in several]
    refuse_other_images(runs)
    if without:
        first = runs[0]
        if first.config["data"].get("min_images") is not None:
            raise LapmlError(
                f"{first.folder / 'config.json'}: data.min_images: found {first.config['data']['min_images']}, expected null: it "
                "left classes out, and runs do not record which numbers; --without needs classes chosen by data.NAME.classes"
            )
        if (first.config["data"]["reader"], first.config["data"]["classes"]) == ("deepfashion", "all"):
            raise LapmlError(
                f"{first.folder / 'config.json'}: data.classes: found all, which leaves out categories without images, and runs do "
                "not record which; --without needs classes chosen by their numbers"
            )
        mask = kept(first.truth[1], first.config["data"]["classes"], first.origin.get("class_names"), without)
        runs = [left(run, mask) for run in runs]
    grouped = group(runs)
    ours = [label for label, by_seed in grouped.items() if any(run.folder in found[0] for run in by_seed.values())]
    reference = baseline or (BASELINE if BASELINE in ours else ours[0])
    if reference not in grouped:
        raise LapmlError(f"--baseline: found {reference!r}, expected one of {listed(map(repr, grouped))}")
    return {reference: grouped.pop(reference), **grouped}


def kept(labels: Sequence[int], classes: str, names: Sequence[str] | None, without: str) -> np.ndarray:
    """(N,) bool: the images of other classes than those.

    Args:
        labels: 0-based, of the set's chosen classes in ascending order.
        classes: which were chosen, ``data.NAME.classes``.
        names: of all of them; None for runs that did not record them.
        without: class numbers of the set, as ``"158-182"``.

    Raises:
        LapmlError: malformed, not of the set, or nothing would be left.
    """
    highest = (
        (len(names) if names else max(labels) + 1) if classes == "all" else max(map(int, re.findall(r"\d+", classes)))
    )
    numbers = choose(classes, dict.fromkeys(range(1, highest + 1), ""), Path("the set"))
    mask = ~np.isin(np.array(numbers)[labels], choose(without, dict.fromkeys(numbers, ""), Path("the runs")))
    if not mask.any():
        raise LapmlError(f"classes without {without}: found no image, expected some; leave fewer classes out")
    return mask


def left(run: Run, mask: np.ndarray) -> Run:
    """A run as if it had been read on some of its images alone."""
    images, labels = (list(np.asarray(each)[mask]) for each in run.truth)
    return run._replace(truth=(images, labels), right=run.right[mask], first=run.first[mask])


def refuse_other_images(runs: list[Run]) -> None:
    """Raise a LapmlError for the first run of another data set or split, or with other images or labels than the first run."""
    first, advice = runs[0], "only runs evaluated on the same images are compared: leave it out"
    for run in runs[1:]:
        for name, key in (("config", "dataset"), ("config", "evaluate"), ("provenance", "data_sha256")):
            found, expected = ((each.origin if name == "provenance" else each.config).get(key) for each in (run, first))
            if found != expected:
                raise LapmlError(
                    f"{run.folder / name}.json: {key}: found {found!r}, expected {expected!r} (as in {first.folder}); {advice}"
                )
        if run.truth != first.truth:
            fault = mismatch(run.truth, str(first.folder), first.truth)
            raise LapmlError(f"{run.folder / 'predictions.parquet'}: {fault}; {advice}")


def group(runs: list[Run]) -> dict[str, Row]:
    """The methods by label, in the order given: runs with the same settings except the seed, by seed.

    Two runs in all are two methods. Methods of the same name are told apart by the setting that differs.

    Raises:
        LapmlError: a seed of a method comes twice, or there is only one method.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.config.items() if key != "seed" or len(runs) == 2}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    methods: dict[str, Row] = {}
    for label, members in zip(_labels([_flat(json.loads(key)) for key in groups]), groups.values(), strict=True):
        runs_of = methods[label] = {}
        for run in sorted(members, key=lambda run: run.config["seed"]):
            if other := runs_of.get(seed := run.config["seed"]):
                raise LapmlError(
                    f"{run.folder}: found seed {seed} of {label} again, expected each seed of a method once; leave it or "
                    f"{other.folder} out"
                )
            runs_of[seed] = run
    if len(methods) == 1:
        seeds = listed(methods[label])
        raise LapmlError(
            f"found one method, {label} (seed {seeds}), expected two or more to compare; give runs of another"
        )
    return methods


def paired(label: str, runs: Row, reference: str, base: Row) -> tuple[list[Run], list[Run]]:
    """The runs of a method and of the reference to compare: those of the same seed, or the single runs. LapmlError where they have
    no seed in common."""
    if len(runs) == len(base) == 1:
        return list(runs.values()), list(base.values())
    common = [seed for seed in runs if seed in base]
    if not common:
        raise LapmlError(
            f"{label}: found seed {listed(runs)}, expected at least one of {reference}'s ({listed(base)}), for only runs of the "
            "same seed are compared; train it with these seeds, or choose another --baseline"
        )
    return [runs[seed] for seed in common], [base[seed] for seed in common]


def seed_notes(table: list[dict[str, Any]]) -> list[str]:
    """Sentences on which seeds are compared.

    Args:
        table: a dict each method, the reference first: method, seeds, and but for the reference paired_seeds.
    """
    base, *others = table
    if all(row["seeds"] == base["seeds"] for row in others):
        notes = [f"Seeds of every method: {listed(base['seeds'])}."]
    else:
        notes = ["Seeds: " + "; ".join(f"{listed(row['seeds'])} of {row['method']}" for row in table) + "."]
    for row in others:
        if len(row["paired_seeds"]) < max(len(row["seeds"]), len(base["seeds"])):
            notes.append(f"{row['method']} over {base['method']}: by the common seeds ({listed(row['paired_seeds'])}).")
    if any(len(row["paired_seeds"]) == 1 for row in others):
        notes.append("Where one seed is compared, p is of the images only, and nothing is called significant.")
    if any(1 < len(row["paired_seeds"]) < 5 for row in others):
        notes.append(
            "Fewer than five seeds: on thousands of images the bootstrap is then too bold; read a p just below the level as a "
            "hint."
        )
    return notes


def caveats(methods: dict[str, Row]) -> list[str]:
    """Sentences on other differences between the methods."""
    compared = ("suite", "method", "seed", "settings")
    flats = {
        label: _flat({key: value for key, value in next(iter(runs.values())).config.items() if key not in compared})
        for label, runs in methods.items()
    }
    settings = []
    for key in dict.fromkeys(key for flat in flats.values() for key in flat):
        labels: dict[str, list[str]] = {}
        for label, flat in flats.items():
            if key in flat or not key.startswith("localise."):  # only methods that mix by maps have those settings
                labels.setdefault(flat.get(key, "missing"), []).append(label)
        if len(labels) > 1:
            settings.append(f"{key} ({'; '.join(f'{value}: {listed(names)}' for value, names in labels.items())})")
    notes = [f"The runs differ in more than their method: {listed(settings)}."] if settings else []
    origins = [run.origin for runs in methods.values() for run in runs.values()]
    for key in ORIGIN:
        values = dict.fromkeys(str(origin.get(key) or "unknown") for origin in origins)
        if len(values) > 1:
            notes.append(f"The runs differ in {key}: {'; '.join(values)}.")
    if len({(origin.get("weights") or {}).get("sha256") for origin in origins}) > 1:
        notes.append("The runs start from different pretrained weights.")
    of_same_settings = not any(each.startswith("localise.") for each in settings)
    if of_same_settings and len({origin.get("localised_sha256") for origin in origins} - {None}) > 1:
        notes.append(MAPS)
    if any(origin.get("dirty") for origin in origins):
        notes.append("Some runs come from uncommitted code: their commit does not show all the code that ran.")
    return notes


def listed(things: Any) -> str:
    """Things in one line, with commas."""
    return ", ".join(map(str, things))


def _labels(rows: list[dict[str, str]]) -> list[str]:
    """A label for each method: its name, and where others have the same name, the suite if that differs, else the setting
    of the shortest name that differs, else all settings that differ. ``rows``: settings as of :func:`_flat`."""
    labels = []
    for row in rows:
        alike = [other for other in rows if other["method"] == row["method"]]
        values = {key: len({other.get(key) for other in alike}) for key in dict.fromkeys(k for o in alike for k in o)}
        differing = sorted((key for key, n in values.items() if n > 1), key=lambda key: (key != "suite", len(key), key))
        telling = [key for key in differing if values[key] == len(alike)][:1] or differing
        settings = listed(f"{key}={row.get(key, 'missing')}" for key in telling)
        labels.append(f"{row['method']} ({settings})" if settings else row["method"])
    return labels


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{dotted key: value as text} of nested settings."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
