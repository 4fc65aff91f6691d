"""What made a result: versions of what is there and of what is not, and the commit of code that left its repository behind."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import lapml
from lapml.common import provenance
from lapml.errors import LapmlError


def test_versions_of_packages_that_are_not_installed(monkeypatch):
    there = provenance.versions()
    assert there["torch"] == torch.__version__.partition("+")[0] or there["torch"] == torch.__version__
    assert there["lapml"] == lapml.__version__ and there["torchvision"]

    def bare(name):
        if name in ("lapml", "optuna", "torchvision"):
            raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(provenance, "version", bare)
    found = provenance.versions()
    assert found == {**dict.fromkeys(there, "1.2"), "python": there["python"], "lapml": lapml.__version__,
                     "optuna": None, "torchvision": None}  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "text, driver",
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 11.4.0",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("550.54\n550.54\n", "550.54"),
        ("something else", None),
    ],
)
def test_a_process_that_uses_a_gpu_records_its_driver(monkeypatch, text, driver):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    found = provenance.versions()
    assert (found["driver"], found["cuda"], found["cudnn"]) == (driver, "13.0", "91002")


def test_a_driver_that_cannot_be_asked_for(monkeypatch):
    """Neither the kernel's file nor the tool is there, as in a bare container."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)

    def absent(*_, **__):
        raise FileNotFoundError("nothing there")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(provenance.subprocess, "run", absent)
    found = provenance.versions()
    assert (found["driver"], found["cudnn"]) == (None, None)


# --- the commit ---

ASK = "from lapml.common import provenance; print(provenance.commit())"


def repository(folder: Path, *, with_package: bool) -> str:
    """Make a git repository of a folder; returns its commit."""
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (["init", "-q"], ["add", "-A"] if with_package else ["add", "other"],
                      [*who, "commit", "-qm", "first"]):  # fmt: skip
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def copied(tmp_path) -> Path:
    """A folder with a copy of the package, and no repository."""
    folder = tmp_path / "copy"
    shutil.copytree(provenance.HERE, folder / "lapml", ignore=shutil.ignore_patterns("__pycache__", "COMMIT"))
    (folder / "other").write_text("x")
    return folder


def commit_in(folder: Path) -> str:
    """What a process of that copy says."""
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); {ASK}"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=folder, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_rooms_that_only_read_are_no_part_of_a_run(copied, monkeypatch):
    """Their names are rooms; another help text or table makes no other run, another loss does."""
    assert all((provenance.HERE / room).is_dir() for room in provenance.NO_PART_OF_A_RUN)
    monkeypatch.setattr(provenance, "HERE", copied / "lapml")
    before = provenance.code_sha256()
    for file in ("cli/app.py", "analysis/tables.py", "report/page.py", "apply/predict.py"):
        with open(copied / "lapml" / file, "a") as stream:
            stream.write("# an edit\n")
    assert provenance.code_sha256() == before
    with open(copied / "lapml/training/losses.py", "a") as stream:
        stream.write("# an edit\n")
    assert provenance.code_sha256() != before


def test_what_editors_and_notebooks_leave_is_no_code(copied, monkeypatch):
    """The lock of a file that is open in Emacs is a link to nowhere."""
    monkeypatch.setattr(provenance, "HERE", copied / "lapml")
    before = provenance.code_sha256()
    (copied / "lapml/runs/.#execute.py").symlink_to("someone@host.123")
    (copied / "lapml/runs/.ipynb_checkpoints").mkdir()
    (copied / "lapml/runs/.ipynb_checkpoints/execute-checkpoint.py").write_text("# an edit\n")
    assert provenance.code_sha256() == before


def test_the_commit_of_a_copy_is_what_packing_wrote(copied, monkeypatch):
    assert commit_in(copied) == "(None, None)"
    for dirty in (False, True):
        monkeypatch.setattr(provenance, "commit", lambda dirty=dirty: ("a" * 40, dirty))
        assert provenance.write_commit(copied) == copied / "lapml" / "COMMIT"
        assert commit_in(copied) == f"('{'a' * 40}', {dirty})"
    monkeypatch.setattr(provenance, "commit", lambda: (None, None))
    provenance.write_commit(copied)
    assert commit_in(copied) == "(None, None)"


def test_a_copy_that_was_edited_after_it_was_packed_is_dirty(copied, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: ("b" * 40, False))
    provenance.write_commit(copied)
    with open(copied / "lapml/training/losses.py", "a") as file:
        file.write("\n# an edit\n")
    assert commit_in(copied) == f"('{'b' * 40}', True)"


def test_a_copy_of_a_copy_names_the_same_commit(copied, tmp_path):
    (copied / "lapml/COMMIT").write_text(
        json.dumps({"commit": "c" * 40, "dirty": False, "code_sha256": provenance.code_sha256()})
    )
    again = tmp_path / "again"
    shutil.copytree(copied / "lapml", again / "lapml")
    (again / "lapml/COMMIT").unlink()
    script = f"from lapml.common import provenance; provenance.write_commit({str(again)!r})"
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    subprocess.run([sys.executable, "-B", "-c", script], cwd=copied, env=environment, check=True)
    assert commit_in(again) == f"('{'c' * 40}', False)"


def test_a_repository_goes_before_the_file_and_another_project_s_does_not_count(copied):
    (copied / "lapml/COMMIT").write_text(
        json.dumps({"commit": "d" * 40, "dirty": False, "code_sha256": provenance.code_sha256()})
    )
    repository(copied, with_package=False)
    assert commit_in(copied) == f"('{'d' * 40}', False)"
    shutil.rmtree(copied / ".git")
    (copied / "lapml/COMMIT").unlink()
    own = repository(copied, with_package=True)
    assert commit_in(copied) == f"('{own}', False)"


@pytest.mark.parametrize(
    "text", ["", "abc", "[]", "{}", '{"commit": 3, "dirty": false, "code_sha256": ""}', "\x00\udcff",
             '{"commit": "main", "dirty": false, "code_sha256": ""}',
             '{"commit": "' + "a" * 40 + '", "dirty": "no", "code_sha256": ""}'],
)  # fmt: skip
def test_a_commit_file_that_is_no_such_thing_is_named(tmp_path, text):
    path = tmp_path / "COMMIT"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LapmlError, match="COMMIT: found .*expected JSON.*pack the code again, or delete the file"):
        provenance._left_commit(path)


def test_git_does_not_see_the_file():
    if not (provenance.HERE.parent / ".git").exists():
        pytest.skip("no repository here")
    ignored = subprocess.run(["git", "check-ignore", "-q", "lapml/COMMIT"], cwd=provenance.HERE.parent)
    assert ignored.returncode == 0
