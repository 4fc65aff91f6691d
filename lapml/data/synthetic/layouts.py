"""Write the synthetic birds in the official layout of a data set, so that each reader has something to read at once.

    cub200        CUB-200-2011: images, masks, boxes, parts
    aircraft      FGVC-Aircraft: a banner below each image, labels at three levels, a validation split
    cars          Stanford Cars: MATLAB files
    deepfashion   DeepFashion, category prediction: padded columns, categories without images, a validation split
    folder        one folder per split and class, with some files that are not images

Every layout holds the same pictures (:func:`lapml.data.synthetic.birds.pictures`), boxes true to the pixel. Species lend
classes their names; punctuation that the real names have is put into some.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat

from lapml.config import Synthetic
from lapml.data.synthetic.anatomy import CUB_PARTS
from lapml.data.synthetic.birds import Item, pictures
from lapml.data.synthetic.species import Species, species
from lapml.files import scratch

BANNER = 20  # rows of pixels, as FGVC-Aircraft's copyright notices
STYLES = ("Belted", "Pleated", "Striped")  # names of DeepFashion's folders start so
Files = Iterator[tuple[str, Image.Image | list[str] | bytes]]  # path below the root, and an image, lines or bytes
MAT_HEADER = b"MATLAB 5.0 MAT-file, synthetic birds".ljust(116)  # scipy's own names the time


def draw(root: Path, settings: Synthetic, reader: str) -> None:
    """Write the synthetic birds to `root`, which is a new folder, in the layout that `reader` reads.

    A picture depends on its class, split and number in them, and on ``settings.seed``, ``side`` and ``nuisance``, not
    on the layout or on how many are drawn. The folder appears whole or not at all.

    Args:
        reader: a key of :data:`WRITERS`.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with scratch(root.with_name(f".{root.name}.partial")) as partial:
        for name, content in WRITERS[reader](settings):
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            elif isinstance(content, list):
                file.write_text("\n".join(content) + "\n", encoding="utf-8")
            elif file.suffix == ".jpg":
                content.save(file, quality=95, subsampling=0)
            else:
                content.save(file, compress_level=3 if content.mode == "RGB" else -1)
        partial.rename(root)


# --- CUB-200-2011 ---


def _cub200(settings: Synthetic) -> Files:
    lines = defaultdict(list)  # of each annotation file
    lines["parts/parts.txt"] = [f"{number} {part}" for number, part in enumerate(CUB_PARTS, 1)]
    lines["classes.txt"] = [f"{label + 1} {_cub_class(label)}" for label in range(settings.classes)]
    for identity, item in enumerate(pictures(settings), 1):
        name = f"{_cub_class(item.label)}/{item.kind.name}_{_odd_or_even(item):04d}.png"
        yield f"images/{name}", item.picture.image
        yield f"segmentations/{name}", item.picture.mask
        box = " ".join(f"{value:.1f}" for value in item.picture.box)
        lines["images.txt"].append(f"{identity} {name}")
        lines["image_class_labels.txt"].append(f"{identity} {item.label + 1}")
        lines["train_test_split.txt"].append(f"{identity} {int(item.split == 'train')}")
        lines["bounding_boxes.txt"].append(f"{identity} {box}")
        for part, (x, y, seen) in enumerate(item.picture.parts, 1):
            lines["parts/part_locs.txt"].append(f"{identity} {part} {x:.1f} {y:.1f} {seen:.0f}")
    yield from lines.items()


def _cub_class(label: int) -> str:
    return f"{label + 1:03d}.{species(label).name}"


# --- FGVC-Aircraft ---


def _aircraft(settings: Synthetic) -> Files:
    listed = defaultdict(list)  # level and split, or "box" → lines
    for item in pictures(settings):
        number = f"{_scrambled(item.label, item.split, item.k):07d}"
        yield f"data/images/{number}.jpg", _with_banner(item)
        official = _official(item, settings)
        listed["box"].append(" ".join([number, *map(str, _corners(item))]))
        listed[official].append(number)
        for level, name in _levels(item.label, item.kind).items():
            for split in (official, "trainval") if official != "test" else ("test",):
                listed[f"{level}_{split}"].append((name, number))
    for name, rows in listed.items():
        if "_" in name:  # classes in order; the numbers within one are in no order, as in the archive
            rows = [f"{number} {label}" for label, number in sorted(rows, key=lambda row: row[0])]
        else:
            rows = sorted(rows)
        yield f"data/images_{name}.txt", rows
    names = [_levels(label, species(label)) for label in range(settings.classes)]
    for level, file in (("variant", "variants"), ("family", "families"), ("manufacturer", "manufacturers")):
        yield f"data/{file}.txt", sorted({name[level] for name in names})


def _levels(label: int, kind: Species) -> dict[str, str]:
    """The labels of a species: itself, its sisters, all that share its palette."""
    first = (" ", "/", ". ", "-")[label % 4]
    return {
        "variant": kind.name.replace("_", first, 1).replace("_", " "),
        "family": ("/" if kind.family % 2 else " ").join((kind.palette.name, kind.form.name)),
        "manufacturer": f"{kind.palette.name} Corporation",
    }


