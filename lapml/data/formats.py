"""Which files are images: told by what they hold, not by their names, with the plugins for Pillow that are installed."""

import os
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import SUBIFD, TiffImageFile

# A module to import, and what to call in it to have Pillow open more formats; "" where the import will do.
PLUGINS = {
    "pillow_heif": "register_heif_opener",
    "pi_heif": "register_heif_opener",
    "pillow_avif": "",
    "pillow_jxl": "",
}
# Known to Pillow, but not to be decoded: stubs of other programs', films, and what Ghostscript would have to run.
CLOSED = {"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS"}
NEEDED = {  # how a file starts → what it is, and the package that opens it
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC: install pillow-heif"
    ),
    **dict.fromkeys((b"avif", b"avis"), "AVIF: install pillow-avif-plugin"),
    b"\xff\x0a": "JPEG XL: install pillow-jxl-plugin",
    b"\0\0\0\x0cJXL ": "JPEG XL: install pillow-jxl-plugin",
}
NEW_SUBFILE_TYPE = 254  # a TIFF's tag: its first bit marks a smaller copy of another picture of the file


class PreviewError(ValueError):
    """Of a file, Pillow opens no more than a small preview."""


@cache
def register() -> None:
    """Make Pillow know its formats and those of installed plugins. Not safe to leave to threads: call it before them."""
    Image.init()
    for module, function in PLUGINS.items():
        try:
            plugin = import_module(module)
            if function:
                getattr(plugin, function)()
        except Exception:  # not installed, or not for this Pillow: its files are then named as left out or unreadable
            continue


def opened(file: Path | str) -> Image.Image:
    """A file opened by Pillow, not decoded yet.

    Formats without a mark at their start (TGA …), which take nearly any bytes for theirs, open only files that are named
    so.

    Raises:
        PreviewError: the picture itself cannot be opened.
        OSError, and other exceptions of Pillow's: it is no image, or of no format that can be opened here.
    """
    register()
    named = Image.registered_extensions().get(os.path.splitext(file)[1].lower())
    known = [form for form, (_, accepts) in Image.OPEN.items() if accepts is not None or form == named]
    image = Image.open(file, formats=[form for form in known if form not in CLOSED])
    if isinstance(image, TiffImageFile) and _is_preview(image):
        image.close()
        raise PreviewError("only its preview can be read, as of a camera's RAW file: convert it to JPEG or TIFF")
    return image


def _is_preview(image: TiffImageFile) -> bool:
    """Whether the first picture of a TIFF is a smaller copy of another one in it."""
    smaller = (image.tag_v2.get(NEW_SUBFILE_TYPE) or 0) & 1
    return bool(smaller) and (SUBIFD in image.tag_v2 or image.n_frames > 1)


def refusal(file: Path | str) -> str:
    """Why a file is not taken for an image; "" if it is one that can be opened here, by its first bytes."""
    try:
        with opened(file):
            return ""
    except PreviewError as error:
        return str(error)
    except Image.DecompressionBombError:
        return ""  # it is one, and packing says that it is too large
    except Exception:  # Pillow's plugins raise many types
        return needed(file) or ("empty" if os.path.getsize(file) == 0 else "no image")


def needed(file: Path | str) -> str:
    """What would have to be installed to open an image file, "" where that is not known."""
    with open(file, "rb") as content:
        start = content.read(12)
    brand = start[8:] if start[4:8] == b"ftyp" else b""
    fits = (what for mark, what in NEEDED.items() if mark == brand or (len(mark) != 4 and start.startswith(mark)))
    return next(fits, "")
