"""The stage, whole: against a literal computation, in the stored square's frame, killed anywhere, and with bad input."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lapml.config.parts import Localise
from lapml.data import pack
from lapml.data.fetch import sources
from lapml.data.pack import Packed
from lapml.data.views import cut
from lapml.errors import LapmlError
from lapml.localise import extract, sheet, stage, store, work
from lapml.localise.objects import object_maps
from lapml.localise.parts import describe, part_maps
from lapml.localise.stage import localise, localise_images
from lapml.localise.store import FILES, Localised
from lapml.paths import Paths

CPU = torch.device("cpu")
SMALL = Localise(model="test_resnet", weights="none", side=192, parts=3, seed=0)
ABOUT = {"splits": ["train", "val"], "data_sha256": "d" * 64}
ROWS = np.array([1, 2, 4, 5, 6, 8, 9])


def index(count=10, size=(300, 200)) -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{row}.jpg" for row in range(count)], "width": size[0], "height": size[1]})


def picture(row: int, side: int) -> np.ndarray:
    """Noise, and a bright object at a place of the image's own."""
    rng = np.random.default_rng(row)
    image = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    x, y = rng.integers(side // 4, side // 2, 2)
    image[y : y + side // 3, x : x + side // 3] = rng.integers(150, 255, (side // 3, side // 3, 3))
    return image


def make(folder: Path, rows=ROWS, read=picture, settings=SMALL, **options) -> Localised:
    localise_images(index(), rows, read, folder, settings, ABOUT, CPU, progress=False, **options)
    return Localised.open(folder, ABOUT["data_sha256"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(work, "BLOCK", 2)
    monkeypatch.setattr(work, "EVERY", 0.0)  # a state after every block


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Localised:
    """Made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "BLOCK", 2)
        return make(tmp_path_factory.mktemp("whole") / "maps")


def stopped(folder: Path, at: str) -> None:
    """Made until ``work`` first calls this."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(work, at, lambda *_: (_ for _ in ()).throw(Killed))
        make(folder)


def same(one: Localised, other: Localised) -> bool:
    return one.meta["files"] == other.meta["files"] and one.meta["sha256"] == other.meta["sha256"]


class Killed(BaseException):
    pass


def test_against_a_literal_computation(tmp_path):
    """All features in memory, numpy's covariance and eigenvector, cells by loops."""
    made = make(tmp_path / "maps")
    extractor = extract.load("test_resnet", "none", CPU)
    cells = extractor(np.stack([picture(int(row), 192) for row in ROWS]))
    flat = cells.double().flatten(0, 1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    projected = ((flat - flat.mean(0)) @ vectors[:, -1]).reshape(len(ROWS), 6, 6) / values[-1] ** 0.5
    edge = np.ones((6, 6), bool)
    edge[1:5, 1:5] = False
    projected *= -np.sign(projected[:, edge].mean())
    np.testing.assert_allclose(made.objects, np.maximum(projected, 0), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(made.rows, ROWS)
    positive = cells.float().relu()
    maps = part_maps(positive, made.fitted)
    np.testing.assert_allclose(made.parts.reshape(len(ROWS), 3, -1), maps, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(made.strengths, made.parts.max((2, 3)), rtol=1e-3)
    expected = describe(positive, maps, made.fitted.projection)
    np.testing.assert_allclose(made.descriptors, expected, atol=2e-3)
    assert torch.allclose(object_maps(cells, made.axis).view(-1, 6, 6), torch.from_numpy(made.objects.astype(np.float32)),
                          rtol=2e-3, atol=1e-3)  # fmt: skip


def test_meta(tmp_path):
    made = make(tmp_path / "maps")
    meta = made.meta
    assert (meta["count"], meta["grid"], meta["parts"], meta["side"]) == (7, 6, 3, 192)
    assert meta["splits"] == ["train", "val"] and meta["settings"]["model"] == "test_resnet"
    assert meta["weights"]["source"] == "none" and meta["device"].startswith("CPU") and meta["seconds"] > 0
    assert {"torch", "timm", "scikit-learn", "numpy"} <= set(meta["versions"]) and meta["explained"] > 0
    assert sorted(file.name for file in (tmp_path / "maps").iterdir()) == sorted(FILES)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [".maps.kept", ".maps.lock", "maps"]  # nothing else, and the former takes no room of its own
    assert all((tmp_path / ".maps.kept" / name).samefile(tmp_path / "maps" / name) for name in FILES)


def test_blocks_and_threads_hardly_matter(tmp_path, monkeypatch):
    one = make(tmp_path / "one")
    monkeypatch.setattr(work, "BLOCK", 5)
    two = make(tmp_path / "two", threads=2)
    np.testing.assert_allclose(one.objects, two.objects, rtol=5e-3, atol=5e-3)


def test_one_image(tmp_path):
    made = make(tmp_path / "maps", rows=np.array([4]))
    assert made.objects.shape == (1, 6, 6) and made.objects.max() > 0
    assert np.isfinite(made.parts).all() and np.isfinite(made.descriptors).all()


def test_maps_lie_in_the_stored_squares_frame(tmp_path):
    """A wide image's object in the left upper corner is so in the map; and `cut` takes the map into a flipped view."""

    def read(row, side):
        image = picture(row, side)
        image[:] = image // 4
        image[side // 6 : side // 3, side // 6 : side // 2] = 250  # cell row 1, columns 1 and 2
        return image

    maps = make(tmp_path / "maps", read=read).objects.astype(np.float32)
    row, column = np.unravel_index(maps.mean(0).argmax(), (6, 6))
    assert row <= 2 and column <= 3
    windows = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]]).repeat(len(maps), 1)
    seen = cut(torch.from_numpy(maps)[..., None], windows, 6)[:, 0]
    np.testing.assert_allclose(seen, maps[:, :, ::-1], atol=1e-5)


# --- interruptions ---


PLACES = [
    (extract.Extractor, "_forward", 1), (extract.Extractor, "_forward", 3), (work, "dump", 2), (work, "dump", 4),
    (work.Moments, "add", 3), (work.saved, "save", 1), (work.saved, "save", 4), (work.saved, "save", 6), (work, "undump", 2),
    (work, "factorise", 1), (store.Growing, "begin", 3), (store.Growing, "write", 8), (store.Growing, "sync", 7),
    (work, "maps_of", 3), (work, "save_file", 1), (work, "write_json", 1), (work.os, "replace", 9), (work.os, "replace", 13),
    (work.shutil, "rmtree", 2),
]  # fmt: skip


@pytest.mark.parametrize(("where", "name", "times"), PLACES)
@pytest.mark.parametrize("before", [True, False])
def test_killed_anywhere_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, whole, where, name, times, before):
    """Before the call or after it."""
    calls, real = 0, getattr(where, name)

    def deadly(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == times and before:
            raise Killed
        made = real(*arguments, **options)
        if calls == times:
            raise Killed
        return made

    with monkeypatch.context() as patch:
        patch.setattr(where, name, deadly)
        with pytest.raises(Killed):
            make(tmp_path / "killed")
    made = make(tmp_path / "killed")
    assert same(made, whole)
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == sorted(FILES)
    assert not (tmp_path / ".killed.partial").exists()


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    stopped(tmp_path / "maps", "factorise")
    monkeypatch.setattr(extract.Extractor, "_forward", lambda *_: pytest.fail("forwarded again"))
    first = make(tmp_path / "maps").meta
    assert make(tmp_path / "maps").meta == first  # nor is a finished one made again


def test_maps_that_were_deleted_are_put_back_where_the_same_are_asked_for(tmp_path, monkeypatch):
    first = make(tmp_path / "maps").meta
    shutil.rmtree(tmp_path / "maps")  # as an orchestrator does
    (tmp_path / "maps/runs").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(extract.Extractor, "_forward", lambda *_: pytest.fail("forwarded again"))
        assert make(tmp_path / "maps").meta == first
    other = Localise(model="test_resnet", weights="none", side=224, parts=2, seed=0)
    shutil.rmtree(tmp_path / "maps")
    assert make(tmp_path / "maps", settings=other).meta["settings"]["parts"] == 2


def test_other_settings_begin_anew(tmp_path):
    stopped(tmp_path / "maps", "factorise")
    other = Localise(model="test_resnet", weights="none", side=224, parts=2, seed=0)
    made, expected = make(tmp_path / "maps", settings=other), make(tmp_path / "new", settings=other)
    assert made.meta["sha256"] == expected.meta["sha256"] and made.parts.shape == (7, 2, 7, 7)
    assert make(tmp_path / "maps").meta["grid"] == 6  # a finished one of other settings is replaced, and kept beside
    assert Localised.open(tmp_path / "maps.old-1").meta["sha256"] == made.meta["sha256"]


@pytest.mark.parametrize("name", ["features", "moments.pt", "fitted.pt"])
def test_damaged_leftovers_are_not_believed(tmp_path, whole, name):
    stopped(tmp_path / "maps", "maps_of")
    file = tmp_path / ".maps.partial" / name
    os.truncate(file, file.stat().st_size - 7)
    assert same(make(tmp_path / "maps"), whole)


CHILD = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from test_localise import work, make, SMALL
import numpy as np
work.BLOCK, work.EVERY = 2, 0.0
def slow(row, side, made={{}}):
    import time; time.sleep(0.05); print(row, flush=True)
    from test_localise import picture
    return picture(row, side)
make(Path({folder!r}), read=slow, rows=np.arange(10))
"""


def test_sigkill(tmp_path):
    """A real one, after the fifth image was read."""
    child = CHILD.format(here=str(Path(__file__).parent), folder=str(tmp_path / "maps"))
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "maps").exists()
    assert same(make(tmp_path / "maps", rows=np.arange(10)), make(tmp_path / "whole", rows=np.arange(10)))


# --- bad input ---


def test_features_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    real = extract.Extractor._forward
    monkeypatch.setattr(extract.Extractor, "_forward", lambda self, pixels: real(self, pixels) * 1e9)
    with pytest.raises(LapmlError, match=r"^1.jpg: test_resnet gives features that are not finite"):
        make(tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_features_that_are_all_alike_are_refused(tmp_path, monkeypatch, value):
    real = extract.Extractor._forward
    monkeypatch.setattr(extract.Extractor, "_forward", lambda self, pixels: real(self, pixels) * 0 + value)
    with pytest.raises(LapmlError, match="same features everywhere in all 7 images; check localise.weights"):
        make(tmp_path / "maps")


def test_an_image_without_features_has_no_object(tmp_path, monkeypatch):
    """All zero among others that are not: zeros, not NaN."""
    real = extract.Extractor._forward
    monkeypatch.setattr(
        extract.Extractor,
        "_forward",
        lambda self, pixels: real(self, pixels) * (pixels.amax((1, 2, 3)) > 0)[:, None, None],
    )
    made = make(tmp_path / "maps", read=lambda row, side: picture(row, side) * (row != 4))
    place = made.places(np.array([4]))[0]
    assert not made.parts[place].any() and not made.descriptors[place].any() and not made.strengths[place].any()
    assert np.isfinite(made.objects).all() and made.descriptors.any()


def test_no_images(tmp_path):
    with pytest.raises(LapmlError, match=r"found no image in train \+ val"):
        make(tmp_path / "maps", rows=np.array([], int))


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(work.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(LapmlError, match="the features of the images left need about .* GB, found 0.0 GB free"):
        make(tmp_path / "maps")


def test_progress_shows_the_time_left(tmp_path, capsys):
    localise_images(index(), ROWS, picture, tmp_path / "maps", SMALL, ABOUT, CPU, progress=True, name="birds")
    shown = capsys.readouterr().err
    assert "localise birds" in shown and "7/7" in shown and "img/s" in shown and "maps birds" in shown


# --- a prepared data set ---


@pytest.fixture
def prepared(small_params, tmp_path):
    params = small_params(
        "data.birds.synthetic.classes=2", "data.birds.synthetic.train_images=4", "data.birds.synthetic.test_images=1",
        "data.birds.synthetic.side=64", "data.birds.stored_side=64", "data.birds.classes=all",
    )  # fmt: skip
    paths, data = Paths("demo", tmp_path), params.data["birds"]
    sources.fetch("birds", data, paths)
    pack.prepare("birds", data, paths, progress=False)
    return data, paths


def test_a_data_set(prepared):
    data, paths = prepared
    packed, folder = Packed.open(paths.pack("birds")), paths.localised("birds")
    meta = localise("birds", data, paths, ["train"], folder, SMALL, CPU, progress=False)
    made = Localised.open(folder, packed.meta["sha256"])
    assert made.meta == meta and meta["splits"] == ["train"]
    np.testing.assert_array_equal(made.rows, np.flatnonzero(packed.index["split"] == "train"))
    _, root = sources.laid_out("birds", paths)
    extractor = extract.load("test_resnet", "none", CPU)
    for place, row in enumerate(made.rows):  # of the source images, squashed, not of the pack
        with Image.open(root / "images" / packed.index["path"][row]) as image:
            pixels = np.array(image.convert("RGB").resize((192, 192), Image.Resampling.LANCZOS))
        expected = object_maps(extractor(pixels[None]), made.axis).view(6, 6)
        np.testing.assert_allclose(made.objects[place], expected, rtol=5e-3, atol=5e-3)


def test_the_sheet_draws_maps_in_the_frame_of_boxes():
    """Pixel i of an image lies between i and i + 1."""
    left, right = Figure().subplots(1, 2)
    found = np.zeros((1, 4, 4), np.float16)
    found[0, 1, 2] = 1.0
    image = picture(0, 64)
    sheet._object(left, image, found[0])
    sheet._parts(right, image, found)
    assert all(axis.images[0].get_extent() == [0, 64, 64, 0] for axis in (left, right))
    (peak,) = right.lines
    assert (peak.get_xdata()[0], peak.get_ydata()[0]) == (2.5 * 16, 1.5 * 16)  # the centre of its cell
    (contour,) = right.collections
    around = contour.get_paths()[0].get_extents()
    np.testing.assert_allclose(((around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2), (40, 24), atol=1e-3)


def test_sources_that_changed_are_refused(prepared):
    data, paths = prepared
    folder, (_, root) = paths.localised("birds"), sources.laid_out("birds", paths)
    index = Packed.open(paths.pack("birds")).index
    file = root / "images" / index["path"][int(np.flatnonzero(index["split"] == "train")[0])]
    whole = file.read_bytes()
    with Image.open(file) as image:
        form, size = image.format, image.size
    Image.new("RGB", (9, 9)).save(file, form)
    with pytest.raises(
        LapmlError, match=rf"{file.name}: found 9×9 px, expected the {size[0]}×{size[1]} that were packed"
    ):
        localise("birds", data, paths, ["train"], folder, SMALL, CPU, progress=False)
    file.write_bytes(b"")
    with pytest.raises(LapmlError, match=rf"{file.name}: cannot be read as an image"):
        localise("birds", data, paths, ["train"], folder, SMALL, CPU, progress=False)
    file.write_bytes(whole)
    boxes = root / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace(" ", "  ", 1))
    with pytest.raises(LapmlError, match="holds other data .* than were fetched .*; run `lapml data fetch birds`"):
        localise("birds", data, paths, ["train"], folder, SMALL, CPU, progress=False)


def test_a_folder_that_cannot_be_written(prepared, monkeypatch):
    data, paths = prepared

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "localise_images", full)
    with pytest.raises(LapmlError, match="birds: cannot be written .*No space left"):
        localise("birds", data, paths, ["train"], paths.localised("birds"), SMALL, CPU)