def _with_banner(item: Item) -> Image.Image:
    """The picture above a light bar, whose dark marks say the label in binary: a reader that does not cut it is caught.

    The marks keep 8 rows, the height of a JPEG's block, away from the picture, so that nothing of them seeps into it.
    """
    image = item.picture.image
    whole = Image.new("RGB", (image.width, image.height + BANNER), (236, 236, 232))
    whole.paste(image)
    pen = ImageDraw.Draw(whole)
    for column in range(image.width // 3):
        if (item.label + 1) >> column % 8 & 1:
            x, y = 3 * column, image.height + 8
            pen.rectangle((x, y, x + 1, y + 9), fill=(40, 40, 44))
    return whole


# --- Stanford Cars ---


def _cars(settings: Synthetic) -> Files:
    order = {}
    for split, count in (("train", settings.train_images), ("test", settings.test_images)):
        places = [(label, split, k) for label in range(settings.classes) for k in range(count)]
        order |= {place: at for at, place in enumerate(sorted(places, key=lambda place: _scrambled(*place)), 1)}
    rows = {"train": {}, "test": {}}
    for item in pictures(settings):
        number = order[item.label, item.split, item.k]
        name = f"{number:05d}.jpg"
        yield f"cars_{item.split}/{name}", item.picture.image
        values = (*_corners(item), item.label + 1)  # each in as few bytes as it needs, as MATLAB stores them
        rows[item.split][number] = (*(np.min_scalar_type(value).type(value) for value in values), name)

    names = np.empty((1, settings.classes), object)
    names[0] = [_car(label, species(label)) for label in range(settings.classes)]
    yield "devkit/cars_meta.mat", _mat(class_names=names)
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    train, test = ([row for _, row in sorted(rows[split].items())] for split in ("train", "test"))
    yield "devkit/cars_train_annos.mat", _mat(annotations=np.array([train], fields))
    yield "cars_test_annos_withlabels.mat", _mat(annotations=np.array([test], fields))
    unlabelled = [(*row[:4], row[5]) for row in test]
    yield "devkit/cars_test_annos.mat", _mat(annotations=np.array([unlabelled], fields[:4] + fields[5:]))


def _car(label: int, kind: Species) -> str:
    """Make, model, type and year."""
    words = kind.name.removesuffix(f"_{kind.palette.name}_{kind.form.name}")
    words = words.replace("_", "/" if label % 4 == 1 else " ", 1).replace("_", " ")
    return f"{kind.palette.name} {kind.form.name} {words} {2007 + label % 6}"


def _mat(**content: np.ndarray) -> bytes:
    """A MATLAB 5 file, the same whenever it is made."""
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    return MAT_HEADER + buffer.getvalue()[len(MAT_HEADER) :]


# --- DeepFashion ---


def _deepfashion(settings: Synthetic) -> Files:
    found = {}
    for item in pictures(settings):
        # three styles, but every fourth is for validation: a style's folder does not tell the split
        name = f"img/{STYLES[item.k % 3]}_{item.kind.name}/img_{_odd_or_even(item):08d}.jpg"
        yield f"Img/{name}", item.picture.image
        box = " ".join(f"{value:03d}" for value in _corners(item))
        found[name] = (_category(item.label), box, _official(item, settings))
    last = _category(settings.classes - 1)
    cloths = {number: f"Cloth-{number}" for number in range(1, last + 1)}  # those that no class takes have no image
    cloths |= {_category(label): species(label).name.replace("_", "-") for label in range(settings.classes)}
    types = {name: number % 3 + 1 for number, name in sorted(cloths.items())}
    yield "Anno_coarse/list_category_cloth.txt", _columns(("category_name", "category_type"), types)
    images = sorted(found)  # so by style, not by category
    for at, (file, title) in enumerate(
        (
            ("Anno_coarse/list_category_img.txt", "category_label"),
            ("Anno_coarse/list_bbox.txt", "x_1  y_1  x_2  y_2"),
            ("Eval/list_eval_partition.txt", "evaluation_status"),
        )
    ):
        yield file, _columns(("image_name", title), {name: found[name][at] for name in images})


def _category(label: int) -> int:
    """A number from 1, such that 2, 7, 12 … are left out."""
    return label + 1 + (label + 3) // 4


def _columns(titles: tuple[str, str], rows: dict[str, object]) -> list[str]:
    """Two lines of header, then names padded to a column."""
    width = max(map(len, [titles[0], *rows]))
    return [str(len(rows)), *(f"{name:<{width}}  {value}" for name, value in [titles, *rows.items()])]


# --- one folder per class ---


def _folder(settings: Synthetic) -> Files:
    for item in pictures(settings):
        yield f"{item.split}/{item.kind.name}/{_odd_or_even(item):04d}.jpg", item.picture.image
    for folder in ("", "train/", f"train/{species(0).name}/"):
        yield f"{folder}.DS_Store", b"\0\0\0\1Bud1"
        yield f"{folder}notes.txt", ["Not an image, as real folders hold some."]


# --- shared ---


def _scrambled(label: int, split: str, k: int) -> int:
    """A number of at most seven digits that no other image has, and that does not tell the class by its size."""
    index = (2 * k + (split == "test")) * 200 + label  # below 4,000,000, as the schema limits k and label
    return (index * 6_180_339 + 56_978) % 10**7  # one to one, as the factor and 10 share no divisor


def _odd_or_even(item: Item) -> int:
    """The number of an image in its class: odd for training, even for test, whatever the number of images."""
    return 2 * item.k + (1 if item.split == "train" else 2)


def _official(item: Item, settings: Synthetic) -> str:
    """The split where a layout has one for validation: a quarter of a class's training images, at least one."""
    last = min(settings.train_images, 4) - 1
    return "val" if item.split == "train" and item.k % 4 == last else item.split


def _corners(item: Item) -> tuple[int, int, int, int]:
    """First and last column and row of the box, both in it, counted from 1: x1, y1, x2, y2."""
    x, y, width, height = map(int, item.picture.box)
    return x + 1, y + 1, x + width, y + height


WRITERS: dict[str, Callable[[Synthetic], Files]] = {
    "cub200": _cub200,
    "aircraft": _aircraft,
    "cars": _cars,
    "deepfashion": _deepfashion,
    "folder": _folder,
}
