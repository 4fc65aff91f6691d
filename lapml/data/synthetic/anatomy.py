"""A species as polygons: the bird at rest, part by part, and where CUB's fifteen parts lie on it.

A bird faces left, y points down, and its body is about 0.8 units long. Everything is points in or at one smooth
outline, so that a pose is a map of points (:mod:`lapml.data.synthetic.birds`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from lapml.data.synthetic.species import COLOURS, Colour, Species

CUB_PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"),
    *("nape", "right eye", "right leg", "right wing", "tail", "throat"),
)
STEPS = 6  # points of the outline from one knot to the next
WING = (0.30, 0.5, 0.56, 0.53, 0.43, 0.30, 0.02)  # half widths from shoulder to tip, in half depths of the body
BEAKS = {"cone": (0.75, 0.36), "thin": (0.9, 0.15), "stout": (0.95, 0.24), "hooked": (0.85, 0.34), "long": (1.7, 0.2)}
BREAST = {  # angle and share of the body's radius of each streak or spot
    "streaked": ((92, 0.74), (110, 0.76), (128, 0.78), (146, 0.8), (164, 0.8), (118, 0.5), (144, 0.5), (170, 0.5)),
    "spotted": (
        *((75, 0.85), (92, 0.85), (109, 0.85), (126, 0.85), (143, 0.85), (160, 0.85)),
        *((104, 0.57), (128, 0.57), (152, 0.57), (176, 0.57)),
    ),
}
Limb = Callable[..., np.ndarray]  # (s, v) -> (n, 2): s from base 0 to tip 1, v across from -1 (upper edge) to 1


@dataclass(frozen=True)
class Shape:
    """One polygon of one colour."""

    part: str  # the mark that it shows, a field of Species, or another part of the body
    points: np.ndarray  # (n, 2), units
    colour: Colour


@dataclass(frozen=True)
class Bird:
    """A species at rest."""

    shapes: tuple[Shape, ...]  # back to front
    parts: dict[str, np.ndarray]  # CUB's name: (2,); the side seen is called left
    joints: dict[str, np.ndarray]  # neck, head and rump, (2,) each: what a pose bends
    extent: np.ndarray  # (n, 2), what a pose fits into the image: the same for all sisters


@cache
def bird(kind: Species) -> Bird:
    """The drawing of one species."""
    return _Drawing(kind).bird()


class _Drawing:
    """A species as it is drawn, back to front: each method adds the shapes of a part of the body."""

    def __init__(self, kind: Species):
        self.kind, self.form, self.palette = kind, kind.form, kind.palette
        self.lean = rotation(np.radians(self.form.stance))
        self.shapes: list[Shape] = []
        self.neck = self.on_body(200, 0.9)
        self.head = self.neck + self.form.neck * np.array([-0.35, -0.94])
        knots = [self.on_head(a) for a in (195, 240, 285, 330)]
        knots += [self.on_body(a) for a in (285, 325, 0, 35, 80, 125, 165)]
        # From the beak over the back to the chin.
        self.outline = _spline(np.array([*knots, self.on_head(125), self.on_head(165)]))
        self.rump, self.eye = self.on_body(8, 0.72), self.on_head(205, 0.36)

    def add(self, part: str, points: np.ndarray | list, colour: Colour | None) -> None:
        if colour:
            self.shapes.append(Shape(part, np.asarray(points), colour))

    def on_body(self, degrees: float, share: float = 1.0) -> np.ndarray:
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return self.lean @ (share * np.array(self.form.body) * (x, y * (1 - 0.2 * x)))  # an egg: deeper at the breast

    def on_head(self, degrees: float, share: float = 1.0) -> np.ndarray:
        return self.head + share * self.form.head * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])

    def patch(self, start: float, end: float, bow: float) -> np.ndarray:
        """What a bowed line cuts off the outline between two knots."""
        outline = self.outline
        edge = outline[np.arange(round(start * STEPS), round(end * STEPS) + 1) % len(outline)]
        return np.concatenate([edge, _bowed(edge[-1], edge[0], bow)])

    def bird(self) -> Bird:
        legs, tail, tip = self.legs(), self.tail(), self.beak()
        self.body()
        self.face()
        wing = self.wing()
        parts = {
            **legs,
            "back": self.on_body(275, 0.8),
            "beak": 0.5 * (tip + self.on_head(182)),
            "belly": self.on_body(80, 0.85),
            "breast": self.on_body(150, 0.82),
            "crown": self.on_head(280, 0.8),
            "forehead": self.on_head(215, 0.85),
            "left eye": self.eye,
            "left wing": wing(0.5, 0),
            "nape": self.on_head(350, 0.9),
            "tail": tail(0.75 * self.tail_end(0), 0),
            "throat": self.on_head(135, 0.75),
        }
        whole = [shape.points for shape in self.shapes if shape.part in ("body", "tail feathers", "legs", "crest")]
        extent = np.concatenate([*whole, [self.on_head(182, 2.0)]])  # a nominal beak: sisters may differ in theirs
        return Bird(tuple(self.shapes), parts, {"neck": self.neck, "head": self.head, "rump": self.rump}, extent)

    def legs(self) -> dict[str, np.ndarray]:
        """Where each is, by CUB's name."""
        form, legs = self.form, {}
        for side, angle, shade in (("right leg", 68, 0.75), ("left leg", 92, 1.0)):
            hip, skin = self.on_body(angle, 0.8), _shade(self.palette.bare, shade)
            foot = hip + (0.0, form.leg + 0.2 * form.body[1])
            self.add("legs", _stroke(hip, foot, 0.022), skin)
            self.add("legs", _stroke(foot + (0.05, 0), foot + (-0.09, 0.005), 0.018), skin)
            legs[side] = hip + 0.72 * (foot - hip)
        return legs

    def tail_end(self, v: np.ndarray | float) -> np.ndarray:
        """How far the feathers reach, across the tail."""
        end = self.form.tail_end
        return 1 - max(0, 1 - end) * (1 - np.abs(v)) - max(0, end - 1) * 2 * np.abs(v) ** 1.5

    def tail(self) -> Limb:
        form, palette = self.form, self.palette
        axis = rotation(np.radians(-form.cock)) @ (self.rump - self.on_body(188, 0.3))
        tail = _limb(self.rump, self.rump + (form.tail[0] + 0.12) * axis / np.hypot(*axis), (0.085, form.tail[1]))
        self.add("tail feathers", _band(tail, 0.0, 1.0, stop=self.tail_end), _shade(palette.wing, 0.9))
        for v in (-0.35, 0.35):
            band = _band(tail, 0.3, 0.97 * self.tail_end(v), middle=v, reach=0.06)
            self.add("tail feathers", band, _shade(palette.wing, 0.65))
        self.add("tail", _band(tail, 0.62, 0.9, stop=self.tail_end), self.kind.tail)
        return tail

    def beak(self) -> np.ndarray:
        """Its tip."""
        upper, lower, tip = _beak(self.kind.beak, self.on_head(182, 0.85), self.form.head)
        self.add("beak", lower, _shade(self.palette.bare, 0.8))
        self.add("beak", upper, _shade(self.palette.bare, 1.15))
        return tip

    def body(self) -> None:
        kind, form, palette = self.kind, self.form, self.palette
        if form.crest:
            peak = self.on_head(318) + form.crest * np.array([0.75, -0.65])
            self.add("crest", [self.on_head(250), self.on_head(285), peak, self.on_head(338)], palette.head)
        self.add("body", self.outline, palette.back)
        self.add("body", self.patch(6.8, 11.3, -0.2), palette.under)
        self.add("body", self.patch(6.4, 8.2, -0.12), _shade(palette.under, 1.08))
        if kind.breast == "banded":
            edges = (
                _bowed(self.on_body(212, 0.6), self.on_body(142), 0.1),
                _bowed(self.on_body(124), self.on_body(200, 0.2), -0.1),
            )
            self.add("breast", np.concatenate(edges), COLOURS["Black"])
        for spot in BREAST.get(kind.breast, ()):
            here, down = self.on_body(*spot), 0.055 * self.lean[:, 1]
            mark = _stroke(here - down, here + down, 0.032) if kind.breast == "streaked" else _disc(here, 0.027)
            self.add("breast", mark, _shade(palette.wing, 0.6))

    def face(self) -> None:
        kind, size, eye = self.kind, self.form.head, self.eye
        self.add("head", self.patch(11.0, 16.4, 0.16), self.palette.head)
        self.add("throat", self.patch(10.85, 12.95, -0.22), kind.throat)
        self.add("crown", self.patch(0.1, 3.3, 0.12), kind.crown)
        self.add("cheek", _disc(self.on_head(42, 0.48), 0.36 * size, 0.28 * size), kind.cheek)
        front, rear = self.on_head(190, 0.94), self.on_head(342, 0.85)
        self.add("brow", np.concatenate([_bowed(front, rear, -0.27), _bowed(rear, front, 0.1)]), kind.brow)
        self.add("ring", _disc(eye, 0.37 * size), kind.ring)
        self.add("eye", _disc(eye, 0.2 * size), (15, 12, 12))
        self.add("eye", _disc(eye + size * np.array([-0.06, -0.07]), 0.055 * size), (235, 235, 235))

    def wing(self) -> Limb:
        form, palette, kind = self.form, self.palette, self.kind
        wing = _limb(self.on_body(205, 0.62), self.on_body(12, 1.12), tuple(form.body[1] * width for width in WING))
        s, v = np.linspace(0, 1, 25), np.linspace(-1, 1, 9)
        self.add("wing", np.concatenate([wing(s, -1), wing(s[::-1], 1)]), palette.wing)
        shoulder = np.concatenate([wing(s[:11], -1), wing(0.5 - 0.15 * v**2, v), wing(s[10::-1], 1)])
        self.add("wing", shoulder, _shade(palette.wing, 1.18))
        for middle in (-0.5, 0.05, 0.55):
            self.add("wing", _band(wing, 0.58, 0.97, middle=middle, reach=0.07), _shade(palette.wing, 0.68))
        for start in (0.46, 0.24)[: kind.bars[0]]:
            self.add("bars", _band(wing, start, start + 0.1, slant=-0.1, reach=0.97), kind.bars[1])
        return wing


