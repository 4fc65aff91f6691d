"""What FILE.json says of an image's way to a view gives, by Pillow alone, the run's own views and predictions."""

import ast
import csv
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lapml.apply import check as checking
from lapml.apply import preprocess as example
from lapml.apply.export import export
from lapml.apply.images import packs
from lapml.apply.predict import predict
from lapml.apply.preprocess import preprocess
from lapml.apply.sidecar import preprocessing
from lapml.cli import app
from lapml.config import Run
from lapml.data.batches import Batches
from lapml.errors import LapmlError

ROOT = Path(__file__).resolve().parents[2]
(PROGRAM,) = re.findall(r"^```python\n(import json.*?)^```", (ROOT / "docs/usage.md").read_text(), re.M | re.S)
STORED = 64  # of the small params
MODES = ("RGB", "L", "RGBA", "LA", "P", "P transparent", "1", "CMYK")
SUFFIXES = {"RGB": (".jpg", ".png", ".tif"), "L": (".jpg", ".png"), "CMYK": (".jpg", ".tif")}  # else .png


def invoke(*arguments: object, status: int = 0) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result


def save(file: Path, size: tuple[int, int], mode: str = "RGB", orientation: int = 1) -> Path:
    """An image of slow waves and noise, no two of whose sides and colours are alike, as of ``mode`` and turned."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    waves = np.stack([np.sin(9 * x + 2 * y), np.cos(5 * y * x), x - y**2], 2) * 90 + 128
    noise = np.random.default_rng(size).normal(0, 25, waves.shape)
    image = Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray((255 * x).astype(np.uint8)))
    options = {"transparency": 3} if mode == "P transparent" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.quantize(16) if mode.startswith("P") else image.convert(mode)
    image.save(file, exif=exif, **options)
    return file


def own_view(file: Path, config: Run) -> np.ndarray:
    """The view that evaluation sees, in 0..255."""
    (packed,) = packs([file], config, ["Jay"])
    view = config.data.view
    batches = Batches(packed, np.arange(1), view, [0.0] * 3, [1 / 255] * 3, torch.device("cpu"))
    return next(batches.evaluation(1)).images.numpy()


def apart(file: Path, config: Run) -> float:
    """The largest difference of the two views, in levels of 255."""
    view = preprocess(file, json.loads(json.dumps({"preprocessing": preprocessing(config)})))
    side = config.data.view.side
    assert view.dtype == np.float32 and view.shape == (1, 3, side, side) and 0 <= view.min() <= view.max() <= 1
    return float(np.abs(255 * view - own_view(file, config)).max())


@pytest.fixture(scope="module")
def configs(small_run) -> dict[tuple[str, int], Run]:
    """Runs' settings by aspect and side of the view."""
    return {
        (aspect, side): small_run("baseline", f"data.birds.view.aspect={aspect}", f"data.birds.view.side={side}")
        for aspect, side in (("keep", 48), ("warp", 48), ("keep", 80))
    }


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.sampled_from(MODES),
    st.integers(1, 8),
    st.integers(0, 2),
    st.sampled_from([("keep", 48), ("warp", 48), ("keep", 80)]),
)
def test_by_pillow_alone_a_view_is_the_one_that_evaluation_sees(
    configs, tmp_path_factory, size, mode, turn, kind, view
):
    suffixes = SUFFIXES.get(mode, (".png",))
    file = save(tmp_path_factory.mktemp("x") / f"x{suffixes[kind % len(suffixes)]}", size, mode, turn)
    assert apart(file, configs[view]) < 0.01  # rounding to whole levels would be 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1001, 643), (397, 799)])  # at half size and in fractions: 500.5 x 321.5
def test_large_jpegs_are_decoded_smaller(small_run, tmp_path, size, orientation):
    config = small_run("baseline")
    file = save(tmp_path / "large.jpg", size, orientation=orientation)
    with Image.open(file) as image:
        assert (image.draft(None, (3 * STORED, 3 * STORED)) is not None) and image.size < size
    assert apart(file, config) < 0.01


def test_a_banner_is_cut_off_first(small_run, tmp_path):
    config = small_run("baseline")
    config = config.model_copy(update={"data": config.data.model_copy(update={"reader": "aircraft"})})
    assert [step["rows"] for step in preprocessing(config) if step["step"] == "banner"] == [20]
    for orientation in (1, 6):
        assert apart(save(tmp_path / "x.jpg", (901, 777), orientation=orientation), config) < 0.01


def test_the_steps_are_said_in_order_with_names_of_pillow(small_run):
    steps = preprocessing(small_run("baseline"))
    assert [step["step"] for step in steps] == [
        "draft",
        "upright",
        "rgb",
        "banner",
        "square",
        "window",
        "view",
        "scale",
    ]
    assert all(hasattr(Image.Resampling, step["filter"]) for step in steps if "filter" in step)
    assert all(step["what"] for step in steps)


