"""The figure of one explained image."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from lapml.apply.images import shown
from lapml.common.text import AS_TYPED, class_name, shortened
from lapml.report.figures import heat

RIGHT, WRONG = "#0072B2", "#D55E00"
WIDTH, EDGE = 7.6, 0.15  # inches: of the figure, and around it
TOP = 0.85  # inches above the views
VIEW = 2.2  # inches: a side of the view
COLUMNS = 5  # training images a line
NEAR = (WIDTH - (COLUMNS + 1) * EDGE) / COLUMNS  # inches: a side of theirs
CAPTION = 0.64  # inches: three lines below one
PER_INCH = 140  # pixels
SMALL = 8.0  # points
GREY, DARK, PALE = "#8a8a8a", "#333333", "#ededed"


def draw(file: Path, result: dict[str, Any], view: np.ndarray, map_: np.ndarray, near: list[np.ndarray]) -> None:
    """Write the figure of one image as PNG.

    Args:
        result: of :func:`lapml.apply.explain.explain`.
        view: (side, side, 3) uint8.
        map_: (h, w) class activation map of the target over the whole view.
        near: (side, side, 3) uint8 views of ``result["neighbours"]``.
    """
    lines = -(-len(near) // COLUMNS)
    height = TOP + VIEW + 2 * EDGE + (0.3 + lines * (NEAR + CAPTION) if lines else 0)
    figure = Figure(figsize=(WIDTH, height), dpi=PER_INCH)
    canvas = FigureCanvasAgg(figure)

    def place(left: float, top: float, width: float, tall: float) -> Axes:
        """Axes in inches from the figure's upper left corner."""
        return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

    def write(left: float, top: float, words: str, width: float, lines: int = 1, **look: Any) -> None:
        words = fitted(canvas, words, width, lines, look["fontsize"])
        figure.text(left / WIDTH, 1 - top / height, words, ha="left", va="top", **look)

    with matplotlib.rc_context(AS_TYPED), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        name = shown(Path(Path(result["image"]).name))
        write(EDGE, EDGE, name, WIDTH - 2 * EDGE, fontsize=11)
        told = np.ptp(map_) > 1e-6 / map_.size  # a uniform map says nothing: no cell speaks for the class
        target = short(result["target"]["class"])
        for column, (head, below) in enumerate(
            (
                (f"The view ({view.shape[1]} px)", "that the model is given"),
                ("What speaks for" if told else "Nothing speaks for", target),
                ("Probability of the most", "probable classes"),
            )
        ):
            left = EDGE + column * (VIEW + EDGE)
            write(left, 0.46, head, VIEW, fontsize=9)
            write(left, 0.62, below, VIEW, fontsize=9)
        _picture(place(EDGE, TOP, VIEW, VIEW), view)
        axes = place(2 * EDGE + VIEW, TOP, VIEW, VIEW)
        _picture(axes, view)
        heat(axes, map_ if told else None, view.shape)
        left = 3 * EDGE + 2 * VIEW
        width = WIDTH - left - EDGE
        _bars(place(left, TOP, width, VIEW), result, partial(fitted, canvas, inches=width - 0.6, lines=2, points=SMALL))
        top = TOP + VIEW + 1.5 * EDGE
        if near:
            _near(place, write, near, result["neighbours"], top)
        figure.savefig(file, format="png", metadata={"Software": None})


def _near(place: Callable, write: Callable, near: list[np.ndarray], about: list[dict[str, Any]], top: float) -> None:
    """The most similar training images, each with its similarity and class; ``top`` in inches from the upper edge."""
    head = "Most similar training images, with the cosine of the embeddings (✓: of the predicted class)"
    write(EDGE, top, head, WIDTH - 2 * EDGE, fontsize=9)
    for at, (picture, each) in enumerate(zip(near, about, strict=True)):
        left = EDGE + at % COLUMNS * (NEAR + EDGE)
        above = top + 0.25 + at // COLUMNS * (NEAR + CAPTION)
        axes = place(left, above, NEAR, NEAR)
        _picture(axes, picture)
        colour, mark = (RIGHT, "✓") if each["predicted"] else (WRONG, "✗")
        axes.spines[:].set(color=colour, linewidth=1.8)
        style = {"fontsize": SMALL, "color": colour}
        write(left, above + NEAR + 0.05, f"{mark} {each['similarity']:.3f}", NEAR, **style)
        write(left, above + NEAR + 0.2, short(each["class"]), NEAR, lines=2, **style)


def fitted(canvas: FigureCanvasAgg, words: str, inches: float, lines: int, points: float) -> str:
    """Words broken into at most ``lines`` lines of a width, the last one cut short where there are more."""
    font, renderer = FontProperties(size=points), canvas.get_renderer()

    def wide(text: str) -> bool:
        return renderer.get_text_width_height_descent(text, font, False)[0] > inches * canvas.figure.dpi

    made, left = [], words.split(" ")
    while left:
        count = len(left)
        while len(made) < lines - 1 and count > 1 and wide(" ".join(left[:count])):
            count -= 1
        line, left = " ".join(left[:count]), left[count:]
        if wide(line):
            while line and wide(f"{line}…"):
                line = line[:-1]
            line = f"{line.rstrip()}…"
        made.append(line)
    return "\n".join(made)


def _picture(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="bicubic")  # a view of 64 px is shown several times larger
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_linewidth(0.5)


def _bars(axes: Axes, result: dict[str, Any], fit: partial) -> None:
    """One bar per class below its name; the target's replaces the last one if it is not among them."""
    classes = list(result["predictions"])
    if result["target"] not in classes:
        classes[-1] = result["target"]
    for line, each in enumerate(classes):
        colour = RIGHT if line == 0 else WRONG if each == result["target"] else GREY
        axes.barh(line, 1, height=0.2, color=PALE)
        axes.barh(line, each["probability"], height=0.2, color=colour)
        look = {"fontsize": SMALL, "va": "bottom", "color": DARK if colour == GREY else colour, "linespacing": 1.1}
        axes.text(0, line - 0.15, fit(short(each["class"])), ha="left", **look)
        axes.text(1, line - 0.15, f"{100 * each['probability']:.1f} %", ha="right", **look)
    axes.set(xlim=(0, 1), ylim=(max(len(classes), 5) - 0.9, -0.75))
    axes.axis("off")


def short(text: str) -> str:
    """A class name as a caption: without its number, and never too long to be measured."""
    return shortened(class_name(text), 200)
