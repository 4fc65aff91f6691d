"""A finished run on image files: what it predicts is what it was evaluated with, explained, and exported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lapml.apply import explain as explaining
from lapml.apply import export as exporting
from lapml.apply import images as files_of
from lapml.apply.export import export
from lapml.apply.picture import fitted
from lapml.apply.predict import best
from lapml.apply.predict import predict as predicted
from lapml.cli import app
from lapml.config import Model
from lapml.data.batches import Batches
from lapml.data.views import cut, evaluation_windows
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.models.model import build
from lapml.paths import EMBEDDINGS, RUN_FILES
from lapml.runs import execute as runs


def invoke(*arguments: object, status: int = 0) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result


def predict(*arguments, **options) -> list[dict]:
    return list(predicted(*arguments, **options))


def explain(*arguments, **options) -> list[dict]:
    return list(explaining.explain(*arguments, **options))


def sealed(folder: Path, name: str, record: dict) -> None:
    """Write a JSON file of a run as the run itself would have."""
    (folder / name).write_text(json.dumps(record))
    provenance = json.loads((folder / "provenance.json").read_text())
    if name in provenance["files"]:
        provenance["files"][name] = sha256(folder / name)
        (folder / "provenance.json").write_text(json.dumps(provenance))


# --- predict ---


@pytest.mark.parametrize("at_once", [64, 5])
def test_predictions_of_the_source_files_are_those_of_the_run(shop, monkeypatch, at_once):
    monkeypatch.setattr(files_of, "BATCH", at_once)
    written = pd.read_parquet(shop.folder / "predictions.parquet")
    assert len({Image.open(file).size for file in shop.test}) > 3  # so that windows differ
    results = predict(shop.folder, shop.test, top=6)
    assert [result["image"] for result in results] == [str(file) for file in shop.test]
    assert all(file.as_posix().endswith(image) for file, image in zip(shop.test, written["image"], strict=True))
    for result, row in zip(results, written.to_dict("records"), strict=True):
        classes = [each["class"] for each in result["predictions"]]
        assert classes[:5] == [shop.names[row[f"top{rank}"]] for rank in range(1, 6)]
        probability = {each["class"]: each["probability"] for each in result["predictions"]}
        assert probability[shop.names[row["label"]]] == pytest.approx(row["probability"], abs=1e-5)
        assert sum(probability.values()) == pytest.approx(1, abs=1e-5)


@given(st.lists(st.floats(-2e4, 2e4, width=32), min_size=1, max_size=8), st.integers(1, 10))
def test_the_best_classes_are_softmax_in_order(logits, top):
    names = [str(label) for label in range(len(logits))]
    found = best(np.array(logits, np.float32), names, top)
    expected = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0)
    assert len(found) == min(top, len(logits)) == len({each["class"] for each in found})
    np.testing.assert_allclose(
        [each["probability"] for each in found], expected.sort(descending=True)[0][:top], atol=1e-6
    )
    for each in found:
        assert each["probability"] == pytest.approx(float(expected[int(each["class"])]), abs=1e-6)


def test_a_run_in_bf16_predicts_what_it_did_and_is_exported_in_fp32(shop, small_run):
    folder = shop.root / "bf16"
    config = small_run("baseline", *shop.overrides, "train.precision=bf16", "train.epochs=1", "train.warmup_epochs=0")
    runs.execute(config, shop.packed, folder, log=lambda line: None)
    written = pd.read_parquet(folder / "predictions.parquet")
    results = predict(folder, shop.test)
    assert [result["predictions"][0]["class"] for result in results] == [shop.names[top] for top in written["top1"]]
    sure = [result["predictions"][0]["probability"] for result in results]
    right = (written["top1"] == written["label"]).to_numpy()
    np.testing.assert_allclose(np.array(sure)[right], written["probability"][right], atol=1e-5)
    _, about = export(folder, "torch")
    assert about["check"]["training_images"]["logits"] < 1e-4


def test_a_banner_is_cut_off(shop):
    plain = predict(shop.folder, shop.test[:1])[0]["predictions"]
    image = Image.open(shop.test[0]).convert("RGB")
    under = Image.new("RGB", (image.width, image.height + 20), "white")
    under.paste(image)
    under.save("under.png")
    assert predict(shop.folder, [Path("under.png")], banner=20)[0]["predictions"] == plain
    assert predict(shop.folder, [Path("under.png")])[0]["predictions"] != plain


def test_the_table_and_the_json_say_the_same(shop):
    lines = invoke("predict", shop.folder, *shop.test[:2], "--top", "9").stdout.splitlines()
    results = json.loads(invoke("predict", shop.folder, *shop.test[:2], "--json", "--top", "9").stdout)
    assert lines[0].split() == ["image", "rank", "class", "probability"]
    assert len({len(line) for line in lines}) == 1 and len(lines) == 1 + 2 * 6  # aligned; no more than there are
    for block, result in enumerate(results):
        for rank, each in enumerate(result["predictions"]):
            line = lines[1 + 6 * block + rank]
            assert line.endswith(" %") and each["class"] in line
            assert float(line.split()[-2]) == pytest.approx(100 * each["probability"], abs=0.0051)
            assert (shop.test[block].name in line) == (rank == 0)
    assert len(json.loads(invoke("predict", shop.folder, shop.test[0], "--json").stdout)[0]["predictions"]) == 5
    invoke("predict", shop.folder, shop.test[0], "--top", "0", status=2)


def bad_file(kind: str, number: int = 0) -> Path:
    file = Path(f"{kind}{number}.png")
    if kind == "folder":
        file.mkdir()
    elif kind == "corrupt":
        file.write_bytes(b"\x89PNG\r\n\x1a\nnothing of the kind")
    elif kind == "empty":
        file.touch()
    elif kind == "truncated":
        Image.effect_noise((64, 64), 50).save(file)
        file.write_bytes(file.read_bytes()[:900])
    return file


@pytest.mark.parametrize("command", ["predict", "explain"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("missing", "no such file"),
        ("folder", "a folder without images"),
        ("corrupt", "cannot be read as an image"),
        ("empty", "it is empty"),
        ("truncated", "cannot be read as an image"),
    ],
)
def test_a_file_that_is_no_image_is_named_and_the_others_are_done(shop, command, kind, part, monkeypatch):
    monkeypatch.setattr(files_of, "BATCH", 2)
    monkeypatch.setattr(explaining, "draw", lambda file, *_: file.write_bytes(b"png"))
    options = ["--neighbours", "0"] if command == "explain" else []
    good = invoke(command, shop.folder, *shop.test[:4], "--json", *options)
    bad = [bad_file(kind, number) for number in range(3)]
    mixed = [bad[0], *shop.test[:3], *bad[1:], shop.test[3]]  # one that begins, one whole batch
    result = invoke(command, shop.folder, *mixed, "--json", *options, status=1)
    found, expected = json.loads(result.stdout), json.loads(good.stdout)
    assert [each["image"] for each in found] == [str(file) for file in shop.test[:4]]
    for one, other in zip(found, expected, strict=True):  # of batches of another size, so not to the last bit
        assert one["predictions"][0]["class"] == other["predictions"][0]["class"]
        assert one["predictions"][0]["probability"] == pytest.approx(other["predictions"][0]["probability"], abs=1e-5)
        assert one.get("figure") == other.get("figure")
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(part in line for line in lines)
    assert sorted(line.split(":")[1].strip() for line in lines) == [str(file) for file in bad]
    if command == "explain":
        assert {path.name for path in Path("explanations").iterdir()} == {f"{file.stem}.png" for file in shop.test[:4]}
    assert invoke(command, shop.folder, *mixed, *options, status=1).stdout == invoke(
        command, shop.folder, *shop.test[:4], *options
    ).stdout  # fmt: skip


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_of_bad_files_alone_nothing_is_printed(shop, command):
    result = invoke(command, shop.folder, bad_file("corrupt"), bad_file("empty"), status=1)
    assert result.stdout == "" and result.stderr.count("error: ") == 2
    assert json.loads(invoke(command, shop.folder, "corrupt0.png", "--json", status=1).stdout) == []


def test_as_a_function_it_raises_unless_it_is_given_a_place_for_failures(shop):
    files, failed = [bad_file("corrupt"), shop.test[0]], []
    with pytest.raises(LapmlError, match="corrupt0.png: cannot be read"):
        predict(shop.folder, files)
    assert [each["image"] for each in predict(shop.folder, files, failed=failed)] == [str(shop.test[0])]
    assert [file for file, _ in failed] == files[:1]


@pytest.mark.parametrize("command", ["predict", "explain", "export"])
@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda folder: (folder / "metrics.json").unlink(), "metrics.json is missing"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors: is not the file"),
        (lambda folder: _without_names(folder), "class_names: missing, as in old runs"),
        (lambda folder: _another_model(folder), "does not fit the run's config"),
        (lambda folder: _another_version(folder), "train.lr: missing; this version has other settings"),
    ],
    ids=["file", "folder", "model", "names", "model", "version"],
)
def test_a_run_that_is_not_whole_is_refused(shop, command, spoil, part):
    spoil(shop.folder)
    rest = ["--format", "onnx"] if command == "export" else shop.test[:1]
    result = invoke(command, shop.folder, *rest, status=1)
    assert part in result.stderr and result.stdout == ""


def _without_names(folder: Path) -> None:
    provenance = json.loads((folder / "provenance.json").read_text())
    del provenance["class_names"]
    sealed(folder, "provenance.json", provenance)


def _another_model(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({f"x{name}": value for name, value in state.items()}, folder / "model.safetensors")
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["files"]["model.safetensors"] = sha256(folder / "model.safetensors")
    sealed(folder, "provenance.json", provenance)


def _another_version(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    del record["train"]["lr"]
    sealed(folder, "config.json", record)


# --- explain ---


@pytest.fixture
def drawn(monkeypatch) -> list[tuple]:
    """What is drawn, instead of drawing it."""
    calls: list[tuple] = []

    def draw(file, *what):
        file.write_bytes(b"png")
        calls.append(what)

    monkeypatch.setattr(explaining, "draw", draw)
    return calls


def own_output(shop, rows: np.ndarray, **options) -> tuple:
    """Features, logits, embedding of rows of the packed data, and the head's weight."""
    config = runs.settings_of(shop.folder, json.loads((shop.folder / "config.json").read_text()))
    model, weights = runs.load_model(shop.folder, config, len(shop.names))
    batches = Batches(shop.packed, rows, config.data.view, weights["mean"], weights["std"], torch.device("cpu"))
    with torch.no_grad():
        return *model(next(batches.evaluation(len(rows))).images), model.head.weight


