"""Names that are markup somewhere: each is shown as it is in every output, and breaks none."""

import csv
import json
import re
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lapml import config
from lapml.cli import app
from lapml.common import text
from lapml.errors import LapmlError
from lapml.report import figures, gallery

ROOT = Path(__file__).parents[2]
NASTY = [
    "Ba$$ guitar", "US$5 vs US$10", "$x_1^2$", r"\frac{1}{2}", r"a\$b", "$", "$$", "_", "__init__", "^", "100 %", "A & B", "C#",
    "{curly}", "}{", "{{ jinja }}", "{% raw %}", "<script>alert(1)</script>", "a<b>c", "&amp;", "&#60;", '"quoted"', "it's",
    "`back`", "a | b", "|", "**bold**", "*", "[link](http://x)", "![x](y)", "~~gone~~", "a\nb", "tab\there", "cr\rlf",
    "=1+1", "+1", "-1", "@SUM(A1)", "no", "yes", "null", "true", "1e3", "007", "2020-01-01", "1.5", "2.5", "1.", "..x",
    " leading", "trailing ", "a;b,c", "Möwe", "鳥", "طائر", "\u202eright to left",
    "🦜", "👩‍🔬", "e\u0301", "\x1b[31mred", "\x7f", "\u2028",
    "x" * 200,
    "$(touch /tmp/pwned)", "; rm -rf x", "a'b\"c`d", "%s %d {0}", "-", "--help", "#", "~", "nul\\",
]  # fmt: skip


# --- one by one ---


@pytest.mark.parametrize("name", NASTY)
def test_a_line_is_one_and_can_be_printed(name):
    found = text.line(name)
    assert len(found.splitlines()) == 1 and not re.search(
        "[\x00-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]", found
    )
    assert found == name or not name.isprintable()


@given(st.text(min_size=1))
def test_any_text_is_a_line(name):
    found = text.line(name)
    found.encode()  # bytes that are no text too
    assert len(found.splitlines()) <= 1
    assert text.line(found) == found


def cells_of(line: str) -> list[str]:
    """The cells of a row of a GFM table, as they are shown."""
    inner = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell.strip()) for cell in inner]


@pytest.mark.parametrize("name", NASTY)
def test_markdown_is_shown_as_typed(name):
    escaped = text.markdown(name)
    row = f"| {escaped} | 1 |"
    assert cells_of(row) == [text.line(name).strip(), "1"]
    for mark in "`*|<&~$[":  # each of them, where it stands, is no markup
        assert not re.search(rf"(?<!\\)(?:\\\\)*{re.escape(mark)}", escaped) or mark not in name
    assert "](" not in escaped.replace("\\[", "").replace("\\(", "") or "\\[" in escaped


def test_plain_names_stay_as_they_are():
    for name in (
        "loc_cutmix",
        "cutmix (train.lr=0.02)",
        "random places",
        "adaptive_margin",
        "113.Baird_Sparrow",
        "a-b",
    ):
        assert text.markdown(name) == name == text.line(name)
    assert text.tex("loc_cutmix ± 1") == r"loc\_cutmix $\pm$ 1"


RULES = {  # LaTeX's special characters, and how each is written in text
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}", "<": "$<$", ">": "$>$",
}  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_latex_is_shown_as_typed(name):
    made, left = text.tex(name), ""
    while made:  # read back by the table of rules
        for shown, written in RULES.items():
            if made.startswith(written):
                left, made = left + shown, made[len(written) :]
                break
        else:
            assert made[0] not in RULES, made
            left, made = left + made[0], made[1:]
    assert left == text.line(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("1.5", "1.5"),
        ("2.", "2."),
        ("12.鳥", "鳥"),
    ],
)
def test_only_the_number_of_a_class_is_left_out(name, shown):
    assert text.class_name(name) == shown


# --- figures ---

