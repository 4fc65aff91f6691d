"""Maps that are missing, damaged, from elsewhere or of other data say what to do."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.localise import store
from lapml.localise.objects import Axis
from lapml.localise.parts import Parts
from lapml.localise.store import FILES, Localised

DATA = "d" * 64


@pytest.fixture
def folder(tmp_path):
    """results/…/localised/birds with five images of an index of nine."""
    where = tmp_path / "localised" / "birds"
    where.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (kind, shape) in store.shapes_of(5, 6, 3, 4).items():
        np.save(where / f"{name}.npy", rng.random(shape).astype(kind) if name != "rows" else np.array([0, 2, 3, 5, 8]))
    axis = Axis(torch.rand(7).double(), torch.rand(7).double(), 2.5, 0.2)
    save_file(
        store.fitted_tensors(axis, Parts(torch.rand(3, 7), torch.rand(3), torch.rand(7, 4), 9)),
        where / "fitted.safetensors",
    )
    sealed(where)
    return where


def sealed(where, **changes):
    files = {name: sha256(where / name) for name in FILES if name != "meta.json"}
    meta = {
        "format": store.FORMAT,
        "sha256": store.checksum(files, DATA),
        "count": 5,
        "grid": 6,
        "parts": 3,
        "dimensions": 4,
    }
    meta |= {
        "data_sha256": DATA,
        "splits": ["train"],
        "settings": {},
        "explained": 0.2,
        "iterations": 9,
        "classes": 3,
        "files": files,
    }
    (where / "meta.json").write_text(json.dumps(meta | changes))


def test_open(folder):
    made = Localised.open(folder, DATA)
    assert isinstance(made.objects, np.memmap) and not made.objects.flags.writeable
    assert (
        made.parts.shape == (5, 3, 6, 6) and made.descriptors.dtype == np.float16 and made.strengths.dtype == np.float32
    )
    assert made.axis.deviation == 2.5 and made.axis.explained == 0.2 and made.fitted.iterations == 9
    assert made.fitted.components.shape == (3, 7)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "foreign", "flipped"])
def test_damage(folder, name, how):
    file = folder / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        os.truncate(file, len(content) - 3)
    elif how == "foreign":
        file.write_bytes(b"something else\n" * 20)
    else:
        at = content.find(b'"sha256": ') + 12 if name == "meta.json" else len(content) - 2
        content[at] ^= 1
        file.write_bytes(content)
    with pytest.raises(LapmlError, match=rf"{name}: .*; make the maps again with `lapml localise birds`"):
        Localised.open(folder, DATA)


def test_of_other_data(folder):
    with pytest.raises(
        LapmlError, match="birds: was made of other data .dddddddddddd. than is packed now .eeeeeeeeeeee."
    ):
        Localised.open(folder, "e" * 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "found format 99, expected 1: another version"),
        ({"sha256": "0" * 64}, "damaged: counts, files and checksum"),
        ({"count": 0}, "damaged: counts"),
        ({"count": True}, "damaged: counts"),
        ({"files": {}}, "damaged: counts"),
        ({"files": 3}, "damaged, or of another program"),
        ({"count": 4}, r"rows.npy: found int64 \(5,\), expected int64 \(4,\)"),
        ({"parts": 4}, r"parts.npy: found float16 \(5, 3, 6, 6\), expected float16 \(5, 4, 6, 6\)"),
    ],
)
def test_meta_that_does_not_fit(folder, changes, message):
    sealed(folder, **changes)
    with pytest.raises(LapmlError, match=message):
        Localised.open(folder, DATA)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "3", '{"format": 1}', "\xff"])
def test_foreign_meta(folder, text):
    (folder / "meta.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LapmlError, match="meta.json: damaged, or of another program"):
        Localised.open(folder, DATA)


def test_pickles_are_not_loaded(folder):
    np.save(folder / "strengths.npy", np.array([object()] * 15).reshape(5, 3), allow_pickle=True)
    sealed(folder)
    with pytest.raises(LapmlError, match="strengths.npy: missing or damaged"):
        Localised.open(folder, DATA)


def test_places(folder):
    made = Localised.open(folder, DATA)
    assert made.places(np.array([8, 0, 3, 3])).tolist() == [4, 0, 2, 2]
    for bad in ([1], [9], [0, 4], [-1]):
        with pytest.raises(LapmlError, match=r"image -?\d of the index has no object map: the maps are of train; 1 of"):
            made.places(np.array(bad))


def test_growing(tmp_path):
    """Written in pieces and taken up again, the file is numpy's own."""
    rows = np.random.default_rng(0).random((9, 2, 3)).astype(np.float16)
    file = store.Growing(tmp_path / "a.npy", np.float16, rows.shape)
    assert not file.holds(0)
    file.begin(0)
    file.write(rows[:4])
    file.sync()
    file.close()
    again = store.Growing(tmp_path / "a.npy", np.float16, rows.shape)
    assert again.holds(4) and not again.holds(5)
    again.begin(3)
    again.write(rows[3:])
    again.close()
    np.save(tmp_path / "b.npy", rows)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