@pytest.mark.parametrize("target", [None, 3])
def test_what_is_drawn_is_the_view_and_the_class_map(shop, drawn, target):
    rows = np.flatnonzero(shop.packed.index["split"] == "test")
    features, logits, _, weight = own_output(shop, rows)
    named = None if target is None else shop.names[target]
    results = explain(shop.folder, shop.test, Path("why"), 0, named)
    assert [each["predictions"] for each in results] == [
        each["predictions"] for each in predict(shop.folder, shop.test)
    ]
    sizes = shop.packed.index[["width", "height"]].to_numpy(float)[rows]
    config = json.loads((shop.folder / "config.json").read_text())
    windows = evaluation_windows(sizes, SimpleNamespace(**config["data"]["view"]))
    views = cut(torch.from_numpy(shop.packed.images[rows]), torch.from_numpy(windows).float(), 48)
    for i, (result, view, map_, near) in enumerate(drawn):
        label = int(logits[i].argmax()) if target is None else target
        expected = (features[i] * weight[label][:, None, None]).sum(0).relu()
        expected = expected / expected.sum() if expected.max() > 0 else torch.full_like(expected, 1 / 36)
        np.testing.assert_allclose(map_, expected.detach(), atol=1e-5)
        assert np.abs(view - views[i].permute(1, 2, 0).numpy()).max() < 0.51  # rounded
        assert result == results[i] and near == [] and result["neighbours"] == []
        assert result["target"]["class"] == shop.names[label]
        share = torch.softmax(logits[i], 0)[label]
        assert result["target"]["probability"] == pytest.approx(float(share), abs=1e-5)


