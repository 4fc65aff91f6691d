"""`lapml compare`: on the published runs against the published tables, and on small made-up run folders."""

import csv
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from lapml.analysis import stats, tables
from lapml.analysis.compare import as_json, compare, markdown
from lapml.analysis.gather import MAPS
from lapml.cli import app
from lapml.cli.compare import compare as command
from lapml.errors import LapmlError
from lapml.paths import RUN_FILES
from lapml.runs.records import Answers

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results/published"
BIRDS = PUBLISHED / "demo/runs/birds"
MIXUP = {"mix": {"prob": 0.5, "warmup_epochs": 2}, "mixer": {"name": "mixup", "alpha": 1.0}, "label": None, "margin": None,
         "adaptive": None, "loss": None}  # fmt: skip


def right(folder, top=1):
    table = pd.read_parquet(folder / "predictions.parquet")
    return np.array(
        [row.label in row[["top1", "top2", "top3", "top4", "top5"][:top]].tolist() for _, row in table.iterrows()]
    )


def labels(result):
    return [row["method"] for row in result["rows"]]


@pytest.mark.parametrize("suite", ["demo/runs/birds", "cub200/runs/cub200", "birds50/runs/cub200"])
def test_published_tables_are_reproduced(suite):
    result = compare([PUBLISHED / suite])
    assert result["reference"] == "baseline" == labels(result)[0]
    published = pd.read_csv(PUBLISHED / suite.split("/")[0] / "accuracy.csv").set_index("method")
    assert sorted(labels(result)) == sorted(published.index)
    for row in result["rows"]:
        expected = published.loc[row["method"]]
        ours = [row[key] for key in ("accuracy", "half", "difference", "low", "high", "p", "p_holm", "significant")]
        theirs = expected[["top1", "top1_half", "gain", "gain_low", "gain_high", "p", "p_holm", "significant"]]
        assert ours == pytest.approx(theirs.tolist(), nan_ok=True, abs=1e-9), row["method"]
        assert len(row["seeds"]) == expected["n_seeds"]
        assert row["paired_seeds"] == (row["seeds"] if row["method"] != "baseline" else [])


def test_the_reports_table_is_the_same_comparison():
    """Gains and steps of ``tables.accuracy``, the numbers of seeds too, are what compare says of these runs."""
    runs = pd.read_csv(PUBLISHED / "demo/runs.csv")
    methods = list(dict.fromkeys(runs["method"]))
    correct = {
        ("birds", method): Answers(
            [], np.ones(()), np.stack([right(BIRDS / method / str(seed)) for seed in sorted(seeds)])
        )
        for method, seeds in runs.groupby("method")["seed"]
    }
    settings = SimpleNamespace(confidence=0.95, bootstrap=1000, steps={})
    params = SimpleNamespace(datasets=["birds"], all_methods=lambda: methods, report=settings)
    table = tables.accuracy(runs, correct, params).set_index("method")
    assert table.loc["baseline", ["gain_seeds", "step_seeds"]].isna().all()
    for above, method in zip(methods, methods[1:], strict=False):
        for name, p, base in (("gain", "p", "baseline"), ("step", "step_p", above)):
            row = compare([BIRDS / base, BIRDS / method], replicates=1000)["rows"][1]
            found = table.loc[method, [name, f"{name}_low", f"{name}_high", p, f"{name}_seeds"]].tolist()
            assert found == pytest.approx([row[key] for key in ("difference", "low", "high", "p", "seeds_needed")])
    for p in ("p", "step_p"):
        corrected = multipletests(table[p][1:], method="holm")[1]
        assert table[f"{p}_holm"].tolist()[1:] == pytest.approx(corrected.tolist())
        assert table[p[:-1] + "significant"].tolist() == [False, *(corrected < 0.05)]


def test_recomputed_from_the_predictions():
    result = compare([BIRDS / "baseline", BIRDS / "cutmix", BIRDS / "margin"], confidence=0.9, replicates=2000)
    accuracy = {
        row: np.array([100 * right(BIRDS / row / str(seed)).mean() for seed in result["rows"][0]["seeds"]])
        for row in ("baseline", "cutmix", "margin")
    }
    assert labels(result) == list(accuracy) and result["images"] == 432 and result["split"] == "test"
    for row in result["rows"]:
        found = accuracy[row["method"]]
        low, high = scipy_stats.ttest_1samp(found, 0).confidence_interval(0.9)
        assert (row["accuracy"] - row["half"], row["accuracy"] + row["half"]) == pytest.approx((low, high))
    others = result["rows"][1:]
    for row in others:
        gaps = accuracy[row["method"]] - accuracy["baseline"]
        assert row["difference"] == pytest.approx(gaps.mean()) and row["low"] < row["difference"] < row["high"]
        needed = (row["seeds_needed"], row["seeds_needed_low"], row["seeds_needed_high"])
        assert needed == stats.seeds_needed(gaps, 0.9)
    corrected = multipletests([row["p"] for row in others], method="holm")[1]
    assert [row["p_holm"] for row in others] == pytest.approx(corrected.tolist())


