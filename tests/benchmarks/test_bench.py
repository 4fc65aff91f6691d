"""The benchmarks: what they time, that contenders do the same work, and what they write."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
from typer.testing import CliRunner

from benchmarks import growth, loaders, options, rows, trace
from benchmarks.__main__ import app
from benchmarks.backbones import backbones
from benchmarks.record import interleaved, ratio
from lapml.data import pack
from lapml.data.fetch import sources
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs import execute as runs

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "data.birds.synthetic.classes=2",
    "data.birds.synthetic.train_images=6",
    "data.birds.synthetic.test_images=2",
    "ablation=[baseline, cutmix]",
    "tuned_methods=[]",
    "seeds=[0]",
    "train.epochs=1",
    "train.warmup_epochs=0.0",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, small_params):
    """A small synthetic set, fetched and packed."""
    params, paths = small_params(*TINY), Paths("demo", tmp_path_factory.mktemp("bench"))
    sources.fetch("birds", params.data["birds"], paths)
    pack.prepare("birds", params.data["birds"], paths)
    return params, paths


def test_rounds_are_interleaved_and_every_contender_is_timed_once_a_round():
    calls = []
    times = interleaved({name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}, 5)
    assert all(sorted(calls[at : at + 3]) == ["a", "b", "c"] for at in range(0, 15, 3))
    assert {name: len(each) for name, each in times.items()} == {"a": 5, "b": 5, "c": 5}
    assert len({tuple(calls[at : at + 3]) for at in range(0, 15, 3)}) > 1  # not always in one order
    assert ratio([2.0, 4.0], [1.0, 2.0], 0.95) == [2.0, 0.0]


def test_loaders_train_on_the_same_images_and_mix_each_batch(shop):
    """Each of them gives square float batches in the model's normalisation, and labels that sum to 1 and are mixed."""
    params, paths = shop
    here = rows.Bench(params, paths, "birds")
    config = here.config("cutmix")
    _, weights = here.make_learner(config)
    view = params.data["birds"].view
    folder = paths.root / "linked"
    folder.mkdir(exist_ok=True)
    fit = rows.rows_of(here.packed.index, config.fit)
    loaders._link(here, params, paths, folder, fit)
    files = sorted(folder.glob("*/*"))
    assert len(files) == len(fit) == 12
    for file in files:  # each link is the image that the index names, in its class
        row = int(file.stem)
        assert file.resolve().name == here.packed.index["path"][row].split("/")[-1]
        assert int(file.parent.name) == here.packed.index["label"][row]
    torch.manual_seed(0)
    for make in (loaders._torchvision, loaders._timm):
        for images, targets in itertools.islice(make(here, folder, view, weights), 5):  # two are an epoch
            assert images.shape == (6, 3, view.side, view.side) and images.dtype == torch.float32
            assert -3 < images.mean() < 3 and images.std() < 4  # normalised, not 0..255
            torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_loaders_writes_what_it_measured(shop, tmp_path):
    params, paths = shop
    text = loaders.loaders(params, paths, "birds", 2, 1, tmp_path)
    record = json.loads((tmp_path / "demo/loaders.json").read_text())
    assert list(record["seconds_per_step"]) == ["lapml", "torchvision", "timm"]
    for name, times in record["seconds_per_step"].items():
        ours = record["seconds_per_step"]["lapml"]
        assert record["times_ours"][name][0] == pytest.approx(np.mean(np.divide(times, ours)))
    assert (tmp_path / "demo/loaders.md").read_text() == text + "\n" and "| torchvision |" in text


def test_loaders_refuses_what_the_others_do_not_have(shop, small_params):
    _, paths = shop
    fixed = small_params(*TINY, "data.birds.view.crop=fixed")
    with pytest.raises(LapmlError, match="crop and methods: found fixed and baseline, cutmix, expected resized"):
        loaders.loaders(fixed, paths, "birds", 2, 1, None)
    without = small_params(*TINY, "ablation=[baseline]")
    with pytest.raises(LapmlError, match="found resized and baseline, expected resized and a method cutmix"):
        loaders.loaders(without, paths, "birds", 2, 1, None)


