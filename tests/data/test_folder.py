"""The reader of a folder of images, on good and on bad layouts."""

import hashlib
import io
import os
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffTags
from PIL.TiffImagePlugin import SUBIFD, ImageFileDirectory_v2
from torchvision.datasets import ImageFolder

from lapml.config.parts import LABELS
from lapml.data import formats
from lapml.data.decode import decode
from lapml.data.readers import annotations, folder, layouts, listing
from lapml.errors import LapmlError

GOOD = (
    "train/wren/b.jpg",
    "train/wren/a.JPG",
    "train/wren/old/c.png",
    "train/great tit/1.jpeg",
    "train/great tit/2.webp",
    "train/Ärger/x.tif",
    "train/Ärger/y.gif",
    "test/wren/a.jpg",
    "test/Ärger/a.BMP",
)
links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


def lay(root: Path, paths: Iterable[str]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def refused(root: Path, message: str, classes: str = "all") -> str:
    with pytest.raises(LapmlError, match=message) as caught:
        folder.read(root, classes)
    return str(caught.value)


def refused_by_all(root: Path, message: str) -> None:
    """By what reads the folders, whatever the classes."""
    refused(root, message)
    with pytest.raises(LapmlError, match=message):
        folder.fingerprint(root)


def test_good_layout(tmp_path):
    frame = folder.read(lay(tmp_path, GOOD), "all")
    assert list(frame.columns) == ["image", "label", "class_name", "official", "box", "parts"]
    assert frame[["image", "label", "class_name", "official"]].to_numpy().tolist() == [
        ["train/great tit/1.jpeg", 0, "great tit", "train"],
        ["train/great tit/2.webp", 0, "great tit", "train"],
        ["train/wren/a.JPG", 1, "wren", "train"],
        ["train/wren/b.jpg", 1, "wren", "train"],
        ["train/wren/old/c.png", 1, "wren", "train"],
        ["train/Ärger/x.tif", 2, "Ärger", "train"],  # by code points, so behind w
        ["train/Ärger/y.gif", 2, "Ärger", "train"],
        ["test/wren/a.jpg", 1, "wren", "test"],
        ["test/Ärger/a.BMP", 2, "Ärger", "test"],
    ]
    assert frame["box"].tolist() == frame["parts"].tolist() == [None] * 9
    assert folder.part_names(tmp_path) == [] and folder.PUBLISHED == {}
    assert all((tmp_path / folder.IMAGES / image).is_file() for image in frame["image"])


def test_val_folder(tmp_path):
    root = lay(tmp_path, ["train/a/1.jpg", "train/b/1.jpg", "val/b/1.jpg", "test/a/1.jpg"])  # one to train will do
    frame = folder.read(root, "all")
    assert frame["official"].tolist() == ["train", "train", "val", "test"] and frame["label"].tolist() == [0, 1, 1, 0]
    assert frame["image"][2] == "val/b/1.jpg"


@pytest.mark.parametrize(
    ("classes", "names"), [("3", ["Ärger"]), ("3,2", ["wren", "Ärger"]), ("2-3,3", ["wren", "Ärger"])]
)
def test_chosen_classes_get_contiguous_labels(tmp_path, classes, names):
    frame = folder.read(lay(tmp_path, GOOD), classes)
    assert frame.drop_duplicates("label").set_index("label")["class_name"].to_dict() == dict(enumerate(names))
    assert len(frame) == sum(f"/{name}/" in path for name in names for path in GOOD)


@pytest.mark.parametrize("classes", ["4", "1-4", "0", "5", "1,5", "5-9"])
def test_unknown_class(tmp_path, classes):
    refused(lay(tmp_path, GOOD), "expected class ids of .*train", classes)


@pytest.mark.parametrize("classes", ["3-1", "", "a", "1-", "-1"])
def test_malformed_classes(tmp_path, classes):
    refused(lay(tmp_path, GOOD), "expected 'all' or class ids", classes)


def test_names_that_differ_by_case(tmp_path):
    root = lay(tmp_path, ["train/Finch/a.jpg", "train/Finch/b.jpg"])
    if (tmp_path / "train/finch").exists():
        pytest.skip("the file system ignores case")
    lay(root, ["train/Finch/A.JPG", "train/finch/a.jpg", "train/finch/b.jpg", "test/finch/a.jpg"])
    frame = folder.read(root, "all")
    assert frame["class_name"].tolist() == ["Finch"] * 3 + ["finch"] * 3
    assert frame["image"].tolist()[:3] == ["train/Finch/A.JPG", "train/Finch/a.jpg", "train/Finch/b.jpg"]


# --- what is left out ---


def test_clutter_is_left_out(tmp_path):
    root = lay(tmp_path, GOOD)
    frame, print_ = folder.read(root, "all"), folder.fingerprint(root)
    lay(
        root,
        [
            ".DS_Store",
            ".hidden/a.jpg",
            "__MACOSX/train/wren/a.jpg",
            "labels.csv",
            "spare/a.jpg",  # another folder beside train/ is nobody's business
            "train/.DS_Store",
            "train/.git/a.jpg",
            "train/.ipynb_checkpoints/a.jpg",
            "train/__MACOSX/a.jpg",
            "train/README.txt",
            "train/Thumbs.db",
            "train/wren/._a.jpg",
            "train/wren/.jpg",
            "train/wren/Thumbs.db",
            "train/wren/@eaDir/a.jpg/thumb.jpg",
            "train/wren/.cache/a.jpg",
            "train/wren/notes.txt",
            "train/wren/jpg",
            "train/wren/a.jpg.part",
        ],
    )
    assert folder.read(root, "all").equals(frame) and folder.fingerprint(root) == print_


def test_class_with_clutter_alone_is_empty(tmp_path):
    root = lay(tmp_path, [*GOOD, "test/great tit/.DS_Store", "test/great tit/Thumbs.db"])
    assert len(folder.read(root, "all")) == 9  # a class need not be tested
    lay(root, ["train/zebra finch/.DS_Store"])
    refused(root, r"class 3 \(zebra finch\) has 0 training images")
    assert folder.read(root, "1-2,4")["label"].nunique() == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_class_with_other_files_alone(tmp_path, split):
    names = ["a.HEIC", "b.heic", "c.cr2", "d", "deep/e.txt"]
    root = lay(tmp_path, [*GOOD, "train/owl/x.jpg", *(f"{split}/wagtail/{name}" for name in names)])
    if split != "train":
        lay(root, ["train/wagtail/x.jpg"])
    refused_by_all(root, "wagtail: has no images, found '.cr2', '.heic', '.txt', no suffix; expected .* .jpg .jpeg")
    lay(root, [f"{split}/wagtail/deep/f.jpg", f"{split}/wagtail/deep/g.jpg", "train/owl/y.jpg", "train/wagtail/y.jpg"])
    lay(root, ["val/wren/v.jpg"])
    assert "wagtail" in set(folder.read(root, "all")["class_name"])


def test_folder_that_is_named_like_an_image(tmp_path):
    root = lay(tmp_path, [*GOOD, "train/wren/deep.jpg/z.jpg", "train/owl.png/1.jpg", "train/owl.png/2.jpg"])
    images = folder.read(root, "all")["image"].tolist()
    assert "train/wren/deep.jpg/z.jpg" in images and "train/owl.png/1.jpg" in images and len(images) == 12


# --- images by their content ---


def picture(form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((9, 7), 50).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("IMG_1.jpe", "JPEG"),
        ("IMG_1.jfif", "JPEG"),
        ("IMG_1", "JPEG"),
        ("IMG_1.JPG_large", "JPEG"),
        ("IMG_1.heic", "JPEG"),  # as phones and messengers name them
        ("photo.jpg!d", "WEBP"),
        ("1.avif", "AVIF"),
        ("1.jp2", "JPEG2000"),
        ("1.ppm", "PPM"),
        ("1.tga", "TGA"),
        ("2019.04.12", "PNG"),
    ],
)
def test_what_pillow_opens_is_read_whatever_its_name(tmp_path, name, form):
    root = lay(tmp_path, GOOD)
    (root / "train/wren" / name).write_bytes(picture(form))
    assert f"train/wren/{name}" in set(folder.read(root, "all")["image"]) and folder.fingerprint(root)[0] == 10
    assert folder.left_out(root) == {}
    (root / "train" / name).write_bytes(picture(form))
    refused_by_all(root, "is in no class's folder")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_what_is_left_out_is_named_with_the_reason(tmp_path):
    root = lay(
        tmp_path, [*GOOD, "train/wren/.a.jpg", "train/wren/._b.jpg", "train/wren/Thumbs.db", "train/Ärger/empty"]
    )
    for number in range(8):
        (root / f"train/wren/{number}.HEIC").write_bytes(HEIC)
    (root / "train/wren/notes.txt").write_text("P1 of a long list of birds")  # a PPM starts so
    (root / "train/wren/old/sound.mp3").write_bytes(b"\0\0\2\0" + bytes(99))  # a TGA might
    (root / "train/wren/half.part").write_bytes(picture("JPEG")[:12])
    (root / "test/wren/a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert folder.left_out(root) == {
        "train/Ärger/empty": "no suffix (empty)",
        **{f"train/wren/{number}.HEIC": "'.heic' (HEIC: install pillow-heif)" for number in range(8)},
        "train/wren/notes.txt": "'.txt' (no image)",
        "train/wren/old/sound.mp3": "'.mp3' (no image)",
        "train/wren/half.part": "'.part' (no image)",
        "train/wren/.a.jpg": "hidden .jpg",
        "test/wren/a.eps": "'.eps' (no image)",
    }
    assert len(folder.read(root, "all")) == 9


