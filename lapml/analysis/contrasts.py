"""Primary contrasts: the comparisons that a suite names before its test images are read, corrected among themselves alone.

Every other difference of a table is an estimate with its interval. Differences are in percent (points).
"""

import numpy as np
import pandas as pd

from lapml.analysis import stats
from lapml.analysis.tables import BOOTSTRAP_SEED, chance, points
from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table
from lapml.config import Params


def contrasts(predictions: dict[tuple[str, str], np.ndarray], params: Params) -> pd.DataFrame:
    """``report.primary`` on each data set, by the hierarchical paired bootstrap: one row per contrast.

    Args:
        predictions: {(dataset, method): (S, N) 1 where a run has an image right}.

    Columns: dataset, method, against; difference, low, high; p, p_holm (corrected over the data set's contrasts), significant,
    seeds (the number needed to show it, NaN for one seed).
    """
    rows = []
    for dataset in params.datasets:
        pairs = [(predictions[dataset, first], predictions[dataset, second]) for first, second in params.report.primary]
        compared = stats.compare_rows(pairs, params.report.bootstrap, params.report.confidence, BOOTSTRAP_SEED)
        for (method, against), ((mean, low, high, p), p_holm, significant, seeds) in zip(
            params.report.primary, compared, strict=True
        ):
            row = {"dataset": dataset, "method": method, "against": against, "difference": 100 * mean}
            row |= {"low": 100 * low, "high": 100 * high, "p": p, "p_holm": p_holm}
            rows.append(row | {"significant": significant, "seeds": seeds.needed})
    return pd.DataFrame(rows)


def headings(params: Params) -> list[str]:
    """Of the columns of :func:`cells`."""
    return ["primary contrast", f"points [{100 * params.report.confidence:g} %]", "p", "p, Holm"]


def cells(row: dict) -> list[str]:
    """A row of :func:`contrasts` as text."""
    difference = points(row["difference"], row["low"], row["high"])
    return [f"{row['method']} − {row['against']}", difference, chance(row["p"]), chance(row["p_holm"])]


def note(params: Params) -> str:
    """What the table holds."""
    return (
        f"The comparisons that the suite named before a {params.split_name()} image was read (`report.primary`); p corrected "
        f"by Holm’s method over these {len(params.report.primary)} alone."
    )


def markdown(table: pd.DataFrame, params: Params) -> str:
    """The tables of all data sets, with their note; nothing where no contrast was named."""
    lines = []
    for dataset, rows in table.groupby("dataset", sort=False) if len(table) else ():
        lines += [f"### {escaped(str(dataset))}: primary contrasts", ""]
        found = [[escaped(name), *numbers] for name, *numbers in map(cells, rows.to_dict("records"))]
        lines += [*markdown_table(headings(params), found), ""]
    return "\n".join([*lines, note(params), ""]) if lines else ""
