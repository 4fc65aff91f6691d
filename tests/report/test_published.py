"""What is committed under results/published: it says what made it, and README quotes it as it stands."""

import base64
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from lapml import config
from lapml.analysis.tables import chance, interval, points
from lapml.common.text import markdown_table
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs.collect import tuned_record

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results/published"
TUNED = sorted(PUBLISHED.glob("*/tuned/*/*.json"))
SUITES = sorted(path.parent for path in PUBLISHED.glob("*/accuracy.md"))
RUNS = sorted(path.parent for path in PUBLISHED.glob("*/runs/*/*/*/metrics.json"))


def test_there_are_published_results():
    assert {suite.name for suite in SUITES} >= {"demo", "cub200"}
    assert len(RUNS) >= 30


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.name)
def test_readme_and_docs_quote_the_tables(suite):
    readme = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for line in (suite / "accuracy.md").read_text().splitlines():
        if line.startswith("|"):
            assert line in readme


def test_readme_shows_what_is_published():
    """Its table of 50 classes says what their CSV says; every other row and verdict is a line of a published file."""
    shown = (ROOT / "README.md").read_text().partition("<!-- results -->")[2].partition("<!-- end of results -->")[0]
    before, _, rest = shown.partition("<!-- birds50 table -->\n")
    table, _, after = rest.partition("<!-- end of birds50 table -->")
    lines = {line for file in PUBLISHED.rglob("*.md") for line in file.read_text().splitlines()}
    quoted = [line for line in (before + after).splitlines() if line.startswith(("| ", "- "))]
    assert len(quoted) > 20 and len(quoted) + len(table.splitlines()) > 30
    assert [line for line in quoted if line not in lines] == []
    rows = []
    for row in pd.read_csv(PUBLISHED / "birds50/accuracy.csv").to_dict("records"):
        gain = points(row["gain"], row["gain_low"], row["gain_high"])
        cells = [f"**{gain}**" if row["significant"] else gain, chance(row["p"]), chance(row["p_holm"])]
        compared = ["–"] * 3 if row["method"] == "baseline" else cells
        rows.append([row["method"], interval(row["top1"], row["top1_half"]), *compared])
    columns = ["method", "top-1 (± 95 %)", "points over baseline [95 %]", "p", "p, Holm"]
    expected, found = markdown_table(columns, rows), table.splitlines()
    assert found[:2] == expected[:2] and sorted(found[2:]) == sorted(expected[2:])


BENCHES = sorted(path for path in PUBLISHED.glob("bench/**/*.md") if path.stem not in ("prepare", "times"))


def test_there_are_published_benchmarks():
    assert {path.stem for path in BENCHES} >= {"bench", "loaders", "options", "growth", "profile"}


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_docs_quote_the_benchmarks(bench):
    text, record = (ROOT / "docs/performance.md").read_text(), json.loads(bench.with_suffix(".json").read_text())
    assert bench.read_text().strip() in text
    assert record["dirty"] is False and re.fullmatch(r"[0-9a-f]{40}", record["commit"]) and record["device"]
    assert record["command"].startswith(("lapml bench", "python -m benchmarks"))


DIAGNOSES = sorted(PUBLISHED.glob("*/diagnosis/*/diagnosis.md"))


def test_there_are_published_diagnoses():
    assert {f"{path.parts[-4]}/{path.parent.name}" for path in DIAGNOSES} >= {"demo/birds", "warblers/cub200"}


