"""Two hundred synthetic species of birds: families of sisters that share all but one or two parts.

A family is a form (shape) in a palette; its 2 to 4 sisters differ only in *marks*, small and local: the colour of
the crown, the number of wing bars, the pattern of the breast. Neighbouring families share their palette.

How a species looks is drawn by :mod:`lapml.data.synthetic.anatomy`; how an image misleads, by :mod:`lapml.data.synthetic.birds`.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "White": (240, 238, 230),
    "Black": (28, 26, 30),
    "Red": (205, 40, 35),
    "Yellow": (240, 205, 50),
    "Blue": (45, 95, 190),
    "Orange": (235, 125, 35),
    "Green": (55, 150, 70),
}
SISTERS = (4, 3, 2, 3)  # sizes of families, over and over


@dataclass(frozen=True)
class Form:
    """A shape. Lengths in units (a body is about 0.8 long), angles in degrees."""

    name: str
    body: tuple[float, float]  # half length and half depth
    stance: float  # of the body: 0 is level, positive is upright
    head: float  # radius
    neck: float  # from the body's front end to the head's centre
    beak: str  # cone | thin | stout | hooked | long
    tail: tuple[float, float]  # length and half width at the tip
    tail_end: float  # middle feathers: 1 as long as the outer ones, less: forked, more: pointed
    leg: float
    crest: float = 0.0  # length
    cock: float = 0.0  # how far the tail is raised


FORMS = (
    Form("Sparrow", (0.41, 0.25), 20, 0.21, 0.17, "cone", (0.38, 0.10), 0.85, 0.17),
    Form("Warbler", (0.38, 0.22), 14, 0.205, 0.17, "thin", (0.34, 0.09), 0.9, 0.20),
    Form("Jay", (0.42, 0.23), 28, 0.21, 0.18, "stout", (0.55, 0.11), 1.15, 0.16, 0.16, 6),
    Form("Finch", (0.37, 0.28), 24, 0.225, 0.14, "cone", (0.34, 0.13), 0.65, 0.13),
    Form("Thrush", (0.43, 0.26), 34, 0.20, 0.20, "stout", (0.36, 0.10), 1.0, 0.23),
    Form("Flycatcher", (0.36, 0.20), 46, 0.215, 0.14, "thin", (0.40, 0.09), 0.8, 0.12, 0.09),
    Form("Wren", (0.32, 0.25), 6, 0.21, 0.14, "thin", (0.28, 0.10), 1.1, 0.20, 0.0, 62),
    Form("Bunting", (0.40, 0.26), 36, 0.205, 0.14, "cone", (0.42, 0.11), 0.8, 0.15),
    Form("Tern", (0.46, 0.19), 5, 0.195, 0.16, "long", (0.46, 0.14), 0.4, 0.12),
    Form("Plover", (0.38, 0.25), 12, 0.21, 0.21, "thin", (0.22, 0.09), 1.1, 0.34),
    Form("Shrike", (0.41, 0.22), 40, 0.22, 0.15, "hooked", (0.50, 0.09), 1.2, 0.15),
    Form("Waxwing", (0.42, 0.25), 32, 0.20, 0.16, "stout", (0.30, 0.11), 0.95, 0.13, 0.20),
)


@dataclass(frozen=True)
class Palette:
    name: str
    head: Colour
    back: Colour
    wing: Colour
    under: Colour  # breast and belly
    bare: Colour  # beak and legs


PALETTES = (
    Palette("Brown", (150, 120, 90), (125, 95, 65), (95, 70, 50), (205, 190, 165), (90, 75, 60)),
    Palette("Olive", (125, 130, 75), (105, 115, 60), (75, 80, 50), (205, 200, 130), (70, 65, 60)),
    Palette("Slate", (115, 125, 140), (95, 105, 120), (65, 72, 85), (195, 200, 205), (60, 60, 65)),
    Palette("Azure", (85, 140, 190), (65, 115, 170), (45, 80, 130), (200, 205, 210), (55, 55, 65)),
    Palette("Rufous", (170, 100, 65), (150, 80, 50), (105, 60, 45), (220, 185, 150), (100, 75, 55)),
    Palette("Rosy", (185, 110, 115), (150, 95, 100), (95, 65, 75), (220, 180, 175), (110, 80, 75)),
)


@dataclass(frozen=True)
class Species:
    """A class: its family's form and palette, and the marks by which its sisters can be told apart."""

    name: str
    family: int
    form: Form
    palette: Palette
    crown: Colour | None = None
    brow: Colour | None = None
    ring: Colour | None = None  # around the eye
    cheek: Colour | None = None
    throat: Colour | None = None
    breast: str = "plain"  # plain | streaked | spotted | banded
    bars: tuple[int, Colour] = (0, COLOURS["White"])  # of the wing: how many, of which colour
    tail: Colour | None = None  # band
    beak: str = ""


