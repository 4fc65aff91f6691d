"""Snakemake's plans are timed with the number of runs that was asked for."""

import json

import pytest

from benchmarks import scheduler
from lapml.errors import LapmlError


def test_a_plan_of_more_runs_is_timed(tmp_path):
    text = scheduler.plans([6, 11], 1, tmp_path)
    record = json.loads((tmp_path / "plans.json").read_text())
    assert list(record["seconds"]) == ["10", "15"]  # five methods, two and three seeds
    assert all(times[0] > 0 for times in (*record["seconds"].values(), record["start"]))
    assert "| 10 | " in text and "| 15 | " in text and (tmp_path / "plans.md").read_text().strip() == text


def test_a_plan_that_fails_says_so(tmp_path):
    with pytest.raises(LapmlError, match="snakemake --cores 1 -n --quiet: status 1"):
        scheduler._seconds(tmp_path, "-n", "--quiet")