def test_neighbours_are_the_most_similar_images_that_the_run_was_trained_on(shop, drawn):
    index = shop.packed.index
    fit, rows = (np.flatnonzero(index["split"].isin(splits)) for splits in (["train", "val"], ["test"]))
    known, (_, logits, queries, _) = own_output(shop, fit)[2], own_output(shop, rows)
    similarity = (queries @ known.T).numpy()
    results = explain(shop.folder, shop.test, Path("why"), neighbours=4)
    for i, result in enumerate(results):
        found = result["neighbours"]
        np.testing.assert_allclose([each["similarity"] for each in found], np.sort(similarity[i])[::-1][:4], atol=1e-5)
        guess = shop.names[int(logits[i].argmax())]
        for each, picture in zip(found, drawn[i][3], strict=True):
            row = index.index[index["path"] == each["image"]][0]
            assert similarity[i][list(fit).index(row)] == pytest.approx(each["similarity"], abs=1e-5)
            assert each["class"] == index["class_name"][row] and each["predicted"] is (each["class"] == guess)
            assert picture.shape == (48, 48, 3)
    itself = explain(shop.folder, shop.train[:1], Path("why"), neighbours=1000)[0]["neighbours"]
    assert shop.train[0].as_posix().endswith(itself[0]["image"]) and itself[0]["similarity"] == pytest.approx(1)
    assert len(itself) == len(fit)  # all that there are


