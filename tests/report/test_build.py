import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lapml import config
from lapml.analysis import mistakes, tables
from lapml.config.method import MethodOverrides
from lapml.config.parts import Published
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import REPORT_FILES
from lapml.report import build, pictures, published
from lapml.report.html import as_published
from lapml.runs.folder import NOT_KEPT

pytestmark = pytest.mark.usefixtures("quick")


def test_report_writes_every_file_and_nothing_else(suite, galleries, params_file):
    params, paths = suite
    asked = []

    def spy(dataset, answers):
        asked.append(dataset)
        return galleries(dataset, answers)

    page = build.report(params, params_file, paths, spy)
    assert page == paths.report / "report.html" and asked == ["birds"]
    assert sorted(path.name for path in paths.report.iterdir()) == sorted(REPORT_FILES)
    assert [path.name for path in paths.base.glob(".*")] == [".report.lock"]
    html = page.read_text()
    assert f"train.epochs: used 4, the file says {config.load(params_file).train.epochs}" in html
    assert "for every method that mixes" in html  # a comment of the params file


def test_a_study_that_the_tables_do_not_take_is_shown_and_published(suite, tune, edit, params_file):
    """``lapml tune --method`` makes one of any method of ``tune.methods``; one of other settings is left out."""
    params, paths = suite
    space = config.load(params_file, ["tune.methods={loc_cutmix: {mix.prob: {low: 0.2, high: 1.0}}}"]).tune.methods
    params = params.model_copy(update={"tune": params.tune.model_copy(update={"methods": space})})
    tune(paths, params, "birds", "loc_cutmix", {"mix.prob": 0.625})
    assert set(tables.studies(params, paths, "birds")) == {"margin", "adaptive_margin", "loc_cutmix"}
    html = build.report(params, params_file, paths).read_text()
    assert "loc_cutmix 0" in html and "loc_cutmix: every trial" in html and "0.625" in html
    target = published.publish(params, paths)
    assert (target / "tuned/birds/loc_cutmix.json").read_bytes() == paths.tuned("birds", "loc_cutmix").read_bytes()
    edit(paths.tuned("birds", "loc_cutmix"), epochs=3)
    assert "loc_cutmix: every trial" not in build.report(params, params_file, paths).read_text()


def test_a_report_without_galleries_shows_no_picture(suite, params_file):
    params, paths = suite
    html = build.report(params, params_file, paths).read_text()
    assert 'content="none"' in html and "image/png" not in html


def test_a_refused_report_leaves_the_old_one(suite, params_file):
    params, paths = suite
    build.report(params, params_file, paths)
    before = {name: (paths.report / name).read_bytes() for name in REPORT_FILES}
    (paths.run("birds", "cutmix", 0) / "metrics.json").unlink()
    with pytest.raises(LapmlError, match="birds/cutmix/0: metrics.json: missing"):
        build.report(params, params_file, paths)
    assert {name: (paths.report / name).read_bytes() for name in REPORT_FILES} == before


def test_report_is_the_same_each_time(suite, params_file):
    params, paths = suite
    made = []
    for _ in range(2):
        build.report(params, params_file, paths)
        made.append({name: (paths.report / name).read_bytes() for name in REPORT_FILES})
    assert made[0] == made[1]


def test_the_introduction_is_never_another_suites(suite, tmp_path, params_file):
    """An overlay has its own words or none, and a suite of another name than the file's too."""
    params, paths = suite
    assert "The embedded default" not in build.report(params, params_file, paths).read_text().partition("<h2")[0]
    same = "".join(f"{key}: {value}\n" for key, value in (("suite", "fake"), ("seeds", "[0, 1]")))
    for heading, words in (("", []), ("# Fake runs, for a test.\n", ["<p>Fake runs, for a test.</p>"])):
        overlay = tmp_path / "mine.yaml"
        overlay.write_text(f"{heading}base: {params_file}\n{same}")
        html = build.report(params, overlay, paths).read_text().partition("<h2")[0]
        assert "The embedded default" not in html and all(each in html for each in words)


