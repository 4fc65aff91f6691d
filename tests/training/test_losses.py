"""Every formula of docs/methods.md, recomputed with plain Python loops in float64."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch.nn.functional import cross_entropy, normalize

from lapml.config import Method
from lapml.mixing.boxes import Mixed
from lapml.training import losses, methods

CLASSES = 5


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def loop_cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def loop_margin(d: list[float], same: list[bool], m: list[float], pos_margin: float) -> float:
    apart = [max(m[i] - d[i], 0.0) for i in range(len(d)) if not same[i]]
    alike = [max(d[i] - pos_margin, 0.0) for i in range(len(d)) if same[i]]
    push = sum(apart) / len(apart) if apart else 0.0
    pull = sum(alike) / len(alike) if alike else 0.0
    return push + len(alike) / (len(apart) + len(alike)) * pull


def loop_similar(s: list[float], same: list[bool], quantile: float) -> list[bool]:
    """N_s: 'the pairs of N whose s_i is above the batch's τ_s-quantile'."""
    level = float(np.quantile(s, quantile))
    return [s[i] > level and not same[i] for i in range(len(s))]


def loop_adaptive(d: list[float], similar: list[bool], m: list[float], delta: float, s: list[float]) -> float:
    beyond = [max(d[i] - (m[i] + delta * (1 - s[i])), 0.0) for i in range(len(d)) if similar[i]]
    return sum(beyond) / len(beyond) if beyond else 0.0


@st.composite
def pairs(draw):
    """(d, same, s, ρ) of a batch, as lists."""
    count = draw(st.integers(2, 12))
    unit = st.floats(0, 1, allow_subnormal=False)
    lists = [draw(st.lists(unit, min_size=count, max_size=count)) for _ in range(3)]
    same = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return [math.sqrt(2) * each for each in lists[0]], same, lists[1], lists[2]


# --- cross-entropy ---


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_mixed_cross_entropy(dtype, tolerance):
    g = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(7, CLASSES, generator=g, dtype=torch.float64)
    y, other = torch.randint(CLASSES, (2, 7), generator=g)
    kept, pasted = 2 * torch.rand(2, 7, generator=g, dtype=torch.float64)  # SnapMix's weights need not sum to 1
    rows = logits.tolist()
    expected = sum(
        float(kept[i]) * loop_cross_entropy(rows[i], int(y[i]))
        + float(pasted[i]) * loop_cross_entropy(rows[i], int(other[i]))
        for i in range(7)
    )
    found = losses.mixed_cross_entropy(logits.to(dtype), y, other, kept.to(dtype), pasted.to(dtype))
    assert float(found) == pytest.approx(expected / 7, rel=tolerance)


def loop_smoothed(logits: list[float], label: int, smoothing: float) -> float:
    """Cross-entropy with (1 − ε) · one-hot + ε/K."""
    count = len(logits)
    return sum(
        (smoothing / count + (1 - smoothing) * (k == label)) * loop_cross_entropy(logits, k) for k in range(count)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_mixed_cross_entropy_of_smoothed_labels(dtype, tolerance, smoothing):
    """By the formula, and by torch's cross-entropy of one smoothed label at a time."""
    g = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(7, CLASSES, generator=g, dtype=torch.float64)
    y, other = torch.randint(CLASSES, (2, 7), generator=g)
    kept, pasted = 2 * torch.rand(2, 7, generator=g, dtype=torch.float64)
    rows, expected, torchs = logits.tolist(), 0.0, 0.0
    for i in range(7):
        for weight, label in ((kept[i], y[i]), (pasted[i], other[i])):
            expected += float(weight) * loop_smoothed(rows[i], int(label), smoothing) / 7
            torchs += weight / 7 * cross_entropy(logits[i : i + 1], label[None], label_smoothing=smoothing)
    found = losses.mixed_cross_entropy(logits.to(dtype), y, other, kept.to(dtype), pasted.to(dtype), smoothing)
    assert float(found) == pytest.approx(expected, rel=tolerance)
    assert float(found) == pytest.approx(float(torchs), rel=tolerance)
    if not smoothing:
        assert found == losses.mixed_cross_entropy(logits.to(dtype), y, other, kept.to(dtype), pasted.to(dtype))


# --- distance ---


def test_distance():
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 6, 9, generator=g, dtype=torch.float64)
    expected = [math.sqrt(sum((a[i, k] - b[i, k]).item() ** 2 for k in range(9))) for i in range(6)]
    assert losses.distance(a, b).tolist() == pytest.approx(expected, rel=1e-12)