def tiff(*sides: int, mark: int, sub: bool = False) -> bytes:
    """Pictures of these sides in one file; ``mark`` is the first one's NewSubfileType; ``sub``: it names others below it."""
    first, *others = (Image.effect_noise((side, side), 50).convert("RGB") for side in sides)
    tags = ImageFileDirectory_v2()
    tags[formats.NEW_SUBFILE_TYPE] = mark
    if sub:
        tags.tagtype[SUBIFD] = TiffTags.LONG
        tags[SUBIFD] = (8,)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", tiffinfo=tags, save_all=True, append_images=others)
    return buffer.getvalue()


def test_only_the_preview_of_a_raw_file_is_not_read(tmp_path):
    root = lay(tmp_path, GOOD)
    (root / "train/wren/1.NEF").write_bytes(tiff(9, mark=1, sub=True))
    (root / "train/wren/2.dng").write_bytes(tiff(9, 40, mark=1))
    (root / "train/wren/pyramid").write_bytes(tiff(40, 9, mark=0))
    (root / "train/wren/alone").write_bytes(tiff(9, mark=1))
    why = "(only its preview can be read, as of a camera's RAW file: convert it to JPEG or TIFF)"
    assert folder.left_out(root) == {"train/wren/1.NEF": f"'.nef' {why}", "train/wren/2.dng": f"'.dng' {why}"}
    images = set(folder.read(root, "all")["image"])
    assert {"train/wren/pyramid", "train/wren/alone"} < images and len(images) == 11
    with pytest.raises(LapmlError, match="1.NEF: cannot be read as an image .only its preview .* or TIFF.; replace"):
        decode(root / "train/wren/1.NEF")
    assert decode(root / "train/wren/pyramid").size == (40, 40)


