"""Mutated image files, annotation files and archives: no traceback, no hang, nothing half-written.

Deterministic by seed; ``python -m pytest tests/data/test_fuzz.py -m slow -s`` prints the outcomes by format. Files that once
gave a traceback are in tests/fixtures/fuzz and are read by the default tests.
"""

import io
import tarfile
import warnings
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fuzzing import of_bytes, of_text, outcome
from PIL import Image

from lapml.config import Synthetic
from lapml.data import damage, formats, index, inspect, look
from lapml.data.decode import square
from lapml.data.fetch import sources
from lapml.data.readers import reader
from lapml.data.synthetic import layouts
from lapml.errors import LapmlError
from lapml.paths import Paths

COUNT = 160  # mutations of each format
CORPUS = Path(__file__).parents[1] / "fixtures/fuzz"
pytestmark = pytest.mark.filterwarnings("ignore")


def told(what: str, seen: Counter, bad: list[str]) -> None:
    print(
        f"\n{what:<24}"
        + "".join(f"{kind} {seen[kind]:>4}  " for kind in ("right", "other", "error", "traceback", "hang"))
    )
    assert not bad, "\n".join(bad)
    assert seen.total() >= 150


# --- images ---


def picture() -> Image.Image:
    y, x = np.mgrid[:30, :40]
    noise = np.random.default_rng(0).normal(0, 9, (30, 40))
    channels = [128 + 80 * np.sin(x / 5) + noise, 128 + 80 * np.cos(y / 4) + noise, (6 * x + 5 * y) % 256]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def encoded(form: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    image = picture()
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16)
        if mode == "I;16"
        else image.convert(mode)
    )
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FORMATS = {
    "jpeg": partial(encoded, "JPEG", exif=turned()),
    "jpeg, progressive": partial(encoded, "JPEG", progressive=True),
    "jpeg, cmyk": partial(encoded, "JPEG", "CMYK"),
    "jpeg, restarts": partial(encoded, "JPEG", "L", restart_marker_rows=1),
    "png": partial(encoded, "PNG"),
    "png, palette": partial(encoded, "PNG", "P", transparency=0),
    "png, 16 bits": partial(encoded, "PNG", "I;16"),
    "webp": partial(encoded, "WEBP"),
    "avif": partial(encoded, "AVIF"),
    "gif": partial(encoded, "GIF", "P"),
    "bmp": partial(encoded, "BMP"),
    "tiff": partial(encoded, "TIFF", tiffinfo={274: 3}),
    "tiff, lzw": partial(encoded, "TIFF", compression="tiff_lzw"),
    "tiff, jpeg": partial(encoded, "TIFF", compression="jpeg"),
    "tiff, 16 bits": partial(encoded, "TIFF", "I;16"),
    "tiff, float": partial(encoded, "TIFF", "F"),
    "jpeg 2000": partial(encoded, "JPEG2000"),
    "mpo": partial(encoded, "MPO", save_all=True, append_images=[picture()]),
    "ppm": partial(encoded, "PPM"),
    "tga": partial(encoded, "TGA", compression="tga_rle"),
    "ico": partial(encoded, "ICO"),
    "pcx": partial(encoded, "PCX"),
    "dds": partial(encoded, "DDS"),
    "sgi": partial(encoded, "SGI"),
    "qoi": partial(encoded, "QOI"),
}


def seen_of(file: Path) -> tuple[str, bytes, str]:
    """All that lapml does with an image file: whether it is one, its square, and what check says, which may be an error."""
    refusal = formats.refusal(file)
    looked = look.look(file, 0)
    try:
        pixels, _ = square(file, 16)
    except LapmlError as error:
        assert looked.error or "lost" in str(error)
        raise
    assert len(pixels) == 16 * 16 * 3
    if looked.damage:
        raise LapmlError(looked.damage)
    return refusal, pixels, looked.error


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_images(tmp_path, form, monkeypatch):
    monkeypatch.setattr(damage, "libjpeg", lambda file: "")  # its process is tried in test_damage.py, and below
    content, file = FORMATS[form](), tmp_path / ("a.tga" if form == "tga" else "a")
    file.write_bytes(content)
    expected = seen_of(file)
    assert expected[0] == expected[2] == ""
    seen, bad = Counter(), []
    for what, made in of_bytes(content, np.random.default_rng(list(form.encode())), COUNT):
        file.write_bytes(made)
        kind, about = outcome(partial(seen_of, file), expected, lambda one, other: one == other)
        seen[kind] += 1
        if kind in ("traceback", "hang"):
            bad.append(f"{form}, {what}: {kind} {about}")
    told(form, seen, bad)


