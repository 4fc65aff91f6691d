"""The benchmark of packing: what it times, what it writes, and that it loads no torch."""

import json
import subprocess
import sys

from benchmarks.packing import preparing
from lapml.config import load
from lapml.data.fetch import sources
from lapml.paths import Paths

SMALL = ["data.birds.synthetic.classes=2", "data.birds.synthetic.train_images=4", "data.birds.synthetic.test_images=2"]


def test_packing_is_timed_against_a_loop_over_the_same_images(tmp_path):
    params, paths = load("params.yaml", SMALL), Paths("demo", tmp_path)
    sources.fetch("birds", params.data["birds"], paths)
    text = preparing(params, paths, "birds", 10, 3, tmp_path / "out")
    record = json.loads((tmp_path / "out/demo/prepare.json").read_text())
    assert (tmp_path / "out/demo/prepare.md").read_text() == text + "\n"
    assert record["data"]["images"] == 10 and record["data"]["stored_side"] == 128 and record["cores"] >= 1
    assert {name: len(times) for name, times in record["seconds"].items()} == {"loop": 3, "pack": 3}
    ratios = [loop / pack for loop, pack in zip(*record["seconds"].values(), strict=True)]
    assert abs(sum(ratios) / 3 - record["speed_vs_loop"][0]) < 1e-9
    assert sorted(path.name for path in paths.base.iterdir()) == ["data", "places"]  # what was packed is gone


def test_no_torch_is_loaded():
    script = "import sys, benchmarks.packing, lapml.data.pack; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
