"""What ``check`` finds, what it calls harmful, and where ``show`` draws."""

import io
import json
import os
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from lapml.cli import app
from lapml.config import load
from lapml.data import inspect, pack, similar
from lapml.data import sheet as pictures
from lapml.data.decode import ORIENTATION
from lapml.data.fetch import sources
from lapml.data.findings import near_duplicates
from lapml.data.look import Seen
from lapml.data.readers import Counts, cub200
from lapml.errors import LapmlError
from lapml.paths import Paths

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checked(cub, paths, settings):
    def made() -> tuple[str, bool]:
        data = settings(cub.write())
        sources.fetch("birds", data, paths)
        found = inspect.check("birds", data, paths)
        return found.text(), found.sound

    return made


def counts(text: str) -> dict[str, int]:
    """Findings that are not zero."""
    found = re.findall(r"^(\w[^\n]*?)  +(\d+)   (?:harmless|suspect|HARMFUL|ok)", text, re.MULTILINE)
    return {what: int(count) for what, count in found if int(count)}


def test_clean(checked):
    text, ok = checked()
    assert ok and counts(text) == {} and "nothing harmful found" in text
    assert re.search(r"^train +9 +3 +3 / 3 / 3; 1.000$", text, re.MULTILINE)
    assert re.search(r"^test +6 +3 +2 / 2 / 2; 1.000$", text, re.MULTILINE)
    assert re.search(r"^all +18 +3 +6 / 6 / 6; 1.000$", text, re.MULTILINE)


def test_harmless(cub, checked):
    cub.pictures[cub.path(1)] = cub.encode(Image.new("L", (40, 30), 9))
    cub.pictures[cub.path(2)] = cub.encode(Image.new("1", (40, 30), 1))
    cub.pictures[cub.path(6)] = cub.pictures[cub.path(5)]  # both in test
    cub.lines["bounding_boxes.txt"][6] = "7 30 5 20 15"
    cub.lines["bounding_boxes.txt"][7] = "8 20 5 21 15"  # one pixel: rounding
    cub.lines["parts/part_locs.txt"][0] = "1 1 12 45 1"
    text, ok = checked()
    assert ok and counts(text) == {
        "images of nearly one level": 2,
        "grayscale images": 2,
        "exact duplicates in one split and class": 1,
        "boxes partly outside, by over a pixel": 1,
        "visible parts outside, by over a pixel": 1,
    }
    assert "bird 4.png (test) = 001.Red_Finch/bird 5.png (test): same file" in text


def test_duplicate_in_train_and_val_is_harmless_to_test(cub, checked):
    for image in (2, 3, 4):
        cub.pictures[cub.path(image)] = cub.pictures[cub.path(1)]
    text, ok = checked()
    assert ok and counts(text) == {"exact duplicates, train and val": 1}


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_duplicate_in_train_and_test_is_harmful(cub, checked, form):
    with Image.open(cub.write() / "images" / cub.path(1)) as picture:
        cub.pictures[cub.path(5)] = cub.encode(picture, form)
    text, ok = checked()
    assert not ok and counts(text) == {"exact duplicates, test and train or val": 1} and "HARMFUL" in text
    assert ("same file" if form == "PNG" else "same pixels") in text


def test_two_labels_are_harmful(cub, checked):
    cub.pictures[cub.path(11)] = cub.pictures[cub.path(5)]  # test images of two classes
    text, ok = checked()
    assert not ok and counts(text) == {"exact duplicates under two labels": 1}


def test_unreadable_files_are_all_named(cub, checked):
    for image in (1, 9):
        cub.pictures[cub.path(image)] = b""
    text, ok = checked()
    assert not ok and counts(text) == {"unreadable files": 2}
    assert cub.path(1) in text and cub.path(9) in text


