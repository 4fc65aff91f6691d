"""Make the report of a suite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lapml import config
from lapml.analysis import backbones, headline, probabilities, tables
from lapml.analysis.diagnosis import tables as diagnosis_tables
from lapml.analysis.sections import markdown
from lapml.config import Params, overlays
from lapml.files import locked, scratch
from lapml.paths import DIAGNOSIS_FILES, REPORT_FILES, Paths
from lapml.report import diagnosis, diagnosis_figures, page
from lapml.report.html import data_uri, shows_pictures
from lapml.runs.collect import UNREAD
from lapml.runs.records import Answers, differences


def report(
    params: Params,
    params_path: str | Path,
    paths: Paths,
    galleries: Callable[[str, dict[str, Answers]], dict[str, Any]] | None = None,
    published: bool = False,
) -> Path:
    """Write all of ``REPORT_FILES`` into ``paths.report``, each to a temporary name first; returns the path of report.html.

    Args:
        params_path: the file that ``params`` was read from; its text is shown.
        galleries: of a data set's name and answers, :func:`lapml.report.pictures.gallery`; None, or where ``report.images`` forbids
            pictures of the data: the page has none.
        published: ``paths`` are those of published records: its runs have no weights, and a diagnosis that is not of all of them is
            left out.

    Raises:
        LapmlError: the runs do not fit the settings, see ``tables.collect``, or a gallery shows pictures that are not
            allowed; nothing is written then.
    """
    for name in params.datasets:
        diagnosis.refuse_gallery(params, paths, name)
    runs, epochs = tables.collect(params, paths, UNREAD if published else ()), tables.histories(params, paths)
    answers = tables.predictions(params, paths)
    by_dataset = {
        dataset: {method: answers[dataset, method] for method in params.all_methods()} for dataset in params.datasets
    }
    others = headline.others(answers, params)
    table = tables.accuracy(runs, answers, params)
    risks = {name: probabilities.curves(params, paths, name) for name in params.datasets}
    sections = [
        *headline.sections(headline.headline(others, params), headline.contrasts(answers | others, params), params),
        *probabilities.calibrations(table, params),
        *(each for name in risks for each in probabilities.coverages(name, risks[name], params.all_methods())),
    ]
    tuned = {name: tables.studies(params, paths, name) for name in params.datasets}
    pictures = None
    if galleries and params.report.images:
        pictures = {name: galleries(name, by_dataset[name]) for name in params.datasets}
    text, overridden, heading = _settings(params, Path(params_path))
    diagnosed = [name for name in params.datasets if not published or diagnosis.fits(params, paths, name)]
    diagnoses = {name: _diagnosis(params, paths, name) if name in diagnosed else None for name in params.datasets}
    over = {name: backbones.of_suite(name, runs, params) for name in params.datasets}
    html = page.build(
        params,
        text,
        runs,
        epochs,
        table,
        tuned,
        pictures,
        overridden,
        diagnoses,
        heading,
        sections,
        by_dataset,
        risks,
        over,
    )
    paths.report.mkdir(parents=True, exist_ok=True)
    with locked(paths.report.with_name(f".{paths.report.name}.lock")), scratch(paths.report / ".partial") as partial:
        tables.write(partial, params, runs, epochs, table, markdown(sections))
        (partial / "report.html").write_text(html, encoding="utf-8")
        (paths.report / "report.html").unlink(missing_ok=True)  # never an old page beside new tables
        for name in REPORT_FILES:  # report.html is the last
            (partial / name).replace(paths.report / name)
    return paths.report / "report.html"


def _diagnosis(params: Params, paths: Paths, dataset: str) -> dict[str, Any] | None:
    """What the page shows of a data set's diagnosis; None if it was not diagnosed."""
    found = diagnosis.read(params, paths, dataset)
    if found is None:
        return None
    heads = diagnosis_tables.columns(found)
    judged, rows = set(heads) > {"area"}, []
    if judged:  # else nothing is known of the images but how much of them is pasted
        rows = [
            [row["method"], *(diagnosis_tables.cell(row, name) for name in heads)]
            for row in found.table.to_dict("records")
        ]
    drawn: dict[str, str | None] = {"quality": None, "labels": None}  # anew, in the colours of the other figures
    if rows:
        drawn["quality"] = data_uri(diagnosis_figures.quality(found, params.all_methods()), "svg+xml")
    if len(found.labels) and (found.labels["images"] >= diagnosis_figures.FEWEST).any():
        drawn["labels"] = data_uri(diagnosis_figures.labels(found, params.all_methods()), "svg+xml")
    folder = paths.diagnosis(dataset)
    there = {name: f"../diagnosis/{dataset}/{name}" for name in DIAGNOSIS_FILES if (folder / name).is_file()}
    return {
        "heads": ["method", *heads.values()],
        "rows": rows,
        "maps": diagnosis_tables.of_maps(found),
        "localiser_heads": diagnosis_tables.LOCALISERS,
        "localisers": diagnosis_tables.of_localisers(found),
        "verdicts": diagnosis_tables.verdicts(found.ratios),
        "note": diagnosis_tables.note(found, params),
        "mixes": not found.table.empty,
        "figures": drawn,
        "links": {
            there[name]: text
            for name, text in (("diagnosis.csv", "csv"), ("diagnosis.md", "Markdown"))
            if name in there
        },
        "gallery": there["gallery.html"]
        if "gallery.html" in there and shows_pictures(folder / "gallery.html")
        else None,
    }


def _settings(params: Params, path: Path) -> tuple[str, list[str], str]:
    """The params file's text (an overlay's over its base), how ``params`` differs from it (``--set``), and the comment that it
    begins with, if it is of this suite: a base's comment is of another one."""
    used, written = (each.model_dump(mode="json") for each in (params, config.load(path)))
    text = path.read_text(encoding="utf-8") if len(overlays.layers(path)) == 1 else overlays.composed(path)
    lines = [
        line.replace(": found", ": used", 1).replace("expected", "the file says", 1)
        for line in differences(used, written)
    ]
    return text, lines, overlays.heading(path) if written["suite"] == params.suite else ""
