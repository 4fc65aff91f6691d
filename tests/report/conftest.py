"""Fake run folders of a small suite: everything a report reads, without a model."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lapml import config
from lapml.config import Params
from lapml.paths import Paths
from lapml.report import figures, studies
from lapml.report.html import data_uri
from lapml.report.tiles import Mix, Pair, Tiles

PARAMS = Path(__file__).parents[2] / "params.yaml"
EPOCHS = 4
CLASSES = 7
IMAGES = 140
SKILL = {"baseline": 0.50, "cutmix": 0.52, "loc_cutmix": 0.70, "margin": 0.71, "adaptive_margin": 0.71}
SMALL = [
    "suite=fake",
    f"train.epochs={EPOCHS}",
    f"tune.epochs={EPOCHS}",
    "tune.trials=3",
    "report.bootstrap=500",
    "seeds=[0, 1]",
]
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
).split()
REPORT = """<script>
function report(found) {
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}
</script>"""
VALUES = {"m": 0.8, "weight": 0.05, "delta": 0.3, "quantile": 0.5}


def make_suite(root: Path, *overrides: str) -> tuple[Params, Paths]:
    """The suite of params.yaml, made small, with all of its runs on disk below ``root``."""
    params = config.load(PARAMS, [*SMALL, *overrides])
    paths = Paths(params.suite, root)
    for dataset in params.datasets:
        paths.pack(dataset).mkdir(parents=True)
        (paths.pack(dataset) / "meta.json").write_text(json.dumps({"sha256": "d" * 64, "source": {"kind": "drawn"}}))
        for method in params.tuned_methods:
            write_tuned(paths, params, dataset, method)
        for method in params.all_methods():
            for seed in params.seeds:
                write_run(paths, params, dataset, method, seed)
    return params, paths


def write_tuned(
    paths: Paths, params: Params, dataset: str, method: str, values: dict[str, float] | None = None
) -> None:
    values = values or dict(list(VALUES.items())[: 2 if method == "margin" else 4])
    trials = [{"number": k, "values": values, "score": 50.0 + k, "state": "COMPLETE"} for k in range(3)]
    record = {
        "dataset": dataset, "method": method, "values": values, "score": 52.0, "trials": trials,
        "seeds": params.tune.seeds, "epochs": params.tune.epochs, "settings": {}, "data_sha256": "d" * 64,
    }  # fmt: skip
    frozen = config.frozen_margins(params.methods[method], VALUES) if method == "adaptive_margin" else {}
    record["study"] = config.digest(config.study_identity(params, dataset, method, frozen, "d" * 64))
    path = paths.tuned(dataset, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def write_run(paths: Paths, params: Params, dataset: str, method: str, seed: int) -> None:
    folder = paths.run(dataset, method, seed)
    folder.mkdir(parents=True)
    run = config.resolve(params, dataset, method, seed, tuned=VALUES)
    rng = np.random.default_rng([seed, *method.encode()])
    label = np.arange(IMAGES) % CLASSES
    wins = rng.random(IMAGES) < SKILL.get(method, 0.5) + 0.02 * rng.standard_normal()
    top1 = np.where(wins, label, (label + 1 + rng.integers(0, CLASSES - 1, IMAGES)) % CLASSES)
    table = pd.DataFrame({"image": [f"images/{k:03d}.jpg" for k in range(IMAGES)], "label": label, "top1": top1})
    for rank in range(2, 6):
        table[f"top{rank}"] = (top1 + rank - 1) % CLASSES
    table["probability"] = rng.random(IMAGES)
    table.to_parquet(folder / "predictions.parquet")
    mixes, margin = run.settings.mixer is not None, run.settings.margin is not None
    epochs = np.arange(run.train.epochs)
    speed = 1 - np.exp(-(epochs + 1) / 2) + 0.02 * rng.standard_normal(len(epochs))
    empty = np.full(len(epochs), np.nan)
    history = pd.DataFrame({
        "epoch": epochs, "lr": 0.01, "loss": 2.5 - 1.8 * speed + 0.3 * mixes, "ce": 2.5 - 1.8 * speed,
        "loss_margin": 0.1 if margin else empty, "loss_adaptive": 0.05 if run.settings.adaptive else empty,
        "accuracy": 90 * speed - 15 * mixes, "d_mean": 0.9 + 0.2 * speed if margin else empty,
        "s_mean": 0.2 if margin else empty,
        "rho_mean": 0.4 if mixes else empty, "beyond": 0.6 - 0.3 * speed if margin else empty,
        "mixed_batches": 5 if mixes else 0, "images_forward": 432 if "loc" in method or margin else 288,
        "images_backward": 288, "seconds": 10.0 + rng.random(len(epochs)),
    })  # fmt: skip
    history.to_csv(folder / "history.csv", index=False)
    total = int(history["images_forward"].sum()), int(history["images_backward"].sum())
    top = 100 * float((table["top1"] == table["label"]).mean())
    metrics = {
        "top1": top, "top5": 95.0, "mean_class": top - 0.5, "recall1": top - 5, "recall5": top + 10, "n": IMAGES,
        "loss": 1.2, "images_forward": total[0], "images_backward": total[1],
        "seconds": float(history["seconds"].sum()), "split": "test",
    }  # fmt: skip
    provenance = {
        "command": f"lapml train --dataset {dataset} --method {method} --seed {seed}", "commit": "c" * 40,
        "dirty": False, "data_sha256": "d" * 64, "weights": {"name": "lite0.pth", "sha256": "e" * 64},
        "versions": {"python": "3.11.2", "torch": "2.9.0"}, "device": "CPU, 1 thread", "precision": "fp32",
        "threads": 1, "seed": seed, "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:01:00Z",
        "seconds": 60.0, "peak_memory_bytes": 400_000_000, "resumed": 0, "test_reads": 1,
    }  # fmt: skip
    for name, record in (("config", run.record()), ("metrics", metrics), ("provenance", provenance)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / "model.safetensors").write_bytes(b"weights")


def fake_galleries(dataset: str, answers: object = None) -> dict[str, Any]:
    """Random pictures: mixes and class maps of two methods, a contact sheet of objects, and two mistakes."""
    rng, tiles = np.random.default_rng(0), Tiles(f"{dataset}-picture")

    def picture() -> np.ndarray:
        return np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)

    def heat() -> np.ndarray:
        weights = rng.random((8, 8)) ** 4
        return weights / weights.sum()

    mixes, cams = {}, {}
    for method in ("cutmix", "loc_cutmix"):
        pairs, looks = [], []
        for at in range(4):
            reference, donor, box = picture(), picture(), (10, 12, 40, 44)
            mixed = reference.copy()
            mixed[12:44, 10:40] = donor[12:44, 10:40]
            maps = (heat(), heat()) if method != "cutmix" else (None, None)
            similarity = 0.5 if method != "cutmix" else None
            mix = Mix(method, "", mixed, box, box, None, *maps, similarity, 0.69, 0.31, 0.2, None, [], 0.31)
            pairs.append(Pair(reference, donor, "001.Sparrow", "002.<Finch>", None, None, [mix]))
            looks.append(tiles.tile(picture(), "Sparrow", heat(), kind="wrong" if at % 2 else "right"))
        mixes[method], cams[method] = tiles.mixes(pairs), looks
    finch = "taken for: 002.<Finch>"
    mistakes = [
        {
            "views": [tiles.tile(picture(), "is: Sparrow"), tiles.tile(picture(), finch)],
            "facts": "wrong in 2 of 2 runs; probability of the true class below 0.001",
        },
        {
            "views": [tiles.tile(picture(), "is: Sparrow")],
            "facts": f"{finch}; wrong in 2 of 2 runs; probability of the true class 0.125",
        },
    ]
    shown = {
        "mixes": mixes,
        "cams": cams,
        "best": "loc_cutmix",
        "mistakes": mistakes,
        "all": [*tiles.pictures.values()],
    }
    with BytesIO() as sheet:
        Image.fromarray(picture()).save(sheet, "png")
        return shown | {"objects": data_uri(sheet.getvalue(), "png")}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Params, Paths]]:
    """make("seeds=[0]", …) → the small suite with these overrides, on disk below tmp_path."""
    return lambda *overrides: make_suite(tmp_path, *overrides)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Paths]:
    return make_suite(tmp_path_factory.mktemp("original"))


@pytest.fixture
def suite(original: tuple[Params, Paths], tmp_path: Path) -> tuple[Params, Paths]:
    """The small suite; a copy of its own for each test to spoil."""
    params, paths = original
    shutil.copytree(paths.root, tmp_path, dirs_exist_ok=True)
    return params, Paths(params.suite, tmp_path)


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(path, key=value) changes keys of a JSON file."""

    def change(path: Path, **changes: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.fixture
def tune() -> Callable[..., None]:
    """tune(paths, params, dataset, method, values) writes the tuned file of a row."""
    return write_tuned


@pytest.fixture(scope="session")
def galleries() -> Callable[[str], dict[str, Any]]:
    return fake_galleries


@pytest.fixture
def params_file() -> Path:
    return PARAMS


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank pictures in place of drawn ones, for tests of what stands around them."""
    for module, name in ((figures, "_chart"), (studies, "_draw")):
        monkeypatch.setattr(module, name, lambda draw, *size, **more: b'<svg xmlns="http://www.w3.org/2000/svg"/>')


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: apt-get install chromium")


@pytest.fixture
def browse(chromium: str, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """browse(html, fragment, *flags): open a page; returns what its script gives to ``report``, and what the browser's console
    says."""

    def opened(html: str, fragment: str = "", *flags: str) -> tuple[Any, list[str]]:
        page = tmp_path / "page.html"
        page.write_text(html.replace("<!doctype html>", f"<!doctype html>{REPORT}", 1), encoding="utf-8")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [chromium, *CHROMIUM, *flags, profile, page.as_uri() + fragment]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, f"no report from the page; stderr: {done.stderr[-2000:]}"
        unescaped = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        return json.loads(unescaped), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return opened


@pytest.fixture
def framed() -> Callable[[str, str, str], str]:
    """framed(html, attributes, script): a page that looks into a frame that holds ``html``, its document ``inner``."""

    def around(html: str, attributes: str, script: str) -> str:
        source = html.replace("&", "&amp;").replace('"', "&quot;")
        return f"""<!doctype html><body><iframe {attributes} srcdoc="{source}"></iframe><script>
addEventListener("load", () => {{ const inner = document.querySelector("iframe").contentDocument; {script} }});
</script></body>"""

    return around
