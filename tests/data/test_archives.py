"""Unpacking: what is good comes out as it is, and nothing bad gets out, fills the disk or shows a traceback."""

import bz2
import gc
import gzip
import io
import lzma
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml.data.fetch import archives
from lapml.errors import LapmlError

MEND = "set data.birds.source"
FILES = {"a.txt": b"first\n", "b/c d.bin": bytes(range(256)) * 30, "b/é/empty": b""}
KINDS = {"tar": "w:", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz", "zip": None}
OPENERS = {"tar": open, "tgz": gzip.open, "tar.bz2": bz2.open, "tar.xz": lzma.open}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "around" / "out"


def unpack(archive, out):
    out.mkdir(parents=True, exist_ok=True)
    archives.extract(archive, out, archives.Budget([archive], out), MEND)
    return contents(out)


def contents(folder):
    """Path → bytes of all files, links by where they lead."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in files
    }


def entry(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def link(name, to, kind=tarfile.SYMTYPE):
    return entry(name, type=kind, linkname=to)


def tar(file, *entries, mode="w:"):
    with tarfile.open(file, mode, format=tarfile.PAX_FORMAT) as made:
        for info, content in entries:
            made.addfile(info, io.BytesIO(content))
    return file


def archive(file, files=FILES):
    """An archive of the kind that the file's name says."""
    kind = next(kind for kind in KINDS if file.name.endswith("." + kind))
    if KINDS[kind]:
        return tar(file, *(entry(name, content) for name, content in files.items()), mode=KINDS[kind])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return file


def refused(file, out, match):
    """The archive is refused by a message that names it, and nothing lies outside of the folder."""

    def around():
        return {name: what for name, what in contents(out.parent.parent).items() if not name.startswith("around/out/")}

    before = around()
    with pytest.raises(LapmlError, match=match) as caught:
        unpack(file, out)
    assert str(file) in str(caught.value)
    assert around() == before
    assert_links_stay(out)


def assert_links_stay(out):
    for path in out.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(out.resolve())


# --- good archives ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["birds.{}", "no-suffix"])
def test_content_decides(tmp_path, out, kind, name):
    file = archive(tmp_path / f"birds.{kind}").rename(tmp_path / name.format(kind))
    assert unpack(file, out) == FILES


@pytest.mark.parametrize(
    "options", [["-cf"], ["--format=ustar", "-czf"], ["--format=oldgnu", "-cjf"], ["--posix", "-cf"]]
)
def test_archives_of_other_programs(tmp_path, out, options):
    if "GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout:
        pytest.skip("the options are GNU tar's")
    long = {"x" * 60 + "/" + "y" * 120 + f"/{at}.txt": str(at).encode() for at in range(3)}
    if "--format=ustar" in options:
        long = {"x" * 60 + "/" + "y" * 80: b"at most 256 characters"}
    for name, content in (FILES | long).items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    subprocess.run(["tar", *options, tmp_path / "made", "-C", tmp_path / "in", "."], check=True)
    assert unpack(tmp_path / "made", out) == FILES | long


def test_tar_that_ends_in_a_zip_is_a_tar(tmp_path, out):
    inner = archive(tmp_path / "inner.zip").read_bytes()
    assert unpack(archive(tmp_path / "outer.tar", {"inner.zip": inner}), out) == {"inner.zip": inner}


@pytest.mark.parametrize("kind", ["tar", "tgz"])
def test_large_file(tmp_path, out, kind):
    content = bytes(range(256)) * (3 * archives.HEADERS // 256)
    assert unpack(archive(tmp_path / f"a.{kind}", {"a": content, "b": b"b"}), out) == {"a": content, "b": b"b"}


def test_folder_in_a_zip_by_its_mode(tmp_path, out):
    info = zipfile.ZipInfo("f")
    info.external_attr = 0o040755 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, b"")
        made.writestr("f/a", b"a")
    assert unpack(tmp_path / "a.zip", out) == {"f/a": b"a"}


def test_later_of_two_wins(tmp_path, out):
    entries = [entry("a", b"first"), link("b", "a"), entry("b", b"not through the link"), entry("a", b"second")]
    assert unpack(tar(tmp_path / "a.tar", *entries), out) == {"a": b"second", "b": b"not through the link"}


def test_files_that_are_there_are_replaced(tmp_path, out):
    (out / "b").mkdir(parents=True)
    (out / "b/c d.bin").write_bytes(b"old")
    (out / "other").write_bytes(b"stays")
    assert unpack(archive(tmp_path / "a.zip"), out) == FILES | {"other": b"stays"}


def test_links_inside(tmp_path, out):
    entries = [
        entry("real/a", b"a"),
        link("images", "real"),
        link("real/up", "../real/a"),
        link("real/top", ".."),
        link("later", "real/b"),
        entry("real/b", b"b"),
        link("copy", "real/a", tarfile.LNKTYPE),
    ]
    links = {"images": "real", "real/up": "../real/a", "real/top": "..", "later": "real/b"}
    assert unpack(tar(tmp_path / "a.tar", *entries), out) == {"real/a": b"a", "real/b": b"b", "copy": b"a"} | links
    (out / "copy").write_bytes(b"a file of its own")
    assert (out / "real/a").read_bytes() == b"a"


def test_names_with_backslashes_are_folders_in_a_zip(tmp_path, out):
    assert unpack(archive(tmp_path / "a.zip", {"b\\c\\d.txt": b"d", "b\\e\\": b""}), out) == {"b/c/d.txt": b"d"}
    assert (out / "b/e").is_dir()


def test_folders_owners_and_modes(tmp_path, out):
    mode = {"mode": 0o4000, "uid": 12345, "uname": "nobody-here"}
    entries = [
        entry("./", type=tarfile.DIRTYPE),
        entry("f", type=tarfile.DIRTYPE, **mode),
        entry("./f//a", b"a", **mode),
    ]
    assert unpack(tar(tmp_path / "a.tar", *entries), out) == {"f/a": b"a"}
    fresh = tmp_path / "fresh"
    fresh.touch()
    for name in ("st_mode", "st_uid"):
        assert getattr(os.stat(out / "f/a"), name) == getattr(os.stat(fresh), name)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_archive(tmp_path, out, kind):
    assert unpack(archive(tmp_path / f"a.{kind}", {}), out) == {}


def test_sparse_member(tmp_path, out):
    holes = {"GNU.sparse.size": "2000", "GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,3,1000,2"}
    file = tar(tmp_path / "a.tar", entry("a", b"abcde", pax_headers=holes), entry("b", b"b"))
    assert unpack(file, out) == {"a": b"abc" + bytes(997) + b"de" + bytes(998), "b": b"b"}


# --- what would get out ---

OUTSIDE = [
    "../out.txt",
    "/out.txt",
    "a/../../out.txt",
    "..\\out.txt",
    "C:\\out.txt",
    "c:out.txt",
    "\\\\host\\share\\a",
    "..",
]


@pytest.mark.parametrize("name", [*OUTSIDE, "a/../b"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_leave(tmp_path, out, name, kind):
    refused(archive(tmp_path / f"a.{kind}", {"good": b"", name: b"out"}), out, r"unsafe member .*\(a path that leaves")


@pytest.mark.parametrize("to", [*OUTSIDE, "/etc/passwd", "f/../../..", "f/.."])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("name", ["link", "g/link"])
def test_links_that_leave(tmp_path, out, to, kind, name):
    (tmp_path / "around").mkdir()
    (tmp_path / "around/out.txt").write_bytes(b"mine")
    entries = [entry("f/g/h", b"h"), link(name, f"../{to}" if name[0] == "g" and to[0] == "." else to, kind)]
    refused(tar(tmp_path / "a.tar", *entries), out, "unsafe member")


@pytest.mark.parametrize(
    "entries",
    [
        [link("a", "f"), entry("f/x"), entry("a/out", b"out")],  # written behind a link
        [link("a", "."), link("a/b", ".."), entry("a/b/out", b"out")],
        [entry("d/e/f/x"), link("d/e/f/up", "../../.."), link("way", "d/e/f/up/../..")],  # out by way of another link
        [entry("f", type=tarfile.DIRTYPE), link("f/l", ".."), entry("f/l", type=tarfile.DIRTYPE)],
        [link("s", "nowhere"), link("hard", "s", tarfile.LNKTYPE)],  # a second name for a link
        [entry("d/x"), link("d/up", ".."), link("up", "d/up", tarfile.LNKTYPE), entry("up/up/out")],
        [entry("d/x"), link("l", "d"), link("hard", "l/x", tarfile.LNKTYPE)],
        [link("hard", "missing", tarfile.LNKTYPE)],
        [entry("d/x"), link("hard", "d", tarfile.LNKTYPE)],
        [link("self", "self", tarfile.LNKTYPE)],
        [entry("", b"out")],
        [entry(".", b"out")],
        [link(".", "f")],
    ],
    ids=range(13),
)
def test_links_that_conspire(tmp_path, out, entries):
    refused(tar(tmp_path / "a.tar", *entries), out, "unsafe member")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_devices(tmp_path, out, kind):
    refused(tar(tmp_path / "a.tar", entry("device", type=kind)), out, "unsafe member 'device'")


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644, 0o060644, 0o140644])
def test_links_and_devices_in_a_zip(tmp_path, out, mode):
    info = zipfile.ZipInfo("images")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, "/etc")
    refused(tmp_path / "a.zip", out, "unsafe member 'images'")


