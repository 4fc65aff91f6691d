"""Shared: the committed params made small, one run of them, a tiny packed set of separable classes, made-up run folders."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings

from lapml import config
from lapml.config import Params, Run
from lapml.data.index import COLUMNS, rows_of
from lapml.data.pack import Packed
from lapml.localise.objects import Axis
from lapml.localise.parts import Parts
from lapml.localise.store import Localised
from lapml.paths import RUN_FILES

settings.register_profile("lapml", deadline=None, derandomize=True)
settings.load_profile("lapml")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
MIXING = (
    "mixup", "cutout", "attentive_cutmix", "snapmix", "cutmix", "cutmix_semantic", "loc_cutmix_oracle", "loc_cutmix_area",
    "loc_cutmix", "margin", "adaptive_margin",
)  # fmt: skip
RECORDS = ROOT / "tests/fixtures/records"  # real ones, of before records had a format number
TUNED = {"m": 0.3, "weight": 0.5, "delta": 0.1, "quantile": 0.25}
SMALL = [
    "model.name=test_resnet",  # a tiny model of timm whose stride-8 stage ends in a ReLU
    "model.weights=none",
    "model.truncate=8",
    "model.freeze=0",
    "data.birds.stored_side=64",
    "data.birds.view.side=48",
    "train.epochs=2",
    "train.batch=6",
    "train.device=cpu",
    "train.precision=fp32",
    "defaults.mixers.localized.maps=recent",  # what needs no stage before training
    "methods.cutmix_semantic.mixer.maps=recent",
    *(f"methods.{row}.mix.warmup_epochs=0" for row in MIXING),
    *(f"methods.{row}.mix.prob=1.0" for row in MIXING),
]


@pytest.fixture(scope="session")
def small_params() -> Callable[..., Params]:
    """params.yaml (or another file of that form) with a tiny model, small images and mixing from the first epoch; takes
    further overrides."""
    return lambda *overrides, path=ROOT / "params.yaml": config.load(path, [*SMALL, *overrides])


@pytest.fixture(scope="session")
def small_run(small_params) -> Callable[..., Run]:
    """One resolved run of them."""

    def made(row: str, *overrides: str, seed: int = 0, development: bool = False) -> Run:
        return config.resolve(small_params(*overrides), "birds", row, seed, TUNED, development)

    return made


def make_packed(images: np.ndarray, labels: list[int], splits: list[str], sizes: list[tuple[int, int]]) -> Packed:
    classes = [f"{label:03}.Bird" for label in range(max(labels) + 1)]
    rows = [
        (f"{classes[label]}/{row}.png", label, classes[label], split, width, height, None, None)
        for row, (label, split, (width, height)) in enumerate(zip(labels, splits, sizes, strict=True))
    ]
    source = {"kind": "drawn", "images": len(rows), "annotations_sha256": "a" * 64}
    meta = {"sha256": "0" * 64, "count": len(rows), "side": images.shape[1], "source": source}
    return Packed(pd.DataFrame(rows, columns=list(COLUMNS)), images, meta, classes)


@pytest.fixture(scope="session")
def packed() -> Packed:
    """3 classes × (8 train, 4 val, 4 test) noisy squares of 64 px, told apart by the colour of a disc."""
    rng = np.random.default_rng(0)
    labels, splits, images = [], [], []
    y, x = np.mgrid[:64, :64]
    for label in range(3):
        for split in ["train"] * 8 + ["val"] * 4 + ["test"] * 4:
            picture = rng.integers(60, 140, (64, 64, 3))
            cx, cy = rng.integers(20, 44, 2)
            picture[(x - cx) ** 2 + (y - cy) ** 2 < 15**2] = 20
            picture[(x - cx) ** 2 + (y - cy) ** 2 < 15**2, label] = 230
            labels.append(label)
            splits.append(split)
            images.append(picture)
    sizes = [(80 + 3 * row % 50, 60 + 7 * row % 40) for row in range(len(labels))]
    return make_packed(np.stack(images).astype(np.uint8), labels, splits, sizes)


@pytest.fixture(scope="session")
def annotated(packed) -> Packed:
    """The same with a box and four parts an image, some of them not seen."""
    rng, index = np.random.default_rng(1), packed.index.copy()
    boxes, parts = [], []
    for width, height in index[["width", "height"]].to_numpy():
        x, y, right, bottom = rng.uniform([0.1, 0.1, 0.6, 0.6], [0.4, 0.4, 0.9, 0.9])
        boxes.append([x * width, y * height, (right - x) * width, (bottom - y) * height])
        where = rng.uniform([x, y], [right, bottom], (4, 2)) * (width, height)
        parts.append(np.column_stack([where, rng.random(4) < 0.7]).tolist())
    return replace(packed, index=index.assign(box=boxes, parts=parts))


@pytest.fixture(scope="session")
def pack_of() -> Callable[..., Packed]:
    """A pack of given images (N, S, S, 3), labels, splits and sizes."""
    return make_packed


@pytest.fixture(scope="session")
def maps_of():
    """maps_of(packed, splits, seed): random maps of the images of some splits."""

    def made(packed, splits=("train", "val"), seed=0, **meta):
        rng, rows = np.random.default_rng(seed), rows_of(packed.index, list(splits))
        count = len(rows)
        descriptors = rng.standard_normal((count, 3, 5))
        descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
        arrays = [rng.random((count, *shape)) for shape in ((6, 6), (3, 6, 6), (6, 6))]
        half = [each.astype(np.float16) for each in (*arrays, descriptors)]
        strengths = half[1].max((2, 3)).astype(np.float32)
        axis, parts = Axis(torch.zeros(1), torch.zeros(1), 1.0, 0.1), Parts(*torch.zeros(3, 1, 1), 1)
        about = {
            "sha256": f"{seed:064}",
            "grid": 6,
            "parts": 3,
            "classes": 7,
            "splits": list(splits),
            "count": count,
        }
        return Localised(rows, *half, strengths, axis, parts, about | meta)

    return made


@pytest.fixture
def write(tmp_path):
    """write("cutmix/0", skill=0.6, **{"train.lr": 0.02}) → a whole run folder, its settings with these changes.

    The name says method and seed. ``skill``: the share of right answers; images are easy or hard for all runs alike.
    """

    def made(name, skill=0.5, origin=None, images=120, labels=7, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        method, seed = folder.parts[-2:]
        config = json.loads((RECORDS / "demo-baseline/config.json").read_text())
        config |= {"suite": "one", "method": method, "seed": int(seed)}
        for key, value in changes.items():
            *parents, last = key.split(".")
            where = config
            for part in parents:
                where = where[part]
            where[last] = value
        label = np.arange(images) % labels
        ease, luck = (np.random.default_rng(each).random(images) for each in (0, [int(seed), *method.encode()]))
        right = 0.7 * ease + 0.3 * luck < skill
        second = ~right & (luck < 0.5)  # where the label is the second answer
        table = pd.DataFrame({"image": [f"{k:03}.jpg" for k in range(images)], "label": label})
        table["top1"] = np.where(right, label, label + 1)
        table["top2"] = np.where(second, label, label + 2)
        for rank in range(3, 6):
            table[f"top{rank}"] = label + rank
        table.to_parquet(folder / "predictions.parquet", index=False)
        (folder / "config.json").write_text(json.dumps(config))
        for name in ("history.csv", "metrics.json", "model.safetensors"):
            (folder / name).write_text("{}")
        provenance = {"data_sha256": "d" * 64, "device": "CPU", "precision": "fp32", "commit": "c" * 40, "dirty": False}
        _seal(folder, provenance | {"weights": {"sha256": "e" * 64}} | (origin or {}))
        return folder

    return made


@pytest.fixture
def seal():
    """seal(folder) writes provenance.json anew with the checksums of the files as they are."""
    return _seal


def _seal(folder, provenance=None):
    """Write provenance.json with the checksums of the files as they are."""
    provenance = provenance or json.loads((folder / "provenance.json").read_text())
    names = [name for name in RUN_FILES if name != "provenance.json" and (folder / name).exists()]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    files = (provenance.get("files") or {}) | files  # weights that were not published have one too
    (folder / "provenance.json").write_text(json.dumps({**provenance, "files": files}))
