"""Packing: pixels, geometry, every image mode, every bad file, and packs that are not whole."""

import fcntl
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapml import __version__
from lapml.data import decode, index, pack
from lapml.data.fetch import sources
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import PACK_FILES, Paths

ROOT = Path(__file__).resolve().parents[2]


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
    monkeypatch.setattr(decode, "cores", lambda: count)
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


def test_floating_point_image_goes_from_zero_to_one(cub, packed):
    cub.pictures[cub.path(3)] = _encode(Image.new("F", (40, 30), 0.5), "TIFF")
    assert np.abs(packed().images[2].astype(int) - 128).max() <= 1


# --- geometry ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_box_and_parts_alike(cub, packed, orientation, form):
    """The box is white and the part green in the stored image: they must be so in the packed one, too."""
    stored = Image.new("RGB", (80, 48), (60, 0, 0))
    stored.paste((250, 250, 250), (8, 4, 40, 28))
    stored.paste((0, 250, 0), (16, 12, 32, 20))
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
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
def test_bad_image_is_named_and_no_pack_appears(cub, paths, packed, kind):
    cub.pictures[cub.path(8)] = bad_contents(cub.pictures[cub.path(8)])[kind]
    with pytest.raises(LapmlError, match=r"002\.Green_Finch/bird 1\.png: cannot be read as an image \(.+\)"):
        packed()
    assert not paths.pack("birds").exists()


