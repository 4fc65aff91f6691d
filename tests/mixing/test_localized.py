"""Localized CutMix against a slow, literal recomputation of docs/methods.md, and without a wait for the device."""

import math

import numpy as np
import pytest
import torch

from lapml.config import Method
from lapml.mixing import Draws, Evidence, Mixed, localized, mix, mixer
from lapml.models.model import Output
from lapml.training import methods


def settings_of(label: str = "semantic", **changes) -> localized.Settings:
    given = {"alpha": 1.0, "area": [0.05, 0.5], "temperature": 1.0, "support": 0.3, "maps": "fresh"}
    return mixer("localized", label, **{**given, **changes})


def mixed_by(batch: dict[str, torch.Tensor], settings: localized.Settings) -> Mixed:
    images, donors, lam, uniform = (batch[name] for name in ("images", "donors", "lam", "uniform"))
    known = Evidence(maps=batch["maps"], features=batch["features"])
    return mix(Draws(images, torch.zeros(len(images)), donors, lam, uniform), known, settings)


def make_batch(count: int, h: int, w: int, side: int, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, h, w, generator=g, dtype=torch.float64) ** 3 * (torch.rand(count, h, w, generator=g) > 0.3)
    maps[:, 0, 0] += 0.01
    return {
        "images": torch.randn(count, 3, side, side, generator=g),
        "donors": torch.arange(count).roll(1),
        "maps": maps / maps.sum((1, 2), keepdim=True),
        "features": torch.randn(count, 5, h, w, generator=g, dtype=torch.float64),
        "lam": torch.rand(count, generator=g, dtype=torch.float64),
        "uniform": torch.rand(count, 2, generator=g, dtype=torch.float64),
    }


