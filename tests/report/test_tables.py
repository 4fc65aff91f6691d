import hashlib
import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from lapml import config
from lapml.analysis import stats, tables
from lapml.errors import LapmlError
from lapml.runs.collect import differences

ROWS = ["baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin"]


def made(params, paths):
    runs = tables.collect(params, paths)
    return runs, tables.histories(params, paths), tables.accuracy(runs, tables.predictions(params, paths), params)


def refusal(params, paths):
    with pytest.raises(LapmlError) as caught:
        tables.collect(params, paths)
    text = str(caught.value)
    assert "run `snakemake` or `dvc repro` again" in text
    return text


def test_collect_is_every_run_in_order(suite):
    params, paths = suite
    runs = tables.collect(params, paths)
    assert list(zip(runs["dataset"], runs["method"], runs["seed"], strict=True)) == [
        ("birds", method, seed) for method in ROWS for seed in (0, 1)
    ]
    record = json.loads((paths.run("birds", "margin", 1) / "metrics.json").read_text())
    row = runs[(runs["method"] == "margin") & (runs["seed"] == 1)].iloc[0]
    assert row["top1"] == record["top1"] and row["m"] == 0.8 and math.isnan(row["delta"])


def test_a_changed_setting_is_named_with_both_values(suite):
    params, paths = suite
    changed = params.model_copy(update={"train": params.train.model_copy(update={"lr": 0.02})})
    text = refusal(changed, paths)
    assert text.count("config.json: train.lr: found 0.015, expected 0.02") == 6  # the rows that are not tuned
    assert text.count(".json: study: found") == 2  # the margins were tuned at another lr


def test_other_tuned_values_are_refused(suite, edit):
    params, paths = suite
    edit(paths.tuned("birds", "margin"), values={"m": 0.7, "weight": 0.05})
    text = refusal(params, paths)
    assert "birds/margin/0: config.json: settings.margin.m: found 0.8, expected 0.7" in text
    assert "adaptive_margin.json: study: found" in text  # tuned after other margins
    assert "birds/cutmix" not in text


def test_missing_and_unknown_keys_are_named():
    lines = differences({"a": {"b": 1, "x": 2}}, {"a": {"b": 1, "c": 3}})
    assert lines == ["a.c: missing, expected 3", "a.x: found 2, expected no such key"]


@pytest.mark.parametrize(
    "name",
    ["config.json", "history.csv", "metrics.json", "predictions.parquet", "provenance.json", "model.safetensors"],
)
def test_missing_and_half_written_files_are_refused(suite, name):
    params, paths = suite
    (paths.run("birds", "cutmix", 0) / name).unlink()
    half = paths.run("birds", "baseline", 1) / name
    half.write_bytes(half.read_bytes()[: len(half.read_bytes()) // 2] if name != "model.safetensors" else b"")
    text = refusal(params, paths)
    assert f"birds/cutmix/0: {name}: missing" in text
    assert f"birds/baseline/1: {name}: " in text
    assert len({line.split(":")[0] for line in text.splitlines() if line.startswith("  birds/")}) == 2


def test_a_missing_run_and_a_missing_tuned_file_are_both_told(suite):
    params, paths = suite
    shutil.rmtree(paths.run("birds", "baseline", 1))
    paths.tuned("birds", "margin").unlink()
    text = refusal(params, paths)
    assert "birds/baseline/1: config.json: missing" in text
    assert str(paths.tuned("birds", "margin")) in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "0" * 64}, "data_sha256: found 000"),
        ({"epochs": 99}, "epochs: found 99, expected 4"),
        ({"values": {"m": 0.8}}, "values: weight: found None, expected a value of its range"),
        ({"values": {"m": 9.0, "weight": 0.1}}, "found 9.0"),
        ({"values": None}, "values: found None"),
        ({"method": "adaptive_margin"}, "expected those of ('birds', 'margin')"),
    ],
)
def test_a_tuned_file_that_does_not_fit_is_refused(suite, edit, changes, message):
    params, paths = suite
    edit(paths.tuned("birds", "margin"), **changes)
    assert message in refusal(params, paths)