def test_an_image_that_is_too_large_for_pillow_says_so(cub, packed, monkeypatch):
    cub.pictures[cub.path(8)] = _encode(Image.new("RGB", (1000, 2001)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    message = r"bird 1\.png: cannot be read as an image \(more pixels than Pillow opens, 2 million\); make it smaller$"
    with pytest.raises(LapmlError, match=message):
        packed()


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
    assert not paths.pack("birds").exists()


def test_disk_full(paths, packed, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack.pq, "write_table", full)
    with pytest.raises(LapmlError, match="packed: cannot be written .*No space left"):
        packed()


def test_not_fetched(cub, paths, settings):
    data = settings(cub.write())
    with pytest.raises(LapmlError, match=r"source.json: missing; run `lapml data fetch birds`"):
        pack.prepare("birds", data, paths)
    sources.fetch("birds", data, paths)
    cub.root.rename(cub.root.with_name("gone"))
    with pytest.raises(LapmlError, match="no such folder, though it was fetched from there"):
        pack.prepare("birds", data, paths)


# --- resuming ---


def count_squares(monkeypatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    names = []
    original = pack.square

    def counted(file, *options):
        names.append(file.name)
        return original(file, *options)

    monkeypatch.setattr(pack, "square", counted)
    return names


def test_what_is_packed_stays_packed(cub, paths, settings, packed, monkeypatch, repack):
    """A bad image in the middle: after it is mended only it and what follows is decoded, to the same bytes."""
    expected = packed().meta
    good, cub.pictures[cub.path(8)] = cub.pictures[cub.path(8)], b"no image"
    monkeypatch.setattr(decode, "cores", lambda: 1)
    partial = paths.pack("birds").parent / ".packing"
    for _ in range(2):
        with pytest.raises(LapmlError, match="bird 1.png"):
            packed()
        assert (partial / "seen").stat().st_size == 7 * pack.SEEN.itemsize
    cub.pictures[cub.path(8)] = good
    names = count_squares(monkeypatch)
    (cub.root / "images" / cub.path(8)).write_bytes(good)
    with pytest.raises(
        LapmlError, match="holds other data .*; run `lapml data fetch birds`, which takes them as they are"
    ):
        repack()
    sources.fetch("birds", settings(cub.root), paths)
    again = repack()
    assert len(names) == 11 and again == expected
    assert not partial.exists()


@pytest.fixture
def repack(cub, paths, settings):
    """Prepare once more without touching the files; the pack's meta."""

    def made() -> dict:
        pack.prepare("birds", settings(cub.root), paths, progress=False)
        return Packed.open(paths.pack("birds")).meta

    return made


def test_an_image_that_was_replaced_is_packed_again(cub, paths, packed, monkeypatch):
    cub.pictures[cub.path(18)] = b"no image"
    with pytest.raises(LapmlError):
        packed()
    cub.pictures[cub.path(18)] = cub.encode(Image.new("RGB", (40, 30), "white"))
    cub.pictures[cub.path(3)] = cub.encode(Image.new("RGB", (44, 30), "black"))
    made = packed()
    assert (made.images[2] == 0).all() and made.index["width"][2] == 44 and (made.images[17] == 255).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from lapml import config
from lapml.data import decode, pack
from lapml.data.fetch import sources
from lapml.paths import Paths
root, kill_after = Path(sys.argv[1]), int(sys.argv[2])
decode.cores = lambda: 1
class Bar(pack.tqdm):  # told of each square that is written
    def update(self, n=1):
        global kill_after
        kill_after -= 1
        if kill_after == 0:
            os.kill(os.getpid(), signal.SIGKILL)
pack.tqdm = Bar
params = config.load("params.yaml", ["data.birds.synthetic.classes=3", "data.birds.synthetic.train_images=3",
    "data.birds.synthetic.test_images=1", "data.birds.synthetic.side=32", "data.birds.stored_side=64"])
data, paths = params.data["birds"], Paths("demo", root)
sources.fetch("birds", data, paths)
pack.prepare("birds", data, paths)
print("done")
"""


def test_killed_and_taken_up_again(tmp_path):
    """SIGKILL after 1, 5 and 11 of 12 squares; what the last attempt ends with equals an undisturbed pack."""
    contents = {}
    for name, kills in (("undisturbed", []), ("killed", [1, 4, 6])):
        root = tmp_path / name
        root.mkdir()
        for kill in [*kills, 10**9]:
            command = [sys.executable, "-c", KILLED, str(root), str(kill)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == (-9 if kill < 10**9 else 0), done.stderr
        contents[name] = [(Paths("demo", root).pack("birds") / file).read_bytes() for file in PACK_FILES]
    assert contents["killed"] == contents["undisturbed"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "zeros"])
def test_squares_that_a_crash_has_spoilt_are_packed_again(cub, paths, packed, monkeypatch, damage, repack):
    expected = packed().meta
    monkeypatch.setattr(decode, "cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            packed()
    images = paths.pack("birds").parent / ".packing/images.u8"
    content, row = bytearray(images.read_bytes()), 16 * 16 * 3
    assert len(content) == 18 * row
    if damage == "cut":
        content = content[: 11 * row - 1]
    else:
        content[10 * row] = (content[10 * row] + 1) % 256 if damage == "flipped" else 0
        content[10 * row + 1 : 11 * row] = content[10 * row + 1 : 11 * row] if damage == "flipped" else bytes(row - 1)
    images.write_bytes(content)
    names = count_squares(monkeypatch)
    assert repack() == expected and len(names) == 8


def test_other_settings_start_over(cub, paths, packed, monkeypatch, repack):
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            packed(stored_side=32)
    names = count_squares(monkeypatch)
    repack()
    assert len(names) == 18


@pytest.mark.parametrize("step", [1, 2, 3, "rmtree"])
def test_a_stop_while_the_pack_is_put_in_place(cub, paths, packed, monkeypatch, step, repack):
    """Whatever was moved by then, the next attempt makes the same pack."""
    expected = packed().meta
    moves = []

    def replace(*names):
        moves.append(names)
        if len(moves) == step:
            raise KeyboardInterrupt
        os_replace(*names)

    os_replace = pack.os.replace
    with monkeypatch.context() as patch:
        if step == "rmtree":
            patch.setattr(pack.shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patch.setattr(pack.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            repack()
    assert repack() == expected


def test_a_pack_of_other_settings_is_refused(paths, packed, settings):
    packed()
    Packed.open(paths.pack("birds"), settings("x"))
    with pytest.raises(
        LapmlError, match="was made with stored_side 16, expected data.birds.stored_side: 32; make it again"
    ):
        Packed.open(paths.pack("birds"), settings("x", stored_side=32))
    with pytest.raises(LapmlError, match="was made with classes 'all', expected data.birds.classes: '1-2'"):
        Packed.open(paths.pack("birds"), settings("x", classes="1-2"))


def test_one_process_at_a_time(cub, paths, packed):
    lock = paths.pack("birds").with_name(".packing.lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LapmlError, match="another process is packing"):
            packed()
    assert len(packed().index) == 18


def test_too_little_room(paths, packed, monkeypatch):
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 18 * 16 * 16 * 3 - 1}))
    with pytest.raises(LapmlError, match="18 squares of side 16 need .* GB, found .* GB free"):
        packed()


# --- scaled decoding ---


@pytest.mark.parametrize(
    ("width", "height"), [(1600, 1200), (1601, 1203), (1207, 1601), (3001, 2003), (401, 403), (191, 300), (200, 200)]
)
def test_large_jpeg_is_decoded_smaller_and_hardly_differs(tmp_path, width, height):
    from lapml.config import Synthetic
    from lapml.data.synthetic.birds import render
    from lapml.data.synthetic.species import species

    drawn = Synthetic(classes=2, train_images=2, test_images=1, side=1024, seed=0, nuisance=0.8)
    picture = render(species(1), np.random.default_rng(3), drawn.side, drawn.nuisance).image.resize((width, height))
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    for name, options in (("plain", {}), ("turned", {"exif": exif}), ("gray", {})):
        file = tmp_path / f"{name}.jpg"
        (picture.convert("L") if name == "gray" else picture).save(file, quality=90, **options)
        pixels, (w, h, _) = decode.square(file, 64)
        assert (w, h) == ((height, width) if name == "turned" else (width, height))
        with Image.open(file) as image:
            whole = image.convert("RGB")
        whole = whole.transpose(Image.Transpose.ROTATE_270) if name == "turned" else whole
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.LANCZOS), float)
        difference = np.abs(np.frombuffer(pixels, np.uint8).reshape(64, 64, 3) - expected).mean()
        scaled = decode.decode(file, side=64).image.size != whole.size
        assert scaled == (min(width, height) >= 2 * decode.GAP * 64)
        assert difference < 0.5 if scaled else difference == 0


def test_banner_is_cut_and_the_box_with_it(tmp_path):
    picture = Image.new("RGB", (50, 60), "white")
    picture.paste((255, 0, 0), (0, 40, 50, 60))
    picture.save(tmp_path / "plane.png")
    decoded = decode.decode(tmp_path / "plane.png", banner=20)
    assert decoded.size == decoded.image.size == (50, 40) and np.asarray(decoded.image).min() == 255
    row = {"box": [5.0, 10.0, 20.0, 45.0], "parts": None}
    assert decode.upright(row, 50, 40, 1, banner=20)["box"] == [5.0, 10.0, 20.0, 30.0]
    row = {"box": [5.0, 10.0, 20.0, 30.0], "parts": None}
    assert decode.upright(row, 50, 40, 1, banner=20)["box"] == row["box"]
    Image.new("RGB", (50, 20)).save(tmp_path / "low.png")
    with pytest.raises(LapmlError, match="its 20 rows are no more than the banner of 20"):
        decode.decode(tmp_path / "low.png", banner=20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_banner_of_a_turned_image(orientation):
    """The banner is at the bottom of the picture as seen; the box keeps its place on the object."""
    box, width, height, banner = [3.0, 4.0, 10.0, 6.0], 40, 30, 5  # upright, banner included: 40 × 35
    corners = np.array([[3, 4], [13, 10]], float)
    turned_back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    stored_size = (35, 40) if orientation >= 5 else (40, 35)
    stored = decode.points_upright(corners, *stored_size, turned_back)
    x, y = stored.min(0)
    w, h = np.abs(stored[1] - stored[0])
    row = decode.upright({"box": [x, y, w, h], "parts": None}, width, height, orientation, banner)
    assert row["box"] == box


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


def test_images_without_a_box_are_refused_where_methods_want_boxes(cub, paths, packed, settings, monkeypatch):
    packed()
    data, before, read = settings(cub.write()), (paths.pack("birds") / "meta.json").read_bytes(), index.read
    pack.prepare("birds", data, paths, progress=False, boxed=["oracle"])  # all have one

    def without(*given):
        table = read(*given)
        table.at[3, "box"] = None
        return table

    monkeypatch.setattr(index, "read", without)
    said = r"data set birds: 001.Red_Finch/bird 3.png has no box \(1 of 18 images have none\), .* by which oracle mixes"
    with pytest.raises(LapmlError, match=said):
        pack.prepare("birds", data, paths, progress=False, boxed=["oracle"])
    assert (paths.pack("birds") / "meta.json").read_bytes() == before
    pack.prepare("birds", data, paths, progress=False)