NAMES = st.sampled_from(
    ["a", "b", "a/b", "b/a", "a/b/c", "..", "../a", "a/..", "a/../..", "b/../a", ".", "/a", "../../out"]
)
ENTRIES = st.lists(st.tuples(NAMES, st.sampled_from([None, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE]), NAMES))


@given(ENTRIES)
def test_no_entries_get_out(tmp_path_factory, entries):
    top = tmp_path_factory.mktemp("any")
    made = [entry(name, b"out") if kind is None else link(name, to, kind) for name, kind, to in entries]
    file, out = tar(top / "a.tar", *made), top / "around" / "out"
    try:
        unpack(file, out)
    except LapmlError:
        pass
    assert {path.name for path in top.iterdir()} == {"a.tar", "around"} and [*out.parent.iterdir()] == [out]
    assert_links_stay(out)


# --- what would fill the disk, or the memory ---


@pytest.fixture
def bound(monkeypatch):
    monkeypatch.setattr(archives, "LEAST_BOUND", 10_000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [10_000, 10_001])
def test_bomb(tmp_path, out, bound, kind, size):
    file = archive(tmp_path / f"a.{kind}", {"a": bytes(size - 1), "b": b"b"})
    if kind == "tar" or size == 10_000:  # a tar is larger than what it holds
        assert unpack(file, out) == {"a": bytes(size - 1), "b": b"b"}
        return
    refused(file, out, "unpacks to more than 0.0 GB .20 times its size.*unpack it by hand")
    assert set(contents(out)) == {"a"}


