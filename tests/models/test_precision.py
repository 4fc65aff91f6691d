"""bf16 beside fp32: each loss and each row's whole loss within bounds, what stays fp32, and gradients that are numbers."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from lapml.config import Method
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.mixing import Draws, Evidence, Mixed, boxes, mix, mixer
from lapml.mixing import maps as localize
from lapml.models.device import autocast
from lapml.models.model import Classifier, build, training_mode
from lapml.training import loop as train
from lapml.training import losses, methods
from lapml.training.passes import begun, embedded

CPU, SIDE = torch.device("cpu"), 48
ROWS = ("baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin")
STEP = 2**-8  # the relative rounding of bf16
BFLOAT = torch.bfloat16


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return normalize(torch.rand(*shape, generator=generator(seed), dtype=dtype), dim=-1)


# --- each loss, given bf16 ---


@pytest.mark.parametrize("seed", range(8))
def test_mixed_cross_entropy_of_bf16_logits(seed):
    """Off by at most the logits' rounding: a cross-entropy moves by at most twice the largest change of a logit."""
    g = generator(seed)
    logits = 5 * torch.randn(16, 12, generator=g)
    labels, others = torch.randint(12, (2, 16), generator=g)
    kept = torch.rand(16, generator=g)
    full = losses.mixed_cross_entropy(logits, labels, others, kept, 1 - kept)
    half = losses.mixed_cross_entropy(logits.to(BFLOAT), labels, others, kept, 1 - kept)
    assert half.dtype == full.dtype == torch.float32
    assert 0 < abs(float(half - full)) < 2 * STEP * float(logits.abs().max())
    rounded = losses.mixed_cross_entropy(logits.to(BFLOAT).float(), labels, others, kept, 1 - kept)
    assert torch.equal(half, rounded)  # and by nothing else
    with torch.autocast("cpu", BFLOAT):
        under = losses.mixed_cross_entropy(logits, labels, others, kept, 1 - kept)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, full, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_margin_losses_of_bf16_embeddings(seed):
    """A distance of unit vectors moves by at most their rounding, 2·2⁻⁸/2, and a hinge or a mean of them by no more."""
    a, b = unit(2, 16, 64, seed=seed)
    g = generator(seed + 100)
    same, s = torch.rand(16, generator=g) < 0.3, torch.rand(16, generator=g)
    edge = losses.band(0.1, 0.2, s)
    similar = losses.similar_pairs(s, same, 0.25)

    def all_of(a: Tensor, b: Tensor) -> list[Tensor]:
        d = losses.distance(a, b)
        return [d, losses.pairwise_margin(d, same, 0.6, 0.1), losses.adaptive_margin(d, similar, edge)]

    full, half = all_of(a, b), all_of(a.to(BFLOAT), b.to(BFLOAT))
    with torch.autocast("cpu", BFLOAT):
        under = all_of(a, b)
    for exact, rounded, cast in zip(full, half, under, strict=True):
        assert exact.dtype == rounded.dtype == cast.dtype == torch.float32
        assert float(exact.max()) > 0.05
        assert 0 < float((rounded - exact).abs().max()) < 2 * STEP
        torch.testing.assert_close(cast, exact, rtol=0, atol=0)  # autocast rounds nothing of it


# --- what stays fp32 ---


def test_the_embedding_of_a_model_under_autocast_is_fp32_and_of_unit_length(small_run, packed):
    batch, model, _ = batch_and_model(small_run("margin"), packed)
    for dimension in (None, 16):
        settings = small_run("margin").model.model_copy(update={"embedding_dim": dimension})
        model, _ = build(settings, 3, SIDE, seed=0)
        with autocast(CPU, "bf16"):
            output = model(batch.images)
        assert output.features.dtype == output.logits.dtype == BFLOAT and output.embedding.dtype == torch.float32
        torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(len(batch.images)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [BFLOAT, torch.float16])
