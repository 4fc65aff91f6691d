"""The settings of a method → how it mixes a batch, and its loss."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lapml import mixing
from lapml.common import custom
from lapml.config import Method
from lapml.data.batches import Batch
from lapml.errors import LapmlError
from lapml.mixing import FIELDS, Draws, Evidence, Mixed, snapmix, transmix
from lapml.mixing.maps import class_maps
from lapml.models.attention import class_attention
from lapml.models.model import Classifier, Output, spare_statistics
from lapml.training import losses


class Stored(Protocol):
    """Evidence that is made before a batch's step, held by image (such as :class:`~lapml.training.bank.Bank`)."""

    def recall(self, rows: Tensor, windows: Tensor) -> tuple[Tensor, ...]:
        """The fields of Evidence that it gives, in order, of (N,) rows of the index as views of (N, 5) ``windows`` show them."""
        ...


class Reference(NamedTuple):
    """The outputs for the clean images of a batch, before they are mixed."""

    evidence: Evidence
    embedding: Tensor | None = None  # (B, D) of the references, with gradient (``margin.reference: joint``)
    logits: Tensor | None = None  # (B, K) likewise


class Seen(NamedTuple):
    """The arguments of a custom loss, see docs/methods.md."""

    output: Output  # of the batch that was trained on: the generated one, or the clean one where it was not mixed
    labels: Tensor  # (B,) int64 of the references
    donor_labels: Tensor | None  # (B,) int64; None where the batch was not mixed
    mixed: Mixed | None  # likewise
    clean: Tensor | None  # (B, D) unit embeddings of the references without gradient, where ``reference`` asks for them


def reference(
    model: Classifier,
    settings: Method,
    batch: Batch,
    forward: Callable[[Tensor], Output],
    frozen: Classifier | None = None,
    stored: Mapping[str, Stored] = MappingProxyType({}),
) -> tuple[Reference, int, int]:
    """The evidence that a mixer asks for, by passes of the clean images where it takes any.

    Args:
        forward: the model as it trains, for ``margin.reference: joint``.
        frozen: the model as it was before training, in evaluation mode, for mixers that attend by it.
        stored: as of :func:`ahead`.

    Returns:
        (the reference, images forwarded for it, images that will go backward for it).
    """
    images, labels, weight, needs = batch.images, batch.labels, model.head.weight.detach(), settings.needs()
    evidence, embedding, logits, features = _stored_evidence(needs, batch, stored), None, None, None
    joint = settings.joint
    if joint:
        output = forward(images)
        features = output.features.detach()
        embedding, logits = output.embedding[: batch.count], output.logits[: batch.count]
    elif {"fresh", "scores"} & set(needs):
        with _spared(model, images):  # the model as it is now
            features = model(images).features
    if "fresh" in needs:
        assert features is not None
        evidence |= {"maps": class_maps(features, weight, labels), "features": features}
    if "scores" in needs:
        assert features is not None
        evidence["scores"] = snapmix.maps(features, weight, labels, images.shape[-1])
    if "attention" in needs:
        assert frozen is not None
        with torch.no_grad():
            evidence["attention"] = frozen.features(images).float().mean(1)
    passes = (features is not None) + ("attention" in needs)
    return Reference(Evidence(**evidence), embedding, logits), passes * len(images), joint * len(images)


@contextmanager
def _spared(model: Classifier, images: Tensor) -> Iterator[None]:
    """A pass within neither moves running statistics nor leaves the step weights that were cast without gradient."""
    kind = images.device.type
    uncached = torch.autocast(
        kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
    )
    with torch.no_grad(), spare_statistics(model), uncached:
        yield


def _stored_evidence(needs: Collection[str], batch: Batch, stored: Mapping[str, Stored]) -> dict[str, Any]:
    """The fields of evidence that need no forward pass."""
    fields: dict[str, Any] = {"truth": batch.truth} if "truth" in needs else {}
    for need in needs:
        if need in stored:
            fields |= zip(FIELDS[need], stored[need].recall(batch.index, batch.windows), strict=True)
    return fields


def ahead(settings: Method, batch: Batch, stored: Mapping[str, Stored]) -> Mixed | None:
    """The generated batch, where that needs nothing of the model as it is now: it can be made before its step. (Where a pass
    of the clean images is due anyway, by ``margin.reference: joint``, it is made in the step.)

    (Within an epoch no two batches share an image, so what the steps before it add to a bank does not matter.)

    Args:
        stored: {evidence that mixers ask for: what gives it}, a key of :data:`~lapml.mixing.FIELDS` each.
    """
    if not batch.mixed or settings.joint or not set(needs := settings.needs()) <= {"truth", *stored}:
        return None
    if settings.mixer is not None and settings.mixer.attends:
        return None
    return mix(settings, batch, Evidence(**_stored_evidence(needs, batch, stored)))