def test_ratio_counts_where_it_is_larger(tmp_path, out, bound):
    noise = random.Random(0).randbytes(2000)
    assert unpack(archive(tmp_path / "a.zip", {"a": noise, "b": bytes(20_000)}), out)["b"] == bytes(20_000)


def test_sparse_bomb(tmp_path, out, bound):
    holes = {"GNU.sparse.size": "10000000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}
    refused(tar(tmp_path / "a.tar", entry("a", b"a", pax_headers=holes), entry("b")), out, "unpacks to more than")
    assert contents(out) == {}


def test_many_copies_of_one_file(tmp_path, out, bound):
    copies = [link(str(at), "a", tarfile.LNKTYPE) for at in range(20)]
    refused(tar(tmp_path / "a.tgz", entry("a", bytes(900)), *copies, mode="w:gz"), out, "unpacks to more than")


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_members(tmp_path, out, monkeypatch, kind):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert len(unpack(archive(tmp_path / f"a.{kind}"), out)) == 3
    refused(archive(tmp_path / f"b.{kind}", FILES | {"one/": b"", "too/many": b""}), out, "or 3 members")


@pytest.mark.parametrize("member", [entry("c/", type=tarfile.DIRTYPE), link("c", "a"), link("c", "a", tarfile.LNKTYPE)])
def test_all_members_count(tmp_path, out, monkeypatch, member):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    refused(tar(tmp_path / "a.tar", entry("a"), entry("b"), member), out, "or 2 members")


def test_one_budget_for_all(tmp_path, out, bound):
    out.mkdir(parents=True)
    files = [archive(tmp_path / f"{name}.zip", {name: bytes(6000)}) for name in "ab"]
    budget = archives.Budget(files, out)
    archives.extract(files[0], out, budget, MEND)
    with pytest.raises(LapmlError, match="b.zip: unpacks to more"):
        archives.extract(files[1], out, budget, MEND)


def test_disk_that_is_too_small(tmp_path, out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7000))
    refused(archive(tmp_path / "a.zip"), out, "more than the 0.00 GB that the disk has free")