def test_two_single_runs_are_mcnemars():
    a, b = (right(BIRDS / name) for name in ("cutmix/0", "baseline/0"))
    expected = statsmodels_mcnemar([[0, np.sum(a & ~b)], [np.sum(~a & b), 0]], exact=True)
    result = compare([BIRDS / "baseline/0", BIRDS / "cutmix/0"], replicates=500)
    found = result["mcnemar"]
    assert (found["only_row"], found["only_reference"]) == (np.sum(a & ~b), np.sum(~a & b))
    assert found["p"] == pytest.approx(expected.pvalue)
    turned = compare([BIRDS / "cutmix/0", BIRDS / "baseline/0"], replicates=500)
    assert turned["reference"] == "cutmix" and turned["rows"][1]["difference"] == -result["rows"][1]["difference"]
    assert turned["mcnemar"] == {
        "only_row": found["only_reference"],
        "only_reference": found["only_row"],
        "p": found["p"],
    }
    assert not result["rows"][1]["significant"] and math.isnan(result["rows"][1]["half"])
    assert any("nothing is called significant" in note for note in result["notes"])
    assert compare([BIRDS / "baseline", BIRDS / "cutmix"], replicates=500)["mcnemar"] is None


def test_folders_are_searched_at_any_depth(write, tmp_path):
    runs = [write(f"deep/er/{method}/{seed}") for method in ("a", "b") for seed in (0, 1)]
    (tmp_path / "deep/er/b/1/.partial").mkdir()  # a run that is being written anew
    (tmp_path / "deep/er/b/1/.partial/config.json").write_text("{")
    found = [compare(folders, replicates=200) for folders in ([tmp_path], runs, [tmp_path / "deep/er/a", *runs[2:]])]
    assert as_json(found[0]) == as_json(found[1]) == as_json(found[2])
    assert [row["seeds"] for row in found[0]["rows"]] == [[0, 1], [0, 1]]


def test_seeds_are_ordered_as_numbers(write):
    runs = [write(f"{method}/{seed}") for method in ("a", "b") for seed in (10, 9, 2)]
    assert compare(runs, replicates=200)["rows"][0]["seeds"] == [2, 9, 10]


def test_reference(write, tmp_path):
    for method in ("adaptive", "baseline", "cutmix"):
        write(f"{method}/0"), write(f"{method}/1")
    folders = [tmp_path / name for name in ("cutmix", "adaptive", "baseline")]

    def found(folders, baseline=None):
        result = compare(folders, baseline, replicates=200)
        return result["reference"], labels(result)

    assert found(folders) == ("cutmix", ["cutmix", "adaptive", "baseline"])
    assert found(folders, "baseline") == ("baseline", ["baseline", "cutmix", "adaptive"])
    assert found([tmp_path]) == ("baseline", ["baseline", "adaptive", "cutmix"])
    shutil.rmtree(tmp_path / "baseline")
    assert found([tmp_path])[0] == "adaptive"


def test_turned_round_the_difference_changes_its_sign(write, tmp_path):
    for method, skill in (("a", 0.5), ("b", 0.6)):
        for seed in range(3):
            write(f"{method}/{seed}", skill)
    one, turned = (compare([tmp_path], baseline, replicates=20_000)["rows"][1] for baseline in ("a", "b"))
    assert one["difference"] > 0 and turned["difference"] == pytest.approx(-one["difference"])
    assert (turned["low"], turned["high"]) == pytest.approx((-one["high"], -one["low"]), abs=1.0)
    assert turned["p"] == pytest.approx(one["p"], abs=0.02)
    needed = ("seeds_needed", "seeds_needed_low", "seeds_needed_high")
    assert [turned[key] for key in needed] == [one[key] for key in needed]


