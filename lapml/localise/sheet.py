"""A contact sheet of images with what was found in them: for people to see whether it is objects and parts."""

from io import BytesIO
from pathlib import Path

import numpy as np

from lapml.common.text import AS_TYPED, line, shortened
from lapml.data.pack import Packed
from lapml.data.sheet import draw_box
from lapml.files import atomic
from lapml.localise.store import Localised
from lapml.paths import Paths

ACROSS = 4  # images side by side, each twice: its object map, and its parts
SHADE = 0.75  # of what is not the object
LEVEL = 0.5  # of a part's map: the contour that is drawn; 1 is strong
COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#f032e6",
    "#ffe119",
    "#42d4f4",
    "#9a6324",
)  # of parts, in their order


def show(name: str, paths: Paths, output: Path, count: int = 24, seed: int = 0) -> None:
    """Write the contact sheet of :func:`draw_sheet` to a file.

    Raises:
        LapmlError: the data set is not packed or not localised.
    """
    sheet = draw_sheet(name, paths, count, seed)
    with atomic(Path(output)) as temporary:
        temporary.write_bytes(sheet)


def draw_sheet(name: str, paths: Paths, count: int, seed: int = 0) -> bytes:
    """A contact sheet (PNG) of ``count`` random localised images, each twice: lit as much as its object map says; and with
    its part maps' contours and peaks. The true box, where there is one, is drawn in white.

    Raises:
        LapmlError: the data set is not packed or not localised.
    """
    import matplotlib  # slow to import
    from matplotlib.figure import Figure

    packed = Packed.open(paths.pack(name))
    maps = Localised.open(paths.localised(name), packed.meta["sha256"])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(maps.rows))[:count])
    across = min(len(chosen), ACROSS)
    lines = -(-len(chosen) // across)
    with matplotlib.rc_context({"figure.facecolor": "white", **AS_TYPED}):
        figure = Figure(figsize=(3.1 * across, 1.8 * lines + 0.5), dpi=110, layout="constrained")
        axes = figure.subplots(lines, 2 * across, squeeze=False).ravel()
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for left, right, at in zip(axes[::2], axes[1::2], chosen, strict=False):
            row = packed.index.iloc[maps.rows[at]]
            image = packed.images[maps.rows[at]]
            _object(left, image, maps.objects[at])
            _parts(right, image, maps.parts[at])
            left.set_xlabel(f"{shortened(line(row['class_name'].replace('_', ' ')), 24)}\n{row['split']}", fontsize=6)
            for axis in (left, right):
                draw_box(axis, row, packed.meta["side"], "white", 0.8)
        settings = maps.meta["settings"]
        figure.suptitle(
            f"{name}: objects and {maps.meta['parts']} parts in {len(chosen)} of {len(maps.rows)} images, by "
            f"{settings['model']} at {maps.meta['side']} px, without labels",
            fontsize=9,
        )
        with BytesIO() as sheet:
            figure.savefig(sheet, format="png", metadata={"Software": None})
            return sheet.getvalue()


def _enlarged(values: np.ndarray, side: int) -> np.ndarray:
    """(…, h, w) → (…, side, side), bilinear."""
    import torch
    from torch.nn.functional import interpolate

    flat = torch.from_numpy(np.asarray(values, np.float32)).reshape(1, -1, *values.shape[-2:])
    return (
        interpolate(flat, (side, side), mode="bilinear", align_corners=False)
        .numpy()
        .reshape(*values.shape[:-2], side, side)
    )


def _object(axis, image: np.ndarray, found: np.ndarray) -> None:
    light = _enlarged(found, len(image))
    light = light / max(float(light.max()), 1e-6)
    shown = image * (1 - SHADE * (1 - light[..., None]))
    axis.imshow(shown.round().astype(np.uint8), extent=(0, len(image), len(image), 0))


def _parts(axis, image: np.ndarray, found: np.ndarray) -> None:
    side, cell = len(image), len(image) / found.shape[-1]
    centres = np.arange(side) + 0.5  # of pixels
    axis.imshow(image, extent=(0, side, side, 0))
    for part, large in enumerate(_enlarged(found, side)):
        colour = COLOURS[part % len(COLOURS)]
        if large.max() > LEVEL:
            axis.contour(centres, centres, large, [LEVEL], colors=colour, linewidths=1.0)
            y, x = np.unravel_index(found[part].argmax(), found[part].shape)
            axis.plot((x + 0.5) * cell, (y + 0.5) * cell, "o", color=colour, markersize=4, markeredgecolor="black")