def test_distance_at_zero_has_zero_gradient():
    a = normalize(torch.rand(4, 8), dim=1)
    b = a.clone()
    b[3] = a[2]  # one pair apart, beside three at 0
    a.requires_grad_(), b.requires_grad_()
    d = losses.distance(a, b)
    assert d[:3].tolist() == [0, 0, 0] and d[3] > 0
    (losses.pairwise_margin(d, torch.tensor([True, False, False, True]), 0.5, 0.0) + d.sum()).backward()
    assert a.grad.isfinite().all() and b.grad.isfinite().all()
    assert not a.grad[:3].any() and a.grad[3].any()


def test_distance_of_half_precision_is_fp32():
    a, b = normalize(torch.rand(2, 5, 64), dim=2)
    for half in (torch.bfloat16, torch.float16):
        found = losses.distance(a.to(half), b.to(half))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, losses.distance(a.to(half).float(), b.to(half).float()), rtol=0, atol=0)


def test_distance_stays_fp32_under_autocast():
    a, b = normalize(torch.rand(2, 5, 64), dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.distance(a, b), (a - b).norm(dim=1), rtol=1e-6, atol=0)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31 - 1), st.floats(0, 0.9))
def test_non_negative_embeddings_are_at_most_sqrt2_apart(count, width, seed, zeros):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, count, width, generator=g, dtype=torch.float64)
    a, b = (normalize(each * (each > zeros), dim=1) for each in (a, b))
    assert (losses.distance(a, b) <= math.sqrt(2) + 1e-12).all()


# --- the conventional margin ---


@given(pairs(), st.floats(0, 1.5), st.floats(0, 1))
def test_pairwise_margin_with_a_constant_margin(batch, m, pos_margin):
    d, same, _, _ = batch
    found = losses.pairwise_margin(tensor(d), torch.tensor(same), m, pos_margin)
    assert float(found) == pytest.approx(loop_margin(d, same, [m] * len(d), pos_margin), abs=1e-12)


@given(pairs(), st.floats(0, 1.5))
def test_pairwise_margin_with_margins_by_share(batch, m):
    d, same, _, rho = batch
    margins = [2 * m * each for each in rho]
    found = losses.pairwise_margin(tensor(d), torch.tensor(same), tensor(margins), 0.0)
    assert float(found) == pytest.approx(loop_margin(d, same, margins, 0.0), abs=1e-12)


def test_empty_sets_add_nothing():
    d = tensor([0.2, 0.4, 1.0])
    everyone, nobody = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    assert float(losses.pairwise_margin(d, everyone, 0.5, 0.1)) == pytest.approx((0.1 + 0.3 + 0.9) / 3)  # N empty
    assert float(losses.pairwise_margin(d, nobody, 0.5, 0.1)) == pytest.approx((0.3 + 0.1) / 3)  # P empty
    assert float(losses.adaptive_margin(d, nobody, tensor([0.0, 0.0, 0.0]))) == 0  # N_s empty
    assert not losses.similar_pairs(d, everyone, 0.0).any()
    assert float(losses.share(everyone, nobody)) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("m, pos_margin", [(0.9, 0.0), (1.2, 0.4), (0.1, 0.0)])
def test_against_pytorch_metric_learning(seed, m, pos_margin):
    """Part by part: ours weighs the pos_margin part by |P|/(|N|+|P|)."""
    g = torch.Generator().manual_seed(seed)
    generated, reference = normalize(torch.rand(2, 16, 12, generator=g, dtype=torch.float64), dim=2)
    same = torch.rand(16, generator=g) < 0.3
    alike, apart, none = same.nonzero()[:, 0], (~same).nonzero()[:, 0], torch.empty(0, dtype=torch.long)
    theirs = ContrastiveLoss(pos_margin=pos_margin, neg_margin=m, reducer=MeanReducer())
    push = theirs(generated, indices_tuple=(none, none, apart, apart), ref_emb=reference)
    pull = theirs(generated, indices_tuple=(alike, alike, none, none), ref_emb=reference)
    both = theirs(generated, indices_tuple=(alike, alike, apart, apart), ref_emb=reference)
    torch.testing.assert_close(push + pull, both)

    d = losses.distance(generated, reference)
    torch.testing.assert_close(losses.pairwise_margin(d, same, m, 2.0), push, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        losses.pairwise_margin(d, same, 0.0, pos_margin), pull * len(alike) / 16, rtol=1e-9, atol=1e-12
    )
    expected = push + pull * len(alike) / 16
    torch.testing.assert_close(losses.pairwise_margin(d, same, m, pos_margin), expected, rtol=1e-9, atol=1e-12)


