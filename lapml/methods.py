"""A row's settings → how it mixes a batch, and which loss it takes of it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lapml import losses
from lapml.config import CutMix, Localized, Method
from lapml.localize import class_maps
from lapml.mixing import cutmix, localized
from lapml.mixing.boxes import Mixed
from lapml.model import Net, Output, frozen_statistics


class Reference(NamedTuple):
    """What the pass over the clean images gives."""

    maps: Tensor  # (B, h, w)
    features: Tensor  # (B, C, h, w)
    output: Output


def reference(net: Net, images: Tensor, labels: Tensor, settings: Method) -> Reference:
    """The pass over the clean images that localises, and that margin losses measure from.

    Without gradient and without touching running statistics, unless ``margin.reference`` is ``joint``: then it is an
    ordinary forward pass with gradient.
    """
    if settings.margin and settings.margin.reference == "joint":
        output = net(images)
        features = output.features.detach()
    else:
        scale = settings.mixer.scale
        if scale != 1:
            side = localisation_side(images.shape[-1], scale, net.stride)
            images = interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        with torch.no_grad(), frozen_statistics(net):
            output = net(images)
        features = output.features
    return Reference(class_maps(features, net.head.weight.detach(), labels), features, output)


def localisation_side(side: int, scale: float, stride: int) -> int:
    """Side of the localisation pass in pixels: ``side · scale`` to the nearest multiple of the net's stride."""
    return max(1, round(side * scale / stride)) * stride


def mix(
    settings: Method, images: Tensor, donors: Tensor, lam: Tensor, uniform: Tensor, seen: Reference | None
) -> Mixed:
    """Generate a batch.

    Args:
        images: (B, 3, H, H); donors: (B,) int64; lam: (B,); uniform: (B, DRAWS).
        seen: the reference pass, which the localized mixer needs.
    """
    match settings.mixer:
        case CutMix():
            return cutmix.mix(images, donors, lam, uniform)
        case Localized():
            return localized.mix(images, donors, seen.maps, seen.features, lam, uniform, settings.mixer, settings.label)
    raise TypeError(f"no mixer for {settings.mixer!r}")


def loss(
    settings: Method, output: Output, labels: Tensor, mixed: Mixed, seen: Reference | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The row's whole loss on a generated batch, and what history.csv records of it (0-d tensors on the device)."""
    donor_labels = labels[mixed.donors]
    ce = losses.mixed_cross_entropy(output.logits, labels, donor_labels, mixed.kept, mixed.pasted)
    total, stats = ce, {"rho_mean": mixed.rho.mean()}
    if mixed.similarity is not None:
        stats["s_mean"] = mixed.similarity.mean()
    margin, adaptive = settings.margin, settings.adaptive
    if margin is None:
        return total, {**stats, "ce": ce.detach()}
    if margin.reference == "joint":
        ce = ce + torch.nn.functional.cross_entropy(seen.output.logits.float(), labels)
    d = losses.distance(output.embedding, seen.output.embedding)
    same = labels == donor_labels
    m = 2 * margin.m * mixed.rho if margin.scale == "share" else torch.full_like(d, margin.m)
    pairwise = losses.pairwise_margin(d, same, m, margin.positive)
    total = ce + margin.alpha * pairwise
    stats |= {"d_mean": d.detach().mean(), "loss_margin": pairwise.detach(), "ce": ce.detach()}
    if adaptive is None:
        return total, {**stats, "beyond": losses.share(d.detach() > m, ~same)}
    similar = losses.similar_pairs(mixed.similarity, same, adaptive.quantile)
    edge = losses.band(m, adaptive.delta, mixed.similarity)
    extra = losses.adaptive_margin(d, similar, edge)
    beyond = losses.share(d.detach() > edge, similar)
    return total + margin.alpha * extra, {**stats, "loss_adaptive": extra.detach(), "beyond": beyond}