def test_an_image_that_is_too_large_for_pillow_is_left_to_packing(tmp_path, monkeypatch):
    root = lay(tmp_path, GOOD)
    (root / "train/wren/1.jp2").write_bytes(picture("JPEG2000"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert folder.left_out(root) == {} and "train/wren/1.jp2" in set(folder.read(root, "all")["image"])


def test_heic_alone_says_what_to_install(tmp_path):
    root = lay(tmp_path, GOOD)
    (root / "train/owl").mkdir()
    (root / "train/owl/1.heic").write_bytes(HEIC)
    refused_by_all(root, "owl: has no images, found '.heic'; expected .*; HEIC: install pillow-heif; convert")


def test_plugins_are_registered(tmp_path, monkeypatch):
    """A module of the name of a plugin, which teaches Pillow a format."""
    (tmp_path / "pi_heif.py").write_text(
        "from PIL import Image, ImageFile\n"
        "class Plain(ImageFile.ImageFile):\n"
        "    format = 'PLAIN'\n"
        "    def _open(self):\n"
        "        self._mode, self._size, self.tile = 'L', (2, 2), [ImageFile._Tile('raw', (0, 0, 2, 2), 4, 'L')]\n"
        "def register_heif_opener():\n"
        "    Image.register_open('PLAIN', Plain, lambda start: start.startswith(b'PLN!'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    formats.register.cache_clear()
    (tmp_path / "a.thing").write_bytes(b"PLN!\1\2\3\4")
    try:
        assert formats.refusal(tmp_path / "a.thing") == ""
        assert decode(tmp_path / "a.thing").image.getpixel((1, 1)) == (4, 4, 4)
    finally:
        Image.OPEN.pop("PLAIN", None)
        Image.ID.remove("PLAIN")
        formats.register.cache_clear()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files there")
def test_a_pipe_is_not_opened(tmp_path):
    root = lay(tmp_path, GOOD)
    os.mkfifo(root / "train/wren/pipe")
    os.mkfifo(root / "train/pipe")
    assert folder.left_out(root) == {"train/wren/pipe": "no suffix (no file)"}


# --- folders that may be the classes ---

GROUPS = [
    f"{split}/{name}/{k}.jpg" for split in ("train", "test") for name in ("birds/x", "birds/y", "fish/z") for k in "12"
]


def test_folders_of_folders_are_refused_by_name(tmp_path):
    root = lay(tmp_path, GROUPS)
    refused(root, r"train: 'birds' holds nothing but folders of images: 'x', 'y'; .*labels to nested .* or to top")
    assert folder.folders_below(root)["train/birds"] == ["x", "y"]


def test_folders_of_folders_as_classes(tmp_path):
    frame = folder.read(lay(tmp_path, GROUPS), "all", "nested")
    assert frame.drop_duplicates("label")[["label", "class_name"]].to_numpy().tolist() == [
        [0, "birds/x"], [1, "birds/y"], [2, "fish/z"]
    ]  # fmt: skip
    assert frame["official"].value_counts().to_dict() == {"train": 6, "test": 6}
    assert all(f"/{name}/" in path for path, name in zip(frame["image"], frame["class_name"], strict=True))
    assert folder.read(tmp_path, "2-3", "nested")["class_name"].unique().tolist() == ["birds/y", "fish/z"]


def test_folders_of_folders_as_one_class(tmp_path):
    frame = folder.read(lay(tmp_path, GROUPS), "all", "top")
    assert frame["class_name"].unique().tolist() == ["birds", "fish"] and len(frame) == 12


def test_plain_folders_are_read_alike_whatever_the_labels(tmp_path):
    root = lay(tmp_path, [path for path in GOOD if "old" not in path] + ["train/wren/c.jpg"])
    frames = [folder.read(root, "all", labels) for labels in LABELS["folder"]]
    assert frames[0].equals(frames[1]) and frames[0].equals(frames[2])


def test_nested_classes_that_do_not_fit(tmp_path):
    with pytest.raises(LapmlError, match="'wren' holds images beside the class 'wren/old'"):
        folder.read(lay(tmp_path / "a", GOOD), "all", "nested")
    with pytest.raises(LapmlError, match=r"test: class 'birds/w' is not in .*train \(1 such in all\)"):
        folder.read(lay(tmp_path / "b", [*GROUPS, "test/birds/w/1.jpg"]), "all", "nested")


def test_one_folder_below_each_class_is_no_question(tmp_path):
    root = lay(
        tmp_path, [f"{split}/{name}/images/{k}.jpg" for split in ("train", "test") for name in "ab" for k in "12"]
    )
    assert folder.read(root, "all")["class_name"].unique().tolist() == ["a", "b"]


# --- another layout ---


def test_is_root(tmp_path):
    assert not folder.is_root(tmp_path / "none")
    assert folder.is_root(lay(tmp_path / "a", GOOD)) and not folder.is_root(tmp_path)
    assert not folder.is_root(lay(tmp_path / "b", ["train/wren/a.jpg"]))
    assert not folder.is_root(lay(tmp_path / "c", ["train", "test"]))  # files
    lay(tmp_path / "d/__MACOSX/set", ["train/wren/._a.jpg", "test/wren/._a.jpg"])  # of a zip that Finder made
    assert not folder.is_root(tmp_path / "d/__MACOSX/set")


@pytest.mark.parametrize(
    ("train", "val", "test"), [("Train", "Val", "Test"), ("TRAIN", "valid", "testing"), ("training", "dev", "test")]
)
def test_names_of_splits_in_any_case_and_other_words(tmp_path, train, val, test):
    names = {"train": train, "test": test}
    root = lay(tmp_path, [path.replace(split := path.split("/")[0], names[split], 1) for path in GOOD])
    assert folder.is_root(root) and folder.fingerprint(root)[0] == 9
    plain = folder.read(lay(tmp_path / "plain", GOOD), "all")
    frame = folder.read(root, "all")
    assert frame.drop(columns="image").equals(plain.drop(columns="image"))
    assert all((root / path).is_file() for path in frame["image"])
    lay(root, [f"{val}/wren/v.jpg", f"{test}/wren/notes.txt"])
    assert folder.read(root, "all")["official"].tolist().count("val") == 1
    assert folder.left_out(root) == {f"{test}/wren/notes.txt": "'.txt' (empty)"}
    lay(root, [f"{val}/crane/v.jpg"])
    refused_by_all(root, f"{val}: class 'crane' is not in .*{train} ")


def test_other_words_for_splits_read_folders_of_folders_too(tmp_path):
    root = lay(tmp_path, [path.replace("train", "Training").replace("test", "Testing") for path in GROUPS])
    refused(root, "Training: 'birds' holds nothing but folders of images")
    assert folder.read(root, "all", "nested")["class_name"].unique().tolist() == ["birds/x", "birds/y", "fish/z"]


@pytest.mark.parametrize(("one", "other"), [("train", "training"), ("Test", "test"), ("valid", "val")])
def test_two_folders_of_one_split(tmp_path, one, other):
    root = lay(tmp_path, [*GOOD, f"{one}/wren/1.jpg", f"{other}/wren/2.jpg"])
    if (
        len({path.name.lower() for path in root.iterdir()}) == len(list(root.iterdir()))
        and one.lower() == other.lower()
    ):
        pytest.skip("the file system ignores case")
    refused_by_all(root, rf"found '({one}' and '{other}|{other}' and '{one})', expected one folder of")


def test_val_file_is_no_folder(tmp_path):
    assert len(folder.read(lay(tmp_path, [*GOOD, "dev", "val"]), "all")) == 9


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["train/wren/a.jpg"],
            "no folder test, found 'train'; .*`lapml data split ROOT/train --to ROOT-split`, then set",
        ),
        (
            ["train/wren/a.jpg", "valid/wren/a.jpg"],
            "no folder test, found 'train', 'valid'; .*`mv ROOT/valid ROOT/test`",
        ),
        (["test/wren/a.jpg", "val/wren/a.jpg"], r"no folder train, found 'test', 'val'; .*train/CLASS/\*\.jpg"),
        (["train", "test/wren/a.jpg"], "no folder train, found 'test'; "),
        (
            ["wren/a.jpg", "owl/deep/a.jpg"],
            r"found folders of images \('owl', 'wren'\); .*`lapml data split ROOT`, then",
        ),
        ([f"{letter}/1.jpg" for letter in "abcdefg"], r"found folders of images \('a', 'b', 'c', 'd', 'e', …\)"),
        (["set/a/1.jpg", "set/b/1.jpg", ".git/x"], "set: .* found folders of images .*`lapml data split ROOT/set`"),
        (
            ["a/Train/1.jpg", "a/test/1.jpg", "b/Train/1.jpg"],
            r"\(CLASS: 'a', 'b'\), expected .*`lapml data split ROOT`",
        ),
        (["a.jpg", ".git/b.jpg"], r"found images, but no folder for each class; .*test/CLASS/\*\.jpg"),
        (["a/x.txt", "b/y.txt"], r"found 'a', 'b'; .*train/CLASS/\*\.jpg and test/CLASS/\*\.jpg"),
        (["x.txt"], "found no folders; "),
    ],
)
def test_another_layout_is_named_with_what_mends_it(tmp_path, paths, message):
    root = lay(tmp_path / "photos", paths)
    refused_by_all(root, message.replace("ROOT", re.escape(str(root))))
    assert not folder.is_root(root)