def test_rows_of_one_method_are_told_apart(write):
    def found(*changes):
        runs = [write(f"{count}-{k}/cutmix/{seed}", **each) for k, each in enumerate(changes) for seed in (0, 1)]
        return labels(compare(runs, replicates=200))

    count = "setting"
    assert found({}, {"train.lr": 0.02}) == ["cutmix (train.lr=0.01)", "cutmix (train.lr=0.02)"]
    count = "shortest"
    assert found({}, {"train.epochs": 40, "train.lr": 0.02})[1] == "cutmix (train.lr=0.02)"
    count = "suite"
    assert found({}, {"suite": "two", "fit": ["train"]}) == ["cutmix (suite=one)", "cutmix (suite=two)"]
    count = "grid"
    assert found({}, {"train.lr": 0.02}, {"train.epochs": 40})[1] == "cutmix (train.lr=0.02, train.epochs=20)"
    count = "three"
    assert found({}, {"train.lr": 0.02}, {"train.lr": 0.03, "suite": "two"})[2] == "cutmix (train.lr=0.03)"
    count = "nested"
    assert found({}, {"settings": MIXUP}) == [
        "cutmix (settings.mix=null)",
        "cutmix (settings.mix=missing)",
    ]


def test_two_seeds_of_one_row_are_two_rows(write):
    result = compare([write("cutmix/0"), write("cutmix/1")], replicates=200)
    assert labels(result) == ["cutmix (seed=0)", "cutmix (seed=1)"] and result["mcnemar"]


def test_seeds_that_both_have_are_paired(write):
    runs = [write(f"baseline/{seed}") for seed in (0, 1, 2)]
    runs += [write(f"cutmix/{seed}", 0.6) for seed in (1, 2, 3)]
    result = compare([*runs, write("margin/0"), write("margin/1"), write("margin/2")], replicates=200)
    row = result["rows"][1]
    assert row["seeds"] == [1, 2, 3] and row["paired_seeds"] == [1, 2]
    gaps = [100 * (right(runs[2 + seed]).mean() - right(runs[seed]).mean()) for seed in (1, 2)]
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert row["accuracy"] == pytest.approx(100 * np.mean([right(run).mean() for run in runs[3:]]))  # over its own
    notes = "\n".join(result["notes"])
    assert "cutmix over baseline: by the common seeds (1, 2)." in notes and "margin over" not in notes
    assert "Seeds: 0, 1, 2 of baseline; 1, 2, 3 of cutmix; 0, 1, 2 of margin." in notes


def test_single_runs_need_not_share_a_seed(write):
    runs = [write("baseline/0"), write("cutmix/5", 0.6), write("margin/7")]
    result = compare(runs, replicates=200)
    assert [row["paired_seeds"] for row in result["rows"]] == [[], [5], [7]] and result["mcnemar"] is None
    assert result["rows"][1]["difference"] == pytest.approx(100 * (right(runs[1]).mean() - right(runs[0]).mean()))


def test_no_seed_in_common_is_refused(write):
    runs = [write(name) for name in ("baseline/0", "baseline/1", "cutmix/2", "cutmix/3")]
    with pytest.raises(LapmlError, match=r"cutmix: found seed 2, 3, expected at least one of baseline's \(0, 1\)"):
        compare(runs)


@pytest.mark.parametrize("top", [1, 2, 5])
def test_top(write, top):
    runs = [write(f"{method}/{seed}", skill) for method, skill in (("a", 0.4), ("b", 0.5)) for seed in (0, 1)]
    result = compare(runs, top=top, replicates=200)
    expected = [100 * np.mean([right(run, top).mean() for run in each]) for each in (runs[:2], runs[2:])]
    assert [row["accuracy"] for row in result["rows"]] == pytest.approx(expected)
    assert f"| top-{top} (± 95 %) |" in markdown(result)


def test_top_five_is_higher(write):
    runs = [write("a/0"), write("b/0")]
    by_top = [compare(runs, top=top, replicates=50)["rows"][0]["accuracy"] for top in (1, 2)]
    assert by_top[0] < by_top[1]