def literal(i: int, batch: dict[str, torch.Tensor], settings: localized.Settings, label: str) -> dict:
    """Image i of the generated batch, word for word."""
    images, maps, features = (batch[name].numpy() for name in ("images", "maps", "features"))
    side, (h, w), j = images.shape[-1], maps.shape[1:], int(batch["donors"][i])

    # Donor part: a cell u of x_j drawn with probability ∝ S_j(u)^(1/T).
    chance = maps[j].flatten() ** (1 / settings.temperature)
    edges = np.cumsum(chance) / chance.sum()
    u = int(np.argmax(edges > float(batch["uniform"][i, 0])))
    part = features[j].reshape(-1, h * w)[:, u]

    # Reference part: v = argmax over {v: S_i(v) ≥ τ·max S_i} of cos(F_i[:, v], F_j[:, u]).
    v, s = -1, -math.inf
    for cell in range(h * w):
        if maps[i].flatten()[cell] >= settings.support * maps[i].max():
            other = features[i].reshape(-1, h * w)[:, cell]
            cosine = float(other @ part / np.linalg.norm(other) / np.linalg.norm(part))
            if cosine > s:
                v, s = cell, cosine

    # a_i = clip(1 − λ_i, a_min, a_max), square; shifted inside, never cut.
    share = min(max(1 - float(batch["lam"][i]), settings.area[0]), settings.area[1])
    extent = round(math.sqrt(share) * side)

    def box_around(cell: int) -> list[int]:
        corner = []
        for place, cells in ((cell % w, w), (cell // w, h)):
            low = round((place + 0.5) / cells * side - extent / 2)
            corner.append(min(max(low, 0), side - extent))
        return [*corner, corner[0] + extent, corner[1] + extent]

    def seen(cells: np.ndarray, box: list[int]) -> float:
        rows, columns = math.lcm(h, side), math.lcm(w, side)
        fine = np.kron(cells, np.ones((rows // h, columns // w))) / (rows // h * (columns // w))
        x0, y0, x1, y1 = box
        return float(fine[y0 * rows // side : y1 * rows // side, x0 * columns // side : x1 * columns // side].sum())

    to, source = box_around(v), box_around(u)
    image = images[i].copy()
    image[:, to[1] : to[3], to[0] : to[2]] = images[j][:, source[1] : source[3], source[0] : source[2]]

    covered = extent**2 / side**2
    k, g = 1 - seen(maps[i], to), seen(maps[j], source)
    rho = g / (k + g) if k + g > 0 else covered
    weights = {"area": (1 - covered, covered), "semantic": (1 - rho, rho), "snapmix": (k, g)}[label]
    return {
        "image": image, "s": min(max(s, 0), 1), "to": to, "source": source, "kept": weights[0], "pasted": weights[1],
        "rho": covered if label == "area" else rho,
    }  # fmt: skip


@pytest.mark.parametrize("label", ["area", "semantic", "snapmix"])
@pytest.mark.parametrize("count", [2, 3, 8])  # a pair, odd, even
@pytest.mark.parametrize(
    "h, w, side, changes",
    [
        (6, 6, 48, {}),
        (7, 7, 45, {"temperature": 0.5, "support": 0.0}),  # cells that no pixel divides
        (6, 8, 40, {"temperature": 3.0, "support": 1.0, "area": [0.3, 0.9]}),
    ],
)
def test_against_the_letter(label, count, h, w, side, changes):
    settings = settings_of(label, **changes)
    for seed in range(3):
        batch = make_batch(count, h, w, side, seed)
        before = {name: value.clone() for name, value in batch.items()}
        mixed = mixed_by(batch, settings)
        for name, value in batch.items():
            assert torch.equal(value, before[name]), f"{name} was modified"
        for i in range(count):
            expected = literal(i, batch, settings, label)
            assert mixed.box_reference[i].tolist() == expected["to"]
            assert mixed.box_donor[i].tolist() == expected["source"]
            np.testing.assert_array_equal(mixed.images[i], expected["image"])
            for name, found in (
                ("s", mixed.similarity),
                ("kept", mixed.kept),
                ("pasted", mixed.pasted),
                ("rho", mixed.rho),
            ):
                assert float(found[i]) == pytest.approx(expected[name], abs=1e-6), name
        if label != "snapmix":
            torch.testing.assert_close(mixed.kept + mixed.pasted, torch.ones(count), check_dtype=False)


def test_any_donors():
    batch = make_batch(5, 6, 6, 36, seed=4) | {"donors": torch.tensor([3, 0, 4, 1, 2])}
    mixed = mixed_by(batch, settings_of())
    for i in range(5):
        expected = literal(i, batch, settings_of(), "semantic")
        np.testing.assert_array_equal(mixed.images[i], expected["image"])
        assert float(mixed.rho[i]) == pytest.approx(expected["rho"], abs=1e-6)


@pytest.mark.parametrize("label", ["semantic", "snapmix"])
def test_area_share_where_nothing_is_seen(label, monkeypatch):
    """k = g = 0: the reference's whole map lies under the box, and the donor's box shows none of the donor's."""
    masses = iter([torch.tensor([1.0, 0.25]), torch.tensor([0.0, 0.75])])
    monkeypatch.setattr(localized, "mass", lambda *_: next(masses))
    batch = make_batch(2, 6, 6, 40, seed=0) | {"lam": torch.tensor([0.75, 0.75])}  # boxes of 20 × 20 in 40 × 40
    mixed = mixed_by(batch, settings_of(label))
    assert mixed.rho.tolist() == pytest.approx([0.25, 0.5])
    if label == "semantic":
        assert mixed.kept.tolist() == pytest.approx([0.75, 0.5]) and mixed.pasted.tolist() == pytest.approx([0.25, 0.5])
    else:
        assert mixed.kept.tolist() == [0, 0.75] and mixed.pasted.tolist() == [0, 0.75]


def test_rho_lies_between_0_and_1_for_peaked_maps():
    count, h, w, side = 6, 7, 7, 50
    batch = make_batch(count, h, w, side, seed=1)
    maps = torch.full((count, h, w), 1e-30)
    maps[torch.arange(count), torch.arange(count), torch.arange(count)] = 1
    batch |= {"maps": maps / maps.sum((1, 2), keepdim=True), "features": batch["features"].float()}
    for label in ("area", "semantic", "snapmix"):
        mixed = mixed_by(batch, settings_of(label))
        for each in (mixed.rho, mixed.kept, mixed.pasted):
            assert each.isfinite().all() and ((0 <= each) & (each <= 1)).all()


# --- no wait for the device ---


def test_the_recorder_sees_waits(recorder):
    x = torch.arange(4.0)
    for wait in (lambda: float(x[0]), lambda: x[x > 1], lambda: x.nonzero(), lambda: bool((x > 1).any())):
        with recorder() as seen:
            wait()
        assert seen.waits


@pytest.mark.parametrize("label", ["area", "semantic", "snapmix"])
def test_mix_waits_for_nothing(label, recorder):
    batch = make_batch(6, 6, 6, 48, seed=2)
    with recorder() as seen:
        mixed_by(batch, settings_of(label))
    assert seen.count > 20 and not seen.waits


def test_cutmix_waits_for_nothing(recorder):
    batch = make_batch(6, 6, 6, 48, seed=2)
    drawn = Draws(*(batch[name] for name in ("images", "donors", "donors", "lam", "uniform")))
    with recorder() as seen:
        mix(drawn, Evidence(), mixer("cutmix", "area", alpha=1.0, maps=None))
    assert seen.count > 10 and not seen.waits


@pytest.mark.parametrize("reference", ["detached", "joint"])
@pytest.mark.parametrize("scale", ["constant", "share"])
@pytest.mark.parametrize("adaptive", [None, {"delta": 0.2, "quantile": 0.3}])
def test_loss_works_without_values(reference, scale, adaptive):
    """On the meta device no tensor has values: asking for one raises. (torch.quantile checks q on a CPU only.)"""
    settings = Method.model_validate({
        "mix": {"prob": 1.0, "warmup_epochs": 0}, "mixer": settings_of().model_dump(), "label": "semantic",
        "margin": {"m": 0.6, "weight": 0.7, "pos_margin": 0.1, "scale": scale, "reference": reference, "every": 1},
        "adaptive": adaptive,
    })  # fmt: skip
    batch = make_batch(6, 6, 6, 48, seed=0)
    made = vars(mixed_by(batch, settings_of()))
    mixed = Mixed(**{name: None if value is None else value.to("meta") for name, value in made.items()})

    def output() -> Output:
        return Output(None, *(torch.empty(6, 4, device="meta", requires_grad=True) for _ in range(2)))

    clean = output()
    labels, logits = torch.empty(6, dtype=torch.long, device="meta"), clean.logits if reference == "joint" else None
    total, stats = methods.loss(settings, output(), labels, mixed, clean.embedding, logits)
    total.backward()
    assert total.shape == () and all(each.shape == () for each in stats.values())
    with pytest.raises(RuntimeError):
        float(total.detach())