def test_no_folder(tmp_path):
    refused_by_all(tmp_path / "none", "none: cannot be listed")
    refused_by_all(lay(tmp_path, ["file"]) / "file", "file: cannot be listed")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_image_outside_a_class(tmp_path, split):
    refused_by_all(lay(tmp_path, [*GOOD, f"{split}/a.JPG"]), rf"{split}: the image 'a.JPG' is in no class's folder")


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_is_not_trained(tmp_path, split):
    root = lay(tmp_path, [*GOOD, f"{split}/crane/a.jpg", f"{split}/dodo/a.jpg", f"{split}/wren/w.jpg"])
    refused_by_all(root, rf"{split}: class 'crane' is not in .*train \(2 such in all\)")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("empty", ["", "wren", "wren/deep"])
def test_split_without_images(tmp_path, split, empty):
    root = lay(tmp_path, ["train/wren/a.jpg", "train/wren/b.jpg"] if split == "val" else [])
    (root / split / empty).mkdir(parents=True)
    (root / "test").mkdir()
    refused_by_all(root, rf"{split}: has no images, expected {split}/CLASS/\*\.jpg")


def test_no_test_image(tmp_path):
    root = lay(tmp_path, GOOD)
    refused(root, "the chosen classes have no test image", "1")
    lay(root, ["val/wren/a.jpg"])
    refused(root, "the chosen classes have no test image", "1")
    (root / "test/wren/a.jpg").unlink()
    (root / "test/Ärger/a.BMP").unlink()
    refused(root, "the chosen classes have no test image")


