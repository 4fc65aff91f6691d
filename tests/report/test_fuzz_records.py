"""Damaged settings, run folders, tuned files and archives: a right result or one clear error, never a traceback or a hang; and
what was damaged is still there.

``python -m pytest -m slow -s tests/report/test_fuzz_records.py`` prints the outcomes by format.
"""

import io
import json
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

import mutations
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from lapml import config
from lapml.analysis.compare import compare
from lapml.analysis.compare import markdown as compared
from lapml.analysis.confusions import confusions
from lapml.analysis.confusions import markdown as confused
from lapml.config import overlays
from lapml.paths import Paths
from lapml.report import accumulate, build, carried, studies

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/fixtures/fuzz"
TIMES = 200  # mutations of each format
RUN = ("config.json", "metrics.json", "provenance.json", "history.csv", "predictions.parquet")


def told(name: str, outcomes: list[str]) -> None:
    found = mutations.counted(outcomes)
    print(f"\n{name}: {dict(found)}")
    assert not [each for each in outcomes if each.startswith(("traceback", "hang"))]
    assert found["clear error"] > TIMES / 4  # it was damaged


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- settings ---


def composed(file: Path) -> None:
    config.load(file)
    overlays.composed(file)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_params_files(tmp_path):
    whole, file, outcomes = (ROOT / "params.yaml").read_bytes(), tmp_path / "params.yaml", []
    record = YAML(typ="safe").load(whole)
    for seed in range(TIMES):
        rng = np.random.default_rng([1, seed])
        text = (
            json.dumps(mutations.structure(rng, record)).encode() if rng.random() < 0.6 else mutations.noise(rng, whole)
        )
        file.write_bytes(text)
        outcomes.append(mutations.outcome(lambda: composed(file), file))
        assert file.read_bytes() == text
    told("params.yaml", outcomes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_suites(tmp_path):
    shutil.copytree(ROOT / "suites", tmp_path / "suites")
    suites, outcomes = sorted((tmp_path / "suites").glob("*.yaml")), []
    for seed in range(TIMES):
        rng = np.random.default_rng([2, seed])
        file = suites[rng.integers(len(suites))]
        whole = file.read_bytes()
        record = YAML(typ="safe").load(whole)
        file.write_bytes(
            json.dumps(mutations.structure(rng, record)).encode() if rng.random() < 0.6 else mutations.noise(rng, whole)
        )
        outcomes.append(mutations.outcome(lambda file=file: composed(file), tmp_path))
        file.write_bytes(whole)
    told("suites", outcomes)


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*.yaml")))
@pytest.mark.filterwarnings("ignore")
def test_settings_that_crashed_once(name):
    assert mutations.outcome(lambda: composed(CORPUS / name), CORPUS / name) == "clear error"


# --- run folders and tuned files ---


@pytest.fixture
def shop(make, seal, quick, monkeypatch):
    """A small suite on disk: two methods and a tuned one, all sealed; charts are left out."""
    monkeypatch.setattr(studies, "figures", lambda record, space: {})
    params, paths = make("ablation=[baseline, cutmix]", "seeds=[0]", "tuned_methods=[margin]", "report.bootstrap=100")
    for folder in paths.base.glob("runs/*/*/*"):
        origin = json.loads((folder / "provenance.json").read_text())
        seal(folder, origin | {"class_names": [f"{kind}.x Sparrow" for kind in range(7)]})
    return params, paths


def sealed(folder: Path) -> None:
    """Checksums of the files as they are, so that they are read and not only found to be others."""
    origin = json.loads((folder / "provenance.json").read_text())
    origin["files"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in origin["files"]}
    (folder / "provenance.json").write_text(json.dumps(origin))


def ends(params, paths: Paths, params_file: Path) -> list[str]:
    """How everything that reads the runs of a suite ends; a report appears whole or not at all, and no run is changed."""
    runs, damaged = paths.base / "runs", paths.run("birds", "cutmix", 0)
    pair = [paths.run("birds", "baseline", 0), damaged]
    before, found = contents(runs), []
    for use in (
        lambda: build.report(params, params_file, paths),
        lambda: compared(compare(pair, None, 1, 0.95, 100)),
        lambda: compared(compare(pair, None, 5, 0.95, 100)),
        lambda: confused(confusions(pair, None, (), "last", 0.95, 100)),
        lambda: accumulate.publish_finished(params, paths),
        lambda: accumulate.restore(params, paths),
    ):
        found.append(mutations.outcome(use))
    made = {path.name for path in paths.report.iterdir()} if paths.report.exists() else set()
    assert len(made) in (0, 7) and not [path for path in paths.base.rglob(".*") if path.is_dir()]
    assert {name: content for name, content in contents(runs).items() if name in before} == before
    return found


def worst(found: list[str]) -> str:
    bad = [each for each in found if each.startswith(("traceback", "hang"))]
    return bad[0] if bad else "clear error" if "clear error" in found else "right"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*RUN, "tuned"])
