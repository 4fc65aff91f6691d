"""A page to leaf through: the same reference and donor, mixed by each method, with what each looked at and how it labels.

The page is one file without a request to anywhere. Without its script it shows all pairs, one below another.
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

LOSSLESS = 96  # pixels: up to this side a picture is a PNG, for it is shown enlarged
QUALITY = 90  # of the JPEG that a larger one is
GLOW = 0.6  # opacity of a map's highest cell: the picture must still be seen below it
SLACK = 0.005  # that two weights may miss a sum of 1 by: they are shown with two digits


@dataclass(frozen=True)
class Mix:
    """What one method makes of a pair."""

    method: str  # the row's name, such as "loc_cutmix"
    caption: str  # how it mixes, one short line
    image: np.ndarray  # (H, W, 3) uint8
    box_to: Box | None  # pasted over, pixels of the reference
    box_from: Box | None  # where that comes from, pixels of the donor
    cells: np.ndarray | None  # (h, w) bool, the pasted cells of a method that pastes a set of them in place
    reference_map: np.ndarray | None  # (h, w) float over the whole picture, sums to 1
    donor_map: np.ndarray | None  # likewise
    similarity: float | None  # of the two parts
    kept: float  # weight of the reference's class in the loss
    pasted: float  # weight of the donor's class; the two need not sum to 1
    area: float  # share of the picture that was replaced or blended, 0..1
    truth: float | None  # the donor's true share of what is seen of both objects, 0..1
    flags: list[str]  # what is wrong with it, such as "meaningless"


@dataclass(frozen=True)
class Pair:
    """A reference, a donor, and what the methods make of them."""

    reference: np.ndarray  # (H, W, 3) uint8
    donor: np.ndarray  # (H, W, 3) uint8
    reference_class: str
    donor_class: str
    box_reference: Box | None  # of the object, true, pixels of the view
    box_donor: Box | None
    mixes: list[Mix]


def page(title: str, subtitle: str, pairs: list[Pair], drawn: bool) -> str:
    """The gallery as HTML.

    Args:
        title, subtitle: of the page, plain text.
        pairs: at least one.
        drawn: the pictures are drawn by a program; otherwise they are photographs. The page says which.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("pairs: found none, expected at least one to show")
    return render(
        "gallery.html.j2",
        title=title,
        subtitle=subtitle,
        drawn=drawn,
        pairs=[_pair(pair) for pair in pairs],
        colours={"reference": REFERENCE, "donor": DONOR},
    )


def without_pictures(title: str, subtitle: str) -> str:
    """The page in place of a gallery, where no picture of the data may be shown."""
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
    """(H, W, 3) uint8 as an address and its size."""
    height, width = pixels.shape[:2]
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(height, width) <= LOSSLESS:
        image.save(buffer, "PNG", optimize=True)
        return {"src": data_uri(buffer.getvalue(), "png"), "width": width, "height": height}
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return {"src": data_uri(buffer.getvalue(), "jpeg"), "width": width, "height": height}


def _glow(heat: np.ndarray | None) -> str | None:
    """A map as a picture of one pixel a cell, the more opaque the higher; the page enlarges it without smoothing."""
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
    """An SVG path round the box, or round the cells, in pixels; None where there is nothing to outline."""
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
        around = padded[y : y + 3, x : x + 3]  # a side is drawn where the cell beyond it is not pasted
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
