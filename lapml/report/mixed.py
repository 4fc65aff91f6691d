"""One figure for README, a talk or a paper: the same reference and donor mixed by several methods, with maps and labels."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lapml.analysis.diagnosis.measure import mixers, opened, truths
from lapml.common.text import AS_TYPED, class_name, shortened
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import atomic
from lapml.paths import Paths
from lapml.report.figures import heat
from lapml.report.gallery import Mix, Pair
from lapml.report.pairs import pairs
from lapml.report.tiles import Box

REFERENCE, DONOR = "#56B4E9", "#E69F00"
PER_INCH = 120
MOST = 100  # pairs among which one of two classes is looked for


def draw(params: Params, paths: Paths, dataset: str, methods: list[str], pair: int | None, output: Path) -> int:
    """Draw one pair of the gallery of `lapml diagnose`, a row of pictures for each method; returns its number.

    Args:
        methods: of the suite, that mix; none: all of them.
        pair: its number in the gallery, from 1 (more than the gallery shows are drawn in the same way); None: the first pair of two
            classes.
        output: its suffix says the format, one that matplotlib writes: .png, .webp, .pdf, …

    Raises:
        LapmlError: there is no such method or format, no method mixes, or the run of ``diagnose.method`` is not there.
    """
    formats = sorted(FigureCanvasAgg.get_supported_filetypes())
    if output.suffix[1:] not in formats:
        raise LapmlError(f"{output}: found suffix {output.suffix!r}, expected one of {', '.join(formats)}")
    known = truths(params, paths, dataset)
    mixing = mixers(params, dataset, known)
    if not mixing:
        raise LapmlError(
            f"{dataset}: found no method of suite {params.suite} that mixes, expected at least one, so there is no pair to draw; "
            "add one to ablation, or give --params of a suite that has one"
        )
    if unknown := [name for name in methods if name not in mixing]:
        raise LapmlError(
            f"methods: found {', '.join(unknown)}, expected methods that mix (of alike ones the first): {', '.join(mixing)}"
        )
    chosen = {name: mixing[name] for name in methods or mixing}
    mixes, weights, _ = opened(params, paths, dataset, params.seeds[0], chosen, known)
    number, chosen_pair = _pair(pairs(mixes, weights, known.packed.class_names, pair or MOST), pair)
    with atomic(output) as temporary:
        picture(chosen_pair).savefig(temporary, format=output.suffix[1:], dpi=PER_INCH)
    return number


def _pair(drawn: Iterable[Pair], asked: int | None) -> tuple[int, Pair]:
    """A pair and its number: the one asked for, else the first of two classes (where there is none, the last)."""
    for number, pair in enumerate(drawn, start=1):
        if number == asked or asked is None and pair.reference_class != pair.donor_class:
            break
    return number, pair


@matplotlib.rc_context({**AS_TYPED, "figure.facecolor": "white"})
def picture(pair: Pair) -> Figure:
    """For each method the reference and the donor under the maps that it goes by, the mixed image, and its label."""
    figure = Figure(figsize=(7.4, 1.72 * len(pair.mixes) + 0.45), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(pair.mixes), 4, width_ratios=(1, 1, 1, 1.3))
    names = [shortened(class_name(name), 24) for name in (pair.reference_class, pair.donor_class)]
    titles = (f"reference\n{names[0]}", f"donor\n{names[1]}", "mixed image", "its label\n(line: what is truly seen)")
    for row, mix in enumerate(pair.mixes):
        axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
        _show(axes[0], pair.reference, mix.reference_map, mix.box_to, REFERENCE)
        _show(axes[1], pair.donor, mix.donor_map, mix.box_from, DONOR)
        _show(axes[2], mix.image, None, mix.box_to, DONOR)
        _label(axes[3], mix)
        axes[0].set_ylabel(mix.method, fontsize=10, fontweight="bold")
        for each, title in zip(axes, titles, strict=True) if row == 0 else ():
            each.set_title(title, fontsize=9)
    return figure


def _show(axes: Axes, image: np.ndarray, found: np.ndarray | None, box: Box | None, colour: str) -> None:
    axes.imshow(image)
    heat(axes, found, image.shape)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if box is not None:
        x0, y0, x1, y1 = box
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2))


def _label(axes: Axes, mix: Mix) -> None:
    """Bars of the weights of the two classes in the loss, and the donor's true share of what is seen."""
    bars = [("reference", mix.kept, REFERENCE), ("donor", mix.pasted, DONOR)]
    axes.barh([0, 1], [weight for _, weight, _ in bars], color=[colour for *_, colour in bars], height=0.5)
    truth = () if mix.truth is None else (1 - mix.truth, mix.truth)
    for place, (name, weight, _) in enumerate(bars):
        true = f"   (seen {truth[place]:.2f})" if truth else ""
        axes.text(0.02, place - 0.34, f"{name} {weight:.2f}{true}", fontsize=8.5, va="bottom")
        if truth:
            axes.plot([truth[place]] * 2, [place - 0.25, place + 0.25], color="black", linewidth=1.5)
    axes.set(xlim=(0, max(1.0, mix.kept, mix.pasted)), ylim=(1.5, -0.8), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.spines["left"].set_visible(True)
