"""The charts of a report as SVG; each function returns the file's bytes. Pictures of the data are in mixed.py and tiles.py.

Charts are drawn at about the width they are read at (5 inches), on white, which the page inverts where it is dark.
A method has one colour in all figures of a suite, by its place in the suite's order. No pyplot: a figure is an object
here, and nothing is left behind.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lapml.analysis.tables import cost
from lapml.common.text import AS_TYPED

# Of methods: found by a search for twelve colours that stay apart under protanopia and deuteranopia too, each with a contrast
# of 3 or more to the ground, both as drawn and inverted (tests/report/test_figures.py)
COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#2da596", "#8e73e1", "#a90000", "#005a00", "#d832c6", "#000034", "#b3578d",
           "#4a0ae1", "#0f962d")  # fmt: skip
STANDARD = ("baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin", "snapmix", "snapmix_objects")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)))  # a second cue, for every six methods
STYLE = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "lapml",
    "axes.titlesize": 10.0, "axes.titlelocation": "left", "axes.titleweight": "bold", **AS_TYPED,
}  # fmt: skip
WIDTH, HEIGHT = 5.0, 3.3  # inches
MARKERS = "osD^vP*X"  # of backbones, by their cost
CROWD = 6  # lines of a legend that find room within a chart


def accuracy(table: pd.DataFrame, runs: pd.DataFrame) -> bytes:
    """Top-1 accuracy of each method: mean, Student-t interval as a bar, single seeds as dots. SVG.

    The axis does not begin at 0 (the differences would not be seen): position carries the value, not length.

    Args:
        table, runs: the rows of one data set, of ``tables.accuracy`` and ``tables.collect``.
    """

    def draw(axes: Axes) -> None:
        names = table["method"].to_list()
        shown = looks(names)
        for place, row in enumerate(table.to_dict("records")):
            seeds = runs.loc[runs["method"] == row["method"], "top1"].to_numpy()
            colour, _ = shown[row["method"]]
            if row["n_seeds"] > 1:
                axes.barh(place, 2 * row["top1_half"], left=row["top1"] - row["top1_half"], height=0.42, color=colour,
                          alpha=0.3, linewidth=0)  # fmt: skip
            axes.plot([row["top1"]] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.2)
            spread = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else [0.0]
            axes.scatter(seeds, place + np.asarray(spread), s=18, color=colour, edgecolor="white", linewidth=0.6,
                         zorder=3)  # fmt: skip
        axes.use_sticky_edges = False  # of bars, which would touch the frame
        axes.margins(x=0.05)
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="y", visible=False)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="top-1 accuracy (%)", title="Accuracy: mean, interval, seeds")

    return _chart(draw, height=1.1 + 0.42 * len(table))


def loss_curves(epochs: pd.DataFrame) -> bytes:
    """Training loss by epoch: a method's mean over seeds, and the band from the lowest to the highest seed. SVG.

    Args:
        epochs: of ``tables.histories``, one data set.
    """
    return _chart(
        lambda axes: _bands(axes, epochs, looks(epochs["method"]), "loss", "Training loss", "loss (all terms)")
    )


def accuracy_curves(epochs: pd.DataFrame) -> bytes:
    """Training accuracy by epoch, drawn as :func:`loss_curves`. SVG."""
    label = "accuracy on training batches (%)"
    return _chart(lambda axes: _bands(axes, epochs, looks(epochs["method"]), "accuracy", "Training accuracy", label))


def distances(epochs: pd.DataFrame, runs: pd.DataFrame) -> bytes | None:
    """Where generated images lie: mean distance d and the margin (dotted): m, or 2mρ at the mean share ρ. SVG.

    None where no method recorded distances.
    """
    epochs = epochs[epochs.get("d_mean", pd.Series(np.nan, epochs.index)).notna()]
    if epochs.empty:
        return None

    def draw(axes: Axes) -> None:
        title, shown = "Distance of generated from reference", looks(runs["method"])
        _bands(axes, epochs, shown, "d_mean", title, "distance of unit embeddings (0 to 2)")
        for method in epochs["method"].unique():
            colour, _ = shown[method]
            margins = runs.loc[(runs["method"] == method) & runs["m"].notna(), ["m", "scale"]].to_dict("records")
            for margin in margins[:1]:
                if margin["scale"] == "share":
                    shares = epochs[epochs["method"] == method].groupby("epoch")["rho_mean"].mean()
                    axes.plot(shares.index, 2 * margin["m"] * shares, color=colour, linestyle=":", linewidth=1.4)
                else:
                    axes.axhline(margin["m"], color=colour, linestyle=":", linewidth=1.4)
        kinds = sorted({"2mρ" if scale == "share" else "m" for scale in runs.loc[runs["m"].notna(), "scale"]})
        axes.plot([], [], color="#5f5f5f", linestyle=":", linewidth=1.4, label=f"margin {' or '.join(reversed(kinds))}")
        axes.set_ylim(bottom=0)

    return _chart(draw)


def beyond(epochs: pd.DataFrame, runs: pd.DataFrame) -> bytes | None:
    """Share of similar generated images beyond the band m + δ, by epoch. SVG; None where no method recorded it."""
    epochs = epochs[epochs.get("beyond", pd.Series(np.nan, epochs.index)).notna()]
    if epochs.empty:
        return None

    def draw(axes: Axes) -> None:
        _bands(
            axes, epochs, looks(runs["method"]), "beyond", "Generated images beyond the band", "share of pairs (0 to 1)"
        )
        axes.set_ylim(0, 1)

    return _chart(draw)


def cost_against_accuracy(table: pd.DataFrame, runs: pd.DataFrame) -> bytes:
    """What accuracy costs: mean top-1 with its interval against the passes of training; seeds as dots. SVG."""

    def draw(axes: Axes) -> None:
        shown = looks(table["method"])
        width = 0.025 * max(table["cost"].max() - table["cost"].min(), 0.1 * table["cost"].max()) / 1e3
        for place, row in enumerate(table.to_dict("records")):
            colour, _ = shown[row["method"]]
            own = runs[runs["method"] == row["method"]]
            # methods of one cost are set side by side, or they hide each other
            alike = table.index[np.isclose(table["cost"], row["cost"])].to_list()
            shift = width * (alike.index(table.index[place]) - (len(alike) - 1) / 2)
            axes.scatter(cost(own) / 1e3 + shift, own["top1"], s=12, color=colour, alpha=0.45, linewidth=0)
            half = row["top1_half"] if row["n_seeds"] > 1 else None
            axes.errorbar(row["cost"] / 1e3 + shift, row["top1"], yerr=half, color=colour, marker="osD^v"[place % 5],
                          markersize=6, capsize=3, linewidth=1.3, label=row["method"])  # fmt: skip
        axes.margins(x=0.15)
        axes.set_xlabel("cost of training (1,000 images forwarded + 2 × images backwarded)")
        axes.set_ylabel("top-1 accuracy (%)")
        axes.set_title("Accuracy against cost")

    return _chart(draw)


def over_backbones(table: pd.DataFrame, order: list[str]) -> bytes:
    """Mean top-1 with its interval against the cost of training, on a logarithmic axis: one mark per backbone and method, those
    of a method joined. SVG.

    Args:
        table: of :func:`lapml.analysis.backbones.table`; order: of all methods, for their colours.
    """

    def draw(axes: Axes) -> None:
        names = list(dict.fromkeys(table.sort_values("tflop")["backbone"]))
        methods, shown = list(dict.fromkeys(table["method"])), looks(order)
        extent = max(table["tflop"].max() / table["tflop"].min(), 1.5)
        for place, method in enumerate(methods):
            rows = table[table["method"] == method]
            colour, dash = shown[method]
            # methods of one cost are set side by side, or they hide each other
            across = rows["tflop"] * extent ** (0.015 * (place - (len(methods) - 1) / 2))
            axes.errorbar(across, rows["top1"], rows["top1_half"].fillna(0), color=colour, linestyle=dash, linewidth=1.2,
                          capsize=3, label=method)  # fmt: skip
            for x, row in zip(across, rows.to_dict("records"), strict=True):
                marker = MARKERS[names.index(row["backbone"]) % len(MARKERS)]
                axes.plot(x, row["top1"], color=colour, marker=marker, markersize=6)
        for place, name in enumerate(names):
            axes.plot([], [], marker=MARKERS[place % len(MARKERS)], linestyle="", color="#5f5f5f", label=name)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if extent > 50 else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.margins(x=0.1, y=0.1)
        axes.set_xlabel("cost of training (Tflop; a backward pass = 2 forward passes)")
        axes.set_ylabel("top-1 accuracy (%)")
        axes.set_title("Accuracy against cost over backbones")

    return _chart(draw)


def risk_against_coverage(curves: dict[str, np.ndarray], order: list[str]) -> bytes | None:
    """Share of wrong answers among those given, against the share of images that get one. SVG; None without curves.

    Args:
        curves: of ``probabilities.curves``; order: of all methods, for their colours.
    """
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        shown = looks(order)
        for method, risk in curves.items():
            colour, dash = shown[method]
            share = 100 * np.arange(1, len(risk) + 1) / len(risk)
            axes.plot(share, 100 * risk, color=colour, linestyle=dash, linewidth=1.6, label=method)
        axes.set(xlim=(0, 100), xlabel="images that get an answer, the surest first (%)", ylabel="wrong among them (%)")
        axes.set_ylim(bottom=0)
        axes.set_title("Risk against coverage")

    return _chart(draw)


def growth(points: dict[str, dict[str, list[list[float]]]], panels: dict[str, tuple[str, str]]) -> bytes:
    """How costs grow, one panel each, on logarithmic axes with intervals. SVG.

    Args:
        points: {panel: {line: [[x, mean, half-width], …]}} in seconds.
        panels: {panel: (label of x, label of y, "ms …" for milliseconds)}.
    """
    with matplotlib.rc_context({**STYLE, "text.parse_math": True}):  # powers of ten at the axes
        figure = Figure(figsize=(2 * WIDTH, 2 * HEIGHT), layout="constrained")
        for axes, (panel, (across, up)) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            for place, (name, line) in enumerate(points[panel].items()):
                x, y, half = np.array(line).T * np.array([[1.0], *[[1000.0 if up.startswith("ms") else 1.0]] * 2])
                colour, dash = look(place)
                axes.errorbar(x, y, half, color=colour, linestyle=dash, marker="o", markersize=4, capsize=2, label=name)
            axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
            axes.set_xticks(x, [f"{int(each):,}" for each in x], minor=False)
            axes.minorticks_off()
            axes.legend(fontsize=8)
        return svg(figure)


def _chart(draw: Callable[[Axes], None], height: float = HEIGHT) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        lines = len(axes.get_legend_handles_labels()[0])
        if lines > CROWD:  # within the chart they would hide what they explain
            figure.set_figheight(height + 0.17 * -(-lines // 3))
            figure.legend(loc="outside lower center", ncols=3, fontsize=7.5)
        elif lines:
            axes.legend(fontsize=8)
        return svg(figure)


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _bands(axes: Axes, epochs: pd.DataFrame, shown: dict[str, Any], column: str, title: str, label: str) -> None:
    for method, rows in epochs.groupby("method", sort=False):
        colour, dash = shown[str(method)]
        groups = rows.groupby("epoch")[column]
        mean, low, high = groups.mean(), groups.min(), groups.max()
        axes.plot(mean.index, mean, color=colour, linestyle=dash, linewidth=1.6, label=method)
        axes.fill_between(mean.index, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel=label, title=title)


def looks(methods: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dashes of a suite's methods: those of :data:`STANDARD` have the same in every chart, the others the next."""
    names = list(dict.fromkeys(methods))
    places = list(dict.fromkeys([*STANDARD, *names]))
    return {name: look(places.index(name)) for name in names}


def look(place: int) -> tuple[str, Any]:
    """The colour and dashes in that place."""
    return COLOURS[place % len(COLOURS)], DASHES[place // 6 % len(DASHES)]


def heat(axes: Axes, values: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Lay a class activation map over a picture; where the map is low the picture shows."""
    if values is None:
        return
    values = np.nan_to_num(np.asarray(values, dtype=float))
    strength = values / values.max() if values.max() > 0 else np.zeros_like(values)
    axes.imshow(strength, cmap="inferno", alpha=0.65 * strength, vmin=0, vmax=1, interpolation="bilinear",
                extent=(-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5))  # fmt: skip