@pytest.mark.parametrize("diagnosis", DIAGNOSES, ids=lambda path: "/".join(path.parts[-4:-1]))
def test_docs_quote_the_diagnoses(diagnosis):
    record = json.loads(diagnosis.with_suffix(".json").read_text())
    diagnose = record["settings"]["diagnose"]
    runs = diagnosis.parents[2] / "runs" / record["dataset"] / (diagnose.get("method") or diagnose["row"])
    chooses = json.loads(next(runs.glob("*/metrics.json")).read_text())["split"] == "val"  # settings, in an exploration
    assert diagnosis.read_text().strip() in (ROOT / f"docs/{'experiments' if chooses else 'diagnosis'}.md").read_text()
    readme = (ROOT / "README.md").read_text()
    verdicts = [line for line in diagnosis.read_text().splitlines() if line.startswith("- ")]
    assert chooses or len(verdicts) >= 4
    assert diagnosis.parents[2].name != "birds50" or all(line in readme for line in verdicts)
    assert record["dirty"] is False and re.fullmatch(r"[0-9a-f]{40}", record["commit"]) and record["device"]
    assert record["command"].startswith("lapml diagnose") and record["seeds"] and record["data_sha256"]
    for seed, checksum in record["models_sha256"].items():  # of the models whose runs are published beside it
        assert json.loads((runs / seed / "provenance.json").read_text())["files"]["model.safetensors"] == checksum
    assert not (diagnosis.parent / "gallery.html").exists()


@pytest.mark.parametrize("file", TUNED, ids=lambda path: "/".join(path.parts[-4:]))
def test_margins_tuned_before_are_read_by_today_s_settings(file):
    """When they were made, their number of trials was part of their study's name; now it is looked at by itself."""
    suite, _, dataset, name = file.parts[-4:]
    settings, paths = ROOT / f"suites/{suite}.yaml", Paths(suite, ROOT).as_published()
    record = tuned_record(config.load(settings), paths, dataset, file.stem)
    assert record["study"] == json.loads(file.read_text())["study"]
    trials = len(record["trials"])
    with pytest.raises(LapmlError, match=f"{name}: found {trials} trials, expected {trials + 1}"):
        tuned_record(config.load(settings, [f"tune.trials={trials + 1}"]), paths, dataset, file.stem)


@pytest.mark.parametrize("run", RUNS, ids=lambda path: "/".join(path.parts[-5:]))
def test_every_run_says_what_made_it(run):
    metrics, provenance = (json.loads((run / name).read_text()) for name in ("metrics.json", "provenance.json"))
    assert re.fullmatch(r"[0-9a-f]{40}", provenance["commit"]) and provenance["dirty"] is False
    assert re.match("(python -m )?lapml train ", provenance["command"]) and provenance["device"]
    assert provenance["data_sha256"] and provenance["weights"]["sha256"]
    reads = run / "test_reads.jsonl"
    seen = len(reads.read_text().splitlines()) if reads.exists() else 0
    assert seen == provenance["test_reads"] == (metrics["split"] == "test")  # read once, by the final evaluation
    table = pd.read_parquet(run / "predictions.parquet")
    assert len(table) == metrics["n"]
    assert metrics["top1"] == pytest.approx(100 * (table["top1"] == table["label"]).mean())


@pytest.mark.parametrize("page", [suite / "report.html" for suite in SUITES], ids=lambda path: path.parent.name)
def test_pages_are_self_contained(page):
    assert not re.search(r'(?:src|href)="https?:', page.read_text())


@pytest.mark.parametrize("suite", sorted({run.parents[3] for run in RUNS}), ids=lambda path: path.name)
def test_no_picture_of_a_data_set_that_is_not_ours(suite):
    """Neither a file, nor in a page, nor within a chart."""
    params = config.load(ROOT / f"suites/{suite.name}.yaml")
    if all(params.data[name].synthetic for name in params.datasets):
        return
    assert [
        file for file in suite.rglob("*") if file.suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf")
    ] == []
    charts = [file.read_text() for file in suite.rglob("*.svg")]
    for page in (file.read_text() for file in suite.rglob("*.html")):
        assert not re.search(r"data:image/(?!svg\+xml;base64,)", page)
        inline = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)
        charts += [base64.b64decode(each).decode() for each in inline]
    assert all("<svg" in chart and "<image" not in chart for chart in charts)
    assert charts or suite not in SUITES