def test_damaged_files_are_harmful(cub, checked):
    noise = Image.effect_noise((64, 64), 60)
    data = cub.encode(noise, "JPEG", quality=90)
    half = len(data) // 2
    cub.pictures[cub.path(1)] = data[:half] + bytes(60) + data[half + 60 :]
    cub.pictures[cub.path(2)] = cub.encode(noise.rotate(90), "JPEG", quality=90)  # sound
    png = bytearray(cub.encode(noise.rotate(180)))
    png[png.index(b"IEND") - 5] ^= 1  # of the checksum before
    cub.pictures[cub.path(3)] = bytes(png)
    text, ok = checked()
    assert not ok and counts(text) == {"damaged files, read in part": 2, "grayscale images": 3}
    assert f"{cub.path(1)}: Corrupt JPEG data" in text and f"{cub.path(3)}: " in text


def redrawn(cub, content: bytes, side: int, quality: int) -> bytes:
    """A picture in another size and as a JPEG."""
    with Image.open(io.BytesIO(content)) as picture:
        return cub.encode(picture.resize((side, side * 3 // 4), Image.Resampling.BICUBIC), "JPEG", quality=quality)


def test_near_duplicates_across_splits_are_suspect(cub, checked):
    cub.pictures[cub.path(5)] = redrawn(cub, cub.pictures[cub.path(1)], 90, 60)  # 5 and 6 test
    cub.pictures[cub.path(6)] = redrawn(cub, cub.pictures[cub.path(1)], 60, 80)
    cub.pictures[cub.path(3)] = redrawn(cub, cub.pictures[cub.path(1)], 50, 70)
    text, ok = checked()
    assert ok and text.endswith("birds: nothing harmful found, but look at what is suspect")
    found = counts(text)
    # 1 and 3 are trained on, or one of them validates
    assert found.pop("near-duplicates, test and train or val") == 4 and "suspect: 2 of 6 test images are known" in text
    assert found in ({}, {"near-duplicates, train and val": 1})
    pairs = re.findall(r"^    (.*) \(test\) ~ (.*) \((train|val)\)$", text, re.MULTILINE)
    assert {(test, other) for test, other, _ in pairs} == {(cub.path(k), cub.path(j)) for k in (5, 6) for j in (1, 3)}


def test_of_copies_in_one_split_one_is_compared_and_all_are_named(monkeypatch):
    """As if all pairs were compared: two pictures that look alike and a third, several times each in every split."""
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 200, (3, 9, 9)).astype(np.uint8)
    looks[1] = looks[0] + rng.integers(0, 3, (9, 9), np.uint8)
    which = rng.permutation(np.arange(45) % 3)
    splits = rng.choice(["train", "val", "test"], 45)
    rows = [{"path": f"{at}.png", "split": split, "label": 1} for at, split in enumerate(splits)]
    seen = [Seen(file=f"{at}", pixels=f"{look}", thumbnail=looks[look]) for at, look in enumerate(which)]
    compared, near = [], similar.near
    monkeypatch.setattr(similar, "near", lambda thumbnails: compared.append(len(thumbnails)) or near(thumbnails))
    test, val = near_duplicates(rows, seen)
    assert compared == [9]
    expected = {
        tuple(sorted((one, other), key=lambda at: splits[at]))
        for one in range(45)
        for other in range(45)
        if splits[one] != splits[other] and {which[one], which[other]} == {0, 1}
    }
    named = [tuple(int(path.partition(".")[0]) for path in each.files) for each in (*test.found, *val.found)]
    assert len(named) == len(expected) and set(named) == expected
    assert [min(pair) for pair in named[: len(test.found)]] == sorted(min(pair) for pair in named[: len(test.found)])
    known = sum(split == "test" and look < 2 for split, look in zip(splits, which, strict=True))
    assert test.verdict.startswith(f"{known} of {np.sum(splits == 'test')} test images")


def test_what_differs_more_is_no_near_duplicate(cub, checked):
    with Image.open(io.BytesIO(cub.pictures[cub.path(1)])) as picture:
        cub.pictures[cub.path(5)] = cub.encode(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        cub.pictures[cub.path(6)] = cub.encode(picture.crop((6, 4, 40, 30)))
    text, ok = checked()
    assert ok and counts(text) == {}


def test_one_picture_in_many_classes_is_a_placeholder(cub, checked):
    for image in (1, 5, 7, 13):  # of three classes
        cub.pictures[cub.path(image)] = cub.pictures[cub.path(1)]
    text, ok = checked()
    assert not ok and counts(text) == {"one picture in 3 classes or more": 1}
    assert f"{cub.path(1)} and 3 more in 3 classes: same file" in text


def test_all_and_json_name_every_file(cub, paths, settings):
    unreadable = [cub.path(image) for image in (*range(1, 5), *range(7, 11))]
    for path in unreadable:
        cub.pictures[path] = b"no image"
    cub.pictures[cub.path(14)] = cub.pictures[cub.path(13)]
    data = settings(cub.write())
    sources.fetch("birds", data, paths)
    found = inspect.check("birds", data, paths)
    assert "… and 3 more (--all)" in found.text() and "(--all)" not in found.text(everything=True)
    assert all(path in found.text(everything=True) for path in unreadable) and unreadable[-1] not in found.text()
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert [each["files"] for each in record["findings"]["unreadable"]["found"]] == [[path] for path in unreadable]
    same = [each for key in ("duplicates_within", "duplicates_val") for each in record["findings"][key]["found"]]
    assert [each["files"] for each in same] == [[cub.path(13), cub.path(14)]]
    assert (record["sound"], record["images"], record["left_out"]) == (False, 18, {})
    names = [line.split(" ")[1] for line in cub.lines["classes.txt"]]
    assert record["class_names"] == names == list(record["splits"]["test"])
    assert record["splits"] == {"train": dict.fromkeys(names, 3), "val": dict.fromkeys(names, 1),
                                "test": dict.fromkeys(names, 2)}  # fmt: skip
    assert record["findings"]["unreadable"]["kind"] == "HARMFUL" and record["findings"]["grayscale"]["kind"] == "ok"


@pytest.mark.parametrize(("share", "flat"), [(0.005, True), (0.05, False)])
def test_an_image_of_nearly_one_level(cub, checked, share, flat):
    pixels = np.random.default_rng(0).integers(0, 12, (40, 60, 3)).astype(np.uint8)  # nearly black, as of a wrong range
    pixels.reshape(-1, 3)[: round(share * 2400)] = 255
    cub.pictures[cub.path(1)] = cub.encode(Image.fromarray(pixels))
    text, ok = checked()
    assert ok and counts(text) == ({"images of nearly one level": 1} if flat else {})


def test_box_that_misses_its_image_is_harmful(cub, checked):
    cub.lines["bounding_boxes.txt"][0] = "1 50 5 20 15"
    text, ok = checked()
    assert not ok and counts(text) == {"boxes that miss their image": 1}


def test_turned_image_is_judged_upright(cub, checked):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    cub.pictures[cub.path(1)] = cub.encode(Image.new("RGB", (40, 30), 9), "JPEG", exif=exif)
    cub.lines["bounding_boxes.txt"][0] = "1 0 0 40 30"
    text, ok = checked()
    assert ok and counts(text) == {"images that EXIF turns": 1, "images of nearly one level": 1}


def test_show(cub, paths, settings, tmp_path):
    data = settings(cub.write())
    sources.fetch("birds", data, paths)
    with pytest.raises(LapmlError, match="lapml data prepare birds"):
        pictures.show("birds", paths, tmp_path / "sheet.png")
    pack.prepare("birds", data, paths)
    sheets = []
    for number, options in enumerate([{"count": 3}, {"count": 3}, {"count": 1, "seed": 3}]):
        with matplotlib.rc_context({"figure.facecolor": "black"}):  # of one's own matplotlibrc
            pictures.show("birds", paths, output := tmp_path / "out" / f"{number}.png", **options)
        with Image.open(output) as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")))
    assert np.array_equal(sheets[0], sheets[1]) and sheets[0].shape[1] > sheets[2].shape[1]
    assert all(len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10 for sheet in sheets)  # not blank
    assert all((sheet[0] == 255).all() for sheet in sheets)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("counts_", "wrong"),
    [
        (Counts(3, {"train": 12, "test": 6}), []),
        (Counts(3, {"train": 12, "test": 6}, (6, 6)), []),
        (Counts(3, {"train": 10, "val": 2, "test": 6}, (5, 7)), []),  # a carved val belongs to both
        (Counts(3, {"train": 13, "test": 6}), ["train: found 12 images, published 13"]),
        (Counts(3, {"train": 12, "test": 6}, (7, 9)), ["class 001.Red_Finch: found 6 images, published 7 to 9"]),
    ],
)
def test_published_counts(checked, monkeypatch, counts_, wrong):
    monkeypatch.setattr(cub200, "PUBLISHED", {None: counts_})
    text, ok = checked()
    assert ok == (not wrong)
    assert all(line in text for line in wrong)
    assert (counts(text).get("counts that differ from the published ones", 0) > 0) == bool(wrong)


@pytest.mark.parametrize("reader", ["folder", "cub200"])
def test_one_class_is_no_task(cub, paths, settings, reader, tmp_path):
    if reader == "cub200":
        data = settings(cub.write(), classes="2")
    else:
        for split, count in (("train", 3), ("test", 2)):
            (tmp_path / "own" / split / "wren").mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((20, 20), 50).save(tmp_path / "own" / split / "wren" / f"{number}.png")
        data = settings(tmp_path / "own", reader="folder")
    sources.fetch("birds", data, paths)
    for command in (pack.prepare, inspect.check):
        with pytest.raises(LapmlError, match=r"found test images of one class of 1 \('.*'\), expected at least two"):
            command("birds", data, paths)
    assert not paths.pack("birds").exists()


def test_what_lies_among_the_images_is_named(paths, settings, tmp_path):
    root = tmp_path / "own"
    for number, name in enumerate(["train/a", "train/b", "test/a", "test/b", "train/b/old"]):
        (root / name).mkdir(parents=True)
        for copy in range(2):
            pixels = np.random.default_rng([number, copy]).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{copy}.png")
    (root / "train/a/notes.txt").write_text("none")
    (root / "train/b/list.csv").write_text("none")
    (root / "train/b/more.csv").write_text("none")
    data = settings(root, reader="folder")
    sources.fetch("birds", data, paths)
    found = inspect.check("birds", data, paths)
    text = found.text()
    assert found.sound and "3 files left out:" in text
    assert "train/a: 1 left out: 1 '.txt' (no image)" in text and "train/b: 2 left out: 2 '.csv' (no image)" in text
    assert "train/b: old" in text
    others = {"train/a/notes.txt", "train/b/list.csv", "train/b/more.csv"}
    assert (
        all(f"{path}: '" in found.text(everything=True) for path in others)
        and set(found.record()["left_out"]) == others
    )
    short = inspect.left_out(data, root, limit=1)
    assert "train/b" not in short[0] and "1 more: `lapml data check` names them all" in short[0]
    assert inspect.left_out(settings(root), root) == []  # another layout


def test_the_commands_say_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for copy in range(3):
            Image.effect_noise((20, 20), 50).save(tmp_path / "own" / name / f"{copy}.png")
    for copy in range(4):
        (tmp_path / f"own/train/a/{copy}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    keys = {"reader": "folder", "source": "own", "synthetic": "null", "stored_side": "32", "view.side": "32"}
    options = ["--params", str(ROOT / "params.yaml")]
    for key, value in keys.items():
        options += ["--set", f"data.birds.{key}={value}"]
    for command in ("fetch", "prepare", "check", "show"):
        result = CliRunner().invoke(app, ["data", command, "birds", *options])
        assert result.exit_code == 0, result.output
        said = result.stdout if command == "check" else result.stderr
        assert "4 files left out:" in said
        assert "train/a: 4 left out: 4 '.heic' (HEIC: install pillow-heif)" in said


def test_names_left_out_that_are_no_text_are_printed(tmp_path, monkeypatch):
    """To a standard output that takes UTF-8 alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for copy in range(2):
            Image.effect_noise((20, 20), 50).save(tmp_path / "own" / name / f"{copy}.png")
    name = os.fsdecode(b"b\xe4r\n.txt")  # as old archives of Windows name it
    try:
        (tmp_path / "own/train/a" / name).write_text("none")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    options = ["--params", str(ROOT / "params.yaml")]
    for key, value in {"reader": "folder", "source": "own", "synthetic": "null"}.items():
        options += ["--set", f"data.birds.{key}={value}"]

    def run(command: str, *more: str) -> str:
        result = CliRunner().invoke(app, ["data", command, "birds", *options, *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    run("fetch")
    assert r"train/a/b\udce4r\n.txt: '.txt' (no image)" in run("check", "--all")
    assert json.loads(run("check", "--json"))["left_out"] == {f"train/a/{name}": "'.txt' (no image)"}


def test_classes_that_min_images_leaves_out_are_named(tmp_path, monkeypatch):
    """By every command; and a change of it is noticed."""
    monkeypatch.chdir(tmp_path)
    for name, images in {"a": 4, "b": 4, "c": 1, "d": 3}.items():
        for split, count in (("train", images), ("test", 0 if name == "d" else 2)):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for copy in range(count):
                Image.effect_noise((20, 20), 50).save(tmp_path / "own" / split / name / f"{copy}.png")
    keys = {"reader": "folder", "source": "own", "synthetic": "null", "stored_side": "32", "view.side": "32"}
    options = ["--params", str(ROOT / "params.yaml")]
    for key, value in keys.items():
        options += ["--set", f"data.birds.{key}={value}"]

    def run(command: str, *more: str) -> Result:
        return CliRunner().invoke(app, ["data", command, "birds", *options, *more])

    failed = run("fetch")
    assert (
        failed.exit_code == 1 and "class 3 (c) has 1 training images" in failed.stderr and "min_images" in failed.stderr
    )
    for command in ("fetch", "prepare", "check", "show"):
        done = run(command, "--set", "data.birds.min_images=2")
        assert done.exit_code == 0, done.output
        said = done.stdout if command == "check" else done.stderr
        assert "2 classes left out (min_images: 2):" in said
        assert "c: 1 to train on, 2 to test" in said and "d: 3 to train on, 0 to test" in said
    record = json.loads(run("check", "--json", "--set", "data.birds.min_images=2").stdout)
    assert record["class_names"] == ["a", "b"] and record["classes_left_out"] == {"c": [1, 2], "d": [3, 0]}
    for value in ("3", "null"):
        failed = run("prepare", "--set", f"data.birds.min_images={value}")
        assert failed.exit_code == 1 and "was fetched with 2" in failed.stderr.replace("\n", " "), failed.stderr
    assert run("fetch", "--set", "data.birds.min_images=4").exit_code == 0  # the same classes
    with pytest.raises(LapmlError, match="was made with min_images 2, expected data.birds.min_images: 4"):
        settings = load(
            ROOT / "params.yaml", [f"data.birds.{key}={value}" for key, value in (keys | {"min_images": 4}).items()]
        )
        pack.Packed.open(Paths(settings.suite, tmp_path).pack("birds"), settings.data["birds"])


def test_another_set_in_the_layout_is_not_compared(checked):
    text, ok = checked()
    assert ok and "found 3 classes, published 200: another data set in this layout" in text


def test_balance(cub, checked):
    """9, 3 and 3 training images would be 0.865; here one class loses half of its images to the test split."""
    for at in (0, 1):
        cub.lines["train_test_split.txt"][at] = f"{at + 1} 0"
    text, _ = checked()
    share = np.array([4, 2, 2]) / 8
    expected = -(share * np.log(share)).sum() / np.log(3)
    assert re.search(rf"^test +8 +3 +2 / 2 / 4; {expected:.3f}$", text, re.MULTILINE)


@pytest.mark.real
def test_real_cub(tmp_path, settings, real_cub):
    folder = real_cub
    data, paths = settings(folder), Paths("test", tmp_path)
    sources.fetch("cub200", data, paths)
    found = inspect.check("cub200", data, paths)
    text = found.text()
    assert found.sound and counts(text) == {
        "grayscale images": 8,
        "exact duplicates in one split and class": 1,
        "near-duplicates, test and train or val": 3,
        "near-duplicates, train and val": 1,
        "boxes partly outside, by over a pixel": 8,
        "visible parts outside, by over a pixel": 1,
    }
    assert "0018_40195.jpg (train) = 058.Pigeon_Guillemot/Pigeon_Guillemot_0081_40339.jpg (train)" in text