def test_maps_of_half_precision_features_are_fp32_under_autocast(dtype):
    """And as exact as the features: no product of them is rounded to half precision."""
    g = generator(1)
    features, weight = torch.rand(4, 32, 6, 6, generator=g).to(dtype), torch.randn(3, 32, generator=g)
    labels = torch.tensor([0, 1, 2, 0])
    expected = localize.class_maps(features.double(), weight.double(), labels)
    part = features.flatten(2)[:, :, 7]
    _, s = localize.match_cells(features.double(), expected, part.double(), 0.3)
    with torch.autocast("cpu", dtype):
        maps = localize.class_maps(features, weight, labels)
        cells, similarity = localize.match_cells(features, maps, part, 0.3)
    assert maps.dtype == similarity.dtype == torch.float32
    torch.testing.assert_close(maps.double(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(similarity.double(), s, rtol=0, atol=1e-5)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(4), rtol=0, atol=1e-5)


def test_box_integrals_are_fp32_under_autocast():
    """A map's mass in a box, a box's area, and the covered share of cells."""
    g = generator(2)
    maps = torch.rand(8, 6, 6, generator=g)
    maps = maps / maps.sum((1, 2), keepdim=True)
    corner, extent = torch.randint(0, 24, (8, 2), generator=g), torch.randint(5, 24, (8, 1), generator=g)
    box = torch.cat([corner, corner + extent], 1)
    expected = boxes.mass(maps.double(), box, SIDE)
    with torch.autocast("cpu", BFLOAT):
        found = [boxes.mass(maps, box, SIDE), boxes.area(box, SIDE), boxes.covered(box, 6, SIDE)]
    assert [each.dtype for each in found] == [torch.float32] * 3
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), (extent[:, 0] / SIDE).double() ** 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[2].sum((1, 2)) / 36, found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", ["semantic", "area", "snapmix"])
def test_label_shares_are_fp32_under_autocast_and_those_without_it(label):
    g = generator(3)
    settings = mixer("localized", label, alpha=1.0, area=[0.1, 0.5], temperature=1.0, support=0.3, maps="fresh")
    maps = torch.rand(6, 6, 6, generator=g)
    maps = maps / maps.sum((1, 2), keepdim=True)
    images, features = torch.rand(6, 3, SIDE, SIDE, generator=g), torch.rand(6, 8, 6, 6, generator=g)
    lam, uniform, donors = torch.rand(6, generator=g), torch.rand(6, 2, generator=g), torch.arange(6).roll(1)
    given = Draws(images, torch.arange(6), donors, lam, uniform), Evidence(maps=maps, features=features), settings
    full = mix(*given)
    with torch.autocast("cpu", BFLOAT):
        cast = mix(*given)
    for name in ("kept", "pasted", "rho", "similarity", "box_reference", "box_donor", "images"):
        there, here = getattr(full, name), getattr(cast, name)
        assert there.dtype == here.dtype and here.dtype != BFLOAT, name
        torch.testing.assert_close(here, there, rtol=0, atol=1e-5)


# --- a row's whole loss, through a model ---


def batch_and_model(run, packed, size: int = 12):
    model, weights = build(run.model, 3, SIDE, seed=0)
    view = run.data.view.model_copy(update={"side": SIDE})
    batches = Batches(packed, rows_of(packed.index, ["train"]), view, weights["mean"], weights["std"], CPU)
    return next(iter(batches.training(0, 0, size, run.settings))), model, weights


def mixed_of(run, batch, model: Classifier) -> Mixed | None:
    """The generated images, by maps and features in fp32."""
    if not batch.mixed:
        return None
    evidence = Evidence()
    if run.settings.mixer.needs():
        with torch.no_grad():
            features = model(batch.images).features
        evidence = Evidence(localize.class_maps(features, model.head.weight.detach(), batch.labels), features)
    return methods.mix(run.settings, batch, evidence)


def whole_loss(run, batch, model: Classifier, mixed: Mixed | None, precision: str) -> tuple[Tensor, Tensor]:
    """(the row's loss, its gradient by the head's weight), as a step takes them."""
    training_mode(model, "local")
    model.zero_grad()
    with autocast(CPU, precision):
        if mixed is None:
            loss = cross_entropy(losses.full(model(batch.images).logits), batch.labels)
        else:
            before = begun(model, batch.images.device)
            output = model(mixed.images)
            clean = embedded(model, batch.images, before) if run.settings.margin else None
            loss, _ = methods.loss(run.settings, output, batch.labels, mixed, clean)
    loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())
    return loss.detach(), model.head.weight.grad.clone()