def test_embeddings_of_the_training_images_are_made_once(shop, drawn, monkeypatch):
    first = explain(shop.folder, shop.test[:2], Path("why"))
    assert {path.name for path in shop.folder.iterdir()} == {*RUN_FILES, "test_reads.jsonl", ".kept", EMBEDDINGS}
    kept = (shop.folder / EMBEDDINGS).read_bytes()

    def never(*args):
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(explaining.evaluate, "predict", never)
        assert explain(shop.folder, shop.test[:2], Path("why")) == first
    with np.load(shop.folder / EMBEDDINGS) as old:
        other = dict(old)
    np.savez(shop.folder / EMBEDDINGS, **{**other, "key": "of another model", "embeddings": -other["embeddings"]})
    assert explain(shop.folder, shop.test[:2], Path("why")) == first
    assert (shop.folder / EMBEDDINGS).read_bytes() == kept
    for damage in (b"", b"PK", kept[: len(kept) // 2], kept[:-200] + b"\0" * 200):
        (shop.folder / EMBEDDINGS).write_bytes(damage)
        assert explain(shop.folder, shop.test[:2], Path("why")) == first
        assert (shop.folder / EMBEDDINGS).read_bytes() == kept


def test_in_a_run_folder_that_may_not_be_written_nothing_is_kept(shop, drawn, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(explaining.np, "savez", refuse)
    assert len(explain(shop.folder, shop.test[:1], Path("why"))[0]["neighbours"]) == 5
    assert not (shop.folder / EMBEDDINGS).exists()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda pack: shutil.rmtree(pack), "make it again with `lapml data prepare birds`"),
        (lambda pack: _other_data(pack), "prepare that data again"),
    ],
    ids=["gone", "changed"],
)
def test_without_its_data_a_run_explains_without_neighbours(shop, spoil, part):
    spoil(shop.pack)
    stderr = invoke("explain", shop.folder, shop.test[0], status=1).stderr
    assert part in stderr
    assert stderr.endswith("or leave training images out with --neighbours 0\n")
    result = invoke("explain", shop.folder, shop.test[0], "--neighbours", 0, "--output", "why")
    assert "similar" not in result.stdout and (shop.root / "why" / f"{shop.test[0].stem}.png").is_file()


def _other_data(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "sha256": "1" * 64}))


def test_explain_writes_figures_and_says_what_they_show(shop):
    arguments = ("explain", shop.folder, *shop.test[:2], "--output", "why/deep", "--neighbours", 6)
    printed = invoke(*arguments).stdout
    results = json.loads(invoke(*arguments, "--json").stdout)
    heights = set()
    for file, result in zip(shop.test, results, strict=False):
        assert result["image"] == str(file) and result["figure"] == f"why/deep/{file.stem}.png"
        with Image.open(result["figure"]) as image:
            image.load()
            heights.add(image.height)
            assert image.width == 1064
        assert result["figure"] in printed
        for each in result["neighbours"]:
            assert f"{each['similarity']:.3f}" in printed and each["image"] in printed
    assert printed.count("*  ") == sum(each["predicted"] for result in results for each in result["neighbours"])
    assert {path.suffix for path in Path("why/deep").iterdir()} == {".png"}  # nothing temporary
    invoke("explain", shop.folder, shop.test[0], "--neighbours", 5, "--output", "one")
    with Image.open(f"one/{shop.test[0].stem}.png") as image:
        assert image.height < heights.pop()  # a line of neighbours less


