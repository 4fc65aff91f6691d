"""The embedded data set: synthetic birds, which :mod:`lapml.data.synthetic.layouts` writes as a folder.

What tells sister species apart is small and local (:mod:`lapml.data.synthetic.species`); background, pose, light and occlusion
mislead, as strongly as ``nuisance`` says. Boxes, parts and masks are measured on the drawing itself, so they are true
to the pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lapml.config import Synthetic
from lapml.data.synthetic.anatomy import CUB_PARTS, Bird, bird, rotation
from lapml.data.synthetic.scenery import background, light, occluders, shading
from lapml.data.synthetic.species import Species, species

VERSION = 1  # of the drawing: raise it with every change that moves a pixel, so that no older drawing is reused
SUPERSAMPLE = 3  # shapes are drawn this much larger, then averaged: smooth edges


@dataclass(frozen=True)
class Pose:
    """How a bird at rest is placed in an image."""

    mirror: bool  # facing right
    turn: float  # radians, of the whole bird
    head: float  # radians, of the head against the body
    tail: float  # radians
    yaw: float  # radians, towards the viewer: shortens the bird
    stout: float  # depth, times the species' own
    fill: float  # share of the image's room that the bird takes
    place: tuple[float, float]  # -1..1, from one border to the other; at 2, half of the bird is outside


@dataclass(frozen=True)
class Picture:
    """One image and what is true of it."""

    image: Image.Image  # RGB
    mask: Image.Image  # L, 255 on pixels where the bird is seen, else 0
    box: tuple[float, float, float, float]  # x, y, width and height of the mask, pixels
    parts: np.ndarray  # (15, 3) x, y in pixels and 1, or 0 0 0 for a part that is not seen; in CUB's order
    places: np.ndarray  # (15, 2) where each part lies, seen or not; NaN for the far eye and wing


@dataclass(frozen=True)
class Item:
    """One image of the synthetic set, and its place in it."""

    label: int  # from 0
    kind: Species
    split: str  # train | test
    k: int  # from 0, in its class and split
    picture: Picture


def pictures(settings: Synthetic) -> Iterator[Item]:
    """The synthetic set, class by class, each class's training images first.

    Image ``k`` of a class and split depends on ``settings.seed``, ``side`` and ``nuisance`` only, not on how many
    are drawn.
    """
    for label in range(settings.classes):
        kind = species(label)
        for stream, split, count in ((1, "train", settings.train_images), (0, "test", settings.test_images)):
            for k in range(count):
                rng = np.random.default_rng([settings.seed, label, stream, k])
                yield Item(label, kind, split, k, render(kind, rng, settings.side, settings.nuisance))


def render(kind: Species, rng: np.random.Generator, side: int, nuisance: float) -> Picture:
    """One image of a species.

    Args:
        rng: says all that varies; sisters drawn from equal generators differ in their discriminating parts only.
        side: the longer side, pixels.
        nuisance: 0..1; 0 is the bird at rest on a plain ground, in an image of random aspect.
    """
    size = _size(rng, side)
    figure = bird(kind)
    move = Placement(figure, _pose(rng, nuisance), size)
    scene = background(rng, size, nuisance, feet=move(np.stack([figure.parts["left leg"], figure.parts["right leg"]])))
    front = occluders(rng, size, nuisance, around=move(figure.extent))
    plumage = _paint(figure, move, size)
    alpha, hidden = plumage[..., 3:] / 255, front[..., 3:] / 255
    if (alpha * hidden).sum() > 0.4 * alpha.sum():  # a bird behind a bush would have no true label
        hidden = np.zeros_like(hidden)
    mask = (alpha * (1 - hidden))[..., 0] >= 0.5

    middle = float(move(np.zeros((1, 2)))[0, 1])
    feathers = plumage[..., :3] * shading(rng, size, nuisance, middle, depth=0.5 * move.scale)
    pixels = scene * (1 - alpha) + feathers * alpha
    pixels = pixels * (1 - hidden) + front[..., :3] * hidden
    image = light(rng, pixels, nuisance)
    sides = {"left": "right", "right": "left"} if move.pose.mirror else {}
    named = {" ".join(sides.get(word, word) for word in part.split()): point for part, point in figure.parts.items()}
    places = move(np.array([named.get(part, (np.nan, np.nan)) for part in CUB_PARTS]))  # NaN on the far side
    return Picture(image, Image.fromarray(mask.astype(np.uint8) * 255), _box(mask), _seen(places, mask), places)


def _size(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Width and height: the longer one is ``side``, the aspect lies between 3:4 and 4:3."""
    aspect = (4 / 3) ** rng.uniform(-1, 1)
    return (side, round(side / aspect)) if aspect >= 1 else (round(side * aspect), side)


