"""The gallery page: the same reference and donor mixed by each method, with its map and its label.

One self-contained file. Without JavaScript it shows all pairs, one below another.
"""

import math
from typing import Any

from lapml.common.text import class_name
from lapml.report.html import render
from lapml.report.tiles import Mix, Pair, glow, outline, picture, rectangle

SLACK = 0.005  # tolerance of a sum of 1, shown with two digits


def page(title: str, subtitle: str, pairs: list[Pair], synthetic: bool) -> str:
    """The gallery as HTML; ``synthetic``: the page says that its pictures are, and not photographs."""
    shown = [_pair(pair) for pair in pairs]
    judged = any(pair.box_reference or pair.box_donor for pair in pairs)  # the data set has true boxes
    return render("gallery.html.j2", title=title, subtitle=subtitle, synthetic=synthetic, judged=judged, pairs=shown)


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


def _digits(number: float) -> str:
    return f"{number:.2f}" if math.isfinite(number) else "–"
