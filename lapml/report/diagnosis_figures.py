"""The figures of a diagnosis, as SVG."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lapml.analysis.diagnosis.measure import Measured
from lapml.analysis.diagnosis.tables import PERCENT, columns
from lapml.report.figures import STYLE, look, svg

LINES = ("cutmix", "cutmix_semantic", "snapmix", "loc_cutmix_area", "loc_cutmix", "loc_cutmix_oracle")


def quality(found: Measured) -> bytes:
    """Every metric of every mixer with its interval, one panel per metric."""
    heads = {metric: title for metric, title in columns(found).items() if metric != "area"}
    names = found.table["method"].to_list()
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
                axes.plot(
                    [low, high], [place, place], color=look(place)[0], linewidth=4, alpha=0.35, solid_capstyle="butt"
                )
                axes.plot(value, place, "o", color=look(place)[0], markersize=4.5)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xlim(left=0)
            axes.set_title(title)
        return svg(figure)


def labels(found: Measured) -> bytes:
    """The donor's share in the label against its true share: means over bins of ρ."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#5f5f5f", linewidth=0.8, linestyle=":")
        for place, name in enumerate(found.table["method"]):
            rows = found.labels[(found.labels["method"] == name) & (found.labels["images"] >= 20)]
            if name in LINES and len(rows):
                colour, dash = look(place)
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