def test_an_option_that_does_not_run_is_reported_and_the_others_are_timed(shop, monkeypatch, tmp_path):
    def refuse(learner):
        def forward(images):
            raise RuntimeError("no compiler here")

        learner.forward = forward

    params, paths = shop
    monkeypatch.setattr(options, "OPTIONS", {**options.OPTIONS, "torch.compile": refuse})
    text = options.options(params, paths, "birds", 2, 1, tmp_path)
    record = json.loads((tmp_path / "demo/options.json").read_text())
    assert set(record["failed"]) == {"baseline: torch.compile", "cutmix: torch.compile"}
    assert "no compiler here" in text and "| baseline: fused optimizer |" in text
    assert record["steps_of_a_run"] == 2
    assert record["step_vs_as_it_is"][f"baseline: {options.PLAIN}"] == [1.0, 0.0]


@pytest.mark.parametrize("name", ["without channels_last", "fused optimizer"])
def test_options_change_how_a_step_is_made_not_what_it_does(shop, name):
    params, paths = shop
    here = rows.Bench(params, paths, "birds")
    config = here.config("baseline")
    models = []
    for apply in (options.OPTIONS[options.PLAIN], options.OPTIONS[name]):
        learner, weights = here.make_learner(config)
        apply(learner)
        source = rows.endless(here.batches(config, weights), config, learner)
        for _ in range(3):
            rows.take_step(learner, next(source))
        models.append(learner.model.state_dict())
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("maps, extra", [("recent", {"bank"}), ("fresh", {"localise", "mix"})])
def test_profile_names_every_part_of_a_step(small_params, packed, tmp_path, monkeypatch, maps, extra):
    monkeypatch.setattr(Packed, "open", lambda *_: packed)
    params = small_params(
        "ablation=[baseline]", "tuned_methods=[adaptive_margin]", f"methods.adaptive_margin.mixer.maps={maps}"
    )
    text = trace.trace(params, Paths("demo", tmp_path), "birds", 2, tmp_path / "out")
    parts = json.loads((tmp_path / "out/demo/profile.json").read_text())["seconds_per_step"]
    always = {trace.DATA, "forward", "loss", "backward", "update", "the rest", "step"}
    assert set(parts["baseline"]) == always
    assert set(parts["adaptive_margin"]) == always | {"reference", *extra}
    for row in parts.values():
        assert sum(value for name, value in row.items() if name != "step") == pytest.approx(row["step"], rel=0.05)
    traces = sorted((tmp_path / "results/demo/bench").iterdir())
    assert [path.name for path in traces] == ["trace-adaptive_margin.json.gz", "trace-baseline.json.gz"]
    assert all(str(path) in text for path in traces)


@pytest.mark.slow
def test_growth_measures_what_can_be_and_draws_it(shop, tmp_path, monkeypatch):
    """Sizes that the model or the data do not allow are left out; the report and the dry run see that many runs."""
    params, paths = shop
    folder = paths.root
    for part in ("Snakefile", "rules", "profiles"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, folder / part)
    with pytest.raises(LapmlError, match="is not complete; run the suite first"):
        growth._grown(params, paths, tmp_path / "early", 1)
    packed = Packed.open(paths.pack("birds"), params.data["birds"])
    for row in params.all_methods():
        config = runs.resolved(params, paths, "birds", row, 0)
        runs.execute(config, packed, paths.run("birds", row, 0), log=lambda line: None)
    monkeypatch.setattr(growth, "BATCHES", (2, 4, 64))
    monkeypatch.setattr(growth, "SIDES", (16, 48, 50, 64))
    monkeypatch.setattr(growth, "TIMES", (1, 2))
    text = growth.growth(params, paths, "birds", 2, 1, tmp_path / "out")
    points = json.loads((tmp_path / "out/demo/growth.json").read_text())["points"]
    assert [x for x, *_ in points["batch"]["baseline"]] == [2, 4]
    assert [x for x, *_ in points["side"]["cutmix"]] == [48, 64]
    assert [x for x, *_ in points["images"]["lapml data prepare"]] == [2, 4, 8, 16]
    assert [x for x, *_ in points["runs"]["lapml report"]] == [x for x, *_ in points["runs"]["snakemake -n"]] == [2, 4]
    assert all(mean > 0 for panel in points.values() for line in panel.values() for _, mean, _ in line)
    assert (tmp_path / "out/demo/growth.svg").read_text().count("<svg") == 1
    assert (tmp_path / "out/demo/growth.md").read_text() == text + "\n"


