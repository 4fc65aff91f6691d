"""No finished run and no saved state is replaced without a word, an option and a copy; what was asked for is not made again."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from lapml.analysis import gather
from lapml.common import locks
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import READS, RUN_FILES
from lapml.runs import execute as runs
from lapml.runs import kept
from lapml.runs.folder import NOT_KEPT, open_run
from lapml.training import loop as train

FORK = multiprocessing.get_context("fork")


def quietly(line: str) -> None:
    pass


@pytest.fixture
def made(small_run, packed, tmp_path):
    """made(overrides, replace) → (metrics, lines): the run ``tmp_path/baseline/0`` of two epochs."""
    folder = tmp_path / "baseline/0"

    def run(*overrides: str, replace: bool = False, data=packed):
        lines: list[str] = []
        config = small_run("baseline", "train.epochs=2", *overrides)
        return runs.execute(config, data, folder, log=lines.append, replace=replace), lines

    run.folder = folder
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RUN_FILES if (folder / name).exists()}


def other(number: int = 3) -> str:
    return f"train.epochs={number}"


def delete_outputs(folder: Path) -> None:
    """As an orchestrator does before it runs a stage."""
    for name in RUN_FILES:
        (folder / name).unlink()


# --- a finished run ---


def test_a_finished_run_is_not_made_again(made):
    first, _ = made()
    before = contents(made.folder)
    again, lines = made()
    assert again == first and contents(made.folder) == before
    assert len(lines) == 1 and "is finished with the same settings, data and code" in lines[0]
    assert made(replace=True)[0] == first and contents(made.folder) == before  # also where one may be replaced
    assert len((made.folder / READS).read_text().splitlines()) == 1  # nor is the test split read again


@pytest.mark.parametrize("kind", ["settings", "data", "code", "torch", "processes", "device", "weights gone"])
def test_a_finished_run_of_something_else_is_refused(made, packed, monkeypatch, kind):
    made()
    options, data = (), packed
    match kind:
        case "settings":
            options, said = (
                (other(), "train.lr=0.02"),
                "train.epochs: found 2, asked for 3; train.lr: found 0.015, asked for 0.02",
            )
        case "data":
            data = type(packed)(packed.index, packed.images, packed.meta | {"sha256": "f" * 64}, packed.class_names)
            said = f"data_sha256: found {'0' * 12}, asked for {'f' * 12}"
        case "code":
            monkeypatch.setattr(train, "code_sha256", lambda: "c" * 64)
            said = f"asked for {'c' * 12}"
        case "weights gone":
            for folder in (made.folder, made.folder / ".kept"):
                (folder / "model.safetensors").unlink()
            (made.folder / "model.safetensors").write_text(NOT_KEPT)
            said = "its weights are missing"
        case _:
            changed = {"torch": {"versions": {"torch": "1.0"}}, "device": {"device": "NVIDIA H100"}}.get(
                kind, {kind: 2}
            )
            edit(made.folder, **changed)
            said = {"torch": "torch: found 1.0", "device": "device: found cuda, asked for cpu"}.get(
                kind, "processes: found 2"
            )
    before = contents(made.folder)
    with pytest.raises(LapmlError, match="holds a finished run that differs") as raised:
        made(*options, data=data)
    assert said in str(raised.value) and "--replace" in str(raised.value) and "kept as 0.old-1" in str(raised.value)
    assert contents(made.folder) == before and not made.folder.with_name("0.old-1").exists()


def edit(folder: Path, **changes) -> None:
    """A run that says something else of itself."""
    record = json.loads((folder / "provenance.json").read_text()) | changes
    shutil.rmtree(folder / ".kept")
    (folder / "provenance.json").unlink()
    (folder / "provenance.json").write_text(json.dumps(record))


@pytest.mark.parametrize("older", [False, True])
def test_what_is_replaced_is_kept_beside(made, older):
    """With what later commands left there; the new run has only its own. Twice, so that numbers go on."""
    made()
    if older:  # made before finished runs were kept
        shutil.rmtree(made.folder / ".kept")
    (made.folder / "transfers.jsonl").write_text("its own\n")
    before, reads = contents(made.folder), (made.folder / READS).read_text()
    _, lines = made(other(), replace=True)
    aside = made.folder.with_name("0.old-1")
    assert contents(aside) == before and (aside / "transfers.jsonl").read_text() == "its own\n"
    assert open_run(aside)[0]["train"]["epochs"] == 2
    assert (aside / READS).read_text() == reads and any(str(aside) in line for line in lines)
    assert {each.name for each in made.folder.iterdir()} == {*RUN_FILES, READS, ".kept"}
    assert open_run(made.folder)[0]["train"]["epochs"] == 3
    assert len((made.folder / READS).read_text().splitlines()) == 2  # readings of the test split are counted on
    made(other(4), replace=True)
    assert open_run(made.folder.with_name("0.old-2"))[0]["train"]["epochs"] == 3 and contents(aside) == before


def test_what_was_kept_is_no_run_of_the_tables(made):
    made()
    made(other(), replace=True)
    assert gather.find(made.folder.parent) == [made.folder]
    aside = made.folder.with_name("0.old-1")
    assert gather.find(aside) == [aside]  # given by name it is


def test_a_failed_replacement_leaves_the_finished_run(made):
    made()
    before = contents(made.folder)
    with pytest.raises(LapmlError, match="not finite"):
        made("train.lr=1.0e+20", "train.warmup_epochs=0.0", replace=True)
    assert contents(made.folder) == before and not made.folder.with_name("0.old-1").exists()


# --- orchestrators delete what they are about to make ---


def test_what_an_orchestrator_deleted_is_put_back_if_it_is_what_was_asked_for(made):
    first, _ = made()
    before = contents(made.folder)
    delete_outputs(made.folder)
    (made.folder / "last.pt").write_bytes(b"of a process that was killed before it had gone")
    started = time.time()
    again, lines = made(replace=True)
    assert again == first and contents(made.folder) == before and "is put back" in lines[0] and len(lines) == 1
    assert all(
        (made.folder / name).stat().st_mtime >= started - 1 for name in RUN_FILES
    )  # for those that compare times
    assert not (made.folder / "last.pt").exists()


@pytest.mark.parametrize("deleted", [True, False])
def test_a_state_of_other_settings_is_kept_where_the_finished_run_is_asked_for_again(made, monkeypatch, deleted):
    """Stopped in a longer run, and then the settings are those of before; its own state is removed without a word."""
    first, _ = made()
    with monkeypatch.context() as patch:
        patch.setattr(kept, "finish", lambda *given: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            made(other(), replace=True)
    longer = (made.folder / "last.pt").read_bytes()
    if deleted:
        delete_outputs(made.folder)
    again, lines = made(replace=deleted)
    aside = made.folder.with_name("0.old-1") / "last.pt"
    assert again == first and aside.read_bytes() == longer and not (made.folder / "last.pt").exists()
    assert lines[1:] == [f"{aside}: set aside, it differs: train.epochs: found 3, asked for 2"]

    aside.rename(made.folder / "last.pt")
    made(other(), replace=True)  # goes on with it
    assert open_run(made.folder)[1]["resumed"] == 1


def test_a_state_of_the_finished_run_is_removed(made, monkeypatch):
    """A process was killed before it could."""
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_forget", lambda folder: None)
        made()
    assert (made.folder / "last.pt").exists()
    _, lines = made()
    assert len(lines) == 1 and not (made.folder / "last.pt").exists() and not made.folder.with_name("0.old-1").exists()


def test_what_an_orchestrator_deleted_is_kept_if_something_else_was_asked_for(made):
    made()
    before = contents(made.folder)
    delete_outputs(made.folder)
    with pytest.raises(LapmlError, match="train.epochs: found 2, asked for 3"):
        made(other())
    made(other(), replace=True)
    assert contents(made.folder.with_name("0.old-1")) == before


def test_an_earlier_run_that_an_orchestrator_brought_back_is_finished(made, tmp_path):
    """As DVC does out of its cache; then the later one lies in the hidden copy only. Each is there when it is asked for."""
    made()
    shutil.copytree(made.folder / ".kept", tmp_path / "cache")
    first = contents(made.folder)
    made(other(), replace=True)
    second = contents(made.folder)
    shutil.rmtree(made.folder.with_name("0.old-1"))
    for name in RUN_FILES:
        (made.folder / name).unlink()
        shutil.copyfile(tmp_path / "cache" / name, made.folder / name)
    _, lines = made()
    assert "is finished" in lines[0] and contents(made.folder) == first
    _, lines = made(other(), replace=True)
    assert "put back" in lines[-1] and contents(made.folder) == second
    assert contents(made.folder.with_name("0.old-1")) == first


def test_a_file_system_without_hard_links(made, monkeypatch):
    def none(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", none)
    made()
    before = contents(made.folder)
    delete_outputs(made.folder)
    made()
    assert contents(made.folder) == before
    made(other(), replace=True)
    assert contents(made.folder.with_name("0.old-1")) == before and open_run(made.folder)[0]["train"]["epochs"] == 3


def test_a_damaged_copy_is_not_put_back(made):
    """A file that was written in place has changed both of its names."""
    made()
    (made.folder / ".kept/metrics.json").write_text("{}")
    delete_outputs(made.folder)
    _, lines = made()
    assert not any("put back" in line for line in lines) and open_run(made.folder)


def test_a_taken_over_run_and_an_own_one_of_other_settings(made, tmp_path):
    """Both are kept where a third one replaces them."""
    made()
    own = contents(made.folder)
    delete_outputs(made.folder)
    shutil.copytree(made.folder / ".kept", tmp_path / "copy")
    for name in RUN_FILES:
        shutil.copyfile(tmp_path / "copy" / name, made.folder / name)
    (made.folder / "model.safetensors").write_text(NOT_KEPT)
    record = json.loads((made.folder / "provenance.json").read_text()) | {"commit": "theirs"}
    (made.folder / "provenance.json").write_text(json.dumps(record))
    made(other(), replace=True)
    asides = [contents(made.folder.with_name(f"0.old-{number}")) for number in (1, 2)]
    assert asides[0] == own and json.loads(asides[1]["provenance.json"])["commit"] == "theirs"


# --- locks ---


def hold(thing: Path, ready, go) -> None:
    with locks.alone(thing, quietly):
        ready.set()
        go.wait(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a lock: (its process, an event that makes it let go)."""
    started = []

    def begun(thing: Path):
        ready, go = FORK.Event(), FORK.Event()
        process = FORK.Process(target=hold, args=(thing, ready, go))
        started.append(process)
        process.start()
        assert ready.wait(60)
        return process, go

    yield begun
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("killed", [False, True])
def test_who_comes_second_says_for_whom_it_waits_and_goes_on(holder, tmp_path, monkeypatch, killed):
    monkeypatch.setattr(locks, "WAIT", 0.2)
    process, go = holder(tmp_path / "thing")
    assert f"process {process.pid} on " in locks.holder_of(tmp_path / "thing")
    lines = []

    def log(line: str) -> None:
        lines.append(line)
        os.kill(process.pid, signal.SIGKILL) if killed else go.set()

    with locks.alone(tmp_path / "thing", log):
        assert len(lines) == 1 and f"process {process.pid} on " in lines[0] and ", since 20" in lines[0]
    assert locks.holder_of(tmp_path / "thing") is None


