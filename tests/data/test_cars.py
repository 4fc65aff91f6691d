"""The reader of both layouts of Stanford Cars, on good and on bad files, and beside torchvision's."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from torchvision.datasets import StanfordCars

from lapml.data.readers import cars
from lapml.errors import LapmlError

NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class")
TRAIN, TEST, META = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat"
MERGED = "cars_annos.mat"
UNLABELLED = "devkit/cars_test_annos.mat"
CLASSES = {"train": [3, 1, 2, 1, 2, 3, 1], "test": [2, 2, 1, 3]}  # of image after image
Row = dict[str, Any]


def smallest(value: Any) -> Any:
    """A whole number in as few bytes as fit, as MATLAB has saved the authors' numbers."""
    return np.min_scalar_type(value).type(value) if isinstance(value, int) else value


def cell(names: list[Any]) -> np.ndarray:
    made = np.empty((1, len(names)), object)
    made[0, :] = names
    return made


def structs(rows: list[Row]) -> np.ndarray:
    """A struct array, 1 × images."""
    made = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for at, row in enumerate(rows):
        made[0, at] = tuple(smallest(value) for value in row.values())
    return made


@dataclass
class Layout:
    """The variables of the MATLAB files, kept until ``write``; change them first to make a bad one."""

    root: Path
    rows: dict[str, list[Row]] = field(default_factory=dict)  # file → annotations
    names: dict[str, list[Any]] = field(default_factory=dict)  # file → class_names
    images: list[str] = field(default_factory=list)

    def write(self, **options) -> Path:
        for name in {**self.rows, **self.names}:
            found = {"annotations": structs(self.rows[name])} if name in self.rows else {}
            found |= {"class_names": cell(self.names[name])} if name in self.names else {}
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            savemat(self.root / name, found, **options)
        for image in self.images:
            (self.root / image).parent.mkdir(exist_ok=True)
            (self.root / image).touch()
        return self.root


def boxed(number: int, corners: tuple[int, ...] = (39, 116, 569, 375)) -> Row:
    return dict(zip(FIELDS, (*corners, number), strict=True))


def split_layout(root: Path) -> Layout:
    made = Layout(root / "stanford_cars", names={META: NAMES})
    for split, file in (("train", TRAIN), ("test", TEST)):
        made.rows[file] = [
            boxed(number) | {"fname": f"{at:05d}.jpg"} for at, number in enumerate(CLASSES[split], start=1)
        ]
        made.images += [f"cars_{split}/{row['fname']}" for row in made.rows[file]]
    made.rows[UNLABELLED] = [{name: row[name] for name in row if name != "class"} for row in made.rows[TEST]]
    return made


def merged_layout(root: Path) -> Layout:
    """The same images: those of training, and then those of test."""
    made = Layout(root / "merged", names={MERGED: NAMES}, rows={MERGED: []})
    for at, number in enumerate(CLASSES["train"] + CLASSES["test"], start=1):
        row = {"relative_im_path": f"car_ims/{at:06d}.jpg"} | boxed(number) | {"test": int(at > 7)}
        made.rows[MERGED].append(row)
        made.images.append(row["relative_im_path"])
    return made


LAYOUTS = {"split": split_layout, "merged": merged_layout}
FILES = {"split": TRAIN, "merged": MERGED}  # one with annotations
PATHS = {"split": "fname", "merged": "relative_im_path"}


@pytest.fixture
def split(tmp_path) -> Layout:
    return split_layout(tmp_path)


@pytest.fixture
def merged(tmp_path) -> Layout:
    return merged_layout(tmp_path)


@pytest.fixture(params=LAYOUTS)
def either(tmp_path, request) -> tuple[Layout, str, str]:
    """A layout, one of its files with annotations, and the field with an image's path."""
    return LAYOUTS[request.param](tmp_path), FILES[request.param], PATHS[request.param]


def test_fixture_is_as_the_authors_files(split, merged):
    """Without options scipy shows 1 × N structs of 1 × 1 arrays of the smallest type, as it does for the real ones."""
    first = loadmat(merged.write() / MERGED)["annotations"][0, 0]
    assert [str(value.dtype) for value in first] == ["<U18", "uint8", "uint8", "uint16", "uint16", "uint8", "uint8"]
    assert {value.shape for value in first} == {(1,), (1, 1)}
    assert loadmat(split.write() / META)["class_names"].shape == (1, 3)


