"""Accuracy against cost over backbones: of a suite whose methods override the model, and of folders of several suites."""

import base64
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lapml.analysis import backbones, stats, tables
from lapml.cli.app import app
from lapml.errors import LapmlError
from lapml.models import catalogue
from lapml.report import build, figures, published

DEEP = "{model: {name: test_resnet, weights: none, freeze: 0}, train: {lr: 0.03}}"
SUITE = (
    "tuned_methods=[]", "ablation=[baseline, cutmix, baseline_long, baseline_deep, cutmix_deep]", "diagnose.method=cutmix",
    "methods={baseline: {}, cutmix: {mixer: {name: cutmix}, label: area}, baseline_long: {overrides: {train: {lr: 0.02}}}, "
    f"baseline_deep: {{overrides: {DEEP}}}, cutmix_deep: {{mixer: {{name: cutmix}}, label: area, overrides: {DEEP}}}}}",
    "model.truncate=8", "model.freeze=0", "report.bootstrap=100", "report.steps={}",
)  # fmt: skip
METRICS = {"images_forward": 1200, "images_backward": 900, "seconds": 30.0}


@pytest.fixture
def two(make, edit):
    """A suite of two backbones, whose weights differ."""
    params, paths = make(*SUITE)
    for method in ("baseline_deep", "cutmix_deep"):
        for seed in params.seeds:
            weights = {"name": "test_resnet", "sha256": None}
            edit(paths.run("birds", method, seed) / "provenance.json", weights=weights)
    return params, paths


def test_of_a_suite(two):
    """Cost and accuracy are recomputed from the runs; `baseline_long` is no other backbone, so a method of its own."""
    params, paths = two
    runs = tables.collect(params, paths)
    table = backbones.of_suite("birds", runs, params)
    lite, deep = "tf_efficientnet_lite0", "test_resnet"
    marks = list(table[["method", "backbone"]].itertuples(index=False, name=None))
    expected = [("baseline", lite), ("baseline", deep), ("cutmix", lite), ("cutmix", deep), ("baseline_long", lite)]
    assert marks == expected
    made_by = ("baseline", "baseline_deep", "cutmix", "cutmix_deep", "baseline_long")
    for row, run in zip(table.to_dict("records"), made_by, strict=True):
        own, size = runs[runs["method"] == run], catalogue.row(row["backbone"], 96, 8)
        assert (row["gflop"], row["parameters"]) == (size["gflop"], size["parameters"]) and row["n_seeds"] == 2
        assert (row["top1"], row["top1_half"]) == pytest.approx(stats.t_interval(own["top1"].to_list(), 0.95))
        passes = (own["images_forward"] + 2 * own["images_backward"]).mean()
        assert row["tflop"] == pytest.approx(passes * size["gflop"] / 1000)
        assert row["seconds"] == pytest.approx(own["seconds"].mean())


@pytest.mark.usefixtures("quick")
def test_its_page_and_its_published_figure(two, params_file):
    params, paths = two
    html = build.report(params, params_file, paths).read_text()
    assert "Accuracy against cost over backbones" in html
    written = html.partition("birds-backbones.csv")[2].partition("base64,")[2].partition('"')[0]
    table = pd.read_csv(io.BytesIO(base64.b64decode(written)))
    pd.testing.assert_frame_equal(table, backbones.of_suite("birds", tables.collect(params, paths), params))
    assert "lite0.pth eee" in html and "test_resnet –" in html  # the weights of both
    assert (published.publish(params, paths) / "figures/birds-backbones.svg").is_file()


@pytest.mark.usefixtures("quick")
def test_a_suite_of_one_backbone_has_none(suite, params_file):
    params, paths = suite
    assert backbones.of_suite("birds", tables.collect(params, paths), params).empty
    assert "over backbones" not in build.report(params, params_file, paths).read_text()


