"""An image of any mode as 8-bit RGB: many levels become 256 by the range of their values and the file's own tags."""

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2  # values of TIFF's tags
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners give; a larger range has as many as it needs
# Of 16 bits a channel Pillow keeps the upper 8. Read in the other order of bytes, or as twice as many channels, a file
# gives the lower ones: raw mode → (mode, raw mode) to read them in.
LOWER = {
    f"{bands};16{order}": (bands.replace("X", ""), f"{bands};16{other}")
    for bands in ("RGB", "RGBA", "RGBX", "CMYK")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if np.little_endian else "L"))
} | {"LA;16B": ("RGBA", "RGBA")}
FAINT = 64  # of upper bytes: at most 14 of 16 bits are used, so the lower ones count


def rgb(image: Image.Image, lower: Callable[[], np.ndarray] | None) -> Image.Image:
    """A loaded image as RGB, transparency put on white.

    Gray of more than 8 bits is scaled by the least of 8, 10, 12, 14, 16 … bits that holds its largest value, colours of 16
    bits alike; signed and floating-point values: see :func:`_levels`. TIFF's white-is-zero is turned over. Other colour
    spaces are converted, without regard to colour profiles.

    Args:
        lower: reads the lower bytes of an image of 16 bits a channel, see :func:`lower_bytes`; None for any other.

    Raises:
        ValueError: there are values that are no numbers.
    """
    signed = image.mode == "L" and _tag(image, SAMPLEFORMAT) == SIGNED
    if image.mode.startswith(("I", "F")) or signed:
        pixels, bits = np.asarray(image), _tag(image, BITSPERSAMPLE)
        if signed:
            pixels = pixels.view(np.int8)
        elif image.mode == "I" and bits == 32 and _tag(image, SAMPLEFORMAT) in (UNSIGNED, None):
            pixels = pixels.view(np.uint32)  # which Pillow holds as signed
        gray = _levels(pixels)
        if _tag(image, PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
            gray = 255 - gray  # Pillow itself turns over what has 8 bits or fewer
        if isinstance(clear := image.info.get("transparency"), int):  # a level that is to be seen through
            gray = np.where(pixels == clear, 255, gray).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _from_lab())
    if lower:
        image = _deepened(image, lower)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _tag(image: Image.Image, tag: int) -> int | None:
    """The (first) value of a TIFF's tag; None if it has none, or is no TIFF."""
    found = image.tag_v2.get(tag) if hasattr(image, "tag_v2") else None
    return found[0] if isinstance(found, tuple) else found


def _levels(values: np.ndarray) -> np.ndarray:
    """Numbers as uint8: 0 stays 0, and white is the largest value of as many bits as are used (:data:`DEPTHS`).

    Floating-point numbers are held to go from 0 to 1, or to their largest, if that is more. Where there are values below
    0, the least is black and the largest white.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels are not all finite numbers")
    if low >= 0:
        bits = int(high).bit_length()
        white = 2 ** next((depth for depth in DEPTHS if bits <= depth), bits) - 1
        low, high = 0.0, max(high, 1.0) if values.dtype.kind == "f" else float(white)
    scaled = (values.astype(np.float64) - low) * (255 / (high - low or 1.0))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def lower_bytes(image: Image.Image, again: Callable[[], Image.Image]) -> Callable[[], np.ndarray] | None:
    """Of an image that is opened, not loaded yet, and has 16 bits in each of several channels: what reads its lower bytes,
    a uint8 array (H, W, channels). None for any other image.

    Args:
        again: opens the same file once more.
    """
    if not (found := _swapped(image)):
        return None
    grays = found[1][0].args == "RGBA"

    def read() -> np.ndarray:
        with again() as other:
            other._mode, other.tile = _swapped(other)
            other.load()
            low = np.asarray(other)
        if grays:  # gray and transparency lie there as (upper, lower, upper, lower)
            return low[..., [1, 1, 1, 3] if image.mode == "RGBA" else [1, 3]]
        return low

    return read


def _swapped(image: Image.Image) -> tuple[str, list] | None:
    """Mode and tiles that decode the lower bytes; None if channels have one byte, or there is but one channel."""
    tiles = []
    for tile in getattr(image, "tile", []):
        raw, *rest = [tile.args] if isinstance(tile.args, str) else tile.args or [None]
        if raw not in LOWER:
            return None
        mode, other = LOWER[raw]
        tiles.append(tile._replace(args=(other, *rest) if rest else other))
    return (mode, tiles) if tiles else None


def _deepened(image: Image.Image, lower: Callable[[], np.ndarray]) -> Image.Image:
    """An image whose colours use at most 14 of 16 bits, of which the upper 8 alone are nearly black: scaled by its range."""
    upper = np.asarray(image).astype(np.int64)
    colours = upper.shape[2] - (image.mode in ("RGBA", "LA"))
    if upper[..., :colours].max() >= FAINT:
        return image
    values = upper * 256 + lower()
    scaled = upper.astype(np.uint8)
    scaled[..., :colours] = _levels(values[..., :colours])
    if upper[..., colours:].size and upper[..., colours:].max() < FAINT:
        scaled[..., colours:] = _levels(values[..., colours:])
    return Image.frombytes(image.mode, image.size, scaled.tobytes())


@cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
