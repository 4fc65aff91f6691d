"""Where a data set comes from: folders, archives, downloads, the drawing; and every bad one of them."""

import dataclasses
import fcntl
import functools
import hashlib
import http.server
import json
import os
import shutil
import tarfile
import threading
import zipfile

import pytest

from lapml.config import Synthetic, digest
from lapml.data.fetch import archives, download, laying, sources
from lapml.data.readers import cub200, reader
from lapml.data.synthetic import birds as synthetic
from lapml.data.synthetic import layouts
from lapml.errors import LapmlError

DRAWN = Synthetic(classes=2, train_images=4, test_images=1, side=32, seed=0, nuisance=0.5)


def record(paths, name="birds"):
    return json.loads(paths.place(name).read_text())


def root_of(paths, name="birds"):
    return paths.root / record(paths, name)["root"]


def in_data(paths):
    """What lies in data/, locks left out: no temporary folder may stay."""
    return sorted(entry.name for entry in (paths.root / "data").glob("*") if not entry.name.endswith(".lock"))


def archive(cub, kind: str, below: str = "CUB_200_2011"):
    """An archive beside the folder, with everything in the folder ``below``."""
    file = cub.write().parent / f"cub.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            for path in sorted(cub.root.rglob("*")):
                made.write(path, f"{below}/{path.relative_to(cub.root)}")
    else:
        with tarfile.open(file, "w" if kind == "tar" else "w:gz") as made:
            made.add(cub.root, below)
    return file