def test_a_class_that_nothing_speaks_for_is_drawn_without_a_map(shop, monkeypatch):
    maps = {}
    monkeypatch.setattr("lapml.apply.picture.heat", lambda axes, map_, shape: maps.update(given=map_))
    result = explain(shop.folder, shop.test[:1], Path("why"), 0)[0]
    assert maps["given"] is not None
    view = np.zeros((48, 48, 3), np.uint8)
    explaining.draw(Path("none.png"), result, view, np.full((6, 6), 1 / 36, np.float32), [])
    assert maps["given"] is None and Path("none.png").is_file()


@pytest.mark.parametrize(("typed", "part"), [("sparow", "close ones are"), ("zzzz", "there are")])
def test_an_unknown_target_names_classes(shop, typed, part):
    stderr = invoke("explain", shop.folder, shop.test[0], "--target", typed, status=1).stderr
    assert f"--target: found '{typed}'" in stderr and part in stderr
    assert any(name in stderr for name in shop.names)


def test_a_misspelt_part_of_a_name_finds_the_class():
    names = ["001.Red_Jay", "002.Blue_Jay", "003.Blue_Finch"]
    assert explaining._label("002.Blue_Jay", names) == 1
    with pytest.raises(LapmlError, match="close ones are 003.Blue_Finch$"):
        explaining._label("FINHC", names)


def test_figures_of_the_same_stem_do_not_replace_each_other(shop, drawn):
    names = ["a/x.png", "b/x.png", "b/X.png", "c/x-2.png"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(shop.test[0], name)
    results = explain(shop.folder, [Path(name) for name in names], Path("why"), 0)
    assert [result["figure"] for result in results] == ["why/x.png", "why/x-2.png", "why/X-3.png", "why/x-2-2.png"]
    assert len(list(Path("why").iterdir())) == 4


@given(st.lists(st.sampled_from(["a", "A", "a-2", "a-2-2", "b"]), max_size=12))
def test_no_two_figures_are_alike(stems):
    files = [Path(f"in/{place}/{stem}.jpg") for place, stem in enumerate(stems)]
    figures = explaining._figures(files, Path("out"))
    assert len({str(figure).casefold() for figure in figures}) == len(files)


def test_a_figure_never_replaces_an_image(shop):
    shutil.copy(shop.test[0], "bird.png")
    before = Path("bird.png").read_bytes()
    stderr = invoke("explain", shop.folder, "bird.png", "--output", ".", status=1).stderr
    assert "holds the image bird.png" in stderr and Path("bird.png").read_bytes() == before


@pytest.mark.parametrize("command", ["explain", "export"])
def test_an_output_that_cannot_be_written_is_one_line(shop, command):
    Path("file").touch()
    rest = ("--format", "torch", "--output", "file/x.pt2") if command == "export" else ("--output", "file/why")
    result = invoke(command, shop.folder, *(shop.test[:1] if command == "explain" else ()), *rest, status=1)
    assert result.stderr.startswith("error: file") and result.stderr.count("\n") == 1


@given(
    st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=30), max_size=8),
    st.integers(1, 3),
    st.floats(0.4, 3),
)
def test_fitted_text_fits(words, lines, inches):
    canvas = FigureCanvasAgg(Figure(dpi=100))
    text, font = " ".join(words), FontProperties(size=8)
    made = fitted(canvas, text, inches, lines, 8).split("\n")
    assert len(made) <= lines
    for line in made:
        assert canvas.get_renderer().get_text_width_height_descent(line, font, False)[0] <= inches * 100
    if not any("…" in line for line in made):
        assert " ".join(made) == text


# --- export ---


