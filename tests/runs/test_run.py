"""The run folder: complete or refused, and a finished run read again gives its numbers again."""

import base64
import io
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.rows import bench
from lapml import config
from lapml.analysis.tables import predictions
from lapml.common import provenance
from lapml.common.text import class_name
from lapml.config import Params
from lapml.data.batches import Batches
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import READS, RUN_FILES, TRANSFERS, Paths
from lapml.report.pictures import CAMS_SHOWN, MISTAKES_SHOWN, MIXED_SHOWN, gallery
from lapml.runs import execute as runs
from lapml.runs import reevaluate as again
from lapml.runs.folder import open_run

ROOT = Path(__file__).parents[2]


def quietly(line: str) -> None:
    pass


@pytest.fixture
def folder(small_run, packed, tmp_path) -> Path:
    where = Paths("demo", tmp_path).run("birds", "loc_cutmix", 0)
    runs.execute(small_run("loc_cutmix"), packed, where, log=quietly)
    return where


def test_a_run_folder_is_whole(folder, small_run, packed):
    assert {path.name for path in folder.iterdir()} == {*RUN_FILES, READS, ".kept"}  # no last.pt, nothing temporary
    assert {path.name for path in (folder / ".kept").iterdir()} == set(RUN_FILES)
    assert all((folder / ".kept" / name).samefile(folder / name) for name in RUN_FILES)  # no room is taken twice
    config, provenance = open_run(folder)
    assert config == json.loads(json.dumps(small_run("loc_cutmix").record()))
    assert "source" not in config["data"]
    assert provenance["data_sha256"] == packed.meta["sha256"]
    assert provenance["test_reads"] == 1
    assert provenance["versions"]["torch"] and provenance["device"].startswith("CPU")
    metrics = json.loads((folder / "metrics.json").read_text())
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert metrics["split"] == "test" and metrics["n"] == len(predictions) == 12
    assert metrics["top1"] == pytest.approx(100 * (predictions["top1"] == predictions["label"]).mean())
    history = pd.read_csv(folder / "history.csv")
    assert metrics["images_forward"] == history["images_forward"].sum()


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_run_folder_without_a_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(LapmlError, match=name):
        open_run(folder)


@pytest.mark.parametrize("name", [name for name in RUN_FILES if name != "provenance.json"])
def test_a_run_folder_with_a_foreign_or_cut_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(LapmlError, match="checksum differs|damaged"):
        open_run(folder)


def test_a_failure_while_writing_leaves_no_result_and_the_next_try_resumes(small_run, packed, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_file", full)
        with pytest.raises(OSError, match="no space"):
            runs.execute(small_run("baseline"), packed, tmp_path / "run", log=quietly)
    assert not any((tmp_path / "run" / name).exists() for name in RUN_FILES)
    lines: list[str] = []
    runs.execute(small_run("baseline"), packed, tmp_path / "run", log=lines.append)
    assert lines == ["resumed after epoch 2 of 2"]  # nothing is trained again
    assert open_run(tmp_path / "run")[1]["resumed"] == 1


@pytest.fixture
def opened(packed, monkeypatch) -> None:
    monkeypatch.setattr(Packed, "open", lambda *_: packed)


def test_reading_a_run_again_gives_its_numbers_and_is_recorded(folder, small_params, tmp_path, opened):
    written = json.loads((folder / "metrics.json").read_text())
    found = again.reevaluate(folder, "test", tmp_path)
    assert found == {key: written[key] for key in found}
    assert len((folder / READS).read_text().splitlines()) == 2


def test_reading_a_split_that_the_run_was_trained_on_is_refused(folder, small_params, tmp_path, opened):
    with pytest.raises(LapmlError, match="trained on train \\+ val"):
        again.reevaluate(folder, "val", tmp_path)
    assert len((folder / READS).read_text().splitlines()) == 1


def test_reading_a_run_on_other_data_is_refused(folder, small_params, packed, tmp_path, monkeypatch):
    other = replace(packed, meta={**packed.meta, "sha256": "1" * 64})
    monkeypatch.setattr(Packed, "open", lambda *_: other)
    with pytest.raises(LapmlError, match="other data"):
        again.reevaluate(folder, "test", tmp_path)


# --- transfer ---


@pytest.fixture
def elsewhere(packed, pack_of, monkeypatch) -> Callable[[list[str]], Packed]:
    """Another data set: the images of the first in another order, its classes named as asked, label 0 first."""

    def made(names: list[str]) -> Packed:
        order = np.random.default_rng(5).permutation(len(packed.index))
        known = {name: label for label, name in enumerate(names)}
        labels = [known.get(name, 0) for name in packed.index["class_name"].to_numpy()[order]]
        splits, sizes = packed.index["split"].to_numpy()[order], packed.index[["width", "height"]].to_numpy()[order]
        other = pack_of(packed.images[order], labels, list(splits), [tuple(size) for size in sizes.tolist()])
        source = {"kind": "folder", "images": len(labels), "annotations_sha256": "b" * 64}
        other = replace(other, meta={**other.meta, "sha256": "2" * 64, "source": source}, class_names=names)
        monkeypatch.setattr(Packed, "open", lambda *_: other)
        return other

    return made


def transfers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / TRANSFERS).read_text().splitlines()]