def test_the_program_of_the_docs_needs_neither_lapml_nor_torch_and_is_what_check_uses():
    tree = ast.walk(ast.parse(PROGRAM))
    imported = {
        (each.module if isinstance(each, ast.ImportFrom) else each.names[0].name)
        for each in tree
        if isinstance(each, ast.Import | ast.ImportFrom)
    }
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    assert inspect.getsource(example.preprocess) in PROGRAM


def test_the_program_of_the_docs_predicts_what_the_run_does(shop):
    Path("odd").mkdir()
    for name, *how in (
        ("tall.jpg", (41, 700)), ("wide.png", (611, 29)), ("tiny.png", (5, 3)), ("dot.png", (1, 1)), ("grey.png", (90, 77), "L"),
        ("clear.png", (120, 85), "RGBA"), ("palette.png", (99, 150), "P"), ("clear palette.png", (80, 81), "P transparent"),
        ("print.jpg", (130, 70), "CMYK"), ("large.jpg", (1501, 1003)), ("turned.jpg", (1003, 811), "RGB", 6),
        ("mirrored.jpg", (150, 87), "RGB", 2), ("turned.png", (140, 60), "L", 8), ("turned.tif", (60, 133), "RGB", 5),
    ):  # fmt: skip
        save(Path("odd", name), *how)
    file, _ = export(shop.folder, "onnx", Path("out/model.onnx"))
    Path("program.py").write_text(PROGRAM)
    expected = list(predict(shop.folder, [Path("odd")]))
    images = [result["image"] for result in expected]
    done = subprocess.run([sys.executable, "program.py", file, *images], check=True, capture_output=True, text=True)
    rows = iter(csv.reader(done.stdout.splitlines(), delimiter="\t"))
    for result in expected:
        for each in result["predictions"]:
            image, label, share = next(rows)
            assert (image, label) == (result["image"], each["class"])
            assert float(share) == pytest.approx(each["probability"], abs=1e-4)  # a hundredth of a point
    assert len(images) == 14 and next(rows, None) is None


# --- export --check ---


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_check_prints_both_top5s_and_how_far_they_are_apart(shop, form):
    file = save(Path("photo.jpg"), (640, 480), orientation=8)
    printed = invoke("export", shop.folder, "--format", form, "--output", "model", "--check", file).stdout.splitlines()
    (own,) = predict(shop.folder, [file])
    for rank, (line, each) in enumerate(zip(printed[-6:-1], own["predictions"], strict=True), start=1):
        assert line.split() == [str(rank), *[each["class"], f"{100 * each['probability']:.2f}", "%"] * 2]
    assert (
        float(re.fullmatch(r"largest difference: ([\d.]+) points of probability, of at most 0.1", printed[-1])[1])
        < 0.01
    )


def test_check_ends_with_status_1_where_they_are_apart(shop, monkeypatch):
    file = save(Path("photo.jpg"), (640, 480))
    (own,) = predict(shop.folder, [file], 6)
    right = checking.preprocess
    monkeypatch.setattr(checking, "preprocess", lambda *arguments: right(*arguments)[..., ::-1, :].copy())
    found = invoke("export", shop.folder, "--format", "torch", "--output", "model", "--check", file, status=1)
    difference = float(re.search(r"largest difference: ([\d.]+)", found.stdout)[1])
    assert difference > 0.1 and f"by {difference:.2f} points, expected at most 0.1" in found.stderr
    flipped = Path("flipped.png")
    Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(flipped)
    (other,) = predict(shop.folder, [flipped], 6)  # what the exported file was given instead
    shares = {each["class"]: each["probability"] for each in other["predictions"]}
    apart = max(100 * abs(each["probability"] - shares[each["class"]]) for each in own["predictions"])
    assert difference == pytest.approx(apart, abs=0.02)


@pytest.mark.parametrize(("difference", "far"), [(0.0, False), (0.1, False), (0.11, True), (float("nan"), True)])
def test_at_most_a_tenth_of_a_point_is_close(difference, far):
    if far:
        with pytest.raises(LapmlError, match="m.onnx: differs from lapml predict on x.jpg"):
            checking.refuse_far({"difference": difference}, Path("m.onnx"), Path("x.jpg"))
    else:
        checking.refuse_far({"difference": difference}, Path("m.onnx"), Path("x.jpg"))


def test_an_image_to_check_that_is_none_is_one_line(shop):
    assert "does not exist" in invoke("export", shop.folder, "--format", "torch", "--check", "x.jpg", status=2).stderr
    Path("x.jpg").write_bytes(b"nothing of the kind")
    found = invoke("export", shop.folder, "--format", "torch", "--output", "model", "--check", "x.jpg", status=1)
    assert found.stderr.startswith("error: x.jpg: cannot be read as an image") and found.stderr.count("\n") == 1
