"""A study is timed by the number of its workers."""

from pathlib import Path

import pytest

from benchmarks.workers import workers
from lapml.common.recorded import read_json
from lapml.config import load
from lapml.errors import LapmlError
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


def test_a_suite_without_a_tuned_method_is_refused(tmp_path):
    file = SUITES / "quick.yaml"
    params = load(file)
    with pytest.raises(LapmlError, match="quick.yaml: found no method to tune"):
        workers(params, Paths(params.suite, tmp_path), params.datasets[0], [1], 2, file, None)