def test_training_images_of_a_class(tmp_path):
    root = lay(tmp_path, [*GOOD, "train/owl/1.jpg"])
    refused(root, r"class 2 \(owl\) has 1 training images, expected at least two")
    assert len(folder.read(root, "1,3-4")) == 9
    lay(root, ["val/wren/1.jpg"])
    assert len(folder.read(root, "all")) == 11
    (root / "train/owl/1.jpg").unlink()
    lay(root, ["val/owl/1.jpg"])
    refused(root, "class 2 \\(owl\\) has 0 training images, expected at least one")
    assert len(folder.read(root, "1,3-4")) == 10


def test_all_classes_with_too_few_images_are_named_at_once_with_the_cure(tmp_path):
    counts = {"a": 4, "b": 1, "c": 3, "d": 0, "e": 1, "f": 2, "g": 2}
    root = lay(tmp_path, [f"train/{name}/{k}.jpg" for name, count in counts.items() for k in range(count)])
    lay(root, [f"test/{name}/9.jpg" for name in "acfg"])
    (root / "train/d").mkdir()
    message = refused(
        root, r"class 2 \(b\) has 1 training images, .*; so do 4 \(d\), 5 \(e\), 3 classes in all; leave them out"
    )
    assert message.endswith("data.NAME.classes: set it to '1,3,6-7', or set data.NAME.min_images to 2")
    assert folder.read(root, "1,3,6-7")["class_name"].unique().tolist() == ["a", "c", "f", "g"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8),
    st.integers(1, 6),
    st.booleans(),
)
def test_min_images_keeps_exactly_the_classes_that_have_them(counts, least, val):
    """Recounted class by class; the others' numbers in data.NAME.classes stay what they were."""
    names = [f"class {number}" for number in range(len(counts))]
    with tempfile.TemporaryDirectory() as temporary:
        root = lay(
            Path(temporary), ["train/z/1.jpg", "train/z/2.jpg", "test/z/1.jpg", *(["val/z/1.jpg"] if val else [])]
        )
        for name, split_counts in zip(names, counts, strict=True):
            for split, count in zip(("train", "val", "test"), split_counts, strict=True):
                (root / "train" / name).mkdir(parents=True, exist_ok=True)
                lay(root, [f"{split}/{name}/{k}.jpg" for k in range(count if split != "val" or val else 0)])
        needed = max(least, 1 if val else 2)
        kept = [name for name, (train, _, test) in zip(names, counts, strict=True) if train >= needed and test]
        kept += ["z"] if needed <= 2 else []
        if not kept:
            with pytest.raises(
                LapmlError, match=f"min_images: found {least}, which leaves out all {len(names) + 1} classes"
            ):
                folder.read(root, "all", None, least)
            return
        frame = folder.read(root, "all", None, least)
        small = folder.too_small(root, "all", None, least)
        assert frame.drop_duplicates("label").set_index("label")["class_name"].to_dict() == dict(enumerate(kept))
        assert small == {name: (train, test) for name, (train, _, test) in zip(names, counts, strict=True)
                         if name not in kept} | ({} if "z" in kept else {"z": (2, 1)})  # fmt: skip
        chosen = ",".join(str(number) for number, name in enumerate([*names, "z"], 1) if name in kept)
        assert folder.read(root, chosen).equals(frame)
        assert folder.too_small(root, chosen, None, least) == {} == folder.too_small(root, "all", None, None)