def test_other_weights_of_one_of_the_backbones_are_refused(two, edit):
    params, paths = two
    edit(paths.run("birds", "cutmix_deep", 1) / "provenance.json", weights={"name": "test_resnet", "sha256": "a"})
    with pytest.raises(
        LapmlError, match="cutmix_deep/1: provenance.json: weights_sha256: found a, expected None"
    ) as caught:
        tables.collect(params, paths)
    assert str(caught.value).count("weights_sha256") == 1


def svg_colours(image: bytes) -> dict[str, int]:
    text = image.decode()
    assert ElementTree.fromstring(image).tag.endswith("svg")
    return {colour: text.count(colour) for colour in figures.COLOURS}


def test_marks_have_their_methods_colours():
    names = [("cutmix", "a", 2.0), ("cutmix", "b", 900.0), ("margin", "a", 2.0)]
    rows = [{"method": method, "backbone": backbone, "tflop": cost, "top1": 60 + cost / 100, "top1_half": np.nan}
            for method, backbone, cost in names]  # fmt: skip
    found = svg_colours(figures.over_backbones(pd.DataFrame(rows), ["baseline", "cutmix", "margin"]))
    assert found[figures.COLOURS[1]] > found[figures.COLOURS[3]] > 0 == found[figures.COLOURS[0]]


@pytest.fixture
def several(write, seal):
    """several(suite, method, seeds, **changes): runs with metrics."""

    def made(suite, method, seeds, metrics=METRICS, **changes):
        for seed in seeds:
            folder = write(f"{suite}/{method}/{seed}", images=60, **{"suite": suite, **changes})
            (folder / "metrics.json").write_text(json.dumps(metrics))
            seal(folder)
        return folder.parents[1]

    return made


def test_of_folders(several, tmp_path):
    """Two suites of a backbone each, and one of the first backbone at another side: methods are joined by their names."""
    small = {"model.name": "test_resnet", "model.truncate": 8}
    mixup = {"settings.mixer": {"name": "mixup", "alpha": 1.0}, "settings.mix": {"prob": 0.5, "warmup_epochs": 2}}
    folders = [
        several("one", "baseline", (0, 1), **small),
        several("one", "mixup", (0, 1), **small, **mixup),
        several("two", "baseline", (0,), **{"train.lr": 0.3}),
        several("wide", "mixup", (0, 1), **small, **mixup, **{"data.view.side": 192}),
        several("more", "baseline", (0, 1), **small, **{"train.lr": 0.5}),
    ]
    command = ["compare", *map(str, dict.fromkeys(folders)), "--replicates", "50", "--backbones", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "| baseline (suite=one) | 2 |" in done.output
    table = pd.read_csv(tmp_path / "out/backbones.csv")
    expected = [("tf_efficientnet_lite0", "baseline", 1), ("test_resnet (side=64)", "baseline", 2),
                ("test_resnet (side=64)", "mixup", 2), ("test_resnet (side=192)", "mixup", 2),
                ("test_resnet (side=64)", "baseline (suite=more)", 2)]  # fmt: skip
    assert list(table[["backbone", "method", "n_seeds"]].itertuples(index=False, name=None)) == expected
    sides = [catalogue.row("test_resnet", side, 8)["gflop"] for side in (64, 192)]
    assert table["gflop"].to_list()[2:4] == pytest.approx(sides) and table["top1_half"].isna().to_list()[0]
    assert table["tflop"].to_numpy() == pytest.approx(3000 * table["gflop"].to_numpy() / 1000)
    colours = svg_colours((tmp_path / "out/backbones.svg").read_bytes())
    looks = figures.looks(["baseline", "mixup", "baseline (suite=more)"])
    assert {each for each in colours if colours[each]} == {colour for colour, _ in looks.values()}


def test_runs_without_their_numbers_say_so(several, tmp_path):
    folder = several("one", "a", (0,), {**METRICS, "seconds": None})
    several("one", "b", (0,))
    done = CliRunner().invoke(app, ["compare", str(folder), "--replicates", "50", "--backbones", str(tmp_path / "out")])
    assert done.exit_code == 1 and "a/0/metrics.json: seconds: found None, expected a number" in done.output
    assert not (tmp_path / "out").exists()
