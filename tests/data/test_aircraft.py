"""The reader of the FGVC-Aircraft layout, on good and on bad files, and beside torchvision's."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torchvision.datasets import FGVCAircraft

from lapml.data.readers import aircraft
from lapml.errors import LapmlError

# Real labels, with their spaces, slashes and dots; two variants share a family, three a manufacturer.
VARIANTS = {
    "707-320": ("Boeing 707", "Boeing"),
    "727-200": ("Boeing 727", "Boeing"),
    "737-200": ("Boeing 737", "Boeing"),
    "737-300": ("Boeing 737", "Boeing"),
    "F/A-18": ("F/A-18", "McDonnell Douglas"),
    "Cessna No. 5": ("Cessna No. 5", "Cessna"),  # no real one: a dot and two spaces
}
COUNTS = {"train": 3, "val": 2, "test": 2}  # images of a variant
TRAIN, VAL, TEST, BOX = (f"data/images_{name}.txt" for name in ("variant_train", "variant_val", "variant_test", "box"))


@dataclass
class Layout:
    """The files of the layout, kept as lines until ``write``; change them first to make a bad one."""

    root: Path
    lines: dict[str, list[str]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)

    def write(self) -> Path:
        for name, lines in self.lines.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (self.root / "data/images").mkdir(exist_ok=True)
        for image in self.images:
            (self.root / "data/images" / f"{image}.jpg").touch()
        return self.root


def layout(root: Path) -> Layout:
    """Images 0000013, 0000026, …: listed in turn over the variants, as no level's classes come in one piece."""
    families, manufacturers = (sorted({names[level] for names in VARIANTS.values()}) for level in (0, 1))
    made = Layout(root / "fgvc-aircraft-2013b")
    made.lines = {
        "data/variants.txt": list(VARIANTS),
        "data/families.txt": families,
        "data/manufacturers.txt": manufacturers,
        BOX: [],
    }
    number = 0
    for split, count in COUNTS.items():
        for variant, (family, manufacturer) in list(VARIANTS.items()) * count:
            number += 13
            image = f"{number:07d}"
            made.images.append(image)
            for level, label in zip(aircraft.LEVELS, (variant, family, manufacturer), strict=True):
                for name in (split, "trainval") if split != "test" else (split,):
                    made.lines.setdefault(f"data/images_{level}_{name}.txt", []).append(f"{image} {label}")
            made.lines[BOX].append(f"{image} 3 144 998 431")
    return made


@pytest.fixture
def planes(tmp_path) -> Layout:
    return layout(tmp_path)


def test_good_layout(planes):
    planes.lines[BOX][1] = "0000026 1 1 1 1"  # the first pixel alone
    planes.lines[BOX][2] = "0000039 0 144 993 426"  # a corner outside the image, as some of the authors' are
    frame = aircraft.read(planes.write(), "all")
    assert list(frame.columns) == ["image", "label", "class_name", "official", "box", "parts"]
    assert frame["official"].tolist() == ["train"] * 18 + ["val"] * 12 + ["test"] * 12
    assert frame["image"].tolist() == [f"{image}.jpg" for image in planes.images]
    assert frame["class_name"].tolist() == list(VARIANTS) * 7 and frame["label"].tolist() == list(range(6)) * 7
    assert frame["box"][0] == [2.0, 143.0, 996.0, 288.0]  # 998 - 3 + 1, 431 - 144 + 1
    assert frame["box"][1] == [0.0, 0.0, 1.0, 1.0]
    assert frame["box"][2] == [-1.0, 143.0, 994.0, 283.0]
    assert all(parts is None for parts in frame["parts"]) and aircraft.part_names(planes.root) == []


@pytest.mark.parametrize("level", aircraft.LEVELS)
def test_levels(planes, level):
    frame = aircraft.read(planes.write(), "all", level)
    at = aircraft.LEVELS.index(level)
    expected = [(variant, *names)[at] for variant, names in VARIANTS.items()] * 7
    classes = list(VARIANTS) if at == 0 else sorted(set(expected))  # as their list has them
    assert frame["class_name"].tolist() == expected
    assert frame["label"].tolist() == [classes.index(name) for name in expected]
    assert frame["image"].tolist() == aircraft.read(planes.root, "all")["image"].tolist()


