"""A row's settings → how it mixes a batch, and which loss it takes of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lapml import losses
from lapml.bank import Bank
from lapml.config import CutMix, Localized, Method
from lapml.data.batches import Batch
from lapml.localize import class_maps
from lapml.mixing import cutmix, localized
from lapml.mixing.boxes import Mixed
from lapml.model import Net, Output, frozen_statistics, normalised_alike


class Reference(NamedTuple):
    """What is known of the clean images of a batch before they are mixed."""

    maps: Tensor  # (N, h, w) class maps, of the references and of those that are donors only
    parts: Tensor  # (N, P, h, w) features by which parts are compared
    embedding: Tensor | None = None  # (B, D) of the references, with gradient (``margin.reference: joint``)
    logits: Tensor | None = None  # (B, K) likewise


def reference(
    net: Net, settings: Method, batch: Batch, forward: Callable[[Tensor], Output]
) -> tuple[Reference, int, int]:
    """Localise the clean images by a pass of their own.

    Args:
        forward: the net as it trains, for ``margin.reference: joint``.

    Returns:
        (the reference, images forwarded for it, images that will go backward for it).
    """
    images, labels, weight = batch.images, batch.labels, net.head.weight.detach()
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
    kind = images.device.type
    uncached = torch.autocast(
        kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
    )
    with torch.no_grad(), frozen_statistics(net), uncached:  # the step must not take over weights cast without gradient
        features = net(images).features
    return Reference(class_maps(features, weight, labels), features), len(images), 0


def ahead(settings: Method, batch: Batch, bank: Bank | None) -> Mixed | None:
    """The generated batch, where that needs nothing of the net as it is now: it can be made before its step.

    (Within an epoch no two batches share an image, so what the steps before it add to the bank does not matter.)
    """
    if not batch.mixed or isinstance(settings.mixer, Localized) and bank is None:
        return None
    seen = Reference(*bank.recall(batch.index, batch.windows)) if bank else None
    return mix(settings, batch.images, batch.donors, batch.lam, batch.uniform, seen)


@torch.no_grad()
def embedded(net: Net, images: Tensor, before: list[Tensor]) -> Tensor:
    """(B, D) embeddings of clean images as the batch that was just generated would have them: were an image of it not
    changed by mixing, its distance would be 0. No running statistics are touched; the net is left in evaluation mode.

    Args:
        before: :func:`~lapml.model.running_statistics` before the generated batch's pass.
    """
    with normalised_alike(net, before):
        return net(images).embedding


def mix(
    settings: Method, images: Tensor, donors: Tensor, lam: Tensor, uniform: Tensor, seen: Reference | None
) -> Mixed:
    """Generate a batch.

    Args:
        images: (≥ B, 3, H, H), the references first; donors: (B,) int64; lam: (B,); uniform: (B, DRAWS).
        seen: maps and parts, which the localized mixer needs.
    """
    match settings.mixer:
        case CutMix():
            return cutmix.mix(images, donors, lam, uniform)
        case Localized():
            return localized.mix(images, donors, seen.maps, seen.parts, lam, uniform, settings.mixer, settings.label)
    raise TypeError(f"no mixer for {settings.mixer!r}")


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
