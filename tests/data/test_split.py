"""`lapml data split`: how images are drawn, what stays together, and what is laid out."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lapml.cli import app
from lapml.data import similar
from lapml.data import split as splitting
from lapml.data.readers import folder
from lapml.data.similar import near
from lapml.data.split import assigned, split
from lapml.errors import LapmlError

# --- the draw ---

IMAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60)  # class and group


def drawn(images: list[tuple[int, int]], share: float, seed: int) -> list[bool]:
    paths = [f"{name}/{number:03}.jpg" for number, (name, _) in enumerate(images)]
    return assigned(paths, [str(name) for name, _ in images], [group for _, group in images], share, seed)


@given(IMAGES, st.floats(0.05, 0.9), st.integers(0, 3))
def test_groups_stay_together_and_classes_can_be_trained(images, share, seed):
    tested = drawn(images, share, seed)
    for group in {group for _, group in images}:
        assert len({test for test, (_, each) in zip(tested, images, strict=True) if each == group}) == 1
    for name in {name for name, _ in images}:
        own = [test for test, (each, _) in zip(tested, images, strict=True) if each == name]
        assert not any(own) or own.count(False) >= 2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.05, 0.6), st.integers(0, 3))
def test_without_groups_each_class_has_its_share(sizes, share, seed):
    images = [name for name, size in enumerate(sizes) for _ in range(size)]
    tested = drawn(list(zip(images, range(len(images)), strict=True)), share, seed)
    for name, size in enumerate(sizes):
        expected = 0 if size < 3 else min(max(1, round(share * size)), size - 2)
        assert sum(test for test, each in zip(tested, images, strict=True) if each == name) == expected


@given(IMAGES, st.integers(0, 3), st.randoms())
def test_the_order_of_files_does_not_matter(images, seed, random):
    paths = [f"{name}/{number:03}.jpg" for number, (name, _) in enumerate(images)]
    rows = [(path, str(name), group) for path, (name, group) in zip(paths, images, strict=True)]
    first = dict(zip(paths, assigned(*zip(*rows, strict=True), 0.3, seed), strict=True))
    random.shuffle(rows)
    assert dict(zip((row[0] for row in rows), assigned(*zip(*rows, strict=True), 0.3, seed), strict=True)) == first


def test_seeds_draw_anew_and_alike_over_images():
    images = [(0, number) for number in range(50)]
    often = Counter(at for seed in range(200) for at, test in enumerate(drawn(images, 0.2, seed)) if test)
    assert sum(often.values()) == 200 * 10 and set(often) == set(range(50))
    assert max(often.values()) < 40 + 6 * (200 * 0.2 * 0.8) ** 0.5  # six deviations of the mean of 40


def test_a_class_of_large_groups_is_tested_by_the_smallest():
    images = [(0, 0)] * 10 + [(0, 1)] * 9 + [(0, 2)] * 12
    tested = drawn(images, 0.1, 0)  # three images: each group is farther from that than none
    assert [group for test, (_, group) in zip(tested, images, strict=True) if test] == [1] * 9


# --- what is laid out ---


def picture(*seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)).resize((72, 54))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three classes of ten photographs, in series of two."""
    for kind, name in enumerate(("wren", "great tit", "Ärger")):
        (tmp_path / "photos" / name / "old").mkdir(parents=True)
        for number in range(10):
            below = "old/" if number == 9 else ""
            picture(kind, number).save(tmp_path / "photos" / name / f"{below}s{number // 2}_{number}.png")
    return tmp_path / "photos"


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def in_test(root: Path) -> set[str]:
    return {path.relative_to(root / "test").as_posix() for path in (root / "test").rglob("*") if path.is_file()}


