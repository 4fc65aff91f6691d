"""Mixup (Zhang, Cissé, Dauphin and Lopez-Paz, ICLR 2018), a share an image."""

from torch import Tensor

from lapml.mixing.boxes import Mixed


def mix(images: Tensor, donors: Tensor, lam: Tensor) -> Mixed:
    """Blend every reference with its donor, x̃ = λ·x_i + (1 − λ)·x_j; the label likewise.

    Args:
        images: (≥ B, 3, H, H), the references first.
        donors: (B,) int64, no image its own.
        lam: (B,) λ ~ Beta(β, β).
    """
    share = (1 - lam)[:, None, None]
    mixed = images[: len(donors)].lerp(images[donors], share[..., None].to(images.dtype))
    return Mixed(mixed, donors, lam, 1 - lam, 1 - lam, mask=share)