def _beak(kind: str, base: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Upper half, lower half and tip."""
    length, depth = (radius * size for size in BEAKS[kind])
    tip = base + (-length - 0.15 * radius, 0.1 * radius)
    top, bottom = base - (0, depth), base + (0, depth)
    ridge = [tip + (0.4 * length, -0.55 * depth), tip]
    if kind == "hooked":
        ridge = [tip + shift for shift in ((0.4 * length, -0.8 * depth), (0.05 * length, -0.35 * depth))]
        ridge += [tip + (0, 0.9 * depth), tip + (0.25 * length, 0.3 * depth)]
    return np.array([top, *ridge, base]), np.array([bottom, tip, base]), tip


def _limb(base: np.ndarray, tip: np.ndarray, widths: tuple[float, ...]) -> Limb:
    axis = tip - base
    across = np.array([-axis[1], axis[0]]) / np.hypot(*axis)

    def at(s: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
        s, v = np.broadcast_arrays(np.asarray(s, float), np.asarray(v, float))
        width = np.interp(s, np.linspace(0, 1, len(widths)), widths)
        return base + s[..., None] * axis + (v * width)[..., None] * across

    return at


def _band(
    limb: Limb,
    start: float,
    end: float,
    slant: float = 0.0,
    middle: float = 0.0,
    reach: float = 1.0,
    stop: Callable[[np.ndarray], np.ndarray] = np.ones_like,
) -> np.ndarray:
    """The stretch of a limb between two s, over the v around ``middle``."""
    v = middle + np.linspace(-reach, reach, 9)
    bend = slant * v**2
    return np.concatenate([limb(start * stop(v) + bend, v), limb(end * stop(v) + bend, v)[::-1]])


def _spline(knots: np.ndarray) -> np.ndarray:
    """A closed Catmull-Rom curve through ``knots`` (n, 2): STEPS points for each."""
    t = np.arange(STEPS)[:, None, None] / STEPS
    a, b, c, d = (np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def _bowed(start: np.ndarray, end: np.ndarray, bow: float) -> np.ndarray:
    """A line bowed sideways by ``bow`` of its length: (12, 2)."""
    t = np.linspace(0, 1, 12)[:, None]
    chord = end - start
    return start + t * chord + bow * np.sin(np.pi * t) * np.array([-chord[1], chord[0]])


def _stroke(start: np.ndarray, end: np.ndarray, width: float) -> np.ndarray:
    along = (end - start) / np.hypot(*(end - start))
    side = 0.5 * width * np.array([-along[1], along[0]])
    return np.array([start - side, end - side, end + side, start + side])


def _disc(centre: np.ndarray, rx: float, ry: float | None = None) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return centre + np.stack([rx * np.cos(angle), (ry or rx) * np.sin(angle)], axis=1)


def rotation(angle: float) -> np.ndarray:
    """The matrix that turns points by ``angle`` (radians), clockwise as seen, since y points down."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, round(factor * channel)) for channel in colour)
