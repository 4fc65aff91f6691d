"""Boxes: their sides, places and masses, and the paste. All batched; boxes are (B, 4) int64 pixels x0, y0, x1, y1."""

from collections.abc import Sequence
from dataclasses import dataclass

from lapml.common.lazy import Tensor, torch
from lapml.errors import LapmlError


@dataclass(frozen=True)
class Mixed:
    """A batch of generated images. Image i mixes the reference i with its donor ``donors[i]``.

    What was replaced is said by boxes, or by a mask for mixing that leaves every pixel in its place.
    """

    images: Tensor  # (B, 3, H, W)
    donors: Tensor  # (B,) int64, positions in the batch
    kept: Tensor  # (B,) weight of the reference's cross-entropy
    pasted: Tensor  # (B,) weight of the donor's cross-entropy
    rho: Tensor  # (B,) the donor's share of the label, pasted / (kept + pasted)
    box_reference: Tensor | None = None  # (B, 4) where it was pasted, or erased
    box_donor: Tensor | None = None  # (B, 4) what was pasted; None with a box_reference that was erased
    similarity: Tensor | None = None  # (B,) of the two parts, 0..1
    mask: Tensor | None = None  # (B, h, w) how much of each of h × w equal cells is the donor's, 0..1

    def hidden(self, grid: int) -> Tensor:
        """(B, grid, grid) fp32 share of each cell of the reference that is replaced.

        Raises:
            LapmlError: neither box_reference nor mask is given.
        """
        if self.mask is not None:
            return torch.nn.functional.adaptive_avg_pool2d(self.mask.float()[:, None], grid)[:, 0]
        if self.box_reference is None:
            raise LapmlError("Mixed: found neither box_reference nor mask, expected one: it says what was replaced")
        return covered(self.box_reference, grid, self.images.shape[-1])


