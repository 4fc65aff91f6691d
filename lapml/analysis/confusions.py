"""Which mistakes a method makes less: those between sister species, and the others.

Classes are sisters that end (or begin) in the same word, as 113.Baird_Sparrow and 121.Grasshopper_Sparrow do, or those to
which a file gives one group; a mistake is an image whose first answer is another class. Shares and differences are in
percent (points) of all images, and those of a group in percent of its images.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from lapml.analysis import gather, stats
from lapml.analysis.gather import listed
from lapml.analysis.tables import comparison, interval
from lapml.common.text import class_name, markdown_table
from lapml.common.text import markdown as escaped
from lapml.errors import LapmlError
from lapml.runs.folder import class_names

SHOWN = 4  # groups, where none are asked for


def confusions(
    folders: Sequence[Path],
    baseline: str | None = None,
    groups: Sequence[str] = (),
    word: str = "last",
    confidence: float = 0.95,
    replicates: int = 10_000,
    file: Path | None = None,
) -> dict[str, Any]:
    """Compare the mistakes of methods, by finished runs.

    Args:
        folders, baseline, confidence, replicates: as of :func:`lapml.analysis.compare.compare`.
        groups: those that get a column each; without, the four with the most images.
        word: of a class name that sisters share: ``last``, as of birds, or ``first``, as the make of a car.
        file: a CSV file with the group of each class, in place of ``word``, see :func:`groups_of`.

    Returns:
        dataset, split, images, sisters (classes that have one), sharing (what they share), groups {name: classes}, confidence,
        replicates, reference; ``rows``, a dict each, the reference first: method, seeds; within and elsewhere (mistakes
        between sisters and others) with within_half; over the reference, and over the method above (``step_``): difference,
        low, high, p_holm, significant of mistakes between sisters; paired_seeds (with the reference); groups {name: share};
        ``notes``, sentences. A number that does not exist is NaN, as over a method above that shares no seed.

    Raises:
        LapmlError: as of :func:`~lapml.analysis.gather.rows` and :func:`groups_of`; a class that names are not recorded of;
            no sisters; an unknown group.
    """
    rows = gather.rows(folders, baseline)
    reference, base = next(iter(rows.items()))
    example = next(iter(base.values()))
    names, labels = class_names(example.folder, example.origin), np.array(example.truth[1])
    shared = groups_of(file, names) if file else [_group(name, word) for name in names]
    sharing = f"their group in {file}" if file else f"their {word} word"
    sizes = Counter(shared)
    sisters = {group for group, count in sizes.items() if count > 1}
    if not sisters:
        raise LapmlError(
            f"no two of the {len(names)} classes share {sharing}; "
            + ("give sisters one group" if file else f"try --word {'first' if word == 'last' else 'last'}, or --groups")
        )
    if unknown := [group for group in groups if group not in sisters]:
        raise LapmlError(f"--group: found {unknown[0]!r}, expected one of {listed(sorted(sisters))}")
    of_image = np.array([shared[label] for label in labels])
    common = [group for group, _ in Counter(of_image.tolist()).most_common() if group in sisters]
    groups = list(groups) or common[:SHOWN]

    def within(run: gather.Run) -> np.ndarray:
        answered = np.array(shared)[run.first]
        return ((run.first != labels) & (answered == of_image)).astype(np.uint8)

    def share(label: str, images: np.ndarray) -> float:
        """Percent of some images that are such mistakes, the mean over seeds."""
        return float(np.mean([100 * each[images].mean() for each in mistakes[label]]))

    mistakes = {label: [within(run) for run in row.values()] for label, row in rows.items()}
    others = list(rows)[1:]
    pairs = {label: gather.paired(label, rows[label], reference, base) for label in others}
    steps = {
        label: gather.paired(label, rows[label], above, rows[above])
        for above, label in zip(rows, others, strict=False)
        if above == reference or set(rows[label]) & set(rows[above])
    }
    over, step = (
        stats.compare_rows([_mistakes(found.get(label), within) for label in rows], replicates, confidence)
        for found in (pairs, steps)
    )
    table = [
        _line(label, rows[label], mistakes[label], labels, confidence, *compared)
        | {"paired_seeds": [run.config["seed"] for run in pairs[label][0]] if label in pairs else []}
        | {"groups": {group: share(label, of_image == group) for group in groups}}
        for label, *compared in zip(rows, over, step, strict=True)
    ]
    return {
        "dataset": example.config["dataset"], "split": example.config["evaluate"], "images": len(labels),
        "sisters": sum(sizes[group] for group in sisters), "classes": len(names), "sharing": sharing,
        "groups": {group: sizes[group] for group in groups}, "confidence": confidence, "replicates": replicates,
        "reference": reference, "rows": table, "notes": gather.seed_notes(table),
    }  # fmt: skip


def _line(
    label: str,
    runs: dict[int, gather.Run],
    mistakes: list[np.ndarray],
    labels: np.ndarray,
    confidence: float,
    over: stats.Comparison,
    step: stats.Comparison,
) -> dict[str, Any]:
    """A method's row of the table, but for the groups; ``over`` the reference, ``step`` over the method above."""
    mean, half = stats.t_interval([100 * float(each.mean()) for each in mistakes], confidence)
    wrong = np.mean([100 * float((run.first != labels).mean()) for run in runs.values()])
    of_mistakes = {"within": mean, "within_half": half, "elsewhere": float(wrong) - mean}
    of_step = {f"step_{name}": value for name, value in step.in_points().items()}
    return {"method": label, "seeds": list(runs), **of_mistakes, **over.in_points(), **of_step}