@pytest.mark.parametrize("command", list(typer.main.get_command(app).commands))
def test_every_command_says_what_it_measures(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0 and f"Example: python -m benchmarks {command}" in shown.output


def test_a_command_measures(shop, monkeypatch):
    """It reads the settings and hands them on."""
    params, paths = shop
    monkeypatch.chdir(paths.root)
    (paths.root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    small = ["model.name=test_resnet", "model.weights=none", "model.truncate=8", "model.freeze=0", "train.batch=6"]
    small += ["data.birds.stored_side=64", "data.birds.view.side=48", "defaults.mix.warmup_epochs=0"]
    options = [each for change in [*TINY, *small] for each in ("--set", change)]
    shown = CliRunner().invoke(app, ["rows", "birds", "--repeats", "2", "--steps", "1", *options])
    assert shown.exit_code == 0, shown.output
    assert "| baseline |" in shown.output and "2 interleaved rounds of 1 steps" in shown.output


OWN = [
    "data.birds.overrides={train: {batch: 4}}",
    "methods.cutmix={mixer: {name: cutmix}, mix: {warmup_epochs: 0}, label: area, "
    "overrides: {train: {batch: 2}, view: {flip: false}}}",
]


def test_what_an_image_costs_goes_by_the_batch_of_its_method_and_data_set(shop, small_params, tmp_path):
    text = rows.bench(small_params(*TINY, *OWN), shop[1], "birds", 2, 1, tmp_path)
    record = json.loads((tmp_path / "demo/bench.json").read_text())
    found, seconds = record["rows"], record["seconds_per_step"]
    assert {name: row["batch"] for name, row in found.items()} == {"bare": 4, "baseline": 4, "cutmix": 2}
    for name, row in found.items():
        assert row["images_per_second"] == pytest.approx(row["batch"] / np.median(seconds[name]))
        assert row["flops_per_step"] / row["batch"] == found["bare"]["flops_per_step"] / 4
    ratios = np.divide(seconds["bare"], seconds["cutmix"]) * 2 / 4
    assert found["cutmix"]["speed_vs_bare"][0] == pytest.approx(ratios.mean())
    assert "| cutmix, batch 2 |" in text and "| baseline |" in text and "batch 4," in text


@pytest.mark.parametrize("module", [options, trace])
def test_each_method_is_timed_on_its_own_views(shop, small_params, tmp_path, monkeypatch, module):
    flips = []

    def noted(pool, config, learner):
        flips.append((pool.view.flip, config.data.view.flip))
        return rows.endless(pool, config, learner)

    monkeypatch.setattr(module, "endless", noted)
    monkeypatch.setattr(options, "OPTIONS", {options.PLAIN: options.OPTIONS[options.PLAIN]})
    arguments = (small_params(*TINY, *OWN), Paths("demo", shop[1].root), "birds")
    if module is options:
        options.options(*arguments, 2, 1, None)
    else:
        trace.trace(*arguments, 1, None)
    assert flips == [(True, True), (False, False)]


def test_backbones_are_timed_beside_their_own_baseline_and_those_that_cannot_be_are_named(tmp_path, small_params):
    params = small_params(*TINY, *OWN, "data.birds.view.side=96", "data.birds.stored_side=96")
    paths = Paths("demo", tmp_path)
    sources.fetch("birds", params.data["birds"], paths)
    pack.prepare("birds", params.data["birds"], paths)
    text = backbones(params, paths, "birds", ["test_vit", "test_resnet"], 2, 1, tmp_path / "out")
    record = json.loads((tmp_path / "out/demo/backbones.json").read_text())
    assert list(record["backbones"]) == ["test_vit"] and "Not measured: test_resnet: " in text
    found = record["backbones"]["test_vit"]
    model = timm.create_model("test_vit", num_classes=2, global_pool="avg", img_size=96)
    assert found["parameters"] == pytest.approx(sum(value.numel() for value in model.parameters()), rel=0.02)
    assert found["methods"]["baseline"]["step_vs_baseline"] == [1.0, 0.0]
    assert [each["batch"] for each in found["methods"].values()] == [4, 2]
    assert found["methods"]["baseline"]["flops_per_image"] == found["methods"]["cutmix"]["flops_per_image"] > 1e6
    line = next(line for line in text.splitlines() if line.startswith("| test_vit |"))
    assert line.split("|")[2].strip() == f"{found['parameters'] / 1e6:.1f}" and "±" in line.split("|")[5]