@given(st.sets(st.integers(1, 60), min_size=1))
def test_ranges_are_read_back(numbers):
    text = annotations.ranges(sorted(numbers))
    assert annotations.choose(text, dict.fromkeys(range(1, 61), ""), Path("x")) == sorted(numbers)


# --- links, permissions, names that are no text ---


@links
def test_linked_classes_and_files(tmp_path):
    store = lay(tmp_path / "store", ["owls/1.jpg", "owls/2.jpg", "owls/more/3.jpg", "one.jpg", "tests/owl/9.jpg"])
    root = lay(tmp_path / "root", [path for path in GOOD if path.startswith("train")])
    (root / "train/owl").symlink_to(store / "owls", target_is_directory=True)
    (root / "train/wren/z.jpg").symlink_to(store / "one.jpg")
    (root / "test").symlink_to(store / "tests", target_is_directory=True)
    images = folder.read(root, "all")["image"].tolist()
    assert {"train/owl/1.jpg", "train/owl/2.jpg", "train/owl/more/3.jpg", "train/wren/z.jpg"} < set(images)
    assert images[-1] == "test/owl/9.jpg" and len(images) == 12


@links
def test_linked_folder_in_a_class_is_left_out(tmp_path):
    root = lay(tmp_path / "root", GOOD)
    store = lay(tmp_path / "store", ["1.jpg"])
    (root / "train/wren/more").symlink_to(store, target_is_directory=True)
    (root / "train/wren/circle").symlink_to(root / "train/wren", target_is_directory=True)
    (root / "train/wren/old/circle").symlink_to(root, target_is_directory=True)
    assert len(folder.read(root, "all")) == 9
    (root / "test/great tit").mkdir()
    (root / "test/great tit/more").symlink_to(store, target_is_directory=True)
    refused_by_all(root, "great tit: has no images, found a link to a folder")


