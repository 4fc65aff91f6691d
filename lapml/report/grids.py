"""Pictures of the data as grids, PNG: mixed images and class activation maps; each function returns the file's bytes."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lapml.common.text import AS_TYPED, class_name, shortened

REFERENCE, DONOR, RIGHT, WRONG = "#56B4E9", "#E69F00", "#0072B2", "#D55E00"
PICTURE = 1.25  # inches a picture
PER_INCH = 110  # pixels an inch of the picture grids


@matplotlib.rc_context(AS_TYPED)
def gallery(items: list[dict[str, Any]]) -> bytes:
    """What each mixing makes: reference, donor and mixed image, one row of pictures per method. PNG.

    Args:
        items: dicts with ``method``; ``reference, donor, mixed`` (H, W, 3) uint8; ``reference_map, donor_map`` (h, w)
            float over the whole picture, or None; ``box_reference, box_donor`` (x0, y0, x1, y1) in pixels, or None;
            ``rho, s`` the label share and the similarity of the parts, or None; ``labels`` (reference, donor).
    """
    rows = _by_method(items)
    columns = 3 * max(len(row) for row in rows)
    size, letters = (11, 13) if columns > 8 else (8.5, 18)  # a wide grid is shown smaller
    figure = _grid(len(rows), columns, extra=0.34)
    for line, row in enumerate(rows):
        for place, item in enumerate(row):
            names = ("reference", "donor", "mixed")
            for offset, name in enumerate(names):
                axes = figure.add_subplot(len(rows), columns, line * columns + 3 * place + offset + 1)
                axes.imshow(item[name])
                heat(axes, item.get(f"{name}_map"), item[name].shape)
                _box(axes, item.get("box_donor"), DONOR if name == "donor" else None)
                _box(axes, item.get("box_reference"), REFERENCE if name != "donor" else None)
                axes.set_title(name if line == 0 else "", fontsize=size, pad=3, loc="left")
                _bare(axes, item["method"] if offset == place == 0 else "", 9)
                caption = _caption(item) if name == "mixed" else short(item["labels"][offset], letters)
                axes.set_xlabel(caption, fontsize=size, labelpad=2)
    return _png(figure)


@matplotlib.rc_context(AS_TYPED)
def cams(items: list[dict[str, Any]]) -> bytes:
    """Where each method looks: class activation maps over validation images, one row of pictures per method. PNG.

    Args:
        items: dicts with ``method``, ``image`` (H, W, 3) uint8, ``map`` (h, w) float that sums to 1 over the whole
            picture, ``title``, and ``correct`` (bool).
    """
    rows = _by_method(items)
    columns = max(len(row) for row in rows)
    figure = _grid(len(rows), columns, extra=0.22)
    for line, row in enumerate(rows):
        for place, item in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, line * columns + place + 1)
            axes.imshow(item["image"])
            heat(axes, item["map"], item["image"].shape)
            _bare(axes, item["method"] if place == 0 else "", 9)
            colour, mark = (RIGHT, "✓") if item["correct"] else (WRONG, "✗")
            axes.set_title(f"{mark} {short(item['title'], 16)}", fontsize=8.5, pad=3, loc="left", color=colour)
            for spine in axes.spines.values():
                spine.set(visible=True, color=colour, linewidth=1.6)
    return _png(figure)


def _by_method(items: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        rows.setdefault(item["method"], []).append(item)
    return list(rows.values())


def _grid(rows: int, columns: int, extra: float) -> Figure:
    figure = Figure(figsize=(PICTURE * columns + 0.3, (PICTURE + extra) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return figure


def _bare(axes: Axes, label: str, size: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(label, fontsize=size, fontweight="bold")
    axes.spines[:].set_linewidth(0.4)


def heat(axes: Axes, values: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Lay a class activation map over a picture; where the map is low the picture shows."""
    if values is None:
        return
    values = np.nan_to_num(np.asarray(values, dtype=float))
    strength = values / values.max() if values.max() > 0 else np.zeros_like(values)
    axes.imshow(strength, cmap="inferno", alpha=0.65 * strength, vmin=0, vmax=1, interpolation="bilinear",
                extent=(-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5))  # fmt: skip


def _box(axes: Axes, box: tuple[float, float, float, float] | None, colour: str | None) -> None:
    if box is not None and colour is not None:
        x0, y0, x1, y1 = (float(edge) for edge in box)
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5))


def _caption(item: dict[str, Any]) -> str:
    parts = (("ρ", item.get("rho")), ("s", item.get("s")))
    return ", ".join(f"{name} {float(value):.2f}" for name, value in parts if value is not None)


def short(text: str, length: int = 18) -> str:
    """A class name as a caption: without its number."""
    return shortened(class_name(text), length)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
