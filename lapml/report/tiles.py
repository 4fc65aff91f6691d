"""Pictures of the data as tiles of a page: each picture inlined once, with the map and the outline that lie over it."""

import io
from collections.abc import Iterable
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
    """The tiles of a page's section.

    Args:
        prefix: of the pictures' ids.
    """

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

    def mixes(self, items: Iterable[dict[str, Any]]) -> dict[str, list[list[dict[str, Any]]]]:
        """What each mixing makes: {method: [reference, donor and mixed image of a pair]}.

        Args:
            items: dicts with ``method``; ``reference, donor, mixed`` (H, W, 3) uint8; ``reference_map, donor_map`` (h, w)
                float over the whole picture, or None; ``box_reference, box_donor`` in pixels, or None; ``rho, s`` the label
                share and the similarity of the parts, or None; ``labels`` (reference, donor).
        """
        rows: dict[str, list[list[dict[str, Any]]]] = {}
        for item in items:
            to, source = rectangle(item["box_reference"]), rectangle(item["box_donor"])
            facts = [f"{sign} {item[key]:.2f}" for sign, key in (("ρ", "rho"), ("s", "s")) if item[key] is not None]
            names = [class_name(name) for name in item["labels"]]
            rows.setdefault(item["method"], []).append([
                self.tile(item["reference"], names[0], item["reference_map"], to, "reference"),
                self.tile(item["donor"], names[1], item["donor_map"], source, "donor"),
                self.tile(item["mixed"], ", ".join(facts), None, to, "reference"),
            ])  # fmt: skip
        return rows

    def cams(self, items: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Where each method looks: {method: [validation image]}.

        Args:
            items: dicts with ``method``, ``image`` (H, W, 3) uint8, ``map`` (h, w) float over the whole picture, ``title``
                (the predicted class) and ``correct``.
        """
        rows: dict[str, list[dict[str, Any]]] = {}
        for item in items:
            name, kind = class_name(item["title"]), "right" if item["correct"] else "wrong"
            rows.setdefault(item["method"], []).append(self.tile(item["image"], name, item["map"], kind=kind))
        return rows

    def mistakes(self, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The hardest mistakes: a test image, and a training image of the class that it is taken for.

        Args:
            items: dicts with ``image, near`` (H, W, 3) uint8, the latter or None; ``label, answer`` (class names); ``wrong,
                runs`` (counts); ``truly``.
        """
        found = []
        for item in items:
            views = [self.tile(item["image"], f"is: {class_name(item['label'])}")]
            taken = f"taken for: {class_name(item['answer'])}"
            if item["near"] is not None:
                views.append(self.tile(item["near"], taken))
            truly = "below 0.001" if item["truly"] < 0.001 else f"{item['truly']:.3f}"
            facts = f"wrong in {item['wrong']} of {item['runs']} runs; probability of the true class {truly}"
            found.append({"views": views, "facts": facts if len(views) == 2 else f"{taken}; {facts}"})
        return found