def test_the_published_page_links_to_what_is_published():
    page = 'a <a href="../diagnosis/x/d.csv">csv</a><!-- here only --><a href="../diagnosis/x/gallery.html">g</a><!-- end --> b'
    assert as_published(page) == 'a <a href="diagnosis/x/d.csv">csv</a> b'


def test_publish_copies_without_weights(suite, galleries, params_file):
    params, paths = suite
    build.report(params, params_file, paths, galleries)
    target = published.publish(params, paths)
    assert target == paths.published
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    runs = {
        f"runs/birds/{method}/{seed}/{name}"
        for method in params.all_methods()
        for seed in params.seeds
        for name in ("config.json", "history.csv", "metrics.json", "predictions.parquet", "provenance.json")
    }
    tuned = {"tuned/birds/margin.json", "tuned/birds/adaptive_margin.json"}
    charts = {f"figures/birds-{name}.svg" for name in ("accuracy", "cost", "loss", "train", "distances", "beyond")}
    assert found == runs | set(REPORT_FILES) | tuned | charts
    assert all((target / chart).stat().st_size > 0 for chart in charts)
    assert (target / "report.html").read_bytes() == (paths.report / "report.html").read_bytes()


def test_publish_replaces_what_was_there(suite, params_file):
    params, paths = suite
    paths.published.mkdir(parents=True)
    (paths.published / "stale.txt").write_text("old")
    build.report(params, params_file, paths)
    published.publish(params, paths)
    assert not (paths.published / "stale.txt").exists()
    assert [path.name for path in paths.published.parent.iterdir()] == [params.suite]


def test_publish_removes_no_published_run_without_being_told_to(suite, params_file):
    params, paths = suite
    build.report(params, params_file, paths)
    published.publish(params, paths)
    fewer = params.model_copy(update={"seeds": [0]})
    build.report(fewer, params_file, paths)
    gone = paths.published / "runs/birds/cutmix/1/metrics.json"
    with pytest.raises(
        LapmlError, match="holds 5 runs that the settings do not have .*birds/adaptive_margin/1.*--replace"
    ):
        published.publish(fewer, paths)
    assert gone.exists()
    published.publish(fewer, paths, replace=True)
    assert not gone.exists() and (paths.published / "runs/birds/cutmix/0/metrics.json").exists()


@pytest.mark.parametrize("moment", ["copy", "put aside", "rename"])
def test_a_failed_publish_loses_nothing(suite, params_file, monkeypatch, moment):
    params, paths = suite
    build.report(params, params_file, paths)
    published.publish(params, paths)
    (paths.published / "mark.txt").write_text("kept")
    if moment == "copy":
        monkeypatch.setattr(published.shutil, "copyfile", _fail)
    elif moment == "put aside":  # a signal in its last moment
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda self, to: (rename(self, to), _fail() if to.name == "old" else None)[0]
        )
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda self, to: _fail() if self.name == "new" else rename(self, to))
    with pytest.raises(OSError, match="disk full"):
        published.publish(params, paths)
    assert (paths.published / "mark.txt").read_text() == "kept"
    assert [path.name for path in paths.published.parent.iterdir()] == [params.suite]


def _fail(*args):
    raise OSError("disk full")


def test_a_report_of_other_settings_or_of_an_earlier_diagnosis_is_not_published(suite, params_file):
    params, paths = suite
    build.report(params, params_file, paths)
    wider = params.model_copy(update={"report": params.report.model_copy(update={"confidence": 0.5})})
    with pytest.raises(LapmlError, match="accuracy.csv: is not of the present settings; run `lapml report` again"):
        published.publish(wider, paths)
    beside = {"dataset": "birds", "method": "theirs", "top1": 80.0, "source": "a paper"}
    for change in (  # neither is in accuracy.csv
        {"primary": [["adaptive_margin", "baseline"]]},
        {"beside": [Published(**beside)]},
    ):
        other = params.model_copy(update={"report": params.report.model_copy(update=change)})
        with pytest.raises(LapmlError, match="report.html: is not of the present settings.*; run `lapml report` again"):
            published.publish(other, paths)
    paths.diagnosis("birds").mkdir(parents=True)
    later = paths.diagnosis("birds") / "diagnosis.json"
    later.write_text("{}")
    os.utime(later, (2**32, 2**32))
    with pytest.raises(LapmlError, match="diagnosis.json: is later than .*report.html; run `lapml report` again"):
        published.publish(params, paths)
    assert not paths.published.exists()


