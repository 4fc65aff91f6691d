"""A row's settings → how it mixes a batch, and which loss it takes of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lapml import losses, own
from lapml.bank import Bank
from lapml.config import Method
from lapml.data.batches import Batch
from lapml.errors import LapmlError
from lapml.localize import class_maps
from lapml.mixing import attentive, cutmix, cutout, localized, mixup, oracle, snapmix
from lapml.mixing.boxes import Mixed
from lapml.model import Net, Output, frozen_statistics, normalised_alike
from lapml.rows import AttentiveCutMix, CutMix, Cutout, Localized, Mixup, Oracle, Own, SnapMix


class Reference(NamedTuple):
    """What is known of the clean images of a batch before they are mixed."""

    maps: Tensor  # (N, h, w) class maps, of the references and of those that are donors only
    parts: Tensor  # (N, P, h, w) features by which parts are compared
    embedding: Tensor | None = None  # (B, D) of the references, with gradient (``margin.reference: joint``)
    logits: Tensor | None = None  # (B, K) likewise


class Seen(NamedTuple):
    """What a user's own loss is given of a step, see docs/methods.md."""

    output: Output  # of the batch that was trained on: the generated one, or the clean one where it was not mixed
    labels: Tensor  # (B,) int64 of the references
    donor_labels: Tensor | None  # (B,) int64; None where the batch was not mixed
    mixed: Mixed | None  # likewise
    clean: Tensor | None  # (B, D) unit embeddings of the references without gradient, where ``reference`` asks for them


def reference(
    net: Net, settings: Method, batch: Batch, forward: Callable[[Tensor], Output], frozen: Net | None = None
) -> tuple[Reference, int, int]:
    """Localise the clean images by a pass of their own.

    Args:
        forward: the net as it trains, for ``margin.reference: joint``.
        frozen: the net as it was before training, in evaluation mode, for Attentive CutMix.

    Returns:
        (the reference, images forwarded for it, images that will go backward for it).
    """
    images, labels, weight, needs = batch.images, batch.labels, net.head.weight.detach(), settings.mixer.needs()
    if settings.margin and settings.margin.reference == "joint":
        output = forward(images)
        features = output.features.detach()
        seen = Reference(
            class_maps(features, weight, labels),
            features,
            output.embedding[: batch.count],
            output.logits[: batch.count],
        )
        return seen, len(images), len(images)
    if needs == "attention":
        with torch.no_grad():
            features = frozen.features(images)
        return Reference(features.float().mean(1), features), len(images), 0
    kind = images.device.type
    uncached = torch.autocast(
        kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
    )
    with torch.no_grad(), frozen_statistics(net), uncached:  # the step must not take over weights cast without gradient
        features = net(images).features
    if needs == "scores":
        maps = snapmix.maps(features, weight, labels, images.shape[-1])
    else:
        maps = class_maps(features, weight, labels)
    return Reference(maps, features), len(images), 0


def ahead(settings: Method, batch: Batch, bank: Bank | None) -> Mixed | None:
    """The generated batch, where that needs nothing of the net as it is now: it can be made before its step.

    (Within an epoch no two batches share an image, so what the steps before it add to the bank does not matter.)
    """
    if not batch.mixed or not (bank or settings.mixer.needs() in (None, "truth")):
        return None
    return mix(settings, batch, Reference(*bank.recall(batch.index, batch.windows)) if bank else None)


@torch.no_grad()
def embedded(net: Net, images: Tensor, before: list[Tensor]) -> Tensor:
    """(B, D) embeddings of clean images as the batch that was just generated would have them: were an image of it not
    changed by mixing, its distance would be 0. No running statistics are touched; the net is left in evaluation mode.

    Args:
        before: :func:`~lapml.model.running_statistics` before the generated batch's pass.
    """
    with normalised_alike(net, before):
        return net(images).embedding


