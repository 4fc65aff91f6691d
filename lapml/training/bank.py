"""What the model saw of each training image at its last visits, kept in the image's own frame.

Localisation needs a class map and features of the *clean* image, which a forward pass of its own gives at about a third
of a step. But every step forwards each image anyway, whole or with one box pasted over: so the cells that were not
pasted over are kept, carried from the view into the frame of the stored square, and carried from there into the view of
the image's next visit, an epoch later. No forward pass is added.
"""

import torch
from torch import Tensor

from lapml.common import ranks
from lapml.data.views import cut
from lapml.mixing.boxes import covered
from lapml.mixing.maps import class_maps, normalised

PARTS = 64  # numbers per cell by which parts are compared
SEEN = 0.5  # a cell is renewed where at least this share of it was seen


class Bank:
    """For every image of a data set, a grid of cells over its stored square: (class map's value, part features).

    A map's values are relative to its peak, part features are unit vectors, both fp16. Where the model has more than
    :data:`PARTS` channels, a fixed random projection keeps their cosines to about ±1/√PARTS (Johnson and Lindenstrauss).

    Args:
        images: in the data set.
        channels: C of the model's features.
        grid: cells per side, as many as the model's map has.
    """

    def __init__(self, images: int, channels: int, grid: int, device: torch.device):
        self.grid = grid
        self.project = torch.eye(channels)
        if channels > PARTS:
            self.project = torch.randn(channels, PARTS, generator=torch.Generator().manual_seed(0))
        self.project = self.project.to(device)
        self.cells = torch.zeros(images, grid, grid, 1 + self.project.shape[1], dtype=torch.float16, device=device)

    def keep(
        self,
        rows: Tensor,
        windows: Tensor,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        hidden: Tensor | None,
    ) -> None:
        """Renew the cells that a step saw; on several ranks, those that all of them saw.

        Args:
            rows: (B,) int64 of the data set's index.
            windows: (B, 5) which part of the stored squares the views show.
            features: (B, C, h, w) of the step's forward pass.
            weight: (K, C) of the head.
            labels: (B,) of the references.
            hidden: (B, h, w) share of each cell that was pasted over; None for clean images.
        """
        maps = class_maps(features, weight, labels)
        maps = maps / maps.amax((1, 2), keepdim=True)
        kind = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            parts = torch.einsum("bchw,cp->bhwp", features.to(kind), self.project.to(kind))
        parts = torch.nn.functional.normalize(parts, dim=3).nan_to_num()
        kept = torch.ones_like(maps) if hidden is None else 1 - hidden.to(maps)
        seen = (
            torch.cat([maps[..., None], parts, torch.ones_like(maps)[..., None]], 3)
            * (kept * (kept >= SEEN))[..., None]
        )
        rows, windows, seen = ranks.gathered(rows), ranks.gathered(windows), ranks.gathered(seen)
        view_cells = cut(seen, _inverse(windows), self.grid).permute(0, 2, 3, 1)
        share = view_cells[..., -1:]  # of a cell as the view shows it, drawn out beyond its border
        shown = covered(torch.cat([windows[:, :2], windows[:, :2] + windows[:, 2:4]], 1), self.grid, 1)[..., None]
        new = (view_cells[..., :-1] / share.clamp_min(1e-6)).to(self.cells.dtype)
        held = self.cells[rows]
        renewed = (share >= SEEN) & ((shown >= SEEN) | ~held.any(-1, keepdim=True))
        self.cells[rows] = torch.where(renewed, new, held)

    def recall(self, rows: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, w) class maps that sum to 1, and (B, P, h, w) part features, as views of ``windows`` would show them.

        A map is uniform, and features are 0, where nothing is known yet.
        """
        cells = cut(self.cells[rows].float(), windows, self.grid)
        return normalised(cells[:, 0]), cells[:, 1:]


def _inverse(windows: Tensor) -> Tensor:
    """(B, 5) the windows of the views, in the view's unit square, that show the whole stored squares."""
    x, y, w, h, flip = windows.unbind(1)
    x = torch.where(flip > 0.5, 1 - x - w, x)
    return torch.stack([-x / w, -y / h, 1 / w, 1 / h, flip], 1)
