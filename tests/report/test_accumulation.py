"""A suite completed over several occasions: what is finished is published, what is published is taken over."""

import json
import shutil

import pytest

from lapml.errors import LapmlError
from lapml.files import NOT_KEPT
from lapml.paths import READS, RUN_FILES, Paths
from lapml.report import build, diagnosis, published, tables

LIKE = ("config.json", "history.csv", "metrics.json", "predictions.parquet", "provenance.json")


@pytest.fixture
def elsewhere(suite, tmp_path_factory):
    """(params, paths) of a suite that is wholly published, in a folder where nothing but its data are."""
    params, paths = suite
    published.publish_finished(params, paths)
    other = Paths(params.suite, tmp_path_factory.mktemp("elsewhere"))
    shutil.copytree(paths.data, other.data)
    shutil.copytree(paths.published, other.published)
    return params, other


@pytest.fixture
def diagnosed(monkeypatch):
    """As if each data set had a diagnosis that fits."""
    monkeypatch.setattr(diagnosis, "read", lambda params, paths, dataset: True)
    monkeypatch.setattr(published, "PUBLISHED_DIAGNOSIS_FILES", ())


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_runs_are_published_without_a_report(suite):
    params, paths = suite
    (paths.run("birds", "cutmix", 1) / "metrics.json").unlink()
    (paths.run("birds", "baseline", 0) / READS).write_text("{}\n")
    text = published.publish_finished(params, paths)
    assert text == f"{paths.published}: 9 runs added, 9 of 10 are there; not finished: birds/cutmix/1"
    there = files(paths.published)
    assert set(there) == {"tuned/birds/margin.json", "tuned/birds/adaptive_margin.json"} | {
        f"runs/birds/baseline/0/{READS}"
    } | {
        f"runs/birds/{row}/{seed}/{name}"
        for row in params.all_rows()
        for seed in params.seeds
        for name in LIKE
        if (row, seed) != ("cutmix", 1)
    }
    for name, content in there.items():
        assert (paths.base / name).read_bytes() == content


def test_later_ones_are_added_and_earlier_ones_stay(suite, edit):
    params, paths = suite
    run = paths.run("birds", "cutmix", 1)
    metrics = (run / "metrics.json").read_bytes()
    (run / "metrics.json").unlink()
    published.publish_finished(params, paths)
    before = files(paths.published)
    (run / "metrics.json").write_bytes(metrics)
    edit(paths.run("birds", "baseline", 0) / "metrics.json", top5=1.0)  # trained once more: the first one stands
    assert "1 runs added, 10 of 10 are there" in published.publish_finished(params, paths)
    after = files(paths.published)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + len(LIKE)
    assert "0 runs added, 10 of 10 are there" in published.publish_finished(params, paths)


def test_runs_of_other_settings_do_not_come_together(suite, make, tmp_path):
    params, paths = suite
    published.publish_finished(params, paths)
    before = files(paths.published)
    other, _ = make("suite=other", "train.lr=0.5")
    other = other.model_copy(update={"suite": params.suite})
    with pytest.raises(
        LapmlError, match=r"(?s)holds what does not fit these settings; give the suite.*baseline/0: .*train.lr: found"
    ):
        published.publish_finished(other, paths)
    assert files(paths.published) == before


def test_nor_do_margins_tuned_since(suite, edit):
    params, paths = suite
    published.publish_finished(params, paths)
    edit(paths.tuned("birds", "margin"), values={"m": 0.1, "alpha": 0.05})
    with pytest.raises(LapmlError, match="tuned/birds/margin.json: has other values than .*published"):
        published.publish_finished(params, paths)


