"""Accuracy on the classes that nothing was developed on: in the report as by `lapml compare --without`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml import config
from lapml.analysis import gather, tables
from lapml.analysis.compare import compare, markdown
from lapml.analysis.headline import contrasts, headline, others, sections
from lapml.analysis.sections import markdown as shown
from lapml.errors import LapmlError
from lapml.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "results/published/demo/runs/birds"
PATHS = Paths("demo", ROOT).as_published()


def settings(*overrides: str):
    return config.load(
        ROOT / "params.yaml", ["report.developed_on={birds: '1-3,12-18'}", "report.bootstrap=500", *overrides]
    )


def accuracies(method: str) -> list[float]:
    """Of the seeds, on the images of classes 4 to 11, from the files alone."""
    found = [pd.read_parquet(RUNS / method / str(seed) / "predictions.parquet") for seed in (0, 1, 2)]
    found = [table[table["label"].between(3, 10)] for table in found]
    return [100 * float((table["top1"] == table["label"]).mean()) for table in found]


def test_compared_without_some_classes():
    result = compare([RUNS], replicates=500, without="1-3,12-18")
    for row in result["rows"]:
        assert row["accuracy"] == pytest.approx(np.mean(accuracies(row["method"])))
        assert row["method"] == "baseline" or row["difference"] == pytest.approx(
            np.mean(accuracies(row["method"])) - np.mean(accuracies("baseline"))
        )
    assert result["images"] == 8 * 24 and "birds without classes 1-3,12-18, 192 test images" in markdown(result)
    assert "without" not in markdown(compare([RUNS], replicates=100))


def test_the_report_s_headline_is_the_same():
    params = settings()
    right = tables.predictions(params, PATHS)
    left = others(right, params)
    assert left.keys() == right.keys() and {each.right.shape for each in left.values()} == {(3, 192)}
    assert all(len(each.images) == len(each.labels) == 192 for each in left.values())
    table, compared = headline(left, params), compare([RUNS], replicates=500, without="1-3,12-18")
    expected = {row["method"]: row for row in compared["rows"]}
    assert {row["method"] for row in table} == set(expected)
    for row in table:
        same = expected[row["method"]]
        assert [row[name] for name in ("top1", "half", "difference", "low", "high", "p_holm")] == pytest.approx(
            [same[name] for name in ("accuracy", "half", "difference", "low", "high", "p_holm")], nan_ok=True
        )
    text = shown(sections(table, [], params))
    assert text.count("\n| ") == 2 + len(table) - 1 + 1 and "the 192 test images of all classes but 1-3,12-18" in text


def test_primary_contrasts_are_of_the_headline_s_images():
    params = settings("report.primary=[[loc_cutmix, cutmix]]")
    right = tables.predictions(params, PATHS)
    [row] = contrasts(right | others(right, params), params)
    assert row["difference"] == pytest.approx(np.mean(accuracies("loc_cutmix")) - np.mean(accuracies("cutmix")))
    assert "They are of the headline’s images: those of all classes but 1-3,12-18." in shown(
        sections(headline(others(right, params), params), [row], params)
    )
    everything = settings("report.primary=[[loc_cutmix, cutmix]]", "report.developed_on={}")
    assert "headline" not in shown(sections([], contrasts(right, everything), everything))


def test_without_such_classes_there_is_no_headline():
    params = settings("report.developed_on={}")
    right = tables.predictions(params, PATHS)
    assert others(right, params) == {} and headline({}, params) == [] == sections([], [], params)


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=12, unique=True).map(sorted),
    st.data(),
)
def test_numbers_are_those_of_the_set(chosen, data):
    """Whichever classes a suite has, a class keeps its number."""
    away = data.draw(st.lists(st.sampled_from(chosen), min_size=1, max_size=len(chosen) - 1, unique=True))
    labels = data.draw(st.lists(st.integers(0, len(chosen) - 1), min_size=1, max_size=30)) + list(range(len(chosen)))
    mask = gather.kept(labels, ",".join(map(str, chosen)), None, ",".join(map(str, away)))
    assert mask.tolist() == [chosen[label] not in away for label in labels]


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("19", "found class 19 in '19', expected class ids of the runs .1..18, 18 classes"),
        ("1,25", "found class 25 in '1,25', expected class ids of the runs .1..18, 18 classes"),
        ("3-1", "found '3-1' in '3-1', expected 'all' or class ids"),
        ("1-18", "classes without 1-18: found no image, expected some"),
    ],
)
def test_classes_that_are_not_there_are_refused(without, message):
    with pytest.raises(LapmlError, match=message):
        compare([RUNS], replicates=100, without=without)


def test_the_data_set_is_one_of_the_suite():
    with pytest.raises(LapmlError, match="report.developed_on: .*cub200"):
        settings("report.developed_on={cub200: '1'}")
    with pytest.raises(LapmlError, match="report.developed_on.birds"):
        settings("report.developed_on={birds: some}")


@pytest.mark.parametrize(
    ("classes", "found"), [("1-8,10", "12-18"), ("5-18", "1-3"), ("1-3,12-16,17,20", "12-18"), ("all", None),
                           ("1-2,3,12-15,16-18", None), ("1-12,10-18", None)],
)  # fmt: skip
def test_the_classes_are_some_of_the_data_sets(classes, found):
    own = f"data.birds.classes='{classes}'"
    if not found:
        assert settings(own).report.developed_on == {"birds": "1-3,12-18"}
        return
    with pytest.raises(
        LapmlError, match=rf"report.developed_on.birds: found {found}, expected class numbers of data.birds"
    ):
        settings(own)


def test_a_data_set_that_the_suite_does_not_run_has_no_headline(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"base: {ROOT}/params.yaml\ndata: {{bees: {{synthetic: {{seed: 2}}}}}}\nreport: {{developed_on: {{bees: 1-3}}}}\n"
    )
    raw = config.load(ROOT / "params.yaml").data["birds"].model_dump_json()
    params = config.load(tmp_path / "mine.yaml", [f"data.bees={raw}"])
    assert params.report.developed_on == {"bees": "1-3"}
    assert others({}, params) == {} and headline({}, params) == [] and sections([], [], params) == []


def test_categories_without_images_have_numbers_too(write):
    """DeepFashion's are left out of "all", so a label does not say which number its class has."""
    runs = [write(f"{method}/0", **{"data.reader": "deepfashion"}) for method in ("baseline", "cutmix")]
    with pytest.raises(LapmlError, match="data.classes: found all, which leaves out categories without images"):
        compare(runs, replicates=50, without="1")
    theirs = ["data.birds.reader=deepfashion", "data.birds.source=mine", "data.birds.synthetic=null"]
    with pytest.raises(LapmlError, match="report.developed_on: found birds, whose classes are all that have images"):
        settings(*theirs, "data.birds.classes=all")
    assert settings(*theirs, "data.birds.classes=1-37,39-44").report.developed_on


FEWER = {"data.reader": "folder", "data.min_images": 2}


def test_classes_whose_numbers_are_not_recorded_are_refused(write):
    """``min_images`` leaves classes out, so a label does not say which number its class has."""
    runs = [write(f"{method}/0", **FEWER) for method in ("baseline", "cutmix")]
    assert len(compare(runs, replicates=50)["rows"]) == 2
    with pytest.raises(LapmlError, match=r"data.min_images: found 2, expected null.* --without needs"):
        compare(runs, replicates=50, without="1")
    mine = [f"{key.replace('.', '.birds.')}={value}" for key, value in FEWER.items()]
    mine += ["data.birds.source=mine", "data.birds.synthetic=null"]
    assert settings(*mine, "report.developed_on={}").report.developed_on == {}
    with pytest.raises(
        LapmlError, match=r"report.developed_on: found birds, whose min_images \(2\) leaves classes out"
    ):
        settings(*mine)