def markdown(result: dict[str, Any]) -> str:
    """A result of :func:`confusions` as a table to paste, and below it what its numbers are."""
    reference, level = result["reference"], f"{100 * result['confidence']:g} %"
    split = {"val": "validation"}.get(result["split"], result["split"])
    heads = ["method", "seeds", f"between sisters % (± {level})", f"over {escaped(reference)} [{level}], p",
             f"over the method above [{level}], p", "other mistakes %",
             *(f"{escaped(group)} ({count})" for group, count in result["groups"].items())]  # fmt: skip
    lines = []
    for row in result["rows"]:
        cells = []
        for prefix in ("", "step_"):
            text = comparison(*(row[f"{prefix}{name}"] for name in ("difference", "low", "high", "p_holm")))
            cells.append(f"**{text}**" if row[f"{prefix}significant"] else text)
        shares = [f"{share:.1f}" for share in row["groups"].values()]
        within = interval(row["within"], row["within_half"])
        lines.append(
            [escaped(row["method"]), str(len(row["seeds"])), within, *cells, f"{row['elsewhere']:.1f}", *shares]
        )
    text = (
        f"{result['dataset']}, {result['images']:,} {split} images. Sisters: classes that share {escaped(result['sharing'])}, "
        f"{result['sisters']} of {result['classes']}. Mistakes in percent of all images, means over seeds; ±: Student-t interval "
        f"over seeds; differences in points, negative where mistakes were removed: hierarchical paired bootstrap over seeds "
        f"and images, {result['replicates']:,} replicates, p corrected by Holm over each column. Last columns: mistakes within "
        "a group, in percent of its images (its classes)."
    )
    return "\n".join([*markdown_table(heads, lines), "", text, "", *(f"- {escaped(note)}" for note in result["notes"])])


def _mistakes(
    pair: tuple[list[gather.Run], list[gather.Run]] | None, within: Callable[[gather.Run], np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Those of two methods, by the runs that are compared with each other; None where there are none."""
    return pair and (np.stack([within(run) for run in pair[0]]), np.stack([within(run) for run in pair[1]]))


def groups_of(file: Path, names: Sequence[str]) -> list[str]:
    """The group of each class by a CSV file with the columns class and group, and a line for each class.

    Args:
        file: names classes as the data set does.
        names: of the classes.

    Raises:
        LapmlError: the file is missing or no such table, a class is unknown, repeated or missing, or a group is empty.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            table = csv.DictReader(text)
            if not {"class", "group"} <= set(table.fieldnames or ()):
                raise LapmlError(
                    f"{file}: found the columns {listed(table.fieldnames or ['none'])}, expected class,group"
                )
            lines = [(table.line_num, row["class"], (row["group"] or "").strip()) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LapmlError(f"{file}: cannot be read as a CSV file ({error}); expected the columns class,group") from None
    groups: dict[str, str] = {}
    for number, name, group in lines:
        if name not in names:
            close = get_close_matches(name or "", names, 1, cutoff=0) or names
            raise LapmlError(
                f"{file}:{number}: found {name!r}, expected one of the {len(names)} classes of these runs, such as {close[0]!r}"
            )
        if name in groups:
            raise LapmlError(f"{file}:{number}: found the class {name!r} again, expected each once; remove a line")
        if not group:
            raise LapmlError(
                f"{file}:{number}: found no group for the class {name!r}; a class without sisters takes its own"
            )
        groups[name] = group
    if missing := [name for name in names if name not in groups]:
        some = listed(map(repr, missing[:SHOWN])) + (", …" if len(missing) > SHOWN else "")
        raise LapmlError(f"{file}: found no line for {len(missing)} of {len(names)} classes ({some}); add one for each")
    return [groups[name] for name in names]


def _group(name: str, word: str) -> str:
    """The word by which a class has sisters: Sparrow of 113.Baird_Sparrow."""
    words = class_name(name).split()
    return words[-1 if word == "last" else 0] if words else name
