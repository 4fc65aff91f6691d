"""A contact sheet of a packed data set: random images with what the annotations say of them."""

from pathlib import Path

import numpy as np

from lapml.common.text import line, shortened
from lapml.data.index import SPLITS
from lapml.data.pack import Packed
from lapml.files import atomic
from lapml.paths import Paths


def show(name: str, paths: Paths, output: Path, count: int = 24, seed: int = 0) -> None:
    """Draw a contact sheet (PNG) of ``count`` random packed images with box, visible parts, class and split.

    Boxes and parts are mapped from the original image's pixels into the stored square, as training sees it.

    Args:
        count: at least one.

    Raises:
        LapmlError: the data set is not packed.
    """
    from matplotlib.figure import Figure  # slow to import, and `check` does not need it

    packed = Packed.open(paths.pack(name))
    side = packed.meta["side"]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(packed.index))[:count])
    columns = min(len(chosen), 6)
    lines = -(-len(chosen) // columns)
    colours = dict(zip(SPLITS, ("tab:blue", "tab:orange", "tab:red"), strict=True))
    figure = Figure(figsize=(2 * columns, 2.3 * lines + 0.4), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, at in zip(axes, chosen, strict=False):
        row = packed.index.iloc[at]
        axis.imshow(packed.images[at], extent=(0, side, side, 0))
        draw_box(axis, row, side, colours[row["split"]], 1.5)
        if visible := [part[:2] for part in row["parts"] or [] if part[2]]:
            scale = side / np.array([row["width"], row["height"]])
            axis.scatter(*(np.array(visible) * scale).T, s=9, c="white", edgecolors="black", linewidths=0.6)
        label = shortened(line(row["class_name"].replace("_", " ")), 26)
        axis.set_xlabel(f"{label}\n{row['split']}", parse_math=False, fontsize=7, color=colours[row["split"]])
    figure.suptitle(f"{name}: {len(chosen)} of {len(packed.index)} images, stored at {side} x {side}", fontsize=9)
    with atomic(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_box(axis, row, side: int, colour: str, width: float) -> None:
    """Draw the box of a row of the index, if it has one, into its image's square, with which the axis then ends."""
    from matplotlib.patches import Rectangle

    if row["box"] is not None:
        scale = side / np.array([row["width"], row["height"]])
        corner, extent = np.array(row["box"][:2]) * scale, np.array(row["box"][2:]) * scale
        axis.add_patch(Rectangle(corner, *extent, fill=False, edgecolor=colour, linewidth=width))
    axis.set(xlim=(0, side), ylim=(side, 0))
