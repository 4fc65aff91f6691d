"""The model: true class maps, refusals, frozen statistics, parameter groups."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lapml.config import Model
from lapml.errors import LapmlError
from lapml.models.model import build, training_mode


def model_of(**changes) -> Model:
    given = {"name": "test_resnet", "weights": "none", "truncate": 8, "output_stride": None, "embedding_dim": None}
    return Model(**{**given, **changes})


def images_of(side: int, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def buffers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


MODELS = [
    (model_of(), 48, 48, 6),
    (model_of(truncate=16), 96, 192, 6),
    (model_of(name="tf_efficientnet_lite0", truncate=8), 64, 40, 8),
    (model_of(name="tf_efficientnet_lite0", truncate=16), 96, 112, 6),
    (model_of(name="resnet10t", truncate=16), 112, 256, 7),
    (model_of(name="test_efficientnet", truncate=None, output_stride=16), 96, 256, 6),
    (model_of(name="test_resnet", truncate=None, output_stride=8), 64, 96, 8),
    (model_of(name="test_resnet", truncate=None), 192, 96, 6),
]


@pytest.mark.parametrize("config, side, channels, cells", MODELS, ids=lambda value: getattr(value, "name", str(value)))
def test_class_maps_are_true(config, side, channels, cells):
    """The mean over cells of W·F, and b, is the logits; the map has the cells and channels that docs/methods.md gives."""
    model, record = build(config, 5, side, seed=0)
    model.eval()
    with torch.no_grad():
        features, logits, embedding = model(images_of(side))
    assert record["grid"] == [cells, cells] and features.shape[1:] == (channels, cells, cells)
    maps = torch.einsum("kc,bchw->bkhw", model.head.weight, features) + model.head.bias[:, None, None]
    torch.testing.assert_close(maps.mean((2, 3)), logits, atol=1e-5, rtol=1e-4)
    pooled = features.mean((2, 3))
    torch.testing.assert_close(embedding, pooled / pooled.norm(dim=1, keepdim=True), atol=1e-6, rtol=1e-4)
    assert logits.shape == (3, 5) and torch.allclose(embedding.norm(dim=1), torch.ones(3))


def test_every_parameter_of_a_cut_model_learns():
    """No layer stays behind the cut: it would be decayed and saved for nothing."""
    for config, side, *_ in MODELS:
        model, _ = build(config, 4, side, seed=0)
        model(images_of(side, 2)).logits.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), config.name


def test_embedding_is_a_normalised_projection():
    model, _ = build(model_of(embedding_dim=7), 4, 48, seed=0)
    model.eval()
    features, _, embedding = model(images_of(48))
    expected = features.mean((2, 3)) @ model.projection.weight.T
    torch.testing.assert_close(embedding, expected / expected.norm(dim=1, keepdim=True))
    assert embedding.shape == (3, 7)


def test_embedding_of_half_precision_is_fp32_and_unit():
    model, _ = build(model_of(), 4, 48, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images_of(48))
    assert output.features.dtype == torch.bfloat16 and output.embedding.dtype == torch.float32
    assert (output.embedding.norm(dim=1) - 1).abs().max() < 1e-5


def test_an_empty_map_has_a_finite_embedding():
    model, _ = build(model_of(), 4, 48, seed=0)
    model.features = lambda images: torch.zeros(2, 48, 6, 6, requires_grad=True)
    output = model(images_of(48, 2))
    assert output.embedding.isfinite().all() and not output.embedding.any()


# --- refusals ---


@pytest.mark.parametrize(
    "config, side", [(model_of(), 40), (model_of(truncate=None), 160), (model_of(truncate=16), 64)]
)
def test_coarse_maps_are_refused(config, side):
    with pytest.raises(LapmlError, match="expected at least 6×6: enlarge view.side, or set model.truncate"):
        build(config, 4, side, seed=0)


@pytest.mark.parametrize(
    "config, side",
    [
        (model_of(), 52),
        (model_of(), 49),
        (model_of(truncate=16), 104),
        (model_of(name="tf_efficientnet_lite0"), 60),
        (model_of(name="tf_efficientnet_lite0", truncate=16), 100),
        (model_of(name="tf_efficientnet_lite0", truncate=None), 208),
    ],
)
def test_a_side_that_the_stride_does_not_divide_is_refused(config, side):
    with pytest.raises(
        LapmlError, match=f"view.side: {side} px gives .* cells(, which do not divide| of .* no power of two)"
    ):
        build(config, 4, side, seed=0)


def test_other_unsuitable_settings(tmp_path):
    with pytest.raises(LapmlError, match="model.name 'no_such_model': timm cannot make it"):
        build(model_of(name="no_such_model"), 4, 48, seed=0)
    with pytest.raises(
        LapmlError, match=r"model.truncate: convnext_atto has no stage of stride 2|no stage of stride 4"
    ):
        build(model_of(name="test_vit", truncate=4), 4, 96, seed=0)
    save_file({"foreign.weight": torch.rand(2)}, tmp_path / "model.safetensors")
    with pytest.raises(LapmlError, match="model.weights .* do not fit test_resnet"):
        build(model_of(weights=str(tmp_path / "model.safetensors")), 4, 48, seed=0)


# --- initial values ---


def test_initial_values_depend_on_the_seed_alone():
    models = [build(model_of(embedding_dim=5), 4, 48, seed=seed)[0].state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    for key in ("head.weight", "projection.weight", next(key for key, value in models[0].items() if value.ndim == 4)):
        assert not torch.equal(models[0][key], models[2][key])


def test_weights_of_a_file_are_loaded_and_cut(tmp_path):
    import timm

    whole = timm.create_model("test_resnet")
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, tmp_path / "model.safetensors")
    model, record = build(model_of(weights=str(tmp_path / "model.safetensors")), 4, 48, seed=9)
    kept = model.backbone.state_dict()
    assert len(kept) > 5 and all(torch.equal(value, whole.state_dict()[key]) for key, value in kept.items())
    assert record["source"] == "file" and len(record["sha256"]) == 64
    whole.eval(), model.eval()
    expected = whole.forward_intermediates(images_of(48), indices=[2], intermediates_only=True)[0]
    torch.testing.assert_close(model.features(images_of(48)), expected)


def test_without_initial_weights_the_file_is_not_read():
    model, record = build(model_of(weights="gone.safetensors"), 4, 48, seed=0, initial=False)
    assert record["grid"] == [6, 6] and model.head.out_features == 4


def test_build_leaves_the_model_in_training_mode_with_fresh_statistics():
    model, _ = build(model_of(truncate=None), 4, 192, seed=0)
    assert all(module.training for module in model.modules())
    for name, value in model.named_buffers():
        expected = 0.0 if name.endswith(("running_mean", "num_batches_tracked")) else 1.0
        assert (value == expected).all(), name


# --- modes ---


@pytest.mark.parametrize("batch_norm", ["local", "frozen"])
def test_frozen_batch_norm_trains_but_its_statistics(batch_norm):
    model, _ = build(model_of(), 4, 48, seed=0)
    before = buffers_of(model)
    training_mode(model.eval(), batch_norm)
    model(images_of(48)).logits.sum().backward()
    moved = any(not torch.equal(before[key], value) for key, value in buffers_of(model).items())
    assert moved == (batch_norm == "local")
    assert all(value.grad is not None for value in model.parameters())
