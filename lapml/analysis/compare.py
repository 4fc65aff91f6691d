"""Compare the methods of any runs, of one suite or several, published or not, with the statistics of a report's tables.

Accuracies and differences are in percent (points).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapml.analysis import gather, stats
from lapml.analysis.tables import chance, interval, points
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table


def compare(
    folders: Sequence[Path],
    baseline: str | None = None,
    top: int = 1,
    confidence: float = 0.95,
    replicates: int = 10_000,
    without: str = "",
) -> dict[str, Any]:
    """Compare every method with one of them.

    A method is the runs with the same settings except the seed. If several have the same name, they are told apart by
    the setting that differs, as ``cutmix (train.lr=0.02)``. Differences are between runs of the same seed; two methods of
    one run each are compared whatever their seeds, since only images are resampled; two runs in all are two methods.

    Args:
        folders: run folders, and folders that hold some at any depth.
        baseline: the method to compare with; default: ``baseline`` if the first folder has several methods, one of that
            name included, else the first.
        top: K of top-K accuracy, 1 to 5.
        confidence, replicates: see :mod:`lapml.analysis.stats`.
        without: classes whose images are left out, as numbers of the set; "": none.

    Returns:
        dataset, split, without, images, top, confidence, replicates, reference; ``rows``, one dict per method, the reference
        first: method, seeds, accuracy, half, and over the reference paired_seeds, difference, low, high, p, p_holm, significant,
        seeds_needed, seeds_needed_low, seeds_needed_high (see :class:`lapml.analysis.stats.Seeds`); ``mcnemar`` of two single
        runs: only_row, only_reference, p, else None; ``notes``, sentences. Missing numbers are NaN.

    Raises:
        LapmlError: no run, a damaged one, a seed of a method twice, other data or images than the first run's, fewer
            than two methods, no such baseline, no seed in common with it, or a setting out of range.
    """
    methods = gather.rows(folders, baseline, top, without)
    reference, base = next(iter(methods.items()))
    pairs = {
        label: gather.paired(label, runs, reference, base) for label, runs in methods.items() if label != reference
    }
    answers = [(_answers(runs), _answers(other)) for runs, other in pairs.values()]
    compared = stats.compare_rows([None, *answers], replicates, confidence)
    table = []
    for (label, runs), found in zip(methods.items(), compared, strict=True):
        accuracy, half = stats.t_interval([100 * float(run.right.mean()) for run in runs.values()], confidence)
        common = [run.config["seed"] for run in pairs[label][0]] if label in pairs else []
        row = {"method": label, "seeds": list(runs), "accuracy": accuracy, "half": half, "paired_seeds": common}
        ends = {"seeds_needed_low": found.seeds.low, "seeds_needed_high": found.seeds.high}
        table.append(row | found.in_points() | ends)
    mcnemar = None
    if len(methods) == 2 and all(len(runs) == 1 for runs in methods.values()):
        [(ours, theirs)] = answers
        mcnemar = dict(zip(("only_row", "only_reference", "p"), stats.mcnemar(ours[0], theirs[0]), strict=True))
    run = next(iter(base.values()))
    return {
        "dataset": run.config["dataset"], "split": run.config["evaluate"], "without": without, "images": len(run.right), "top": top,
        "confidence": confidence, "replicates": replicates, "reference": reference, "rows": table, "mcnemar": mcnemar,
        "notes": gather.seed_notes(table) + gather.caveats(methods),
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """A result of :func:`compare` as a Markdown table, with a note on its numbers."""
    reference, others = escaped(result["reference"]), result["rows"][1:]
    level, split = f"{100 * result['confidence']:g} %", {"val": "validation"}.get(result["split"], result["split"])
    heads = ["method", "seeds", f"top-{result['top']} (± {level})", f"points over {reference} [{level}]", "p", "p, Holm",
             "seeds needed"]  # fmt: skip
    lines = []
    for row in result["rows"]:
        cells = ["–"] * 4
        if row in others:
            difference = points(row["difference"], row["low"], row["high"])
            difference = f"**{difference}**" if row["significant"] else difference
            cells = [difference, chance(row["p"]), chance(row["p_holm"]), _needed(row)]
        lines.append([escaped(row["method"]), str(len(row["seeds"])), interval(row["accuracy"], row["half"]), *cells])
    without = f" without classes {result['without']}" if result["without"] else ""
    text = (
        f"{result['dataset']}{without}, {result['images']:,} {split} images; accuracies in percent. ±: Student-t interval over "
        f"seeds. Points, [interval] and p: hierarchical paired bootstrap over seeds and {split} images, "
        f"{result['replicates']:,} replicates; Holm: p corrected over the table’s differences ({len(others)}); bold where "
        f"that is below {1 - result['confidence']:.2g}."
    )
    if not all(math.isnan(row["seeds_needed"]) for row in others):
        text += (
            f" Seeds needed: the number with which a paired t-test would find such a difference on these images with probability "
            f"{stats.POWER}; in brackets, if its spread over seeds were at either end of its {level} interval."
        )
    notes = [escaped(note) for note in result["notes"]]
    if found := result["mcnemar"]:
        p = chance(found["p"])
        notes = [
            f"McNemar’s exact test: images that only {escaped(others[0]['method'])} gets right: {found['only_row']}; that only "
            f"{reference} does: {found['only_reference']}; p {p if p.startswith('<') else f'= {p}'}.",
            *notes,
        ]
    return "\n".join([*markdown_table(heads, lines), "", text, "", *(f"- {note}" for note in notes)])


def as_json(result: dict[str, Any]) -> str:
    """A result of :func:`compare` as JSON, with null for NaN and "> 1000" for infinity."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else f"> {stats.MOST_SEEDS}"
        return value

    return json.dumps(plain(result), indent=2, allow_nan=False, ensure_ascii=False)


def _answers(runs: list[gather.Run]) -> np.ndarray:
    """(S, N) 1 where a run has an image right, else 0."""
    return np.stack([run.right for run in runs])


def _needed(row: dict[str, Any]) -> str:
    needed, low, high = (
        "–" if math.isnan(number) else f"> {stats.MOST_SEEDS}" if math.isinf(number) else f"{number}"
        for number in (row["seeds_needed"], row["seeds_needed_low"], row["seeds_needed_high"])
    )
    return needed if low == "–" else f"{needed} ({low} to {high})"