def test_margins_of_another_search_are_refused(suite):
    params, paths = suite
    space = params.tune.margin.model_copy(update={"m": params.tune.margin.m.model_copy(update={"high": 0.9})})
    other = params.model_copy(update={"tune": params.tune.model_copy(update={"margin": space})})
    assert "search range" in refusal(other, paths)


def test_other_data_is_refused(suite, edit):
    params, paths = suite
    edit(paths.run("birds", "cutmix", 1) / "provenance.json", data_sha256="f" * 64)
    text = refusal(params, paths)
    assert f"birds/cutmix/1: provenance.json: data_sha256: found {'f' * 64}, expected {'d' * 64}" in text
    assert text.count("birds/") == 2  # the run, and the meta.json it is compared with
    (paths.pack("birds") / "meta.json").unlink()  # without the pack the runs are still compared with each other
    assert "birds/cutmix/1" in refusal(params, paths)


def test_without_the_pack_the_runs_stand(suite):
    params, paths = suite
    (paths.pack("birds") / "meta.json").unlink()
    assert len(tables.collect(params, paths)) == 10


def test_a_run_of_more_processes_than_its_settings_say_is_refused(suite, edit):
    """As torchrun could make it before the number was looked at; runs that do not say it stand as they did."""
    params, paths = suite
    edit(paths.run("birds", "cutmix", 1) / "provenance.json", processes=2)
    edit(paths.run("birds", "cutmix", 0) / "provenance.json", processes=1)
    text = refusal(params, paths)
    assert "birds/cutmix/1: provenance.json: processes: found 2, expected 1 (train.gpus)" in text
    assert "birds/cutmix/0" not in text


def test_other_weights_are_refused(suite, edit):
    params, paths = suite
    edit(paths.run("birds", "margin", 0) / "provenance.json", weights={"name": "x", "sha256": "a"})
    assert "birds/margin/0: provenance.json: weights_sha256: found a" in refusal(params, paths)


def test_runs_of_a_weights_file_that_was_replaced_are_refused(make, edit, tmp_path):
    """Under the same name. Where the file is not, as beside published runs, they stand."""
    file = tmp_path / "w.safetensors"
    params, paths = make(f"model.weights={file}", "ablation=[baseline, cutmix]", "tuned_methods=[]")
    for run in params.all_methods():
        for seed in params.seeds:
            weights = {"name": file.name, "sha256": hashlib.sha256(b"old").hexdigest()}
            edit(paths.run("birds", run, seed) / "provenance.json", weights=weights)
    assert len(tables.collect(params, paths)) == 4
    file.write_bytes(b"old")
    assert len(tables.collect(params, paths)) == 4
    file.write_bytes(b"new")
    said = f"weights_sha256: found {hashlib.sha256(b'old').hexdigest()}, expected {hashlib.sha256(b'new').hexdigest()} ({file})"
    assert refusal(params, paths).count(said) == 4


def test_a_file_that_the_run_did_not_write_is_refused(suite, edit):
    params, paths = suite
    folder = paths.run("birds", "cutmix", 0)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("metrics.json", "history.csv")}
    edit(folder / "provenance.json", files=files)
    assert len(tables.collect(params, paths)) == 10
    edit(folder / "metrics.json", top5=99.9)
    assert "birds/cutmix/0: metrics.json: is not the file that this run wrote" in refusal(params, paths)


