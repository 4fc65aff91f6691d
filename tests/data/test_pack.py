"""Packing: pixels, geometry, every image mode, every bad file, and packs that are not whole."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from lapml import __version__
from lapml.data import index, pack, sources
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import PACK_FILES, Paths


@pytest.fixture
def packed(cub, paths, settings):
    """Pack ``cub`` as it is now; the settings may be changed."""

    def made(**changes) -> Packed:
        data = settings(cub.write(), **changes)
        sources.fetch("birds", data, paths)
        pack.prepare("birds", data, paths, progress=False)
        return Packed.open(paths.pack("birds"))

    return made


def row_of(made: Packed, path: str) -> int:
    return made.index.index[made.index["path"] == path].item()


def test_pack(cub, paths, packed):
    made = packed()
    assert made.images.shape == (18, 16, 16, 3) and made.images.dtype == np.uint8 and not made.images.flags.writeable
    assert tuple(made.index.columns) == index.COLUMNS and made.index["path"].is_monotonic_increasing
    for image in (1, 9, 18):
        row = row_of(made, cub.path(image))
        with Image.open(cub.root / "images" / cub.path(image)) as picture:
            expected = np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(made.images[row], expected)
        assert made.index.loc[row, ["width", "height"]].tolist() == [40, 30]
        assert made.index["box"][row] == [10.0, 5.0, 20.0, 15.0]
        assert made.index["parts"][row] == [[12.0, 6.5, 1.0], [0.0, 0.0, 0.0]]
    assert sorted(file.name for file in paths.pack("birds").iterdir()) == sorted(PACK_FILES)


def test_meta(paths, packed):
    made = packed()
    meta, content = made.meta, (paths.pack("birds") / "images.u8").read_bytes()
    assert meta["count"] == 18 and meta["side"] == 16 and meta["classes"] == 3 and meta["parts"] == ["beak", "tail"]
    assert meta["class_names"] == made.class_names == ["001.Red_Finch", "002.Green_Finch", "003.Blue_Finch"]
    assert meta["splits"] == {"train": 9, "val": 3, "test": 6} and meta["lapml"] == __version__
    assert meta["source"]["kind"] == "folder" and meta["source"]["images"] == 18 and "root" not in meta["source"]
    assert meta["images_sha256"] == hashlib.sha256(content).hexdigest()
    both = f"{meta['images_sha256']} {meta['index_sha256']}"
    assert meta["sha256"] == hashlib.sha256(both.encode()).hexdigest()


def test_checksum_follows_pixels_and_index_but_not_the_place(cub, paths, packed, settings):
    first = packed().meta
    cub.root = cub.root.with_name("moved")
    assert packed().meta["sha256"] == first["sha256"]
    assert packed(split_seed=1).meta["images_sha256"] == first["images_sha256"]
    assert packed(split_seed=1).meta["sha256"] != first["sha256"]
    cub.lines["bounding_boxes.txt"][0] = "1 10.0 5.0 20.0 15.5"
    assert packed().meta["sha256"] != first["sha256"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_same_bytes_whatever_the_cores(paths, packed, monkeypatch, count):
    packed()
    before = [(paths.pack("birds") / file).read_bytes() for file in PACK_FILES]
    monkeypatch.setattr(pack, "cores", lambda: count)
    packed()
    assert [(paths.pack("birds") / file).read_bytes() for file in PACK_FILES] == before


# --- modes ---


def _encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 20, 30))
    return _encode(image, transparency=0) if transparent else _encode(image)


def half_clear(mode: str) -> bytes:
    """Black; the left half transparent, the right half opaque."""
    image = Image.new(mode, (40, 30), 0)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 20 + [255] * 20]), 30, 0)))
    return _encode(image)


WHITE, BLACK, RED, BLUE, GRAY = (255,) * 3, (0,) * 3, (255, 0, 0), (0, 0, 255), (128,) * 3
MODES = {  # file → colours expected left and right
    "gray": (_encode(Image.new("L", (40, 30), 128)), GRAY, GRAY),
    "gray jpeg": (_encode(Image.new("L", (40, 30), 128), "JPEG"), GRAY, GRAY),
    "1-bit": (_encode(Image.new("1", (40, 30), 1)), WHITE, WHITE),
    "RGBA": (half_clear("RGBA"), WHITE, BLACK),
    "LA": (half_clear("LA"), WHITE, BLACK),
    "palette": (palette(False), RED, BLUE),
    "palette, transparent": (palette(True), WHITE, BLUE),
    "palette, gif": (_encode(Image.new("P", (40, 30), 0), "GIF"), BLACK, BLACK),
    "RGB, transparent colour": (_encode(Image.new("RGB", (40, 30), RED), transparency=RED), WHITE, WHITE),
    "16-bit": (_encode(Image.fromarray(np.full((30, 40), 128 * 257, np.uint16))), GRAY, GRAY),
    "16-bit tiff": (_encode(Image.fromarray(np.full((30, 40), 65535, np.uint16)), "TIFF"), WHITE, WHITE),
    "32-bit tiff": (_encode(Image.fromarray(np.full((30, 40), 128 * 257, np.int32)), "TIFF"), GRAY, GRAY),
    "CMYK": (_encode(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG", quality=100), RED, RED),
    "CMYK tiff": (_encode(Image.new("CMYK", (40, 30), (0, 0, 0, 255)), "TIFF"), BLACK, BLACK),
    "YCbCr jpeg": (_encode(Image.new("RGB", (40, 30), BLUE), "JPEG", quality=100), BLUE, BLUE),
}


@pytest.mark.parametrize("mode", MODES)
def test_mode(cub, packed, mode):
    content, left, right = MODES[mode]
    cub.pictures[cub.path(3)] = content
    image = packed().images[2].astype(int)
    assert np.abs(image[:, :6] - left).max() <= 2 and np.abs(image[:, 10:] - right).max() <= 2


def test_floating_point_image_is_refused(cub, packed):
    cub.pictures[cub.path(3)] = _encode(Image.new("F", (40, 30), 0.5), "TIFF")
    with pytest.raises(LapmlError, match="bird 2.png: .*floating-point"):
        packed()


# --- geometry ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_box_and_parts_alike(cub, packed, orientation, form):
    """The box is white and the part green in the stored image: they must be so in the packed one, too."""
    stored = Image.new("RGB", (80, 48), (60, 0, 0))
    stored.paste((250, 250, 250), (8, 4, 40, 28))
    stored.paste((0, 250, 0), (16, 12, 32, 20))
    exif = Image.Exif()
    exif[pack.ORIENTATION] = orientation
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    cub.pictures[cub.path(1)] = cub.encode(stored, form, exif=exif, **options)
    cub.lines["bounding_boxes.txt"][0] = "1 8 4 32 24"
    cub.lines["parts/part_locs.txt"][0] = "1 1 24 16 1"
    made = packed(stored_side=32)
    row = made.index.iloc[0]
    assert (row["width"], row["height"]) == ((48, 80) if orientation >= 5 else (80, 48))
    x, y, w, h = row["box"]
    assert (w, h) == ((24, 32) if orientation >= 5 else (32, 24))
    scale = 32 / np.array([row["width"], row["height"]])
    (left, top), (right, bottom) = np.rint([x, y] * scale).astype(int), np.rint([x + w, y + h] * scale).astype(int)
    bright = made.images[0][..., 1] > 125
    inside = np.zeros((32, 32), bool)
    inside[top:bottom, left:right] = True
    assert (bright != inside).mean() < 0.02
    px, py = (np.array(row["parts"][0][:2]) * scale).astype(int)
    assert made.images[0][py, px, 1] > 200 and made.images[0][py, px, 0] < 60
    assert row["parts"][1] == [0.0, 0.0, 0.0]  # hidden: stays


def test_box_outside_stays(cub, packed):
    cub.lines["bounding_boxes.txt"][0] = "1 -3 5 60 30"
    cub.lines["parts/part_locs.txt"][0] = "1 1 12 31.5 1"
    row = packed().index.iloc[0]
    assert row["box"] == [-3.0, 5.0, 60.0, 30.0] and row["parts"][0] == [12.0, 31.5, 1.0]


def test_broken_exif_does_no_harm(cub, packed):
    cub.pictures[cub.path(1)] = cub.encode(Image.new("RGB", (40, 30), RED), "JPEG", exif=b"Exif\0\0nonsense")
    assert packed().index["width"][0] == 40


def test_one_pixel_and_extreme_shapes(cub, packed):
    for image, size in enumerate([(1, 1), (1, 500), (500, 1)], 1):
        cub.pictures[cub.path(image)] = cub.encode(Image.new("RGB", size, RED))
    assert (packed().images[:3] == RED).all()


# --- bad files ---


def bad_contents(good: bytes) -> dict[str, bytes]:
    jpeg = _encode(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")
    return {
        "empty": b"",
        "truncated png": good[:-40],
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "text": b"no image at all",
    }


@pytest.mark.parametrize("kind", ["empty", "truncated png", "truncated jpeg", "text"])
def test_bad_image_is_named_and_nothing_stays(cub, paths, packed, kind):
    cub.pictures[cub.path(8)] = bad_contents(cub.pictures[cub.path(8)])[kind]
    with pytest.raises(LapmlError, match=r"002\.Green_Finch/bird 1\.png: cannot be read as an image \(.+\)"):
        packed()
    assert not list(paths.pack("birds").iterdir())


def test_failure_leaves_the_old_pack(cub, paths, packed):
    before = packed().meta
    cub.pictures[cub.path(8)] = b""
    with pytest.raises(LapmlError):
        packed()
    assert Packed.open(paths.pack("birds")).meta == before
    assert sorted(file.name for file in paths.pack("birds").iterdir()) == sorted(PACK_FILES)


def test_interrupt_leaves_nothing(cub, paths, packed, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack.pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed()
    assert not list(paths.pack("birds").iterdir())


def test_disk_full(paths, packed, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack.pq, "write_table", full)
    with pytest.raises(LapmlError, match="packed: cannot be written .*No space left"):
        packed()


def test_not_fetched(cub, paths, settings):
    data = settings(cub.write())
    with pytest.raises(LapmlError, match=r"source.json: missing .*`lapml data fetch birds`"):
        pack.prepare("birds", data, paths)
    sources.fetch("birds", data, paths)
    cub.root.rename(cub.root.with_name("gone"))
    with pytest.raises(LapmlError, match="no such folder, though .*source.json names it"):
        pack.prepare("birds", data, paths)


# --- opening ---


@pytest.mark.parametrize("file", PACK_FILES)
def test_open_without_a_file(paths, packed, file):
    packed()
    (paths.pack("birds") / file).unlink()
    with pytest.raises(LapmlError, match=f"{file}: no such file.*`lapml data prepare birds`"):
        Packed.open(paths.pack("birds"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.u8", b"12", "found 2 bytes, expected 13824"),
        ("images.u8", b"", "found 0 bytes"),
        ("meta.json", b"{", "broken"),
        ("meta.json", b"[]", "broken"),
        ("index.parquet", b"PAR1", "broken"),
        ("index.parquet", b"", "broken"),
    ],
)
def test_open_with_a_broken_file(paths, packed, file, content, message):
    packed()
    (paths.pack("birds") / file).write_bytes(content)
    with pytest.raises(LapmlError, match=message):
        Packed.open(paths.pack("birds"))


def test_open_with_files_of_two_packs(paths, packed):
    packed()
    meta = (paths.pack("birds") / "meta.json").read_bytes()
    packed(split_seed=1)
    (paths.pack("birds") / "meta.json").write_bytes(meta)
    with pytest.raises(LapmlError, match="is not the table that meta.json describes"):
        Packed.open(paths.pack("birds"))
    (paths.pack("birds") / "meta.json").write_text(json.dumps(json.loads(meta) | {"count": 17}))
    with pytest.raises(LapmlError, match="found 13824 bytes, expected 13056"):
        Packed.open(paths.pack("birds"))


@pytest.mark.real
def test_real_sparrows(tmp_path, settings, real_cub):
    folder = real_cub
    data, paths = settings(folder, classes="113-133", stored_side=32), Paths("test", tmp_path)
    sources.fetch("sparrows", data, paths)
    pack.prepare("sparrows", data, paths)
    made = Packed.open(paths.pack("sparrows"))
    assert len(made.class_names) == 21 and made.meta["splits"]["test"] == (made.index["split"] == "test").sum() > 600
    assert made.images.reshape(len(made.index), -1).std(1).min() > 1  # no blank image