@pytest.mark.slow
def test_jpegs_by_libjpeg(tmp_path):
    """The process that asks libjpeg outlives whatever it is given, and says the same of a file before and after."""
    content, file = encoded("JPEG"), tmp_path / "a.jpg"
    file.write_bytes(content)
    assert damage.libjpeg(file) == ""  # its start, of seconds, is not the file's
    seen, bad = Counter(), []
    for what, made in of_bytes(content, np.random.default_rng(5), COUNT):
        file.write_bytes(made)
        kind, about = outcome(partial(damage.libjpeg, file), "", lambda one, other: one == other)
        seen[kind] += 1
        if kind in ("traceback", "hang"):
            bad.append(f"{what}: {kind} {about}")
    file.write_bytes(content)
    assert damage.libjpeg(file) == ""
    told("jpeg, by libjpeg", seen, bad)


# --- annotations ---

DRAWN = Synthetic(classes=3, train_images=3, test_images=2, side=32, seed=0, nuisance=0.5)
LABELS = {"aircraft": "variant"}


def annotations_of(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in (".txt", ".mat") and file.name != "notes.txt")


def table_of(root: Path, layout: str, data) -> tuple:
    how = reader(layout)
    frame = index.read(root, data)
    return frame.to_dict("list"), how.fingerprint(root)[0], how.part_names(root)


def equal(one, other) -> bool:
    return repr(one) == repr(other)  # NaN is NaN there


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cub200", "aircraft", "cars", "deepfashion"])
def test_annotation_files(tmp_path, settings, layout):
    root = tmp_path / "set"
    layouts.draw(root, DRAWN, layout)
    data = settings(root, reader=layout, labels=LABELS.get(layout))
    expected = table_of(root, layout, data)
    seen, bad = Counter(), []
    for number, file in enumerate(annotations_of(root)):
        content = file.read_bytes()
        mutate = of_bytes if file.suffix == ".mat" else of_text
        for what, made in mutate(content, np.random.default_rng([number, *layout.encode()]), COUNT):
            file.write_bytes(made)
            kind, about = outcome(partial(table_of, root, layout, data), expected, equal)
            seen[kind] += 1
            if kind in ("traceback", "hang"):
                bad.append(f"{file.relative_to(root)}, {what}: {kind} {about}")
        file.unlink()
        kind, about = outcome(partial(table_of, root, layout, data), expected, equal)
        seen[kind] += 1
        if kind in ("traceback", "hang"):
            bad.append(f"{file.relative_to(root)}, missing: {kind} {about}")
        file.write_bytes(content)
    told(layout, seen, bad)


NAMES = (
    "train", "test", "val", "a", "b.jpg", "B.JPG", "é", "x" * 200, " ", "a b", "\n", "..a", "~", "-", "*", ".hidden", "#", "con",
    "a.jpg.txt", "%s", "{0}", "'", '"', "\\",
)  # fmt: skip


@pytest.mark.slow
def test_folders(tmp_path, settings):
    """A tree of images of which files and folders are renamed, moved, removed, emptied, doubled and linked."""
    seen, bad = Counter(), []
    for number in range(COUNT):
        rng = np.random.default_rng([7, number])
        root = tmp_path / str(number)
        for split in ("train", "test"):
            for name in "ab":
                for copy in range(3):
                    file = root / split / name / f"{copy}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(PNG)
        data = settings(root, reader="folder", labels=(None, "nested", "top")[number % 3])
        expected = table_of(root, "folder", data)
        for _ in range(1 + number % 4):
            mutate_tree(root, rng)
        kind, about = outcome(partial(table_of, root, "folder", data), expected, equal)
        kind_, about_ = outcome(partial(inspect.left_out, data, root), [], equal)
        kind, about = (kind_, about_) if kind_ in ("traceback", "hang") else (kind, about)
        seen[kind] += 1
        if kind in ("traceback", "hang"):
            bad.append(f"{number}: {kind} {about}")
    told("folder", seen, bad)


PNG = encoded("PNG")