@pytest.mark.parametrize("change", ["order", "image", "fewer"])
def test_predictions_of_other_images_are_refused(suite, edit, change):
    params, paths = suite
    folder = paths.run("birds", "loc_cutmix", 1)
    table = pd.read_parquet(folder / "predictions.parquet")
    if change == "order":
        table = table.iloc[::-1]
    elif change == "image":
        table.loc[3, "image"] = "images/other.jpg"
    else:
        table = table.iloc[:-1]
        right = 100 * (table["top1"] == table["label"]).mean()
        edit(folder / "metrics.json", n=len(table), top1=right)
    table.to_parquet(folder / "predictions.parquet", index=False)
    text = refusal(params, paths)
    assert (
        text.count("birds/") == 1 and "birds/loc_cutmix/1: predictions.parquet" in text and "as in baseline/0" in text
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top1": 1.0}, "top1: found"),
        ({"top5": None}, "top5: found None, expected a finite number"),
        ({"loss": math.nan}, "loss: found nan"),
        ({"n": 3}, "found 140 images, expected 3"),
        ({"split": "val"}, "split: found 'val', expected 'test'"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(suite, edit, changes, message):
    params, paths = suite
    edit(paths.run("birds", "baseline", 0) / "metrics.json", **changes)
    assert message in refusal(params, paths)


def test_accuracy_is_computed_from_the_runs(suite):
    params, paths = suite
    runs, _, table = made(params, paths)
    assert table["method"].to_list() == ROWS and set(table["n_seeds"]) == {2}
    correct = tables.predictions(params, paths)
    row = table.set_index("method").loc["loc_cutmix"]
    seeds = runs.loc[runs["method"] == "loc_cutmix", "top1"]
    assert (row["top1"], row["top1_half"]) == pytest.approx(stats.t_interval(seeds.to_list(), 0.95))
    right, base = (correct["birds", name].right.mean(axis=1) for name in ("loc_cutmix", "baseline"))
    assert 100 * right == pytest.approx(seeds.to_numpy())
    assert row["gain"] == pytest.approx(100 * (right - base).mean())
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    assert row["previous"] == "cutmix"
    assert row["cost_ratio"] == pytest.approx((432 + 2 * 288) / (288 + 2 * 288))


def test_p_values_are_corrected_over_the_rows(suite):
    params, paths = suite
    _, _, table = made(params, paths)
    for p in ("p", "step_p"):
        assert np.isnan(table.loc[0, p]) and table[p].notna().sum() == 4
        assert table[f"{p}_holm"].to_numpy() == pytest.approx(stats.holm(table[p].to_list()), nan_ok=True)


def test_one_seed_gives_no_interval_and_no_significance(make):
    params, paths = make("seeds=[0]")
    runs, epochs, table = made(params, paths)
    assert table["top1_half"].isna().all() and not table["significant"].any() and not table["step_significant"].any()
    tables.write(paths.report, params, runs, epochs, table)
    text = (paths.report / "accuracy.md").read_text()
    assert "(one seed)" in text and "One seed: no interval" in text and "nan" not in text and "**" not in text
    assert "top1_half" not in json.loads((paths.report / "summary.json").read_text())["birds"]["margin"]


def test_without_a_baseline_gains_are_empty(make):
    params, paths = make("ablation=[cutmix, loc_cutmix]", "tuned_methods=[]", "diagnose.method=cutmix")
    runs, epochs, table = made(params, paths)
    assert table[["gain", "p", "p_holm", "cost_ratio"]].isna().all(axis=None)
    assert table["step"].notna().to_list() == [False, True]
    tables.write(paths.report, params, runs, epochs, table)
    assert "No method “baseline”" in (paths.report / "accuracy.md").read_text()


def test_a_row_is_compared_with_the_one_that_is_named(make):
    params, paths = make(
        "report.steps={loc_cutmix: baseline, margin: cutmix, cutmix: mixup}"
    )  # mixup is not in the table
    runs, epochs, table = made(params, paths)
    assert table["previous"].to_list()[1:] == ["baseline", "baseline", "cutmix", "margin"]
    row, correct = table.iloc[3], tables.predictions(params, paths)
    assert row["step"] == pytest.approx(
        100 * (correct["birds", "margin"].right.mean() - correct["birds", "cutmix"].right.mean())
    )
    tables.write(paths.report, params, runs, epochs, table)
    text = (paths.report / "accuracy.md").read_text()
    assert [text.count(f" ({name})") for name in ("baseline", "cutmix", "margin", "loc_cutmix")] == [2, 1, 1, 0]


def test_two_datasets_are_compared_apart(suite):
    params, paths = suite  # the second data set is the first one again, under another name
    raw = params.model_dump(mode="json")
    raw["data"]["more"] = raw["data"]["birds"]
    raw["datasets"] = ["birds", "more"]
    file = paths.root / "two.yaml"
    with file.open("w") as stream:
        YAML().dump(raw, stream)
    for kind in ("runs", "tuned", "data"):
        shutil.copytree(paths.base / kind / "birds", paths.base / kind / "more")
    for path in [*paths.base.glob("runs/more/*/*/config.json"), *paths.base.glob("tuned/more/*.json")]:
        path.write_text(path.read_text().replace('"dataset": "birds"', '"dataset": "more"'))
    both = config.load(file)
    found = json.loads(paths.tuned("more", "margin").read_text())["values"]
    frozen = config.frozen_margins(both.methods["adaptive_margin"], found)
    for method, earlier in (("margin", {}), ("adaptive_margin", frozen)):
        record = json.loads(paths.tuned("more", method).read_text())
        study = config.study_identity(both, "more", method, earlier, record["data_sha256"])
        paths.tuned("more", method).write_text(json.dumps({**record, "study": config.digest(study)}))
    _, _, table = made(both, paths)
    first, second = (rows.drop(columns="dataset").reset_index(drop=True) for _, rows in table.groupby("dataset"))
    pd.testing.assert_frame_equal(first, second)


def test_write(suite):
    params, paths = suite
    runs, epochs, table = made(params, paths)
    tables.write(paths.report, params, runs, epochs, table)
    again = pd.read_csv(paths.report / "accuracy.csv")
    assert again["top1"].to_list() == pytest.approx(table["top1"].to_list())
    markdown = (paths.report / "accuracy.md").read_text()
    assert re.search(r"\| loc_cutmix \| \d+\.\d ± \d+\.\d \|", markdown)
    assert re.search(r"\*\*\+\d+\.\d \[−?\d+\.\d, \d+\.\d\], p [=<] 0\.\d+\*\*", markdown)
    bold = [line.split("|")[1].strip() for line in markdown.splitlines() if "**" in line]
    assert set(bold) == set(table.loc[table["significant"] | table["step_significant"], "method"])
    curves = pd.read_csv(paths.report / "curves.csv")
    assert list(curves) == ["dataset", "method", "epoch", "loss_mean", "loss_sd", "accuracy_mean", "accuracy_sd"]
    assert len(curves) == 5 * 4
    losses = epochs[(epochs["method"] == "cutmix") & (epochs["epoch"] == 2)]["loss"]
    row = curves[(curves["method"] == "cutmix") & (curves["epoch"] == 2)].iloc[0]
    assert (row["loss_mean"], row["loss_sd"]) == pytest.approx((losses.mean(), losses.std()))
    assert set(json.loads((paths.report / "summary.json").read_text())["birds"]["cutmix"]) == {
        "top1", "top1_half", "gain", "p", "p_holm",
    }  # fmt: skip


def test_latex_has_no_bare_special_characters(suite):
    params, paths = suite
    tables.write(paths.report, params, *made(params, paths))
    text = (paths.report / "accuracy.tex").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("%")]
    body = "\n".join(lines)
    assert not re.search(r"(?<!\\)[_%#]", body) and "loc\\_cutmix" in body
    assert body.isascii() and body.count("$") % 2 == 0 and body.count("{") == body.count("}")
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in lines if line.endswith(r"\\")}
    assert columns == {len(tables.headings(params)) - 1}
    assert body.index("\\toprule") < body.index("\\midrule") < body.index("\\bottomrule")
