"""The reader of the CUB-200-2011 layout, on good and on bad files."""

from pathlib import Path

import pytest

from lapml.data.readers import cub200
from lapml.errors import LapmlError


def test_good_layout(cub):
    frame = cub200.read(cub.write(), "all")
    assert list(frame.columns) == ["image", "label", "class_name", "official", "box", "parts"]
    assert len(frame) == 18 and frame["official"].value_counts().to_dict() == {"train": 12, "test": 6}
    row = frame.iloc[7]
    assert row["image"] == "002.Green_Finch/bird 1.png" and row["label"] == 1 and row["class_name"] == "002.Green_Finch"
    assert row["box"] == [10.0, 5.0, 20.0, 15.0] and row["parts"] == [[12.0, 6.5, 1.0], [0.0, 0.0, 0.0]]
    assert cub200.part_names(cub.root) == ["beak", "tail"]


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("3", ["003.Blue_Finch"]),
        ("3,1", ["001.Red_Finch", "003.Blue_Finch"]),
        ("2-3,3", ["002.Green_Finch", "003.Blue_Finch"]),
    ],
)
def test_chosen_classes_get_contiguous_labels(cub, classes, names):
    frame = cub200.read(cub.write(), classes)
    first = frame.drop_duplicates("label").set_index("label")["class_name"]
    assert first.to_dict() == dict(enumerate(names)) and len(frame) == 6 * len(names)


def test_images_of_other_classes_need_not_be_there(cub):
    root = cub.write()
    (root / "images" / cub.path(1)).unlink()
    assert len(cub200.read(root, "2-3")) == 12
    with pytest.raises(LapmlError, match=r"images.txt: there is no file .*bird 0\.png"):
        cub200.read(root, "all")


def test_windows_line_ends_byte_order_mark_and_blank_lines(cub):
    root = cub.write()
    for name in cub200.ANNOTATIONS:
        file = root / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(cub200.read(root, "all")) == 18


@pytest.mark.parametrize("name", cub200.ANNOTATIONS)
def test_missing_file(cub, name):
    root = cub.write()
    (root / name).unlink()
    with pytest.raises(LapmlError, match=f"{name}: no such file"):
        cub200.read(root, "all")
    with pytest.raises(LapmlError, match=f"{name}: no such file"):
        cub200.fingerprint(root)


@pytest.mark.parametrize("name", cub200.ANNOTATIONS)
def test_empty_file(cub, name):
    cub.lines[name] = []
    with pytest.raises(LapmlError, match=name):
        cub200.read(cub.write(), "all")


@pytest.mark.parametrize("name", [name for name in cub200.ANNOTATIONS if "part" not in name and name != "classes.txt"])
def test_image_missing_in_one_file(cub, name):
    del cub.lines[name][4]
    expected = "image_class_labels.txt" if name == "images.txt" else name
    with pytest.raises(LapmlError, match="image 5 of .* is missing") as caught:
        cub200.read(cub.write(), "all")
    assert name in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("images.txt", "x 001.Red_Finch/bird.png", "starts with a number"),
        ("images.txt", "7", "a path that stays below"),
        ("images.txt", "7 ../secret.png", "a path that stays below"),
        ("images.txt", "7 /etc/passwd", "a path that stays below"),
        ("images.txt", "6 002.Green_Finch/bird 0.png", r"id 6 is there already at .*images\.txt:6,"),
        ("classes.txt", "7", "a name"),
        ("image_class_labels.txt", "7 4", r"a class id of classes.txt \(1\.\.3\)"),
        ("image_class_labels.txt", "7 0", r"a class id of classes.txt \(1\.\.3\)"),
        ("image_class_labels.txt", "7 two", "a class id of classes.txt"),
        ("train_test_split.txt", "7 2", r"1 \(train\) or 0 \(test\)"),
        ("bounding_boxes.txt", "7 1 2 3", "width and height above 0"),
        ("bounding_boxes.txt", "7 1 2 3 nan", "width and height above 0"),
        ("bounding_boxes.txt", "7 1 2 0 5", "width and height above 0"),
        ("bounding_boxes.txt", "7 1 2 x 5", "width and height above 0"),
        ("parts/part_locs.txt", "7", "a part id of parts.txt"),
        ("parts/part_locs.txt", "7 3 1.0 1.0 1", "a part id of parts.txt"),
        ("parts/part_locs.txt", "99 1 1.0 1.0 1", "an image id of images.txt"),
        ("parts/part_locs.txt", "4 1 1.0 1.0", "<visible, 0 or 1>"),
        ("parts/part_locs.txt", "4 1 1.0 inf 1", "<visible, 0 or 1>"),
        ("parts/part_locs.txt", "4 1 1.0 1.0 2", "<visible, 0 or 1>"),
        ("parts/part_locs.txt", "1 1 1.0 1.0 1", r"image and part \(1, 1\) is there already at .*part_locs\.txt:1,"),
    ],
)
def test_bad_line_is_named(cub, name, line, message):
    at = 2 if name == "classes.txt" else 6
    cub.lines[name][at] = line
    with pytest.raises(LapmlError, match=message) as caught:
        cub200.read(cub.write(), "all")
    assert f"{name}:{at + 1}:" in str(caught.value)


