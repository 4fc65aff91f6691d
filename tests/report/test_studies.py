"""What a report shows of studies."""

import json

import matplotlib
import numpy as np
import pytest

from lapml import config
from lapml.report import studies

PARAMS = "params.yaml"


@pytest.fixture(scope="module")
def params():
    return config.load(PARAMS)


def record_of(scores, states=None):
    rng = np.random.default_rng(0)
    drawn = [{"m": float(m), "weight": float(weight)} for m, weight in rng.uniform(0.1, 1, (len(scores), 2))]
    states = states or ["COMPLETE"] * len(scores)
    trials = [
        {"number": number, "values": values, "score": score, "state": state}
        for number, (values, score, state) in enumerate(zip(drawn, scores, states, strict=True))
    ]
    return {"values": drawn[0], "score": scores[0], "trials": trials, "seeds": [100], "epochs": 3}


@pytest.mark.parametrize(
    ("scores", "states", "expected"),
    [
        ([50.0, 52.0, 51.0, 55.0, 49.0], None, {"history", "parallel", "importances"}),
        ([50.0, 52.0, 51.0], None, {"history", "parallel"}),  # too few for importances
        ([50.0] * 5, None, {"history", "parallel"}),  # nothing to explain
        ([50.0, 52.0, None, None], ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"], {"history", "parallel"}),
        ([None, None], ["FAIL", "FAIL"], set()),
    ],
)
def test_figures(params, scores, states, expected):
    before = dict(matplotlib.rcParams)
    made = studies.figures(record_of(scores, states), params.tune.ranges("margin"))
    assert set(made) == expected and all(image.startswith(b"<?xml") for image in made.values())
    assert dict(matplotlib.rcParams) == before  # Optuna sets a style of its own
    assert studies.figures(record_of(scores, states), params.tune.ranges("margin")) == made


def test_figures_of_any_number_of_settings():
    rng = np.random.default_rng(0)
    ranges = {
        f"train.{name}": {"low": 0.001, "high": 1.0} for name in ("lr", "momentum", "weight_decay", "label_smoothing")
    }
    ranges["train.momentum"]["high"] = ranges["train.label_smoothing"]["high"] = 0.9
    choices = {"train.optimizer": ["sgd", "adamw"], "train.clip_grad": [None, 1.0], "train.decay_norms": [True, False]}
    space = {**ranges, **{path: {"choices": each} for path, each in choices.items()}}
    params = config.load(PARAMS, [f"tune.methods={{cutmix: {json.dumps(space)}}}"])
    record = record_of([50.0, 52.0, 51.0, 55.0, 49.0])
    for number, trial in enumerate(record["trials"]):
        trial["values"] = {path: float(rng.uniform(0.001, 0.9)) for path in ranges}
        trial["values"] |= {path: each[number % 2] for path, each in choices.items()}
    record["values"] = record["trials"][3]["values"]
    made = studies.figures(record, params.tune.ranges("cutmix"))
    assert set(made) == {"history", "parallel", "importances"}
    for name in ("parallel", "importances"):
        assert all(path[:16].encode() in made[name] for path in space), name  # Optuna cuts long ones
    found = studies.shown({"cutmix": record}, params)
    assert found["heads"][1:-3] == list(space) and len(found["charts"]) == 3
    assert found["rows"][0][5:8] == ["adamw", "1", "False"]


def test_all_trials_and_the_run_without_margins(params):
    assert studies.shown({}, params) is None
    record = record_of([50.0, 52.5, None], ["COMPLETE", "COMPLETE", "PRUNED"])
    found = studies.shown({"margin": {**record, "without": 51.25}}, params)
    assert [row[0] for row in found["trials"]] == ["margin 0", "margin 1", "margin 2", "margin, no margin losses"]
    assert [row[-2:] for row in found["trials"]][1:] == [["52.5", "COMPLETE"], ["–", "PRUNED"], ["51.25", "first"]]
    assert len(found["charts"]) == 2 and all(image.startswith("data:image/svg+xml") for image, _ in found["charts"])
