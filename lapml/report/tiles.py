"""Pictures of the data as tiles of a page: each picture inlined once, with the map and the outline that lie over it."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from lapml.common.text import class_name
from lapml.report.html import data_uri

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

LOSSLESS = 96  # pixels: up to this side a picture is a PNG, since it is enlarged
QUALITY = 90  # of larger pictures, as JPEG
GLOW = 0.6  # opacity of a map's highest cell


@dataclass(frozen=True)
class Mix:
    """A pair mixed by one method."""

    method: str  # the method's name, such as "loc_cutmix"
    caption: str  # how it mixes, one short line
    image: np.ndarray  # (H, W, 3) uint8
    box_to: Box | None  # pasted over, pixels of the reference
    box_from: Box | None  # the source, pixels of the donor
    cells: np.ndarray | None  # (h, w) bool, the pasted cells of a method that pastes a set of them in place
    reference_map: np.ndarray | None  # (h, w) float over the whole picture, sums to 1
    donor_map: np.ndarray | None  # likewise
    similarity: float | None  # of the two parts
    kept: float  # weight of the reference's class in the loss
    pasted: float  # weight of the donor's class; the two need not sum to 1
    area: float  # share of the picture that was replaced or blended, 0..1
    truth: float | None  # the donor's true share of what is seen of both objects, 0..1
    flags: list[str]  # faults, such as "meaningless"
    rho: float | None = None  # the donor's share of the label


@dataclass(frozen=True)
class Pair:
    """A reference and a donor, mixed by each method."""

    reference: np.ndarray  # (H, W, 3) uint8
    donor: np.ndarray  # (H, W, 3) uint8
    reference_class: str
    donor_class: str
    box_reference: Box | None  # of the object, true, pixels of the view
    box_donor: Box | None
    mixes: list[Mix]


def picture(pixels: np.ndarray) -> dict[str, Any]:
    """(H, W, 3) uint8 as a data URI, with its size."""
    height, width = pixels.shape[:2]
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(height, width) <= LOSSLESS:
        image.save(buffer, "PNG", optimize=True)
        return {"src": data_uri(buffer.getvalue(), "png"), "width": width, "height": height}
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return {"src": data_uri(buffer.getvalue(), "jpeg"), "width": width, "height": height}


def glow(heat: np.ndarray | None) -> str | None:
    """A map as a picture with one pixel per cell, more opaque where higher."""
    if heat is None:
        return None
    heat = np.nan_to_num(np.asarray(heat, dtype=float)).clip(min=0)
    strength = heat / heat.max() if heat.max() > 0 else heat
    colours = matplotlib.colormaps["inferno"](strength)
    colours[..., 3] = GLOW * strength
    buffer = io.BytesIO()
    Image.fromarray((colours * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")


def outline(box: Box | None, cells: np.ndarray | None, shape: tuple[int, ...]) -> str | None:
    """An SVG path round the box, or round the cells, in pixels; None if there is nothing to outline."""
    if box is not None:
        return rectangle(box)
    if cells is None or not cells.any():
        return None
    rows, columns = cells.shape
    down, across = shape[0] / rows, shape[1] / columns
    padded = np.pad(cells.astype(bool), 1)
    steps = []
    for y, x in np.argwhere(cells):
        left, top, right, bottom = (_number(each) for each in (x * across, y * down, (x + 1) * across, (y + 1) * down))
        around = padded[y : y + 3, x : x + 3]  # draw a side if the cell beyond it is not pasted
        steps += [f"M{left} {top}H{right}"] * (not around[0, 1]) + [f"M{left} {bottom}H{right}"] * (not around[2, 1])
        steps += [f"M{left} {top}V{bottom}"] * (not around[1, 0]) + [f"M{right} {top}V{bottom}"] * (not around[1, 2])
    return "".join(steps)


def rectangle(box: Box | None) -> str | None:
    """An SVG path round a box; None for an empty one."""
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        return None
    x0, y0, x1, y1 = map(_number, box)
    return f"M{x0} {y0}H{x1}V{y1}H{x0}Z"


def _number(number: float) -> str:
    return f"{float(number):.2f}".rstrip("0").rstrip(".")


class Tiles:
    """The tiles of a page's section; ``prefix``: of the pictures' ids."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.pictures: dict[str, dict[str, Any]] = {}  # what is shown more than once is inlined once

    def tile(
        self,
        pixels: np.ndarray,
        caption: str,
        heat: np.ndarray | None = None,
        box: str | None = None,
        kind: str = "",
    ) -> dict[str, Any]:
        """A picture (H, W, 3) uint8, its caption, a map (h, w) and an outline (an SVG path) over it, and what it is: a
        ``reference`` or ``donor``, or an answer that is ``right`` or ``wrong``."""
        found = picture(pixels)
        found = self.pictures.setdefault(found["src"], found | {"id": f"{self.prefix}-{len(self.pictures)}"})
        size = {key: found[key] for key in ("id", "width", "height")}
        return {**size, "caption": caption, "map": glow(heat), "outline": box, "kind": kind}

    def mixes(self, pairs: Iterable[Pair]) -> list[list[dict[str, Any]]]:
        """The reference, the donor and the mixed image of each pair, as its only method mixes it."""
        rows = []
        for pair in pairs:
            [mix] = pair.mixes
            to, source = rectangle(mix.box_to), rectangle(mix.box_from)
            facts = [
                f"{sign} {value:.2f}" for sign, value in (("ρ", mix.rho), ("s", mix.similarity)) if value is not None
            ]
            names = class_name(pair.reference_class), class_name(pair.donor_class)
            rows.append([
                self.tile(pair.reference, names[0], mix.reference_map, to, "reference"),
                self.tile(pair.donor, names[1], mix.donor_map, source, "donor"),
                self.tile(mix.image, ", ".join(facts), None, to, "reference"),
            ])  # fmt: skip
        return rows
