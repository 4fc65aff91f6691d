"""Studies: how many trials, what they may read, and what an interruption leaves."""

import json
import multiprocessing
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import save_file

from lapml.common import locks
from lapml.config import digest, study_identity
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs import journal
from lapml.runs import tune as module
from lapml.runs.occurring import Distances
from lapml.runs.tune import tune

TRIALS = 6
FORK = multiprocessing.get_context("fork")


class Interrupt(Exception):
    pass


@pytest.fixture
def paths(tmp_path) -> Paths:
    return Paths("demo", tmp_path)


@pytest.fixture
def params(small_params):
    return lambda *overrides: small_params(f"tune.trials={TRIALS}", "tune.seeds=[100, 101]", *overrides)


@pytest.fixture
def asked(monkeypatch, packed) -> list[tuple]:
    """Replaces training by a smooth function of the margins; records (method, seed, values) of every call."""
    calls = []

    def score(config, packed, maps, check=None):
        values = searched(config)
        calls.append((config.method, config.seed, values))
        optimum = {"m": 0.9, "weight": 0.1, "delta": 0.3, "quantile": 0.5}
        score = 90.0 - 20 * sum((values[name] - optimum[name]) ** 2 for name in values) + 0.5 * (config.seed - 100)
        if check:
            for epoch in range(1, config.train.epochs):
                check(epoch, score)
        return score, None

    monkeypatch.setattr(module, "_score", score)
    monkeypatch.setattr(Packed, "open", classmethod(lambda *_: packed))
    return calls


def searched(config) -> dict[str, float]:
    """The margins of a run, but for those that it has not."""
    sections = (config.settings.margin, ("m", "weight")), (config.settings.adaptive, ("delta", "quantile"))
    return {name: getattr(section, name) for section, names in sections if section for name in names}


def run(params, paths, method="margin", log=lambda line: None):
    return tune(params, paths, "birds", method, log)


def interrupted(calls: int):
    """Fails at the given call of ``_score``, as a killed process would: in the middle of a trial."""
    original, count = module._score, 0

    def score(*arguments):
        nonlocal count
        count += 1
        if count == calls:
            raise Interrupt
        return original(*arguments)

    return score


def trials_of(result) -> list[tuple]:
    return [(trial["values"], trial["score"]) for trial in result["trials"]]


def test_a_study(params, paths, asked):
    result = run(params(), paths)
    assert len(result["trials"]) == TRIALS and {trial["state"] for trial in result["trials"]} == {"COMPLETE"}
    assert [seed for _, seed, _ in asked] == [100, 101] * TRIALS
    for trial in result["trials"]:
        assert 0.2 <= trial["values"]["m"] <= 1.4 and 0.01 <= trial["values"]["weight"] <= 1.0
    best = max(result["trials"], key=lambda trial: trial["score"])
    assert result["values"] == best["values"] and result["score"] == best["score"]
    first = result["trials"][0]
    assert first["score"] == pytest.approx(
        90.25 - 20 * ((first["values"]["m"] - 0.9) ** 2 + (first["values"]["weight"] - 0.1) ** 2)
    )  # the mean over both seeds
    assert len({trial["values"]["m"] for trial in result["trials"]}) == TRIALS
    assert json.loads(paths.tuned("birds", "margin").read_text()) == result


def test_a_finished_study_asks_for_nothing_more(params, paths, asked):
    first = run(params(), paths)
    paths.tuned("birds", "margin").unlink()  # an orchestrator deletes outputs before it runs a stage
    asked.clear()
    assert run(params(), paths) == first and not asked


def test_studies_are_reproducible(params, tmp_path, asked):
    one, other = (run(params(), Paths("demo", tmp_path / name)) for name in "ab")
    assert trials_of(one) == trials_of(other) and one["values"] == other["values"]


@pytest.mark.parametrize("call", [1, 2, 5, 8, 2 * TRIALS])
def test_an_interrupted_study_ends_in_the_same_margins(params, paths, tmp_path, asked, monkeypatch, call):
    whole = run(params(), Paths("demo", tmp_path / "whole"))
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(call))
        with pytest.raises(Interrupt):
            run(params(), paths)
    assert not paths.tuned("birds", "margin").exists()
    finished = (call - 1) // 2
    before = len(asked)
    result = run(params(), paths)
    assert len(asked) - before == 2 * (TRIALS - finished)  # finished trials are not repeated
    assert trials_of(result) == trials_of(whole) and result["values"] == whole["values"]


def test_trials_of_killed_processes_are_dropped(params, paths, tmp_path, asked):
    whole = run(params(), Paths("demo", tmp_path / "whole"))
    name = digest(study_identity(params(), "birds", "margin", {}, "0" * 64))
    study = journal.opened(paths, "birds", name)
    for _ in range(3):
        study.ask()  # never told: RUNNING for ever
    result = run(params(), paths)
    states = [trial.state for trial in journal.opened(paths, "birds", name).get_trials()]
    assert states.count(TrialState.RUNNING) == 0 and states.count(TrialState.COMPLETE) == TRIALS
    assert trials_of(result) == trials_of(whole)


