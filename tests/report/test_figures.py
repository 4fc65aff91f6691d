import io
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from lapml.analysis import tables
from lapml.report import figures, grids, pictures


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


def test_more_rows_than_colours_are_told_apart():
    looks = [figures.look(place) for place in range(2 * len(figures.COLOURS))]
    assert len(set(looks)) == len(looks)


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_gallery_is_a_row_a_method(galleries):
    mixes, *_ = galleries("birds")
    mixes = [mixes[0], mixes[-1]]
    both, one = picture(grids.gallery(mixes)), picture(grids.gallery(mixes[:1]))
    assert both.shape[1] == one.shape[1] and both.shape[0] > 1.6 * one.shape[0]


def test_gallery_draws_boxes_and_maps(galleries):
    mixes, *_ = galleries("birds")
    item = mixes[-1]
    with_all = grids.gallery([item])
    for key in ("box_reference", "box_donor", "reference_map", "donor_map", "s"):
        assert grids.gallery([item | {key: None}]) != with_all, key


def test_cams_show_pictures_and_verdicts(galleries):
    _, cams, _ = galleries("birds")
    image = picture(grids.cams(cams[:2]))
    found = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
    for colour in (grids.RIGHT, grids.WRONG):
        assert tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)) in found


@pytest.mark.parametrize("heat", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.eye(1)])
def test_odd_maps_and_names_are_drawn(galleries, heat):
    _, cams, _ = galleries("birds")
    assert grids.cams([cams[0] | {"map": heat, "title": "5$ bird_{x} $\\frac"}])


def test_maps_of_any_values_can_be_drawn():
    """Attention is a mean of features, below 0 here and there; a class map is not changed."""
    maps = torch.tensor(
        [[[0.1, 0.6], [0.0, 0.3]], [[-0.4, 0.2], [0.1, 0.0]], [[float("nan"), 1.0], [0.0, float("inf")]]]
    )
    drawn = pictures.glow(maps)
    np.testing.assert_allclose(drawn[0], maps[0])
    np.testing.assert_allclose(drawn[1], [[0.0, 0.6], [0.5, 0.4]])
    assert np.isfinite(drawn).all() and (drawn >= 0).all()
