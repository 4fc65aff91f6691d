"""Data are what params.yaml names, or a stage says that they are not: from fetching to publishing, and never by guessing."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lapml import config
from lapml.data import pack, readers
from lapml.data.fetch import contents, sources
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths

ASK = "run `lapml data fetch mine`"


def images(root: Path, seed: int = 0, classes: str = "ab", count: int = 4) -> Path:
    """A folder of images; another seed gives other pixels under the same names, and of the same number of bytes."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.bmp")
    return root


@pytest.fixture
def mine(paths, settings):
    """mine("old"): the section of a folder of images in the project."""
    images(paths.root / "old"), images(paths.root / "new", 1)
    return lambda source="old", **changes: settings(source, reader="folder", **changes)


@pytest.fixture
def ready(paths, mine):
    sources.fetch("mine", mine(), paths)
    pack.prepare("mine", mine(), paths, progress=False)
    return mine


@contextmanager
def unread():
    """No image's bytes may be hashed."""

    def refuse(path):
        raise AssertionError(f"{path} was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "sha256", refuse)
        yield


def of(paths, name="mine") -> dict:
    return json.loads(paths.source(name).read_text())


STAGES = {
    "prepare": lambda data, paths: pack.prepare("mine", data, paths, progress=False),
    "raw": lambda data, paths: sources.laid_out("mine", paths, data),
    "packed": lambda data, paths: sources.refuse_other("mine", data, paths),
}


@pytest.fixture(params=STAGES)
def stage(request):
    return STAGES[request.param]


def test_the_same_names_and_sizes_are_not_the_same_data(paths, mine):
    old, new = paths.root / "old", paths.root / "new"
    files = readers.read(old, mine())["image"].tolist()
    assert files == readers.read(new, mine())["image"].tolist()
    assert [(old / file).stat().st_size for file in files] == [(new / file).stat().st_size for file in files]
    _, known = contents.looked_at(old, mine())
    assert not contents.alike(known, contents.looked_at(new, mine())[1])
    assert contents.alike(known, contents.looked_at(Path(shutil.copytree(old, paths.root / "copy")), mine())[1])


@pytest.mark.parametrize("down", ["", "deeper"])
def test_what_is_fetched_is_the_same_wherever_it_lies(paths, mine, tmp_path, down):
    sources.fetch("mine", mine(), paths)
    shutil.copytree(paths.root / "old", tmp_path / "elsewhere" / down, dirs_exist_ok=True)
    before = paths.source("mine").read_bytes()
    sources.fetch("mine", mine(str(tmp_path / "elsewhere")), paths)
    assert paths.source("mine").read_bytes() == before


def test_an_edited_source_is_refused_by_every_stage(paths, ready, stage):
    stage(ready(), paths)
    with pytest.raises(LapmlError, match=f"^data.mine.source is 'new', what lies there was fetched from 'old'; {ASK}$"):
        stage(ready("new"), paths)
    with pytest.raises(LapmlError, match=f"^data.mine.classes is '1', what lies there was fetched with 'all'; {ASK}$"):
        stage(ready(classes="1"), paths)
    paths.source("mine").unlink()  # as an orchestrator does before it fetches, which then fails
    with pytest.raises(LapmlError, match=ASK):
        stage(ready("new"), paths)


def test_what_was_packed_is_of_what_was_fetched(paths, ready):
    sources.fetch("mine", ready("new"), paths)
    with pytest.raises(
        LapmlError, match="packed of other data .16 images, .* than were fetched since .*; run `lapml data prepare"
    ):
        sources.refuse_other("mine", ready("new"), paths)
    pack.prepare("mine", ready("new"), paths, progress=False)
    sources.refuse_other("mine", ready("new"), paths)
    assert of(paths).items() <= Packed.open(paths.pack("mine")).meta["source"].items()


def test_another_name_for_the_same_data_concerns_no_later_stage(paths, ready):
    (paths.root / "old").rename(paths.root / "moved")
    before = (of(paths), Packed.open(paths.pack("mine")).meta)
    sources.fetch("mine", ready("moved"), paths)
    sources.refuse_other("mine", ready("moved"), paths)
    assert (of(paths), Packed.open(paths.pack("mine")).meta) == before


@pytest.mark.parametrize("change", ["byte", "added", "removed", "renamed"])
def test_a_folder_that_changed_since_it_was_fetched(paths, ready, change):
    file = paths.root / "old/train/a/0.bmp"
    if change == "byte":
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    elif change == "added":
        shutil.copy(file, file.with_name("9.bmp"))
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("9.bmp"))
    for stage in ("prepare", "raw"):
        with pytest.raises(
            LapmlError, match=f"old: holds other data .* than were fetched .*; {ASK}, which takes them as"
        ):
            STAGES[stage](ready(), paths)
    sources.fetch("mine", ready(), paths)
    with pytest.raises(LapmlError, match="run `lapml data prepare mine`"):
        sources.refuse_other("mine", ready(), paths)
    pack.prepare("mine", ready(), paths, progress=False)


