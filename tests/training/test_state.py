"""What stands between a run and a broken state: one look at all weights, and means that wait for the device once."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lapml.common import saved
from lapml.training import state


class Reads(TorchDispatchMode):
    """Counts the values that the host asks for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name == "aten::_local_scalar_dense"
        return function(*args, **(kwargs or {}))


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))


def test_all_weights_are_looked_at_at_once():
    with Reads() as reads:
        assert state.all_finite(model())
    assert reads.count == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_single_number_that_is_none(value):
    """In whichever weight or running statistic."""
    names = [name for name, each in model().state_dict().items() if each.is_floating_point()]
    assert len(names) == 11
    for name in names:
        broken = model()
        broken.state_dict()[name].flatten()[-1] = value
        assert not state.all_finite(broken), name


def test_large_numbers_are_numbers():
    large = model()
    for each in large.parameters():
        each.data.fill_(torch.finfo(torch.float32).max)
    assert state.all_finite(large)


def test_means_are_those_of_their_own_steps():
    """A statistic that some steps lack is the mean over the others; sums are exact in float64."""
    means, found = state.Means(), {"a": [], "b": []}
    generator = torch.Generator().manual_seed(0)
    assert means.values() == {}
    means.over_ranks()
    for step in range(10):
        stats = {"a": torch.randn((), generator=generator)}
        if step % 3 == 0:
            stats["b"] = torch.randn((), generator=generator)
        means.add(stats)
        for name, value in stats.items():
            found[name].append(float(value))
    for _ in range(2):
        assert means.values() == {name: math.fsum(values) / len(values) for name, values in found.items()}
        means.over_ranks()  # there is one: nothing changes


def test_an_epoch_counts_its_steps():
    epoch = state.Epoch()
    for mixed in (False, True, True):
        epoch.add({"loss": torch.tensor(1.0)}, 7, 5, mixed)
    assert epoch.counts == {"images_forward": 21, "images_backward": 15, "mixed_batches": 2} and epoch.step == 3
    again = state.Epoch.restored(epoch.state(), torch.device("cpu"))
    assert again.counts == epoch.counts and again.means.values() == {"loss": 1.0} and again.step == 3


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_a_state_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, error):
    """It stays where it is, and the command ends with one line."""
    file = tmp_path / "last.pt"
    saved.save(file, {"key": "a"})

    def load(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(OSError):
        saved.read(file)
    monkeypatch.undo()
    assert saved.read(file) == {"key": "a"} and saved.read(tmp_path / "none") is None
