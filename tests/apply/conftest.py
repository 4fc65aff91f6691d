"""A synthetic set of six classes and a finished run of it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lapml.data import pack
from lapml.data.fetch import sources
from lapml.data.pack import Packed
from lapml.paths import Paths
from lapml.runs.execute import execute

BIRDS = [
    "data.birds.synthetic.classes=6",
    "data.birds.synthetic.train_images=6",
    "data.birds.synthetic.test_images=4",
    "data.birds.synthetic.side=80",
    "train.epochs=2",
]


@pytest.fixture(scope="session")
def prepared(small_params, small_run, tmp_path_factory) -> SimpleNamespace:
    """A synthetic set, packed, and a run of it."""
    root = tmp_path_factory.mktemp("apply")
    paths = Paths("demo", root)
    data = small_params(*BIRDS).data["birds"]
    sources.fetch("birds", data, paths)
    pack.prepare("birds", data, paths, progress=False)
    packed = Packed.open(paths.pack("birds"))
    _, laid_out = sources.laid_out("birds", paths)
    files = [laid_out / "images" / path for path in packed.index["path"]]
    folder = paths.run("birds", "baseline", 0)
    execute(small_run("baseline", *BIRDS), packed, folder, log=lambda line: None)
    return SimpleNamespace(root=root, paths=paths, packed=packed, files=files, folder=folder)


@pytest.fixture
def shop(prepared, tmp_path, monkeypatch) -> SimpleNamespace:
    """A copy of it to spoil, as the working folder: the run's folder, its packed data, and the source images by split."""
    shutil.copytree(prepared.root / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    folder = Paths("demo", Path(".")).run("birds", "baseline", 0)
    splits = prepared.packed.index["split"].to_numpy()
    test, train = ([prepared.files[row] for row in np.flatnonzero(splits == name)] for name in ("test", "train"))
    return SimpleNamespace(
        root=tmp_path,
        folder=folder,
        pack=Paths("demo", Path(".")).pack("birds"),
        packed=prepared.packed,
        files=prepared.files,
        test=test,
        train=train,
        names=prepared.packed.class_names,
        overrides=BIRDS,
    )
