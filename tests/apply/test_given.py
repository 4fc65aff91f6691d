"""Which files predict and explain are given by names, folders and patterns, and how they write what they find."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lapml.apply import explain as explaining
from lapml.apply import images as files_of
from lapml.apply import predict as predicting
from lapml.apply.images import listed
from lapml.apply.predict import predict, table
from lapml.apply.tables import as_csv, as_json
from lapml.cli import app
from lapml.data.readers.layouts import SUFFIXES
from lapml.errors import LapmlError


def invoke(*arguments: object, status: int = 0) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result


# --- which files ---


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """photos/ with images at three depths, what is no image, and what is hidden."""
    for name in (
        *("photos/b.jpg", "photos/a.PNG", "photos/deep/er/c.tiff", "photos/deep/d.webp", "photos/e[1].gif"),
        *("photos/notes.txt", "photos/.hidden.jpg", "photos/.trash/f.jpg", "photos/__MACOSX/b.jpg", "other/g.jpg"),
    ):
        Path(tmp_path, name).parent.mkdir(parents=True, exist_ok=True)
        Path(tmp_path, name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*given: str, **options) -> list[str]:
    return [str(file) for file in listed([Path(each) for each in given], **options)]


ALL = ["photos/a.PNG", "photos/b.jpg", "photos/deep/d.webp", "photos/deep/er/c.tiff", "photos/e[1].gif"]


def test_a_folder_is_searched_with_all_below_it(tree):
    assert names("photos") == names("photos/") == ALL
    (tree / "link").symlink_to("photos")
    assert [os.path.realpath(file) for file in names("link")] == [os.path.realpath(file) for file in ALL]
    (tree / "photos/deep/circle").symlink_to(tree / "photos")
    assert names("photos") == ALL


def test_linked_folders_that_are_not_searched_are_named(tree):
    (tree / "photos/more").symlink_to(tree / "other")
    (tree / "photos/again").symlink_to(tree / "other")
    (tree / "photos/.hid").symlink_to(tree / "other")
    (tree / "photos/deep/trash").symlink_to(tree / "photos/.trash")
    with pytest.raises(LapmlError, match="photos/.*: is a link to a folder, which is not followed; name it too"):
        names("photos")
    failed: list = []
    assert names("photos", failed=failed) == ALL
    assert {str(file) for file, _ in failed} < {"photos/more", "photos/again", "photos/deep/trash"} and len(failed) == 2
    assert all(why.startswith(f"{file}: is a link to a folder") for file, why in failed)
    for more in ("other", "photos/more"):  # as the message says
        failed.clear()
        assert len(names("photos", more, failed=failed)) == len(ALL) + 1
        assert [str(file) for file, _ in failed] == ["photos/deep/trash"]


def test_a_folder_of_linked_folders_alone_says_so(tree):
    (tree / "links").mkdir()
    (tree / "links/one").symlink_to(tree / "other")
    with pytest.raises(LapmlError, match="links/one: is a link to a folder"):
        names("links")
    assert names("links", "other") == ["other/g.jpg"]


def test_every_suffix_of_the_folder_reader_is_known(tree):
    (tree / "each").mkdir()
    for suffix in SUFFIXES:
        (tree / f"each/x{suffix}").touch()
    assert {Path(name).suffix for name in names("each")} == set(SUFFIXES)


def test_patterns_are_searched_in_order(tree):
    assert names("photos/*.*g") == ["photos/b.jpg"]
    assert names("photos/**/*.[tw]*") == ["photos/deep/d.webp", "photos/deep/er/c.tiff", "photos/notes.txt"]
    assert names("p*") == ALL  # a folder that a pattern matches is searched
    assert names("photos/e[1].gif") == ["photos/e[1].gif"]  # there is such a file
    assert names("photos/[ab].*", "other") == ["photos/a.PNG", "photos/b.jpg", "other/g.jpg"]


def test_a_pattern_may_begin_at_home(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert names("~/other/*.jpg") == [str(tree / "other/g.jpg")]


def test_a_file_named_twice_is_taken_once(tree):
    (tree / "same.jpg").symlink_to("other/g.jpg")
    assert names(
        "other/g.jpg", "./other/../other/g.jpg", str(tree / "other/g.jpg"), "other", "other/*", "same.jpg"
    ) == ["other/g.jpg"]
    assert names("photos/b.jpg", "photos") == ["photos/b.jpg", *(name for name in ALL if name != "photos/b.jpg")]
    assert names("none.jpg", "none.jpg") == ["none.jpg"]  # which reading it will name


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["{}", "./{}", "x/../{}", "/y/../{}"])), max_size=12)
)
def test_what_is_taken_are_the_first_names_of_each(drawn):
    given = [Path(form.format(name)) for name, form in drawn]
    taken = listed(given)
    where = [os.path.realpath(file) for file in given]
    assert taken == [file for at, file in enumerate(given) if where[at] not in where[:at]]


def test_one_folder_is_left_out(tree):
    assert names("photos", without=Path("photos/deep")) == [name for name in ALL if "deep" not in name]
    assert names("photos/deep", without=Path("photos/deep")) == ["photos/deep/d.webp", "photos/deep/er/c.tiff"]


def test_what_has_no_images_is_named(tree):
    (tree / "empty").mkdir()
    for what, part in (
        ("empty", "empty: a folder without images, expected"),
        ("*.xyz", "as a pattern it matches none"),
    ):
        with pytest.raises(LapmlError, match=part.replace("*", r"\*")):
            names(what)
        failed: list = []
        assert names(what, "other", failed=failed) == ["other/g.jpg"]
        assert len(failed) == 1 and part in failed[0][1]


def test_a_folder_that_cannot_be_searched_is_named_and_the_others_are(tree, monkeypatch):
    walk = os.walk

    def partly(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/locked"))
        yield from walk(folder)

    monkeypatch.setattr(files_of.os, "walk", partly)
    failed: list = []
    assert names("photos", failed=failed) == ALL
    assert [why for _, why in failed] == ["photos/locked: cannot be searched (Permission denied); see its permissions"]


# --- what is written ---


@pytest.fixture
def photos(shop) -> SimpleNamespace:
    """A folder of test images, whose names CSV must quote."""
    Path("photos/deep").mkdir(parents=True)
    strange = os.fsdecode(b'photos/deep/a,"b\xff.png')
    for file, name in zip(shop.test, ["photos/1.png", strange, "photos/x y.png"], strict=False):
        shutil.copy(file, name)
    return SimpleNamespace(folder=shop.folder, names=["photos/1.png", strange, "photos/x y.png"])


def read_csv(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


@pytest.mark.parametrize("top", [5, 2, 9])
def test_csv_and_json_say_what_is_predicted(photos, top):
    expected = list(predict(photos.folder, [Path("photos")], top))
    assert [each["image"] for each in expected] == photos.names
    arguments = ("predict", photos.folder, "photos", "--top", top)
    printed = invoke(*arguments, "--json").stdout
    assert printed == json.dumps(expected, indent=2) + "\n"
    rows = read_csv(invoke(*arguments, "--csv").stdout_bytes)
    for row, result in zip(rows, expected, strict=True):
        found = iter(row.items())
        assert next(found) == ("image", result["image"]) and Path(row["image"]).exists()
        for rank, each in enumerate(result["predictions"], start=1):
            assert next(found) == (f"class{rank}", each["class"])
            assert next(found) == (f"probability{rank}", str(each["probability"]))
        assert list(found) == [] and len(result["predictions"]) == min(top, 6)


@pytest.mark.parametrize("form", ["--csv", "--json", None])
def test_a_file_holds_what_is_printed(photos, form):
    options = [form] if form else []
    printed = invoke("predict", photos.folder, "photos", *options).stdout_bytes
    said = invoke("predict", photos.folder, "photos", *options, "--output", "new/out.txt").stdout
    assert Path("new/out.txt").read_bytes() == printed and said == "new/out.txt\n"
    assert [path.name for path in Path("new").iterdir()] == ["out.txt"]


def test_a_bad_file_is_named_and_the_others_are_in_the_file(photos):
    Path("photos/bad.jpg").write_bytes(b"nothing of the kind")
    stderr = invoke("predict", photos.folder, "photos", "--csv", "--output", "out.csv", status=1).stderr
    assert stderr.startswith("error: photos/bad.jpg: cannot be read") and stderr.count("\n") == 1
    assert [row["image"] for row in read_csv(Path("out.csv").read_bytes())] == photos.names


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_a_file_is_written_whole_or_not_at_all(photos, monkeypatch, form):
    monkeypatch.setattr(files_of, "BATCH", 1)
    Path("out").write_text("older")
    one, calls = predicting.evaluate.predict, []

    def fails(*arguments):
        calls.append(Path(".out.tmp").exists())
        if len(calls) == 3:
            raise LapmlError("the third one")
        return one(*arguments)

    monkeypatch.setattr(predicting.evaluate, "predict", fails)
    assert (
        invoke("predict", photos.folder, "photos", form, "--output", "out", status=1).stderr == "error: the third one\n"
    )
    assert calls == [True] * 3 and Path("out").read_text() == "older" and not Path(".out.tmp").exists()


def test_results_come_batch_by_batch(shop, monkeypatch):
    monkeypatch.setattr(files_of, "BATCH", 3)
    one, seen = predicting.evaluate.predict, []

    def counted(model, packed, *rest):
        seen.append(len(packed.images))
        return one(model, packed, *rest)

    monkeypatch.setattr(predicting.evaluate, "predict", counted)
    for form in (as_csv, as_json):
        seen.clear()
        pieces = form(predict(shop.folder, shop.test[:8]))
        assert shop.test[0].name in next(pieces) + next(pieces) and seen == [3]
        assert sum(shop.test[7].name in piece for piece in pieces) == 1 and seen == [3, 3, 2]


def test_the_table_is_aligned_over_a_batch(monkeypatch):
    monkeypatch.setattr(predicting, "BATCH", 2)
    results = [
        {"image": name, "predictions": [{"class": label, "probability": 0.5}]}
        for name, label in (("a", "Jay"), ("bb", "Wren"), ("a long name", "Jay"), ("c", "Sparrow"))
    ]
    read = iter(results)
    lines = table(read)
    assert next(lines) == "image  rank  class  probability\n"
    assert next(read) is results[2]  # no more than a batch was waited for
    lines = list(table(results))
    assert len({len(line) for line in lines[:3]}) == len({len(line) for line in lines[3:]}) == 1
    assert [line.split()[-5:-3] for line in lines[3:]] == [["name", "1"], ["c", "1"]]


def test_explain_writes_csv_that_says_what_its_json_says(photos, monkeypatch):
    monkeypatch.setattr(explaining, "draw", lambda file, *_: file.write_bytes(b"png"))
    arguments = ("explain", photos.folder, "photos", "--neighbours", 2, "--output", "photos/why")
    results = json.loads(invoke(*arguments, "--json").stdout)  # and again, without its own figures
    assert invoke(*arguments, "--csv", "--results", "why.csv").stdout == "why.csv\n"
    assert [each["image"] for each in results] == photos.names
    for row, result in zip(read_csv(Path("why.csv").read_bytes()), results, strict=True):
        expected = [result["image"], result["figure"], *result["target"].values()]
        for each in result["predictions"]:
            expected += [each["class"], each["probability"]]
        for each in result["neighbours"]:
            expected += [each["image"], each["class"], each["similarity"]]
        assert [*row.values()] == [str(each) for each in expected]
        assert [*row][:5] == ["image", "figure", "target", "target_probability", "class1"]
        assert [*row][-3:] == ["neighbour2", "neighbour2_class", "neighbour2_similarity"]


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("photos", "is a folder, expected a file to write"),
        ("photos/new.JPG", "has the name of an image"),
        ("/dev/null", "is no plain file"),
        ("RUN/metrics.json", "is one of the run's own files"),
        ("RUN/test_reads.jsonl", "is one of the run's own files"),
        ("RUN/embeddings.npz", "is one of the run's own files"),
    ],
)
@pytest.mark.parametrize("command", ["predict --output", "explain --results"])
def test_results_never_replace_what_is_no_table(photos, monkeypatch, command, output, part):
    monkeypatch.setattr(predicting, "ready", None)  # refused before there is work
    name, option = command.split()
    output = output.replace("RUN", str(photos.folder))
    before = {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()}
    assert part in invoke(name, photos.folder, "photos", option, output, "--csv", status=1).stderr
    assert {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_csv_and_json_at_once_are_wrong_usage(photos, command):
    assert (
        "give one of --csv and --json" in invoke(command, photos.folder, "photos", "--csv", "--json", status=2).stderr
    )


def test_a_reader_that_has_enough_is_no_error(photos, monkeypatch):
    def full(*arguments, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lapml.cli.apply.typer.echo", full)
    assert invoke("predict", photos.folder, "photos", "--csv", status=1).stderr == ""