# --- the adaptive margin ---


@given(pairs(), st.floats(0, 0.99))
def test_similar_pairs(batch, quantile):
    _, same, s, _ = batch
    found = losses.similar_pairs(tensor(s), torch.tensor(same), quantile)
    level = float(np.quantile(s, quantile))
    sure = [abs(each - level) > 1e-9 for each in s]  # np and torch may interpolate a last bit apart
    expected = loop_similar(s, same, quantile)
    assert [f for f, ok in zip(found.tolist(), sure, strict=True) if ok] == [
        e for e, ok in zip(expected, sure, strict=True) if ok
    ]


@pytest.mark.parametrize(
    "s, quantile, expected",
    [
        ([0.0, 0.0, 0.0, 0.4, 0.5, 0.6], 0.25, [3, 4, 5]),  # s is clamped at 0: such parts are not similar at all
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.5, [3, 4]),  # a pair that is the quantile itself is not above it
        ([0.3, 0.3, 0.3, 0.3], 0.5, []),
    ],
)
def test_similar_pairs_are_strictly_above_the_quantile(s, quantile, expected):
    found = losses.similar_pairs(torch.tensor(s), torch.zeros(len(s), dtype=torch.bool), quantile)
    assert found.nonzero()[:, 0].tolist() == expected


@given(pairs(), st.floats(0, 1.4), st.floats(0, 1.4), st.lists(st.booleans(), min_size=12, max_size=12))
def test_adaptive_margin(batch, m, delta, chosen):
    d, same, s, rho = batch
    similar = [a and not b for a, b in zip(chosen, same, strict=False)]
    for margins, given_m in (
        ([m] * len(d), m),
        ([2 * m * each for each in rho], tensor([2 * m * each for each in rho])),
    ):
        edge = losses.band(given_m, delta, tensor(s))
        found = losses.adaptive_margin(tensor(d), torch.tensor(similar), edge)
        assert float(found) == pytest.approx(loop_adaptive(d, similar, margins, delta, s), abs=1e-12)


def test_more_similar_parts_have_narrower_bands():
    edge = losses.band(0.6, 0.4, tensor([0.0, 0.5, 1.0]))
    assert edge.tolist() == pytest.approx([1.0, 0.8, 0.6])


@given(pairs(), st.floats(0, 1.4))
def test_share(batch, level):
    d, same, _, _ = batch
    among = [each for each, alike in zip(d, same, strict=True) if not alike]
    expected = sum(each > level for each in among) / len(among) if among else 0.0
    found = losses.share(tensor(d) > level, ~torch.tensor(same))
    assert float(found) == pytest.approx(expected)


# --- gradients ---