def mutate_tree(root: Path, rng: np.random.Generator) -> None:
    there = sorted(root.rglob("*"))
    if not there:
        return
    path, other = (there[int(rng.integers(len(there)))] for _ in range(2))
    new = path.with_name(NAMES[int(rng.integers(len(NAMES)))])
    match int(rng.integers(8)):
        case 0 if not new.exists():
            path.rename(new)
        case 1 if path.is_file():
            path.unlink()
        case 2 if path.is_file():
            path.write_bytes(b"")
        case 3 if path.is_file():
            path.write_bytes(rng.bytes(50))
        case 4 if not new.exists():
            new.symlink_to(other)
        case 5 if not new.exists():
            new.write_bytes(PNG)
        case 6 if not new.exists():
            new.mkdir()
            (new / "deep").mkdir()
            (new / "deep/1.png").write_bytes(PNG)
        case 7 if path.is_file() and not new.exists():
            path.unlink()
            path.symlink_to("nowhere")


# --- archives ---

ARCHIVES = {"zip": None, "zip, stored": None, "tar": "w:", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def archive(kind: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if ARCHIVES[kind]:
        with tarfile.open(fileobj=buffer, mode=ARCHIVES[kind]) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        form = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(buffer, "w", form) as made:
            for name, content in files.items():
                made.writestr(name, content)
    return buffer.getvalue()


FILES = {f"set/{split}/{name}/{k}.png": PNG for split in ("train", "test") for name in "ab" for k in range(2)}
TRAPS = [
    "../out",
    "/out",
    "set/../../out",
    "C:\\out",
    "set/train/a/0.png/x",
    "set//train/./a/9.png",
    "",
    ".",
    "set",
    "é\n.png",
]


def broken(kind: str, rng: np.random.Generator):
    """Mutated bytes, and archives of traps: paths that leave, names doubled, files that are folders elsewhere."""
    yield from of_bytes(archive(kind, FILES), rng, COUNT)
    for trap in TRAPS if ARCHIVES[kind] else filter(None, TRAPS):
        yield f"trap {trap!r}", archive(kind, {**FILES, trap: b"trap"})
        yield f"trap first {trap!r}", archive(kind, {trap: b"trap", **FILES})
    if ARCHIVES[kind]:
        for to in ("/etc", "..", "../../out", "set/train", "a", "set/link"):
            for form in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                buffer = io.BytesIO(archive(kind, FILES) if kind == "tar" else b"")
                with tarfile.open(fileobj=buffer, mode="a" if kind == "tar" else ARCHIVES[kind]) as tar:
                    info = tarfile.TarInfo("set/link")
                    info.type, info.linkname = form, to
                    tar.addfile(info)
                yield f"link to {to}", buffer.getvalue()


def fetched(data, paths: Paths) -> dict:
    sources.fetch("mine", data, paths)
    _, root = sources.laid_out("mine", paths)
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives(tmp_path, settings, kind):
    """What is refused leaves nothing behind, and what lies outside stays as it is."""
    source = tmp_path / "a.archive"
    data = settings(source, reader="folder")
    expected = {name.removeprefix("set/"): FILES[name] for name in sorted(FILES)}
    seen, bad = Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are doubled
        made = list(broken(kind, np.random.default_rng(list(kind.encode()))))
    for number, (what, content) in enumerate(made):
        project = tmp_path / f"p{number}"
        project.mkdir()
        source.write_bytes(content)
        paths = Paths("test", project)
        kind_, about = outcome(partial(fetched, data, paths), expected, equal)
        seen[kind_] += 1
        left = sorted(file.name for file in (project / "data").iterdir()) if (project / "data").exists() else []
        half = [name for name in left if name.endswith(".partial")] or (
            kind_ == "error" and paths.source("mine").exists()
        )
        if kind_ in ("traceback", "hang") or half or (tmp_path / "out").exists():
            bad.append(f"{kind}, {what}: {kind_} {about} {left}")
    told(kind, seen, bad)


# --- what once went wrong ---


@pytest.mark.parametrize("file", sorted([*CORPUS.glob("*.image"), *CORPUS.glob("*@*")]), ids=lambda file: file.name)
def test_corpus(tmp_path, settings, file):
    """NAME.image is read as an image, LAYOUT@PLACE is put in its place (% for /) in a synthetic set of the layout; the others there
    are records (tests/report/test_fuzz_records.py)."""
    layout, _, place = file.name.partition("@")
    if not place:
        read = partial(seen_of, file)
    else:
        root = tmp_path / "set"
        layouts.draw(root, DRAWN, layout)
        (root / place.replace("%", "/")).write_bytes(file.read_bytes())
        read = partial(table_of, root, layout, settings(root, reader=layout, labels=LABELS.get(layout)))
    kind, about = outcome(read, None, equal)
    assert kind in ("error", "other"), about