def test_part_missing(cub):
    del cub.lines["parts/part_locs.txt"][3]
    with pytest.raises(LapmlError, match="image 2 lacks part 2"):
        cub200.read(cub.write(), "all")


def test_same_file_twice(cub):
    cub.lines["images.txt"][1] = f"2 {cub.path(1)}"
    with pytest.raises(LapmlError, match="images 1 and 2 are both"):
        cub200.read(cub.write(), "all")


def test_not_text(cub):
    (cub.write() / "classes.txt").write_bytes(b"1 \xff\xfe\n")
    with pytest.raises(LapmlError, match="not UTF-8"):
        cub200.read(cub.root, "all")


def test_class_with_one_training_image(cub):
    for at in (0, 1, 2):
        cub.lines["train_test_split.txt"][at] = f"{at + 1} 0"
    with pytest.raises(LapmlError, match=r"class 1 \(001.Red_Finch\) has 1 training images"):
        cub200.read(cub.write(), "all")
    assert cub200.read(cub.root, "2,3")["label"].nunique() == 2


def test_class_without_images(cub):
    cub.lines["classes.txt"].append("4 004.Ghost")
    with pytest.raises(LapmlError, match=r"class 4 \(004.Ghost\) has 0 training images"):
        cub200.read(cub.write(), "all")


def test_empty_test_split(cub):
    cub.lines["train_test_split.txt"] = [f"{image} 1" for image in range(1, 19)]
    with pytest.raises(LapmlError, match="no test image"):
        cub200.read(cub.write(), "all")


@pytest.mark.parametrize("classes", ["4", "1-4", "0", "5", "1,5", "5-9"])
def test_unknown_class(cub, classes):
    with pytest.raises(LapmlError, match="expected class ids of .*classes.txt"):
        cub200.read(cub.write(), classes)


@pytest.mark.parametrize("classes", ["3-1", "", "a", "1-", "1,,2", "-1"])
def test_malformed_classes(cub, classes):
    with pytest.raises(LapmlError, match="expected 'all' or class ids"):
        cub200.read(cub.write(), classes)


def test_fingerprint_depends_on_every_annotation_file(cub):
    count, before = cub200.fingerprint(cub.write())
    assert count == 18
    for name in cub200.ANNOTATIONS:
        (cub.root / name).write_text((cub.root / name).read_text() + "\n")
        assert (after := cub200.fingerprint(cub.root)[1]) != before
        before = after


@pytest.mark.real
def test_real_cub(real_cub):
    folder = real_cub
    frame = cub200.read(Path(folder), "all")
    assert frame["label"].nunique() == 200 and frame["official"].value_counts().to_dict() == {
        "train": 5994,
        "test": 5794,
    }
    assert len(cub200.part_names(Path(folder))) == 15 and {len(parts) for parts in frame["parts"]} == {15}
    sparrows = cub200.read(Path(folder), "113-133")
    assert sparrows["label"].nunique() == 21 and sparrows["class_name"].iloc[0] == "113.Baird_Sparrow"
