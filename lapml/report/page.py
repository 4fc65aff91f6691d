"""One self-contained page out of the tables and figures: no script, no request to anywhere, every image inlined."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lapml.analysis import tables
from lapml.config import Params
from lapml.report import figures, grids, studies
from lapml.report.html import data_uri, render

STAGES = ("cutmix", "loc_cutmix", "margin", "adaptive_margin")  # of the ablation; the others are comparators
Galleries = dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], bytes | None]]


def build(
    params: Params,
    params_text: str,
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    table: pd.DataFrame,
    tuned: dict[tuple[str, str], dict[str, Any]],
    galleries: Galleries | None = None,
    overridden: list[str] | None = None,
    diagnoses: dict[str, dict[str, Any] | None] | None = None,
) -> str:
    """The report as HTML.

    Args:
        params, params_text: the settings, and the text of their file.
        runs, epochs, table: of ``tables.collect``, ``tables.histories`` and ``tables.accuracy``.
        tuned: {(dataset, method): record of the tuned file}.
        galleries: {dataset: (gallery items, CAM items, contact sheet of objects or None)}, see :mod:`lapml.report.pictures`;
            None for a page without any picture of the data, which its ``lapml-images`` meta element then says.
        overridden: one line per setting in which ``params`` differs from ``params_text``.
        diagnoses: {dataset: heads, rows, maps, verdicts, note, figures (data URIs), gallery (path or None)},
            or None if it was not diagnosed.
    """
    names = tables.headings(params)
    return render(
        "page.html.j2",
        suite=params.suite,
        heading=_heading(params, runs),
        split=params.split_name().capitalize(),
        images=galleries is not None,
        headings=list(names.values()),
        datasets=[
            _dataset(name, params, runs, epochs, table, tuned, galleries) | {"diagnosis": (diagnoses or {}).get(name)}
            for name in params.datasets
        ],
        note=tables.note(table, params),
        ran=_provenance(runs),
        runs=_runs(runs),
        commands=runs["command"].astype(str).to_list(),
        params_text=params_text,
        overridden=overridden or [],
        caveats=_caveats(params, runs),
    )


def verdict(table: pd.DataFrame) -> dict[str, Any]:
    """Whether each stage improved, in sentences from the numbers of one data set.

    Stages are the methods :data:`STAGES`; in a table without them, all methods.

    Returns:
        ``summary`` (one or two sentences) and ``steps`` (one line per method and the one it is compared with).
    """
    rows = [row for row in table.to_dict("records") if row["previous"] is not None and not pd.isna(row["previous"])]
    if not rows:
        return {"summary": "There is only one method, so there is nothing to compare.", "steps": ["No method above."]}
    judged = [row["method"] for row in rows if row["method"] in STAGES] or [row["method"] for row in rows]
    steps, ups, downs = [], [], []
    for row in rows:
        outcome = "no significant change"
        if row["step_significant"]:
            if row["method"] in judged:
                (ups if row["step"] > 0 else downs).append(row["method"])
            outcome = "a significant gain" if row["step"] > 0 else "a significant loss"
        if row["n_seeds"] == 1:
            outcome = "one seed, not judged"
        text = tables.cells({**row, "named": False})["step"]
        steps.append(f"{row['method']} over {row['previous']}: {text}: {outcome}.")
    if rows[0]["n_seeds"] == 1:
        summary = "There is one seed only: whether a stage improves cannot be judged from it."
    elif len(ups) == len(judged):
        summary = f"Each of the {len(judged)} stages improved significantly on the one before it."
    else:
        silent = [name for name in judged if name not in ups + downs]
        parts = [
            f"{_list(names)} {text}"
            for names, text in (
                (ups, "improved significantly"),
                (silent, "did not change significantly"),
                (downs, "was significantly worse" if len(downs) == 1 else "were significantly worse"),
            )
            if names
        ]
        summary = f"Not every stage improved: {'; '.join(parts)}."
    return {"summary": f"{summary} {_against_baseline(table)}".strip(), "steps": steps}


def _against_baseline(table: pd.DataFrame) -> str:
    rows = table[table["gain"].notna()]
    if rows.empty or (table["n_seeds"] == 1).any():
        return ""
    better = rows.loc[rows["significant"] & (rows["gain"] > 0), "method"].to_list()
    worse = rows.loc[rows["significant"] & (rows["gain"] < 0), "method"].to_list()
    text = f"Significantly above {tables.BASELINE}: {_list(better) if better else 'no method'}."
    return text + (f" Significantly below it: {_list(worse)}." if worse else "")


def charts(runs: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame) -> dict[str, bytes]:
    """The charts of one data set as SVG, by name; charts without data are missing or empty."""
    return {
        "accuracy": figures.accuracy(table, runs),
        "cost": figures.cost_against_accuracy(table, runs),
        "loss": figures.loss_curves(epochs),
        "train": figures.accuracy_curves(epochs),
        "distances": figures.distances(epochs, runs),
        "beyond": figures.beyond(epochs, runs),
    }


def _dataset(
    name: str,
    params: Params,
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    table: pd.DataFrame,
    tuned: dict[tuple[str, str], dict[str, Any]],
    galleries: Galleries | None,
) -> dict[str, Any]:
    runs, epochs, table = (frame[frame["dataset"] == name] for frame in (runs, epochs, table))
    mixes, cams, sheet = (galleries or {}).get(name, ([], [], None))
    rows = []
    for row in table.to_dict("records"):
        bold, text = tables.emphasised(row), tables.cells(row)
        cells = []
        for column in tables.headings(params):
            number, bracket, rest = text[column].partition(" [")  # the interval goes below its number
            cells.append({"text": number, "detail": (bracket + rest).strip(), "bold": column in bold})
        rows.append(cells)
    return {
        "name": name,
        "verdict": verdict(table),
        "rows": rows,
        "charts": {key: _inline(image, "svg+xml") for key, image in charts(runs, epochs, table).items()},
        "beside": {
            "heads": ["published method", "top-1 %", "source"],
            "rows": [
                [each.method, f"{each.top1:.2f}", each.source] for each in params.report.beside if each.dataset == name
            ],
        },
        "tuned": studies.shown({key[1]: record for key, record in tuned.items() if key[0] == name}, params.of(name)),
        "gallery": _inline(grids.gallery(mixes), "png") if mixes else None,
        "objects": _inline(sheet, "png") if sheet else None,
        "cams": _inline(grids.cams(cams), "png") if cams else None,
    }


def _provenance(runs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Name and distinct values of everything that made the runs."""
    dirty, unknown = int((runs["dirty"] == True).sum()), int(runs["dirty"].isna().sum())  # noqa: E712
    state = [f"{dirty} of {len(runs)} runs from a working tree with uncommitted changes"] if dirty else ["clean tree"]
    if unknown:
        state = [f"{unknown} of {len(runs)} runs from outside a git checkout: their code is not known"]
    versions: dict[str, list[str]] = {}
    for text in runs["versions"]:
        for package, version in json.loads(text).items():
            found = versions.setdefault(package, [])
            if (shown := "not installed" if version is None else str(version)) not in found:
                found.append(shown)
    data = [f"{name}: {', '.join(_values(rows['data_sha256']))}" for name, rows in runs.groupby("dataset", sort=False)]
    weights = [
        " ".join(pair) for pair in zip(_values(runs["weights_name"]), _values(runs["weights_sha256"]), strict=False)
    ]
    reads = ", ".join(
        f"read {_times(times)} by {count} of {len(runs)} runs"
        for times, count in runs["test_reads"].value_counts().items()
    )
    total = runs["run_seconds"].sum()
    return [
        ("device", _values(runs["device"])),
        (
            "precision, threads",
            [f"{', '.join(_values(runs['precision']))}; {', '.join(_values(runs['threads']))} thread(s)"],
        ),
        ("commit", [*_values(runs["commit"]), *state]),
        ("data, sha256", data),
        ("weights, sha256", weights),
        ("versions", [", ".join(f"{package} {' / '.join(found)}" for package, found in versions.items())]),
        ("seeds", [", ".join(_values(runs["seed"]))]),
        ("time", [f"{total:,.0f} s ({total / 3600:.2f} h) in {len(runs)} runs; tuning is not counted"]),
        ("started, finished", [f"{runs['started'].astype(str).min()} to {runs['finished'].astype(str).max()}"]),
        ("peak memory", [f"{runs['peak_memory_bytes'].max() / 2**20:,.0f} MiB"]),
        ("test split", [reads]),
    ]


