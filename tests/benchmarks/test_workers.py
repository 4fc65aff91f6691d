"""A study is timed by the number of its workers."""

import json
from pathlib import Path

import pytest

from benchmarks.workers import workers
from lapml.common.recorded import read_json
from lapml.config import load
from lapml.errors import LapmlError
from lapml.files import write_json
from lapml.paths import Paths

SUITES = Path(__file__).parents[2] / "suites"


@pytest.mark.slow
def test_each_number_of_workers_makes_a_study_of_its_own(tmp_path):
    file = SUITES / "tiny.yaml"
    text = workers(load(file), Paths("tiny", tmp_path), "birds", [1, 2], 2, file, tmp_path)
    record = read_json(tmp_path / "workers.json")
    assert list(record["seconds"]) == ["1", "2"] and all(seconds > 0 for seconds in record["seconds"].values())
    assert record["scores"]["1"] == record["scores"]["2"]  # each trial is drawn by its number
    assert record["trials"] == 2 and "| 2 | " in text


@pytest.mark.parametrize("own", [False, True])
def test_the_study_of_the_suite_is_left_alone(tmp_path, monkeypatch, own):
    """Its trials lie in a database that others reach, by its own section or by its data set's; a benchmark's do not."""
    url = "postgresql://me@server/studies"
    tune = {"tune": {"storage": url}}
    mine = {
        "base": f"{SUITES}/tiny.yaml",
        "suite": "mine",
        **({"data": {"birds": {"overrides": tune}}} if own else tune),
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(mine))
    params, studies = load(tmp_path / "mine.yaml"), []
    assert params.of("birds").tune.storage == url

    def play(folder, *command):
        if command[1] == "tune":
            given = [value for key, value in zip(command, command[1:], strict=False) if key == "--set"]
            studies.append(load(tmp_path / "mine.yaml", given).of("birds").tune)
            write_json(Paths("mine", folder).tuned("birds", "margin"), {"score": 1.0})
        return 1.0, ""

    monkeypatch.setattr("benchmarks.workers.run", play)
    monkeypatch.setattr("benchmarks.workers.project", lambda folder: None)
    workers(params, Paths("mine", tmp_path), "birds", [1, 2], 3, tmp_path / "mine.yaml", None)
    assert [(tune.storage, tune.trials) for tune in studies] == [(None, 3), (None, 3)]


def test_a_suite_without_a_tuned_method_is_refused(tmp_path):
    file = SUITES / "quick.yaml"
    params = load(file)
    with pytest.raises(LapmlError, match="quick.yaml: found no method to tune"):
        workers(params, Paths(params.suite, tmp_path), params.datasets[0], [1], 2, file, None)