def test_other_settings_are_noted(write):
    notes = compare([write("baseline/0"), write("cutmix/0", settings=MIXUP)], replicates=50)["notes"]
    assert not any("differ" in note for note in notes)  # a row's own part is what is compared
    real = [PUBLISHED / f"warblers/runs/cub200/{method}/0" for method in ("snapmix", "loc_cutmix")]
    notes = compare(real, replicates=50)["notes"]
    assert not any("differ" in note for note in notes)  # only rows that mix by maps have settings of these
    runs = [
        write("x/baseline/0"),
        write("x/cutmix/0", **{"train.epochs": 40}),
        write("x/margin/0", **{"data.view.side": 96}),
    ]
    [note] = [note for note in compare(runs, replicates=50)["notes"] if "differ" in note]
    assert note == (
        "The runs differ in more than their method: data.view.side (64: baseline, cutmix; 96: margin), "
        "train.epochs (20: baseline, margin; 40: cutmix)."
    )


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"device": "NVIDIA H100"}, "The runs differ in device: CPU; NVIDIA H100."),
        ({"processes": 2}, "The runs differ in processes: unknown; 2."),
        ({"commit": None}, f"The runs differ in commit: {'c' * 40}; unknown."),
        ({"precision": "bf16"}, "The runs differ in precision: fp32; bf16."),
        ({"weights": {"sha256": "f"}}, "The runs start from different pretrained weights."),
        ({"weights": None}, "The runs start from different pretrained weights."),
        ({"dirty": True}, "Some runs come from uncommitted code: their commit does not show all the code that ran."),
    ],
)
def test_other_origins_are_noted(write, origin, expected):
    notes = compare([write("baseline/0"), write("cutmix/0", origin=origin)], replicates=50)["notes"]
    assert notes[-1] == expected
    assert expected not in compare([write("x/baseline/0"), write("x/cutmix/0")], replicates=50)["notes"]


@pytest.mark.parametrize(("grid", "told"), [(4, True), (6, False)])
def test_other_maps_are_noted_where_they_are_of_the_same_settings(write, grid, told):
    real = json.loads((PUBLISHED / "warblers/runs/cub200/loc_cutmix/0/config.json").read_text())
    settings, localise = real["settings"], real["localise"]
    runs = [
        write("one/0", settings=settings, localise=localise, origin={"localised_sha256": "e" * 64}),
        write("two/0", settings=settings, localise=localise | {"parts": grid}, origin={"localised_sha256": "f" * 64}),
    ]
    notes = compare(runs, replicates=50)["notes"]
    assert (MAPS in notes) is told and any("localise.parts (4: one; 6: two)" in note for note in notes) is not told


def test_few_seeds_are_noted(write):
    def noted(seeds):
        runs = [write(f"{seeds}/{method}/{seed}") for method in ("a", "b") for seed in range(seeds)]
        return any(note.startswith("Fewer than five seeds") for note in compare(runs, replicates=50)["notes"])

    assert [noted(seeds) for seeds in (1, 2, 4, 5)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cars"}, r"cutmix/0/config.json: dataset: found 'cars', expected 'birds' \(as in .*baseline/0\)"),
        ({"evaluate": "val"}, "cutmix/0/config.json: evaluate: found 'val', expected 'test'"),
        ({"origin": {"data_sha256": "f"}}, f"cutmix/0/provenance.json: data_sha256: found 'f', expected '{'d' * 64}'"),
        ({"labels": 6}, r"cutmix/0/predictions.parquet: row 6: image, label: found \('006.jpg', 0\), expected"),
        ({"images": 100}, "cutmix/0/predictions.parquet: found 100 images, expected 120"),
    ],
)
def test_other_images_are_refused(write, changes, message):
    with pytest.raises(LapmlError, match=f"{message}.*only runs evaluated on the same images are compared"):
        compare([write("baseline/0"), write("cutmix/0", **changes)])


def test_the_same_seed_twice_is_refused(write, tmp_path):
    first, second = write("a/cutmix/0"), write("b/cutmix/0")
    message = f"{second}: found seed 0 of cutmix again, expected each seed of a method once; leave it or {first} out"
    for others in ([], [write("baseline/0")]):
        with pytest.raises(LapmlError, match=message):
            compare([first, second, *others])
    with pytest.raises(LapmlError, match="found seed 0 of baseline again"):
        compare([tmp_path / "baseline", tmp_path / "baseline/0", first])


def test_one_row_is_refused(write):
    runs = [write(f"cutmix/{seed}") for seed in range(3)]
    with pytest.raises(LapmlError, match=r"found one method, cutmix \(seed 0, 1, 2\), expected two or more"):
        compare(runs)
    with pytest.raises(LapmlError, match=r"found one method, cutmix \(seed 0\)"):
        compare(runs[:1])