def test_no_image_is_read_to_compare_but_where_a_file_was_touched(paths, ready):
    with unread():
        for stage in STAGES.values():
            stage(ready(), paths)
    os.utime(paths.root / "old/train/a/0.bmp", ns=(1, 1))
    with pytest.raises(AssertionError, match="was read"), unread():
        sources.laid_out("mine", paths, ready())
    sources.laid_out("mine", paths, ready())  # they are the same
    with unread():
        sources.laid_out("mine", paths, ready())


# --- the environment variable ---


def test_the_variable_says_where(paths, ready, tmp_path, monkeypatch, stage):
    monkeypatch.setenv("LAPML_MINE", str(shutil.copytree(paths.root / "old", tmp_path / "there")))
    stage(ready(), paths)
    assert sources.laid_out("mine", paths, ready())[1] == tmp_path / "there"
    with unread():  # they were compared once
        stage(ready(), paths)
    monkeypatch.delenv("LAPML_MINE")
    stage(ready(), paths)


def test_the_variable_does_not_say_what(paths, ready, monkeypatch, stage):
    monkeypatch.setenv("LAPML_MINE", str(paths.root / "new"))
    said = "LAPML_MINE is '.*new', which holds other data .* says where data lie, not what they are; unset it, or name them in"
    with pytest.raises(LapmlError, match=f"{said} data.mine.source and {ASK}"):
        stage(ready(), paths)
    before = of(paths)
    with pytest.raises(LapmlError, match=f"{said} data.mine.source, or {ASK[:-1]} --anew`"):
        sources.fetch("mine", ready(), paths)
    assert of(paths) == before
    sources.fetch("mine", ready(), paths, anew=True)
    with pytest.raises(LapmlError, match="run `lapml data prepare mine`"):
        sources.refuse_other("mine", ready(), paths)


def test_the_variable_beside_a_source_that_is_here(paths, mine, monkeypatch):
    monkeypatch.setenv("LAPML_MINE", str(paths.root / "new"))
    with pytest.raises(LapmlError, match=r"other data .* than lie at data.mine.source \(old\)"):
        sources.fetch("mine", mine(), paths)
    assert not paths.source("mine").exists()
    sources.fetch("mine", mine("none"), paths)  # nothing to compare with
    monkeypatch.setenv("LAPML_MINE", str(paths.root / "old"))
    with pytest.raises(LapmlError, match="other data .* than were fetched before"):
        sources.fetch("mine", mine("none"), paths)
    with pytest.raises(LapmlError, match="other data .* than were fetched"):
        sources.refuse_other("mine", mine("none"), paths)


def test_an_archive_elsewhere_is_compared_by_fetching_it(paths, ready, tmp_path, monkeypatch, stage):
    archive = shutil.make_archive(str(tmp_path / "copy"), "zip", paths.root / "old")
    monkeypatch.setenv("LAPML_MINE", archive)
    with pytest.raises(
        LapmlError, match=f"copy.zip', and the data were fetched from elsewhere, .*; {ASK}, which compares"
    ):
        stage(ready(), paths)
    sources.fetch("mine", ready(), paths)
    stage(ready(), paths)
    monkeypatch.setenv("LAPML_MINE", shutil.make_archive(str(tmp_path / "other"), "zip", paths.root / "new"))
    with pytest.raises(LapmlError, match="other data .* than were fetched before"):
        sources.fetch("mine", ready(), paths)


