"""The mistakes of a suite's finished runs: which classes are taken for which, and which images hardly any run gets right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lapml.analysis.tables import BASELINE
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs.records import Answers, parquet

MOST_CLASSES = 12  # of a confusion matrix: as many as stay readable
EXTREMES = 5  # classes at either end of a list by accuracy


def ranked(answers: dict[str, Answers], params: Params) -> list[str]:
    """Methods by falling accuracy, without those that are given the truth of what they mix."""
    mixers = {method: params.methods[method].mixer for method in answers}
    fair = [method for method, mixer in mixers.items() if mixer is None or "truth" not in mixer.needs()] or [*answers]
    return sorted(fair, key=lambda method: float(1 - answers[method].right.mean()))


def confused(answers: dict[str, Answers], params: Params) -> dict[str, Any] | None:
    """The confusion matrices of the baseline and of the best other method, over the classes with most mistakes in both.

    Returns:
        ``classes`` (their names, in the order of the labels), ``images`` (of each), ``all`` (the number of classes) and
        ``shares`` {method: (K, K + 1)}: percent of the images of a class (row) that are taken for each class (column), the
        last column for any other class; means over seeds. None if no image is answered wrongly.
    """
    best = [method for method in ranked(answers, params) if method != BASELINE][:1]
    shown = {method: answers[method] for method in ([BASELINE] if BASELINE in answers else []) + best}
    first = next(iter(shown.values()))
    labels, names = first.labels, first.names
    count = 1 + max(int(labels.max()), *(int(each.first.max()) for each in shown.values()))
    wrong = np.concatenate([np.tile(labels, len(each.first))[~each.right.ravel()] for each in shown.values()])
    mistakes = np.bincount(wrong, minlength=count)
    worst = np.argsort(-mistakes, kind="stable")[:MOST_CLASSES]
    worst = np.sort(worst[mistakes[worst] > 0])
    if not len(worst):
        return None
    return {
        "classes": _named(worst, names),
        "images": [int((labels == label).sum()) for label in worst],
        "all": len(names) if names else count,
        "shares": {method: _shares(each, worst) for method, each in shown.items()},
    }


def by_class(answers: dict[str, Answers]) -> pd.DataFrame:
    """Top-1 of every class in percent, one column per method, means over seeds; before them ``class`` and ``images`` (of it)."""
    first = next(iter(answers.values()))
    labels = first.labels
    found, counts = np.unique(labels, return_counts=True)
    table: dict[str, Any] = {"class": _named(found, first.names), "images": counts}
    for method, each in answers.items():
        table[method] = [100 * float((each.first[:, labels == label] == label).mean()) for label in found]
    return pd.DataFrame(table)


def extremes(table: pd.DataFrame, answers: dict[str, Answers], params: Params) -> pd.DataFrame:
    """The rows of :func:`by_class` where the best method is worst, and those where it is best, beside the baseline."""
    best = ranked(answers, params)[0]
    shown = ["class", "images", *([BASELINE] if BASELINE in answers and best != BASELINE else []), best]
    ordered = table[shown].sort_values(best, kind="stable")
    return ordered if len(ordered) <= 2 * EXTREMES else pd.concat([ordered[:EXTREMES], ordered[-EXTREMES:]])


def _named(labels: np.ndarray, names: list[str] | None) -> list[str]:
    return [names[label] if names else f"class {label}" for label in labels]


def _shares(answers: Answers, classes: np.ndarray) -> np.ndarray:
    """(K, K + 1) percent, see :func:`confused`."""
    rows = []
    for label in classes:
        given = answers.first[:, answers.labels == label]
        row = [100 * float((given == other).mean()) for other in classes]
        rows.append([*row, 100 - sum(row)])
    return np.array(rows)


@dataclass(frozen=True)
class Mistake:
    """An image that runs of a method get wrong."""

    image: str  # path, as in the index
    label: int
    answer: int  # what most of the runs that are wrong take it for
    wrong: int  # runs that are wrong
    runs: int
    truly: float  # 0..1, the mean probability of the true class


def probabilities(params: Params, paths: Paths, dataset: str, method: str) -> np.ndarray:
    """(N,) the probability of the true class that the runs of a method give each image, the mean over seeds; LapmlError where a run
    did not record it, or its record is damaged."""
    found = []
    for seed in params.seeds:
        path = paths.run(dataset, method, seed) / "predictions.parquet"
        try:
            found.append(parquet(path, shares=("probability",))["probability"].to_numpy())
        except LapmlError as error:
            raise LapmlError(
                f"{path.parent}: {error}; train the run again, or give `lapml report --no-images`"
            ) from None
    return np.mean(found, axis=0)


def hardest(answers: Answers, truly: np.ndarray, count: int) -> list[Mistake]:
    """The images that the most seeds get wrong; among equals, those whose true class is given the least of
    :func:`probabilities`."""
    wrong = (~answers.right).sum(0)
    order = np.lexsort((truly, -wrong))[:count]
    found = []
    for row in order[wrong[order] > 0]:
        given = answers.first[~answers.right[:, row], row]
        label, answer = int(answers.labels[row]), int(np.bincount(given).argmax())
        found.append(
            Mistake(answers.images[row], label, answer, int(wrong[row]), len(answers.first), float(truly[row]))
        )
    return found
