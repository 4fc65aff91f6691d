"""Which mistakes a method makes less: those between sister species, and the others.

Classes are sisters that end (or begin) in the same word, as 113.Baird_Sparrow and 121.Grasshopper_Sparrow do; a mistake is
an image whose first answer is another class. Shares and differences are in percent (points) of all images, and those of a
group in percent of its images.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapml.analysis import gather, stats
from lapml.analysis.gather import listed
from lapml.analysis.tables import BOOTSTRAP_SEED, chance, interval, points
from lapml.common.text import class_name
from lapml.common.text import markdown as escaped
from lapml.errors import LapmlError

SHOWN = 4  # groups, where none are asked for


def confusions(
    folders: Sequence[Path],
    baseline: str | None = None,
    groups: Sequence[str] = (),
    word: str = "last",
    confidence: float = 0.95,
    replicates: int = 10_000,
) -> dict[str, Any]:
    """Compare the mistakes of methods, by finished runs.

    Args:
        folders, baseline, confidence, replicates: as of :func:`lapml.analysis.compare.compare`.
        groups: those that get a column each; without, the four with the most images.
        word: of a class name that sisters share: ``last``, as of birds, or ``first``, as the make of a car.

    Returns:
        dataset, split, images, sisters (classes that have one), word, groups {name: classes}, confidence, replicates,
        reference; ``rows``, a dict each, the reference first: method, seeds; within and elsewhere (mistakes between sisters
        and others) with within_half; over the reference, and over the method above (``step_``): difference, low, high,
        p_holm, significant of mistakes between sisters; groups {name: share}. A number that does not exist is NaN.

    Raises:
        LapmlError: as of :func:`~lapml.analysis.gather.rows`; a class that names are not recorded of; no sisters; an unknown
            group.
    """
    rows = gather.rows(folders, baseline)
    reference, base = next(iter(rows.items()))
    example = next(iter(base.values()))
    names, labels = _class_names(example), np.array(example.truth[1])
    shared = [_group(name, word) for name in names]
    sizes = Counter(shared)
    sisters = {group for group, count in sizes.items() if count > 1}
    if not sisters:
        raise LapmlError(
            f"no two of the {len(names)} classes share their {word} word; try --word {'first' if word == 'last' else 'last'}"
        )
    if unknown := [group for group in groups if group not in sisters]:
        raise LapmlError(f"--group: found {unknown[0]!r}, expected one of {listed(sorted(sisters))}")
    of_image = np.array([shared[label] for label in labels])
    common = [group for group, _ in Counter(of_image.tolist()).most_common() if group in sisters]
    groups = list(groups) or common[:SHOWN]

    def within(run: gather.Run) -> np.ndarray:
        answered = np.array(shared)[run.first]
        return ((run.first != labels) & (answered == of_image)).astype(np.uint8)

    mistakes = {label: {seed: within(run) for seed, run in row.items()} for label, row in rows.items()}
    others = list(rows)[1:]
    compared = [
        stats.compare_rows(
            [None, *(_pair(rows, mistakes, label, other) for label, other in zip(others, against, strict=True))],
            replicates,
            confidence,
            BOOTSTRAP_SEED,
        )
        for against in ([reference] * len(others), list(rows)[:-1])
    ]
    table = [
        _line(label, rows[label], mistakes[label], labels, confidence, over, step)
        | {"groups": {group: _share(mistakes[label], of_image == group) for group in groups}}
        for label, over, step in zip(rows, *compared, strict=True)
    ]
    return {
        "dataset": example.config["dataset"], "split": example.config["evaluate"], "images": len(labels),
        "sisters": sum(sizes[group] for group in sisters), "classes": len(names), "word": word,
        "groups": {group: sizes[group] for group in groups}, "confidence": confidence, "replicates": replicates,
        "reference": reference, "rows": table,
    }  # fmt: skip


def _line(
    label: str,
    runs: dict[int, gather.Run],
    mistakes: dict[int, np.ndarray],
    labels: np.ndarray,
    confidence: float,
    over: stats.Comparison,
    step: stats.Comparison,
) -> dict[str, Any]:
    """A method's row of the table, but for the groups; ``over`` the reference, ``step`` over the method above."""
    mean, half = stats.t_interval([100 * float(each.mean()) for each in mistakes.values()], confidence)
    wrong = np.mean([100 * float((run.first != labels).mean()) for run in runs.values()])
    record = {
        "method": label,
        "seeds": list(runs),
        "within": mean,
        "within_half": half,
        "elsewhere": float(wrong) - mean,
    }
    for prefix, found in (("", over), ("step_", step)):
        difference = found.difference
        record |= {
            f"{prefix}difference": 100 * difference.mean,
            f"{prefix}low": 100 * difference.low,
            f"{prefix}high": 100 * difference.high,
            f"{prefix}p_holm": found.p_holm,
            f"{prefix}significant": bool(found.significant),
        }
    return record


