"""Accuracies that nothing can miss are no results: not in any table, figure or page, and not of runs of before."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lapml.analysis import gather, tables
from lapml.errors import LapmlError
from lapml.report.build import report
from lapml.runs.records import scores

SEEN = {"top1": 100.0, "top5": 100.0, "recall1": 40.0, "recall5": 80.0}


def table(labels):
    return pd.DataFrame({"image": [f"{k}.jpg" for k in range(len(labels))], "label": labels, "top1": labels})


def relabel(paths, labels, names, **metrics):
    """Every run of the small suite answers these images right, by another number of classes."""
    for folder in paths.base.glob("runs/*/*/*"):
        frame = table(labels)
        for rank in range(1, min(5, len(names))):
            frame[f"top{rank + 1}"] = (frame["label"] + rank) % len(names)
        frame.assign(probability=0.5).to_parquet(folder / "predictions.parquet")
        for name, changes in (
            ("metrics.json", {**SEEN, "n": len(labels), **metrics}),
            ("provenance.json", {"class_names": names}),
        ):
            path = folder / name
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("classes", range(2, 9))
def test_top5_is_a_result_from_six_classes_on(classes):
    labels, names = np.arange(30) % classes, [f"c{k}" for k in range(classes)]
    for told in (names, None):  # the oldest runs do not name their classes
        found, faults = scores({**SEEN, "n": 30}, table(labels), told)
        assert not faults
        assert found["top5"] == 100 if classes > 5 else math.isnan(found["top5"])


def test_a_run_of_one_class_is_refused():
    _, faults = scores({**SEEN, "n": 30}, table(np.zeros(30, int)), ["only"])
    assert faults == ["provenance.json: class_names: found one class, expected at least two: every answer is right"]


def test_no_result_must_be_one_that_cannot_be():
    labels = np.arange(30) % 7
    for name in ("top5", "recall1", "recall5"):
        _, faults = scores({**SEEN, "n": 30, name: None}, table(labels), None)
        assert faults == [f"metrics.json: {name}: found None, expected a finite number"]


def test_runs_of_before_counted_lone_images_as_misses():
    labels = np.array([0, 1, 2, 3, 4, *[5] * 15])  # 5 of 20 images are alone
    old, faults = scores({**SEEN, "n": 20}, table(labels), None)
    now = {**SEEN, "n": 20, "recall_left_out": 5, "recall1": 40 * 20 / 15, "recall5": 80 * 20 / 15}
    new, _ = scores(now, table(labels), None)
    assert not faults and old == pytest.approx(new) and old["recall_left_out"] == 5
    assert old["recall1"] == pytest.approx(100 * 8 / 15)  # 8 of 20 images were hits
    _, faults = scores({**SEEN, "n": 20, "recall_left_out": 4}, table(labels), None)
    assert faults == ["metrics.json: recall_left_out: found 4, expected 5 (predictions)"]


def test_with_other_images_of_every_class_nothing_changes():
    found, faults = scores({**SEEN, "n": 30}, table(np.arange(30) % 7), None)
    assert not faults and found == {"recall1": 40.0, "recall5": 80.0, "top5": 100.0, "recall_left_out": 0}


@pytest.mark.usefixtures("quick")
def test_few_classes_and_lone_images_in_every_output(suite, params_file):
    params, paths = suite
    relabel(paths, [0, *[1] * 10, *[2] * 10], ["a", "b", "c"], top5=None, recall_left_out=1)
    report(params, params_file, paths)
    runs = pd.read_csv(paths.report / "runs.csv")
    assert runs["top5"].isna().all() and (runs["recall_left_out"] == 1).all() and (runs["recall1"] == 40).all()
    assert pd.read_csv(paths.report / "accuracy.csv")["top5"].isna().all()
    markdown, tex, page = ((paths.report / name).read_text() for name in ("accuracy.md", "accuracy.tex", "report.html"))
    for line in markdown.splitlines():
        if line.startswith("| ") and line.split()[1] in params.all_methods():
            assert line.split(" | ")[2] == "–"
    assert tex.count(" & -- & ") >= 5
    assert "nan" not in page.partition('<h2 id="settings">')[0].lower().replace("nano", "")
    for text in (markdown, tex, page):
        assert "R@K leaves out 1 test image that is the only one of its class." in text
        assert "top-5 cannot miss" in text


@pytest.mark.usefixtures("quick")
def test_a_test_split_of_one_image_a_class(suite, params_file):
    params, paths = suite
    names = [f"c{k}" for k in range(8)]
    relabel(paths, list(range(8)), names, recall1=None, recall5=None, recall_left_out=8)
    report(params, params_file, paths)
    text = (paths.report / "accuracy.md").read_text()
    assert "R@K leaves out 8 test images that are each the only one of its class." in text
    assert "R@1, R@5 cannot miss, or does not exist" in text
    relabel(paths, list(range(8)), names, recall1=0.0, recall5=0.0)  # as it was recorded before
    for folder in paths.base.glob("runs/*/*/*"):
        record = json.loads((folder / "metrics.json").read_text())
        del record["recall_left_out"]
        (folder / "metrics.json").write_text(json.dumps(record))
    assert tables.collect(params, paths)[["recall1", "recall5"]].isna().all().all()


@pytest.mark.parametrize(
    ("classes", "top", "fits"),
    [(3, 1, True), (3, 2, True), (3, 3, False), (3, 5, False), (5, 5, False), (6, 5, True), (1, 1, False)],
)
def test_compare_refuses_a_top_that_cannot_be_missed(suite, seal, classes, top, fits):
    _, paths = suite
    relabel(paths, np.arange(21) % classes, [f"c{k}" for k in range(classes)])
    folder = paths.run("birds", "baseline", 0)
    seal(folder, json.loads((folder / "provenance.json").read_text()))
    if fits:
        assert gather.read(folder, top).right.all()
        return
    with pytest.raises(
        LapmlError, match=f"--top: found {top}, expected less than the number of its classes, {classes}"
    ):
        gather.read(folder, top)
