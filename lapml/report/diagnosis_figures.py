"""The figures of a diagnosis, as SVG."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lapml.analysis.diagnosis.measure import Measured
from lapml.analysis.diagnosis.tables import PERCENT, columns
from lapml.report.figures import STYLE, looks, svg

FEWEST = 20  # images of a bin of labels
LINES = ("cutmix", "cutmix_semantic", "snapmix", "loc_cutmix_area", "loc_cutmix", "loc_cutmix_oracle")


def quality(found: Measured, order: list[str]) -> bytes:
    """Every metric of every mixer with its interval, one panel per metric. SVG.

    Args:
        order: the methods of the suite: a method's place is its colour, as in all figures; what else is measured comes after.
    """
    heads = {metric: title for metric, title in columns(found).items() if metric != "area"}
    names, looks = found.table["method"].to_list(), _looks(found, order)
    with matplotlib.rc_context(STYLE):
        across = min(3, max(len(heads), 1))
        down = -(-max(len(heads), 1) // across)
        figure = Figure(figsize=(2.6 * across + 1.2, (0.19 * len(names) + 0.75) * down), layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes in grid.flat[len(heads) :]:
            axes.set_visible(False)
        for axes, (metric, title) in zip(grid.flat, heads.items(), strict=False):
            factor = 100 if metric in PERCENT else 1
            for place, row in enumerate(found.table.to_dict("records")):
                value, low, high = (factor * row[f"{metric}{end}"] for end in ("", "_low", "_high"))
                colour, _ = looks[row["method"]]
                axes.plot([low, high], [place, place], color=colour, linewidth=4, alpha=0.35, solid_capstyle="butt")
                axes.plot(value, place, "o", color=colour, markersize=4.5, clip_on=False)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xlim(left=0)
            axes.set_title(title)
        return svg(figure)


def labels(found: Measured, order: list[str]) -> bytes:
    """The donor's share in the label against its true share: means over bins of ρ. SVG; ``order`` as above."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#d0d0d0", linewidth=2.5, zorder=0)
        for name, (colour, dash) in _looks(found, order).items():
            rows = found.labels[(found.labels["method"] == name) & (found.labels["images"] >= FEWEST)]
            if name in LINES and len(rows):
                axes.plot(
                    rows["rho"], rows["true"], color=colour, linestyle=dash, marker="o", markersize=3.5, label=name
                )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="label: the donor’s share ρ", ylabel="true share of what is seen")
        axes.set_aspect("equal")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_title("Labels against the truth")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        return svg(figure)


def _looks(found: Measured, order: list[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dashes of every mixer that is measured."""
    names = found.table["method"].to_list()
    every = looks([*order, *names])
    return {name: every[name] for name in names}