def test_good_split_layout(split):
    split.rows[TRAIN][1] |= dict(zip(FIELDS, (1, 1, 1, 1), strict=False))  # the first pixel alone
    split.rows[TRAIN][2] |= dict(zip(FIELDS, (0, 250, 300, 255), strict=False))  # a corner outside; 255 + 1 in a uint8
    frame = cars.read(split.write(), "all")
    assert list(frame.columns) == ["image", "label", "class_name", "official", "box", "parts"]
    assert frame["image"].tolist() == [
        *(f"cars_train/0000{number}.jpg" for number in range(1, 8)),
        *(f"cars_test/0000{number}.jpg" for number in range(1, 5)),
    ]
    assert frame["official"].tolist() == ["train"] * 7 + ["test"] * 4
    assert frame["label"].tolist() == [2, 0, 1, 0, 1, 2, 0, 1, 1, 0, 2]
    assert frame["class_name"].tolist() == [NAMES[label] for label in frame["label"]]
    assert frame["box"][0] == [38.0, 115.0, 531.0, 260.0]  # 569 - 39 + 1, 375 - 116 + 1
    assert frame["box"][1] == [0.0, 0.0, 1.0, 1.0]
    assert frame["box"][2] == [-1.0, 249.0, 301.0, 6.0]
    assert all(isinstance(value, float) for box in frame["box"] for value in box)
    assert all(parts is None for parts in frame["parts"]) and cars.part_names(split.root) == []


def test_layouts_with_the_same_images_give_the_same_frame(split, merged):
    one, other = cars.read(split.write(), "all"), cars.read(merged.write(), "all")
    assert other["image"].tolist() == [f"car_ims/{number:06d}.jpg" for number in range(1, 12)]
    pd.testing.assert_frame_equal(one.drop(columns="image"), other.drop(columns="image"))


def test_merged_layout_in_any_order(merged):
    merged.rows[MERGED].reverse()
    frame = cars.read(merged.write(), "all")
    assert frame["official"].tolist() == ["test"] * 4 + ["train"] * 7
    assert frame["image"][0] == "car_ims/000011.jpg" and frame["class_name"][0] == NAMES[2]


@pytest.mark.parametrize("part", ["train", "test"])
def test_same_files_and_labels_as_torchvision(split, part):
    frame = cars.read(split.write(), "all")
    theirs = StanfordCars(split.root.parent, part, loader=str)  # the path in place of the image
    ours = [(str(split.root / row.image), row.label) for row in frame.itertuples() if row.official == part]
    assert ours == [theirs[at] for at in range(len(theirs))] and len(ours) == len(CLASSES[part])
    assert theirs.classes == frame.drop_duplicates("label").sort_values("label")["class_name"].tolist()


@pytest.mark.parametrize(
    ("classes", "names"), [("3", [NAMES[2]]), ("3,1", [NAMES[0], NAMES[2]]), ("2-3,3", [NAMES[1], NAMES[2]])]
)
def test_chosen_classes_get_contiguous_labels(either, classes, names):
    layout, *_ = either
    whole = cars.read(layout.write(), "all")
    frame = cars.read(layout.root, classes)
    assert frame.drop_duplicates("label").set_index("label")["class_name"].sort_index().to_dict() == dict(
        enumerate(names)
    )
    assert frame["image"].tolist() == whole[whole["class_name"].isin(names)]["image"].tolist()


@pytest.mark.parametrize("classes", ["4", "0", "1-4", "5", "1,5", "5-9"])
def test_unknown_class(either, classes):
    with pytest.raises(LapmlError, match=r"expected class ids of .*cars_(meta|annos)\.mat \(1\.\.3, 3 classes\)"):
        cars.read(either[0].write(), classes)


# --- what MATLAB files of the same content may look like ---


def test_fields_in_any_order_and_fields_that_are_not_needed(either):
    layout, file, _ = either
    before = cars.read(layout.write(), "all")
    layout.rows[file] = [dict(reversed(row.items())) | {"note": "x"} for row in layout.rows[file]]
    pd.testing.assert_frame_equal(cars.read(layout.write(), "all"), before)


def test_compressed(either):
    before = cars.read(either[0].write(), "all")
    pd.testing.assert_frame_equal(cars.read(either[0].write(do_compression=True), "all"), before)


def test_columns_in_place_of_rows_and_numbers_as_doubles(either):
    layout, file, _ = either
    before = cars.read(layout.write(), "all")
    layout.rows[file] = [
        {name: float(value) if isinstance(value, int) else value for name, value in row.items()}
        for row in layout.rows[file]
    ]
    layout.write()
    names = {"class_names": cell(NAMES).T} if file == MERGED else {}
    savemat(layout.root / file, {"annotations": structs(layout.rows[file]).T} | names)
    pd.testing.assert_frame_equal(cars.read(layout.root, "all"), before)