def _runs(runs: pd.DataFrame) -> dict[str, list]:
    rows = [
        [
            f"{row['dataset']}/{row['method']}/{row['seed']}",
            *(tables.number(row[name], ".1f") for name in tables.ACCURACIES),
            f"{row['seconds']:.0f}",
            f"{row['images_forward']:,}",
            f"{row['images_backward']:,}",
            row["resumed"],
            row["test_reads"],
        ]
        for row in runs.to_dict("records")
    ]
    heads = ["run", "top-1 %", "top-5 %", "class mean %", "R@1 %", "R@5 %", "train s", "images forward",
             "images backward", "resumed", "test reads"]  # fmt: skip
    return {"heads": heads, "rows": rows}


def _heading(params: Params, runs: pd.DataFrame) -> str:
    images = [
        f"{n:,} {params.split_name()} images of {name}"
        for name, n in runs.groupby("dataset", sort=False)["n"].first().items()
    ]
    trained = dict.fromkeys(
        f"{_count(range(resolved.train.epochs), 'epoch')} of {resolved.model.name}"
        for resolved in (params.of(dataset, method) for dataset in params.datasets for method in params.all_methods())
    )
    plan = f"{_count(params.all_methods(), 'method')} × {_count(params.seeds, 'seed')}"
    return f"{plan}, {' or '.join(trained)}; {_list(images)}."