DRAWN = [name for name in NASTY if set(name) & set("$\\_^{\n\x1b\u202e鳥🦜") or len(name) > 100]


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> list[str]:
    """Every text that is drawn, and whether it was taken for mathematics."""
    seen, original = [], matplotlib.text.Text._preprocess_math

    def spy(self, words):
        shown, math = original(self, words)
        assert math is False, words
        seen.append(shown)
        return shown, math

    monkeypatch.setattr(matplotlib.text.Text, "_preprocess_math", spy)
    return seen


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_is_whole_whatever_a_row_is_called(name, drawn):
    """As of `lapml distances`, whose rows are told apart by their settings: a path may be one."""

    def draw(axes):
        axes.plot([0, 1], [0, 1], label=text.shortened(text.line(f"cutmix ({name})"), 60))

    assert ElementTree.fromstring(figures._chart(draw)).tag.endswith("svg")
    assert text.shortened(text.line(f"cutmix ({name})"), 60) in drawn


def test_axes_of_powers_are_still_mathematics(monkeypatch):
    monkeypatch.undo()
    seen, original = [], matplotlib.text.Text._preprocess_math
    monkeypatch.setattr(
        matplotlib.text.Text, "_preprocess_math", lambda *each: seen.append(original(*each)) or seen[-1]
    )
    points = {name: {"line": [[1, 1e-4, 1e-5], [1000, 1e3, 1.0]]} for name in "abcd"}
    figures.growth(points, {name: ("images", "s") for name in "abcd"})
    assert any(math and "10^" in words for words, math in seen)


# --- the gallery's page ---


class Page(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words, self.values = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.values += [value for _, value in attributes if value]

    def handle_data(self, data):
        self.words.append(data)


def page_of(name: str) -> Page:
    picture = np.zeros((8, 8, 3), np.uint8)
    mix = gallery.Mix("cutmix", name, picture, (0, 0, 4, 4), None, None, None, None, 0.5, 0.5, 0.5, 0.2, 0.3, [name])
    return Page(gallery.page(name, name, [gallery.Pair(picture, picture, name, name, None, None, [mix])], False))


@pytest.mark.parametrize("name", NASTY)
def test_the_gallery_shows_names_as_typed(name):
    plain, page = page_of("Sparrow"), page_of(name)
    assert page.tags == plain.tags  # nothing of the name became an element
    assert page.words.count(text.class_name(name)) >= 4
    assert any(text.class_name(name) in value for value in page.values)  # of aria-label


# --- params ---


@pytest.mark.parametrize(
    "name", [name for name in NASTY if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name)] + ["x" * 65, ""]
)
def test_names_that_become_paths_are_refused_by_a_clear_error(tmp_path, name):
    """Of a suite, a data set and a method, each by a line of its own."""
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["suite"] = name
    raw["data"][name] = raw["data"]["birds"]
    raw["methods"][name] = {}
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    with pytest.raises(LapmlError) as caught:
        config.load(tmp_path / "params.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(tmp_path / "params.yaml")) for line in lines), lines
    for key in ("suite", "data", "methods"):
        assert [line for line in lines if line.removeprefix(f"{tmp_path / 'params.yaml'}: ").startswith(key)], (
            key,
            lines,
        )


@pytest.mark.parametrize("name", ["no", "yes", "null", "true", "1e3", "007", "2020", "0x1F", "a", "a_", "A-_b_-c"])
def test_names_that_yaml_could_take_for_something_else(tmp_path, name):
    base = (ROOT / "suites/base.yaml").resolve()
    overlay = {
        "base": str(base),
        "suite": name,
        "datasets": [name],
        "data": {name: {"reader": "folder", "source": "x", "synthetic": None}},
    }
    overlay |= {
        "ablation": [name],
        "tuned_methods": [],
        "methods": {name: {}},
        "diagnose": {"method": name},
        "report": {"steps": {}},
    }
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(overlay))  # quoted, as JSON is
    from lapml.config import overlays

    composed = tmp_path / "composed.yaml"
    composed.write_text(overlays.composed(file))
    assert config.load(composed) == config.load(file)
    params = config.load(composed)
    assert (params.suite, params.datasets, params.ablation) == (name, [name], [name])


@pytest.mark.parametrize("key", ["007", "1e3", "true", "null", "1", "~"])
def test_a_key_that_is_no_text_is_refused(tmp_path, key):
    (tmp_path / "params.yaml").write_text(f"suite: x\nmethods: {{{key}: {{}}}}\n")
    with pytest.raises(LapmlError, match=r"params.yaml: key .*expected text; put it in quotes"):
        config.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", ["published", "bench"])