def test_all_images_are_laid_out_and_can_be_read(photos):
    before, times = content(photos), {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    text = split(photos, test=0.2, seed=0)
    there = photos.with_name("photos-split")
    found = content(there)
    assert {path.split("/", 1)[1]: data for path, data in found.items()} == before and len(found) == 30
    assert content(photos) == before and {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == times
    frame = folder.read(there, "all")
    counts = frame.groupby(["class_name", "official"]).size()
    assert (
        all(count == {"test": 2, "train": 8}[official] for (_, official), count in counts.items()) and len(counts) == 6
    )
    assert text.startswith(f"{there}: 30 images of {photos}, by hard links\n")
    assert re.search(r"^train +24 +3 +8 / 8 / 8", text, re.MULTILINE) and re.search(r"^test +6 +3", text, re.MULTILINE)
    assert "kept together" not in text and "cannot be split" not in text


def test_seed_and_target(photos, tmp_path):
    sets = []
    for number, seed in enumerate((0, 0, 1)):
        split(photos, tmp_path / f"deep/{number}", seed=seed)
        sets.append(in_test(tmp_path / f"deep/{number}"))
    assert sets[0] == sets[1] != sets[2]
    with pytest.raises(LapmlError, match="deep/0: is there already; .* with --to"):
        split(photos, tmp_path / "deep/0")
    with pytest.raises(LapmlError, match="photos/new: lies in .*photos, in which nothing is changed"):
        split(photos, photos / "new")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["0", "1", "2"]


def test_series_stay_on_one_side(photos):
    text = split(photos, group_by=r"(s\d)_")
    sides: dict[str, set[str]] = {}
    for path in content(photos.with_name("photos-split")):
        sides.setdefault(Path(path).name.split("_")[0], set()).add(path.split("/")[0])
    assert all(len(each) == 1 for each in sides.values()) and len(sides) == 5
    assert "series by --group-by: 5; images of no series: 0" in text and "groups kept together (30 images): 5" in text


def test_near_duplicates_and_equal_files_stay_on_one_side(photos):
    for number in range(5):  # a chain: each was made of the one before
        with Image.open(photos / f"wren/s{number // 2}_{number}.png") as original:
            original.resize((60, 45)).save(photos / f"wren/small_{number}.jpg", quality=80)
    white = Image.new("RGB", (50, 50), "white")
    white.save(photos / "wren/white.png")
    white.save(photos / "great tit/white.png")
    for seed in range(4):
        root = photos.with_name(f"near {seed}")
        text = split(photos, root, test=0.4, seed=seed)
        sides = {path.split("/", 1)[1]: path.split("/")[0] for path in content(root)}
        for number in range(5):
            assert sides[f"wren/s{number // 2}_{number}.png"] == sides[f"wren/small_{number}.jpg"]
        assert sides["wren/white.png"] == sides["great tit/white.png"]
        assert "groups kept together (12 images): 6" in text
    assert "(2 images): 1\n    great tit/white.png ~ wren/white.png" in split(
        photos, photos.with_name("exact"), exact=True
    )


@pytest.fixture
def genera(tmp_path) -> Path:
    """GENUS/SPECIES/*.png: three genera of four species each, of five photographs, two of which are of one series."""
    for species in range(12):
        folder = tmp_path / "genera" / f"genus {species // 4}" / f"a_{species}"
        folder.mkdir(parents=True)
        for number in range(5):
            picture(species, number).save(folder / f"{species}-{max(number, 1)}_{number}.png")
    return tmp_path / "genera"


@pytest.mark.parametrize("seed", range(4))
def test_the_lowest_folders_are_classes_if_labels_say_so(genera, seed):
    text = split(genera, test=0.2, seed=seed, labels="nested", group_by="^(.+)_")
    there = genera.with_name("genera-split")
    species = {path.parent.relative_to(genera).as_posix() for path in genera.glob("*/*/*.png")}
    assert sorted(path.rpartition("/")[0] for path in in_test(there)) == sorted(species)  # one image of each
    assert "classes by --labels nested (let data.NAME.labels say so too): 12\n    genus 0/a_0\n" in text
    assert re.search(r"^test +12 +12 +1 / 1 / 1", text, re.MULTILINE) and "all in train" not in text
    assert "groups kept together (24 images): 12\n" in text  # what the expression finds is below the species' folder
    frame = folder.read(there, "all", labels="nested")
    assert frame["class_name"].nunique() == 12 and len(frame) == 60
    assert content(genera) == {path.split("/", 1)[1]: data for path, data in content(there).items()}


def test_folders_of_folders_are_a_question(genera):
    with pytest.raises(
        LapmlError, match=r"genera: 'genus 0' holds nothing but .*\(and 2 more .*Set --labels to nested"
    ):
        split(genera)
    assert not genera.with_name("genera-split").exists()
    text = split(genera, labels="top", group_by="^(.+)/")  # whole folders are series, of three classes
    assert re.search(r"^test +15 +3 +5 / 5 / 5", text, re.MULTILINE) and "series by --group-by: 12;" in text
    picture(99).save(genera / "genus 1/loose.png")
    with pytest.raises(
        LapmlError, match="genera: 'genus 1' holds images beside the class 'genus 1/a_4', .* as --labels is"
    ):
        split(genera, genera.with_name("loose"), labels="nested")


def test_of_equal_files_one_is_compared(photos, monkeypatch):
    shutil.copy(photos / "wren/s0_0.png", photos / "wren/copy.png")
    shutil.copy(photos / "wren/s0_0.png", photos / "great tit/copy.png")
    with Image.open(photos / "wren/s0_0.png") as original:
        original.resize((60, 45)).save(photos / "Ärger/small.jpg", quality=80)
    compared = []
    monkeypatch.setattr(similar, "near", lambda thumbnails: compared.append(len(thumbnails)) or near(thumbnails))
    text = split(photos)
    assert compared == [31]
    assert "(4 images): 1\n    great tit/copy.png ~ wren/copy.png ~ wren/s0_0.png ~ … (4 images)" in text


def test_what_is_left_out_and_cannot_be_split_is_named(photos, tmp_path):
    (photos / "wren/broken.jpg").write_bytes(b"\xff\xd8 no image")
    (photos / "wren/notes.txt").write_text("none")
    (photos / "wren/.DS_Store").write_text("none")
    (photos / "__MACOSX/wren").mkdir(parents=True)
    (photos / "dodo").mkdir()
    for number in range(2):
        picture(9, number).save(photos / f"dodo/{number}.png")
    text = split(photos)
    assert "no images: 1\n    wren/notes.txt" in text and "unreadable: 1\n    wren/broken.jpg" in text
    why = "classes that cannot be split (under 3 images, or kept together), all in train"
    assert f"{why}: 1\n    dodo (2)\n    (data.NAME.min_images" in text
    assert len(content(photos.with_name("photos-split"))) == 32


def test_a_large_class_that_is_one_series_is_not_called_small(photos):
    (photos / "video").mkdir()
    for number in range(12):
        picture(9, number).save(photos / f"video/film_{number}.png")
    text = split(photos, group_by=r"^(film)_")
    assert "or kept together), all in train: 1\n    video (12)\n" in text and "too small" not in text


def test_classes_that_are_split_already_are_laid_out_as_they_are(photos):
    for name in ("wren", "great tit", "Ärger"):
        (photos / name / "Train").mkdir()
        (photos / name / "test").mkdir()
        for file in [*(photos / name).glob("*.png"), *(photos / name / "old").iterdir()]:
            file.rename(photos / name / ("test" if file.stem[-1] in "123" else "Train") / file.name)
        (photos / name / "old").rmdir()
    text = split(photos)
    assert in_test(photos.with_name("photos-split")) == {
        f"{name}/s{number // 2}_{number}.png" for name in ("wren", "great tit", "Ärger") for number in (1, 2, 3)
    }
    assert "nothing is drawn" in text and len(content(photos.with_name("photos-split"))) == 30


def given(root: Path, *files: str) -> Path:
    """Small images of these names."""
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / file)
    return root


def test_two_images_of_one_name_in_a_split_are_refused(tmp_path):
    names = [f"{name}/{part}/0.png" for name in "ab" for part in ("train", "training", "test")]
    photos = given(tmp_path / "photos", *names)
    before = content(photos)
    with pytest.raises(LapmlError, match="a/training/0.png: is the second image that would be train/a/0.png, .* once"):
        split(photos)
    assert content(photos) == before and [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_what_lies_beside_splits_that_are_given_is_named(tmp_path):
    names = [f"{name}/{part}/0.png" for name in "ab" for part in ("train", "val", "test")]
    photos = given(tmp_path / "photos", *names, "a/loose.png", "a/extra/e.png", "a/.hidden.png")
    (photos / "b/train/x.psdd").write_text("no image")
    text = split(photos)
    assert "files left out, no images: 1\n    b/train/x.psdd\n" in text
    assert text.endswith("left out, beside those of the splits: 2\n    a/extra\n    a/loose.png")
    assert len(content(tmp_path / "photos-split")) == 6


@pytest.mark.parametrize("more", [["c/0.png", "c/1.png"], ["a/train/below/0.png"]])
def test_splits_that_are_given_for_some_classes_only_are_refused(tmp_path, more):
    """Or that hold folders: a draw would mix what was split."""
    names = [f"{name}/{part}/{number}.png" for name in "ab" for part in ("train", "test") for number in range(3)]
    photos = given(tmp_path / "photos", *names, *more)
    with pytest.raises(LapmlError, match="photos: 'a' holds train and test, but not all folders do"):
        split(photos)
    assert not (tmp_path / "photos-split").exists()


def test_images_that_cannot_be_read_at_all(tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(LapmlError, match="photos: found 2 images of which none can be read, such as a/0.jpg; get them"):
        split(tmp_path / "photos")


@pytest.mark.parametrize("fails", [("link",), ("link", "symlink")], ids=["symbolic", "copies"])
def test_where_hard_links_do_not_work(photos, monkeypatch, fails):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    for name in fails:
        monkeypatch.setattr(os, name, refuse)
    text = split(photos, group_by="(s.)_")
    there = photos.with_name("photos-split")
    assert f"by {'copies' if len(fails) > 1 else 'symbolic links'}\n" in text and len(content(there)) == 30
    files = [path for path in there.rglob("*") if path.is_file()]
    assert all(path.is_symlink() == (len(fails) == 1) for path in files)
    assert not any(path.is_symlink() and os.readlink(path).startswith("/") for path in files)
    moved = there.rename(there.with_name("moved"))  # links are relative to where they lie, beside the photos
    assert len(folder.read(moved, "all")) == 30 and all(path.stat().st_size for path in moved.rglob("*.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 1.0}, "--test: found 1, expected a share between 0 and 1"),
        ({"test": float("nan")}, "--test: found nan"),
        ({"labels": "both"}, "--labels: found 'both', expected nested or top"),
        ({"group_by": "s("}, r"--group-by: 's\(' is no regular expression"),
        ({"group_by": "s"}, "--group-by: found no group in 's', expected parentheses"),
        ({"group_by": "(x)"}, r"--group-by: '\(x\)' matches no file name, such as '.*png'"),
        (
            {"group_by": "(s)"},
            r"3 of 3 classes cannot be split \('great tit', 'wren', 'Ärger'\), expected at least two",
        ),
    ],
)
def test_what_is_refused(photos, options, message):
    with pytest.raises(LapmlError, match=message):
        split(photos, **options)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_other_layouts_are_refused(photos, tmp_path):
    split(photos)
    with pytest.raises(LapmlError, match="photos-split: is split already"):
        split(photos.with_name("photos-split"))
    with pytest.raises(LapmlError, match="none: no such folder"):
        split(tmp_path / "none")
    (tmp_path / "half").mkdir()
    photos.rename(tmp_path / "half/train")
    with pytest.raises(
        LapmlError, match="half: there is no folder test, .*lapml data split .*half/train --to .*half-split"
    ):
        split(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LapmlError, match="empty: there are no folders train and test, found no folders"):
        split(tmp_path / "empty")


def test_the_command_that_a_message_names_mends_it(photos, tmp_path, monkeypatch):
    """A flat folder, word for word from the error of `lapml data fetch` to its end."""
    monkeypatch.chdir(tmp_path)
    photos.rename(tmp_path / "my photos")
    root = Path(splitting.__file__).parents[2]
    (tmp_path / "mine.yaml").write_text(
        f"base: {root / 'suites/base.yaml'}\nsuite: mine\ndatasets: [mine]\n"
        "data: {birds: null, mine: {reader: folder, source: my photos, stored_side: 32, view: {side: 32}}}\n"
    )
    run = CliRunner().invoke
    failed = run(app, ["data", "fetch", "mine", "--params", "mine.yaml"])
    assert failed.exit_code == 1 and "`lapml data split 'my photos'`" in failed.stderr
    assert "to 'my photos-split'" in failed.stderr
    done = run(app, ["data", "split", "my photos"])
    assert done.exit_code == 0 and done.stdout.startswith("my photos-split: 30 images")
    for command in ("fetch", "prepare", "check"):
        options = ["--params", "mine.yaml", "--set", "data.mine.source=my photos-split"]
        assert run(app, ["data", command, "mine", *options]).exit_code == 0