def test_no_run_and_no_folder_are_refused(write, tmp_path):
    run = write("cutmix/0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LapmlError, match="empty: holds no run, expected folders with config.json, "):
        compare([run, tmp_path / "empty"])
    for name, said in (
        ("nowhere", "no such folder; a run lies in results/"),
        ("cutmix/0/config.json", f"is a file of a run.*{run}$"),
    ):
        with pytest.raises(LapmlError, match=f"{name}: {said}"):
            compare([run, tmp_path / name])


def test_an_unknown_baseline_is_refused(write):
    with pytest.raises(LapmlError, match="--baseline: found 'basline', expected one of 'baseline', 'cutmix'"):
        compare([write("baseline/0"), write("cutmix/0")], "basline")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "--top: found 0, expected 1 to 5"),
        ({"top": 6}, "--top: found 6, expected 1 to 5"),
        ({"confidence": 95.0}, "confidence: found 95.0"),
        ({"replicates": 0}, "found 0 replicates"),
    ],
)
def test_settings_out_of_range_are_refused(write, settings, message):
    with pytest.raises(LapmlError, match=message):
        compare([write("baseline/0"), write("cutmix/0")], **settings)


@pytest.mark.parametrize("name", [name for name in RUN_FILES if name != "model.safetensors"])
def test_missing_and_altered_files_are_refused(write, name):
    other, run = write("baseline/0"), write("cutmix/0")
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        LapmlError, match="cutmix/0.*(damaged|is not the file that this run wrote).*train the run again"
    ):
        compare([other, run])
    (run / name).unlink()
    with pytest.raises(LapmlError, match=f"cutmix/0: {name} is missing: the run is not complete"):
        compare([other, run])


def test_the_model_may_be_absent_but_not_another(write):
    other, run = write("baseline/0"), write("cutmix/0")
    whole = as_json(compare([other, run], replicates=50))
    (run / "model.safetensors").unlink()
    assert as_json(compare([other, run], replicates=50)) == whole
    (run / "model.safetensors").write_text("another")
    with pytest.raises(LapmlError, match="model.safetensors: is not the file that this run wrote"):
        compare([other, run])


def test_a_run_that_is_not_done_is_refused(write, tmp_path):
    write("baseline/0"), write("cutmix/0")
    (tmp_path / "cutmix/1").mkdir()
    (tmp_path / "cutmix/1/last.pt").write_text("state")
    with pytest.raises(LapmlError, match="cutmix/1: config.json is missing: the run is not complete"):
        compare([tmp_path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[]", "config.json: found list, expected a JSON object; train the run again"),
        ("config.json", '{"suite": "one"}', "config.json: dataset: missing"),
        (
            "predictions.parquet",
            "no table",
            r"cutmix/0: predictions.parquet: cannot be read \(.*\); train the run again",
        ),
    ],
)
def test_files_of_another_shape_are_refused(write, name, text, message, seal):
    other, run = write("baseline/0"), write("cutmix/0")
    (run / name).write_text(text)
    seal(run)
    with pytest.raises(LapmlError, match=message):
        compare([other, run])


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": 3}', '{"files": ["config.json"]}'])
def test_a_damaged_provenance_is_refused(write, text):
    other, run = write("baseline/0"), write("cutmix/0")
    (run / "provenance.json").write_text(text)
    with pytest.raises(LapmlError, match="cutmix/0: config.json or provenance.json is damaged"):
        compare([other, run])


def test_predictions_without_enough_answers_are_refused(write, seal):
    other, run = write("baseline/0"), write("cutmix/0")
    pd.read_parquet(run / "predictions.parquet").drop(columns="top5").to_parquet(run / "predictions.parquet")
    seal(run)
    assert compare([other, run], replicates=50)
    with pytest.raises(LapmlError, match="cutmix/0: predictions.parquet: cannot be read .*top5"):
        compare([other, run], top=5)