def written_model(file: Path, form: str):
    """What calls an exported file, by its own reader alone."""
    if form == "torch":
        return torch.export.load(file).module()
    session = onnxruntime.InferenceSession(file)
    return lambda images: [torch.from_numpy(each) for each in session.run(None, {"image": images.numpy()})]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_the_exported_file_gives_the_runs_predictions_and_says_what_it_is(shop, form, capfd):
    before = contents(shop.folder)
    printed = invoke("export", shop.folder, "--format", form).stdout
    assert capfd.readouterr() == ("", "")  # no chatter of the exporters
    file = shop.folder / {"onnx": "model.onnx", "torch": "model.pt2"}[form]
    about = json.loads((shop.folder / f"{file.name}.json").read_text())
    assert set(contents(shop.folder)) == {*before, file, shop.folder / f"{file.name}.json"}
    assert all(path.read_bytes() == content for path, content in before.items())  # the run is as it was

    rows = np.flatnonzero(shop.packed.index["split"] == "test")
    sizes = shop.packed.index[["width", "height"]].to_numpy(float)[rows]
    step = {each["step"]: each for each in about["preprocessing"]}
    windows = evaluation_windows(sizes, SimpleNamespace(aspect=step["window"]["aspect"]))
    side = step["view"]["size"][0]
    images = cut(torch.from_numpy(shop.packed.images[rows]), torch.from_numpy(windows).float(), side) / 255
    call = written_model(file, form)
    logits, embedding = call(images.contiguous())
    written = pd.read_parquet(shop.folder / "predictions.parquet")
    assert not logits.requires_grad and (logits.argmax(1).numpy() == written["top1"]).all()
    share = torch.softmax(logits, 1)[torch.arange(len(rows)), torch.tensor(written["label"].tolist())]
    np.testing.assert_allclose(share, written["probability"], atol=1e-5)
    np.testing.assert_allclose(embedding, own_output(shop, rows)[2], atol=1e-5)
    for count in (1, 3):
        assert [len(each) for each in call(images[:count].contiguous())] == [count, count]

    assert about["class_names"] == shop.names and about["sha256"] == sha256(file)
    assert about["outputs"] == {"logits": ["N", 6], "embedding": ["N", embedding.shape[1]]}
    assert about["model_sha256"] == sha256(shop.folder / "model.safetensors")
    assert about["check"]["training_images"]["count"] == 36 and about["check"]["random_views"]["batches"] == [1, 2, 7]
    for kind in ("training_images", "random_views"):
        assert 0 <= about["check"][kind]["logits"] <= 1e-4
    assert f"agrees on 36 training images: logits within {about['check']['training_images']['logits']:.1e}" in printed
    if form == "onnx":
        inside = {each.key: each.value for each in onnx.load(file).metadata_props}["lapml"]
    else:
        found = {"lapml.json": ""}
        torch.export.load(file, extra_files=found)
        inside = found["lapml.json"]
    assert json.loads(inside)["class_names"] == shop.names