@pytest.fixture
def served(tmp_path):
    """A folder served over http on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("down", [False, True])
def test_folder_is_used_in_place(cub, paths, settings, down):
    root = cub.write()
    sources.fetch("birds", settings(root.parent if down else root), paths)
    count, checksum = cub200.fingerprint(root)
    expected = {"root": str(root.resolve()), "kind": "folder", "source": str(root.parent if down else root)}
    assert expected.items() <= record(paths).items()
    what = json.loads(paths.source("birds").read_text())
    assert what == record(paths)["contents"] and (what["images"], what["annotations_sha256"]) == (count, checksum)
    assert [file.name for file in paths.source("birds").parent.iterdir()] == ["source.json"]


def test_folder_inside_the_project_is_relative(cub, paths, settings):
    cub.root = paths.root / "mine" / "cub"
    cub.write()
    sources.fetch("birds", settings("mine"), paths)
    assert record(paths)["root"] == "mine/cub"


def test_folder_without_or_with_two_sets(cub, paths, settings):
    with pytest.raises(LapmlError, match="no such folder or archive .* LAPML_BIRDS"):
        sources.fetch("birds", settings(cub.root), paths)
    (cub.root / "empty").mkdir(parents=True)
    for number in range(9):
        (cub.root / f"{number}.jpg").touch()
    with pytest.raises(
        LapmlError, match="expected the layout of CUB-200-2011 .* found none; at its top is 0.jpg, .*7.jpg, …; set"
    ):
        sources.fetch("birds", settings(cub.root), paths)
    for name in ("b", "a/deeper"):
        (cub.root / name).mkdir(parents=True)
        (cub.root / name / "images.txt").touch()
    with pytest.raises(LapmlError, match="holds CUB-200-2011 2 times: .*a/deeper, .*b; set"):
        sources.fetch("birds", settings(cub.root), paths)
    assert not paths.source("birds").exists()


@pytest.mark.parametrize(("down", "there"), [("a", True), ("a/b", True), ("a/b/c", False), (".hidden", False)])
def test_root_lies_two_folders_down_at_most(cub, paths, settings, tmp_path, down, there):
    cub.root = tmp_path / "given" / down
    cub.write()
    if there:
        sources.fetch("birds", settings(tmp_path / "given"), paths)
        assert record(paths)["root"] == str(cub.root)
    else:
        with pytest.raises(LapmlError, match="found none"):
            sources.fetch("birds", settings(tmp_path / "given"), paths)


def test_root_is_counted_once(cub, paths, settings, tmp_path):
    cub.root = tmp_path / "given" / "cub"
    cub.write()
    (tmp_path / "given" / "latest").symlink_to("cub")
    shutil.copytree(cub.root, cub.root / "old")  # below a root is no other
    sources.fetch("birds", settings(tmp_path / "given"), paths)
    assert record(paths)["root"] == str(cub.root)


def test_root_behind_a_link(cub, paths, settings, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "cub").symlink_to(cub.write())
    sources.fetch("birds", settings(tmp_path / "given"), paths)
    assert record(paths)["root"] == str(cub.root)


def test_user_that_is_not_there(paths, settings):
    with pytest.raises(LapmlError, match="no such folder or archive"):
        sources.fetch("birds", settings("~nobody-of-this-name/cub"), paths)


def test_environment_variable_overrides(cub, paths, settings, monkeypatch):
    monkeypatch.setenv("LAPML_MY_BIRDS", str(cub.write()))
    sources.fetch("my-birds", settings("/nowhere"), paths)
    assert record(paths, "my-birds")["source"] == str(cub.root)


@pytest.mark.parametrize("kind", ["tgz", "tar.gz", "tar", "zip"])
def test_archive(cub, paths, settings, kind):
    file = archive(cub, kind)
    sources.fetch("birds", settings(file), paths)
    assert record(paths)["root"] == "data/birds/CUB_200_2011" and record(paths)["kind"] == "archive"
    assert len(cub200.read(root_of(paths), "all")) == 18
    assert in_data(paths) == ["birds"]


def test_archive_is_unpacked_once_and_again_when_it_changes(cub, paths, settings):
    file = archive(cub, "tar")
    sources.fetch("birds", settings(file), paths)
    kept = root_of(paths) / "images.txt"
    before = kept.stat().st_ino
    sources.fetch("birds", settings(file), paths)
    assert kept.stat().st_ino == before
    file.unlink()
    cub.lines["classes.txt"][0] = "1 001.Scarlet_Finch"
    sources.fetch("birds", settings(archive(cub, "tar")), paths)
    assert kept.stat().st_ino != before and cub200.read(root_of(paths), "1")["class_name"][0] == "001.Scarlet_Finch"


def test_folder_of_the_user_is_never_replaced(cub, paths, settings):
    mine = paths.raw("birds") / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(LapmlError, match="in the way"):
        sources.fetch("birds", settings(archive(cub, "tar")), paths)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6, 0.95])
def test_truncated_archive(cub, paths, settings, kind, keep):
    file = archive(cub, kind)
    content = file.read_bytes()
    if kind == "tar":
        content = content.rstrip(b"\0")  # padding at the end may go missing without loss
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(LapmlError, match="cub.*(empty|cut off)"):
        sources.fetch("birds", settings(file), paths)
    assert not list(paths.root.rglob("*.txt")) and not paths.source("birds").exists()


def test_damaged_zip_and_no_archive(cub, paths, settings):
    file = archive(cub, "zip")
    content = bytearray(file.read_bytes())
    content[content.index(b"1 001.Red_Finch") + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(LapmlError, match="CRC"):
        sources.fetch("birds", settings(file), paths)
    file.write_text("a web page that says: sign in\n" * 100)
    with pytest.raises(LapmlError, match="neither a tar"):
        sources.fetch("birds", settings(file), paths)


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt"])
def test_unsafe_archive_leaves_nothing(tmp_path, paths, settings, name):
    with zipfile.ZipFile(file := tmp_path / "bad.zip", "w") as made:
        made.writestr("good.txt", "good")
        made.writestr(name, "out")
    with pytest.raises(LapmlError, match="unsafe member"):
        sources.fetch("birds", settings(file), paths)
    assert not list(tmp_path.rglob("*.txt")) and not in_data(paths)


def fails(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", [(archives.shutil, "copyfileobj"), (laying.os, "replace")])
def test_full_disk_leaves_what_was_there(cub, paths, settings, monkeypatch, step):
    file = archive(cub, "zip")
    sources.fetch("birds", settings(file), paths)
    before = contents(paths.root)
    cub.lines["classes.txt"][0] = "1 001.Scarlet_Finch"
    archive(cub, "zip")
    with monkeypatch.context() as patched, pytest.raises(LapmlError, match="cub.zip: the disk is full|No space left"):
        patched.setattr(*step, fails)
        sources.fetch("birds", settings(file), paths)
    assert contents(paths.root) == before
    sources.fetch("birds", settings(file), paths)
    assert cub200.read(root_of(paths), "1")["class_name"][0] == "001.Scarlet_Finch"


def test_kill_leaves_what_was_there(cub, paths, settings):
    file = archive(cub, "zip")
    sources.fetch("birds", settings(file), paths)
    before = contents(paths.raw("birds"))
    cub.lines["classes.txt"][0] = "1 001.Scarlet_Finch"
    archive(cub, "zip")
    if not (child := os.fork()):
        copy, members = shutil.copyfileobj, iter(range(5))
        try:  # the sixth file is the end, with no clean-up of any kind
            archives.shutil.copyfileobj = lambda *args: copy(*args) if next(members, None) is not None else os._exit(9)
            sources.fetch("birds", settings(file), paths)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert contents(paths.raw("birds")) == before and in_data(paths) == [".birds.partial", "birds"]
    sources.fetch("birds", settings(file), paths)
    assert in_data(paths) == ["birds"]
    assert cub200.read(root_of(paths), "1")["class_name"][0] == "001.Scarlet_Finch"


def test_one_process_at_a_time(cub, paths, settings, monkeypatch, capfd):
    paths.raw("birds").parent.mkdir()
    other, flock = open(paths.raw(".birds.lock"), "w"), fcntl.flock
    flock(other, fcntl.LOCK_EX)

    def until_the_other_is_done(lock, how):
        if how == fcntl.LOCK_EX:
            assert "birds: waiting for another process" in capfd.readouterr().err
            other.close()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", until_the_other_is_done)
    sources.fetch("birds", settings(archive(cub, "zip")), paths)
    assert other.closed and len(cub200.read(root_of(paths), "all")) == 18


# --- archives in folders, and in archives ---


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def zipped(folder, file, below=""):
    """Move a folder into a zip archive; the members' names start at ``below``, a folder above it."""
    with zipfile.ZipFile(file, "w") as made:
        for path in sorted(folder.rglob("*")):
            made.write(path, path.relative_to(below or folder))
    shutil.rmtree(folder)
    return file


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The folder of a drawn layout, made once."""

    @functools.cache
    def drawn(name):
        layouts.draw(root := tmp_path_factory.mktemp(name) / "drawn", DRAWN, name)
        return root

    return drawn


@pytest.fixture
def given(layout, tmp_path):
    """A copy of a drawn layout, to be packed in pieces."""

    def copy(name):
        return shutil.copytree(layout(name), tmp_path / "given" / name)

    return copy


@pytest.fixture
def fetched(paths, settings):
    """Fetch a source with a reader: the root. The source is not written to."""

    def fetch(source, name, **changes):
        before = contents(source) if source.is_dir() else {}
        sources.fetch("birds", settings(source, reader=name, **changes), paths)
        assert (contents(source) if source.is_dir() else {}) == before
        return root_of(paths)

    return fetch


def assert_whole(root, name, layout):
    """The same as what was drawn, read by its reader."""
    assert reader(name).fingerprint(root) == reader(name).fingerprint(layout(name))
    frame = reader(name).read(root, "all")
    assert len(frame) == 10
    for image in frame["image"]:
        assert (root / reader(name).IMAGES / image).read_bytes() == (
            layout(name) / reader(name).IMAGES / image
        ).read_bytes()


def test_whole_folder_with_other_archives_is_used_in_place(cub, paths, settings):
    root = cub.write()
    (root / "CUB_200_2011.tgz").write_bytes(b"a broken download")
    (root / "images" / "backup.zip").write_bytes(b"")
    sources.fetch("birds", settings(root), paths)
    assert record(paths)["root"] == str(root) and not paths.raw("birds").exists()


def test_two_sets_and_archives_are_not_unpacked(cub, paths, settings, tmp_path):
    shutil.copytree(cub.write(), tmp_path / "given" / "one")
    shutil.copytree(cub.root, tmp_path / "given" / "two")
    archive(cub, "zip").rename(tmp_path / "given" / "three.zip")
    with pytest.raises(LapmlError, match="holds CUB-200-2011 2 times: .*one, .*two; set"):
        sources.fetch("birds", settings(tmp_path / "given"), paths)
    assert not in_data(paths)


def test_whole_is_what_the_chosen_classes_need(cub, paths, settings):
    del cub.pictures[cub.path(1)]
    (cub.write() / "other.tgz").write_bytes(b"no archive")
    sources.fetch("birds", settings(cub.root, classes="2-3"), paths)
    assert record(paths)["root"] == str(cub.root)
    with pytest.raises(LapmlError, match="other.tgz: is neither a tar"):
        sources.fetch("birds", settings(cub.root), paths)


def test_images_of_deepfashion_are_unpacked(given, layout, fetched, paths):
    root = given("deepfashion")
    zipped(root / "Img" / "img", root / "Img" / "img.zip", root / "Img")
    (root / "Img" / "img_highres.zip").write_bytes(b"protected, but not needed")
    (root / "Img" / "._img.zip").write_bytes(b"left by macOS")
    assert fetched(root, "deepfashion") == paths.raw("birds")
    assert_whole(paths.raw("birds"), "deepfashion", layout)
    assert record(paths)["kind"] == "folder" and record(paths)["source"] == str(root)
    there = {path.name for path in paths.raw("birds").rglob("*.zip")}
    assert not there

    marker = paths.raw("birds") / laying.MARKER
    sums = json.loads(marker.read_text())["sha256"]
    assert sums["Img/img.zip"] == hashlib.sha256((root / "Img/img.zip").read_bytes()).hexdigest() and len(sums) == 2
    before = marker.stat().st_ino
    fetched(root, "deepfashion")
    assert marker.stat().st_ino == before  # nothing was done
    (root / "Eval" / "note.txt").write_text("new")
    fetched(root, "deepfashion")
    assert marker.stat().st_ino != before and (paths.raw("birds") / "Eval" / "note.txt").exists()


@pytest.mark.parametrize("below", ["", "benchmark/"])
def test_archive_in_an_archive(given, layout, fetched, paths, below):
    root = given("deepfashion")
    zipped(root / "Img" / "img", root / "Img" / "img.zip", root / "Img")
    file = zipped(root, root.parent / "benchmark.zip", root.parent if below else "")
    assert_whole(fetched(file, "deepfashion"), "deepfashion", layout)
    assert record(paths)["kind"] == "archive"
    assert not list(paths.raw("birds").rglob("*.zip"))
    before = (paths.raw("birds") / laying.MARKER).stat().st_ino
    fetched(file, "deepfashion")
    assert (paths.raw("birds") / laying.MARKER).stat().st_ino == before


def test_archive_in_an_archive_is_left_when_nothing_lacks(cub, paths, settings):
    (cub.write() / "backup.zip").write_bytes(b"broken")
    sources.fetch("birds", settings(archive(cub, "tgz")), paths)
    assert (root_of(paths) / "backup.zip").read_bytes() == b"broken"


def pack_cars(root, *pieces):
    for piece in pieces:
        with tarfile.open(root / f"{'car_devkit' if piece == 'devkit' else piece}.tgz", "w:gz") as made:
            made.add(root / piece, piece)
        shutil.rmtree(root / piece)


@pytest.mark.parametrize(
    "packed", [["cars_train", "cars_test", "devkit"], ["cars_train", "cars_test"], ["cars_train"], ["devkit"], []]
)
@pytest.mark.parametrize("down", [False, True])
def test_cars_in_pieces(given, layout, fetched, paths, packed, down):
    root = given("cars")
    pack_cars(root, *packed)
    found = fetched(root.parent if down else root, "cars")
    assert_whole(found, "cars", layout)
    assert found == ((paths.raw("birds") / "cars" if down else paths.raw("birds")) if packed else root)
    assert in_data(paths) == (["birds"] if packed else [])


def test_half_unpacked_piece_is_replaced(given, layout, fetched):
    root = given("cars")
    images = sorted((root / "cars_train").iterdir())
    keep = images[0].read_bytes()
    pack_cars(root, "cars_train")
    (root / "cars_train").mkdir()
    (root / "cars_train" / images[0].name).write_bytes(keep[:100])  # where tar was interrupted
    assert_whole(fetched(root, "cars"), "cars", layout)


def test_piece_of_cars_that_is_missing(given, fetched):
    root = given("cars")
    pack_cars(root, "cars_train", "devkit")
    (root / "car_devkit.tgz").unlink()
    with pytest.raises(
        LapmlError, match="data/birds: expected the layout of Stanford Cars .*at its top is .*cars_test/"
    ):
        fetched(root, "cars")


def test_broken_piece(given, fetched, paths):
    root = given("cars")
    pack_cars(root, "cars_train")
    content = (root / "cars_train.tgz").read_bytes()
    (root / "cars_train.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(LapmlError, match="cars_train.tgz: .*cut off"):
        fetched(root, "cars")
    (root / "cars_train.tgz").write_bytes(b"")
    with pytest.raises(LapmlError, match="cars_train.tgz: is empty"):
        fetched(root, "cars")
    assert not in_data(paths)


def test_large_files_are_not_copied(given, layout, fetched, monkeypatch):
    root = given("cars")
    pack_cars(root, "cars_train")
    (root / "video.mp4").write_bytes(bytes(2**20))
    (root / ".git").mkdir()
    (root / ".git" / "config").touch()
    monkeypatch.setattr(laying, "LARGEST_FILE", 2**20 - 1)
    found = fetched(root, "cars")
    assert_whole(found, "cars", layout)
    assert not (found / "video.mp4").exists() and not (found / ".git").exists()


def test_folder_with_many_other_files_is_not_copied(given, fetched, paths, monkeypatch):
    root = given("cars")
    pack_cars(root, "cars_train")
    monkeypatch.setattr(laying, "MOST_FILES", 3)
    with pytest.raises(
        LapmlError, match=r"cars: is not whole \(.*there is no file .*\) .* other files, expected at most 3"
    ):
        fetched(root, "cars")
    assert not paths.raw("birds").exists()


@pytest.mark.parametrize("source", [".", "data", "data/birds"])
def test_folder_that_holds_the_place_to_unpack_to(given, paths, settings, source):
    pack_cars(root := given("cars"), "cars_train")
    shutil.copytree(root, paths.raw("birds"))
    before = contents(paths.root)
    with pytest.raises(LapmlError, match="would be unpacked to .*birds.*move them to a folder of their own"):
        sources.fetch("birds", settings(source, reader="cars"), paths)
    assert contents(paths.root) == before


def test_one_bound_for_an_archive_and_those_in_it(given, fetched, monkeypatch):
    root = given("deepfashion")
    zipped(root / "Img" / "img", root / "Img" / "img.zip", root / "Img")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    file = zipped(root, root.parent / "benchmark.zip")
    monkeypatch.setattr(archives, "LEAST_BOUND", size + 100)  # the outer one fits
    monkeypatch.setattr(archives, "RATIO", 0)
    with pytest.raises(LapmlError, match="img.zip: unpacks to more than"):
        fetched(file, "deepfashion")


# --- downloads ---


@pytest.fixture
def official(monkeypatch):
    """Let cub200 be offered at some URLs."""

    def offer(*urls, checksum=None):
        made = dataclasses.replace(cub200.DOWNLOAD, urls=urls, checksum=checksum)
        monkeypatch.setattr(cub200, "DOWNLOAD", made)
        monkeypatch.setattr(download, "WAITS", ())

    return offer


@pytest.fixture
def mirrored(settings):
    """The settings with a list of URLs."""
    return lambda *urls: settings("synthetic", synthetic=DRAWN).model_copy(update={"source": list(urls)})


def md5(file):
    return "md5:" + hashlib.md5(file.read_bytes()).hexdigest()


def test_download(cub, paths, settings, served):
    folder, url = served
    archive(cub, "tgz").rename(folder / "cub.tgz")
    sources.fetch("birds", settings(f"{url}/cub.tgz"), paths)
    assert record(paths)["kind"] == "url" and len(cub200.read(root_of(paths), "all")) == 18
    (folder / "cub.tgz").unlink()
    sources.fetch("birds", settings(f"{url}/cub.tgz"), paths)  # kept in data/downloads


@pytest.mark.parametrize("by", ["source", "variable"])
def test_official(cub, paths, settings, served, official, monkeypatch, by):
    folder, url = served
    file = archive(cub, "tgz").rename(folder / "cub.tgz")
    official(f"{url}/none.tgz", f"{url}/cub.tgz", checksum=md5(file))
    if by == "variable":
        monkeypatch.setenv("LAPML_BIRDS", "official")
    sources.fetch("birds", settings("official" if by == "source" else "/nowhere"), paths)
    assert record(paths)["kind"] == "url" and record(paths)["source"] == f"{url}/cub.tgz"
    assert len(cub200.read(root_of(paths), "all")) == 18


def test_variable_overrides_official(cub, paths, settings, monkeypatch):
    monkeypatch.setenv("LAPML_BIRDS", str(cub.write()))
    sources.fetch("birds", settings("official"), paths)
    assert record(paths)["source"] == str(cub.root) and record(paths)["kind"] == "folder"


@pytest.mark.parametrize("name", ["cars", "deepfashion", "folder"])
def test_official_that_cannot_be_downloaded(paths, settings, name):
    with pytest.raises(LapmlError, match="; then set data.birds.source or the .* LAPML_BIRDS to it") as caught:
        sources.fetch("birds", settings("official", reader=name), paths)
    assert reader(name).TITLE in str(caught.value) and reader(name).DOWNLOAD.by_hand in str(caught.value)


def test_official_that_fails_tells_what_to_do(paths, settings, served, official):
    official(f"{served[1]}/none.tgz")
    with pytest.raises(LapmlError, match="none.tgz .404.*; try again, or get CUB_200_2011.tgz .* LAPML_BIRDS to it"):
        sources.fetch("birds", settings("official"), paths)


@pytest.mark.parametrize("beside", [[], ["/none.tgz"]])
def test_official_url_has_its_checksum_wherever_it_is_given(cub, paths, mirrored, served, official, beside):
    folder, url = served
    archive(cub, "tgz").rename(folder / "cub.tgz")
    official(f"{url}/cub.tgz", checksum="md5:" + "0" * 32)
    with pytest.raises(LapmlError, match="hash .* does not match"):
        sources.fetch("birds", mirrored(*(url + other for other in beside), f"{url}/cub.tgz"), paths)
    assert not list(paths.raw("downloads").iterdir())


def test_mirrors(cub, paths, mirrored, served, official):
    folder, url = served
    official()
    file = archive(cub, "tgz").rename(folder / "cub.tgz")
    checksum = md5(file).replace(":", "=")
    urls = [f"{url}/none.tgz", f"{url}/cub.tgz#{checksum[:-1]}x", f"{url}/cub.tgz#{checksum}"]
    with pytest.raises(LapmlError, match="found #md5=.*x at the end of a URL"):
        sources.fetch("birds", mirrored(*urls), paths)
    del urls[1]
    sources.fetch("birds", mirrored(*urls), paths)
    assert record(paths)["source"] == urls[1]
    with pytest.raises(LapmlError, match=r"found 'cub.tgz', expected synthetic, official, a folder, .*http\(s\) URLs"):
        sources.fetch("birds", mirrored("cub.tgz", urls[1]), paths)


def test_download_fails(paths, settings, served, official):
    folder, url = served
    official()
    with pytest.raises(LapmlError, match="cannot be downloaded: .*none.tgz .404.*by hand and set data.birds.source or"):
        sources.fetch("birds", settings(f"{url}/none.tgz"), paths)
    with pytest.raises(LapmlError, match="cannot be downloaded: .*no network"):
        sources.fetch("birds", settings("http://127.0.0.1:9/cub.tgz"), paths)  # nobody listens there
    with pytest.raises(LapmlError, match=r"expected synthetic, official, a folder, an archive, or http\(s\) URLs"):
        sources.fetch("birds", settings("s3://bucket/cub.tgz"), paths)
    (folder / "page.tgz").write_text("<html>sign in</html>" * 100)
    with pytest.raises(
        LapmlError, match="downloads.*page.tgz: is neither a tar .*web page; remove it and get it again"
    ):
        sources.fetch("birds", settings(f"{url}/page.tgz"), paths)


# --- the drawing ---


@pytest.mark.parametrize("name", ["cub200", "aircraft", "cars", "deepfashion", "folder"])
def test_drawn(paths, settings, name):
    labels = "variant" if name == "aircraft" else None
    given = settings("synthetic", synthetic=DRAWN, reader=name, labels=labels)
    sources.fetch("birds", given, paths)
    root = root_of(paths)
    layout = [] if name == "cub200" else [name]  # birds that were drawn before there were other layouts stay
    assert (record(paths)["kind"], record(paths)["source"]) == ("drawn", "synthetic")
    assert record(paths)["root"] == f"data/drawn-{digest([synthetic.VERSION, DRAWN.model_dump(), *layout])}"
    assert (reader(name).read(root, "all", labels)["official"] == "test").sum() == 2
    before = root.stat().st_ino
    sources.fetch("birds", given, paths)
    assert root.stat().st_ino == before


def test_variable_does_not_override_drawn(cub, paths, settings, monkeypatch):
    monkeypatch.setenv("LAPML_BIRDS", str(cub.write()))
    sources.fetch("birds", settings("synthetic", synthetic=DRAWN), paths)
    assert record(paths)["kind"] == "drawn"


def test_drawn_without_settings(paths, settings, monkeypatch):
    monkeypatch.setenv("LAPML_BIRDS", "synthetic")
    with pytest.raises(LapmlError, match="data.birds.synthetic: found null"):
        sources.fetch("birds", settings("/somewhere"), paths)


def test_place_that_cannot_be_written(cub, paths, settings):
    (paths.root / "results").write_text("a file where a folder should be")
    with pytest.raises(LapmlError, match="data set birds: .*results.*check permissions"):
        sources.fetch("birds", settings(cub.write()), paths)