def test_a_variable_that_names_nothing_here_stops_only_what_reads_the_images(paths, ready, monkeypatch):
    monkeypatch.setenv("LAPML_MINE", "/not/mounted")
    sources.refuse_other("mine", ready(), paths)
    with pytest.raises(LapmlError, match="LAPML_MINE is '/not/mounted'"):
        sources.laid_out("mine", paths, ready())


# --- what a name leads to ---


def test_a_link_that_leads_elsewhere_now(paths, ready, stage):
    (paths.root / "current").symlink_to("old")
    sources.fetch("mine", ready("current"), paths)
    stage(ready("current"), paths)
    (paths.root / "current").unlink()
    (paths.root / "current").symlink_to("new")
    with pytest.raises(LapmlError, match=f"new: holds other data .* than were fetched .*; {ASK}"):
        stage(ready("current"), paths)
    (paths.root / "current").unlink()
    (paths.root / "current").symlink_to(shutil.copytree(paths.root / "old", paths.root / "copy"))
    stage(ready("current"), paths)
    with unread():
        stage(ready("current"), paths)


@pytest.mark.parametrize("down", ["", "inside"])
def test_an_archive_that_was_replaced(paths, ready, stage, down):
    """Given itself, or in a folder."""
    (paths.root / "given").mkdir()
    source = f"given/{down}" if down else "given/it.zip"
    (paths.root / source).parent.mkdir(exist_ok=True, parents=True)
    base = str(paths.root / "given" / down / "it")
    shutil.make_archive(base, "zip", paths.root / "old")
    sources.fetch("mine", ready(source), paths)
    stage(ready(source), paths)
    shutil.make_archive(base, "zip", paths.root / "new")
    with pytest.raises(LapmlError, match="has changed since data.mine was fetched|holds other data"):
        stage(ready(source), paths)
    shutil.rmtree(paths.root / "given")  # what was unpacked of it is enough
    if not down:
        sources.laid_out("mine", paths, ready(source))


# --- another machine, an experiment's own folder, records of before ---


def test_a_machine_that_has_not_fetched_lays_out_by_itself(paths, ready, tmp_path, monkeypatch):
    shutil.copytree(paths.data, (there := Paths("test", tmp_path / "clone")).data)
    sources.refuse_other("mine", ready(), there)  # the pack is enough
    with pytest.raises(LapmlError, match="clone/old: no such folder or archive"):
        sources.laid_out("mine", there, ready())
    monkeypatch.setenv("LAPML_MINE", str(paths.root / "new"))
    with pytest.raises(LapmlError, match="LAPML_MINE is .* other data"):
        sources.laid_out("mine", there, ready())
    monkeypatch.setenv("LAPML_MINE", str(paths.root / "old"))
    assert sources.laid_out("mine", there, ready())[1] == paths.root / "old"
    with unread():
        sources.laid_out("mine", there, ready())


def test_min_images_is_recorded_where_it_is_set(settings):
    """So that records of before, and what both orchestrators know, stay what they were."""
    plain, set_ = settings("own", reader="folder"), settings("own", reader="folder", min_images=3)
    for each in ("fetching", "packing", "recorded"):
        assert getattr(set_, each)() == getattr(plain, each)() | {"min_images": 3}
        assert "min_images" not in getattr(plain, each)()


def test_where_only_dvc_says_what_was_fetched(paths, ready, tmp_path):
    shutil.copytree(paths.data, (there := Paths("test", tmp_path / "clone")).data)
    file = there.settings("mine") / "fetch.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(ready().fetching()))
    sources.refuse_other("mine", ready(), there)
    with pytest.raises(LapmlError, match="data.mine.source is 'new', what lies there was fetched from 'old'"):
        sources.refuse_other("mine", ready("new"), there)
    file.write_text(json.dumps(ready().fetching() | {"min_images": 2}))
    with pytest.raises(LapmlError, match="data.mine.min_images is None, what lies there was fetched with 2"):
        sources.refuse_other("mine", ready(), there)


def test_a_place_of_other_data_than_were_checked_out_is_not_believed(paths, ready):
    """As after `git checkout` and `dvc checkout` of a revision with another source."""
    old = paths.source("mine").read_bytes()
    sources.fetch("mine", ready("new"), paths)
    paths.source("mine").write_bytes(old)
    sources.refuse_other("mine", ready(), paths)
    assert sources.laid_out("mine", paths, ready())[1] == paths.root / "old"