def test_transfer_to_the_same_classes_in_another_order(folder, small_params, packed, tmp_path, elsewhere):
    """The same test images under permuted labels: the same accuracy."""
    elsewhere([packed.class_names[label] for label in (2, 0, 1)])
    own = json.loads((folder / "metrics.json").read_text())
    found = again.transfer(folder, "birds", "test", small_params(), tmp_path)
    assert found["foreign_classes"] == 0 and found["classes"] == 3 and found["n"] == 12
    for name in ("top1", "top5", "mean_class", "recall1", "recall5"):
        assert found[name] == pytest.approx(own[name]), name
    assert found["loss"] == pytest.approx(own["loss"], rel=1e-5)
    assert transfers(folder) == [found]
    train = again.transfer(folder, "birds", "train", small_params(), tmp_path)  # other data: not what it was trained on
    assert train["n"] == 24 and [line["split"] for line in transfers(folder)] == ["test", "train"]
    assert len((folder / READS).read_text().splitlines()) == 1  # of the run's own test split


def test_transfer_to_other_classes_is_retrieval_only(folder, small_params, packed, tmp_path, elsewhere):
    elsewhere(["a", *packed.class_names[:2]])
    found = again.transfer(folder, "birds", "test", small_params(), tmp_path)
    assert found["foreign_classes"] == 1 and "top1" not in found and {"recall1", "recall5", "n"} <= set(found)


@pytest.mark.parametrize("sha256", ["0", "3"])  # as packed for the run, and packed otherwise
def test_transfer_to_its_own_data_is_a_reading(folder, small_params, packed, tmp_path, monkeypatch, sha256):
    monkeypatch.setattr(Packed, "open", lambda *_: replace(packed, meta={**packed.meta, "sha256": sha256 * 64}))
    own = json.loads((folder / "metrics.json").read_text())
    assert again.transfer(folder, "birds", "test", small_params(), tmp_path)["top1"] == own["top1"]
    assert len((folder / READS).read_text().splitlines()) == 2
    for split in ("train", "val"):
        with pytest.raises(LapmlError, match=f"own data set, .* only the test split .*; found --split {split}"):
            again.transfer(folder, "birds", split, small_params(), tmp_path)
    assert len((folder / READS).read_text().splitlines()) == 2


def test_other_files_of_the_same_names_are_other_data(folder, small_params, packed, tmp_path, monkeypatch, seal):
    """Of a folder, whose annotations are its files' names alone; unless other classes make the checksums differ."""
    for name, change in (
        ("config.json", lambda record: record["data"].update(reader="folder")),
        ("provenance.json", lambda record: record["source"].update(files_sha256="e" * 64)),
    ):
        record = json.loads((folder / name).read_text())
        change(record)
        (folder / name).write_text(json.dumps(record))
    seal(folder)
    params = small_params("data.birds.reader=folder")
    some = small_params("data.birds.reader=folder", "data.birds.classes=1-3")

    def read(split: str, params: Params, **source: str) -> dict:
        other = replace(packed, meta={**packed.meta, "source": packed.meta["source"] | source})
        monkeypatch.setattr(Packed, "open", lambda *_: other)
        return again.transfer(folder, "birds", split, params, tmp_path)

    assert read("train", params, files_sha256="f" * 64)["n"] == 24
    assert read("test", params, files_sha256="f" * 64)["n"] == 12
    assert len((folder / READS).read_text().splitlines()) == 1
    for case in ((params, {"files_sha256": "e" * 64}), (params, {}), (some, {"files_sha256": "f" * 64})):
        with pytest.raises(LapmlError, match="own data set"):
            read("train", case[0], **case[1])


