import itertools
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lapml.analysis import tables
from lapml.analysis.diagnosis.measure import Measured
from lapml.report import diagnosis_figures, figures, pairs


@pytest.fixture
def frames(suite):
    params, paths = suite
    runs = tables.collect(params, paths)
    return runs, tables.histories(params, paths), tables.accuracy(runs, tables.predictions(params, paths), params)


def charts(runs, epochs, table):
    return {
        "accuracy": figures.accuracy(table, runs),
        "loss": figures.loss_curves(epochs),
        "train": figures.accuracy_curves(epochs),
        "distances": figures.distances(epochs, runs),
        "beyond": figures.beyond(epochs, runs),
        "cost": figures.cost_against_accuracy(table, runs),
    }


def test_charts_are_svg_and_the_same_each_time(frames):
    runs, epochs, table = frames
    first = charts(runs, epochs, table)
    for name, image in first.items():
        assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg", name
    assert first["distances"] == figures.distances(epochs, runs)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_a_margin_that_grows_with_the_share_is_drawn_where_it_is(make, monkeypatch):
    """At 2mρ, the mean over the seeds; a constant one at m."""
    params, paths = make("methods.margin.margin.scale=share")
    runs, epochs = tables.collect(params, paths), tables.histories(params, paths)
    assert set(runs.loc[runs["method"] == "margin", "scale"]) == {"share"}
    drawn = {}

    def draw(function):
        axes = Figure().add_subplot()
        function(axes)
        dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
        drawn.update({line.get_color(): np.asarray(line.get_ydata()) for line in dotted})

    monkeypatch.setattr(figures, "_chart", draw)
    figures.distances(epochs, runs)
    order = list(dict.fromkeys(runs["method"]))
    colours = {name: figures.look(order.index(name))[0] for name in ("margin", "adaptive_margin")}
    own = epochs[epochs["method"] == "margin"].pivot(index="epoch", columns="seed", values="rho_mean")
    assert drawn[colours["margin"]] == pytest.approx(2 * 0.8 * own.to_numpy().mean(1), nan_ok=True)
    assert set(drawn[colours["adaptive_margin"]]) == {0.8} and drawn.keys() == set(colours.values())


def test_charts_of_one_seed_and_one_row(make):
    params, paths = make("ablation=[baseline]", "tuned_methods=[]", "seeds=[0]")
    runs = tables.collect(params, paths)
    epochs = tables.histories(params, paths)
    made = charts(runs, epochs, tables.accuracy(runs, tables.predictions(params, paths), params))
    assert made.pop("distances") is None and made.pop("beyond") is None  # no row has margins
    assert all(made.values())


def test_a_row_keeps_its_colour_where_others_are_absent(frames):
    runs, epochs, _ = frames
    colour = figures.COLOURS[list(dict.fromkeys(runs["method"])).index("margin")]
    for image in (figures.loss_curves(epochs), figures.distances(epochs, runs), figures.beyond(epochs, runs)):
        assert colour.lower().encode() in image.lower()


def test_a_method_has_one_colour_in_all_suites():
    one, other = (
        figures.looks(["baseline", "cutmix", "snapmix", "mine"]),
        figures.looks(["theirs", "snapmix", "baseline"]),
    )
    assert one["snapmix"] == other["snapmix"] and one["baseline"] == other["baseline"] and list(other)[0] == "theirs"
    assert one["mine"] not in [figures.looks(figures.STANDARD)[name] for name in figures.STANDARD]


def test_more_rows_than_colours_are_told_apart():
    looks = [figures.look(place) for place in range(2 * len(figures.COLOURS))]
    assert len(set(looks)) == len(looks)


INVERTED = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])  # CSS: hue-rotate(180deg)
SEEN_AS = {  # linear RGB, by Machado, Oliveira and Fernandes (2009), severity 1
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
}  # fmt: skip


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255


def in_the_dark(colour: np.ndarray) -> np.ndarray:
    """What the page's filter, invert(0.9) hue-rotate(180deg), makes of a colour."""
    return np.clip((0.9 - 0.8 * colour) @ INVERTED.T, 0, 1)


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """As WCAG 2 has it."""
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(colour: np.ndarray) -> np.ndarray:
    """Of linear RGB."""
    cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]])
    lab = np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
    return lab @ np.cbrt(cones @ np.clip(colour, 0, 1))


def test_the_ground_of_a_chart_becomes_that_of_a_dark_page():
    style = (Path(figures.__file__).parent / "style.css.j2").read_text()
    light, dark = (rgb(colour) for colour in re.findall(r"--ground: (#\w{6})", style))
    assert light == pytest.approx([1, 1, 1]) and in_the_dark(light) == pytest.approx(dark, abs=1 / 255)


def test_colours_hold_on_both_grounds():
    for colour in map(rgb, figures.COLOURS):
        assert contrast(colour, rgb("#ffffff")) >= 3 and contrast(in_the_dark(colour), rgb("#1a1a1a")) >= 3


@pytest.mark.parametrize("eyes", SEEN_AS)
def test_colours_are_told_apart(eyes):
    """Distances in OKLab, where 0.02 is about what can just be seen side by side."""
    for drawn in (map(rgb, figures.COLOURS), (in_the_dark(rgb(colour)) for colour in figures.COLOURS)):
        seen = [oklab(SEEN_AS[eyes] @ linear(colour)) for colour in drawn]
        apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)]
        assert min(apart) > (0.1 if eyes == "normal" else 0.05)


def test_a_mixer_has_its_methods_colour_in_the_diagnosis():
    metrics = dict.fromkeys(("area", "meaningless", "obscured"), 0.1)
    ends = {f"{name}{end}": 0.1 for name in metrics for end in ("_low", "_high")}
    table = pd.DataFrame([{"method": name, **metrics, **ends} for name in ("snapmix", "cutmix", "random places")])
    none = pd.DataFrame({"method": [], "images": []})
    found = Measured(table, none, none, none, {}, none)
    drawn = diagnosis_figures.quality(found, ["baseline", "cutmix", "snapmix"]).decode()
    places = [drawn.index(figures.look(place)[0]) for place in (5, 1, 7)]  # the control after the methods
    assert places == sorted(places) and figures.look(0)[0] not in drawn


def test_maps_of_any_values_can_be_drawn():
    """Attention is a mean of features, below 0 here and there; a class map is not changed."""
    maps = torch.tensor(
        [[[0.1, 0.6], [0.0, 0.3]], [[-0.4, 0.2], [0.1, 0.0]], [[float("nan"), 1.0], [0.0, float("inf")]]]
    )
    drawn = pairs.glow(maps)
    np.testing.assert_allclose(drawn[0], maps[0])
    np.testing.assert_allclose(drawn[1], [[0.0, 0.6], [0.5, 0.4]])
    assert np.isfinite(drawn).all() and (drawn >= 0).all()
