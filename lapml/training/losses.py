"""The losses as pure functions: mixed cross-entropy, pairwise margin, adaptive pairwise margin.

Our reading of stage 2 (docs/methods.md). Pairs are (generated image, its reference); d is their distance in the embedding
space, (B,). Means over sets are masked sums, so that nothing waits for the device; an empty mean is 0. Where a batch is
spread over ranks, sets are counted over all of them, so that the mean of the ranks' losses is the loss of the batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lapml.common import ranks


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    donor_labels: Tensor,
    kept: Tensor,
    pasted: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """mean_i [kept_i · CE(z_i, y_i) + pasted_i · CE(z_i, y_j)].

    Args:
        logits: (B, K); labels, donor_labels: (B,) int64; kept, pasted: (B,) weights.
        label_smoothing: ε; both labels are then (1 − ε) · one-hot + ε/K (Szegedy et al., CVPR 2016).
    """
    logits = full(logits)
    reference = cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    other = cross_entropy(logits, donor_labels, reduction="none", label_smoothing=label_smoothing)
    return (kept * reference + pasted * other).mean()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of paired embeddings, (B, D) × (B, D) → (B,), in fp32 at least; its gradient at 0 is 0."""
    square = (full(a) - full(b)).square().sum(1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def pairwise_margin(d: Tensor, same: Tensor, m: Tensor | float, pos_margin: float) -> Tensor:
    """The conventional loss: mean_N [m − d]₊ + |P|/(|N|+|P|) · mean_P [d − m⁺]₊ (Hadsell et al., CVPR 2006, first power).

    Args:
        d: (B,) distances.
        same: (B,) bool, the donor is of the reference's class (set P; the others are N).
        m: the margin, or (B,) margins.
        pos_margin: m⁺.
    """
    push = _mean((m - d).relu(), ~same)
    everywhere = ranks.total(torch.ones_like(same, dtype=torch.int64).sum())
    pull = torch.where(same, (d - pos_margin).relu(), 0.0).sum() * ranks.size() / everywhere
    return push + pull


def similar_pairs(similarity: Tensor, same: Tensor, quantile: float) -> Tensor:
    """(B,) bool, N_s: pairs of N whose part similarity is above the batch's quantile (ties at it are not)."""
    return (similarity > torch.quantile(ranks.gathered(similarity), quantile)) & ~same


def band(m: Tensor | float, delta: float, similarity: Tensor) -> Tensor:
    """(B,) outer edge m + δ·(1 − s): the more similar the part, the narrower the band beyond the margin."""
    return m + delta * (1 - similarity)


def adaptive_margin(d: Tensor, similar: Tensor, edge: Tensor) -> Tensor:
    """The adaptive term: mean_{N_s} [d − edge]₊, pairs located farther than the band."""
    return _mean((d - edge).relu(), similar)


def share(where: Tensor, among: Tensor) -> Tensor:
    """Share of the pairs ``among`` for which ``where`` holds, both (B,) bool; 0 if there are none."""
    return _mean(where.float(), among)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() * ranks.size() / ranks.total(mask.sum()).clamp_min(1)


def full(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
