"""The synthetic birds in five layouts: the same pictures, splits and boxes whoever reads them, whole or not at all.

What the files say is read by torchvision where it knows the layout, and parsed by hand elsewhere; which drawing an
image is, is found by its pixels.
"""

import hashlib
import io
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from torchvision.datasets import FGVCAircraft, ImageFolder, StanfordCars

from lapml.config import Synthetic
from lapml.data import readers
from lapml.data.synthetic import birds as synthetic
from lapml.data.synthetic import layouts
from lapml.data.synthetic.anatomy import CUB_PARTS
from lapml.data.synthetic.birds import Item, pictures
from lapml.data.synthetic.species import species

SETTINGS = Synthetic(classes=9, train_images=5, test_images=2, side=48, seed=3, nuisance=0.7)  # three families
FEW = SETTINGS.model_copy(update={"classes": 3, "train_images": 2, "test_images": 1})
READERS = ("cub200", "aircraft", "cars", "deepfashion", "folder")
FOLDERS = {"aircraft": "fgvc-aircraft-2013b", "cars": "stanford_cars"}  # where torchvision looks
LEVELS = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
Row = tuple[Path, str, str, list[float] | None]  # image, class name, official split, box

# sha256 of what version 1 of the drawing writes: text files, and the pixels of two pictures and a mask
WITNESS = {
    "images.txt": "05b8a1dea4b87b86b8792b9d8bdd423ed8af997747451c5e174fa87587bcd55c",
    "classes.txt": "e2d8904b6f193ecfb3a456ad159062a4ea06ef51dfc0ce4a3daacbe3de50395a",
    "image_class_labels.txt": "ff90cae0a921f73bead19f09cbdf39ab6910ecbd1b9ca98f48d9a9992182b1cf",
    "train_test_split.txt": "397dd542a916684b881097489759b107da02e6e6abe2138c5c4e66449457fd5e",
    "bounding_boxes.txt": "b2843d9347b771d8ceeae134a751e41404670e3a655cd5ed476bfeb26d57429f",
    "parts/parts.txt": "411a4ab5c7622c1b93bf84dd1e9f69a8a2feaecd79753ed13cfc27ec0c2aeef0",
    "parts/part_locs.txt": "e29000fa01f0193f7f1ec2218b77ad610e85229bd8bfc71195966bf51b6691c0",
    ("images", 0): "a5ad669fada10fbed34a73241603c759133a8a8391ba3df71394fdc3278d49b0",
    ("images", -1): "17468fd3b3e350444da79056878b9d0362329815202057e360def6a71b1cc190",
    ("segmentations", 6): "780732904f3b8e4d5213cb4cd72cfc9e63ce174cdb1289d70225f94c7d9e2140",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of a layout, drawn once."""

    @cache
    def root(reader: str) -> Path:
        folder = tmp_path_factory.mktemp(reader) / "new" / FOLDERS.get(reader, "birds")
        layouts.draw(folder, SETTINGS, reader)
        return folder

    return root


@cache
def items() -> list[Item]:
    return list(pictures(SETTINGS))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n") and "\n\n" not in text
    return text.splitlines()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), float)


def item_of(file: Path, banner: int = 0) -> Item:
    """Which drawing a file shows."""
    with Image.open(file) as image:
        assert image.mode == "RGB"
        found = pixels(image.crop((0, 0, image.width, image.height - banner)))
    same = [item for item in items() if pixels(item.picture.image).shape == found.shape]
    errors = sorted((np.abs(pixels(item.picture.image) - found).mean(), at) for at, item in enumerate(same))
    assert errors[0][0] < 4, "JPEG changes no more than this"
    assert len(errors) == 1 or errors[1][0] > 16
    return same[errors[0][1]]


def with_val(item: Item) -> str:
    """Of five training images the fourth (k = 3) validates."""
    return "val" if (item.split, item.k) == ("train", 3) else item.split


def check(rows: list[Row], class_of, split_of, boxes: bool = True, banner: int = 0) -> None:
    """Each drawing is there once, with its class, split and box."""
    found = Counter()
    names = {}
    for file, name, split, box in rows:
        item = item_of(file, banner)
        found[item.label, item.split, item.k] += 1
        assert split == split_of(item)
        assert names.setdefault(class_of(item), name) == name
        if boxes:
            assert list(box) == list(item.picture.box)
    assert found == Counter((item.label, item.split, item.k) for item in items())
    assert len(set(names.values())) == len(names) == len({class_of(item) for item in items()})


def label(item: Item) -> int:
    return item.label


def own_split(item: Item) -> str:
    return item.split


def from_corners(x1, y1, x2, y2) -> list[float]:
    """Corner pixels, counted from 1."""
    return [float(x1) - 1, float(y1) - 1, float(x2) - float(x1) + 1, float(y2) - float(y1) + 1]


# --- all layouts ---


@pytest.mark.parametrize("reader", READERS)
def test_same_settings_same_bytes(tmp_path, reader, monkeypatch):
    layouts.draw(tmp_path / "first", FEW, reader)
    monkeypatch.setattr("time.asctime", lambda *_: "another day")  # which scipy writes into a .mat file
    layouts.draw(tmp_path / "again", FEW, reader)
    assert files(tmp_path / "again") == files(tmp_path / "first")
    layouts.draw(tmp_path / "other", FEW.model_copy(update={"seed": 4}), reader)
    assert files(tmp_path / "other") != files(tmp_path / "first")


@pytest.mark.parametrize("reader", READERS)
def test_nothing_else_appears(drawn, reader):
    assert list(drawn(reader).parent.iterdir()) == [drawn(reader)]
    assert not [path for path in drawn(reader).rglob("*") if path.is_file() and path.stat().st_size == 0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("reader", READERS)
def test_nothing_half_done_remains(tmp_path, monkeypatch, reader, error):
    render, calls = synthetic.render, []

    def broken(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise error("in the middle")
        return render(*arguments)

    monkeypatch.setattr(synthetic, "render", broken)
    with pytest.raises(error):
        layouts.draw(tmp_path / "birds", SETTINGS, reader)
    assert len(calls) == 4 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reader", READERS)
def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path, reader):
    more = FEW.model_copy(update={"classes": 4, "train_images": 3, "test_images": 2})
    for name, settings in (("few", FEW), ("more", more)):
        layouts.draw(tmp_path / name, settings, reader)

    def images(root: Path) -> Counter:
        return Counter(content for name, content in files(root).items() if name.endswith((".png", ".jpg")))

    few = images(tmp_path / "few")
    assert few.total() == (18 if reader == "cub200" else 9)  # a mask for each picture
    assert not few - images(tmp_path / "more")


def test_scrambled_numbers_are_unique():
    seen = np.zeros(10**7, bool)
    for at, split in product(range(200), ("train", "test")):
        numbers = layouts._scrambled(at, split, np.arange(10_000))
        assert not seen[numbers].any()
        seen[numbers] = True
    assert seen.sum() == 200 * 2 * 10_000


@pytest.mark.parametrize(("count", "val"), [(2, [1]), (3, [2]), (4, [3]), (7, [3]), (8, [3, 7]), (13, [3, 7, 11])])
def test_every_fourth_training_image_validates(count, val):
    settings = SETTINGS.model_copy(update={"train_images": count, "test_images": count})
    at = [replace(items()[0], k=k, split=split) for split in ("train", "test") for k in range(count)]
    official = [layouts._official(item, settings) for item in at]
    assert official == ["val" if k in val else "train" for k in range(count)] + ["test"] * count


# --- CUB-200-2011 ---


def test_cub_parsed_by_hand(drawn):
    root = drawn("cub200")
    names = {"images", "classes", "image_class_labels", "train_test_split", "bounding_boxes"}
    folders = {"images", "segmentations", "parts"}
    assert {path.name for path in root.iterdir()} == {f"{name}.txt" for name in names} | folders
    assert {path.name for path in (root / "parts").iterdir()} == {"parts.txt", "part_locs.txt"}

    def table(name: str) -> list[list[str]]:
        return [line.split(" ") for line in lines(root / f"{name}.txt")]

    classes = dict(table("classes"))
    assert classes == {str(at + 1): f"{at + 1:03d}.{species(at).name}" for at in range(9)}
    images, labels, splits, boxes = map(table, ("images", "image_class_labels", "train_test_split", "bounding_boxes"))
    assert [int(row[0]) for row in images] == list(range(1, len(items()) + 1))
    rows = []
    for (number, name), (n1, of), (n2, train), (n3, *box) in zip(images, labels, splits, boxes, strict=True):
        assert number == n1 == n2 == n3
        assert re.fullmatch(rf"{classes[of]}/{classes[of][4:]}_\d{{4}}\.png", name)
        split = {"1": "train", "0": "test"}[train]
        rows.append((root / "images" / name, classes[of], split, [float(value) for value in box]))
    check(rows, label, own_split)

    assert lines(root / "parts/parts.txt") == [f"{at} {part}" for at, part in enumerate(CUB_PARTS, 1)]
    parts = iter(table("parts/part_locs"))
    for (number, *_), (file, *_) in zip(images, rows, strict=True):
        item = item_of(file)
        with Image.open(file) as image, Image.open(root / "segmentations" / file.relative_to(root / "images")) as mask:
            assert np.array_equal(pixels(image), pixels(item.picture.image))
            assert mask.mode == "L" and np.array_equal(mask, item.picture.mask)
        for at, (x, y, seen) in enumerate(item.picture.parts, 1):
            assert next(parts) == [number, str(at), f"{x:.1f}", f"{y:.1f}", str(int(seen))]
    assert list(parts) == []


def test_cub_is_what_it_always_was(tmp_path):
    layouts.draw(
        tmp_path / "birds", Synthetic(classes=5, train_images=2, test_images=2, side=48, seed=3, nuisance=0.7), "cub200"
    )

    names = [line.split(" ")[1] for line in lines(tmp_path / "birds/images.txt")]

    def digest(key: str | tuple[str, int]) -> str:
        if isinstance(key, str):
            return hashlib.sha256((tmp_path / "birds" / key).read_bytes()).hexdigest()
        tree, at = key
        with Image.open(tmp_path / "birds" / tree / names[at]) as image:  # another Pillow may pack them otherwise
            return hashlib.sha256(image.tobytes()).hexdigest()

    assert {key: digest(key) for key in WITNESS} == WITNESS
    assert synthetic.VERSION == 1, "a change of the drawing needs new witnesses"


# --- FGVC-Aircraft ---


def boxes_of_aircraft(root: Path) -> dict[str, list[float]]:
    rows = [line.split(" ") for line in lines(root / "data/images_box.txt")]
    assert all(re.fullmatch(r"\d{7}( [1-9]\d*){4}", " ".join(row)) for row in rows)
    assert len({row[0] for row in rows}) == len(rows) == len(items())
    return {number: from_corners(*corners) for number, *corners in rows}


@pytest.mark.parametrize("level", LEVELS)
def test_aircraft_as_torchvision_reads_it(drawn, level):
    root = drawn("aircraft")
    boxes = boxes_of_aircraft(root)
    rows, splits = [], {}
    for split in ("train", "val", "trainval", "test"):
        data = FGVCAircraft(root.parent, split, level, download=False)
        splits[split] = [
            (Path(file), data.classes[at], split, boxes[Path(file).stem])
            for file, at in zip(data._image_files, data._labels, strict=True)
        ]
        assert [row[1] for row in splits[split]] == sorted(row[1] for row in splits[split]), "class by class"
        rows += splits[split] if split != "trainval" else []
        if split != "trainval":
            listed = lines(root / f"data/images_{split}.txt")
            assert sorted(row[0].stem for row in splits[split]) == sorted(listed)
    without_split = {split: {row[:2] for row in rows} for split, rows in splits.items()}
    assert without_split["trainval"] == without_split["train"] | without_split["val"]
    assert len(splits["trainval"]) == len(splits["train"]) + len(splits["val"])
    class_of = {
        "variant": label,
        "family": lambda item: item.kind.family,
        "manufacturer": lambda item: item.kind.palette.name,
    }
    check(rows, class_of[level], with_val, banner=20)


def test_aircraft_names_and_numbers(drawn):
    root = drawn("aircraft")
    lists = {f"images_{level}_{split}" for level in LEVELS for split in ("train", "val", "trainval", "test")}
    lists |= {"images_train", "images_val", "images_test", "images_box", *LEVELS.values()}
    assert {path.name for path in (root / "data").iterdir()} == {f"{name}.txt" for name in lists} | {"images"}
    count = {level: lines(root / f"data/{file}.txt") for level, file in LEVELS.items()}
    assert {level: len(names) for level, names in count.items()} == {"variant": 9, "family": 3, "manufacturer": 2}
    assert all(names == sorted(set(names)) for names in count.values())
    for mark in (" ", "/", ".", "-"):
        assert any(mark in name for name in count["variant"])
    assert any("/" in name for name in count["family"]) and all(" " in name for name in count["manufacturer"])

    numbers = sorted(path.name for path in (root / "data/images").iterdir())
    assert all(re.fullmatch(r"\d{7}\.jpg", number) for number in numbers)
    assert 0 < sum(number.startswith("0") for number in numbers) < len(numbers)
    order = [item_of(root / "data/images" / number, banner=20).label for number in numbers]
    assert sum(a == b for a, b in pairwise(order)) < 0.4 * len(order), "the numbers do not tell the classes"


@pytest.mark.parametrize("at", [0, 10, 40, 62])
def test_aircraft_banner(drawn, at):
    item = items()[at]
    (file,) = (f for f in (drawn("aircraft") / "data/images").iterdir() if item_of(f, banner=20) is item)
    with Image.open(file) as image:
        whole = pixels(image)
    height = item.picture.image.height
    assert whole.shape == (height + 20, item.picture.image.width, 3)
    assert np.abs(whole[:height] - pixels(item.picture.image)).mean() < 4
    bar = whole[height:]
    assert (bar[:7].min() > 215) and (bar[-1].min() > 200), "light above and below the marks"
    assert (bar < 80).any(), "dark marks"


def test_aircraft_banner_tells_the_class_and_keeps_it_from_the_picture():
    item = items()[0]
    height = item.picture.image.height

    def stored(of: int) -> np.ndarray:
        buffer = io.BytesIO()
        layouts._with_banner(replace(item, label=of)).save(buffer, "JPEG", quality=95, subsampling=0)
        return pixels(Image.open(buffer))

    found = [stored(of) for of in range(200)]
    assert all(np.array_equal(image[:height], found[0][:height]) for image in found)
    assert len({(image[height:] < 128).tobytes() for image in found}) == 200


# --- Stanford Cars ---


def test_cars_as_torchvision_reads_them(drawn):
    root = drawn("cars")
    annotated = {
        "train": loadmat(root / "devkit/cars_train_annos.mat", squeeze_me=True)["annotations"],
        "test": loadmat(root / "cars_test_annos_withlabels.mat", squeeze_me=True)["annotations"],
    }
    rows = []
    for split, annotations in annotated.items():
        data = StanfordCars(root.parent, split)
        assert [Path(file).name for file, _ in data._samples] == [f"{n:05d}.jpg" for n in range(1, len(data) + 1)]
        for (file, at), annotation in zip(data._samples, annotations, strict=True):
            corners = [annotation[f"bbox_{corner}"] for corner in ("x1", "y1", "x2", "y2")]
            rows.append((Path(file), data.classes[at], split, from_corners(*corners)))
    check(rows, label, own_split)
    for split in ("train", "test"):
        order = [item_of(row[0]).label for row in rows if row[2] == split]
        assert sum(a == b for a, b in pairwise(order)) < 0.4 * len(order), "the numbers do not tell the classes"


def test_cars_matlab_files(drawn):
    root = drawn("cars")
    assert {path.name for path in root.iterdir()} == {
        "cars_train",
        "cars_test",
        "devkit",
        "cars_test_annos_withlabels.mat",
    }
    assert {path.name for path in (root / "devkit").iterdir()} == {
        *("cars_meta.mat", "cars_train_annos.mat", "cars_test_annos.mat")
    }
    names = loadmat(root / "devkit/cars_meta.mat")["class_names"]
    assert names.shape == (1, 9) and names.dtype == object
    names = [str(name[0]) for name in names[0]]
    assert all(re.fullmatch(r"\w+ \w+ .+ 20\d\d", name) for name in names) and any("/" in name for name in names)
    train = loadmat(root / "devkit/cars_train_annos.mat")["annotations"]
    test = loadmat(root / "cars_test_annos_withlabels.mat")["annotations"]
    bare = loadmat(root / "devkit/cars_test_annos.mat")["annotations"]
    corners = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    assert train.dtype.names == test.dtype.names == (*corners, "class", "fname")
    assert bare.dtype.names == (*corners, "fname")
    assert (train.shape, test.shape, bare.shape) == ((1, 45), (1, 18), (1, 18))
    assert all(np.array_equal(test[name], bare[name]) for name in bare.dtype.names)
    for row in (*train[0], *test[0]):
        assert {row[name].shape for name in (*corners, "class")} == {(1, 1)} and row["fname"].shape == (1,)
        assert {row[name].dtype.kind for name in (*corners, "class")} == {"u"}


def test_corners_above_255_need_two_bytes(tmp_path):
    layouts.draw(
        tmp_path / "cars", Synthetic(classes=2, train_images=2, test_images=1, side=400, seed=0, nuisance=0.0), "cars"
    )
    found = loadmat(tmp_path / "cars/devkit/cars_train_annos.mat", squeeze_me=True)["annotations"]
    assert max(int(row["bbox_x2"]) for row in found) > 255
    for row in found:
        file = tmp_path / "cars/cars_train" / str(row["fname"])
        with Image.open(file) as image:
            assert 1 <= row["bbox_x1"] < row["bbox_x2"] <= image.width


# --- DeepFashion ---


def columns(file: Path, titles: list[str]) -> dict[str, list[str]]:
    count, header, *rest = lines(file)
    assert int(count) == len(rest) and header.split() == titles
    assert len({re.match(r"\S+\s+", line).end() for line in [header, *rest]}) == 1, "the values start at one column"
    found = {name: values for name, *values in map(str.split, rest)}
    assert len(found) == len(rest)
    return found


def test_deepfashion_parsed_by_hand(drawn):
    root = drawn("deepfashion")
    cloth = columns(root / "Anno_coarse/list_category_cloth.txt", ["category_name", "category_type"])
    category = columns(root / "Anno_coarse/list_category_img.txt", ["image_name", "category_label"])
    boxes = columns(root / "Anno_coarse/list_bbox.txt", ["image_name", "x_1", "y_1", "x_2", "y_2"])
    official = columns(root / "Eval/list_eval_partition.txt", ["image_name", "evaluation_status"])
    assert list(category) == list(boxes) == list(official)
    assert {str(path.relative_to(root)) for path in root.rglob("*.txt")} == {
        *(f"Anno_coarse/list_{name}.txt" for name in ("category_cloth", "category_img", "bbox")),
        "Eval/list_eval_partition.txt",
    }
    names = list(cloth)
    assert {kind for (kind,) in cloth.values()} <= {"1", "2", "3"}
    rows = []
    for name, (at,) in category.items():
        assert re.fullmatch(r"img/[A-Z]\w+/img_\d{8}\.jpg", name)
        assert all(len(value) >= 3 for value in boxes[name])
        rows.append((root / "Img" / name, names[int(at) - 1], official[name][0], from_corners(*boxes[name])))
    check(rows, label, with_val)
    assert {row[0] for row in rows} == set((root / "Img").rglob("*.jpg"))

    used = sorted({int(at) for (at,) in category.values()})
    assert len(used) == 9 and used[0] == 1 and used != list(range(1, 10)) and used[-1] <= len(names)
    order = [item_of(row[0]).label for row in rows]
    assert order != sorted(order), "the lists are not in the order of the categories"
    folders, splits = {}, {}
    for file, name, split, _ in rows:
        folders.setdefault(name, set()).add(file.parent)
        splits.setdefault(file.parent, set()).add(split)
    assert all(len(found) == 3 for found in folders.values()) and sum(map(len, folders.values())) == len(splits)
    assert {frozenset(found) for found in splits.values()} >= {frozenset({"train", "val", "test"})}
    assert all("train" in found for found in splits.values()), "a folder does not tell the split"


@pytest.mark.parametrize("classes", [2, 3, 9, 200])
def test_deepfashion_has_categories_without_images(classes):
    used = [layouts._category(at) for at in range(classes)]
    assert used == sorted(set(used)) and used[0] == 1
    assert (
        set(range(1, used[-1] + 1)) - set(used) == {number for number in range(1, used[-1]) if number % 5 == 2} != set()
    )


# --- a folder a class ---


def test_folder_as_torchvision_reads_it(drawn):
    root = drawn("folder")
    assert {path.name for path in root.iterdir()} == {"train", "test", ".DS_Store", "notes.txt"}
    rows = []
    for split in ("train", "test"):
        data = ImageFolder(root / split)
        assert data.classes == sorted(species(at).name for at in range(9))
        rows += [(Path(file), data.classes[at], split, None) for file, at in data.imgs]
    check(rows, label, own_split, boxes=False)
    clutter = sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".jpg"
    )
    first = species(0).name
    assert clutter == sorted(
        f"{folder}{name}" for folder in ("", "train/", f"train/{first}/") for name in (".DS_Store", "notes.txt")
    )


# --- our own readers ---


@pytest.mark.parametrize(
    ("name", "labels", "class_of"),
    [
        ("cub200", None, label),
        ("aircraft", "variant", label),
        ("aircraft", "family", lambda item: item.kind.family),
        ("aircraft", "manufacturer", lambda item: item.kind.palette.name),
        ("cars", None, label),
        ("deepfashion", None, label),
        ("folder", None, label),
    ],
)
def test_readers_agree(drawn, name, labels, class_of):
    reader, root = readers.reader(name), drawn(name)
    assert reader.is_root(root) and not reader.is_root(root.parent)
    frame = reader.read(root, "all", labels)
    rows = [(root / reader.IMAGES / row.image, row.class_name, row.official, row.box) for row in frame.itertuples()]
    check(
        rows, class_of, with_val if name in ("aircraft", "deepfashion") else own_split, name != "folder", reader.BANNER
    )
    assert sorted(set(frame["label"])) == list(range(len({class_of(item) for item in items()})))
    assert reader.part_names(root) == (list(CUB_PARTS) if name == "cub200" else [])
    if name == "cub200":
        assert all(np.shape(parts) == (15, 3) for parts in frame["parts"])
    else:
        assert all(parts is None for parts in frame["parts"])
    if name == "folder":
        assert all(box is None for box in frame["box"])
    assert reader.fingerprint(root)[0] == len(items())
    for other in set(READERS) - {name}:
        assert not readers.reader(other).is_root(root), "no other reader takes it for its own"
