"""The gallery page: the same reference and donor mixed by each method, with its map and its label.

One self-contained file. Without JavaScript it shows all pairs, one below another.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lapml.common.text import class_name
from lapml.report.html import render
from lapml.report.tiles import Box, glow, outline, picture, rectangle

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
    judged = any(pair.box_reference or pair.box_donor for pair in pairs)  # the data set has true boxes
    return render(
        "gallery.html.j2",
        title=title,
        subtitle=subtitle,
        synthetic=synthetic,
        judged=judged,
        pairs=[_pair(pair) for pair in pairs],
    )


def without_pictures(title: str, subtitle: str) -> str:
    """The page in place of a gallery if no picture may be shown."""
    return render("no_gallery.html.j2", title=title, subtitle=subtitle)


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "reference": picture(pair.reference),
        "donor": picture(pair.donor),
        "reference_class": class_name(pair.reference_class),
        "donor_class": class_name(pair.donor_class),
        "object_reference": rectangle(pair.box_reference),
        "object_donor": rectangle(pair.box_donor),
        "mixes": [_mix(mix) for mix in pair.mixes],
    }


def _mix(mix: Mix) -> dict[str, Any]:
    end = max(1.0, mix.kept, mix.pasted)  # of the bars' scale
    total = mix.kept + mix.pasted
    facts = {
        "s": None if mix.similarity is None else _digits(mix.similarity),
        "area": f"{100 * mix.area:.0f} %",
        "true share": None if mix.truth is None else _digits(mix.truth),
        "weights sum to": _digits(total) if abs(total - 1) > SLACK else None,
    }
    return {
        "method": mix.method,
        "caption": mix.caption,
        "flags": mix.flags,
        "image": picture(mix.image),
        "reference_map": glow(mix.reference_map),
        "donor_map": glow(mix.donor_map),
        "to": outline(mix.box_to, mix.cells, mix.image.shape),
        "source": outline(mix.box_from, mix.cells, mix.image.shape),
        "facts": [(name, fact) for name, fact in facts.items() if fact is not None],
        "kept": {"text": _digits(mix.kept), "width": 100 * mix.kept / end},
        "pasted": {"text": _digits(mix.pasted), "width": 100 * mix.pasted / end},
        "one": 100 / end,
        "truth": None if mix.truth is None else 100 * mix.truth / end,
    }


def _digits(number: float | None) -> str:
    return f"{number:.2f}" if number is not None and math.isfinite(number) else "–"
