"""A tar that vouches for itself: what is cut off, changed or out of place is refused."""

import io
import json
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml.common import tars
from lapml.errors import LapmlError


def test_a_tar_gives_back_what_was_put_in_and_is_the_same_bytes_each_time(content, written, files, tmp_path):
    tar = written(tmp_path, kit="k")
    assert tars.extract(tar, tmp_path / "out")["kit"] == "k"
    assert files(tmp_path / "out") == content
    first = tar.read_bytes()
    os.utime(tmp_path / "in/wheels/a.whl", (1, 1))
    assert written(tmp_path, kit="k").read_bytes() == first


@pytest.fixture(scope="module")
def sound(written, tmp_path_factory):
    return written(tmp_path_factory.mktemp("sound"), kit="k").read_bytes()


@given(st.data())
def test_a_tar_that_is_cut_or_changed_anywhere_is_refused_or_gives_the_same(
    content, files, sound, tmp_path_factory, data
):
    at = data.draw(st.integers(0, len(sound) - 1))
    changed = (
        sound[:at] if data.draw(st.booleans()) else sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :]
    )
    folder = tmp_path_factory.mktemp("changed")
    (folder / "one.tar").write_bytes(changed)
    try:
        tars.extract(folder / "one.tar", folder / "out")
    except LapmlError as error:
        assert str(error).startswith(str(folder / "one.tar"))
    else:
        assert files(folder / "out") == content


def member(name, kind=tarfile.REGTYPE, data=b"x", link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    return info, data


@pytest.mark.parametrize(
    "bad, says",
    [
        (member("../outside"), "leads outside"),
        (member("/tmp/outside"), "leads outside"),
        (member("a/../../outside"), "leads outside"),
        (member("link", tarfile.SYMTYPE, link="/etc/passwd"), "is a link"),
        (member("link", tarfile.LNKTYPE, link="good"), "is a link"),
        (member("null", tarfile.CHRTYPE), "is a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a device"),
        (member("folder", tarfile.DIRTYPE), "is a folder"),
        (member("unlisted"), "not in its manifest"),
        (member("good"), "twice"),
    ],
)
def test_what_is_no_plain_file_in_its_place_is_not_unpacked(files, tmp_path, bad, says):
    listed = {
        name: "0" * 64 for name in ("../outside", "/tmp/outside", "a/../../outside", "link", "null", "pipe", "folder")
    }
    listed["good"] = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    text = json.dumps({"members": listed}).encode()
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for info, data in (member("kit.json", data=text), member("good"), bad):
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(LapmlError, match=says):
        tars.extract(tmp_path / "bad.tar", tmp_path / "out")
    assert set(files(tmp_path)) == {"bad.tar", "out/good"}


def test_a_name_that_is_no_text_is_a_name(tmp_path):
    for length, says in ((250, "not in its manifest"), (256, "a name of over 255 bytes")):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            for info, data in (member("kit.json", data=b'{"members": {}}'), member("\udcff" * length)):
                tar.addfile(info, io.BytesIO(data))
        with pytest.raises(LapmlError, match=says):
            tars.extract(tmp_path / "bad.tar", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, None])
def test_a_file_that_is_no_tar_of_ours_is_refused(tmp_path, content):
    if content is None:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            tar.addfile(*(lambda info, data: (info, io.BytesIO(data)))(*member("other")))
    else:
        (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(LapmlError, match=r"x\.tar: "):
        tars.manifest(tmp_path / "x.tar")
    with pytest.raises(LapmlError, match="no such file"):
        tars.manifest(tmp_path / "y.tar")
