"""A machine on which lapml is not installed and half of its requirements are missing: its work runs from a checkout all the same.

So are lent GPU machines: torch, timm, pandas and the like are there; orchestrators, tuning, downloads, plots and ONNX are not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapml.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
PATHS = Paths("bare")
HIDDEN = (
    "optuna", "snakemake", "dvc", "pooch", "requests", "matplotlib", "onnx", "onnxruntime", "onnxscript", "urllib3",
    "statsmodels",
)  # fmt: skip
COMMANDS = (
    "config show", "suite list", "data fetch photos", "data prepare photos", "data check photos",
    "train photos baseline 0", "train photos cutmix 0", "train photos adaptive_margin 0 --smoke",
    "evaluate {run}", "evaluate {run} --dataset photos", "publish --finished", "restore",
    "compare {runs}/baseline {runs}/cutmix", "predict {run} photos/test/a/0.png",
)  # fmt: skip
# Runs commands one after another in one process; what is hidden is neither found nor known to importlib.metadata.
SCRIPT = """
import runpy, sys

class Bare:
    def __init__(self, finders, hidden):
        self.finders, self.hidden = finders, hidden
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        return next((spec for each in self.finders if (spec := each.find_spec(name, path, target))), None)
    def find_distributions(self, context):
        for each in self.finders:
            for found in getattr(each, "find_distributions", lambda _: ())(context):
                if found.metadata["Name"] not in (*self.hidden, "lapml"):
                    yield found

hidden, commands = sys.argv[1].split(","), sys.argv[2].splitlines()
assert not set(hidden) & set(sys.modules)
sys.meta_path[:] = [Bare(list(sys.meta_path), hidden)]
for name in hidden:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name}: found, though it is hidden")
for command in commands:
    sys.argv = ["lapml", *command.split()]
    try:
        runpy.run_module("lapml", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{command}: status {end.code}")
    print(f"done: {command}", flush=True)
"""


@pytest.fixture
def project(tmp_path, small_params) -> Path:
    """A folder with a params file whose data set is a folder of images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for level, name in ((60, "a"), (160, "b")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(level, level + 60, (60, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = json.loads(small_params("train.epochs=2").model_dump_json())
    own = {**settings["data"]["birds"], "reader": "folder", "source": "photos", "synthetic": None}
    changes = {
        "suite": "bare",
        "datasets": ["photos"],
        "ablation": ["baseline", "cutmix"],
        "tuned_methods": [],
        "seeds": [0],
    }
    settings |= {**changes, "data": {"photos": own}}
    settings["report"] |= {"steps": {}, "beside": []}
    settings["diagnose"]["method"] = "cutmix"  # its runs wait for their diagnosis, which draws figures
    (tmp_path / "params.yaml").write_text(json.dumps(settings))
    return tmp_path


def test_everything_but_tuning_and_reports_runs(project):
    places = {"run": PATHS.run("photos", "baseline", 0), "runs": PATHS.base / "runs/photos"}
    commands = [command.format(**places) for command in COMMANDS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(HIDDEN), "\n".join(commands)],
        cwd=project, env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[6:] for line in done.stdout.splitlines() if line.startswith("done: ")] == commands
    published = project / PATHS.published / "runs/photos/baseline/0"
    found = json.loads((published / "provenance.json").read_text())
    assert found["versions"]["optuna"] is None and found["versions"]["torch"] and found["versions"]["lapml"]
    assert json.loads((published / "metrics.json").read_text())["n"] == 6
