"""Look at one image file: whether it can be read, what is odd about it, and by what copies of it are told."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lapml.data import damage, formats, similar
from lapml.data.decode import decode
from lapml.errors import LapmlError
from lapml.files import sha256

FLAT = 16  # levels of 256, from the darkest to the brightest of nearly all pixels of an image that shows nothing
MOST = 0.99  # of them


@dataclass(frozen=True)
class Seen:
    """What one file holds; ``error`` is set if it cannot be read, and then nothing else is."""

    error: str = ""
    file: str = ""  # sha256 of its bytes
    pixels: str = ""  # sha256 of its upright RGB pixels and their shape
    gray: bool = False
    flat: bool = False
    damage: str = ""
    size: tuple[int, int, int] = (0, 0, 1)  # upright width and height, stored orientation
    thumbnail: np.ndarray | None = None  # see lapml.data.similar


def look(file: Path, banner: int) -> Seen:
    """What one file holds, ``banner`` rows at its bottom left out."""
    try:
        decoded = decode(file, banner)
    except LapmlError as error:
        return Seen(error=str(error))
    image = decoded.image
    with formats.opened(file) as stored:
        gray, form = stored.getbands()[0] in ("L", "1", "I", "F"), stored.format
    return Seen(
        file=sha256(file),
        pixels=hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(),
        gray=gray,
        flat=_flat(image),
        damage=damage.found(file, form),
        size=(*image.size, decoded.orientation),
        thumbnail=similar.thumbnail(image),
    )


def _flat(image: Image.Image) -> bool:
    """Whether nearly all pixels have nearly the same level, in every channel."""
    counts = np.array(image.histogram()).reshape(3, 256).cumsum(1)
    within = counts - np.pad(counts, ((0, 0), (FLAT, 0)))[:, :256]  # pixels in the FLAT levels that end at each
    return bool((within.max(1) >= MOST * image.width * image.height).all())