def test_markdown_holds_the_numbers(write):
    runs = [write(f"baseline/{seed}", 0.3) for seed in range(3)]
    runs += [write(f"cutmix/{seed}", 0.7) for seed in range(3)]
    runs += [write(f"margin/{seed}", 0.302) for seed in range(3)]
    result = compare(runs, confidence=0.9, replicates=3000)
    head, rule, *lines = [line for line in markdown(result).splitlines() if line.startswith("|")]
    table = list(csv.reader([line.strip("| ") for line in (head, *lines)], delimiter="|", skipinitialspace=True))
    table = [[cell.strip() for cell in line] for line in table]
    assert {len(line) for line in table} == {7} == {rule.count("---")}
    assert table[0][2:4] == ["top-1 (± 90 %)", "points over baseline [90 %]"]
    assert table[1] == [
        "baseline",
        "3",
        f"{result['rows'][0]['accuracy']:.1f} ± {result['rows'][0]['half']:.1f}",
        *"––––",
    ]
    cutmix, margin = result["rows"][1:]
    assert cutmix["significant"] and not margin["significant"]
    assert table[2][3] == f"**+{cutmix['difference']:.1f} [{cutmix['low']:.1f}, {cutmix['high']:.1f}]**"
    assert table[2][4:] == [
        "< 0.001", "0.0013" if cutmix["p_holm"] >= 0.001 else "< 0.001",
        f"{cutmix['seeds_needed']} ({cutmix['seeds_needed_low']} to {cutmix['seeds_needed_high']})",
    ]  # fmt: skip
    assert "**" not in table[3][3] and table[3][4] == f"{margin['p']:.2f}"
    text = markdown(result)
    assert "birds, 120 test images" in text and "3,000 replicates" in text and "differences (2)" in text
    assert "below 0.1." in text and "probability 0.8" in text and "nan" not in text and "inf" not in text


def test_markdown_of_single_runs():
    result = compare([BIRDS / "baseline/0", BIRDS / "cutmix/0"], replicates=500)
    text, found = markdown(result), result["mcnemar"]
    [line] = [line for line in text.splitlines() if line.startswith("| cutmix | 1 |")]
    assert f"| {result['rows'][1]['accuracy']:.1f} (one seed) |" in line and line.endswith("| – |") and "**" not in text
    assert "Seeds needed:" not in text and "nan" not in text
    assert 0.001 < found["p"] < 0.05
    assert (
        f"- McNemar’s exact test: images that only cutmix gets right: {found['only_row']}; that only baseline does: "
        f"{found['only_reference']}; p = {found['p']:.2g}."
    ) in text


def test_without_a_difference_there_is_no_number_of_seeds(write, seal):
    runs = [write(f"a/{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        copy = shutil.copytree(run, run.parents[1] / f"b/{seed}")
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "method": "b"}))
        seal(copy)
        runs = [*runs, copy]
    result = compare(runs, replicates=50)
    assert "| b | 2 |" in markdown(result) and "| +0.0 [0.0, 0.0] | 1.00 | 1.00 | – |" in markdown(result)
    assert json.loads(as_json(result))["rows"][1]["seeds_needed"] is None


def test_json_is_plain(write):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    runs = [write(f"{method}/{seed}", skill) for method, skill in (("a", 0.5), ("b", 0.503)) for seed in range(4)]
    result = compare(runs, replicates=50)
    result["rows"][1]["seeds_needed_high"] = math.inf
    found = json.loads(as_json(result), parse_constant=refuse)
    assert found["rows"][0]["p"] is None and found["rows"][1]["seeds_needed_high"] == "> 1000"
    assert found["rows"][1]["difference"] == result["rows"][1]["difference"] and found["notes"] == result["notes"]
    assert list(found) == list(result) and [list(row) for row in found["rows"]] == [list(row) for row in result["rows"]]


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command_prints_the_table(invoke):
    runs = [BIRDS / "baseline", BIRDS / "cutmix"]
    ended = invoke(*runs)
    assert ended.exit_code == 0 and ended.stdout == markdown(compare(runs)) + "\n"
    options = ["--baseline", "cutmix", "--top", 5, "--confidence", 0.9, "--replicates", 300, "--json"]
    ended = invoke(*runs, *options)
    assert ended.exit_code == 0 and ended.stdout == as_json(compare(runs, "cutmix", 5, 0.9, 300)) + "\n"


def test_the_command_refuses_in_one_line(invoke, tmp_path):
    ended = invoke(tmp_path / "nowhere")
    assert ended.exit_code == 1 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: {tmp_path / 'nowhere'}: no such folder; ") and ended.stderr.count("\n") == 1
    assert invoke().exit_code == 2 and invoke(BIRDS, "--top", 6).exit_code == 2


def test_the_example_works(invoke, monkeypatch):
    monkeypatch.chdir(ROOT)
    example = command.__doc__.partition("Example: lapml compare ")[2].split()
    assert len(example) == 2 and invoke(*example, "--replicates", 100).exit_code == 0
