"""What misleads in a synthetic image: background, clutter, leaves in front, light. None of it depends on the species.

Sizes are (width, height) in pixels, arrays are (height, width, …) of 0..255; ``nuisance`` is 0..1, 0 is none.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lapml.data.synthetic.anatomy import rotation
from lapml.data.synthetic.species import COLOURS, PALETTES

SCENES = {  # dark and light colour, and the coarsest cells of the texture (across, down)
    "sky": ((115, 160, 210), (225, 232, 238), (3, 4)),
    "foliage": ((35, 62, 28), (140, 165, 80), (7, 7)),
    "bark": ((62, 48, 36), (155, 130, 100), (9, 3)),
    "water": ((45, 75, 95), (150, 172, 180), (2, 12)),
    "sand": ((125, 105, 78), (215, 200, 168), (6, 6)),
}
PLAIN = np.array((158, 168, 170), np.float32)  # the background without nuisance
CLUTTER = (  # leaves, bark and every colour that a bird may have: no colour by itself tells a class
    *((60, 95, 40), (110, 135, 60), (95, 75, 55), (165, 150, 120)),
    *COLOURS.values(),
    *(colour for palette in PALETTES for colour in (palette.head, palette.wing, palette.under)),
)


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of mean 0 and values near -1..1, (height, width)."""
    coarse = rng.uniform(-1, 1, (cells[1] + 1, cells[0] + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def background(rng: np.random.Generator, size: tuple[int, int], nuisance: float, feet: np.ndarray) -> np.ndarray:
    """A blurred scene with clutter, and the branch under the feet: (height, width, 3)."""
    dark, bright, (across, down) = SCENES[str(rng.choice(list(SCENES)))]
    field = 0.5 + rng.uniform(-0.35, 0.35) * np.linspace(-1, 1, size[1], dtype=np.float32)[:, None]
    for octave in range(3):
        field = field + 0.35 / 1.5**octave * _noise(rng, size, (across << octave, down << octave))
    dark, bright = np.array([dark, bright], np.float32)
    texture = dark + np.clip(field, 0, 1)[..., None] * (bright - dark)
    canvas = Image.fromarray((PLAIN + nuisance * (texture - PLAIN)).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.poisson(14 * nuisance)):
        pen.polygon(_leaf(rng, size, rng.random(2) * size, 0.02, 0.14), fill=CLUTTER[rng.integers(len(CLUTTER))])
    canvas = canvas.filter(ImageFilter.GaussianBlur(0.01 * max(size) * rng.uniform(0.3, 1.5)))
    slope = nuisance * rng.uniform(-0.25, 0.25)
    middle, reach = feet.mean(axis=0) + (0, 0.05 * max(size)), 2 * max(size)
    ImageDraw.Draw(canvas).line(
        [(middle[0] - reach, middle[1] - slope * reach), (middle[0] + reach, middle[1] + slope * reach)],
        fill=(92, 74, 58), width=max(2, round(0.035 * max(size))),
    )  # fmt: skip
    return np.asarray(canvas, np.float32)


def occluders(rng: np.random.Generator, size: tuple[int, int], nuisance: float, around: np.ndarray) -> np.ndarray:
    """Leaves in front of the bird: (height, width, 4), colours and coverage 0..255."""
    canvas = Image.new("RGBA", size, (85, 105, 50, 0))  # not black: the blur mixes it into the rims
    leaves = rng.integers(1, 5) if rng.random() < 0.9 * nuisance else 0
    pen = ImageDraw.Draw(canvas)
    low, high = around.min(axis=0), around.max(axis=0)
    for _ in range(leaves):
        green = np.array([rng.integers(40, 130), rng.integers(80, 150), rng.integers(25, 70)])
        brown = np.array([rng.integers(80, 130), rng.integers(60, 100), rng.integers(40, 70)])
        colour = green if rng.random() < 0.7 else brown
        pen.polygon(_leaf(rng, size, rng.uniform(low, high), 0.05, 0.13), fill=(*colour.tolist(), 255))
    return np.asarray(canvas.filter(ImageFilter.BoxBlur(0.7)) if leaves else canvas, np.float32)


def _leaf(rng: np.random.Generator, size: tuple[int, int], centre: np.ndarray, low: float, high: float) -> list[float]:
    """A pointed oval; ``low`` and ``high`` bound its half length, as shares of the longer side."""
    length = rng.uniform(low, high) * max(size)
    t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    oval = length * np.array([np.cos(t), rng.uniform(0.25, 0.6) * np.sin(t) * np.abs(np.sin(t))])
    return (rotation(rng.uniform(0, np.pi)) @ oval + centre[:, None]).T.ravel().tolist()


def shading(
    rng: np.random.Generator, size: tuple[int, int], nuisance: float, middle: float, depth: float
) -> np.ndarray:
    """Factors on the plumage, (height, width, 3): darker below, mottled, and faded as individuals are.

    ``middle`` is the height of the body's centre in the image, ``depth`` how far above and below the shade changes.
    """
    fall = np.clip((np.arange(size[1], dtype=np.float32) - middle) / depth, -1, 1)[:, None]
    mottle = 0.05 * _noise(rng, size, (size[0] // 4, size[1] // 4))
    fade = np.exp(nuisance * 0.12 * rng.standard_normal(3)).astype(np.float32)
    return (1.02 - 0.14 * fall + mottle)[..., None] * fade


def light(rng: np.random.Generator, pixels: np.ndarray, nuisance: float) -> Image.Image:
    """Dappled light, exposure, cast, contrast, blur and sensor noise."""
    height, width = pixels.shape[:2]
    exposure = 0.3 * float(np.clip(rng.standard_normal(), -2, 2))
    cast = 0.1 * rng.standard_normal(3, np.float32)
    dapple = 0.25 * _noise(rng, (width, height), (4, 4))[..., None]
    pixels = pixels * np.exp(nuisance * (exposure + cast + dapple))
    pixels = 128 + (pixels - 128) * (1 - nuisance * rng.uniform(-0.15, 0.4))
    blur = nuisance * rng.uniform(0, 0.008) * max(width, height)
    grain = nuisance * 10 * rng.random() * rng.standard_normal((height, width, 1), np.float32)
    image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.3 else image