def weighed(label: str | None, share: Tensor, kept: Tensor, pasted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the two cross-entropies by a label rule.

    Args:
        label: ``area``; ``semantic``: what is seen of the donor among all that is seen; ``snapmix``: what is seen of each
            (weights need not sum to 1).
        share: (B,) of the image's area that was replaced; it also decides where nothing of either object is seen.
        kept, pasted: (B,) what is seen of the reference's and of the donor's object, shares of each.

    Returns:
        (kept, pasted, rho), (B,) each.
    """
    total = kept + pasted
    rho = share if label == "area" else torch.where(total > 0, pasted / total, share)
    return (kept, pasted, rho) if label == "snapmix" else (1 - rho, rho, rho)


def square_sides(lam: Tensor, area: list[float], side: int, whole: Tensor | None = None) -> Tensor:
    """(B,) int64 sides in pixels of square patches of area clip(1 − λ, a_min, a_max), a share of the square image.

    Args:
        side: of the image in pixels.
        whole: (B,) sides in pixels of the squares that the area is a share of, where that is not the image.
    """
    return ((1 - lam).clamp(*area).sqrt() * (side if whole is None else whole)).round().long().clamp(1, side)


def around(cells: Tensor, grid: Sequence[int], extents: Tensor, side: int) -> Tensor:
    """Boxes of given extent around the centres of cells, shifted inside the image, never cut.

    Args:
        cells: (B,) flat indices into a grid of (h, w) cells.
        extents: (B,) int64 sides in pixels, at most ``side``.
        side: of the square image in pixels.
    """
    return centred(middles(cells, grid, side), extents, side)


def middles(cells: Tensor, grid: Sequence[int], side: int) -> Tensor:
    """(B, 2) x and y in pixels of the centres of cells; arguments as of :func:`around`."""
    height, width = grid
    return torch.stack([((cells % width) + 0.5) / width * side, ((cells // width) + 0.5) / height * side], 1)


def centred(points: Tensor, extents: Tensor, side: int) -> Tensor:
    """As :func:`around`, of ``points`` (B, 2), x and y in pixels."""
    corner = points - extents[:, None] / 2
    corner = corner.round().long().clamp_min(0).minimum((side - extents)[:, None])
    return torch.cat([corner, corner + extents[:, None]], 1)


def inside(boxes: Tensor, side: int) -> Tensor:
    """(B, side, side) bool: the pixels that each box covers."""
    at = torch.arange(side, device=boxes.device)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    return ((at >= y0) & (at < y1))[:, :, None] & ((at >= x0) & (at < x1))[:, None, :]


def mass(maps: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Exact integral of piecewise constant cell maps over pixel boxes, clamped to [0, 1].

    Args:
        maps: (B, h, w), each summing to 1 over its cells.
        boxes: (B, 4).
        side: of the square image in pixels.

    Returns:
        (B,) Σ over cells of S · (share of the cell that the box covers).
    """
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("bhw,bh,bw->b", maps, *_covered(boxes, maps.shape[1:], side, maps.dtype)).clamp(0, 1)


def covered(boxes: Tensor, grid: int, side: int) -> Tensor:
    """(B, grid, grid) fp32 share of each cell that a box covers; arguments as in :func:`mass`."""
    return torch.einsum("bh,bw->bhw", *_covered(boxes, (grid, grid), side, torch.float32))


def area(boxes: Tensor, side: int) -> Tensor:
    """(B,) fp32 share of the image that each box covers."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).float() / side**2


def paste(images: Tensor, donors: Tensor, box_reference: Tensor, box_donor: Tensor) -> Tensor:
    """Paste the donors' boxes over the references' boxes of the same size.

    Args:
        images: (≥ B, 3, H, H), the references first.
        donors: (B,) int64, whose image each patch comes from.
        box_reference: (B, 4) where to.
        box_donor: (B, 4) where from, same width and height.

    Returns:
        (B, 3, H, H), a new tensor.
    """
    count, (height, width) = len(donors), images.shape[2:]
    replaced = inside(box_reference, width)
    # In channels_last memory a pixel is one row, and a patch is as many rows away from where it goes throughout.
    shift = box_donor[:, :2] - box_reference[:, :2]
    away = (donors - torch.arange(count, device=images.device)) * height * width + shift[:, 1] * width + shift[:, 0]
    source = torch.arange(replaced.numel(), device=images.device).view_as(replaced) + replaced * away[:, None, None]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    return pixels.index_select(0, source.flatten()).view(count, height, width, -1).permute(0, 3, 1, 2)


def paste_resized(images: Tensor, donors: Tensor, box_reference: Tensor, box_donor: Tensor) -> Tensor:
    """As :func:`paste`, of boxes whose sizes differ: bilinear with antialias, as torchvision's ``resize(antialias=True)`` of
    the donor's box alone.

    It is two batched products with a matrix for each image and axis, A_y X A_xᵀ, so that boxes of any size go together.
    """
    (count, channels), side = (len(donors), images.shape[1]), images.shape[-1]
    with torch.autocast(images.device.type, enabled=False):
        kind = torch.promote_types(images.dtype, torch.float32)
        x, y = (_triangles(box_donor[:, axis::2], box_reference[:, axis::2], side).to(kind) for axis in (0, 1))
        theirs = images.permute(0, 2, 3, 1).index_select(0, donors).to(kind)  # one piece in channels_last memory
        rows = torch.bmm(y, theirs.reshape(count, side, side * channels)).view(count, side, side, channels)
        columns = torch.bmm(x, rows.transpose(1, 2).reshape(count, side, side * channels))
        patches = columns.view(count, side, side, channels).permute(0, 3, 2, 1).to(images.dtype)
    return torch.where(inside(box_reference, side)[:, None], patches, images[:count])


def _triangles(source: Tensor, to: Tensor, side: int) -> Tensor:
    """(B, side, side) fp32: how much of each pixel in ``source`` each pixel in ``to`` takes, rows summing to 1 there.

    Args:
        source, to: (B, 2) where intervals of pixels start and end.
    """
    start, end = source.float()[:, :, None].unbind(1)
    first, last = to.float()[:, :, None].unbind(1)
    pixels = torch.arange(side, device=to.device) + 0.5
    step = (end - start) / (last - first).clamp_min(1)  # (B, 1)
    centres = start + (pixels - first) * step  # (B, side)
    weights = (1 - (pixels - centres[:, :, None]).abs() / step.clamp_min(1)[:, :, None]).clamp_min_(0)
    weights *= ((pixels > start) & (pixels < end))[:, None]
    return weights / weights.sum(2, keepdim=True).clamp_min(1e-6)


def _covered(boxes: Tensor, grid: Sequence[int], side: int, dtype: "torch.dtype") -> list[Tensor]:
    """Shares of the h rows and of the w columns of cells that the boxes cover: (B, h) and (B, w)."""
    shares = []
    for cells, axis in ((grid[0], 1), (grid[1], 0)):
        edges = torch.arange(cells, device=boxes.device, dtype=dtype)
        start, end = (boxes[:, axis::2].to(dtype) * cells / side)[:, :, None].unbind(1)
        shares.append((torch.minimum(end, edges + 1) - torch.maximum(start, edges)).clamp_min(0))
    return shares
