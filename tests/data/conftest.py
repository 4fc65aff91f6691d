"""A tiny data set in the CUB-200-2011 layout: three classes, four training and two test images each."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapml.config import Data, View
from lapml.paths import Paths

CLASSES = ("001.Red_Finch", "002.Green_Finch", "003.Blue_Finch")
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
PARTS = ("beak", "tail")
SIZE = (40, 30)


@dataclass
class Cub:
    """The files of the layout, kept as lines until ``write``; change them first to make a bad one."""

    root: Path
    lines: dict[str, list[str]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)  # path below images/ → the file's bytes

    def write(self) -> Path:
        for name, lines in self.lines.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for path, content in self.pictures.items():
            file = self.root / "images" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return self.root

    def path(self, image: int) -> str:
        return self.lines["images.txt"][image - 1].split(" ", 1)[1]

    @staticmethod
    def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()


@pytest.fixture
def cub(tmp_path) -> Cub:
    made = Cub(tmp_path / "cub")
    lines = made.lines = {
        "images.txt": [],
        "classes.txt": [f"{number} {name}" for number, name in enumerate(CLASSES, 1)],
        "image_class_labels.txt": [],
        "train_test_split.txt": [],
        "bounding_boxes.txt": [],
        "parts/parts.txt": [f"{number} {name}" for number, name in enumerate(PARTS, 1)],
        "parts/part_locs.txt": [],
    }
    image = 0
    for number, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True), 1):
        for copy in range(6):
            image += 1
            path = f"{name}/bird {copy}.png"  # a space, as paths may have
            picture = Image.new("RGB", SIZE, colour)
            cells = np.random.default_rng(image).integers(
                0, 256, (8, 10), np.uint8
            )  # so that no two are near-duplicates
            picture.paste(
                Image.fromarray(cells).resize(SIZE, Image.Resampling.NEAREST), (0, 0), Image.new("L", SIZE, 60)
            )
            picture.paste((255, 255, image), (10, 5, 30, 20))
            made.pictures[path] = Cub.encode(picture)
            lines["images.txt"].append(f"{image} {path}")
            lines["image_class_labels.txt"].append(f"{image} {number}")
            lines["train_test_split.txt"].append(f"{image} {int(copy < 4)}")
            lines["bounding_boxes.txt"].append(f"{image} 10.0 5.0 20.0 15.0")
            lines["parts/part_locs.txt"] += [f"{image} 1 12.0 6.5 1", f"{image} 2 0.0 0.0 0"]
    return made


@pytest.fixture
def paths(tmp_path) -> Paths:
    (tmp_path / "project").mkdir()
    return Paths("test", tmp_path / "project")


@pytest.fixture
def settings() -> Callable[..., Data]:
    """A ``data`` section with small values, from its source and what is to differ."""

    def made(source: str | Path, **changes) -> Data:
        given = {
            "reader": "cub200",
            "source": str(source),
            "synthetic": None,
            "labels": None,
            "classes": "all",
            "val_fraction": 0.25,
            "split_seed": 0,
            "stored_side": 16,
            "view": View(side=16, aspect="keep", crop="fixed", scale=[0.5, 1.0], flip=True, jitter=0.0),
            "overrides": {},
        }
        return Data(**{**given, **changes})

    return made


@pytest.fixture(scope="session")
def real_cub(request) -> str:
    """The folder CUB_200_2011: at LAPML_CUB200, in data/, or (with -m real) laid out there from ../shared/data/cub200."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("LAPML_CUB200") or root / "data/CUB_200_2011")
    unpack = root.parent / "shared/data/cub200/unpack"
    if not folder.is_dir() and unpack.is_file() and request.config.option.markexpr == "real":
        subprocess.run([sys.executable, unpack, root / "data"], check=True)  # about a minute
    if not folder.is_dir():
        pytest.skip("no CUB-200-2011 at LAPML_CUB200 or data/CUB_200_2011 (see README: make test-real)")
    return str(folder)