def test_what_is_published_is_taken_over(elsewhere, diagnosed):
    params, paths = elsewhere
    assert published.restore(params, paths) == f"{paths.published}: 10 runs taken over"
    for row in params.all_rows():
        for seed in params.seeds:
            assert {path.name for path in paths.run("birds", row, seed).iterdir()} == set(RUN_FILES)
            assert (paths.run("birds", row, seed) / "model.safetensors").read_text() == NOT_KEPT
    there = files(paths.published)
    assert all(content == there.get(name, content) for name, content in files(paths.base / "runs").items())
    assert len(tables.collect(params, paths)) == 10  # and a table can be made of them
    assert published.restore(params, paths) == f"{paths.published}: 0 runs taken over"


def test_the_diagnosis_row_comes_with_its_diagnosis_or_not_at_all(elsewhere):
    params, paths = elsewhere
    text = published.restore(params, paths).splitlines()
    assert text[0].endswith("8 runs taken over") and len(text) == 3
    assert "birds/baseline/0: the diagnosis needs its weights" in text[1]
    assert not paths.run("birds", "baseline", 0).exists()


def test_runs_that_do_not_fit_are_left(elsewhere, diagnosed, edit):
    params, paths = elsewhere
    edit(paths.as_published().run("birds", "cutmix", 0) / "provenance.json", data_sha256="f" * 64)
    (paths.as_published().run("birds", "cutmix", 1) / "metrics.json").unlink()
    shutil.rmtree(paths.as_published().run("birds", "loc_cutmix", 0))
    lines = published.restore(params, paths).splitlines()
    assert lines[0].endswith("7 runs taken over") and len(lines) == 3
    assert "birds/cutmix/0: was made with other data (ffffffffffff) than the packed" in lines[1]
    assert "birds/cutmix/1: metrics.json: missing" in lines[2]


def test_what_was_made_here_is_left_alone(suite, edit):
    params, paths = suite
    published.publish_finished(params, paths)
    edit(paths.run("birds", "cutmix", 0) / "metrics.json", top5=1.0)
    edit(paths.tuned("birds", "margin"), values={"m": 0.1, "alpha": 0.05})
    shutil.rmtree(paths.run("birds", "margin", 0))
    before = files(paths.base)
    text = published.restore(params, paths)
    assert "0 runs taken over" in text and "birds/margin/0: " in text and "has other values than the published" in text
    assert files(paths.base) == before


def test_nothing_published_and_nothing_prepared(suite):
    params, paths = suite
    assert published.restore(params, paths) == f"{paths.published}: 0 runs taken over"
    (paths.pack("birds") / "meta.json").unlink()
    with pytest.raises(LapmlError, match="not prepared yet; run `lapml data fetch birds && lapml data prepare birds`"):
        published.restore(params, paths)


def test_a_report_can_be_made_where_no_weights_are(elsewhere, diagnosed, params_file):
    params, paths = elsewhere
    published.restore(params, paths)
    diagnosis_read, diagnosis.read = diagnosis.read, lambda *_: None
    try:
        assert json.loads((build.report(params, params_file, paths, False).parent / "summary.json").read_text())
    finally:
        diagnosis.read = diagnosis_read


def test_margins_that_a_row_started_from_go_along(make, tune):
    """adaptive_margin is tuned with the margins of a row that the suite does not run."""
    params, paths = make("tuned_rows=[adaptive_margin]")
    tune(paths, params, "birds", "margin")
    published.publish_finished(params, paths)
    assert (paths.published / "tuned/birds/margin.json").is_file()
    shutil.rmtree(paths.base / "runs")
    shutil.rmtree(paths.base / "tuned")
    assert "6 runs taken over" in published.restore(params, paths)
    assert paths.tuned("birds", "margin").is_file() and paths.tuned("birds", "adaptive_margin").is_file()


def test_margins_are_published_and_taken_over_before_any_run_of_theirs(suite):
    params, paths = suite
    shutil.rmtree(paths.base / "runs")
    assert "0 runs added, 0 of 10 are there" in published.publish_finished(params, paths)
    tuned = files(paths.base / "tuned")
    shutil.rmtree(paths.base / "tuned")
    assert "0 runs taken over" in published.restore(params, paths)
    assert files(paths.base / "tuned") == tuned == files(paths.published / "tuned")