def test_an_experiment_of_dvc_finds_the_data_of_its_project(paths, mine, settings):
    inside = Paths("test", paths.root / ".dvc/tmp/exps/tmp1")
    inside.root.mkdir(parents=True)
    assert inside.raw("x") == paths.raw("x").resolve()
    for source in (mine(), mine(shutil.make_archive(str(paths.root / "packed"), "zip", paths.root / "old"))):
        sources.fetch("mine", source, inside)
        _, root = sources.laid_out("mine", inside, source)
        assert root.is_relative_to(paths.root.resolve()) and not root.is_relative_to(inside.root.resolve())
    images(inside.root / "old", 1)  # what git or DVC brought comes first
    sources.fetch("mine", mine(), inside)
    assert sources.laid_out("mine", inside, mine())[1] == inside.root / "old"


def test_records_of_before_are_read_as_before(paths, ready, stage):
    """source.json with the root in it, and a pack that does not name the files."""
    record = {"root": "old", "kind": "folder", "source": "old", **{key: of(paths)[key] for key in contents.KEYS[:2]}}
    paths.source("mine").write_text(json.dumps(record))
    shutil.rmtree(paths.places)
    meta = json.loads((paths.pack("mine") / "meta.json").read_text())
    del meta["source"]["files_sha256"]
    (paths.pack("mine") / "meta.json").write_text(json.dumps(meta))
    stage(ready(), paths)
    assert sources.laid_out("mine", paths)[1] == paths.root / "old"
    sources.fetch("mine", ready(), paths)  # which does not put its pack out of date
    sources.refuse_other("mine", ready(), paths)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1}', "no json"])
def test_broken_records(paths, ready, text, stage):
    place = paths.place("mine").read_text()
    paths.place("mine").write_text(text)
    stage(ready(), paths)  # made again, or done without
    paths.place("mine").write_text(place)
    paths.source("mine").write_text(text)
    with pytest.raises(LapmlError, match=rf"source.json: damaged, or not written by lapml; {ASK}"):
        stage(ready(), paths)


def test_passwords_of_urls_are_not_written_down(paths, mine, monkeypatch):
    monkeypatch.setattr(sources, "lay_out", lambda *_: ("url", "https://host/x.zip", paths.root / "old"))
    monkeypatch.setenv("LAPML_MINE", "https://user:secret@host/x.zip")
    data = mine(["https://user:secret@host/y.zip", "https://host/z.zip"])
    sources.fetch("mine", data, paths)
    sources.refuse_other("mine", data, paths)
    monkeypatch.setenv("LAPML_MINE", "https://user:secret@other/x.zip")
    with pytest.raises(LapmlError, match="LAPML_MINE is 'https://other/x.zip'"):
        sources.refuse_other("mine", data, paths)
    assert not any("secret" in file.read_text() for file in paths.base.rglob("*.json"))


@pytest.mark.parametrize("key", ["data_sha256", "localised_sha256"])
def test_margins_that_were_tuned_on_other_data_are_not_trained_with(paths, key):
    params = config.load(Path(__file__).parents[2] / "params.yaml")
    folder = {"data_sha256": paths.pack("birds"), "localised_sha256": paths.localised("birds")}[key]
    folder.mkdir(parents=True)
    file = paths.tuned("birds", "margin")
    file.parent.mkdir(parents=True)
    for record in ({}, {key: None}, {key: "a" * 64}):  # older ones do not say
        file.write_text(json.dumps({"values": {"m": 0.5}, **record}))
        for now in ({}, {"sha256": "a" * 64}):
            (folder / "meta.json").write_text(json.dumps(now))
            assert config.tuned_values(params, paths, "birds", "margin") == {"m": 0.5}
    (folder / "meta.json").write_text(json.dumps({"sha256": "b" * 64}))
    with pytest.raises(
        LapmlError, match=f"margin.json: {key}: found a{{12}}, expected b{{12}} .*run `lapml tune birds` again"
    ):
        config.tuned_values(params, paths, "birds", "margin")


@given(
    st.dictionaries(st.sampled_from(contents.KEYS), st.integers(0, 1)),
    st.dictionaries(st.sampled_from(contents.KEYS), st.integers(0, 1)),
)
def test_alike(one, other):
    assert contents.alike(one, other) == all(
        one.get(key, other.get(key)) == other.get(key, one.get(key)) for key in contents.KEYS
    )