def test_the_adaptive_row_keeps_what_the_margin_row_found(params, paths, asked):
    with pytest.raises(LapmlError, match="no tuned margins yet; run `lapml tune birds`"):
        run(params(), paths, "adaptive_margin")
    margin = run(params(), paths)
    asked.clear()
    result = run(params(), paths, "adaptive_margin")
    frozen = margin["values"]
    assert frozen.keys() == {"m", "weight"}
    assert all(values.items() >= frozen.items() and len(values) == 4 for _, _, values in asked)
    assert result["values"].items() >= frozen.items() and result["values"].keys() == {
        "m",
        "weight",
        "delta",
        "quantile",
    }
    assert len(result["trials"]) == TRIALS and all(
        trial["values"].keys() == {"delta", "quantile"} for trial in result["trials"]
    )


@pytest.mark.parametrize(
    "change",
    [
        "train.lr=0.02",
        "tune.epochs=5",
        "tune.seeds=[100, 102]",
        "tune.margin.m.high=1.3",
        "methods.margin.mixer.temperature=2.0",
        "data.birds.view.flip=false",
        "model.truncate=4",
    ],
)
def test_a_changed_setting_starts_another_study(params, paths, asked, change):
    first = run(params(), paths)
    asked.clear()
    second = run(params(change), paths)
    assert second["study"] != first["study"] and len(asked) == 2 * TRIALS
    asked.clear()
    assert run(params(), paths) == first and not asked  # the first one is still there


@pytest.mark.parametrize(
    "change", ["report.bootstrap=500", "seeds=[7]", "train.epochs=9", "data.birds.source=elsewhere"]
)
def test_what_does_not_matter_changes_no_study(params, change):
    overrides = ["data.birds.synthetic=null", "data.birds.source=here"] if "source" in change else []
    names = [
        digest(study_identity(params(*overrides, *more), "birds", "margin", {}, "0" * 64)) for more in ([], [change])
    ]
    assert names[0] == names[1]


def test_other_data_or_frozen_margins_are_another_study(params):
    names = {
        digest(study_identity(params(), "birds", "adaptive_margin", frozen, data))
        for frozen in ({"m": 0.5, "weight": 0.1}, {"m": 0.6, "weight": 0.1})
        for data in ("0" * 64, "1" * 64)
    }
    assert len(names) == 4


def test_other_weights_are_another_study(params, tmp_path):
    """'The study's name is a hash of the resolved tuning settings, data and weights.'"""
    path, names = tmp_path / "model.safetensors", set()
    for value in (0.0, 1.0):
        save_file({"a": torch.full((2,), value)}, path)
        names.add(digest(study_identity(params(f"model.weights={path}"), "birds", "margin", {}, "0" * 64)))
    assert len(names) == 2


def test_only_val_is_read(params, packed, monkeypatch):
    seen = []

    def fit(config, packed, *_, **__):
        seen.append(("fit", config))
        return SimpleNamespace(model=None, weights=None, device=None, precision=None)

    def predict(model, packed, config, *_):
        seen.append(("predict", config))

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module.evaluate, "predict", predict)
    monkeypatch.setattr(module.evaluate, "metrics", lambda seen: {"top1": 12.5})
    config = module._development(params("tune.epochs=2"), "birds", "margin", 100, {"m": 0.5, "weight": 0.1})
    assert module._score(config, packed, None)[0] == 12.5
    assert [name for name, _ in seen] == ["fit", "predict"]
    for _, config in seen:
        assert config.fit == ["train"] and config.evaluate == "val"
        assert config.train.epochs == 2 and config.seed == 100
        assert config.settings.margin.m == 0.5 and config.settings.margin.weight == 0.1


def test_a_damaged_journal(params, paths, asked):
    name = digest(study_identity(params(), "birds", "margin", {}, "0" * 64))
    journal = paths.journal("birds", name)
    journal.parent.mkdir(parents=True)
    journal.write_text('{"no": "journal"}\nnot even JSON\n')
    with pytest.raises(LapmlError, match="cannot be read as an Optuna journal.*delete it"):
        run(params(), paths)


@pytest.mark.parametrize("content", ["", "{", '{"scores": 1}'])
def test_a_damaged_tuned_file(params, paths, asked, content):
    path = paths.tuned("birds", "margin")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(LapmlError, match="margin.json: .*damaged; delete it and run `lapml tune birds`"):
        run(params(), paths, "adaptive_margin")


def test_the_journal_is_beside_the_outputs(params, paths, asked):
    result = run(params(), paths)
    journal = paths.journal("birds", result["study"])
    assert journal.is_file() and paths.tuned("birds", "margin").parent not in journal.parents
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


# --- by quantiles of the distances that occur, and pruned ---

QUANTILES = ["tune.margin.m={low: 0.1, high: 0.9, quantile: true}",
             "tune.adaptive_margin.delta={low: 0.5, high: 1.0, quantile: true}"]  # fmt: skip
