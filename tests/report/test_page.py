import base64
import re
from html.parser import HTMLParser

import pytest

from lapml.analysis import tables
from lapml.report import page

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


def build(suite, galleries=None, text="suite: fake", overridden=None):
    params, paths = suite
    runs = tables.collect(params, paths)
    epochs = tables.histories(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    tuned = {("birds", name): tables.tuned_record(params, paths, "birds", name) for name in params.tuned_methods}
    pictures = {"birds": galleries("birds")} if galleries else None
    return page.build(params, text, runs, epochs, table, tuned, pictures, overridden)


def test_the_page_stands_alone(suite, galleries):
    html = build(suite, galleries)
    checker = check(html)
    assert '<meta name="lapml-images" content="data">' in html and html.count("data:image/png") == 3
    assert not {"script", "link", "iframe", "object", "embed"} & set(checker.tags)
    assert all(link.startswith(("data:image/", "#")) for link in checker.links)
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
    assert "<script" not in html and "alert(&#39;x&#39;)" in html
    assert check(html)


@pytest.mark.usefixtures("quick")
def test_pages_of_few_rows(make):
    suite = make("ablation=[cutmix]", "tuned_methods=[]", "seeds=[1]", "diagnose.method=cutmix")
    html = build(suite)
    text = " ".join(check(html).text)
    assert "nothing to compare" in text and not re.search(r"\bnan\b", text.lower())
    assert "Tuned margins" not in text and "Only 1 seed:" in text


@pytest.mark.parametrize("seeds", ["[0]", "[0, 1]"])
def test_verdict_follows_the_numbers(make, seeds):
    params, paths = make(f"seeds={seeds}")
    runs = tables.collect(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    words = page.verdict(table, params)
    assert len(words["steps"]) == 4
    if seeds == "[0]":
        assert "cannot be judged" in words["summary"]
        return
    table["step_significant"], table["step"] = [False, True, True, True, True], [float("nan"), 1.0, 1.0, 1.0, 1.0]
    assert page.verdict(table, params)["summary"].startswith("Each of the 4 stages improved significantly")
    table["step"] = [float("nan"), 1.0, -1.0, 1.0, 1.0]
    assert "loc_cutmix was significantly worse" in page.verdict(table, params)["summary"]
    table["step_significant"] = False
    summary = page.verdict(table, params)["summary"]
    assert summary.startswith("Not every stage improved: cutmix, loc_cutmix, margin and adaptive_margin did not change")


@pytest.mark.usefixtures("quick")
def test_uncommitted_code_and_more_reads_are_told(suite, edit):
    params, paths = suite
    edit(paths.run("birds", "margin", 0) / "provenance.json", dirty=True, test_reads=2)
    text = " ".join("".join(check(build(suite)).text).split())
    assert "1 of 10 runs from a working tree with uncommitted changes" in text
    assert "read 2 times by 1 of 10 runs" in text and "read the test split more than once" in text


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


def test_nothing_published_stands_beside(suite):
    assert "Published elsewhere" not in build(suite)


def test_the_heading_says_what_each_data_set_was_trained_with(make):
    html = build(make("data.birds.overrides={model: {name: resnet18}, train: {epochs: 5}}"))
    assert "5 epochs of resnet18;" in html


def test_a_suite_read_on_validation_says_so_wherever_it_names_the_split(suite):
    params, paths = suite
    runs = tables.collect(params, paths)
    read = params.model_copy(update={"eval_split": "val"})
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    html = page.build(read, "suite: fake", runs, tables.histories(params, paths), table, {}, None)
    assert "Validation accuracy of birds" in html and "Test accuracy" not in html
    assert "validation images of birds" in html and "over seeds and validation images" in html
    assert "they say nothing of the test split" in html
    assert "they say nothing of the test split" not in build(suite)