def test_gradients():
    g = torch.Generator().manual_seed(3)
    labels, others = torch.randint(CLASSES, (2, 6), generator=g)
    kept, pasted = torch.rand(2, 6, generator=g, dtype=torch.float64)
    logits = torch.randn(6, CLASSES, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: losses.mixed_cross_entropy(z, labels, others, kept, pasted), logits)

    a, b = (torch.rand(6, 4, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(losses.distance, (a, b))

    d = tensor([0.1, 0.3, 0.5, 0.9, 1.1, 1.3]).requires_grad_()  # off the kinks at 0.2, 0.7 and the edges below
    same = torch.tensor([False, True, False, True, False, False])
    margins = tensor([0.7, 0.7, 0.6, 0.6, 1.2, 1.0])
    for m in (0.7, margins):
        assert torch.autograd.gradcheck(lambda x, m=m: losses.pairwise_margin(x, same, m, 0.2), d)
        edge = losses.band(m, 0.25, tensor([0.9, 0.1, 0.5, 0.3, 0.0, 1.0]))
        assert torch.autograd.gradcheck(lambda x, edge=edge: losses.adaptive_margin(x, ~same, edge), d)
    assert torch.autograd.gradcheck(lambda x, y: losses.pairwise_margin(losses.distance(x, y), same, 0.7, 0.2), (a, b))


# --- the whole loss of a row ---


def make_batch(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    count, width = 8, 6
    labels = torch.tensor([0, 0, 1, 2, 3, 3, 1, 4])  # donors by roll(1): two of the pairs are of one class
    donors = torch.arange(count).roll(1)
    rho, s = torch.rand(2, count, generator=g)
    logits, clean = torch.randn(2, count, CLASSES, generator=g)
    generated, reference = normalize(torch.rand(2, count, width, generator=g), dim=2)
    mixed = Mixed(None, donors, 1 - rho, rho, rho, None, None, s)
    output = SimpleNamespace(logits=logits, embedding=generated, features=None)
    return labels, donors, rho, s, output, mixed, reference, clean


def settings_of(scale: str, reference: str, adaptive: dict | None, every: int = 1) -> Method:
    return Method.model_validate({
        "mix": {"prob": 1.0, "warmup_epochs": 0},
        "mixer": {
            "name": "localized", "alpha": 1.0, "area": [0.1, 0.5], "temperature": 1.0, "support": 0.3, "maps": "fresh",
        },
        "label": "semantic",
        "margin": {"m": 0.6, "weight": 0.7, "pos_margin": 0.1, "scale": scale, "reference": reference, "every": every},
        "adaptive": adaptive,
    })  # fmt: skip


@pytest.mark.parametrize("scale", ["constant", "share"])
@pytest.mark.parametrize("reference", ["detached", "joint"])
@pytest.mark.parametrize("adaptive", [None, {"delta": 0.2, "quantile": 0.3}])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_total(scale, reference, adaptive, smoothing):
    """L = CE(x̃) + α·(L_m [+ L_a]), and the clean images' cross-entropy too where they carry gradient."""
    labels, donors, rho, s, output, mixed, embedding, logits = make_batch()
    clean_logits = logits if reference == "joint" else None
    settings = settings_of(scale, reference, adaptive)
    total, stats = methods.loss(settings, output, labels, mixed, embedding, clean_logits, smoothing)

    y, z, clean = labels.tolist(), output.logits.double().tolist(), logits.double().tolist()
    count = len(y)
    expected = (
        sum(
            (1 - float(rho[i])) * loop_smoothed(z[i], y[i], smoothing)
            + float(rho[i]) * loop_smoothed(z[i], y[int(donors[i])], smoothing)
            for i in range(count)
        )
        / count
    )
    if reference == "joint":
        expected += sum(loop_smoothed(clean[i], y[i], smoothing) for i in range(count)) / count
    d = (output.embedding.double() - embedding.double()).norm(dim=1).tolist()
    same = [y[i] == y[int(donors[i])] for i in range(count)]
    assert sum(same) == 2
    m = [2 * 0.6 * float(rho[i]) if scale == "share" else 0.6 for i in range(count)]
    margin = loop_margin(d, same, m, 0.1)
    expected += 0.7 * margin
    assert float(stats["loss_margin"]) == pytest.approx(margin, rel=1e-5)
    if adaptive:
        extra = loop_adaptive(d, loop_similar(s.tolist(), same, 0.3), m, 0.2, s.tolist())
        expected += 0.7 * extra
        assert extra > 0 and float(stats["loss_adaptive"]) == pytest.approx(extra, rel=1e-5)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(stats["d_mean"]) == pytest.approx(sum(d) / count, rel=1e-5)
    assert float(stats["s_mean"]) == pytest.approx(float(s.mean()), rel=1e-5)


def test_gradient_reaches_the_reference_only_if_joint():
    labels, _, _, _, output, mixed, embedding, logits = make_batch()
    for leaf in (output.logits, output.embedding, logits, embedding):
        leaf.requires_grad_()
    total, stats = methods.loss(settings_of("constant", "joint", None), output, labels, mixed, embedding, logits)
    total.backward()
    assert logits.grad.any() and embedding.grad.any() and output.embedding.grad.any()
    assert not any(each.requires_grad for each in stats.values())