def rows_of_margins(small_run, row: str):
    """A row whose margin losses all have something to do in a model that knows nothing yet."""
    changes = [f"methods.{row}.margin.every=1", f"methods.{row}.margin.pos_margin=0.01"] if row in ROWS[3:] else []
    run = small_run(row, *changes)
    if row not in ROWS[3:]:
        return run
    margin = run.settings.margin.model_copy(update={"m": 0.15, "weight": 1.0})
    update = {"margin": margin}
    if run.settings.adaptive:
        update["adaptive"] = run.settings.adaptive.model_copy(update={"delta": 0.01, "quantile": 0.1})
    return run.model_copy(update={"settings": run.settings.model_copy(update=update)})


@pytest.mark.parametrize("row", ROWS)
def test_a_rows_loss_under_autocast(small_run, packed, row):
    """The same mixed images: within 2 % of fp32, and gradients of nearly the same direction and length."""
    run = rows_of_margins(small_run, row)
    batch, model, _ = batch_and_model(run, packed)
    mixed = mixed_of(run, batch, model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    full, gradient = whole_loss(run, batch, model, mixed, "fp32")
    model.load_state_dict(state)
    half, rough = whole_loss(run, batch, model, mixed, "bf16")
    print(f"{row}: {float(full):.4f} {float(half):.4f}")
    assert full.dtype == half.dtype == torch.float32
    assert half != full and abs(float(half / full) - 1) < 0.02
    assert torch.cosine_similarity(gradient.flatten(), rough.flatten(), dim=0) > 0.99
    assert float(rough.norm() / gradient.norm()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("row", ROWS[3:])
def test_the_margin_losses_of_those_rows_are_at_work(small_run, packed, row):
    run = rows_of_margins(small_run, row)
    batch, model, _ = batch_and_model(run, packed)
    mixed = mixed_of(run, batch, model)
    before = begun(model, batch.images.device)
    output = model(mixed.images)
    clean = embedded(model, batch.images, before)
    _, stats = methods.loss(run.settings, output, batch.labels, mixed, clean)
    assert stats["loss_margin"] > 0.01 and (row == "margin" or stats["loss_adaptive"] > 1e-3)
    same = batch.labels == batch.labels[mixed.donors]
    assert same.any() and not same.all()


@pytest.mark.parametrize("row", [ROWS[0], ROWS[4]])
def test_epochs_of_bf16_stay_near_fp32(small_run, packed, row):
    """Whole runs: mean losses of the first epoch within 5 %, and finite to the end."""
    first, second = (
        train.fit(small_run(row, f"train.precision={precision}"), packed, log=lambda line: None).history
        for precision in ("fp32", "bf16")
    )
    assert second[0]["loss"] == pytest.approx(first[0]["loss"], rel=0.05)
    assert all(math.isfinite(each["loss"]) for each in second)
    assert first[0]["loss"] != second[0]["loss"]


# --- gradients ---


def test_gradcheck_of_the_margin_losses_through_normalised_embeddings():
    """From what a model gives out to the loss of a row: normalise, distance, both margins by share, and their sum."""
    a, b = (torch.rand(6, 5, generator=generator(seed), dtype=torch.float64, requires_grad=True) for seed in (5, 6))
    same = torch.tensor([True, False, False, True, False, False])
    rho, s = torch.rand(2, 6, generator=generator(7), dtype=torch.float64)

    def total(a: Tensor, b: Tensor) -> Tensor:
        d = losses.distance(normalize(a), normalize(b))
        m = 2 * 0.4 * rho
        similar = losses.similar_pairs(s, same, 0.2)
        extra = losses.adaptive_margin(d, similar, losses.band(0.1 * rho, 0.1, s))
        return losses.pairwise_margin(d, same, m + 0.5, 0.1) + extra

    assert total(a, b) > 0
    assert torch.autograd.gradcheck(total, (a, b))


@pytest.mark.parametrize("scale", ["constant", "share"])
@pytest.mark.parametrize("adaptive", [None, {"delta": 0.05, "quantile": 0.2}])
def test_gradcheck_of_a_rows_whole_loss(scale, adaptive):
    """By logits and embeddings of the generated and, where they are joint, of the clean images."""
    settings = Method.model_validate({
        "mix": {"prob": 1.0, "warmup_epochs": 0},
        "mixer": {
            "name": "localized", "alpha": 1.0, "area": [0.1, 0.5], "temperature": 1.0, "support": 0.3, "maps": "fresh",
        },
        "label": "semantic",
        "margin": {"m": 0.35, "weight": 0.7, "pos_margin": 0.1, "scale": scale, "reference": "joint", "every": 1},
        "adaptive": adaptive,
    })  # fmt: skip
    g = generator(8)
    labels, donors = torch.tensor([0, 0, 1, 2, 2, 1]), torch.arange(6).roll(1)
    rho, s = torch.rand(2, 6, generator=g, dtype=torch.float64)
    mixed = Mixed(None, donors, 1 - rho, rho, rho, None, None, s)
    logits, clean_logits = (torch.randn(6, 3, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    a, b = (torch.rand(6, 5, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def total(logits: Tensor, a: Tensor, b: Tensor, clean_logits: Tensor) -> Tensor:
        output = SimpleNamespace(logits=logits, embedding=normalize(a))
        return methods.loss(settings, output, labels, mixed, normalize(b), clean_logits)[0]

    assert torch.autograd.gradcheck(total, (logits, a, b, clean_logits))


def through(precision: str, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Both margin losses and the distances of embeddings that a linear layer gives out."""
    same = torch.tensor([True, False, False, True])
    with autocast(CPU, precision):
        first, second = (normalize(losses.full(each @ weight)) for each in (a, b))
        d = losses.distance(first, second)
        similar = torch.tensor([False, True, True, False])
        return (
            losses.pairwise_margin(d, same, 0.5, 0.0)
            + losses.adaptive_margin(d, similar, torch.zeros(4))
            + d.sum()
        )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("apart", [0, 1])
def test_no_gradient_at_distance_0_is_nan(precision, apart):
    """Equal pairs give no gradient, and those beside them in the batch give theirs."""
    a = torch.rand(4, 8, generator=generator(9))
    b = a.clone()
    b[4 - apart :] = torch.rand(apart, 8, generator=generator(10))
    weight = torch.rand(8, 6, generator=generator(11)).requires_grad_()
    a.requires_grad_(), b.requires_grad_()
    through(precision, a, b, weight).backward()
    for each in (a, b, weight):
        assert each.grad.isfinite().all()
    assert not a.grad[: 4 - apart].any() and not b.grad[: 4 - apart].any()
    assert bool(a.grad.any()) == bool(b.grad.any()) == bool(weight.grad.any()) == bool(apart)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_gradient_of_an_embedding_that_is_0_is_nan(precision):
    """A model whose last ReLU lets nothing through: `normalize` of zeros, at a distance from others, and of each other."""
    a, b = torch.zeros(4, 8), torch.zeros(4, 8)
    b[3] = torch.rand(8, generator=generator(12))
    weight = torch.rand(8, 6, generator=generator(13)).requires_grad_()
    a.requires_grad_(), b.requires_grad_()
    loss = through(precision, a, b, weight)
    loss.backward()
    assert loss.isfinite() and all(each.grad.isfinite().all() for each in (a, b, weight))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_that_mixing_did_not_change_has_a_finite_gradient(small_run, packed, precision):
    """Through a model: every pair is at distance 0 (joint references: the same pass), and a step is an ordinary one."""
    run = rows_of_margins(small_run, "adaptive_margin")
    batch, model, _ = batch_and_model(run, packed)
    share = torch.full((12,), 0.5)
    mixed = Mixed(batch.images, batch.donors, 1 - share, share, share, None, None, share)
    training_mode(model, "local")
    with autocast(CPU, precision):
        output = model(batch.images)
        loss, stats = methods.loss(
            run.settings, output, batch.labels, mixed, output.embedding, output.logits
        )  # fmt: skip
    loss.backward()
    assert stats["d_mean"] == 0 and stats["loss_margin"] > 0
    assert all(value.grad.isfinite().all() for value in model.parameters()) and model.head.weight.grad.any()