def mix(settings: Method, batch: Batch, seen: Reference | None) -> Mixed:
    """Generate a batch.

    Args:
        seen: maps and parts, for the mixers that need them.
    """
    images, donors, lam, uniform = batch.images, batch.donors, batch.lam, batch.uniform
    match settings.mixer:
        case Mixup():
            return mixup.mix(images, donors, lam)
        case Cutout(side=side):
            return cutout.mix(images, donors, uniform, side)
        case CutMix():
            return cutmix.mix(images, donors, lam, uniform, settings.label, seen.maps if seen else None)
        case SnapMix(same_class=same_class):
            same = batch.labels[: batch.count] == batch.labels[donors]
            return snapmix.mix(images, donors, seen.maps, lam, uniform, batch.second, same, same_class)
        case AttentiveCutMix(cells=cells):
            return attentive.mix(images, donors, seen.maps, cells)
        case Localized():
            return localized.mix(images, donors, seen.maps, seen.parts, lam, uniform, settings.mixer, settings.label)
        case Oracle(area=area):
            return oracle.mix(images, donors, batch.truth, lam, uniform, area, settings.label)
        case Own():
            function = own.bound(settings.mixer.name, settings.mixer.sha256, "lapml.mixers")
            mixed = function(batch, seen, **settings.mixer.model_extra)
            _check_own(settings.mixer.name, mixed, batch)
            return mixed
    raise TypeError(f"no mixer for {settings.mixer!r}")


def _check_own(name: str, mixed: Mixed, batch: Batch) -> None:
    """A user's own mixer returns what the steps after it need."""
    if not isinstance(mixed, Mixed):
        raise LapmlError(f"{name}: found {type(mixed).__name__}, expected a Mixed to be returned")
    if mixed.images.shape != batch.images[: batch.count].shape:
        found, expected = tuple(mixed.images.shape), tuple(batch.images[: batch.count].shape)
        raise LapmlError(f"{name}: its Mixed has images of shape {found}, expected {expected}")
    for part in ("kept", "pasted", "rho"):
        if (shape := tuple(getattr(mixed, part).shape)) != (batch.count,):
            raise LapmlError(f"{name}: its Mixed has {part} of shape {shape}, expected ({batch.count},)")
    mixed.hidden(1)  # says what was replaced


def loss(
    settings: Method,
    output: Output,
    labels: Tensor,
    mixed: Mixed,
    clean: Tensor | None = None,
    clean_logits: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The row's whole loss on a generated batch, and what history.csv records of it (0-d tensors on the device).

    Margin losses that are taken of every n-th batch weigh n times as much there, so that α means the same.

    Args:
        labels: (≥ B,) of the references, then of those that are donors only.
        clean: (B, D) embeddings of the references; without them, no margin loss is taken.
        clean_logits: (B, K) of the references, where their cross-entropy is added too (``margin.reference: joint``).
    """
    donor_labels, labels = labels[mixed.donors], labels[: len(mixed.donors)]
    ce = losses.mixed_cross_entropy(output.logits, labels, donor_labels, mixed.kept, mixed.pasted)
    total, stats = ce, {"rho_mean": mixed.rho.mean()}
    if mixed.similarity is not None:
        stats["s_mean"] = mixed.similarity.mean()
    margin, adaptive = settings.margin, settings.adaptive
    if clean is None:
        return total, {**stats, "ce": ce.detach()}
    if adaptive and mixed.similarity is None:
        raise LapmlError(f"{settings.mixer.name}: its Mixed has no similarity, expected one for the adaptive margin")
    if clean_logits is not None:
        ce = ce + losses.cross_entropy(losses.full(clean_logits), labels)
    d = losses.distance(output.embedding, clean)
    same, alpha = labels == donor_labels, margin.alpha * margin.every
    m = 2 * margin.m * mixed.rho if margin.scale == "share" else torch.full_like(d, margin.m)
    pairwise = losses.pairwise_margin(d, same, m, margin.positive)
    total = ce + alpha * pairwise
    stats |= {"d_mean": d.detach().mean(), "loss_margin": pairwise.detach(), "ce": ce.detach()}
    if adaptive is None:
        return total, {**stats, "beyond": losses.share(d.detach() > m, ~same)}
    similar = losses.similar_pairs(mixed.similarity, same, adaptive.quantile)
    edge = losses.band(m, adaptive.delta, mixed.similarity)
    extra = losses.adaptive_margin(d, similar, edge)
    beyond = losses.share(d.detach() > edge, similar)
    return total + alpha * extra, {**stats, "loss_adaptive": extra.detach(), "beyond": beyond}


def own_loss(settings: Method, seen: Seen) -> Tensor:
    """A user's own loss of a step, without its weight."""
    function = own.bound(settings.loss.name, settings.loss.sha256, "lapml.losses")
    value = function(seen, **settings.loss.model_extra)
    device = seen.output.logits.device
    if not isinstance(value, Tensor) or value.ndim or value.device != device:
        found = type(value).__name__
        if isinstance(value, Tensor):
            found = f"a tensor of shape {tuple(value.shape)} on {value.device}"
        raise LapmlError(
            f"{settings.loss.name}: found {found}, expected a 0-d tensor on {device} to be returned, as of .mean()"
        )
    return value