def test_one_image_and_one_class(split):
    """scipy shows a struct array of one element as no array at all, and so a cell of one."""
    split.names[META] = NAMES[:1]
    split.rows[TRAIN] = [row | {"class": 1} for row in split.rows[TRAIN][:2]]
    split.rows[TEST] = [split.rows[TEST][0] | {"class": 1}]
    frame = cars.read(split.write(), "all")
    assert frame["official"].tolist() == ["train", "train", "test"] and set(frame["class_name"]) == {NAMES[0]}
    assert frame["box"][2] == [38.0, 115.0, 531.0, 260.0]
    assert cars.fingerprint(split.root)[0] == 3


def test_class_196_is_a_uint8(split):
    split.names[META] = [f"car {number}" for number in range(1, 197)]
    split.rows[TRAIN] = [row | {"class": 196} for row in split.rows[TRAIN]]
    split.rows[TEST] = [row | {"class": 196} for row in split.rows[TEST]]
    frame = cars.read(split.write(), "196")
    assert set(frame["class_name"]) == {"car 196"} and set(frame["label"]) == {0}


def test_annotations_of_the_split_layout_may_lie_elsewhere(split):
    before, fingerprint = cars.read(split.write(), "all"), cars.fingerprint(split.root)
    (split.root / TRAIN).rename(split.root / "cars_train_annos.mat")
    (split.root / TEST).rename(split.root / "devkit" / TEST)
    pd.testing.assert_frame_equal(cars.read(split.root, "all"), before)
    assert cars.fingerprint(split.root) == fingerprint


@pytest.mark.parametrize(
    ("images", "devkit", "first"),
    [
        ("split", True, "cars_train/"),
        ("merged", True, "car_ims/"),
        ("split merged", True, "cars_train/"),
        ("split merged", False, "car_ims/"),
    ],
)
def test_files_of_both_layouts_the_images_decide(split, merged, images, devkit, first):
    """Some copies hold cars_annos.mat beside cars_train/, others the devkit beside car_ims/."""
    split.rows[TRAIN].pop(1)  # so that the layouts differ in number
    merged.root = split.root
    split.images = split.images if "split" in images else []
    merged.images = merged.images if "merged" in images else []
    split.write()
    merged.write()
    if not devkit:
        (split.root / META).unlink()
    frame = cars.read(split.root, "all")
    assert frame["image"][0].startswith(first)
    assert len(frame) == cars.fingerprint(split.root)[0] == (10 if first == "cars_train/" else 11)


def test_images_of_the_split_layout_without_the_devkit(merged):
    """cars_annos.mat numbers the images otherwise: it tells nothing of those in cars_train/."""
    merged.images = ["cars_train/00001.jpg"]
    with pytest.raises(LapmlError, match=f"{META}: no such file; the Stanford Cars layout needs"):
        cars.read(merged.write(), "all")


# --- boxes ---


def test_reversed_corners(either):
    layout, file, _ = either
    layout.rows[file][0] |= {"bbox_x1": 570}
    layout.rows[file][1] |= {"bbox_y2": 115}
    assert [box is None for box in cars.read(layout.write(), "all")["box"]] == [True] * 2 + [False] * 9


BOXES = st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 3000))


@pytest.mark.parametrize("name", LAYOUTS)
@hypothesis_settings(max_examples=20)
@given(st.lists(BOXES, min_size=7, max_size=7))
def test_boxes_go_round(name, boxes):
    with tempfile.TemporaryDirectory() as folder:
        layout, file = LAYOUTS[name](Path(folder)), FILES[name]
        for row, (x, y, width, height) in zip(layout.rows[file], boxes, strict=False):
            row |= dict(zip(FIELDS, (x + 1, y + 1, x + width, y + height), strict=False))
        assert cars.read(layout.write(), "all")["box"].tolist()[:7] == [list(box) for box in boxes]


# --- bad files ---


@pytest.mark.parametrize("name", [TRAIN, TEST])
def test_missing_file(split, name):
    del split.rows[UNLABELLED]
    (split.write() / name).unlink()
    for reads in (lambda: cars.read(split.root, "all"), lambda: cars.fingerprint(split.root)):
        with pytest.raises(LapmlError, match=f"{name}: no such file; the Stanford Cars layout needs {META}, {TRAIN}"):
            reads()


