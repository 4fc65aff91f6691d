"""`lapml distances`: trained models of a tiny synthetic set, their distances taken again one image at a time."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

from lapml.cli import app
from lapml.data import pack
from lapml.data.fetch import sources
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.report.distances import figure, markdown, measure
from lapml.runs import execute as runs
from lapml.training.mixes import Mixes, freshly

BIRDS = [
    "data.birds.synthetic={classes: 3, train_images: 8, test_images: 4, side: 64, seed: 0, nuisance: 0.2}",
    "data.birds.val_fraction=0.25",
    "train.epochs=2",
]
ROWS = {"baseline": (0, 1), "loc_cutmix": (0, 1), "adaptive_margin": (0,)}


@pytest.fixture(scope="module")
def made(small_params, small_run, tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("distances")
    paths = Paths("demo", root)
    data = small_params(*BIRDS).data["birds"]
    sources.fetch("birds", data, paths)
    pack.prepare("birds", data, paths, progress=False)
    packed = Packed.open(paths.pack("birds"))
    folders = []
    for row, seeds in ROWS.items():
        for seed in seeds:
            config = small_run(row, *BIRDS).model_copy(update={"seed": seed})
            runs.execute(config, packed, paths.run("birds", row, seed), log=lambda line: None)
            folders.append(paths.run("birds", row, seed))
    return SimpleNamespace(root=root, packed=packed, folders=folders, paths=paths)


@pytest.fixture(scope="module")
def found(made):
    return measure(made.folders, None, 20, 0.95, made.root)


def test_distances_are_those_of_images_taken_one_by_one(made, found):
    settings = None
    for folder in made.folders:
        config = runs.settings_of(folder, json.loads((folder / "config.json").read_text()))
        if config.method == "loc_cutmix" and settings is None:
            settings = freshly(config.settings).always_mixing()
    assert found.mixed_by == "loc_cutmix"
    for folder in made.folders:
        config = runs.settings_of(folder, json.loads((folder / "config.json").read_text()))
        model, weights = runs.load_model(folder, config, 3)
        shown = config.model_copy(update={"settings": settings, "seed": 0})
        d, s = [], []
        with torch.no_grad():
            for batch, _, each, _ in Mixes(shown, model, weights, made.packed, {"x": settings}).generate(20):
                mixed = each["x"].mixed
                for i, j in enumerate(mixed.donors.tolist()):
                    if batch.labels[i] != batch.labels[j]:
                        clean, generated = (
                            model(images[i : i + 1]).embedding[0] for images in (batch.images, mixed.images)
                        )
                        d.append(float(np.linalg.norm(generated.double() - clean.double())))
                        s.append(float(mixed.similarity[i]))
        pairs = found.pairs[(found.pairs["method"] == config.method) & (found.pairs["seed"] == config.seed)]
        assert pairs["d"].to_numpy() == pytest.approx(d, abs=1e-4)
        assert pairs["s"].to_numpy() == pytest.approx(s, abs=1e-5)
        assert len(pairs) == found.images < 24 and pairs["rho"].between(0, 1).all()


def test_the_table_sums_them_up(found):
    assert found.edges == ("adaptive_margin", 0.3, 0.1)
    assert found.table["method"].tolist() == list(ROWS) and found.table["seeds"].tolist() == [[0, 1], [0, 1], [0]]
    for row in found.table.to_dict("records"):
        each = [pairs for _, pairs in found.pairs[found.pairs["method"] == row["method"]].groupby("seed")]
        assert row["d"] == pytest.approx(np.mean([pairs["d"].mean() for pairs in each]))
        assert row["d_low"] == pytest.approx(np.mean([np.percentile(pairs["d"], 10) for pairs in each]))
        assert row["d_high"] == pytest.approx(np.mean([np.percentile(pairs["d"], 90) for pairs in each]))
        assert row["beyond_m"] == pytest.approx(np.mean([(pairs["d"] > 0.3).mean() for pairs in each]))
        outside = [(pairs["d"] > 0.3 + 0.1 * (1 - pairs["s"])).mean() for pairs in each]
        assert row["beyond_band"] == pytest.approx(np.mean(outside))
        assert row["s_d"] == pytest.approx(np.mean([spearmanr(pairs["s"], pairs["d"]).statistic for pairs in each]))
        assert np.isnan(row["d_half"]) == (len(each) == 1)


def test_what_is_written(made, found, tmp_path, monkeypatch):
    text = markdown(found, 0.95)
    assert "beyond m = 0.30 %" in text and "beyond m + 0.10·(1 − s) %" in text and "(one seed)" in text
    assert len({line.count("|") for line in text.splitlines()[:5]}) == 1
    assert figure(found).startswith(b"<?xml") and figure(found) == figure(found)
    monkeypatch.chdir(made.root)
    folders = [str(folder.relative_to(made.root)) for folder in made.folders]
    done = CliRunner().invoke(app, ["distances", *folders, "--images", "20", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0 and done.stdout == text + "\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"distances.{end}" for end in ("md", "svg", "csv", "json")
    }
    assert (tmp_path / "out/distances.md").read_text() == text + "\n"
    table = pd.read_csv(tmp_path / "out/distances.csv")
    assert table["d"].to_numpy() == pytest.approx(found.pairs["d"].to_numpy(), abs=1e-5)
    record = json.loads((tmp_path / "out/distances.json").read_text())
    assert len(record["models_sha256"]) == 5 and record["data_sha256"] == made.packed.meta["sha256"]


def test_rows_without_a_margin_have_no_band(made):
    found = measure(made.folders[:4], None, 20, 0.95, made.root)
    assert found.edges is None and "beyond" not in markdown(found, 0.95)
    assert figure(found)


def test_some_row_has_to_mix_by_localisation(made, small_run):
    config = small_run("cutmix", *BIRDS)
    folder = made.paths.run("birds", "cutmix", 0)
    runs.execute(config, made.packed, folder, log=lambda line: None)
    with pytest.raises(LapmlError, match="none of baseline, cutmix mixes by localized CutMix"):
        measure([*made.folders[:2], folder], None, 20, 0.95, made.root)


def test_models_that_saw_other_views_are_refused(made, small_run):
    config = small_run("loc_cutmix", *BIRDS, "data.birds.view.crop=fixed")
    folder = made.paths.run("birds", "loc_fixed", 0)
    runs.execute(config, made.packed, folder, log=lambda line: None)
    with pytest.raises(LapmlError, match="loc_fixed/0/config.json: data.view: found .*only models with the same views"):
        measure([*made.folders[:2], folder], None, 20, 0.95, made.root)
