"""One image of a data set: decoded, upright, RGB, without its banner, squashed to a square; and many, on all cores."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH

from lapml.data import damage, formats, levels
from lapml.errors import LapmlError, words

Result = TypeVar("Result")
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (DCT scaling) as long as that stays this many times the stored
# side. Measured on 197 images of CUB-200-2011 against decoding whole: at 3 and side 32, 0.20 of 255 levels off on
# average, 0.74 in the worst image (0.24 and 0.50 at side 64); at 2, up to 0.41 and 1.09. At 3 and side 96 or more none
# of its images (500 px) is scaled at all; photographs of 12 megapixels are.
GAP = 3


@dataclass(frozen=True)
class Decoded:
    image: Image.Image  # upright, RGB
    size: tuple[int, int]  # upright width and height of the whole image, even where ``image`` was decoded smaller
    orientation: int  # EXIF's, 1 to 8, that it was stored with
    box: tuple[float, float, float, float]  # left, top, right and bottom of the whole image in ``image``, in its pixels


def decode(file: Path, banner: int = 0, side: int | None = None) -> Decoded:
    """An upright RGB image. Transparency is put on white; more than 8 bits are scaled by the range of their values
    (:mod:`lapml.data.levels`); colour profiles are ignored.

    Args:
        banner: rows of pixels to cut off the bottom.
        side: of the square that is to be made of it: a much larger JPEG is decoded at a smaller scale.

    Raises:
        LapmlError: the file is missing, empty, truncated or no image, ends in the gray that a damaged JPEG is filled up
            with, is no more than a banner, or has more pixels than Pillow opens.
    """
    try:
        if file.stat().st_size == 0:
            raise ValueError("it is empty")
        with formats.opened(file) as image:
            # First: of a PNG, EXIF lies behind the pixels, and is read after them.
            lower = levels.lower_bytes(image, lambda: formats.opened(file))
            _refuse_uncovered(image)
            orientation, whole, box = _orientation(image), image.size, None
            if side is not None and not banner and (draft := image.draft(None, (GAP * side, GAP * side))):
                box = draft[1]  # a size that the scale does not divide is rounded up: the last pixel is seen in part
            image.load()  # a TIFF is turned here by Pillow itself; its tag is then gone
            turn = _orientation(image)
            of_jpeg = image.format in ("JPEG", "MPO")
            if of_jpeg and damage.ends_gray(image, whole[0]) and (why := damage.libjpeg(file)):
                raise ValueError(f"part of the picture is lost: {why}")
            image = levels.rgb(image, lower)
            if turn > 1:
                image = image.transpose(UPRIGHT[turn])
            if banner:
                if image.height <= banner:
                    raise ValueError(f"its {image.height} rows are no more than the banner of {banner} to cut off")
                image = image.crop((0, 0, image.width, image.height - banner))
            if box is None:
                return Decoded(image, image.size, orientation, (0, 0, *image.size))
            corners = points_upright(np.array([box[:2], box[2:]], np.float64), *image.size, orientation)
            size = whole if orientation < 5 else whole[::-1]
            return Decoded(image, size, orientation, (*corners.min(0).tolist(), *corners.max(0).tolist()))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        why, advice = words(error), "replace this file, or get it again"
        if isinstance(error, Image.DecompressionBombError):  # sound, but for its size
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6  # at which Pillow raises; it warns at half of that
            why, advice = f"more pixels than Pillow opens, {most:.0f} million", "make it smaller"
        if isinstance(error, UnidentifiedImageError):  # whose text is no more than the file's name
            why = formats.needed(file) or "no format that can be opened here"
        raise LapmlError(f"{file}: cannot be read as an image ({why}); {advice}") from None


def _refuse_uncovered(image: Image.Image) -> None:
    """A TIFF's strips may hold less than the size that it declares: Pillow leaves the rest black."""
    if image.format == "TIFF":
        # As stored: its size may be turned already.
        declared = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        covered = tuple(max((tile.extents[end] for tile in image.tile), default=0) for end in (2, 3))
        if any(less < size for less, size in zip(covered, declared, strict=True)):
            raise ValueError(f"it holds {covered[0]} x {covered[1]} pixels of {declared[0]} x {declared[1]}")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return 1
    return orientation if orientation in UPRIGHT else 1


def square(file: Path, side: int, banner: int = 0) -> tuple[bytes, tuple[int, int, int]]:
    """The image squashed to ``side`` × ``side`` with Pillow's LANCZOS filter, which antialiases: its bytes (C order,
    RGB), and the upright width and height and the stored orientation of the whole image."""
    decoded = decode(file, banner, side)
    pixels = decoded.image.resize((side, side), Image.Resampling.LANCZOS, decoded.box).tobytes()
    return pixels, (*decoded.size, decoded.orientation)


def points_upright(points: np.ndarray, width: int, height: int, orientation: int) -> np.ndarray:
    """Map points (..., 2) of the stored frame into the upright ``width`` × ``height`` frame.

    The frame is continuous: pixel i covers [i, i + 1), so mirroring takes x to width − x.
    """
    x, y = points[..., 0], points[..., 1]
    if orientation >= 5:  # the stored image lies on its side
        x, y = y, x
    if orientation in (2, 3, 6, 7):
        x = width - x
    if orientation in (3, 4, 7, 8):
        y = height - y
    return np.stack([x, y], -1)


def upright(row: dict[str, Any], width: int, height: int, orientation: int, banner: int = 0) -> dict[str, Any]:
    """A row of the index for the upright ``width`` × ``height`` image: sizes set, box and visible parts mapped.

    (A hidden part's coordinates mean nothing and stay.) A box that reaches into the banner ends where that began.
    """
    row = row | {"width": width, "height": height}
    if orientation > 1:
        size = (width, height + banner, orientation)
        if row["box"] is not None:
            x, y, w, h = row["box"]
            corners = points_upright(np.array([[x, y], [x + w, y + h]], np.float64), *size)
            row["box"] = [*corners.min(0).tolist(), *np.abs(corners[1] - corners[0]).tolist()]
        if row["parts"] is not None:
            row["parts"] = [
                [*points_upright(np.array(part[:2], np.float64), *size).tolist(), part[2]] if part[2] else part
                for part in row["parts"]
            ]
    if banner and row["box"] is not None and 0 < height - row["box"][1] < row["box"][3]:
        row["box"] = [*row["box"][:3], height - row["box"][1]]
    return row


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Path], Result], files: Iterable[Path]) -> Iterator[Result]:
    """``work(file)`` of each file, in the files' order, computed on all cores a few files ahead.

    Threads, not processes: Pillow decodes and resizes without holding Python's lock.
    """
    formats.register()  # once, here: not safe to leave to the threads
    with ThreadPoolExecutor(workers := cores()) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(work, file))
                if len(waiting) > 4 * workers:  # a bounded window, so that memory stays small
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