def test_a_lock_that_nobody_holds_is_taken_at_once(tmp_path):
    for _ in range(2):
        with locks.alone(tmp_path / "a/thing", pytest.fail):
            assert json.loads((tmp_path / "a/.thing.holder").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "a/.thing.holder").exists()


def test_the_note_of_a_holder_may_be_missing_or_damaged(holder, tmp_path):
    holder(tmp_path / "thing")
    for content in (None, "", "[]", '{"pid": 3}'):
        (tmp_path / ".thing.holder").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / ".thing.holder").write_text(content)
        assert locks.holder_of(tmp_path / "thing") == "another process"


def test_two_trainers_of_one_run(made, small_run, packed, monkeypatch):
    """The second waits, and finds the run finished."""
    monkeypatch.setattr(locks, "WAIT", 0.2)
    begun = FORK.Event()

    def train_it() -> None:
        torch.set_num_threads(1)
        runs.execute(small_run("baseline", "train.epochs=2"), packed, made.folder, log=lambda line: begun.set())

    first = FORK.Process(target=train_it)
    first.start()
    assert begun.wait(60)
    _, lines = made()
    first.join()
    assert first.exitcode == 0 and len(lines) == 2
    assert f"process {first.pid} on " in lines[0] and "is finished" in lines[1]


def test_checksums_are_those_of_the_files(made):
    made()
    files = json.loads((made.folder / ".kept/provenance.json").read_text())["files"]
    assert all(sha256(made.folder / name) == checksum for name, checksum in files.items())


def test_differences_are_named_with_both_values():
    found = {"a": {"b": 1, "c": [1, 2], "gone": None}, "same": {"x": 1}}
    asked = {"a": {"b": 2, "c": [1, 3], "new": True}, "same": {"x": 1}}
    assert kept.differences(found, asked) == [
        "a.b: found 1, asked for 2",
        "a.c: found [1, 2], asked for [1, 3]",
        "a.new: found null, asked for true",
    ]
    assert kept.shown([str(number) for number in range(8)]) == "0; 1; 2; 3; 4; 5; and 2 more"