BREASTS = ("streaked", "plain", "banded", "spotted")
BEAKS = {"cone": "Thick", "long": "Long", "hooked": "Hook", "thin": "Thin"}
BARS = {
    "Two_barred": (2, COLOURS["White"]),
    "Plain_winged": (0, COLOURS["White"]),
    "Yellow_barred": (2, COLOURS["Yellow"]),
    "One_barred": (1, COLOURS["White"]),
}
WORDS = {mark: f"{mark}ed" for mark in ("brow", "cheek", "throat", "tail")} | {"crown": "crowned", "ring": "eyed"}
KITS = (  # what a family's sisters differ in
    *(("crown", "bars"), ("throat",), ("breast",), ("cheek",), ("brow", "tail"), ("beak",), ("bars",)),
    *(("ring",), ("throat", "tail"), ("crown",), ("tail",), ("breast", "ring"), ("brow",)),
)


@cache
def species(number: int) -> Species:
    """The species of class ``number``, from 0; it depends on nothing else."""
    cycle, rest = divmod(number, sum(SISTERS))
    family = cycle * len(SISTERS)
    for size in SISTERS:
        if rest < size:
            break
        family, rest = family + 1, rest - size
    lap, which = divmod(family, len(FORMS))
    form, palette = FORMS[which], PALETTES[(which // 2 + lap) % len(PALETTES)]
    kit = KITS[(family + lap) % len(KITS)]
    rng = np.random.default_rng([2021, family])
    common = Species("", family, form, palette, beak=form.beak)
    for mark in ("crown", "brow", "ring", "cheek", "throat", "tail", "bars"):
        if rng.random() < 0.3:  # a family's own marks, by which no sister differs
            common = replace(common, **_variants(common, mark, family)[int(rng.integers(4))][1])
    options = [_variants(common, mark, family) for mark in kit]
    if len(kit) == 2:  # two by two: neither part tells all four sisters apart
        chosen = [options[0][rest % 2], options[1][(0, 1, 1, 0)[rest]]]
    else:
        chosen = [options[0][rest]]
    words = [word for word, _ in chosen] + [palette.name, form.name]
    changes = {mark: value for _, change in chosen for mark, value in change.items()}
    return replace(common, name="_".join(words), **changes)


def _variants(common: Species, mark: str, family: int) -> list[tuple[str, dict]]:
    """Four values of a mark that can be told apart on this family, each with the words that name it."""
    if mark == "breast":
        return [(f"{breast.title()}_breasted", {mark: breast}) for breast in BREASTS]
    if mark == "beak":
        return [(f"{word}_billed", {mark: beak}) for beak, word in BEAKS.items()]
    if mark == "bars":
        return [(name, {mark: bars}) for name, bars in BARS.items()]
    ground = common.palette.wing if mark == "tail" else common.palette.head
    clear = [name for name, colour in COLOURS.items() if np.abs(np.subtract(colour, ground)).sum() > 150]
    turned = [clear[(family + i) % len(clear)] for i in range(4)]
    return [(f"{name}_{WORDS[mark]}", {mark: COLOURS[name]}) for name in turned]
