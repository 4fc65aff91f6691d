"""`lapml confusions`: recounted one image at a time, and its statistics against those of `lapml compare`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lapml.analysis.compare import compare
from lapml.analysis.confusions import _group, confusions, groups_of, markdown
from lapml.cli import app
from lapml.errors import LapmlError

BIRDS = Path(__file__).resolve().parents[2] / "results/published/demo/runs/birds"
NAMES = ["001.Baird_Sparrow", "002.Song_Sparrow", "003.Least_Tern", "004.Common_Tern", "005.Ovenbird", "006.Fox_Sparrow",
         "007.Mallard"]  # fmt: skip
ORIGIN = {"class_names": NAMES}


@pytest.fixture
def runs(write, seal):
    """Three rows × two seeds whose mistakes fall on any class."""
    folders = []
    for row in ("baseline", "cutmix", "margin"):
        for seed in (0, 1):
            folder = write(f"{row}/{seed}", origin=ORIGIN)
            table = pd.read_parquet(folder / "predictions.parquet")
            rng = np.random.default_rng([seed, *row.encode()])
            wrong = rng.random(len(table)) < 0.5
            table.loc[wrong, "top1"] = rng.integers(0, len(NAMES), int(wrong.sum()))
            table["top1"] %= len(NAMES)
            table.to_parquet(folder / "predictions.parquet", index=False)
            seal(folder)
            folders.append(folder)
    return folders


def counted(folder, groups):
    """(share between sisters, share elsewhere, {group: share}) of a run, image by image."""
    within = elsewhere = 0
    by_group = dict.fromkeys(groups, 0)
    sizes = dict.fromkeys(groups, 0)
    table = pd.read_parquet(folder / "predictions.parquet")
    for row in table.itertuples():
        group, answer = (NAMES[k].split("_")[-1].split(".")[-1] for k in (row.label, row.top1))
        if group in sizes:
            sizes[group] += 1
        if row.top1 == row.label:
            continue
        if group == answer:
            within += 1
            by_group[group] += 1
        else:
            elsewhere += 1
    count = len(table) / 100
    return within / count, elsewhere / count, {group: 100 * by_group[group] / sizes[group] for group in groups}


def test_mistakes_are_counted(runs):
    result = confusions(runs, replicates=200)
    assert (result["dataset"], result["images"], result["sisters"], result["classes"]) == ("birds", 120, 5, 7)
    assert result["groups"] == {"Sparrow": 3, "Tern": 2} and result["reference"] == "baseline"
    for row, pair in zip(result["rows"], (runs[:2], runs[2:4], runs[4:]), strict=True):
        each = [counted(folder, ("Sparrow", "Tern")) for folder in pair]
        assert row["method"] == pair[0].parent.name and row["seeds"] == [0, 1]
        assert row["within"] == pytest.approx(np.mean([one[0] for one in each])) and row["within"] > 0
        assert row["elsewhere"] == pytest.approx(np.mean([one[1] for one in each])) and row["elsewhere"] > 0
        for group, share in row["groups"].items():
            assert share == pytest.approx(np.mean([one[2][group] for one in each]))
    above = result["rows"][0]["within"]
    for row in result["rows"][1:]:
        assert row["difference"] == pytest.approx(row["within"] - result["rows"][0]["within"])
        assert row["step_difference"] == pytest.approx(row["within"] - above)
        above = row["within"]


def test_where_all_classes_are_sisters_mistakes_are_the_accuracys(tmp_path):
    """In one group every mistake is between sisters: differences are those of compare, turned round."""
    folders = [BIRDS / row for row in ("baseline", "cutmix", "loc_cutmix")]
    names = json.loads((folders[0] / "0/provenance.json").read_text())["class_names"]
    (tmp_path / "one.csv").write_text("class,group\n" + "".join(f"{name},bird\n" for name in names))
    ours, theirs = confusions(folders, replicates=2000, file=tmp_path / "one.csv"), compare(folders, replicates=2000)
    for row, expected in zip(ours["rows"], theirs["rows"], strict=True):
        assert row["elsewhere"] == pytest.approx(0, abs=1e-9)
        assert row["within"] == pytest.approx(100 - expected["accuracy"])
        assert row["within_half"] == pytest.approx(expected["half"])
        if expected["method"] != "baseline":
            found = [row[key] for key in ("difference", "low", "high")]
            assert found == pytest.approx([-expected[key] for key in ("difference", "high", "low")], abs=0.5)
    assert ours["groups"] == {"bird": len(names)}


def test_groups_are_chosen_and_words_too(runs):
    assert list(confusions(runs, groups=["Tern"], replicates=100)["rows"][0]["groups"]) == ["Tern"]
    with pytest.raises(LapmlError, match="--group: found 'Gull', expected one of Sparrow, Tern"):
        confusions(runs, groups=["Gull"])
    with pytest.raises(LapmlError, match="no two of the 7 classes share their first word; try --word last"):
        confusions(runs, word="first")


OWN = "\n".join(
    ["class,group", *(f"{name},{'land' if number in (0, 4) else 'water'}" for number, name in enumerate(NAMES))]
)


def test_groups_of_a_file_in_place_of_words(runs, tmp_path):
    (file := tmp_path / "own.csv").write_text(OWN + "\n")
    result = confusions(runs, replicates=100, file=file)
    assert result["groups"] == {"land": 2, "water": 5} or result["groups"] == {"water": 5, "land": 2}
    land = np.isin(np.arange(len(NAMES)), (0, 4))
    for row, pair in zip(result["rows"], (runs[:2], runs[2:4], runs[4:]), strict=True):
        within = []
        for folder in pair:
            table = pd.read_parquet(folder / "predictions.parquet")
            same = land[table["label"]] == land[table["top1"]]
            within.append(100 * ((table["label"] != table["top1"]) & same).mean())
        assert row["within"] == pytest.approx(np.mean(within)) and row["within"] > 0
    assert f"classes that share their group in {file}, 7 of 7" in markdown(result)
    words = "class,group\n" + "".join(f"{name},{_group(name, 'last')}\n" for name in NAMES)
    file.write_text("\ufeff" + words, encoding="utf-8")  # as spreadsheets write it
    own, by_word = (markdown(confusions(runs, replicates=100, file=each)).splitlines() for each in (file, None))
    assert [(one, other) for one, other in zip(own, by_word, strict=True) if one != other] == [(own[6], by_word[6])]
    assert "Sisters" in own[6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("class,", "name,"), "found the columns name, group, expected class,group"),
        ("", "found the columns none, expected class,group"),
        (
            OWN.replace("001.Baird_Sparrow", "Baird_Sparow"),
            "own.csv:2: found 'Baird_Sparow', .* such as '001.Baird_Sparrow'",
        ),
        (OWN + "\n\n007.Mallard,water", "own.csv:10: found the class '007.Mallard' again"),
        (OWN.replace("005.Ovenbird,land", "005.Ovenbird, "), "own.csv:6: found no group for the class '005.Ovenbird'"),
        (OWN.replace("005.Ovenbird,land", "005.Ovenbird"), "own.csv:6: found no group for the class '005.Ovenbird'"),
        (OWN.replace("005.Ovenbird,land\n", ""), r"found no line for 1 of 7 classes \('005.Ovenbird'\)"),
        ("class,group\n", r"found no line for 7 of 7 classes \(.*'004.Common_Tern', …\)"),
    ],
)
def test_groups_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(LapmlError, match=message):
        groups_of(tmp_path / "own.csv", NAMES)


def test_groups_without_sisters_and_no_file(runs, tmp_path):
    (file := tmp_path / "own.csv").write_text("class,group\n" + "".join(f"{name},{name}\n" for name in NAMES))
    with pytest.raises(
        LapmlError, match="no two of the 7 classes share their group in .*own.csv; give sisters one group"
    ):
        confusions(runs, file=file)
    with pytest.raises(LapmlError, match="none.csv: cannot be read"):
        confusions(runs, file=tmp_path / "none.csv")
    file.write_bytes(b"class,group\n\xff,a\n")
    with pytest.raises(LapmlError, match="own.csv: cannot be read"):
        confusions(runs, file=file)


def test_runs_of_old_versions_name_no_classes(write):
    folders = [write("baseline/0"), write("cutmix/0")]
    with pytest.raises(LapmlError, match="baseline/0/provenance.json: class_names: missing"):
        confusions(folders)


def test_the_table_says_what_the_numbers_are(runs):
    result = confusions(runs, replicates=100)
    lines = markdown(result).splitlines()
    assert lines[0].startswith(
        "| method | seeds | between sisters % (± 95 %) | over baseline [95 %], p | over the method above"
    )
    assert lines[0].endswith("| other mistakes % | Sparrow (3) | Tern (2) |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[2].startswith(f"| baseline | 2 | {result['rows'][0]['within']:.1f} ± ") and "| – | – |" in lines[2]
    text, note = lines[lines.index("") + 1], lines[-2:]
    assert "5 of 7" in text and "120 test images" in text
    assert note[0] == "- Seeds of every method: 0, 1." and note[1].startswith("- Fewer than five seeds")


def test_methods_of_different_seeds(runs):
    """Each is compared by the seeds that it shares; with the one above only if there are any."""
    baseline, cutmix, margin = runs[:2], runs[2:4], runs[4:]
    result = confusions([*baseline, cutmix[0], margin[1]], replicates=100)
    first, second, third = result["rows"]
    assert (
        second["difference"]
        == second["step_difference"]
        == pytest.approx(second["within"] - counted(baseline[0], ("Sparrow", "Tern"))[0])
    )
    assert third["difference"] == pytest.approx(third["within"] - counted(baseline[1], ("Sparrow", "Tern"))[0])
    assert np.isnan(third["step_difference"]) and [row["paired_seeds"] for row in result["rows"]] == [[], [0], [1]]
    text = markdown(result)
    assert (
        "- cutmix over baseline: by the common seeds (0)." in text
        and "margin over baseline: by the common seeds (1)" in text
    )


def test_command(runs):
    folders = [str(folder) for folder in runs]
    done = CliRunner().invoke(app, ["confusions", *folders, "--group", "Tern", "--replicates", "100"])
    assert done.exit_code == 0 and "Tern (2)" in done.stdout and "Sparrow" not in done.stdout
    (file := runs[0].parent / "own.csv").write_text(OWN)
    done = CliRunner().invoke(app, ["confusions", *folders, "--groups", str(file), "--replicates", "100"])
    assert done.exit_code == 0 and "water (5)" in done.stdout and "land (2)" in done.stdout
    assert CliRunner().invoke(app, ["confusions", *folders, "--word", "middle"]).exit_code == 2
    assert json.loads((runs[0] / "provenance.json").read_text())["class_names"] == NAMES


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("113.Baird_Sparrow", "Baird", "Sparrow"),
        ("Bentley Continental Supersports Conv. Convertible 2012", "Bentley", "2012"),
        ("737-300", "737-300", "737-300"),
        ("Ovenbird", "Ovenbird", "Ovenbird"),
    ],
)
def test_words_of_class_names(name, first, last):
    assert (_group(name, "first"), _group(name, "last")) == (first, last)