@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("tf_efficientnet_lite0", 96, {"truncate": 16}),
        ("resnet18", 64, {"truncate": 8, "embedding_dim": 16}),
        ("test_resnet", 48, {"output_stride": 8}),
    ],
    ids=["cut", "projected", "dilated"],
)
def test_models_of_all_kinds_agree(tmp_path, form, name, side, options):
    options = {"truncate": None, "output_stride": None, "embedding_dim": None, **options}
    model, weights = build(Model(name=name, weights="none", **options), 5, side, 0)
    for module in model.modules():  # statistics that a trained model has
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.manual_seed(1)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    model = model.eval().to(memory_format=torch.channels_last)
    module = exporting.Exported(model, weights["mean"], weights["std"]).eval()
    make = exporting._onnx if form == "onnx" else exporting._torch
    with exporting._silent(tmp_path, form):
        call = make(module, side, tmp_path / "file", "{}")
    images = torch.rand(3, 3, side, side)
    mean, std = (torch.tensor(weights[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        logits, embedding = call(images)
        _, own_logits, own_embedding = model((images - mean) / std)
    assert (logits - own_logits).abs().max() <= 1e-4 * own_logits.abs().max()
    assert (embedding - own_embedding).abs().max() <= 1e-4
    assert embedding.shape[1] == (options["embedding_dim"] or model.head.in_features)
    assert model.head.weight.requires_grad  # the run's own model is not changed


@pytest.mark.parametrize(
    "wrong",
    [
        lambda self, image: self.model(image)[1:],  # not normalised
        lambda self, image: self.model((image - self.mean) / self.std * float("nan"))[1:],
        lambda self, image: _slightly(self, image, 1.001, 1),
        lambda self, image: _slightly(self, image, 1, 1.001),
    ],
    ids=["input", "nan", "logits", "embedding"],
)
def test_a_model_that_does_not_agree_is_not_written(shop, monkeypatch, wrong):
    (shop.folder / "model.pt2").write_bytes(b"older")
    (shop.folder / "model.pt2.json").write_bytes(b"{}")
    before = set(shop.folder.iterdir())
    monkeypatch.setattr(exporting.Exported, "forward", wrong)
    stderr = invoke("export", shop.folder, "--format", "torch", status=1).stderr
    assert "model.pt2: not written" in stderr and "expected at most 1e-04" in stderr
    assert set(shop.folder.iterdir()) == before and (shop.folder / "model.pt2").read_bytes() == b"older"


def _slightly(module, image, *factors):
    outputs = module.model((image - module.mean) / module.std)[1:]
    return tuple(each * factor for each, factor in zip(outputs, factors, strict=True))


def test_what_is_said_of_an_older_export_never_stands_beside_a_new_one(shop, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device", "model.pt2.json")

    (shop.folder / "model.pt2.json").write_bytes(b"{}")
    monkeypatch.setattr(exporting, "write_json", fail)
    assert "No space left" in invoke("export", shop.folder, "--format", "torch", status=1).stderr
    assert (shop.folder / "model.pt2").exists() and not (shop.folder / "model.pt2.json").exists()


def test_one_other_top1_class_of_a_training_image_is_too_many():
    agreement = {
        "tolerance": 1e-4,
        "random_views": {"logits": 0.0, "embedding": 0.0, "other_top1": 1},  # may be a tie
        "training_images": {"logits": 0.0, "embedding": 0.0, "other_top1": 0},
    }
    exporting._refuse_other(Path("x"), "onnx", agreement)
    agreement["training_images"]["other_top1"] = 1
    with pytest.raises(LapmlError, match="1 other top-1 classes"):
        exporting._refuse_other(Path("x"), "onnx", agreement)


def test_without_its_data_a_run_is_exported_on_random_views(shop):
    shutil.rmtree(shop.pack)
    printed = invoke("export", shop.folder, "--format", "torch", "--output", "deep/model.pt2").stdout
    assert "not compared on training images: the run's packed data are gone or changed" in printed
    assert json.loads(Path("deep/model.pt2.json").read_text())["check"]["training_images"] is None
    assert {path.name for path in Path("deep").iterdir()} == {"model.pt2", "model.pt2.json"}


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_what_an_exporter_raises_is_one_line(shop, monkeypatch, form):
    def fail(*args, **kwargs):
        print("chatter")
        raise RuntimeError("no such\n operator")

    monkeypatch.setattr(torch.onnx if form == "onnx" else torch.export, "export", fail)
    result = invoke("export", shop.folder, "--format", form, status=1)
    assert f"cannot be exported as {form} (no such operator); try --format" in result.stderr
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert not list(shop.folder.glob("*model.[op]*"))


def test_a_full_disk_is_told_as_such(shop, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    stderr = invoke("export", shop.folder, "--format", "torch", status=1).stderr
    assert "model.pt2: No space left on device" in stderr


@pytest.mark.parametrize("name", ["model.safetensors", "config"])  # the latter's own file would be config.json
def test_an_export_never_replaces_a_file_of_the_run(shop, name):
    before = contents(shop.folder)
    stderr = invoke("export", shop.folder, "--format", "torch", "--output", shop.folder / name, status=1).stderr
    assert "is one of the run's own files" in stderr
    assert contents(shop.folder) == before


def test_wrong_usage(shop):
    assert (
        "found 'tflite', expected onnx or torch" in invoke("export", shop.folder, "--format", "tflite", status=2).stderr
    )
    invoke("export", shop.folder, status=2)
    invoke("predict", shop.folder, status=2)
    Path("folder").mkdir()
    stderr = invoke("export", shop.folder, "--format", "onnx", "--output", "folder", status=1).stderr
    assert "folder: is a folder, expected a file to write" in stderr


# --- the commands ---


@pytest.mark.parametrize("command", ["predict", "explain", "export"])
def test_help_has_an_example(command):
    assert f"Example: lapml {command} " in invoke(command, "--help").stdout


def test_the_commands_start_without_torch():
    code = "import sys, lapml.cli.apply; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