def test_no_level_is_the_variant(planes):
    root = planes.write()
    assert aircraft.read(root, "all", None).equals(aircraft.read(root, "all", "variant"))


@pytest.mark.parametrize(
    ("classes", "level", "names"),
    [
        ("5", None, ["F/A-18"]),
        ("6,1", None, ["707-320", "Cessna No. 5"]),
        ("2-3,3", "variant", ["727-200", "737-200"]),
        ("3", "family", ["Boeing 737"]),
        ("1,3", "manufacturer", ["Boeing", "McDonnell Douglas"]),
    ],
)
def test_chosen_classes_get_contiguous_labels(planes, classes, level, names):
    whole = aircraft.read(planes.write(), "all", level)
    frame = aircraft.read(planes.root, classes, level)
    assert frame.drop_duplicates("label").set_index("label")["class_name"].sort_index().to_dict() == dict(
        enumerate(names)
    )
    assert frame["image"].tolist() == whole[whole["class_name"].isin(names)]["image"].tolist()


@pytest.mark.parametrize(
    ("classes", "level"), [("7", None), ("0", None), ("1-7", None), ("8-9", None), ("6", "family")]
)
def test_unknown_class(planes, classes, level):
    with pytest.raises(LapmlError, match=r"expected class ids of .*(variants|families)\.txt"):
        aircraft.read(planes.write(), classes, level)


@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
@pytest.mark.parametrize("level", aircraft.LEVELS)
def test_same_files_and_labels_as_torchvision(planes, level, split):
    frame = aircraft.read(planes.write(), "all", level)
    frame = frame[frame["official"].isin(["train", "val"] if split == "trainval" else [split])]
    theirs = FGVCAircraft(planes.root.parent, split, level, loader=str)  # the path in place of the image
    ours = [(str(planes.root / aircraft.IMAGES / row.image), row.label) for row in frame.itertuples()]
    assert sorted(ours) == sorted(theirs[at] for at in range(len(theirs))) and len(ours) == 6 * sum(
        COUNTS[name] for name in ("train", "val", "test") if name in split
    )
    assert all(theirs.classes[row.label] == row.class_name for row in frame.itertuples())


def test_image_numbers_are_text(planes):
    """An image whose number begins with a digit other than 0 stays another than the one that shares its last digits."""
    planes.lines[TRAIN].append("1000013 707-320")
    planes.images.append("1000013")
    planes.lines[BOX].append("1000013 5 5 9 9")
    frame = aircraft.read(planes.write(), "1").set_index("image")
    assert frame.loc["1000013.jpg", "box"] == [4.0, 4.0, 5.0, 5.0]
    assert frame.loc["0000013.jpg", "box"] == [2.0, 143.0, 996.0, 288.0]


def test_windows_line_ends_byte_order_mark_and_blank_lines(planes):
    before = aircraft.read(planes.write(), "all")
    for name in aircraft.ANNOTATIONS:
        file = planes.root / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert aircraft.read(planes.root, "all").equals(before)


# --- boxes ---


def test_no_box_and_reversed_corners(planes):
    del planes.lines[BOX][0]
    planes.lines[BOX][0] = "0000026 998 144 3 431"
    planes.lines[BOX][1] = "0000039 3 431 998 144"
    planes.lines[BOX].append("9999999 1 2 3 4")  # of no listed image: not looked at
    frame = aircraft.read(planes.write(), "all")
    assert [box is None for box in frame["box"]] == [True] * 3 + [False] * 39


def test_no_box_at_all(planes):
    planes.lines[BOX] = ["9999999 1 2 3 4"]
    assert all(box is None for box in aircraft.read(planes.write(), "all")["box"])


BOXES = st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 3000))


