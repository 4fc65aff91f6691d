"""More than 8 bits, other signs, white-is-zero and colour spaces: the same ramp comes out, whatever it is stored in."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lapml.data import levels
from lapml.data.decode import decode
from lapml.errors import LapmlError

RAMP = np.tile(np.linspace(0, 255, 80), (60, 1))
RGB = np.repeat(RAMP[..., None], 3, 2)
OPAQUE = np.full((60, 80, 1), 4095)


def tiff(values: np.ndarray, photometric: int = 1, form: int = 1, order: str = "<") -> bytes:
    """An uncompressed TIFF with one strip, as no library writes all of them; ``form``: 1 unsigned, 2 signed, 3 float."""
    channels, bits = (values.shape[2] if values.ndim == 3 else 1), values.itemsize * 8
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: [80], 257: [60], 258: [bits] * channels, 259: [1], 262: [photometric], 273: [0], 277: [channels],
            278: [60], 279: [len(raw)], 284: [1], 339: [form] * channels}  # fmt: skip
    behind = 8 + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    long = sum(2 * len(found) for found in tags.values() if len(found) > 2)
    for tag, found in tags.items():
        if tag == 273:
            found = [behind + long]
        if len(found) > 2:
            entries += struct.pack(f"{order}HHII", tag, 3, len(found), behind + len(extra))
            extra += struct.pack(f"{order}{len(found)}H", *found)
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, found[0])
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + extra + raw


def png(values: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits a channel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 80, 60, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def u16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint16)


STORED = {
    "full png": png(RAMP[..., None] * 257, 0),
    "12 bits png": png(RAMP[..., None] * 16, 0),
    "10 bits png": png(RAMP[..., None] * 4, 0),
    "14 bits png": png(RAMP[..., None] * 64, 0),
    "8 bits in 16": png(RAMP[..., None], 0),
    "rgb png": png(RGB * 257, 2),
    "rgb 12 bits png": png(RGB * 16, 2),
    "rgba 12 bits png": png(np.concatenate([RGB * 16, OPAQUE], 2), 6),
    "la png": png(np.concatenate([RAMP[..., None] * 257, OPAQUE * 16], 2), 4),
    "la 12 bits png": png(np.concatenate([RAMP[..., None] * 16, OPAQUE], 2), 4),
    "12 bits tiff": tiff(u16(RAMP * 16)),
    "12 bits tiff, big-endian": tiff(u16(RAMP * 16), order=">"),
    "12 bits tiff, compressed": saved(Image.fromarray(u16(RAMP * 16)), "TIFF", compression="tiff_lzw"),
    "white is zero, 8": tiff((255 - RAMP).astype(np.uint8), photometric=0),
    "white is zero, 8, compressed": saved(
        Image.fromarray(RAMP.astype(np.uint8)),
        "TIFF",
        compression="tiff_lzw",
        tiffinfo={262: 0},  # turned over by saving
    ),
    "white is zero, 16": tiff(u16(65535 - RAMP * 257), photometric=0),
    "white is zero, 12 in 16": tiff(u16(4095 - RAMP * 16), photometric=0),
    "white is zero, float": tiff((1 - RAMP / 255).astype(np.float32), photometric=0, form=3),
    "signed 8": tiff((RAMP - 128).astype(np.int8), form=2),
    "signed 16": tiff((RAMP * 16).astype(np.int16), form=2),
    "signed 16, below 0": tiff((RAMP * 16 - 1024).astype(np.int16), form=2),
    "signed 32": tiff((RAMP * 2**23).astype(np.int32), form=2),
    "unsigned 32": tiff((RAMP * 16843009).astype(np.uint32)),
    "20 bits in 32": tiff((RAMP * 4112).astype(np.uint32)),
    "int32": saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "float 0..1": tiff((RAMP / 255).astype(np.float32), form=3),
    "float 0..255": tiff(RAMP.astype(np.float32), form=3),
    "float -1..1": tiff((RAMP / 127.5 - 1).astype(np.float32), form=3),
    "rgb tiff": tiff(u16(RGB * 257), photometric=2),
    "rgb 12 bits tiff": tiff(u16(RGB * 16), photometric=2),
    "rgb 12 bits tiff, big-endian": tiff(u16(RGB * 16), photometric=2, order=">"),
    "rgb 8 bits in 16 tiff": tiff(u16(RGB), photometric=2),
    "pgm of 12 bits": b"P5 80 60 4095\n" + (RAMP * 16).astype(">u2").tobytes(),
    "jpeg 2000 of 12 bits": saved(Image.fromarray(u16(RAMP * 16)), "JPEG2000"),
    "cmyk tiff": saved(Image.fromarray(RGB.astype(np.uint8)).convert("CMYK"), "TIFF"),
    "cmyk jpeg": saved(Image.fromarray(RGB.astype(np.uint8)).convert("CMYK"), "JPEG", quality=95),
    "palette": saved(Image.fromarray(RAMP.astype(np.uint8)).convert("P"), "PNG"),
    "1 bit, fax": saved(Image.fromarray(RAMP.astype(np.uint8)).convert("1"), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("stored", STORED)
def test_the_ramp_comes_out(tmp_path, stored):
    (tmp_path / "image").write_bytes(STORED[stored])
    pixels = np.asarray(decode(tmp_path / "image").image).astype(float)
    assert pixels.shape == (60, 80, 3) and np.ptp(pixels, 2).max() <= 3  # gray
    if stored == "1 bit, fax":  # dithered
        blocks = pixels[..., 0].reshape(6, 10, 8, 10).mean((1, 3))
        assert np.abs(blocks - RAMP.reshape(6, 10, 8, 10).mean((1, 3))).max() < 25
    else:
        assert np.abs(pixels - RGB).max() <= (4 if "jpeg" in stored else 1.5)


@pytest.mark.parametrize("light", [0, 64, 128, 255])
def test_lab(tmp_path, light):
    lab = np.zeros((60, 80, 3), np.uint8)  # in a TIFF a* and b* are signed bytes
    lab[..., 0] = light
    (tmp_path / "lab.tif").write_bytes(tiff(lab, photometric=8))
    share = light / 255  # CIE: L* of 100 → Y, by hand, and from there to sRGB's gray
    y = ((share * 100 + 16) / 116) ** 3 if share * 100 > 8 else share * 100 / 903.3
    gray = 255 * (1.055 * y ** (1 / 2.4) - 0.055 if y > 0.0031308 else 12.92 * y)
    assert np.abs(np.asarray(decode(tmp_path / "lab.tif").image).astype(float) - gray).max() <= 3


def test_transparency_of_few_bits_is_transparency(tmp_path):
    clear = np.concatenate([RGB * 16, np.where(np.arange(80)[None, :, None] < 40, 0, 4095) + 0 * OPAQUE], 2)
    (tmp_path / "a.png").write_bytes(png(clear, 6))
    pixels = np.asarray(decode(tmp_path / "a.png").image).astype(float)
    assert (pixels[:, :40] == 255).all() and np.abs(pixels[:, 40:] - RGB[:, 40:]).max() <= 1.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, value):
    values = (RAMP / 255).astype(np.float32)
    values[3, 3] = value
    (tmp_path / "a.tif").write_bytes(tiff(values, form=3))
    with pytest.raises(LapmlError, match="a.tif: cannot be read as an image .*not all finite"):
        decode(tmp_path / "a.tif")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_whole_numbers_keep_their_order_and_zero(values):
    found = levels._levels(np.array(values, np.uint32)).astype(int)
    bits = next(depth for depth in [8, 10, 12, 14, *range(16, 33)] if max(values) < 2**depth)
    assert found.tolist() == [round(255 * value / (2**bits - 1)) for value in values]
    assert max(found) >= 63 or max(values) < 64  # never nearly black by the number of its bits


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_sixteen_bits_that_are_used_are_as_they_were(values):
    """Packs of scans that use all their bits stay the same: 1/257, as before there was a range."""
    values = [*values, 40_000]
    assert levels._levels(np.array(values, np.uint16)).tolist() == [round(value / 257) for value in values]


def test_constant_images(tmp_path):
    for name, image in {"zero": np.zeros((4, 4), np.uint16), "below": np.full((4, 4), -5, np.int32)}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.tif")
        assert (np.asarray(decode(tmp_path / f"{name}.tif").image) == 0).all()


def test_an_image_turned_by_its_tag_is_scaled_and_turned(tmp_path):
    file: Path = tmp_path / "a.tif"
    Image.fromarray(u16(RAMP * 16)).save(file, tiffinfo={274: 3})
    pixels = np.asarray(decode(file).image).astype(float)
    assert np.abs(pixels - RGB[::-1, ::-1]).max() <= 1.5


def test_a_tiff_that_holds_less_than_it_declares_is_refused(tmp_path):
    """Pillow leaves black what no strip covers."""
    content = bytearray(tiff(RAMP.astype(np.uint8)))
    at = content.index(struct.pack("<HHII", 257, 4, 1, 60)) + 8
    content[at : at + 4] = struct.pack("<I", 90)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(LapmlError, match="a.tif: cannot be read as an image .it holds 80 x 60 pixels of 80 x 90"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_level_to_be_seen_through_is_white(bits, tmp_path):
    values = np.full((60, 80), 0x60 * 257 if bits == 16 else 0x60, np.uint16 if bits == 16 else np.uint8)
    values[:, :40] = 0
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    seen = decode(tmp_path / "a.png").image
    assert np.asarray(seen)[5, 5].tolist() == [255] * 3 and np.asarray(seen)[5, 60].max() < 255
