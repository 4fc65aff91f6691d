"""The figure of one pair: each method's boxes and label stand in it as they were made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lapml.cli import app
from lapml.config import load
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.report import mixed
from lapml.report.gallery import Mix, Pair
from lapml.report.mixed import _pair, draw, picture

SIDE = 24
PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def pair(rng) -> Pair:
    def noise():
        return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    heat = np.full((4, 4), 1 / 16)
    boxed = Mix("cutmix", "", noise(), (2, 3, 10, 12), (5, 4, 13, 13), None, None, None, None, 0.7, 0.3, 0.1, 0.25, [])
    heavy = Mix("snapmix", "", noise(), (1, 1, 9, 9), (0, 0, 9, 9), None, heat, heat, None, 1.4, 1.2, 0.1, None, [])
    plain = Mix("mixup", "", noise(), None, None, None, None, None, None, 0.6, 0.4, 0.4, 0.5, [])
    return Pair(noise(), noise(), "001.Blue_$Jay$", "Tern", None, None, [boxed, heavy, plain])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_boxes_and_labels_are_those_of_the_mixes(pair):
    figure = picture(pair)
    rows = [figure.axes[at : at + 4] for at in range(0, 12, 4)]
    assert [row[0].get_ylabel() for row in rows] == ["cutmix", "snapmix", "mixup"]
    assert rows[0][0].get_title() == "reference\nBlue $Jay$" and rows[0][1].get_title() == "donor\nTern"
    for row, mix in zip(rows, pair.mixes, strict=True):
        for axes, box in zip(row[:3], (mix.box_to, mix.box_from, mix.box_to), strict=True):
            drawn = [(*np.add(patch.get_xy(), 0.5), patch.get_width(), patch.get_height()) for patch in axes.patches]
            assert drawn == ([(box[0], box[1], box[2] - box[0], box[3] - box[1])] if box else [])
        assert np.array_equal(row[2].images[0].get_array(), mix.image)
        assert [len(axes.images) for axes in row[:2]] == [1 if mix.reference_map is None else 2] * 2
        assert [bar.get_width() for bar in row[3].patches] == [mix.kept, mix.pasted]
        assert row[3].get_xlim()[1] >= max(mix.kept, mix.pasted)
        seen = [float(line.get_xdata()[0]) for line in row[3].lines]
        assert seen == ([] if mix.truth is None else [1 - mix.truth, mix.truth])
    assert "reference 0.70   (seen 0.75)" in {text.get_text() for text in rows[0][3].texts}


def test_each_format_is_written(pair, tmp_path):
    for suffix in ("png", "webp"):
        picture(pair).savefig(tmp_path / f"mixed.{suffix}")
        assert min(Image.open(tmp_path / f"mixed.{suffix}").size) > 300


@pytest.mark.parametrize(
    ("donors", "asked", "number"),
    [("ba", None, 1), ("aaba", None, 3), ("aaba", 2, 2), ("aa", None, 2)],
)
def test_without_a_number_it_is_the_first_pair_of_two_classes(pair, donors, asked, number):
    drawn = [replace(pair, reference_class="a", donor_class=donor) for donor in donors]
    found, chosen = _pair(iter(drawn), asked)
    assert found == number and chosen is drawn[number - 1]


def test_no_picture_where_none_may_be_shown(tmp_path):
    command = [
        "picture",
        "birds",
        "--params",
        str(PARAMS),
        "--set",
        "report.images=false",
        "--output",
        str(tmp_path / "a.png"),
    ]
    done = CliRunner().invoke(app, command)
    assert (
        done.exit_code == 1 and "pictures of the data are not written, and a pair of mixed images is one" in done.output
    )
    assert not list(tmp_path.iterdir())


def test_where_no_method_mixes_there_is_no_pair(tmp_path, monkeypatch):
    for name, found in (("truths", None), ("mixers", {})):
        monkeypatch.setattr(mixed, name, lambda *_, found=found: found)
    params = load(PARAMS)
    with pytest.raises(LapmlError, match=r"birds: found no method of suite demo that mixes.* no pair to draw"):
        draw(params, Paths(params.suite, tmp_path), "birds", [], None, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [("a.xyz", r"found suffix '.xyz', expected one of .*png"), ("a", "found suffix ''")],
)
def test_refusals_come_first(tmp_path, output, message):
    params = load(PARAMS)
    with pytest.raises(LapmlError, match=message):
        draw(params, Paths(params.suite, tmp_path), "birds", [], 1, tmp_path / output)
    assert not list(tmp_path.iterdir())