def mix(settings: Method, batch: Batch, evidence: Evidence, model: Classifier | None = None) -> Mixed:
    """Generate a batch by the method's mixer and label rule.

    Args:
        model: as it is now, for mixers that label by what it attends to.
    """
    assert batch.donors is not None and batch.lam is not None and batch.uniform is not None
    assert settings.mixer is not None
    draws = Draws(batch.images, batch.labels, batch.donors, batch.lam, batch.uniform, batch.second)
    mixed = mixing.mix(draws, evidence, settings.mixer.labelled(settings.label))
    if not settings.mixer.attends:
        return mixed
    assert model is not None
    with _spared(model, mixed.images):
        return transmix.attended(mixed, class_attention(model, mixed.images))


def loss(
    settings: Method,
    output: Output,
    labels: Tensor,
    mixed: Mixed,
    clean: Tensor | None = None,
    clean_logits: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The method's whole loss on a generated batch, and its columns of history.csv (0-d tensors on the device).

    Margin losses that are taken of every n-th batch weigh n times as much there, so that the weight means the same.

    Args:
        labels: (≥ B,) of the references, then of those that are donors only.
        clean: (B, D) embeddings of the references; without them, no margin loss is taken.
        clean_logits: (B, K) of the references, where their cross-entropy is added too (``margin.reference: joint``).
        label_smoothing: of every cross-entropy.
    """
    donor_labels, labels = labels[mixed.donors], labels[: len(mixed.donors)]
    ce = losses.mixed_cross_entropy(output.logits, labels, donor_labels, mixed.kept, mixed.pasted, label_smoothing)
    total, stats = ce, {"rho_mean": mixed.rho.mean()}
    if mixed.similarity is not None:
        stats["s_mean"] = mixed.similarity.mean()
    margin, adaptive = settings.margin, settings.adaptive
    if clean is None:
        return total, {**stats, "ce": ce.detach()}
    if adaptive and mixed.similarity is None:
        assert settings.mixer is not None
        raise LapmlError(f"{settings.mixer.name}: its Mixed has no similarity, expected one for the adaptive margin")
    if clean_logits is not None:
        ce = ce + cross_entropy(losses.full(clean_logits), labels, label_smoothing=label_smoothing)
    d = losses.distance(output.embedding, clean)
    assert margin is not None and not isinstance(margin.m, str) and not isinstance(margin.weight, str)
    same, weight = labels == donor_labels, margin.weight * margin.every
    m = 2 * margin.m * mixed.rho if margin.scale == "share" else torch.full_like(d, margin.m)
    pairwise = losses.pairwise_margin(d, same, m, margin.pos_margin)
    total = ce + weight * pairwise
    stats |= {"d_mean": d.detach().mean(), "loss_margin": pairwise.detach(), "ce": ce.detach()}
    if adaptive is None:
        return total, {**stats, "beyond": losses.share(d.detach() > m, ~same)}
    assert mixed.similarity is not None
    assert not isinstance(adaptive.quantile, str) and not isinstance(adaptive.delta, str)
    similar = losses.similar_pairs(mixed.similarity, same, adaptive.quantile)
    edge = losses.band(m, adaptive.delta, mixed.similarity)
    extra = losses.adaptive_margin(d, similar, edge)
    beyond = losses.share(d.detach() > edge, similar)
    return total + weight * extra, {**stats, "loss_adaptive": extra.detach(), "beyond": beyond}


def custom_loss(settings: Method, seen: Seen) -> Tensor:
    """A custom loss of a step, without its weight."""
    own = settings.loss
    assert own is not None
    value = custom.bound(own.name, own.sha256, "lapml.losses")(seen, **(own.model_extra or {}))
    device = seen.output.logits.device
    if not isinstance(value, Tensor) or value.ndim or value.device != device:
        found = type(value).__name__
        if isinstance(value, Tensor):
            found = f"a tensor of shape {tuple(value.shape)} on {value.device}"
        raise LapmlError(f"{own.name}: found {found}, expected a 0-d tensor on {device} to be returned, as of .mean()")
    return value