def test_a_report_that_does_not_say_its_settings_is_not_published(suite, params_file):
    """As an earlier version made it."""
    params, paths = suite
    page = build.report(params, params_file, paths)
    html = page.read_text()
    page.write_text(re.sub('<meta name="lapml-report" content="\\w+">\n', "", html))
    assert page.read_text() != html
    with pytest.raises(LapmlError, match="report.html: is not of the present settings.*; run `lapml report` again"):
        published.publish(params, paths)


def test_publish_refuses_no_or_half_a_report(suite, params_file):
    params, paths = suite
    with pytest.raises(LapmlError, match="run `lapml report` first"):
        published.publish(params, paths)
    build.report(params, params_file, paths)
    (paths.report / "curves.csv").unlink()
    with pytest.raises(LapmlError, match="curves.csv: missing"):
        published.publish(params, paths)


def test_publish_refuses_a_report_of_other_runs(suite, params_file, edit):
    params, paths = suite
    build.report(params, params_file, paths)
    edit(paths.run("birds", "margin", 0) / "metrics.json", top5=96.0)
    with pytest.raises(LapmlError, match="run `lapml report` again"):
        published.publish(params, paths)


def test_publish_refuses_pictures_of_others_data(make, galleries, params_file):
    params, paths = make("data.birds.source=/somewhere/CUB_200_2011", "data.birds.synthetic=null")
    build.report(params, params_file, paths, galleries)
    with pytest.raises(LapmlError, match="pictures of birds.*run `lapml report --no-images` first"):
        published.publish(params, paths)
    assert not paths.published.exists()
    build.report(params, params_file, paths)
    assert (published.publish(params, paths) / "report.html").exists()


def test_publish_refuses_a_page_that_does_not_say(suite, params_file):
    params, paths = suite
    page = build.report(params, params_file, paths)
    page.write_text("<html></html>")
    with pytest.raises(LapmlError, match="does not say whether"):
        published.publish(params, paths)


def test_mistakes_are_shown_as_their_method_sees_them(suite, pack_of, monkeypatch):
    """It may cut its views otherwise than the data set's other methods."""
    params, paths = suite
    view = {"overrides": MethodOverrides(view={"side": 80})}
    smaller = {name: params.methods[name].model_copy(update=view) for name in ("margin", "adaptive_margin")}
    params = params.model_copy(update={"methods": params.methods | smaller})
    for file in paths.base.glob("runs/*/*/*/model.safetensors"):
        file.write_text(NOT_KEPT)
    found = tables.predictions(params, paths)
    answers = {method: found["birds", method] for method in params.all_methods()}
    best = answers[mistakes.ranked(answers, params)[0]]
    count = len(best.images)
    packed = pack_of(np.zeros((count, 8, 8, 3), np.uint8), [*best.labels], ["train"] * count, [(40, 30)] * count)
    packed = replace(packed, index=packed.index.assign(path=[*best.images]))
    monkeypatch.setattr(Packed, "open", lambda *_: packed)
    sides, cut = [], pictures.views.cut
    monkeypatch.setattr(pictures.views, "cut", lambda *given: sides.append(given[2]) or cut(*given))
    shown = pictures.gallery(params, paths, "birds", answers)
    assert shown["best"] in ("margin", "adaptive_margin") and shown["mistakes"] and set(sides) == {80}
    assert params.data["birds"].view.side != 80
