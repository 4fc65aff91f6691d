"""The gallery page: the same reference and donor mixed by each method, with its map and its label.

One self-contained file. Without JavaScript it shows all pairs, one below another.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from lapml.common.text import class_name
from lapml.report.grids import DONOR, REFERENCE
from lapml.report.html import data_uri, render

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

LOSSLESS = 96  # pixels: up to this side a picture is a PNG, since it is enlarged
QUALITY = 90  # of larger pictures, as JPEG
GLOW = 0.6  # opacity of a map's highest cell
SLACK = 0.005  # tolerance of a sum of 1, shown with two digits


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


def page(title: str, subtitle: str, pairs: list[Pair], synthetic: bool) -> str:
    """The gallery as HTML.

    Args:
        title, subtitle: of the page, plain text.
        pairs: at least one.
        synthetic: whether the pictures are synthetic; else photographs. The page says which.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("pairs: found none, expected at least one")
    return render(
        "gallery.html.j2",
        title=title,
        subtitle=subtitle,
        synthetic=synthetic,
        pairs=[_pair(pair) for pair in pairs],
        colours={"reference": REFERENCE, "donor": DONOR},
    )


def without_pictures(title: str, subtitle: str) -> str:
    """The page in place of a gallery if no picture may be shown."""
    return render("no_gallery.html.j2", title=title, subtitle=subtitle)


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "reference": _picture(pair.reference),
        "donor": _picture(pair.donor),
        "reference_class": class_name(pair.reference_class),
        "donor_class": class_name(pair.donor_class),
        "object_reference": _rectangle(pair.box_reference),
        "object_donor": _rectangle(pair.box_donor),
        "mixes": [_mix(mix) for mix in pair.mixes],
    }


def _mix(mix: Mix) -> dict[str, Any]:
    end = max(1.0, mix.kept, mix.pasted)  # of the bars' scale
    total = mix.kept + mix.pasted
    facts = [("s", _digits(mix.similarity)), ("area", f"{100 * mix.area:.0f} %"), ("true share", _digits(mix.truth))]
    if abs(total - 1) > SLACK:
        facts.append(("weights sum to", _digits(total)))
    return {
        "method": mix.method,
        "caption": mix.caption,
        "flags": mix.flags,
        "image": _picture(mix.image),
        "reference_map": _glow(mix.reference_map),
        "donor_map": _glow(mix.donor_map),
        "to": _outline(mix.box_to, mix.cells, mix.image.shape),
        "source": _outline(mix.box_from, mix.cells, mix.image.shape),
        "facts": facts,
        "kept": {"text": _digits(mix.kept), "width": 100 * mix.kept / end},
        "pasted": {"text": _digits(mix.pasted), "width": 100 * mix.pasted / end},
        "one": 100 / end,
        "truth": None if mix.truth is None else 100 * mix.truth / end,
    }


def _picture(pixels: np.ndarray) -> dict[str, Any]:
    """(H, W, 3) uint8 as a data URI, with its size."""
    height, width = pixels.shape[:2]
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(height, width) <= LOSSLESS:
        image.save(buffer, "PNG", optimize=True)
        return {"src": data_uri(buffer.getvalue(), "png"), "width": width, "height": height}
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return {"src": data_uri(buffer.getvalue(), "jpeg"), "width": width, "height": height}


def _glow(heat: np.ndarray | None) -> str | None:
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


def _outline(box: Box | None, cells: np.ndarray | None, shape: tuple[int, ...]) -> str | None:
    """An SVG path round the box, or round the cells, in pixels; None if there is nothing to outline."""
    if box is not None:
        return _rectangle(box)
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


def _rectangle(box: Box | None) -> str | None:
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        return None
    x0, y0, x1, y1 = map(_number, box)
    return f"M{x0} {y0}H{x1}V{y1}H{x0}Z"


def _number(number: float) -> str:
    return f"{float(number):.2f}".rstrip("0").rstrip(".")


def _digits(number: float | None) -> str:
    return f"{number:.2f}" if number is not None and math.isfinite(number) else "–"
