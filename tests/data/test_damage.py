"""JPEGs and PNGs that can be decoded although their data are damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from lapml.data import damage
from lapml.data.decode import decode
from lapml.errors import LapmlError


def picture(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:120, :160]
    noise = np.random.default_rng(0).normal(0, 12, (120, 160))
    channels = [128 + 80 * np.sin(x / 17) + noise, 128 + 80 * np.cos(y / 23) + noise, (x + y) % 256]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).convert(mode)


def jpeg(mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    picture(mode).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_sound_files_are_sound(tmp_path, mode, options):
    (tmp_path / "a.jpg").write_bytes(jpeg(mode, **options))
    assert damage.found(tmp_path / "a.jpg", "JPEG") == "" and decode(tmp_path / "a.jpg").size == (160, 120)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["ended early", "a piece is gone"])
def test_a_picture_that_would_end_in_gray_is_refused(tmp_path, mode, kind):
    data = jpeg(mode)
    half = len(data) // 2
    (tmp_path / "a.jpg").write_bytes(data[:half] + (b"\xff\xd9" if kind == "ended early" else data[half + 1500 :]))
    with pytest.raises(LapmlError, match=r"a\.jpg: cannot be read .*part of the picture is lost: Corrupt JPEG data"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(LapmlError, match="part of the picture is lost"):
        decode(tmp_path / "a.jpg", side=8)  # decoded at a smaller scale


def test_two_pictures_in_one_file_are_judged_as_one(tmp_path):
    """Of many phones: an MPO is a JPEG with another behind it."""
    file = tmp_path / "a.jpg"
    picture().save(file, "MPO", quality=90, save_all=True, append_images=[picture("L").convert("RGB")])
    with Image.open(file) as opened:
        assert opened.format == "MPO"
    assert damage.found(file, "MPO") == "" and decode(file).size == (160, 120)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 4] + b"\xff\xd9")  # half of the first
    for side in (None, 8):
        with pytest.raises(
            LapmlError, match=r"a\.jpg: cannot be read .*part of the picture is lost: Corrupt JPEG data"
        ):
            decode(file, side=side)


def test_a_gray_corner_alone_is_no_damage(tmp_path):
    image = picture()
    image.paste((128, 128, 128), (100, 60, 160, 120))
    image.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        opened.load()
        assert damage.ends_gray(opened, 160)
    assert decode(tmp_path / "a.jpg").size == (160, 120)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("kind", ["noise", "gone"])
def test_damage_within_is_found(tmp_path, options, kind):
    data = jpeg(**options)
    half = len(data) // 2
    noise = np.random.default_rng(1).integers(0, 255, 400, np.uint8).tobytes()  # without 0xff, which might end the data
    (tmp_path / "a.jpg").write_bytes(data[:half] + (noise if kind == "noise" else b"") + data[half + 400 :])
    assert damage.found(tmp_path / "a.jpg", "JPEG").startswith("Corrupt JPEG data")


def test_a_process_that_is_gone_is_replaced(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg()[:-900] + b"\xff\xd9")
    before = damage.libjpeg(tmp_path / "a.jpg")
    process = damage._idle.get()
    process.kill()
    process.wait()
    damage._idle.put(process)
    assert damage.libjpeg(tmp_path / "a.jpg") == before != ""


def test_names_of_any_kind(tmp_path):
    file = tmp_path / 'a "b"\n\\ü.jpg'
    file.write_bytes(jpeg()[:-900] + b"\xff\xd9")
    assert damage.libjpeg(file).startswith("Corrupt JPEG data")


def test_checksums_of_a_png(tmp_path):
    picture().save(tmp_path / "a.png")
    assert damage.found(tmp_path / "a.png", "PNG") == ""
    data = bytearray((tmp_path / "a.png").read_bytes())
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + size] ^= 1  # of the chunk's checksum, so that the picture itself is whole
    (tmp_path / "a.png").write_bytes(data)
    assert "checksum" in damage.found(tmp_path / "a.png", "PNG")
