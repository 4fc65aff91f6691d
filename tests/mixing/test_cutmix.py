"""CutMix against torchvision's v2.CutMix, fed with the same draws."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from lapml.mixing import Draws, Evidence, Mixed, cutmix, mix, mixer

LAMBDA = st.floats(0, 1) | st.integers(1, 60).map(lambda k: 1 - (k / 60) ** 2)  # the latter: cuts of whole pixels


def torchvision_cutmix(lam: float, x: int, y: int) -> tuple[v2.CutMix, mock._patch]:
    transform = v2.CutMix(num_classes=4)
    transform._dist = SimpleNamespace(sample=lambda shape: torch.tensor(lam, dtype=torch.float64))
    return transform, mock.patch("torch.randint", side_effect=[torch.tensor([x]), torch.tensor([y])])


def mixed(images: torch.Tensor, donors: torch.Tensor, lam: torch.Tensor, uniform: torch.Tensor) -> Mixed:
    settings = mixer("cutmix", "area", alpha=1.0, maps=None)
    return mix(Draws(images, torch.zeros(len(images)), donors, lam, uniform), Evidence(), settings)


def uniform_of(x: int, y: int, side: int) -> torch.Tensor:
    return (torch.tensor([[x, y]], dtype=torch.float64) + 0.5) / side


@given(LAMBDA, st.integers(4, 256), st.data())
@settings(max_examples=300)
def test_boxes_are_torchvisions(lam, side, data):
    x, y = (data.draw(st.integers(0, side - 1)) for _ in "xy")
    transform, patch = torchvision_cutmix(lam, x, y)
    with patch:
        params = transform.make_params([torch.zeros(2, 3, side, side)])
    found = cutmix.boxes(torch.tensor([lam], dtype=torch.float64), uniform_of(x, y, side), side)
    assert tuple(found[0].tolist()) == params["box"]


@pytest.mark.parametrize(
    "lam, x, y", [(0.3, 5, 20), (0.9, 31, 0), (0.0, 16, 16), (1.0, 7, 7), (0.5, 0, 31), (0.04, 3, 30)]
)
@pytest.mark.parametrize("batch", [2, 5])
def test_batch_is_torchvisions(lam, x, y, batch):
    """Pixel for pixel, and the label's share after clipping."""
    side, labels = 32, torch.arange(batch) % 4
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    transform, patch = torchvision_cutmix(lam, x, y)
    with patch:
        expected, targets = transform(images, labels)

    lams = torch.full((batch,), lam, dtype=torch.float64)
    found = mixed(images, torch.arange(batch).roll(1), lams, uniform_of(x, y, side).expand(batch, 2))
    assert torch.equal(found.images, expected)
    assert torch.equal(images, before)
    one_hot = torch.nn.functional.one_hot(labels, 4)
    torch.testing.assert_close(found.kept[:, None] * one_hot + found.pasted[:, None] * one_hot.roll(1, 0), targets)
    torch.testing.assert_close(found.kept + found.pasted, torch.ones(batch))
    assert torch.equal(found.rho, found.pasted)
    assert torch.equal(found.box_reference, found.box_donor)
    assert found.similarity is None


def test_share_is_of_the_clipped_box():
    """λ = 0.75 cuts half of each side; about the corner pixel, a quarter of that is inside."""
    images = torch.zeros(2, 3, 40, 40)
    found = mixed(images, torch.tensor([1, 0]), torch.full((2,), 0.75), torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    assert found.box_reference.tolist() == [[0, 0, 10, 10], [10, 10, 30, 30]]
    assert found.pasted.tolist() == pytest.approx([100 / 1600, 400 / 1600])


def test_centre_is_uniform_over_the_pixels():
    side, n = 16, 1600
    uniform = ((torch.arange(n) + 0.5) / n)[:, None].expand(n, 2)
    lam = torch.full((n,), 1 - (2 / 16) ** 2)  # a cut of two pixels: x0 = centre − 1, clipped
    boxes = cutmix.boxes(lam, uniform, side)
    centres = boxes[:, 2] - 1
    assert torch.bincount(centres, minlength=side).tolist() == [100] * side


def test_boxes_stay_inside_for_the_largest_uniform_number():
    almost_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    for side in (7, 64, 448):
        box = cutmix.boxes(torch.tensor([0.5]), almost_one.expand(1, 2), side)[0]
        half = int(side * 0.5**0.5) // 2
        assert box.tolist() == [side - 1 - half, side - 1 - half, side, side]


def test_half_precision_images_keep_their_type():
    images = torch.randn(3, 3, 16, 16).to(torch.bfloat16)
    found = mixed(images, torch.tensor([2, 0, 1]), torch.rand(3), torch.rand(3, 2))
    assert found.images.dtype == torch.bfloat16 and found.rho.dtype == torch.float32