def _pose(rng: np.random.Generator, nuisance: float) -> Pose:
    mirror = rng.random() < min(0.5, nuisance)
    turn, head, tail, stout = nuisance * np.clip(rng.standard_normal(4), -2, 2) * (0.3, 0.22, 0.2, 0.05)
    yaw = nuisance * rng.uniform(0, 0.95)
    fill = 0.92 - 0.42 * nuisance * rng.random()
    place = nuisance * rng.uniform(-1.3, 1.3, 2)
    return Pose(mirror, turn, head, tail, yaw, 1 + stout, fill, (place[0], place[1]))


class Placement:
    """The map of points (n, 2) from a bird at rest, in units, to an image of ``size`` (width, height), in pixels."""

    def __init__(self, figure: Bird, pose: Pose, size: tuple[int, int]):
        self.joints, self.pose = figure.joints, pose
        self.matrix = rotation(pose.turn) @ np.diag([np.cos(pose.yaw), pose.stout])
        if pose.mirror:
            self.matrix = np.diag([-1.0, 1.0]) @ self.matrix
        points = self._bent(figure.extent) @ self.matrix.T
        low, high = points.min(axis=0), points.max(axis=0)
        self.scale = pose.fill * min(np.array(size) / (high - low))
        bird_size = self.scale * (high - low)
        place = np.array(pose.place)
        within = np.clip(place, -1, 1)
        self.offset = (size - bird_size) * (1 + within) / 2 + bird_size * (place - within) / 2 - self.scale * low

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * (self._bent(points) @ self.matrix.T) + self.offset

    def _bent(self, points: np.ndarray) -> np.ndarray:
        """Head and tail turned at their joints; the turn grows smoothly along the neck, so that no seam shows."""
        neck, head, rump = (self.joints[name] for name in ("neck", "head", "rump"))
        nod = self.pose.head * _smooth((points - neck) @ (head - neck) / np.sum((head - neck) ** 2))
        points = _turned(points, neck, nod)
        wag = self.pose.tail * _smooth((points - rump) @ rump / np.sum(rump**2))
        return _turned(points, rump, wag)


def _turned(points: np.ndarray, pivot: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = (points - pivot).T
    return pivot + np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def _smooth(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _paint(figure: Bird, move: Placement, size: tuple[int, int]) -> np.ndarray:
    """The bird alone: (height, width, 4), colours and coverage 0..255."""
    points = SUPERSAMPLE * move(np.concatenate([shape.points for shape in figure.shapes])) - 0.5  # pixel centres
    ends = np.cumsum([len(shape.points) for shape in figure.shapes])[:-1]
    canvas = Image.new("RGBA", (SUPERSAMPLE * size[0], SUPERSAMPLE * size[1]))
    pen = ImageDraw.Draw(canvas)
    for shape, polygon in zip(figure.shapes, np.split(points, ends), strict=True):
        pen.polygon(polygon.ravel().tolist(), fill=(*shape.colour, 255))
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32)


def _seen(places: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """CUB's rows: x, y, 1 for a part that touches the mask, else 0, 0, 0."""
    height, width = mask.shape
    padded = np.pad(mask, 1)  # legs are thin: the pixel or one beside it
    rows = np.zeros((len(places), 3))
    for row, (x, y) in zip(rows, places, strict=True):
        if 0 <= x < width and 0 <= y < height and padded[int(y) : int(y) + 3, int(x) : int(x) + 3].any():
            row[:] = x, y, 1
    return rows


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = columns[0], rows[0]
    return float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)
