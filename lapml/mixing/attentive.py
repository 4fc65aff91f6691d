"""Attentive CutMix (Walawalkar, Shen, Liu and Savvides, ICASSP 2020): the donor's most attended cells, each in its place."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lapml.mixing.boxes import Mixed


def mix(images: Tensor, donors: Tensor, attention: Tensor, share: float) -> Mixed:
    """Paste the donors' most attended cells at the same places; the label's share is that of the cells.

    Args:
        images: (≥ B, 3, H, H), the references first.
        donors: (B,) int64, no image its own.
        attention: (≥ B, h, w) mean feature maps of a frozen pretrained net; cells that are not finite come last.
        share: of the cells that is pasted (the authors': 6 of 7 × 7); at least one is, and one is kept.
    """
    count, height, width = len(donors), *attention.shape[1:]
    top = min(max(round(share * height * width), 1), height * width - 1)
    seen = attention[donors].flatten(1)
    best = seen.masked_fill(~seen.isfinite(), -torch.inf).topk(top, dim=1).indices
    mask = torch.zeros_like(seen, dtype=torch.float32).scatter(1, best, 1.0).view(count, height, width)
    pasted = torch.full((count,), top / (height * width), device=images.device)
    over = interpolate(mask[:, None], images.shape[-2:], mode="nearest") > 0
    return Mixed(torch.where(over, images[donors], images[:count]), donors, 1 - pasted, pasted, pasted, mask=mask)
