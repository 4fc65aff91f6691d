"""`report.images: false`: no pixel of the data in anything that a suite writes, but its packed images themselves."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lapml.cli import app
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.report import build
from lapml.report.published import publish

ROOT = Path(__file__).parents[2]
TINY = [
    "suite=private", "ablation=[baseline, cutmix, loc_cutmix]", "tuned_methods=[]", "seeds=[0]", "model.name=test_resnet",
    "model.weights=none", "model.truncate=8", "model.freeze=0", "data.birds.stored_side=64", "data.birds.view.side=48",
    "train.epochs=2",
    "train.batch=6", "train.device=cpu", "train.warmup_epochs=0", "defaults.mixers.localized.maps=recent",
    "methods.cutmix_semantic.mixer.maps=recent", "defaults.mix.warmup_epochs=0", "data.birds.synthetic.classes=3",
    "data.birds.synthetic.train_images=6", "data.birds.synthetic.test_images=4", "data.birds.synthetic.side=64",
    "diagnose.images=12", "diagnose.pairs=2", "report.bootstrap=100",
]  # fmt: skip
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
PICTURE = 12  # pixels: a raster as large as this may hold something of an image; maps of cells may be smaller


def lapml(*words: object, status: int = 0, images: bool) -> str:
    sets = [part for each in (*TINY, f"report.images={str(images).lower()}") for part in ("--set", each)]
    found = CliRunner().invoke(app, [*map(str, words), "--params", str(ROOT / "params.yaml"), *sets])
    assert found.exit_code == status, found.output
    return found.output


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder of a suite whose runs are finished."""
    root = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for words in (("data", "fetch", "birds"), ("data", "prepare", "birds"),
                      *(("train", "birds", row, 0) for row in ("baseline", "cutmix", "loc_cutmix"))):  # fmt: skip
            lapml(*words, images=True)
    return root


def embedded(content: bytes) -> list[bytes]:
    """The content, and whatever lies in it as base64, at any depth."""
    found = [content]
    for text in re.findall(rb"base64,([A-Za-z0-9+/=\s]+)", content):
        found += embedded(base64.b64decode(text))
    return found


def rasters(content: bytes) -> list[np.ndarray]:
    """Every raster image in a file's bytes, wherever it begins."""
    found = []
    for part in embedded(content):
        for magic in MAGIC:
            for place in re.finditer(re.escape(magic), part):
                try:
                    with Image.open(io.BytesIO(part[place.start() :])) as image:
                        found.append(np.asarray(image.convert("RGB")))
                except Exception:  # two bytes that only look like a beginning
                    continue
    return found


def with_pictures(root: Path, packed: Packed) -> set[str]:
    """Files that hold a raster picture, or a line of a packed image's pixels; the packed images and weights are left out."""
    lines = [image[row].tobytes() for image in packed.images for row in (20, 32, 44)]
    found = set()
    for path in root.rglob("*"):
        where = path.relative_to(root).as_posix()
        if not path.is_file() or where.startswith("data/") or "/data/" in where:
            continue
        content = path.read_bytes()
        large = [each for each in rasters(content) if max(each.shape[:2]) >= PICTURE]
        if large or any(line in part for part in embedded(content) for line in lines):
            found.add(path.name)
    return found


def links(folder: Path) -> set[str]:
    """The files that a report's page links to, all of which are there."""
    page = re.sub(r"data:[\w/+;]+base64,[\w+/=]+", "", (folder / "report.html").read_text())
    found = set(re.findall(r'href="([^"#:]+)"', page))
    assert found and all((folder / link).is_file() for link in found)
    return found


def test_one_switch_for_every_output(shop, monkeypatch):
    monkeypatch.chdir(shop)
    paths = Paths("private")
    packed = Packed.open(paths.pack("birds"))
    lapml("diagnose", "birds", images=True)
    lapml("report", images=True)
    lapml("data", "show", "birds", "--output", "results/private/contact.png", images=True)
    assert with_pictures(shop, packed) == {"report.html", "gallery.html", "contact.png"}  # so they would be seen
    assert "../diagnosis/birds/gallery.html" in links(paths.report)
    assert "The hardest mistakes of" in (paths.report / "report.html").read_text()
    copied = links(publish(*small(images=True)))
    assert copied == {link.removeprefix("../") for link in links(paths.report) if "gallery" not in link}
    (paths.base / "contact.png").unlink()

    refused = lapml("report", status=1, images=False)
    assert "gallery.html: shows pictures of the data" in refused and "lapml diagnose birds" in refused
    lapml("diagnose", "birds", images=False)
    with pytest.raises(LapmlError, match="report.html: shows pictures of the data, and report.images is false"):
        publish(*small(images=False))
    lapml("report", images=False)
    for words in (("data", "show", "birds"), ("data", "show", "birds", "--objects")):
        said = lapml(*words, "--output", "results/private/contact.png", status=1, images=False)
        assert "report.images is false" in said and "--set report.images=true" in said
    lapml("config", "resolve", "birds", images=False)
    publish(*small(images=False))
    assert with_pictures(shop, packed) == set()
    page = (paths.report / "report.html").read_text()
    assert 'name="lapml-images" content="none"' in page and "hardest mistakes" not in page
    assert not any("gallery" in link for link in links(paths.report)) and links(paths.published) == copied
    gallery = (paths.diagnosis("birds") / "gallery.html").read_text()
    assert 'name="lapml-images" content="none"' in gallery and "<img" not in gallery and "<image" not in gallery


def small(images: bool):
    from lapml import config

    params = config.load(ROOT / "params.yaml", [*TINY, f"report.images={str(images).lower()}"])
    return params, Paths(params.suite)


def test_the_report_never_shows_what_the_settings_forbid(shop, monkeypatch):
    """Whoever calls it: the switch is not only the command's."""
    monkeypatch.chdir(shop)
    params, paths = small(images=False)
    (paths.diagnosis("birds") / "gallery.html").unlink(missing_ok=True)

    def never(dataset, answers):
        raise AssertionError("galleries called")

    build.report(params, ROOT / "params.yaml", paths, never)


@pytest.mark.parametrize("neighbours", [0, 3])
def test_explain_shows_no_training_image_where_none_may_be_shown(shop, monkeypatch, neighbours, tmp_path):
    monkeypatch.chdir(shop)
    run = Paths("private").run("birds", "baseline", 0)
    image = next(path for path in sorted(shop.glob("data/**/*")) if path.suffix in (".png", ".jpg"))
    text = (ROOT / "params.yaml").read_text()
    for suite, images, allowed in (("private", "false", False), ("private", "true", True), ("another", "false", True)):
        changed = re.sub(r"(?m)^suite: \w+", f"suite: {suite}", text)
        changed = changed.replace("images: true   ", f"images: {images}   ")
        Path("params.yaml").write_text(changed)
        words = ["explain", run, image, "--neighbours", neighbours, "--output", tmp_path / f"{suite}{images}", "--json"]
        found = CliRunner().invoke(app, [*map(str, words)])
        assert found.exit_code == int(not allowed and neighbours > 0), found.output
        if found.exit_code:
            assert "give --neighbours 0" in found.output and not (tmp_path / f"{suite}{images}").exists()
        else:
            assert len(json.loads(found.output)[0]["neighbours"]) == neighbours
    Path("params.yaml").unlink()