def test_a_suite_does_not_take_the_folder_of_another_thing(name):
    with pytest.raises(LapmlError, match=f"suite: found '{name}', expected another name"):
        config.load(ROOT / "params.yaml", [f"suite={name}"])


# --- from photos to every output ---

SISTERS = ["red $y|`", "blue $y|`"]  # of one last word: a group of `lapml confusions`
IN_FOLDERS = SISTERS + [
    name for name in NASTY if "/" not in name and len(name.encode()) < 200 and not name.startswith(".")
]
TINY = [
    "suite=nasty", "ablation=[baseline, cutmix]", "tuned_methods=[]", "seeds=[0, 1]", "model.name=test_resnet",
    "model.weights=none",
    "model.truncate=8", "model.freeze=0", "data.birds.reader=folder", "data.birds.source=photos", "data.birds.synthetic=null",
    "data.birds.stored_side=48",
    "data.birds.view.side=48", "train.epochs=1", "train.batch=16", "train.device=cpu", "train.warmup_epochs=0",
    "defaults.mixers.localized.maps=recent", "methods.cutmix_semantic.mixer.maps=recent", "defaults.mix.warmup_epochs=0",
    "diagnose.images=40", "diagnose.pairs=40", "report.bootstrap=100", "report.steps={}",
]  # fmt: skip


def lapml(*words: object) -> str:
    sets = [part for each in TINY for part in ("--set", each)]
    made = words[0] in ("compare", "confusions", "predict", "explain")
    done = CliRunner().invoke(
        app, [*map(str, words), *([] if made else ["--params", str(ROOT / "params.yaml"), *sets])]
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_output_of_a_suite_of_nasty_names(tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for kind, name in enumerate(IN_FOLDERS):
        for split, count in (("train", 4), ("test", 2)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 40, 3)).astype(np.uint8)
                file = IN_FOLDERS[(kind + number) % len(IN_FOLDERS)]  # file names are as nasty
                Image.fromarray(pixels).save(folder / f"{file}{number}.png", format="png")
    for words in (("fetch", "birds"), ("prepare", "birds"), ("check", "birds"), ("show", "birds", "--count", 400)):
        said = lapml("data", *words)
        assert "\x1b" not in said and "\u202e" not in said
    assert any("Ba$$ guitar" in words for words in drawn) and any("US$5 vs US$10" in words for words in drawn)
    for row in ("baseline", "cutmix"):
        for seed in (0, 1):
            lapml("train", "birds", row, seed)
    lapml("diagnose", "birds")
    lapml("report")
    base = Path("results/nasty")
    for path in (base / "report/report.html", base / "diagnosis/birds/gallery.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<script>alert|a<b>c|\x1b|\u202e", page)
        assert {"&amp;", "&#60;", "a<b>c"} & set(Page(page).words)  # as typed; which of them is shown, the seed decides
    shown = set(Page((base / "diagnosis/birds/gallery.html").read_text(encoding="utf-8")).words)
    assert len(shown & {text.class_name(name) for name in IN_FOLDERS}) > 15
    for path in base.glob("*/**/*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            assert len({len(row) for row in csv.reader(file)}) == 1, path
    tables = (
        lapml("compare", base / "runs"),
        lapml("confusions", base / "runs"),
        (base / "report/accuracy.md").read_text(),
    )
    for said in tables:
        blocks = [
            list(lines) for is_row, lines in groupby(said.splitlines(), lambda line: line.startswith("|")) if is_row
        ]
        assert all(len({len(cells_of(row)) for row in block}) == 1 for block in blocks)
        assert sum(map(len, blocks)) >= 4
    images = sorted(tmp_path.glob("photos/test/*/*.png"))[:40]
    run = base / "runs/birds/baseline/0"
    for said in (lapml("predict", run, *images), lapml("explain", run, *images, "--neighbours", 3)):
        assert "\x1b" not in said and "\u202e" not in said
    assert len(lapml("predict", run, *images, "--top", 3).splitlines()) == 1 + 3 * len(images)
    assert len(json.loads(lapml("predict", run, *images, "--json"))) == len(images)
    assert len(list(Path("explanations").glob("*.png"))) == len(images)
    assert not Path("/tmp/pwned").exists()