def test_nothing_there(tmp_path):
    with pytest.raises(LapmlError, match="no such file; the Stanford Cars layout needs"):
        cars.read(tmp_path, "all")


@pytest.mark.parametrize("place", ["", "devkit"])
def test_only_the_test_annotations_without_classes(split, place):
    (split.write() / TEST).unlink()
    (split.root / UNLABELLED).rename(split.root / place / "cars_test_annos.mat")
    for reads in (lambda: cars.read(split.root, "all"), lambda: cars.fingerprint(split.root)):
        with pytest.raises(LapmlError, match=f"get {TEST} too .* and put it into {split.root} or ") as caught:
            reads()
        assert str(split.root / place / "cars_test_annos.mat") in str(caught.value)


def test_test_annotations_without_classes_under_the_other_name(split):
    (split.write() / UNLABELLED).replace(split.root / TEST)
    with pytest.raises(LapmlError, match=f"{TEST}: annotations lack class, .*; is it cars_test_annos.mat, renamed"):
        cars.read(split.root, "all")


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables)
    return buffer.getvalue()


PAGE = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>The page is gone.</body></html>" * 20
DAMAGED = {
    "empty": lambda whole: b"",
    "a web page": lambda whole: PAGE,
    "a short one": lambda whole: b"<html></html>",
    "zeros": lambda whole: bytes(1000),
    "the head alone": lambda whole: whole[:130],
    "cut off": lambda whole: whole[: len(whole) // 2],
    "cut off at the end": lambda whole: whole[:-64],
    "MATLAB 7.3": lambda whole: b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(500),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", [TRAIN, TEST, META, MERGED])
def test_no_matlab_file(split, merged, name, damage):
    root = merged.write() if name == MERGED else split.write()
    (root / name).write_bytes(damage((root / name).read_bytes()))
    with pytest.raises(
        LapmlError, match=f"{name}: (is no MATLAB file that can be read|lacks the variable) .* get it again"
    ):
        cars.read(root, "all")


def test_every_compressed_file_that_is_cut_off(merged):
    whole = (merged.write(do_compression=True) / MERGED).read_bytes()
    for length in range(0, len(whole), 7):
        (merged.root / MERGED).write_bytes(whole[:length])
        with pytest.raises(LapmlError, match=f"{MERGED}: "):
            cars.read(merged.root, "all")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN, {"annos": 1}, "lacks the variable annotations"),
        (TRAIN, {"annotations": 1}, "annotations is no struct array, or is empty"),
        (TRAIN, {"annotations": "none"}, "annotations is no struct array, or is empty"),
        (TRAIN, {"annotations": np.empty((1, 0), [("fname", object)])}, "annotations is no struct array, or is empty"),
        (TRAIN, {"annotations": cell(["a", "b"])}, "annotations is no struct array, or is empty"),
        (
            TRAIN,
            {"annotations": {"fname": "1.jpg", "bbox_x1": 1}},
            "annotations lack class, bbox_y1, bbox_x2, bbox_y2, .* get",
        ),
        (META, {"names": cell(NAMES)}, "lacks the variable class_names"),
        (META, {"class_names": np.empty((1, 0), object)}, "class_names is empty"),
        (META, {"class_names": cell([*NAMES[:2], 7])}, r"class_names\(3\): found 7, expected a name"),
        (META, {"class_names": cell([NAMES[0], " ", NAMES[2]])}, r"class_names\(2\): found ' ', expected a name"),
        (META, {"class_names": np.arange(3.0)}, r"class_names\(1\): found .*, expected a name"),
    ],
)
def test_other_content(split, name, content, message):
    (split.write() / name).write_bytes(mat(**content))
    with pytest.raises(LapmlError, match=f"{name}: {message}"):
        cars.read(split.root, "all")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("class", 0, r"found 0, expected a class of .*cars_(meta|annos)\.mat \(1\.\.3\)"),
        ("class", 4, r"found 4, expected a class of .*cars_(meta|annos)\.mat \(1\.\.3\)"),
        ("class", 1.5, "found 1.5, expected a class of"),
        ("class", float("nan"), "found nan, expected a class of"),
        ("class", "1", "found '1', expected a class of"),
        ("class", 1 + 1j, "expected a class of"),
        ("class", np.array([]), "expected a class of"),
        ("class", np.array([1, 2]), "expected a class of"),
        ("bbox_x1", float("nan"), "found nan, expected a pixel's number"),
        ("bbox_y2", float("inf"), "found inf, expected a pixel's number"),
        ("bbox_y1", "7", "found '7', expected a pixel's number"),
        ("bbox_x2", np.array([]), "expected a pixel's number"),
        ("path", "../00001.jpg", "found '../00001.jpg', expected a path that stays below"),
        ("path", "/etc/passwd", "found '/etc/passwd', expected a path that stays below"),
        ("path", "a\\b.jpg", "expected a path that stays below"),
        ("path", "", "expected a path that stays below"),
        ("path", 7, "found 7, expected a path that stays below"),
        ("path", cell(["a.jpg", "b.jpg"]), "expected a path that stays below"),
    ],
)
def test_bad_value_is_named(either, field, value, message):
    layout, file, path = either
    field = path if field == "path" else field
    layout.rows[file][4][field] = value
    with pytest.raises(LapmlError, match=message) as caught:
        cars.read(layout.write(), "all")
    assert str(caught.value).startswith(f"{layout.root / file}: annotations(5).{field}: ")