def test_run_folders(shop, params_file, tmp_path, name):
    params, whole = shop
    outcomes = []
    for seed in range(TIMES):
        rng = np.random.default_rng([3, *name.encode(), seed])
        paths = Paths(params.suite, tmp_path / "copy")
        shutil.rmtree(paths.root, ignore_errors=True)
        shutil.copytree(whole.base, paths.base)
        folder = paths.run("birds", "cutmix", 0)
        file = paths.tuned("birds", "margin") if name == "tuned" else folder / name
        if name.endswith(".parquet"):
            mutations.parquet_file(rng, file)
        else:
            change = mutations.csv_bytes if name.endswith(".csv") else mutations.json_bytes
            file.write_bytes(change(rng, file.read_bytes()))
        if name not in ("tuned", "provenance.json") and rng.random() < 0.8:
            sealed(folder)
        outcomes.append(worst(ends(params, paths, params_file)))
    told(name, outcomes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.json")))
def test_runs_that_crashed_once(shop, params_file, name):
    params, paths = shop
    damage = json.loads((CORPUS / f"{name}.json").read_text())
    folder = paths.run("birds", "cutmix", 0)
    file = paths.tuned("birds", "margin") if damage["file"] == "tuned" else folder / damage["file"]
    if "changes" in damage:
        file.write_text(json.dumps(json.loads(file.read_text()) | damage["changes"]))
    elif "text" in damage:
        file.write_text(damage["text"])
    else:
        table = pd.read_parquet(file)
        table[damage["column"]] = [damage["value"]] * len(table)
        table.to_parquet(file, index=False)
    if damage["file"] not in ("tuned", "provenance.json"):
        sealed(folder)
    found = ends(params, paths, params_file)
    assert found[0] == worst(found) == "clear error"  # by the report, at least


# --- archives of runs ---


def tar_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """Members gone, doubled, renamed, altered, of another kind; often with a manifest that vouches for it all the same."""
    if rng.random() < 0.4:
        return mutations.noise(rng, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    kinds = {}
    names = ["../x", "/etc/x", "runs/birds/cutmix/00/config.json", "runs/a/b/c/d", "x" * 300, "", "a\\b", "logs/x"]
    names += ["runs/birds/cutmix/9/config.json", "runs/birds/../cutmix/0"]
    for _ in range(rng.integers(1, 3)):
        at, how = int(rng.integers(len(members))), rng.integers(7)
        name, inside = members[at]
        if how == 0 and len(members) > 1:
            del members[at]
        elif how == 1:
            members[at] = (names[rng.integers(len(names))], inside)
        elif how == 2:
            members.insert(0, members[at])
        elif how == 3:
            members[at] = (name, (mutations.json_bytes if name.endswith(".json") else mutations.noise)(rng, inside))
        elif how == 4:
            kinds[name] = (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)[rng.integers(4)]
        elif how == 5:
            rng.shuffle(members)
        else:
            members[at] = (name, inside + b"x")
    listed = dict(members).get("kit.json", b"")
    if rng.random() < 0.7 and listed.startswith(b"{") and listed.endswith(b"}"):
        record = json.loads(listed)
        record["members"] = {name: sha256(inside).hexdigest() for name, inside in members if name != "kit.json"}
        members = [(name, json.dumps(record).encode() if name == "kit.json" else inside) for name, inside in members]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, inside in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kinds.get(name, tarfile.REGTYPE), "x"
            info.size = 0 if name in kinds else len(inside)
            tar.addfile(info, io.BytesIO(inside))
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_archives(make, seal, tmp_path):
    params, paths = make("ablation=[baseline, cutmix]", "seeds=[0]", "tuned_methods=[]")
    for folder in paths.base.glob("runs/*/*/*"):
        seal(folder)
    tar = carried.pack(params, paths, {}, [], tmp_path / "came/runs.tar")[0]
    whole, outcomes = tar.read_bytes(), []
    good = {name: content for name, content in contents(paths.base / "runs").items() if "model" not in name}
    for seed in range(TIMES):
        home = Paths(params.suite, tmp_path / "home")
        shutil.rmtree(home.root, ignore_errors=True)
        tar.write_bytes(tar_bytes(np.random.default_rng([4, seed]), whole))
        outcomes.append(mutations.outcome(lambda home=home: accumulate.publish_from(params, home, tar), tar))
        if home.published.exists():  # whole runs only, and none in the making
            left = contents(home.published)
            folders = {name.rpartition("/")[0] for name in left}
            assert {name.rpartition("/")[2] for name in left} <= set(RUN)
            assert all(len([name for name in left if name.startswith(run)]) == 5 for run in folders)
        assert not (tmp_path / "x").exists() and {"runs", "data", "tuned"} >= {
            path.name for path in paths.base.iterdir()
        }
    assert len(good) == 10
    told("archives", outcomes)