def test_disk_that_fills(tmp_path, out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    refused(archive(tmp_path / "a.zip"), out, "a.zip: the disk is full; free some space")


@pytest.mark.parametrize("true", [5, 5000])
def test_zip_that_lies_about_a_size(tmp_path, out, true):
    file = archive(tmp_path / "a.zip", {"a": bytes(true)})
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\1\2")
    for place in (22, directory + 24):  # the size, in the member's own header and in the directory
        struct.pack_into("<I", content, place, 50)
    file.write_bytes(content)
    refused(file, out, "cannot be unpacked .*(CRC|declares 50)")
    assert len(contents(out)["a"]) <= 50


@pytest.mark.parametrize("size", [-1, -512, -(2**40)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_size_below_zero(tmp_path, out, size, kind):
    first = entry("a", type=kind)[0]
    block = bytearray(first.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    good = tar(tmp_path / "good.tar", entry("b")).read_bytes()
    (tmp_path / "a.tar").write_bytes(good[:512] + bytes(block) + good[512:])
    header = kind != tarfile.REGTYPE and size <= -512  # read(-512) would be all that follows
    refused(tmp_path / "a.tar", out, "more bytes than a header may have" if header else "cannot be unpacked")


def header(kind, size):
    return entry("x", type=kind, size=size)[0].tobuf(tarfile.GNU_FORMAT) + bytes(-(-size // 512) * 512)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("first", [True, False])
def test_header_that_would_fill_the_memory(tmp_path, out, kind, first):
    good = tar(tmp_path / "good.tar", entry("b")).read_bytes()
    bad = header(kind, archives.HEADERS + 1)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bad + good if first else good[:512] + bad + good[512:]))
    refused(tmp_path / "a.tgz", out, "neither a tar" if first else "more bytes than a header may have")


def test_headers_that_would_fill_the_memory_together(tmp_path, out):
    good = tar(tmp_path / "good.tar", entry("b")).read_bytes()
    bad = header(tarfile.XHDTYPE, archives.HEADERS // 2) * 3
    (tmp_path / "a.tgz").write_bytes(gzip.compress(good[:512] + bad + good[512:]))
    refused(tmp_path / "a.tgz", out, "more bytes than a header may have")


def test_what_a_file_does_not_need_is_not_left_for_headers(tmp_path, out):
    holes = {"GNU.sparse.size": str(3 * archives.HEADERS), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}
    good = tar(tmp_path / "good.tar", entry("a", b"a", pax_headers=holes), entry("b")).read_bytes()
    place = good.index(entry("b")[0].tobuf(tarfile.PAX_FORMAT)[:100])
    bad = header(tarfile.XHDTYPE, 2 * archives.HEADERS)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(good[:place] + bad + good[place:]))
    refused(tmp_path / "a.tgz", out, "more bytes than a header may have")


def test_members_are_not_all_held_in_memory(tmp_path, out, monkeypatch):
    place, held = archives._place, []

    def count(*args):
        held.append(sum(type(each) is tarfile.TarInfo for each in gc.get_objects()))
        place(*args)

    monkeypatch.setattr(archives, "_place", count)
    gc.freeze()  # what the imports left is not looked through
    try:
        unpack(archive(tmp_path / "a.tar", {str(number): b"" for number in range(12)}), out)
    finally:
        gc.unfreeze()
    assert len(held) == 12 and max(held) <= held[0] + 5


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_compressed_in_another_way(tmp_path, out, kind):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as made:
        made.writestr("a", bytes(1000))
    refused(tmp_path / "a.zip", out, "neither stored nor deflated.*unpack it by hand")


# --- what is broken ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.001, 0.02, 0.3, 0.6, 0.95, -1])
def test_cut_off(tmp_path, out, kind, keep):
    content = archive(
        tmp_path / f"whole.{kind}", {name: random.Random(0).randbytes(3000) for name in "abcd"}
    ).read_bytes()
    if kind == "tar":
        content = content[: 4 * 3584 + 1]  # its end is zeros, and one may do
    (file := tmp_path / f"a.{kind}").write_bytes(content[: int(keep * len(content)) if keep > 0 else keep])
    refused(file, out, f"a.{kind}: .*cut off.*; remove it and get it again, or {MEND}")


@pytest.mark.parametrize("members", range(5))
def test_tar_that_is_cut_between_two_members(tmp_path, out, members):
    content = archive(tmp_path / "whole.tar", {name: bytes(512) for name in "abcd"}).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: 1024 * members])
    refused(tmp_path / "a.tar", out, "cut off")


def test_damaged_bytes(tmp_path, out):
    for kind in ("zip", "tgz", "tar.xz"):
        file = archive(tmp_path / f"a.{kind}", {"a": random.Random(0).randbytes(5000)})
        content = bytearray(file.read_bytes())
        content[2500] ^= 1
        file.write_bytes(content)
        refused(file, out, f"a.{kind}: cannot be unpacked .*damaged")


def test_damaged_header_is_not_taken_for_the_end(tmp_path, out):
    content = bytearray(archive(tmp_path / "a.tar", {"a": b"", "b": b"", "c": b""}).read_bytes())
    content[512 + 5] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", out, "its end is missing")


def test_encrypted_zip(tmp_path, out):
    file = archive(tmp_path / "a.zip")
    content = bytearray(file.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(content)
    refused(file, out, "protected by a password .*unpack it by hand .* and set data.birds.source to the folder")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\n <!DOCTYPE html><html>sign in</html>" * 99, "neither a tar .*looks like a web page"),
        (b"just text\n" * 99, "neither a tar"),
        (b"Rar!\x1a\x07\x00" + bytes(999), "neither a tar"),
        (gzip.compress(b"a text, in gzip\n" * 99, mtime=0), "neither a tar"),
        (b"PK\3\4" + bytes(99), "cannot be unpacked"),
        (b"x", "neither a tar"),
    ],
)
def test_no_archive(tmp_path, out, content, match):
    (tmp_path / "cub.tgz").write_bytes(content)
    refused(tmp_path / "cub.tgz", out, match)


def test_file_and_folder_of_one_name(tmp_path, out):
    refused(tar(tmp_path / "a.tar", entry("a", b"a"), entry("a/b", b"b")), out, "cannot be unpacked .*a")
    refused(tar(tmp_path / "b.tar", entry("c/b", b"b"), entry("c", b"c")), out, "cannot be unpacked .*c")


def test_name_that_the_disk_does_not_take(tmp_path, out):
    refused(archive(tmp_path / "a.tar", {"x" * 300: b""}), out, "cannot be unpacked .*name too long")


@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8))
def test_any_damage_is_told(tmp_path_factory, kind, changes):
    """Good, or an error that names the file: no other exception, and nothing outside."""
    top = tmp_path_factory.mktemp("any")
    file = archive(top / f"a.{kind}")
    plain = kind in OPENERS and OPENERS[kind] is not open
    content = bytearray(OPENERS[kind](file).read() if plain else file.read_bytes())  # below the compression
    for place, value in changes:
        content[place % min(len(content), 4096)] = value
    if plain:
        with OPENERS[kind](file, "wb") as again:
            again.write(content)
    else:
        file.write_bytes(content)
    try:
        unpack(file, top / "around" / "out")
    except LapmlError as error:
        assert str(file) in str(error)
    assert {path.name for path in top.iterdir()} == {file.name, "around"}
