"""Where a data set comes from: folders, archives, downloads, the drawing; and every bad one of them."""

import functools
import http.server
import io
import json
import tarfile
import threading
import zipfile

import pytest

from lapml.config import Drawn
from lapml.data import cub200, sources
from lapml.errors import LapmlError


def record(paths, name="birds"):
    return json.loads(paths.source(name).read_text())


def root_of(paths, name="birds"):
    return paths.root / record(paths, name)["root"]


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
    expected = {"root": str(root.resolve()), "kind": "folder", "images": count, "annotations_sha256": checksum}
    assert record(paths) == expected | {"source": str(root.parent if down else root)}
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
    with pytest.raises(LapmlError, match="expected images.txt in it or in one folder of it, found none"):
        sources.fetch("birds", settings(cub.root), paths)
    for name in "ab":
        (cub.root / name).mkdir()
        (cub.root / name / "images.txt").touch()
    with pytest.raises(LapmlError, match="found .*a, .*b"):
        sources.fetch("birds", settings(cub.root), paths)
    assert not paths.source("birds").exists()


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
    assert [entry.name for entry in (paths.root / "data").iterdir()] == ["birds"]  # no temporary folder stays


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


@pytest.mark.parametrize("member", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
def test_unsafe_zip(tmp_path, paths, settings, member):
    with zipfile.ZipFile(file := tmp_path / "bad.zip", "w") as made:
        made.writestr(member, "out")
    with pytest.raises(LapmlError, match="unsafe member"):
        sources.fetch("birds", settings(file), paths)


def test_unsafe_zip_link(tmp_path, paths, settings):
    link = zipfile.ZipInfo("images")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file := tmp_path / "bad.zip", "w") as made:
        made.writestr(link, "/etc")
    with pytest.raises(LapmlError, match="unsafe member"):
        sources.fetch("birds", settings(file), paths)


@pytest.mark.parametrize("name", ["../out.txt", "link"])
def test_unsafe_tar(tmp_path, paths, settings, name):
    with tarfile.open(file := tmp_path / "bad.tar", "w") as made:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../../outside"
        made.addfile(member, io.BytesIO(b""))
    with pytest.raises(LapmlError, match="unsafe member"):
        sources.fetch("birds", settings(file), paths)
    assert not (paths.root / "out.txt").exists() and not paths.raw("birds").exists()


def test_download(cub, paths, settings, served):
    folder, url = served
    archive(cub, "tgz").rename(folder / "cub.tgz")
    sources.fetch("birds", settings(f"{url}/cub.tgz"), paths)
    assert record(paths)["kind"] == "url" and len(cub200.read(root_of(paths), "all")) == 18
    (folder / "cub.tgz").unlink()
    sources.fetch("birds", settings(f"{url}/cub.tgz"), paths)  # kept in data/downloads


def test_download_fails(paths, settings, served):
    folder, url = served
    with pytest.raises(LapmlError, match="cannot be downloaded .*404.*by hand and set data.birds.source or"):
        sources.fetch("birds", settings(f"{url}/none.tgz"), paths)
    with pytest.raises(LapmlError, match="cannot be downloaded"):
        sources.fetch("birds", settings("http://127.0.0.1:9/cub.tgz"), paths)  # nobody listens there
    with pytest.raises(LapmlError, match=r"expected drawn, a folder, an archive or an http\(s\) URL"):
        sources.fetch("birds", settings("s3://bucket/cub.tgz"), paths)
    (folder / "empty.tgz").touch()
    with pytest.raises(LapmlError, match="is empty"):
        sources.fetch("birds", settings(f"{url}/empty.tgz"), paths)


def test_download_with_wrong_checksum(cub, paths, settings, served, monkeypatch):
    folder, url = served
    archive(cub, "tgz").rename(folder / "cub.tgz")
    monkeypatch.setitem(sources.CHECKSUMS, f"{url}/cub.tgz", "md5:" + "0" * 32)
    with pytest.raises(LapmlError, match="hash .* does not match"):
        sources.fetch("birds", settings(f"{url}/cub.tgz"), paths)
    assert not list(paths.raw("downloads").iterdir())


def test_drawn(paths, settings):
    drawn = Drawn(classes=2, train_images=2, test_images=1, side=32, seed=0, nuisance=0.5)
    sources.fetch("birds", settings("drawn", drawn=drawn), paths)
    root = root_of(paths)
    assert record(paths)["kind"] == "drawn" and record(paths)["root"].startswith("data/drawn-")
    assert cub200.read(root, "all")["official"].value_counts().to_dict() == {"train": 4, "test": 2}
    before = (root / "images.txt").stat().st_ino
    sources.fetch("birds", settings("drawn", drawn=drawn), paths)
    assert (root / "images.txt").stat().st_ino == before


def test_drawn_without_settings(paths, settings, monkeypatch):
    monkeypatch.setenv("LAPML_BIRDS", "drawn")
    with pytest.raises(LapmlError, match="data.birds.drawn: found null"):
        sources.fetch("birds", settings("/somewhere"), paths)


def test_place_that_cannot_be_written(cub, paths, settings):
    (paths.root / "results").write_text("a file where a folder should be")
    with pytest.raises(LapmlError, match="data set birds: .*results.*mend permissions"):
        sources.fetch("birds", settings(cub.write()), paths)