def test_transfer_to_other_classes_of_the_same_source_is_none(folder, small_params, packed, tmp_path, elsewhere):
    """Images that the run has never seen; under other labels they may be those it has."""
    other = elsewhere(["a", "b", "c"])
    other.meta["source"] |= {"annotations_sha256": packed.meta["source"]["annotations_sha256"]}
    assert again.transfer(folder, "birds", "train", small_params(), tmp_path)["n"] == 24
    assert len((folder / READS).read_text().splitlines()) == 1
    params = small_params()
    by_family = params.data["birds"].model_copy(update={"labels": "family"})
    relabelled = params.model_copy(update={"data": params.data | {"birds": by_family}})
    with pytest.raises(LapmlError, match="own data set"):
        again.transfer(folder, "birds", "train", relabelled, tmp_path)


def test_a_run_of_another_version_is_refused(folder, small_params, opened, tmp_path):
    record = json.loads((folder / "config.json").read_text())
    del record["train"]["milestones"]
    (folder / "config.json").write_text(json.dumps(record))
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["files"]["config.json"] = sha256(folder / "config.json")
    (folder / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(LapmlError, match="config.json: train.milestones: missing; this version has other settings"):
        again.reevaluate(folder, "test", tmp_path)
    assert len((folder / READS).read_text().splitlines()) == 1  # no image was read


def test_transfer_that_cannot_be(folder, small_params, packed, tmp_path, elsewhere):
    with pytest.raises(LapmlError, match="unknown data set 'planes': expected one of birds"):
        again.transfer(folder, "planes", "test", small_params(), tmp_path)
    elsewhere(packed.class_names)
    provenance = json.loads((folder / "provenance.json").read_text())
    del provenance["class_names"]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(LapmlError, match="class_names or source: missing, as in old runs"):
        again.transfer(folder, "birds", "test", small_params(), tmp_path)


def test_the_smoke_run_mixes_and_needs_no_tuned_margin(small_params, packed, tmp_path):
    params = config.load(ROOT / "params.yaml", [
        "model.name=test_resnet", "model.weights=none", "train.batch=6", "defaults.mixers.localized.maps=recent",
    ])  # fmt: skip
    run = runs.resolve_smoke(params, "birds", "adaptive_margin", 0)
    runs.execute(run, packed, tmp_path / "smoke", log=quietly)
    assert list(pd.read_csv(tmp_path / "smoke/history.csv")["mixed_batches"]) == [0, 4]


def test_commit_says_whether_the_package_differs_from_it(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=lapml", "-c", "user.email=lapml@localhost")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "lapml").mkdir()
    (tmp_path / "lapml/a.py").write_text("a = 1\n")
    (tmp_path / "README.md").write_text("a\n")
    monkeypatch.setattr(provenance, "HERE", tmp_path / "lapml")
    assert provenance.commit() == (None, None)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a")
    (tmp_path / "README.md").write_text("b\n")  # no code
    revision, dirty = provenance.commit()
    assert len(revision) == 40 and dirty is False
    before = provenance.code_sha256()
    (tmp_path / "lapml/b.py").write_text("b = 1\n")  # not tracked, but imported
    assert provenance.commit() == (revision, True)
    (tmp_path / "lapml/b.py").unlink()
    (tmp_path / "lapml/a.py").write_text("a = 2\n")
    assert provenance.commit() == (revision, True)
    assert provenance.code_sha256() != before


def test_a_loaded_model_is_the_trained_one(folder, small_run, packed):
    model, weights = runs.load_model(folder, small_run("loc_cutmix"), 3)
    assert not model.training and weights["grid"] == [6, 6]
    for name, value in load_file(folder / "model.safetensors").items():
        assert (model.state_dict()[name] == value).all()


def test_weights_of_another_model_are_refused(folder, small_run, packed):
    with pytest.raises(LapmlError, match="does not fit"):
        runs.load_model(folder, small_run("loc_cutmix", "model.truncate=4"), 3)


def test_pictures_for_the_report(small_params, packed, tmp_path, opened):
    params = small_params("ablation=[baseline, cutmix, loc_cutmix]", "tuned_methods=[]", "seeds=[0]", "train.epochs=2")
    paths = Paths(params.suite, tmp_path)
    for row in params.all_methods():
        runs.execute(runs.resolved(params, paths, "birds", row, 0), packed, paths.run("birds", row, 0), log=quietly)
    answers = {method: each for (_, method), each in predictions(params, paths).items()}
    shown = gallery(params, paths, "birds", answers)
    assert shown["objects"] is None  # nothing here mixes by maps
    assert {name: len(rows) for name, rows in shown["mixes"].items()} == {
        "cutmix": MIXED_SHOWN,
        "loc_cutmix": MIXED_SHOWN,
    }
    assert {name: len(rows) for name, rows in shown["cams"].items()} == dict.fromkeys(params.all_methods(), CAMS_SHOWN)
    stored = {each["id"]: _decoded(each["src"]) for each in shown["all"]}
    for rows in shown["mixes"].values():
        for reference, donor, mixed in rows:
            (x0, y0, x1, y1), (a0, b0, a1, b1) = (_box(each["outline"]) for each in (reference, donor))
            pasted = stored[donor["id"]][b0:b1, a0:a1]
            assert (stored[mixed["id"]][y0:y1, x0:x1] == pasted).all()  # what is shown is what was pasted
            assert mixed["outline"] == reference["outline"]
            assert 0 <= float(re.match(r"ρ (\d\.\d\d)", mixed["caption"])[1]) <= 1
    _mistakes_are_shown(shown, stored, paths, packed, params.data["birds"].view)
    references = [[row[0]["id"] for row in rows] for rows in shown["mixes"].values()]
    assert references[0] == references[1]  # every row mixes the same images


def _decoded(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))).astype(int)


