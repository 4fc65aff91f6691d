"""Studies: how many trials, what they may read, and what an interruption leaves."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import save_file
from sqlalchemy import event
from sqlalchemy.engine import Engine

from lapml.config import digest, resolve, study_identity, trial_run
from lapml.data.pack import Packed
from lapml.errors import LapmlError, Stopped
from lapml.paths import Paths
from lapml.runs import study as shared
from lapml.runs import tune as module
from lapml.runs import workers
from lapml.runs.occurring import Distances
from lapml.runs.tune import tune

ROOT = Path(__file__).parents[2]
TRIALS = 6
FORK = multiprocessing.get_context("fork")


class Interrupt(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def without_waiting_for_the_disk() -> Iterator[None]:
    """Processes are killed here, machines are not: what SQLite has written need not reach the disk at once."""

    def connected(connection, _) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


@pytest.fixture
def paths(tmp_path) -> Paths:
    return Paths("demo", tmp_path)


@pytest.fixture(scope="module")
def params(small_params):
    return lambda *overrides: small_params(f"tune.trials={TRIALS}", "tune.seeds=[100, 101]", *overrides)


def replace_training(patch, packed) -> list[tuple]:
    """By a smooth function of the margins; (method, seed, values) of every call."""
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

    patch.setattr(module, "_score", score)
    patch.setattr(Packed, "open", classmethod(lambda *_: packed))
    return calls


@pytest.fixture
def asked(monkeypatch, packed) -> list[tuple]:
    """What :func:`replace_training` records."""
    return replace_training(monkeypatch, packed)


@pytest.fixture(scope="module")
def whole(params, packed, tmp_path_factory) -> SimpleNamespace:
    """A study of `margin`, undisturbed, and where it lies; not to be touched."""
    paths = Paths("demo", tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        asked = replace_training(patch, packed)
        return SimpleNamespace(result=run(params(), paths), paths=paths, asked=asked)


@pytest.fixture
def first(whole, paths) -> dict:
    """The same in the folder of this test, for it to go on from."""
    shutil.copytree(whole.paths.root, paths.root, dirs_exist_ok=True)
    return whole.result


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


def test_a_study(whole):
    result, asked = whole.result, whole.asked
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
    assert json.loads(whole.paths.tuned("birds", "margin").read_text()) == result


def test_a_finished_study_asks_for_nothing_more(params, paths, first, asked):
    paths.tuned("birds", "margin").unlink()  # an orchestrator deletes outputs before it runs a stage
    assert run(params(), paths) == first and not asked


def test_studies_are_reproducible(params, paths, whole, asked):
    again = run(params(), paths)
    assert len(asked) == 2 * TRIALS
    assert trials_of(again) == trials_of(whole.result) and again["values"] == whole.result["values"]


@pytest.mark.parametrize("call", [1, 2, 5, 8, 2 * TRIALS])
def test_an_interrupted_study_ends_in_the_same_margins(params, paths, whole, asked, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(call))
        with pytest.raises(Interrupt):
            run(params(), paths)
    assert not paths.tuned("birds", "margin").exists()
    finished = (call - 1) // 2
    before = len(asked)
    result = run(params(), paths)
    assert len(asked) - before == 2 * (TRIALS - finished)  # finished trials are not repeated
    assert trials_of(result) == trials_of(whole.result) and result["values"] == whole.result["values"]


def kept(paths, *overrides, params, method="margin"):
    """The study of a method as it lies on the disk."""
    name = digest(study_identity(params(*overrides), "birds", method, {}, "0" * 64))
    return shared.opened(None, paths.study("birds", name), name, {})


def test_a_trial_of_a_killed_process_is_made_again(params, paths, whole, asked, monkeypatch):
    quick_to_bury(monkeypatch)

    def search_and_die() -> None:
        def die(*arguments):
            nonlocal count
            count += 1
            if count == 6:  # in the third trial
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        original, count = module._score, 0
        module._score = die
        run(params(), paths)

    killed = FORK.Process(target=search_and_die)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert kept(paths, params=params).trials[-1].state == TrialState.RUNNING
    result = run(params(), paths)
    states = [trial.state for trial in kept(paths, params=params).trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] + [TrialState.COMPLETE] * 4
    assert trials_of(result) == trials_of(whole.result) and result["values"] == whole.result["values"]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_that_was_killed_before_it_drew_a_value(params, paths, whole, asked, monkeypatch):
    """It gave no sign of life that could stop."""
    quick_to_bury(monkeypatch)
    name = digest(study_identity(params(), "birds", "margin", {}, "0" * 64))
    shared.opened(None, paths.study("birds", name), name, {shared.BEGUN: TRIALS}).ask()
    lines: list[str] = []
    result = run(params(), paths, log=lines.append)
    assert lines[0].startswith("birds/margin: the trials lie in ")
    assert lines[1].startswith("1 trial(s) of this study are in work elsewhere, or were left by a killed process")
    assert kept(paths, params=params).trials[0].state == TrialState.FAIL
    assert trials_of(result) == trials_of(whole.result)


def quick_to_bury(monkeypatch) -> None:
    for name, seconds in (("HEARTBEAT", 1), ("GRACE", 2), ("POLL", 0.1)):
        monkeypatch.setattr(shared, name, seconds)


@pytest.mark.parametrize("method", ["margin", "adaptive_margin"])
def test_the_published_margins_of_the_demo_are_found_again(small_params, paths, asked, monkeypatch, method):
    """Given the scores of then, one worker draws the values of then, to the bit."""
    published = ROOT / "results/published/demo/tuned/birds"
    record = json.loads((published / f"{method}.json").read_text())
    if record["versions"]["optuna"] != optuna.__version__:
        pytest.skip(f"they were drawn by Optuna {record['versions']['optuna']}, and this is {optuna.__version__}")
    scores = iter(trial["score"] for trial in record["trials"])
    monkeypatch.setattr(module, "_score", lambda *_: (next(scores), None))
    paths.tuned("birds", "margin").parent.mkdir(parents=True)
    if method == "adaptive_margin":
        values = json.loads((published / "margin.json").read_text())["values"]
        paths.tuned("birds", "margin").write_text(json.dumps({"values": values}))
    result = run(small_params(), paths, method)
    assert trials_of(result) == trials_of(record) and result["values"] == record["values"]


def test_more_trials_go_on_with_a_study(params, paths, tmp_path, whole, first, asked, monkeypatch):
    more = run(params("tune.trials=10"), paths)
    assert len(asked) == 2 * 4 and more["study"] == first["study"]
    assert trials_of(more)[:TRIALS] == trials_of(first) and len(set(map(str, trials_of(more)))) == 10
    # So it ends where an interrupted one ends that begins with as many; and with fewer trials again, where it was.
    other = Paths("demo", shutil.copytree(whole.paths.root, tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(4))
        with pytest.raises(Interrupt):
            run(params("tune.trials=10"), other)
    assert trials_of(run(params("tune.trials=10"), other)) == trials_of(more)
    asked.clear()
    assert trials_of(run(params(), paths)) == trials_of(first) and not asked


def test_the_adaptive_row_keeps_what_the_margin_row_found(params, paths, tmp_path, first, asked):
    with pytest.raises(LapmlError, match="no tuned values yet; run `lapml tune birds`"):
        run(params(), Paths("demo", tmp_path / "empty"), "adaptive_margin")
    result = run(params(), paths, "adaptive_margin")
    frozen = first["values"]
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
def test_a_changed_setting_starts_another_study(params, paths, first, asked, change):
    second = run(params(change, "tune.trials=2"), paths)  # the number of trials is no part of what a study is
    assert second["study"] != first["study"] and len(asked) == 2 * 2
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
    config = trial_run(params("tune.epochs=2"), "birds", "margin", 100, {"m": 0.5, "weight": 0.1})
    assert module._score(config, packed, None)[0] == 12.5
    assert [name for name, _ in seen] == ["fit", "predict"]
    for _, config in seen:
        assert config.fit == ["train"] and config.evaluate == "val"
        assert config.train.epochs == 2 and config.seed == 100
        assert config.settings.margin.m == 0.5 and config.settings.margin.weight == 0.1


def test_a_damaged_study(params, paths, asked):
    name = digest(study_identity(params(), "birds", "margin", {}, "0" * 64))
    file = paths.study("birds", name)
    file.parent.mkdir(parents=True)
    file.write_text("no database, and more than the 100 bytes that a header of one has\n" * 9)
    with pytest.raises(LapmlError, match=r"\.db: cannot be read as an Optuna study .*delete it"):
        run(params(), paths)
    assert file.read_text().startswith("no database")


@pytest.mark.parametrize("content", ["", "{", '{"scores": 1}'])
def test_a_damaged_tuned_file(params, paths, asked, content):
    path = paths.tuned("birds", "margin")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(LapmlError, match="margin.json: .*damaged; delete it and run `lapml tune birds`"):
        run(params(), paths, "adaptive_margin")


def test_the_study_is_beside_the_outputs_and_says_what_it_is(params, paths, first):
    result = first
    file = paths.study("birds", result["study"])
    assert file.is_file() and paths.tuned("birds", "margin").parent not in file.parents
    found = kept(paths, params=params).user_attrs
    assert found["dataset"] == "birds" and found["method"] == "margin" and found["commit"] == result["commit"]


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
    assert len(asked) == 2 + 2 * TRIALS and result["without"] == 90.25  # the mean over the seeds, as of a trial
    reached = D / (2 * RHO) if scale == "share" else D
    drawn = [trial.params["m"] for trial in kept(paths, params=lambda: chosen).trials]
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


def test_margins_by_quantiles_go_by_what_the_trial_drew(params, paths, asked, distances):
    """Scale and margin of the trial, not those of the method."""
    scales = "tune.methods={margin: {margin.scale: {choices: [constant, share]}}}"
    result = run(params(*QUANTILES, scales, "tune.trials=8"), paths)
    drawn = [trial.params for trial in kept(paths, params=lambda: params(*QUANTILES, scales, "tune.trials=8")).trials]
    assert {each["margin.scale"] for each in drawn} == {"constant", "share"}
    for trial, each in zip(result["trials"], drawn, strict=True):
        reached = D / (2 * RHO) if each["margin.scale"] == "share" else D
        assert trial["values"]["m"] == pytest.approx(min(np.quantile(reached, each["m"]), 2**0.5), abs=1e-3)

    own = "tune.methods={adaptive_margin: {margin.m: {low: 0.5, high: 0.6}}}"
    width = "tune.adaptive_margin.delta={low: 0.9, high: 0.9001, quantile: true}"
    settings = params(own, width)
    run(settings, paths)
    for trial in run(settings, paths, "adaptive_margin")["trials"]:
        values = trial["values"]
        assert values["delta"] == pytest.approx(np.quantile(D, 0.9) - values["margin.m"], abs=2e-3)


def test_without_margin_losses_a_joint_method_learns_from_clean_images_still(params, paths, asked, distances):
    """As its trials do, so that what that gives is not taken for what the margins give."""
    joint = "methods.margin.margin.reference=joint", "methods.margin.margin.every=1"
    run(params(*QUANTILES, *joint), paths)
    (plain,) = distances
    assert plain.settings.joint and plain.settings.margin.weight == 0.0


def test_runs_of_different_lengths_are_looked_at_after_the_same_parts(params, monkeypatch):
    """Their rates are then alike; by epochs, long runs would be ended for being in their beginning."""
    looks = {}

    def fit(config, *_, then, **__):
        for epoch in range(1, config.train.epochs):
            then(epoch, SimpleNamespace(model=None, weights=None, device=None, precision=None))
        return SimpleNamespace(model=None, weights=None, device=None, precision=None)

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module.evaluate, "predict", lambda *_: None)
    monkeypatch.setattr(module.evaluate, "metrics", lambda _: {"top1": 50.0})
    for epochs in (8, 20):
        chosen = trial_run(params(f"tune.epochs={epochs}", "train.epochs=20"), "birds", "cutmix", 100, {})
        looks[epochs] = []
        module._score(chosen, None, None, lambda part, score, seen=looks[epochs]: seen.append(part))
    assert looks == {8: [1, 2, 3], 20: [1, 2, 3]}


@pytest.mark.parametrize("scale", ["constant", "share"])
def test_both_margins_in_one_study_by_quantiles(params, paths, asked, distances, scale):
    """By their paths in ``tune.methods``, as of a method of any name."""
    ranges = (
        "margin.m: {low: 0.1, high: 0.9, quantile: true}, margin.weight: {low: 0.01, high: 1.0, log: true}, "
        "adaptive.delta: {low: 0.5, high: 1.0, quantile: true}"
    )
    own = {
        "margin.m": 0.5,
        "margin.weight": 0.1,
        "margin.scale": scale,
        "adaptive.delta": 0.1,
        "adaptive.quantile": 0.0,
    }
    changes = [f"methods.adaptive_margin.{path}={value}" for path, value in own.items()]
    listed = "tuned_methods=[adaptive_margin]", f"tune.methods={{adaptive_margin: {{{ranges}}}}}"
    chosen = params(*changes, *listed, "tune.trials=6")
    result = run(chosen, paths, "adaptive_margin")
    (plain,) = distances
    assert plain.settings.margin is None and plain.settings.adaptive is None and result["without"] == 90.25
    study = kept(paths, params=lambda: chosen, method="adaptive_margin")
    for trial, each in zip(result["trials"], study.trials, strict=True):
        drawn, edge = each.params, 2 * RHO if scale == "share" else 1.0
        m = min(np.quantile(D / edge, drawn["margin.m"]), 2**0.5)
        width = min(max(np.quantile(D - m * edge, drawn["adaptive.delta"]), 0), 2**0.5)
        expected = {"margin.m": m, "margin.weight": drawn["margin.weight"], "adaptive.delta": width}
        assert trial["values"] == pytest.approx(expected, abs=2e-4)
    final = resolve(chosen, "birds", "adaptive_margin", 0, result["values"]).settings
    assert final.margin.m == result["values"]["margin.m"] and final.adaptive.delta == result["values"]["adaptive.delta"]


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
    pruned = "tune.trials=12", "tune.epochs=4", "tune.prune=true"
    whole = run(params(*pruned), Paths("demo", tmp_path / "whole"))
    states = [trial["state"] for trial in whole["trials"]]
    assert len(states) == 12 and states[:4] == ["COMPLETE"] * 4 and "PRUNED" in states
    worst_kept = min(trial["score"] for trial in whole["trials"] if trial["state"] == "COMPLETE")
    assert (
        whole["score"] == max(trial["score"] for trial in whole["trials"] if trial["state"] == "COMPLETE") >= worst_kept
    )
    assert all(trial["score"] is None or trial["score"] <= whole["score"] for trial in whole["trials"])
    plain = run(params("tune.trials=1", "tune.epochs=4"), Paths("demo", tmp_path / "plain"))
    assert plain["study"] != whole["study"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", interrupted(15))
        with pytest.raises(Interrupt):
            run(params(*pruned), paths)
    again = run(params(*pruned), paths)
    assert trials_of(again) == trials_of(whole) and [each["state"] for each in again["trials"]] == states


# --- several processes ---


def test_several_commands_at_one_study_share_its_trials(params, paths, asked):
    """On one machine, without a word of one another: no trial is made twice, and all end in the same margins."""
    results = FORK.Queue()

    def search() -> None:
        lines: list[str] = []
        result = tune(params(), paths, "birds", "margin", lines.append)
        results.put((result["values"], len(result["trials"]), sum("top-1" in line for line in lines)))

    processes = [FORK.Process(target=search) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    values, trials, made = zip(*found, strict=True)
    assert all(each == values[0] for each in values) and set(trials) == {TRIALS} and sum(made) == TRIALS


def test_workers_share_a_study_and_one_that_is_killed_loses_no_trial(params, paths, asked, monkeypatch):
    quick_to_bury(monkeypatch)
    monkeypatch.setattr(workers, "CONTEXT", FORK)
    parent, original = os.getpid(), module._score
    begun = FORK.Event()

    def score(*arguments):
        if os.getpid() == parent:
            assert begun.wait(120)  # the other has a trial
            return original(*arguments)
        begun.set()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(module, "_score", score)
    lines: list[str] = []
    result = tune(params(), paths, "birds", "margin", lines.append, helpers=1)
    assert len(result["trials"]) == TRIALS and {each["state"] for each in result["trials"]} == {"COMPLETE"}
    assert lines[-1] == "worker 2 ended early, with status -9"
    again = [trial for trial in kept(paths, params=params).trials if trial.system_attrs.get("retry_history")]
    assert [trial.state for trial in again] == [TrialState.COMPLETE]


def test_workers_are_stopped_with_the_command(params, paths, asked, monkeypatch):
    monkeypatch.setattr(workers, "CONTEXT", FORK)
    parent, begun = os.getpid(), FORK.Event()

    def score(*_):
        if os.getpid() == parent:
            assert begun.wait(120)
            raise Interrupt
        begun.set()
        time.sleep(600)

    monkeypatch.setattr(module, "_score", score)
    lines: list[str] = []
    with pytest.raises(Interrupt):
        tune(params(), paths, "birds", "margin", lines.append, helpers=1)
    assert lines[-1] == f"worker 2 ended early, with status {Stopped.status}"
    states = [trial.state for trial in kept(paths, params=params).trials]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING, TrialState.WAITING]  # both are made again


def test_settings_go_to_another_process(params, paths):
    assert pickle.loads(pickle.dumps((params(), paths)))[0] == params()


# --- a database ---


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://somebody:secret@127.0.0.1:1/none",
            "somebody:.*@127.0.0.1:1/none: .*(cannot be used now|pip install)",
        ),
        ("nosuch://somewhere", "tune.storage: .*nosuch.*; expected null, sqlite:///FILE or postgresql://"),
    ],
)
def test_a_database_that_cannot_be_used(params, paths, asked, monkeypatch, url, said):
    monkeypatch.setattr(shared, "POLL", 0.01)
    with pytest.raises(LapmlError, match=said) as error:
        run(params(f"tune.storage={url}"), paths)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_url_that_is_none(params):
    with pytest.raises(LapmlError, match="tune.storage: found 'here'"):
        params("tune.storage=here")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory) -> Iterator[str]:
    """The URL of a server of one's own, on loopback, run by another user than root."""
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no /usr/lib/postgresql/*/bin: the package postgresql is not installed")
    folder = Path(tempfile.mkdtemp(prefix="lapml-postgresql-"))  # tmp_path is root's
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(name: str, *options: str) -> None:
        done = subprocess.run(
            [programs[-1] / name, "-D", folder / "data", *options], cwd=folder, capture_output=True, text=True, **user
        )
        assert done.returncode == 0, done.stderr

    call("initdb", "-U", "lapml", "-A", "trust", "--no-sync")
    where = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    try:
        call("pg_ctl", "-w", "-t", "300", "-l", str(folder / "log"), "-o", where, "start")
        yield f"postgresql://lapml@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_machines_share_a_study_in_a_database(postgresql, params, tmp_path, asked):
    """Each with results of its own: the trials are made once, and all end in the margins of one alone with that database."""
    stored = params(f"tune.storage={postgresql}")
    results = FORK.Queue()

    def search(name: str) -> None:
        lines: list[str] = []
        result = tune(stored, Paths("demo", tmp_path / name), "birds", "margin", lines.append)
        results.put((trials_of(result), sum("top-1" in line for line in lines)))

    processes = [FORK.Process(target=search, args=(name,)) for name in "ab"]
    for process in processes:
        process.start()
    (one, made), (other, also) = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert one == other and len(one) == TRIALS and made + also == TRIALS
    assert not list(tmp_path.rglob("*.db"))
    asked.clear()
    assert trials_of(run(stored, Paths("demo", tmp_path / "c"))) == one and not asked

    alone = run(params(f"tune.storage={postgresql}", "tune.epochs=19"), Paths("demo", tmp_path / "d"))
    here = run(params("tune.epochs=19"), Paths("demo", tmp_path / "e"))
    assert trials_of(alone) == trials_of(here)  # whatever the storage