@pytest.mark.parametrize("value", [2, -1, 0.5, "1"])
def test_bad_split(merged, value):
    merged.rows[MERGED][4]["test"] = value
    with pytest.raises(LapmlError, match=r"annotations\(5\)\.test: found .*, expected 1 \(test\) or 0 \(train\)"):
        cars.read(merged.write(), "all")


def test_image_listed_twice(either):
    layout, file, path = either
    layout.rows[file][5][path] = "./" + layout.rows[file][2][path]
    with pytest.raises(
        LapmlError, match=r"annotations\(6\) is car.*00003\.jpg, and so is .*annotations\(3\), expected"
    ):
        cars.read(layout.write(), "all")


@pytest.mark.parametrize(("at", "name"), [(1, TRAIN), (9, TEST)])
def test_image_of_the_split_layout_not_there(split, at, name):
    (split.write() / split.images[at]).unlink()
    with pytest.raises(LapmlError, match=f"{name}: there is no file .*{split.images[at]}"):
        cars.read(split.root, "all")
    assert len(cars.read(split.root, "2-3")) == 7  # it was of class 1


def test_image_of_the_merged_layout_not_there(merged):
    (merged.write() / merged.images[1]).unlink()
    with pytest.raises(LapmlError, match=f"{MERGED}: there is no file .*{merged.images[1]}"):
        cars.read(merged.root, "all")


def test_class_without_images(either):
    layout, *_ = either
    names = next(iter(layout.names))
    layout.names[names] = [*NAMES, "Ghost 2012"]
    with pytest.raises(LapmlError, match=r"class 4 \(Ghost 2012\) has 0 training images"):
        cars.read(layout.write(), "all")
    assert len(cars.read(layout.root, "1-3")) == 11


def test_class_with_one_training_image(split):
    split.rows[TRAIN][0]["class"] = 1
    with pytest.raises(LapmlError, match=r"class 3 \(Ram C/V Cargo Van Minivan 2012\) has 1 training images"):
        cars.read(split.write(), "all")


def test_no_test_image(merged):
    merged.rows[MERGED] = [row | {"test": 0} for row in merged.rows[MERGED]]
    with pytest.raises(LapmlError, match="the chosen classes have no test image"):
        cars.read(merged.write(), "all")


# --- the whole ---


@pytest.mark.parametrize(("made", "files"), [(split_layout, (META, TRAIN, TEST)), (merged_layout, (MERGED,))])
def test_fingerprint_depends_on_every_annotation_file(tmp_path, made: Callable[[Path], Layout], files):
    layout = made(tmp_path)
    count, before = cars.fingerprint(layout.write())
    assert count == 11
    for name in files:  # the text of its head, of which the reader takes no notice
        content = (layout.root / name).read_bytes()
        (layout.root / name).write_bytes(b"MATLAB 5.0 MAT-file, written anew".ljust(116) + content[116:])
        assert cars.fingerprint(layout.root)[0] == 11 and (after := cars.fingerprint(layout.root)[1]) != before
        before = after


def test_root(split, merged, tmp_path):
    assert cars.is_root(split.write()) and cars.is_root(merged.write())
    assert not cars.is_root(tmp_path) and not cars.is_root(split.root / "devkit")


def test_by_hand_names_every_file_to_get():
    for name in ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz", TEST, "car_ims.tgz", MERGED):
        assert name in cars.DOWNLOAD.by_hand
    assert not cars.DOWNLOAD.urls and cars.DOWNLOAD.checksum is None