D, RHO = np.linspace(0.2, 1.2, 41), np.linspace(0.9, 0.1, 41)


@pytest.fixture
def distances(monkeypatch) -> list:
    """Replaces what a run without margin losses would show; records the runs."""
    runs = []

    def measured(config, *_):
        runs.append(config)
        return Distances(D, RHO)

    monkeypatch.setattr(module, "measured", measured)
    return runs


@pytest.mark.parametrize("scale", ["constant", "share"])
def test_margins_by_quantiles(params, paths, asked, distances, scale):
    chosen = params(*QUANTILES, f"methods.margin.margin.scale={scale}", f"methods.adaptive_margin.margin.scale={scale}")
    result = run(chosen, paths)
    (plain,) = distances
    assert plain.settings.margin is None and plain.settings.mixer == chosen.methods["margin"].mixer
    assert plain.fit == ["train"] and plain.seed == 100
    assert len(asked) == 1 + 2 * TRIALS and result["without"] == 90.0
    reached = D / (2 * RHO) if scale == "share" else D
    name = digest(study_identity(chosen, "birds", "margin", {}, "0" * 64))
    drawn = [trial.params["m"] for trial in journal.opened(paths, "birds", name).get_trials()]
    for trial, quantile in zip(result["trials"], drawn, strict=True):
        assert 0.1 <= quantile <= 0.9
        assert trial["values"]["m"] == pytest.approx(min(np.quantile(reached, quantile), 2**0.5), abs=1e-3)
    assert result["distances"]["50%"] == pytest.approx(0.7)

    adaptive = run(chosen, paths, "adaptive_margin")
    m, beyond = (
        result["values"]["m"],
        D - (2 * result["values"]["m"] * RHO if scale == "share" else result["values"]["m"]),
    )
    assert len(distances) == 2 and adaptive["values"]["m"] == m
    widths = [trial["values"]["delta"] for trial in adaptive["trials"]]
    low, high = (min(max(np.quantile(beyond, share), 0), 2**0.5) for share in (0.5, 1.0))
    assert all(low - 1e-3 <= width <= high + 1e-3 for width in widths) and len(set(widths)) > 1


def test_the_run_without_margins_is_not_repeated(params, paths, asked, distances, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(4))
        with pytest.raises(Interrupt):
            run(params(*QUANTILES), paths)
    result = run(params(*QUANTILES), paths)
    assert (
        len(distances) == 1
        and len(result["trials"]) == TRIALS
        and all("m" in each["values"] for each in result["trials"])
    )


def test_pruned_trials_count(params, paths, tmp_path, asked, monkeypatch):
    whole = run(params("tune.trials=12", "tune.prune=true"), Paths("demo", tmp_path / "whole"))
    states = [trial["state"] for trial in whole["trials"]]
    assert len(states) == 12 and states[:4] == ["COMPLETE"] * 4 and "PRUNED" in states
    worst_kept = min(trial["score"] for trial in whole["trials"] if trial["state"] == "COMPLETE")
    assert (
        whole["score"] == max(trial["score"] for trial in whole["trials"] if trial["state"] == "COMPLETE") >= worst_kept
    )
    assert all(trial["score"] is None or trial["score"] <= whole["score"] for trial in whole["trials"])
    plain = run(params("tune.trials=12"), Paths("demo", tmp_path / "plain"))
    assert plain["study"] != whole["study"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(15))
        with pytest.raises(Interrupt):
            run(params("tune.trials=12", "tune.prune=true"), paths)
    again = run(params("tune.trials=12", "tune.prune=true"), paths)
    assert trials_of(again) == trials_of(whole) and [each["state"] for each in again["trials"]] == states


# --- several processes ---


def test_several_processes_at_one_study_take_turns(params, paths, asked, monkeypatch):
    """The first makes the trials, the others wait and find them made: none is made twice, and none dies."""
    monkeypatch.setattr(locks, "WAIT", 0.2)
    results = FORK.Queue()

    def search() -> None:
        lines: list[str] = []
        result = tune(params(), paths, "birds", "margin", lines.append)
        results.put((result["values"], len(result["trials"]), sum("trial" in line for line in lines)))

    processes = [FORK.Process(target=search) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    values, trials, made = zip(*found, strict=True)
    assert all(each == values[0] for each in values) and set(trials) == {TRIALS} and sorted(made) == [0, 0, 2 * TRIALS]
    (file,) = (paths.base / "journals").rglob("*.journal")
    assert len(journal.opened(paths, "birds", file.stem).get_trials()) == TRIALS


def test_a_study_that_has_more_trials_than_were_asked_for_ends(params, paths, asked):
    """As two processes at once could leave it, when there was no lock."""
    first = tune(params(), paths, "birds", "margin", lambda line: None)
    study = journal.opened(paths, "birds", first["study"])
    study.add_trial(study.trials[0])
    made = len(asked)
    again = tune(params(), paths, "birds", "margin", lambda line: None)
    assert again["values"] == first["values"] and len(asked) == made