@hypothesis_settings(max_examples=20)
@given(st.lists(BOXES, min_size=42, max_size=42))
def test_boxes_go_round(boxes):
    with tempfile.TemporaryDirectory() as folder:
        planes = layout(Path(folder))
        planes.lines[BOX] = [
            f"{image} {x + 1} {y + 1} {x + width} {y + height}"
            for image, (x, y, width, height) in zip(planes.images, boxes, strict=True)
        ]
        planes.lines[BOX].reverse()  # in another order than the lists
        assert aircraft.read(planes.write(), "all")["box"].tolist() == [list(box) for box in boxes]


# --- bad files ---


@pytest.mark.parametrize("name", aircraft.ANNOTATIONS)
def test_missing_file(planes, name):
    root = planes.write()
    (root / name).unlink()
    with pytest.raises(LapmlError, match=f"{name}: no such file; the FGVC-Aircraft layout needs"):
        aircraft.fingerprint(root)
    level = next((level for level in aircraft.LEVELS if f"_{level}_" in name or name == aircraft.CLASSES[level]), None)
    with pytest.raises(LapmlError, match=f"{name}: no such file; the FGVC-Aircraft layout needs"):
        aircraft.read(root, "all", level)


@pytest.mark.parametrize("name", ["data/variants.txt", TRAIN, VAL, TEST, BOX])
def test_empty_file(planes, name):
    planes.lines[name] = [""]
    with pytest.raises(LapmlError, match=f"{name}: is empty"):
        aircraft.read(planes.write(), "all")


@pytest.mark.parametrize("name", ["data/variants.txt", TRAIN, BOX])
def test_not_text(planes, name):
    (planes.write() / name).write_bytes(b"\xff\xfe\n")
    with pytest.raises(LapmlError, match=f"{name}: is not UTF-8"):
        aircraft.read(planes.root, "all")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (TRAIN, "13 707-320", "found '13 707-320', expected an image number of seven digits, zeros in front included"),
        (TRAIN, "77777777 707-320", "an image number of seven digits"),
        (TRAIN, "7777777.jpg 707-320", "an image number of seven digits"),
        (TRAIN, "../0013 707-320", "an image number of seven digits"),
        (TRAIN, "00000١3 707-320", "an image number of seven digits"),
        (TRAIN, "7777777", r"found '7777777', expected .* and then a class of .*variants\.txt"),
        (TEST, "7777777 707-321", r"found '7777777 707-321', expected .* and then a class of .*variants\.txt"),
        (VAL, "7777777 Boeing 707", "found '7777777 Boeing 707', expected .* a class of"),  # the family
        (VAL, "7777777  f/a-18", "found '7777777  f/a-18', expected .* a class of"),
        (BOX, "13 3 144 998 431", "an image number of seven digits"),
        (BOX, "7777777", "found '7777777', expected .* and then x1, y1, x2 and y2 in pixels"),
        (BOX, "7777777 3 144 998", "found '7777777 3 144 998', expected .* and then x1, y1, x2 and y2"),
        (BOX, "7777777 3 144 998 431 1", "found '7777777 .*', expected .* and then x1, y1, x2 and y2"),
        (BOX, "7777777 3 144 998 x", "found '7777777 .*', expected .* and then x1, y1, x2 and y2"),
        (BOX, "7777777 3 nan 998 431", "found '7777777 .*', expected .* and then x1, y1, x2 and y2"),
        (BOX, "7777777 3 144 inf 431", "found '7777777 .*', expected .* and then x1, y1, x2 and y2"),
    ],
)
def test_bad_line_is_named(planes, name, line, message):
    planes.lines[name][4] = line
    with pytest.raises(LapmlError, match=message) as caught:
        aircraft.read(planes.write(), "all")
    assert str(caught.value).startswith(f"{planes.root / name}:5: ")


