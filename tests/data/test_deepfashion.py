"""The reader of DeepFashion's layout, on good and on bad files."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.data.readers import annotations, deepfashion
from lapml.errors import LapmlError

CLOTH = "Anno_coarse/list_category_cloth.txt"
CATEGORY = "Anno_coarse/list_category_img.txt"
BOXES = "Anno_coarse/list_bbox.txt"
PARTITION = "Eval/list_eval_partition.txt"
FILES = (CLOTH, CATEGORY, BOXES, PARTITION)
HEADERS = {
    CLOTH: "category_name  category_type",
    CATEGORY: "image_name  category_label",
    BOXES: "image_name  x_1  y_1  x_2  y_2",
    PARTITION: "image_name  evaluation_status",
}
TEE, JEANS = "img/Striped_Tee", "img/Ripped Jeans"
IMAGES = {  # category 2 and 4 have none, and category 5 no image for training
    f"{TEE}/img_00000001.jpg": (3, "072 079 232 273", "train"),
    f"{JEANS}/img_00000001.jpg": (1, "001 001 300 200", "train"),
    f"{JEANS}/img_00000002.jpg": (1, "010 020 010 020", "val"),
    f"{JEANS}/img_00000003.jpg": (1, "048 062 047 298", "test"),
    f"{TEE}/img_00000002.jpg": (3, "000 -05 010 010", "test"),
    f"{TEE}/img_00000003.jpg": (5, "100 100 200 200", "test"),
}


@dataclass
class Fashion:
    """The files of the layout, kept as lines until ``write``; change them first to make a bad one."""

    root: Path
    lines: dict[str, list[str]] = field(default_factory=dict)
    images: str = ""  # folder below the root that the images' names start at

    def write(self) -> Path:
        for name, lines in self.lines.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for image in IMAGES:
            (self.root / self.images / image).parent.mkdir(parents=True, exist_ok=True)
            (self.root / self.images / image).touch()
        return self.root


@pytest.fixture
def fashion(tmp_path) -> Fashion:
    rows = {
        CLOTH: [
            f"{name:<15}{kind}" for name, kind in (("Jeans", 2), ("Anorak", 1), ("Tee", 1), ("Cape", 3), ("Top", 1))
        ],
        CATEGORY: [f"{image:<71}{category}" for image, (category, _, _) in IMAGES.items()],
        BOXES: [f"{image:<71}{box}" for image, (_, box, _) in IMAGES.items()],
        PARTITION: [f"{image:<71}{split}" for image, (_, _, split) in IMAGES.items()],
    }
    return Fashion(tmp_path / "df", {name: [str(len(each)), HEADERS[name], *each] for name, each in rows.items()})


def refused(root: Path, message: str, classes: str = "all") -> str:
    with pytest.raises(LapmlError, match=message) as caught:
        deepfashion.read(root, classes)
    return str(caught.value)


def recount(lines: list[str]) -> None:
    lines[0] = str(len(lines) - 2)


def test_good_layout(fashion):
    frame = deepfashion.read(fashion.write(), "all")
    assert list(frame.columns) == ["image", "label", "class_name", "official", "box", "parts"]
    assert frame["image"].tolist() == list(IMAGES)
    assert frame["label"].tolist() == [1, 0, 0, 0, 1, 2]  # categories 1, 3 and 5
    assert frame["class_name"].tolist() == ["Tee", "Jeans", "Jeans", "Jeans", "Tee", "Top"]
    assert frame["official"].tolist() == ["train", "train", "val", "test", "test", "test"]
    assert frame["box"].tolist() == [
        [71.0, 78.0, 161.0, 195.0],
        [0.0, 0.0, 300.0, 200.0],
        [9.0, 19.0, 1.0, 1.0],
        None,  # its corners are reversed
        [-1.0, -6.0, 11.0, 16.0],  # partly outside: kept
        [99.0, 99.0, 101.0, 101.0],
    ]
    assert frame["parts"].tolist() == [None] * 6 and deepfashion.part_names(fashion.root) == []


def test_published_counts_are_of_all_images():
    counts = deepfashion.PUBLISHED[None]
    assert sum(counts.splits.values()) == 289222 and counts.classes == 46


# --- where the files lie ---


def test_older_name_of_the_annotations_folder(fashion):
    root = fashion.write()
    frame, print_ = deepfashion.read(root, "all"), deepfashion.fingerprint(root)
    (root / "Anno_coarse").rename(root / "Anno")
    assert deepfashion.is_root(root) and deepfashion.read(root, "all").equals(frame)
    assert deepfashion.fingerprint(root) == print_
    fashion.lines[CATEGORY][2] = f"{TEE}/img_00000001.jpg 1"
    fashion.write()  # now both are there
    assert deepfashion.read(root, "all")["label"].tolist()[0] == 0


def test_annotations_folder_without_files_does_not_hide_the_other(fashion):
    root = fashion.write()
    (root / "Anno_coarse").rename(root / "Anno")
    (root / "Anno_coarse").mkdir()
    assert len(deepfashion.read(root, "all")) == 6


def test_is_root(fashion, tmp_path):
    assert not deepfashion.is_root(tmp_path) and not deepfashion.is_root(tmp_path / "none")
    assert deepfashion.is_root(fashion.write()) and not deepfashion.is_root(fashion.root / "Eval")


@pytest.mark.parametrize("folder", ["", "Img"])
def test_images_in_either_folder(fashion, folder):
    fashion.images = folder
    root = fashion.write()
    (root / "Img").mkdir(exist_ok=True)  # as it is with img.zip in it
    frame = deepfashion.read(root, "all")
    assert frame["image"].tolist() == [f"{folder}/{image}".lstrip("/") for image in IMAGES]
    assert all((root / deepfashion.IMAGES / image).is_file() for image in frame["image"])


def test_the_fuller_of_two_image_folders(fashion):
    fashion.images = "Img"
    root = fashion.write()
    (root / TEE).mkdir(parents=True)  # an unpacking that was broken off
    assert deepfashion.read(root, "all")["image"].str.startswith("Img/img/").all()


@pytest.mark.parametrize(
    ("lie", "prefix"), [("Img/img", "Img/"), ("Img", ""), ("img", "")], ids=["beside", "merged", "root"]
)
def test_file_system_that_ignores_case(fashion, monkeypatch, lie, prefix):
    root = fashion.write()
    (root / "img").rename(root / "moved")
    (root / lie).parent.mkdir(exist_ok=True)
    (root / "moved").rename(root / lie)  # "Img": img.zip unpacked in the root, where Img/ was there already

    def any_case(path) -> str:
        found = str(root)
        for step in Path(path).relative_to(root).parts:
            entries = os.listdir(found) if exists(found) else []
            found += "/" + next((entry for entry in entries if entry.lower() == step.lower()), step)
        return found

    exists, is_folder, is_file, scan = os.path.exists, os.path.isdir, os.path.isfile, os.scandir
    monkeypatch.setattr(deepfashion.os.path, "isdir", lambda path: is_folder(any_case(path)))
    monkeypatch.setattr(deepfashion.os.path, "isfile", lambda path: is_file(any_case(path)))
    monkeypatch.setattr(deepfashion.os, "scandir", lambda path: scan(any_case(path)))
    frame = deepfashion.read(root, "all")
    monkeypatch.undo()
    assert frame["image"].tolist() == [prefix + image for image in IMAGES]


def test_file_that_the_system_finds_under_another_spelling(fashion, monkeypatch):
    root = fashion.write()
    monkeypatch.setattr(annotations, "_files_in", lambda folder: set())  # as if listed otherwise, but there
    assert len(deepfashion.read(root, "all")) == 6


@pytest.mark.parametrize("archive", ["Img/img.zip", "img.zip"])
def test_archive_not_unpacked(fashion, archive):
    root = fashion.write()
    shutil.rmtree(root / "img")
    (root / archive).parent.mkdir(exist_ok=True)
    (root / archive).touch()
    assert f"but {archive}: unpack it" in refused(root, "found neither img/ nor Img/img/")
    (root / "img").mkdir()  # empty: still nothing
    assert "lapml data fetch" in refused(root, "unpack it where it lies")


def test_no_images(fashion):
    root = fashion.write()
    shutil.rmtree(root / "img")
    assert "https://mmlab.ie.cuhk.edu.hk/" in refused(root, "expected img.zip unpacked")


def test_images_of_other_categories_need_not_be_there(fashion):
    root = fashion.write()
    (root / TEE / "img_00000002.jpg").unlink()
    assert len(deepfashion.read(root, "1")) == 3
    refused(root, r"list_category_img.txt: there is no file .*Striped_Tee/img_00000002\.jpg")
    shutil.rmtree(root / TEE)
    assert len(deepfashion.read(root, "1")) == 3
    refused(root, r"there is no file .*Striped_Tee/img_00000001\.jpg")


def test_folder_in_place_of_an_image(fashion):
    root = fashion.write()
    (root / TEE / "img_00000001.jpg").unlink()
    (root / TEE / "img_00000001.jpg").mkdir()
    refused(root, "there is no file")


# --- categories ---


@pytest.mark.parametrize(
    ("classes", "names", "count"),
    [("1", ["Jeans"], 3), ("3,1", ["Jeans", "Tee"], 5), ("3,1,5", ["Jeans", "Tee", "Top"], 6), ("1,1-1", ["Jeans"], 3)],
)
def test_chosen_classes_get_contiguous_labels(fashion, classes, names, count):
    frame = deepfashion.read(fashion.write(), classes)
    assert frame.drop_duplicates("label").set_index("label")["class_name"].to_dict() == dict(enumerate(names))
    assert len(frame) == count


@pytest.mark.parametrize(("classes", "first"), [("2", "2 (Anorak)"), ("1-3", "2 (Anorak)"), ("1,4", "4 (Cape)")])
def test_category_without_images_asked_for(fashion, classes, first):
    text = refused(fashion.write(), "has no image", classes)
    assert f"category {first}" in text and "(3 of 5)" in text


@pytest.mark.parametrize("classes", ["6", "1-6", "0", "7", "1,7", "7-9"])
def test_unknown_class(fashion, classes):
    refused(fashion.write(), "expected class ids of .*list_category_cloth.txt", classes)


@pytest.mark.parametrize("classes", ["3-1", "", "a", "1-", "1,,2", "-1"])
def test_malformed_classes(fashion, classes):
    refused(fashion.write(), "expected 'all' or class ids", classes)


def test_train_and_test_must_not_be_empty(fashion):
    root = fashion.write()
    refused(root, "list_eval_partition.txt: the chosen classes have no train image", "5")
    fashion.lines[PARTITION] = [line.replace("test", "val") for line in fashion.lines[PARTITION]]
    refused(fashion.write(), "the chosen classes have no test image")


def test_val_may_be_empty(fashion):
    fashion.lines[PARTITION] = [line.replace("val", "train") for line in fashion.lines[PARTITION][2:]]
    fashion.lines[PARTITION][:0] = ["6", HEADERS[PARTITION]]
    assert set(deepfashion.read(fashion.write(), "all")["official"]) == {"train", "test"}


# --- damaged files ---


@pytest.mark.parametrize("name", FILES)
def test_missing_file(fashion, name):
    root = fashion.write()
    (root / name).unlink()
    message = f"{Path(name).name}: no such file; the DeepFashion layout needs"
    assert PARTITION in refused(root, message)
    with pytest.raises(LapmlError, match=message):
        deepfashion.fingerprint(root)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("first", "message"),
    [
        ([], ":1: found '', expected the number of lines"),
        (["six"], ":1: found 'six', expected the number of lines"),
        (["-6"], ":1: found '-6', expected the number of lines"),
        (["9" * 5000], ":1: found '9+', expected the number of lines"),
        (["0"], ":2: found '', expected the names of the columns"),
    ],
)
def test_first_lines(fashion, name, first, message):
    fashion.lines[name] = first
    assert len(refused(fashion.write(), Path(name).name + message)) < 500


@pytest.mark.parametrize("name", FILES)
def test_no_header(fashion, name):
    del fashion.lines[name][1]
    refused(fashion.write(), Path(name).name + ":2: found .* expected the names of the columns")


@pytest.mark.parametrize("name", FILES)
def test_no_lines(fashion, name):
    fashion.lines[name] = ["0", HEADERS[name]]
    refused(fashion.write(), Path(name).name + ": is empty")


@pytest.mark.parametrize("name", FILES)
def test_cut_off_file(fashion, name):
    root = fashion.write()
    whole = (root / name).read_text()
    start = whole.rindex("\n", 0, -1) + 1  # of the last line
    (root / name).write_text(whole[:start])
    count = int(whole.split("\n")[0])
    refused(root, f"{Path(name).name}: found {count - 1} lines after the header, expected {count}.*: it is cut off")
    (root / name).write_text(whole[: start - 3])  # even if the last line is but half of one
    refused(root, f"found {count - 1} lines")
    (root / name).write_text(whole[: start + 3])  # the count is right, the line is not
    refused(root, rf"{Path(name).name}:{count + 2}: found '...', expected")
    (root / name).write_text(whole + whole[start:])
    refused(root, f"found {count + 1} lines after the header, expected {count}.*: it has lines too many")


@pytest.mark.parametrize("name", FILES)
def test_repeated_line(fashion, name):
    fashion.lines[name][4] = fashion.lines[name][3]
    what = fashion.lines[name][3].rsplit(maxsplit=4 if name == BOXES else 1)[0]
    refused(fashion.write(), f"{Path(name).name}:5: name '{what}' is there already at .*:4,")


def test_not_text(fashion):
    (fashion.write() / CATEGORY).write_bytes(b"6\n\xff\xfe\n")
    refused(fashion.root, "list_category_img.txt: is not UTF-8")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (CLOTH, "Tee", "a name and 1 more"),
        (CLOTH, "Tee 4", r"its type \(1, 2 or 3\)"),
        (CLOTH, "Tee one", r"its type \(1, 2 or 3\)"),
        (CATEGORY, "img/a.jpg", "a name and 1 more"),
        (CATEGORY, "img/a.jpg 0", r"the id of a category of list_category_cloth.txt \(1\.\.5\)"),
        (CATEGORY, "img/a.jpg 6", "the id of a category"),
        (CATEGORY, "img/a.jpg -1", "the id of a category"),
        (CATEGORY, "img/a.jpg 1.0", "the id of a category"),
        (CATEGORY, "img/a.jpg ¹", "the id of a category"),
        (CATEGORY, "img/a.jpg " + "9" * 5000, "the id of a category"),
        (CATEGORY, "image/a.jpg 1", "starts with img/"),
        (CATEGORY, "/img/a.jpg 1", "starts with img/"),
        (CATEGORY, "img 1", "starts with img/"),
        (CATEGORY, "img/ 1", "starts with img/"),
        (CATEGORY, "img/../../secret.jpg 1", "starts with img/"),
        (CATEGORY, "img//a.jpg 1", "starts with img/"),
        (CATEGORY, r"img\a.jpg 1", "starts with img/"),
        (CATEGORY, r"img/..\a.jpg 1", "starts with img/"),
        (PARTITION, "img/a.jpg", "a name and 1 more"),
        (PARTITION, "img/a.jpg Train", "train, val or test"),
        (PARTITION, "img/a.jpg 1", "train, val or test"),
        (BOXES, "img/a.jpg", "a name and 4 more"),
        (BOXES, "img/a.jpg 1 2 3", "a name and 4 more"),
        (BOXES, "img/a.jpg 1 2 3 x", "four whole numbers"),
        (BOXES, "img/a.jpg 1 2 3 4.5", "four whole numbers"),
        (BOXES, "img/a.jpg 1 2 3 nan", "four whole numbers"),
        (BOXES, "img/a.jpg 1 2 3 1_0", "four whole numbers"),
        (BOXES, "img/a.jpg 1 2 3 " + "9" * 400, "four whole numbers"),
        (BOXES, "img/a b.jpg 1 2 3", "four whole numbers"),
    ],
)
def test_bad_line_is_named(fashion, name, line, message):
    fashion.lines[name][3] = line
    assert f"{Path(name).name}:4: found '" in refused(fashion.write(), message)


@pytest.mark.parametrize(("name", "lacks"), [(CATEGORY, CATEGORY), (PARTITION, PARTITION)])
def test_image_in_one_file_only(fashion, name, lacks):
    image = fashion.lines[name].pop(5).rsplit(maxsplit=1)[0]
    recount(fashion.lines[name])
    refused(fashion.write(), rf"{Path(lacks).name}: image '{image}' of .* is missing \(1 in all\)")


def test_image_without_box(fashion):
    del fashion.lines[BOXES][2]
    recount(fashion.lines[BOXES])
    boxes = deepfashion.read(fashion.write(), "all")["box"].tolist()
    assert boxes[0] is None and boxes[1] == [0.0, 0.0, 300.0, 200.0]


def test_box_without_image(fashion):
    fashion.lines[BOXES].append("img/other.jpg 1 1 2 2")
    recount(fashion.lines[BOXES])
    refused(fashion.write(), "list_bbox.txt: image 'img/other.jpg' is not in .*list_category_img.txt")


def test_windows_line_ends_byte_order_mark_and_blank_lines(fashion):
    root = fashion.write()
    frame = deepfashion.read(root, "all")
    for name in FILES:
        (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert deepfashion.read(root, "all").equals(frame)


def test_category_ids_may_be_padded_with_zeros(fashion):
    fashion.lines[CATEGORY][2] = f"{TEE}/img_00000001.jpg 001"
    assert deepfashion.read(fashion.write(), "all")["class_name"].tolist()[0] == "Jeans"


# --- any names, any padding ---

STEP = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=" -_."), min_size=1, max_size=8)
STEPS = STEP.filter(lambda step: step.strip(" ") == step and step.strip("."))
PADDING = st.text(" \t", min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.tuples(STEPS, STEPS), min_size=2, max_size=4, unique_by=lambda name: "/".join(name).lower()),
    data=st.data(),
)
def test_padding_and_names(names, data):
    names = [f"img/{folder}.d/{file}.jpg" for folder, file in names]  # no file has a folder's name
    splits = ["train", "test", *("val" for _ in names[2:])]
    corners = data.draw(st.lists(st.tuples(*[st.integers(0, 999)] * 4), min_size=len(names), max_size=len(names)))
    values = {
        CLOTH: [("Long Skirt", "2")],
        CATEGORY: [(name, "1") for name in names],
        BOXES: [
            (name, *(f"{each:0{data.draw(st.integers(1, 6))}}" for each in box))
            for name, box in zip(names, corners, strict=True)
        ],
        PARTITION: list(zip(names, splits, strict=True)),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for file, rows in values.items():
            rows = data.draw(st.permutations(rows)) if file in (BOXES, PARTITION) else rows
            text = f"{len(rows)}\n{data.draw(PADDING)}{HEADERS[file]}\n"
            for row in rows:
                text += row[0] + "".join(data.draw(PADDING) + value for value in row[1:])
                text += data.draw(st.sampled_from(["\n", "  \n", "\r\n", "\n\n"]))
            (root / file).parent.mkdir(exist_ok=True)
            (root / file).write_text(text, newline="")
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        frame = deepfashion.read(root, "all")
    assert frame["image"].tolist() == names and frame["official"].tolist() == splits
    assert set(frame["class_name"]) == {"Long Skirt"}
    for box, (x1, y1, x2, y2) in zip(frame["box"], corners, strict=True):
        assert box == ([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1] if x1 <= x2 and y1 <= y2 else None)


def test_fingerprint_depends_on_every_annotation_file(fashion):
    count, before = deepfashion.fingerprint(fashion.write())
    assert count == 6
    for name in FILES:
        (fashion.root / name).write_text((fashion.root / name).read_text() + "\n")
        assert (after := deepfashion.fingerprint(fashion.root)[1]) != before
        before = after
