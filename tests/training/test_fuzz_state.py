"""Damaged records, studies and saved states: gone on with, or one clear error.

``python -m pytest -m slow -s tests/training/test_fuzz_state.py`` prints the outcomes by format.
"""

import copy
import io
import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import mutations
import numpy as np
import pytest
import torch

from lapml import config
from lapml.data.pack import Packed
from lapml.errors import LapmlError, Stopped
from lapml.paths import Paths
from lapml.runs import tune as tuning
from lapml.training import loop as training
from lapml.training.watch import Watch

RECORDS = Path(__file__).parents[1] / "fixtures/records"
TIMES = 200  # mutations of each format


def told(name: str, outcomes: list[str]) -> None:
    found = mutations.counted(outcomes)
    print(f"\n{name}: {dict(found)}")
    assert not [each for each in outcomes if each.startswith(("traceback", "hang"))]
    assert found["clear error"] > TIMES / 5  # it was damaged


def quietly(line: str) -> None:
    pass


@pytest.mark.slow
def test_records():
    files, outcomes = sorted(RECORDS.glob("*/config.json")), []
    for seed in range(TIMES):
        rng = np.random.default_rng([1, seed])
        record = mutations.structure(rng, json.loads(files[rng.integers(len(files))].read_text()))
        read = partial(config.settings_of, "run/config.json", record)
        outcomes.append(mutations.outcome(read, "run/config.json"))
    told("records", outcomes)


# --- studies ---


@pytest.fixture
def study(small_params, packed, tmp_path, monkeypatch):
    """(its file, what goes on with it): stopped in its fourth trial, of six, some of which are pruned."""
    params = small_params("tune.trials=6", "tune.seeds=[100]", "tune.prune=true")
    paths, calls = Paths("demo", tmp_path), []

    def score(run, packed, maps, check=None):
        calls.append(run)
        if len(calls) == 4:
            raise KeyboardInterrupt
        for epoch in range(1, run.train.epochs):
            check(epoch, 90.0 - 3 * run.settings.margin.m)
        return 90.0 - 3 * run.settings.margin.m, None

    monkeypatch.setattr(tuning, "_score", score)
    monkeypatch.setattr(Packed, "open", classmethod(lambda *_: packed))

    def go_on():
        return tuning.tune(params, paths, "birds", "margin", quietly)

    with pytest.raises(KeyboardInterrupt):
        go_on()
    return next(tmp_path.rglob("*.db")), go_on


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_studies(study):
    file, go_on = study
    whole, outcomes = file.read_bytes(), []
    for seed in range(TIMES):
        file.write_bytes(mutations.noise(np.random.default_rng([2, seed]), whole))
        outcomes.append(mutations.outcome(go_on, file))
    told("studies", outcomes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("trial_params", "param_value", "x"),
        ("trial_params", "param_value", None),
        ("trial_intermediate_values", "intermediate_value", "drawn"),
        ("trial_values", "value", "x"),
        ("trial_values", "value_type", "INF_POS"),
    ],
)
def test_a_number_that_is_none_is_found_when_a_study_is_opened(study, table, column, value):
    file, go_on = study
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"UPDATE {table} SET {column} = ?", (value,))
        database.commit()
    with pytest.raises(LapmlError, match="cannot be read as an Optuna study .*; delete it to start this study over"):
        go_on()
    with closing(sqlite3.connect(file)) as database:
        assert {found for (found,) in database.execute(f"SELECT {column} FROM {table}")} == {value}


# --- saved states ---


@pytest.fixture
def stopped(small_run, packed, tmp_path, monkeypatch):
    """(last.pt, what goes on with it): a run by maps of its last visits, stopped in its second epoch."""
    run, path, step, done = small_run("loc_cutmix", "train.epochs=2"), tmp_path / "last.pt", training.take_step, []

    def stopping(*arguments):
        done.append(1)
        if len(done) == 8:
            for watch in watches:
                watch.asked = 15
        return step(*arguments)

    watches, enter = [], Watch.__enter__
    monkeypatch.setattr(Watch, "__enter__", lambda self: watches.append(self) or enter(self))
    monkeypatch.setattr(Watch, "__exit__", lambda self, *_: None)
    monkeypatch.setattr(training, "take_step", stopping)

    def go_on():
        return training.fit(run, packed, path, True, quietly)

    with pytest.raises(Stopped):
        go_on()
    return path, go_on


def inside(state, path=()):
    """The paths of all values of a saved state."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return [path, *(each for key, value in items for each in inside(value, (*path, key)))]


def changed(rng: np.random.Generator, state: dict) -> dict:
    """A copy with one or two values gone, odd, or tensors of another shape or kind; the key stays, so that it is read."""
    state = copy.deepcopy(state)
    for _ in range(rng.integers(1, 3)):
        depth = rng.integers(1, 6)
        found = [path for path in inside(state)[1:] if path[0] != "key" and len(path) <= depth]
        *parents, last = found[rng.integers(len(found))]
        where = state
        for key in parents:
            where = where[key]
        how, value = rng.integers(4), where[last]
        if how == 0:
            del where[last]
        elif how == 1 and isinstance(value, torch.Tensor):
            other = (value.double(), value.flatten()[:1].clone(), value.unsqueeze(0), torch.full_like(value, 2))
            where[last] = other[rng.integers(4)]
        else:
            where[last] = mutations.odd(rng)
    return state


def saved(state: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_saved_states(stopped):
    path, go_on = stopped
    whole, outcomes = path.read_bytes(), []
    state = torch.load(path, weights_only=True)
    for seed in range(TIMES):
        rng = np.random.default_rng([3, seed])
        while True:
            try:
                damaged = mutations.noise(rng, whole) if rng.random() < 0.3 else saved(changed(rng, state))
                break
            except (ValueError, OverflowError):  # what cannot be saved, as a huge integer
                continue
        path.write_bytes(damaged)
        outcomes.append(mutations.outcome(go_on))
        if outcomes[-1] == "clear error" and path.exists():
            assert path.stat().st_size  # nothing half-written
    told("last.pt", outcomes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("models"),
        lambda state: state["optimizer"]["param_groups"].pop(),
        lambda state: state["optimizer"]["state"].update({0: {"momentum_buffer": "x"}}),
        lambda state: state["optimizer"]["param_groups"][0].update(lr=[1]),
        lambda state: state.update(history=["x"]),
        lambda state: state["history"][0].pop("seconds"),
        lambda state: state["ranks"][0]["epoch"].update(step="x"),
        lambda state: state["ranks"][0]["epoch"]["means"].update(sums=3),
        lambda state: state["ranks"].clear(),
        lambda state: state.update(bank=[1]),
        lambda state: state.update(resumed={}),
    ],
)
def test_a_state_that_does_not_fit_is_one_clear_error(stopped, spoil):
    path, go_on = stopped
    state = torch.load(path, weights_only=True)
    spoil(state)
    path.write_bytes(saved(state))
    with pytest.raises(
        LapmlError, match="last.pt: does not fit the run whose state it is .*; move it away to start again"
    ):
        go_on()
    assert path.exists()


def test_a_whole_state_is_gone_on_with(stopped):
    _, go_on = stopped
    assert len(go_on().history) == 2
