"""TransMix against a slow literal version, and the attention of a class token against timm's own weights."""

import math

import numpy as np
import pytest
import timm
import torch

from lapml.config import Model
from lapml.errors import LapmlError
from lapml.mixing import Draws, Evidence, mix, mixer, transmix
from lapml.mixing.boxes import area
from lapml.models.attention import class_attention
from lapml.models.model import build
from lapml.training import loop
from lapml.training.mixes import Mixes

VIT = ["model.name=test_vit", "model.truncate=null", "data.birds.view.side=96", "data.birds.stored_side=96"]
TRANSMIX = [
    "methods.cutmix={mixer: {name: transmix, alpha: 1.0}}",
    "defaults.mix.prob=1.0",
    "defaults.mix.warmup_epochs=0",
]


def quietly(line: str) -> None:
    pass


def vit(side: int = 96, name: str = "test_vit"):
    config = Model(name=name, weights="none", truncate=None, output_stride=None, embedding_dim=None)
    return build(config, 4, side, 0)[0].eval()


def literally(images, donor, lam, centre, attention):
    """One image: CutMix pixel by pixel, then the mean of the two shares of the donor."""
    side, grid = images.shape[-1], attention.shape[-1]
    cut = int(side * math.sqrt(1 - lam))
    x, y = (int(side * each) for each in centre)
    inside = np.zeros((side, side))
    for row in range(max(y - cut // 2, 0), min(y + cut // 2, side)):
        for column in range(max(x - cut // 2, 0), min(x + cut // 2, side)):
            inside[row, column] = 1
    mixed = np.where(inside, donor, images)
    seen, patch = 0.0, side // grid
    for row in range(grid):
        for column in range(grid):
            cell = inside[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            seen += attention[row, column] * cell.mean()
    return mixed, (inside.mean() + seen) / 2


@pytest.mark.parametrize("seed", range(3))
def test_against_a_literal_version(seed):
    rng, count, side, grid = np.random.default_rng(seed), 8, 24, 6
    images = torch.from_numpy(rng.standard_normal((count, 3, side, side))).float()
    attention = rng.random((count, grid, grid))
    attention /= attention.sum((1, 2), keepdims=True)
    donors, lam, uniform = np.roll(np.arange(count), 1), rng.random(count), rng.random((count, 2))
    drawn = Draws(
        images,
        torch.arange(count),
        torch.from_numpy(donors),
        *(torch.from_numpy(each).float() for each in (lam, uniform)),
    )
    found = transmix.attended(mix(drawn, Evidence(), mixer("transmix", alpha=1.0)), torch.from_numpy(attention).float())
    for i in range(count):
        expected, share = literally(
            images[i].numpy(), images[donors[i]].numpy(), float(drawn.lam[i]), drawn.uniform[i].tolist(), attention[i]
        )
        assert (found.images[i].numpy() == expected).all()
        assert found.rho[i].item() == pytest.approx(share, abs=1e-5)
        assert found.pasted[i] == found.rho[i] and found.kept[i] == 1 - found.rho[i]


def test_attention_that_says_nothing():
    """Area decides where it is not finite; where it is uniform, both shares are the area."""
    images, half = torch.rand(3, 3, 12, 12), torch.full((3,), 0.5)
    drawn = Draws(images, torch.arange(3), torch.tensor([1, 2, 0]), half, torch.full((3, 2), 0.5))
    by_area = mix(drawn, Evidence(), mixer("transmix", alpha=1.0))
    for value in (math.nan, 1 / 9):
        assert transmix.attended(by_area, torch.full((3, 3, 3), value)).rho.tolist() == pytest.approx(
            by_area.rho.tolist()
        )


@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2.lvd142m"]
)
def test_the_attention_is_timms_own(name):
    """Its weights as timm's layer computes them without fused attention; tokens that stand for no place are left out."""
    side = 112 if "dinov2" in name else 96
    model, noted = vit(side, name), []
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = class_attention(model, images)
    layer = model.backbone.blocks[-1].attn
    layer.fused_attn = False
    layer.attn_drop.register_forward_hook(lambda _, given, out: noted.append(given[0]))
    features = model.features(images)
    expected = noted[0].mean(1)[:, 0, model.backbone.num_prefix_tokens :]
    expected = (expected / expected.sum(1, keepdim=True)).view(2, *features.shape[2:])
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))
    assert not layer.q_norm._forward_hooks and not layer.k_norm._forward_hooks


@pytest.mark.parametrize("recipe", [[], ["train.accumulate=2", "model.drop_path=0.2", "train.label_smoothing=0.1"]])
def test_a_run(small_run, packed, recipe, monkeypatch):
    """Its labels are by attention in each step, at a forward pass more; the same run gives the same numbers."""
    run, seen = small_run("cutmix", *TRANSMIX, *VIT, *recipe), []
    attended = transmix.attended

    def noting(mixed, attention):
        seen.append((attended(mixed, attention).rho - mixed.rho).abs().max().item())
        return attended(mixed, attention)

    monkeypatch.setattr(transmix, "attended", noting)
    one, two = (loop.fit(run, packed, log=quietly).history for _ in range(2))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    assert len(seen) == 2 * sum(row["mixed_batches"] for row in one) and min(seen) > 0
    images = one[0]["mixed_batches"] * run.train.batch
    assert one[0]["images_forward"] == (3 if recipe else 2) * images and one[0]["images_backward"] == images


def test_the_diagnosis_sees_these_labels(small_run, packed):
    run = small_run("cutmix", *TRANSMIX, *VIT)
    model, weights = build(run.model, len(packed.class_names), 96, 0)
    made = Mixes(run, model.eval(), weights, packed, {"transmix": run.settings.always_mixing()})
    for _, _, each, _ in made.generate(12):
        mixed = each["transmix"].mixed
        assert not torch.allclose(mixed.rho, area(mixed.box_reference, 96)) and (mixed.kept + mixed.pasted == 1).all()
    with pytest.raises(LapmlError, match="has no class token"):
        other = small_run("cutmix", *TRANSMIX)
        Mixes(other, build(other.model, 3, 48, 0)[0], weights, packed, {"transmix": other.settings})


@pytest.mark.parametrize("changes", [[], [*VIT, "model.name=test_vit2"], ["model.name=test_efficientnet"]])
def test_a_model_without_a_class_token(small_run, packed, changes):
    run = small_run("cutmix", *TRANSMIX, *changes)
    with pytest.raises(
        LapmlError, match=r"model\.name: test_\w+ has no class token .* transmix labels by; expected a ViT"
    ):
        loop.fit(run, packed, log=quietly)


def test_timm_still_has_a_layer_of_this_name():
    assert type(timm.create_model("test_vit").blocks[-1].attn).__name__ == "Attention"