@links
@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_class_that_links_to_what_holds_it(tmp_path, target):
    root = lay(tmp_path / "above/root", GOOD)
    (root / "train/circle").symlink_to(target, target_is_directory=True)
    refused_by_all(root, "train: 'circle' is a link to a folder that it lies in itself")


@links
def test_links_to_nothing(tmp_path):
    root = lay(tmp_path, GOOD)
    (root / "train/owl").symlink_to(tmp_path / "none")
    refused_by_all(root, "train: 'owl' is a link to nothing")
    (root / "train/owl").unlink()
    (root / "train/wren/owl.jpg").symlink_to(tmp_path / "none.jpg")
    refused_by_all(root, "'train/wren/owl.jpg' is a link to nothing")
    (root / "train/wren/owl.jpg").rename(root / "train/wren/owl.txt")
    assert len(folder.read(root, "all")) == 9


@links
def test_link_to_itself(tmp_path):
    root = lay(tmp_path, GOOD)
    (root / "train/owl").symlink_to("owl")
    refused_by_all(root, "cannot be listed .*owl.*mend its permissions or links|'owl' is a link to nothing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_folder_that_may_not_be_read(tmp_path):
    root = lay(tmp_path, GOOD)
    (root / "train/wren/old").chmod(0)
    try:
        refused_by_all(root, "cannot be listed .*[Pp]ermission")
    finally:
        (root / "train/wren/old").chmod(0o755)


def test_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    root, scan = lay(tmp_path, GOOD), os.scandir

    def refuse(path):
        if os.fspath(path).endswith("old"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    refused_by_all(root, "cannot be listed .*Permission denied.*old")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"train/caf\xe9/a.jpg", rb"train: the name b'caf\\xe9'"),
        (b"val/caf\xe9/a.jpg", rb"val: the name b'caf\\xe9'"),
        (b"train/wren/caf\xe9.jpg", rb"the name b'train/wren/caf\\xe9.jpg'"),
        (b"train/wren/caf\xe9/a.jpg", rb"the name b'train/wren/caf\\xe9/a.jpg'"),
    ],
)
def test_name_that_is_not_utf8(tmp_path, path, shown):
    root = lay(tmp_path, GOOD)
    file = os.path.join(os.fsencode(root), path)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    os.close(os.open(file, os.O_CREAT))
    text = refused(root, "is not UTF-8, .* rename it")
    assert shown.decode().replace("\\\\", "\\") in text and text.encode()  # so it can be printed
    refused_by_all(root, "is not UTF-8")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_names_left_out_may_be_anything(tmp_path):
    root = lay(tmp_path, GOOD)
    for name in (b"\xff", b"train/\xff.txt", b"train/wren/\xff.txt"):
        os.close(os.open(os.path.join(os.fsencode(root), name), os.O_CREAT))
    assert len(folder.read(root, "all")) == 9
    os.makedirs(os.path.join(os.fsencode(root), b"test/great tit"))
    os.close(os.open(os.path.join(os.fsencode(root), b"test/great tit/a.\xff"), os.O_CREAT))
    assert refused(root, r"has no images, found b'.\\xff'").encode()