def _share(mistakes: dict[int, np.ndarray], images: np.ndarray) -> float:
    """Percent of some images that are such mistakes, the mean over seeds."""
    return float(np.mean([100 * each[images].mean() for each in mistakes.values()]))


def markdown(result: dict[str, Any]) -> str:
    """A result of :func:`confusions` as a table to paste, and below it what its numbers are."""
    reference, level = result["reference"], f"{100 * result['confidence']:g} %"
    split = {"val": "validation"}.get(result["split"], result["split"])
    heads = ["method", "seeds", f"between sisters % (± {level})", f"over {escaped(reference)} [{level}], p",
             f"over the method above [{level}], p", "other mistakes %",
             *(f"{escaped(group)} ({count})" for group, count in result["groups"].items())]  # fmt: skip
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for place, row in enumerate(result["rows"]):
        cells = []
        for prefix in ("", "step_"):
            if not place:
                cells.append("–")
                continue
            p = chance(row[f"{prefix}p_holm"])
            text = points(*(row[f"{prefix}{name}"] for name in ("difference", "low", "high")))
            text += f", p {p if p.startswith('<') else f'= {p}'}"
            cells.append(f"**{text}**" if row[f"{prefix}significant"] else text)
        shares = [f"{share:.1f}" for share in row["groups"].values()]
        within = interval(row["within"], row["within_half"])
        lines.append(
            [escaped(row["method"]), str(len(row["seeds"])), within, *cells, f"{row['elsewhere']:.1f}", *shares]
        )
    text = (
        f"{result['dataset']}, {result['images']:,} {split} images. Sisters: classes that share their {result['word']} word, "
        f"{result['sisters']} of {result['classes']}. Mistakes in percent of all images, means over seeds; ±: Student-t interval "
        f"over seeds; differences in points, negative where mistakes were removed: hierarchical paired bootstrap over seeds "
        f"and images, {result['replicates']:,} replicates, p corrected by Holm over each column. Last columns: mistakes within "
        "a group, in percent of its images (its classes)."
    )
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", text])


def _pair(
    rows: dict[str, gather.Row], mistakes: dict[str, dict[int, np.ndarray]], label: str, other: str
) -> tuple[np.ndarray, np.ndarray]:
    """The mistakes of two methods, by the seeds that are compared with each other."""
    sides = gather.paired(label, rows[label], other, rows[other])
    ours, theirs = (
        np.stack([mistakes[name][run.config["seed"]] for run in side])
        for name, side in zip((label, other), sides, strict=True)
    )
    return ours, theirs


def _class_names(run: gather.Run) -> list[str]:
    names = run.origin.get("class_names")
    if not names:
        raise LapmlError(f"{run.folder / 'provenance.json'}: class_names: missing, as in old runs; train it again")
    return names


def _group(name: str, word: str) -> str:
    """The word by which a class has sisters: Sparrow of 113.Baird_Sparrow."""
    words = class_name(name).split()
    return words[-1 if word == "last" else 0] if words else name