def _caveats(params: Params, runs: pd.DataFrame) -> list[str]:
    differing = [name for name in params.all_methods() if params.methods[name].overrides]
    lines = [
        "The method is our reading of an abstract. Where the abstract leaves a choice open, the choice is a setting, "
        "and another choice may do better or worse.",
        "An interval over few seeds is wide, and its width is uncertain. The bootstrap is cautious on a small test split; "
        "on thousands of test images with few seeds that differ by more than a point it is too bold (simulated: 15 % false "
        "alarms at 3 seeds where 5 % are meant). Read a p just below the level as a hint.",
        "Methods that mix see other images and labels than the baseline in the same number of epochs; their extra cost "
        "is in the cost column, and accuracy at equal cost is shown only if the suite has methods for it.",
        "The optimiser’s settings are the same for every method and were not tuned for each; only margins are tuned, on "
        "validation data."
        if not differing
        else f"Methods that also differ in their recipe (their overrides in the settings below): {_list(differing)}. The "
        "others share theirs.",
    ]
    if any(params.data[name].source == "synthetic" for name in params.datasets):
        lines.append("Synthetic birds show that the pipeline works; they say little about photographs.")
    if any(
        params.of(name, method).model.weights != "none" for name in params.datasets for method in params.all_methods()
    ):
        lines.append(
            "The weights were trained on ImageNet; its training set holds some test photographs of CUB-200-2011."
        )
    if params.eval_split == "val":
        lines.append(
            "Runs are read on the validation split, to choose settings by: they say nothing of the test split, and a "
            "choice among many looks better here than it is."
        )
    if len(params.seeds) < 5:
        lines.append(f"Only {_count(params.seeds, 'seed')}: too few for a claim about the method.")
    if runs["dirty"].astype(bool).any():
        lines.append("Some runs come from uncommitted code: their commit does not show all the code that ran.")
    if runs["commit"].nunique(dropna=False) > 1:
        lines.append("The runs come from more than one commit, see the list of runs; the code may differ "
                     "between them.")  # fmt: skip
    if (runs["test_reads"] > 1).any():
        lines.append("Some runs read the test split more than once, see the list of runs.")
    return lines


def _count(things: Sequence, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _values(column: pd.Series) -> list[str]:
    return ["–" if pd.isna(value) else str(value) for value in dict.fromkeys(column)]


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _inline(image: bytes | None, kind: str) -> str | None:
    return None if image is None else data_uri(image, kind)