# --- any names ---

LETTERS = st.characters(codec="utf-8", exclude_characters="/\0\\")
NAME = st.text(LETTERS, min_size=1, max_size=20).filter(
    lambda name: not name.startswith(".") and name not in layouts.CLUTTER
)


def same_everywhere(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


NAMES = st.lists(NAME, min_size=1, max_size=4, unique_by=same_everywhere)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or change some names")
@settings(max_examples=60, deadline=None)
@given(classes=NAMES, files=NAMES, suffix=st.sampled_from(layouts.SUFFIXES), deep=st.booleans())
def test_names(classes, files, suffix, deep):
    below = f"deep {suffix}/" if deep else ""
    expected = [
        (f"{split}/{name}/{below}{number}{file}{suffix}", label, name, split)
        for split in ("train", "test")
        for label, name in enumerate(sorted(classes))
        for number, file in enumerate([*files, "."])
    ]
    with tempfile.TemporaryDirectory() as temporary:
        root = lay(Path(temporary), [path for path, *_ in expected])
        frame = folder.read(root, "all")
        assert folder.fingerprint(root)[0] == len(expected)
    found = list(frame[["image", "label", "class_name", "official"]].itertuples(index=False, name=None))
    assert found == expected  # numbered, so in order


# --- against others ---


def test_as_torchvision_reads_it(tmp_path):
    root = lay(
        tmp_path,
        [
            f"{split}/{name}/{below}{number}{suffix}"
            for split in ("train", "test")
            for name in ("zebra", "Zebra finch", "ape", "Ångström", "10", "9")
            for below in ("", "more/")
            for number, suffix in enumerate((".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".txt"))
        ],
    )
    frame = folder.read(root, "all")
    for split in ("train", "test"):
        theirs = ImageFolder(root / split, allow_empty=True)
        ours = frame[frame["official"] == split]
        found = {os.fspath(root / image): label for image, label in zip(ours["image"], ours["label"], strict=True)}
        assert found == dict(theirs.samples) and len(ours) == len(theirs.samples) == 84
        assert dict(zip(ours["class_name"], ours["label"], strict=True)) == theirs.class_to_idx


def test_fingerprint(tmp_path):
    root = lay(tmp_path, GOOD)
    expected = hashlib.sha256(b"".join(path.encode() + b"\0" for path in sorted(GOOD))).hexdigest()
    assert folder.fingerprint(root) == (9, expected)
    (root / GOOD[0]).write_bytes(b"pixels")  # not what the files hold
    assert folder.fingerprint(root) == (9, expected)
    seen = Counter({expected: 1})
    for add in ("train/wren/n.jpg", "test/wren/n.jpg", "val/wren/n.jpg"):
        count, print_ = folder.fingerprint(lay(root, [add]))
        seen[print_] += 1
    assert count == 12 and set(seen.values()) == {1} and len(seen) == 4