def _box(path):
    x0, y0, x1, y1 = re.fullmatch(r"M(\d+) (\d+)H(\d+)V(\d+)H\1Z", path).groups()
    return int(x0), int(y0), int(x1), int(y1)


def _mistakes_are_shown(shown, stored, paths, packed, view):
    best, mistakes = shown["best"], shown["mistakes"]
    tables = {
        path.parent.parent.name: pd.read_parquet(path) for path in paths.base.glob("runs/*/*/0/predictions.parquet")
    }
    rights = {method: (table["top1"] == table["label"]).sum() for method, table in tables.items()}
    assert rights[best] == max(rights.values())
    wrong = tables[best][tables[best]["top1"] != tables[best]["label"]].sort_values("probability")
    assert 0 < len(mistakes) == min(len(wrong), MISTAKES_SHOWN)
    rows = np.flatnonzero(packed.index["split"].to_numpy(dtype=object) == "test")
    batch = next(Batches(packed, rows, view, [0.0] * 3, [1.0] * 3, torch.device("cpu")).evaluation(len(rows)))
    seen = dict(zip(packed.index["path"].to_numpy()[rows], batch.images.numpy(), strict=True))
    for each, (_, row) in zip(mistakes, wrong.iterrows(), strict=False):
        label, answer = (class_name(packed.class_names[row[name]]) for name in ("label", "top1"))
        assert [view["caption"] for view in each["views"]] == [f"is: {label}", f"taken for: {answer}"]
        image, near = (stored[view["id"]] for view in each["views"])
        assert np.abs(image.transpose(2, 0, 1) / 255 - seen[row["image"]]).max() < 0.01  # as the model saw it
        truly = f"{row['probability']:.3f}" if row["probability"] >= 0.001 else "below 0.001"
        assert each["facts"] == f"wrong in 1 of 1 runs; probability of the true class {truly}"
        assert near.shape == image.shape


def test_bench_times_every_row_and_says_what_ran(small_params, packed, tmp_path, opened):
    params = small_params()
    text = bench(params, Paths("demo", tmp_path), "birds", repeats=2, steps=1, output=tmp_path / "bench")
    record = json.loads((tmp_path / "bench/demo/bench.json").read_text())
    assert list(record["rows"]) == ["bare", *params.all_methods()]
    assert all(len(times) == 2 and min(times) > 0 for times in record["seconds_per_step"].values())
    assert record["rows"]["bare"]["speed_vs_bare"][0] == 1
    assert record["rows"]["baseline"]["step_vs_baseline"][0] == 1
    assert (tmp_path / "bench/demo/bench.md").read_text() == text + "\n"