@pytest.mark.parametrize("name", [TRAIN, VAL, TEST])
def test_image_listed_twice_names_both_places(planes, name):
    planes.lines[name].append(planes.lines[TRAIN][2])
    with pytest.raises(LapmlError, match="image '0000039' is there already at") as caught:
        aircraft.read(planes.write(), "all")
    last = len(planes.lines[name])
    assert str(caught.value).startswith(f"{planes.root / name}:{last}: ")
    assert f"{planes.root / TRAIN}:3," in str(caught.value)


def test_box_twice(planes):
    planes.lines[BOX].append(planes.lines[BOX][6])
    with pytest.raises(
        LapmlError, match=r"images_box\.txt:43: image '0000091' is there already at .*images_box\.txt:7,"
    ):
        aircraft.read(planes.write(), "all")


def test_class_twice(planes):
    planes.lines["data/variants.txt"].append("727-200")
    with pytest.raises(LapmlError, match=r"variants\.txt:7: class '727-200' is there already at .*variants\.txt:2,"):
        aircraft.read(planes.write(), "all")


@pytest.mark.parametrize(("at", "name"), [(0, TRAIN), (18, VAL), (30, TEST)])
def test_image_not_there(planes, at, name):
    (planes.write() / aircraft.IMAGES / f"{planes.images[at]}.jpg").unlink()
    with pytest.raises(LapmlError, match=f"{name}: there is no file .*{planes.images[at]}.jpg"):
        aircraft.read(planes.root, "all")
    assert len(aircraft.read(planes.root, "2-6")) == 35  # it was of class 1


def test_class_without_images(planes):
    planes.lines["data/variants.txt"].append("Ghost")
    with pytest.raises(LapmlError, match=r"variant_\{train,val,test\}\.txt: class 7 \(Ghost\) has 0 training images"):
        aircraft.read(planes.write(), "all")
    assert len(aircraft.read(planes.root, "1-6")) == 42


def test_validation_images_count_as_training_images(planes):
    planes.lines[TRAIN] = [line for line in planes.lines[TRAIN] if not line.endswith("F/A-18")]
    assert len(aircraft.read(planes.write(), "5")) == 4
    planes.lines[VAL].remove(next(line for line in planes.lines[VAL] if line.endswith("F/A-18")))
    with pytest.raises(LapmlError, match=r"class 5 \(F/A-18\) has 1 training images"):
        aircraft.read(planes.write(), "5")


def test_no_test_image(planes):
    planes.lines[TEST] = [line for line in planes.lines[TEST] if line.endswith("F/A-18")]
    with pytest.raises(LapmlError, match="the chosen classes have no test image"):
        aircraft.read(planes.write(), "1-4")


# --- the whole ---


def test_fingerprint_depends_on_the_files_of_every_level(planes):
    count, before = aircraft.fingerprint(planes.write())
    assert count == 42 and len(aircraft.ANNOTATIONS) == 13
    (planes.root / "data/images_variant_trainval.txt").write_text("not read\n")
    assert aircraft.fingerprint(planes.root) == (42, before)
    for name in aircraft.ANNOTATIONS:
        (planes.root / name).write_text((planes.root / name).read_text() + "\n")
        assert (after := aircraft.fingerprint(planes.root)[1]) != before
        before = after


def test_root_is_the_folder_above_data(planes):
    root = planes.write()
    assert aircraft.is_root(root)
    assert not aircraft.is_root(root / "data") and not aircraft.is_root(root.parent)
    for name in ("data/variants.txt", BOX):
        (root / name).rename(root / "aside")
        assert not aircraft.is_root(root)
        (root / "aside").rename(root / name)


def test_what_is_published_has_the_levels():
    assert tuple(aircraft.PUBLISHED) == aircraft.LEVELS
    assert {sum(counts.splits.values()) for counts in aircraft.PUBLISHED.values()} == {10_000}
    assert [counts.classes for counts in aircraft.PUBLISHED.values()] == [100, 70, 30]
    variants = aircraft.PUBLISHED["variant"]
    assert variants.per_class == (100, 100) and variants.classes * 100 == sum(variants.splits.values())
