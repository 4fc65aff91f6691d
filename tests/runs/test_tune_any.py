"""Studies of any settings of any method: real ones on the small test set, and what their final runs take from them."""

import json

import pytest

from lapml import config
from lapml.config import digest, study_identity
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs import tune as module
from lapml.runs.collect import tuned_record
from lapml.runs.execute import execute, resolve_smoke, resolved
from lapml.runs.tune import tune

LR = "train.lr: {low: 0.001, high: 0.1, log: true}"
SPACE = f"baseline: {{{LR}}}, cutmix: {{mix.prob: {{low: 0.2, high: 1.0}}, mixer.alpha: {{low: 0.2, high: 2.0}}}}"
TRIALS = 4


@pytest.fixture
def paths(tmp_path, monkeypatch, packed) -> Paths:
    monkeypatch.setattr(Packed, "open", classmethod(lambda *_: packed))
    return Paths("demo", tmp_path)


@pytest.fixture
def params(small_params):
    def made(*overrides: str, space: str = SPACE):
        listed = ["ablation=[loc_cutmix]", "tuned_methods=[baseline, cutmix]", f"tune.methods={{{space}}}"]
        return small_params("tune.epochs=2", "tune.seeds=[100]", f"tune.trials={TRIALS}", *listed, *overrides)

    return made


@pytest.fixture
def asked(monkeypatch) -> list[config.Run]:
    """Replaces training by a smooth function of the settings; records every run."""
    runs = []

    def score(run, *_):
        runs.append(run)
        return 50.0 - 100 * abs(run.train.lr - 0.02) - abs(run.train.epochs - 5), None

    monkeypatch.setattr(module, "_score", score)
    return runs


def search(params, paths, method, log=lambda line: None):
    return tune(params, paths, "birds", method, log)


@pytest.mark.parametrize(
    ("method", "ranges"),
    [("baseline", {"train.lr": (0.001, 0.1)}), ("cutmix", {"mix.prob": (0.2, 1.0), "mixer.alpha": (0.2, 2.0)})],
)
def test_a_real_study_and_the_final_run_that_takes_its_values(params, paths, packed, method, ranges):
    found = search(params(), paths, method)
    assert len(found["trials"]) == TRIALS and {trial["state"] for trial in found["trials"]} == {"COMPLETE"}
    for trial in found["trials"]:
        assert trial["values"].keys() == ranges.keys() and 0 <= trial["score"] <= 100
        assert all(low <= trial["values"][path] <= high for path, (low, high) in ranges.items())
    assert len({str(trial["values"]) for trial in found["trials"]}) == TRIALS
    best = max(found["trials"], key=lambda trial: trial["score"])
    assert found["values"] == best["values"] and found["score"] == best["score"]
    assert json.loads(paths.tuned("birds", method).read_text()) == found

    # The score is that of a development run with these values.
    run = config.trial_run(params(), "birds", method, 100, best["values"])
    assert (run.fit, run.evaluate, run.train.epochs) == (["train"], "val", 2)
    assert module._score(run, packed, None)[0] == best["score"]

    final = resolved(params(), paths, "birds", method, 0)
    execute(final, packed, paths.run("birds", method, 0), log=lambda line: None)
    record = json.loads((paths.run("birds", method, 0) / "config.json").read_text())
    for path, value in found["values"].items():
        where = record if path.startswith("train.") else record["settings"]
        for key in path.split("."):
            where = where[key]
        assert where == value
    assert record["fit"] == ["train", "val"] and record["train"]["epochs"] == params().train.epochs


def test_more_trials_go_on(params, paths, tmp_path, asked):
    first = search(params(), paths, "baseline")
    asked.clear()
    more = search(params("tune.trials=7"), paths, "baseline")
    assert len(asked) == 7 - TRIALS and more["study"] == first["study"]
    assert more["trials"][:TRIALS] == first["trials"] and more["score"] >= first["score"]
    asked.clear()
    assert search(params(), paths, "baseline")["trials"] == first["trials"] and not asked
    assert search(params(), Paths("demo", tmp_path / "other"), "baseline")["trials"] == first["trials"]


@pytest.mark.parametrize("call", [1, 3])
def test_an_interrupted_study_ends_in_the_same_values(params, paths, tmp_path, asked, monkeypatch, call):
    whole = search(params(), Paths("demo", tmp_path / "whole"), "cutmix")
    before = len(asked)
    with monkeypatch.context() as patch:
        original = module._score

        def score(*arguments):
            if len(asked) - before == call - 1:
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(module, "_score", score)
        with pytest.raises(KeyboardInterrupt):
            search(params(), paths, "cutmix")
    again = search(params(), paths, "cutmix")
    assert len(asked) - before == TRIALS and again["trials"] == whole["trials"]


def test_trials_of_any_method_are_pruned(params, paths, monkeypatch):
    def score(run, packed, maps, check):
        for epoch in range(1, run.train.epochs + 1):
            check(epoch, 100 * run.train.lr)
        return 100 * run.train.lr, None

    monkeypatch.setattr(module, "_score", score)
    found = search(params("tune.trials=12", "tune.prune=true"), paths, "baseline")
    states = [trial["state"] for trial in found["trials"]]
    assert len(states) == 12 and "PRUNED" in states
    assert found["values"]["train.lr"] == max(trial["values"]["train.lr"] for trial in found["trials"])


def test_whole_numbers_and_choices(params, paths, asked):
    space = (
        "baseline: {train.epochs: {low: 3, high: 9}, train.optimizer: {choices: [sgd, adamw]}, "
        "train.decay_norms: {choices: [true, false]}, train.clip_grad: {choices: [null, 1.0]}}"
    )
    overrides = ["ablation=[cutmix]", "tuned_methods=[baseline]", "tune.trials=12"]
    lines: list[str] = []
    found = search(params(*overrides, space=space), paths, "baseline", lines.append)
    values = [trial["values"] for trial in found["trials"]]
    assert all(type(each["train.epochs"]) is int and 3 <= each["train.epochs"] <= 9 for each in values)
    for path, choices in (
        ("train.optimizer", {"sgd", "adamw"}),
        ("train.decay_norms", {True, False}),
        ("train.clip_grad", {None, 1.0}),
    ):
        assert {each[path] for each in values} == choices
    assert [run.train.epochs for run in asked] == [each["train.epochs"] for each in values]  # in place of tune.epochs
    assert "train.optimizer = " in lines[1] and "train.epochs = " in lines[1]
    asked.clear()
    assert search(params(*overrides, space=space), paths, "baseline") == found and not asked  # read from the file again
    run = resolved(params(*overrides, space=space), paths, "birds", "baseline", 0)
    assert run.train.epochs == found["values"]["train.epochs"] == 5


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("train.lr=0.5", True),  # it is searched
        ("train.momentum=0.8", False),
        ("tune.epochs=3", False),
        ("methods.cutmix.mix.prob=0.9", True),  # of another method
    ],
)
def test_what_a_study_depends_on(params, change, same):
    names = {digest(study_identity(each, "birds", "baseline", {}, "0" * 64)) for each in (params(), params(change))}
    assert (len(names) == 1) is same


def test_other_ranges_are_another_study(params, paths, asked):
    first = search(params(), paths, "baseline")
    second = search(params(space=SPACE.replace("high: 0.1", "high: 0.2")), paths, "baseline")
    assert first["study"] != second["study"] and len(asked) == 2 * TRIALS


def test_margins_are_tuned_together_with_other_settings(params, paths, asked):
    space = f"margin: {{{LR}}}, adaptive_margin: {{mix.prob: {{low: 0.2, high: 1}}}}"
    both = params("ablation=[baseline]", "tuned_methods=[margin, adaptive_margin]", space=space)
    margin = search(both, paths, "margin")
    assert margin["values"].keys() == {"m", "weight", "train.lr"}
    adaptive = search(both, paths, "adaptive_margin")
    assert adaptive["values"].keys() == {"m", "weight", "delta", "quantile", "mix.prob"}
    assert adaptive["values"].items() >= {"m": margin["values"]["m"], "weight": margin["values"]["weight"]}.items()
    run = resolved(both, paths, "birds", "adaptive_margin", 0)
    assert run.settings.mix.prob == adaptive["values"]["mix.prob"] and run.train.lr == both.train.lr
    assert resolved(both, paths, "birds", "margin", 0).train.lr == margin["values"]["train.lr"]


def test_a_method_outside_of_the_tables_is_tuned_and_trains_as_it_is(params, paths, asked):
    outside = params("ablation=[baseline]", "tuned_methods=[cutmix]")
    found = search(outside, paths, "baseline")
    assert len(found["trials"]) == TRIALS
    assert resolved(outside, paths, "birds", "baseline", 0).train.lr == outside.train.lr


def test_final_runs_wait_for_their_values(params, paths, asked):
    with pytest.raises(LapmlError, match="baseline.json: no tuned values yet; run `lapml tune birds`"):
        resolved(params(), paths, "birds", "baseline", 0)
    assert resolve_smoke(params(), "birds", "baseline", 0).train.lr == params().train.lr
    search(params(), paths, "baseline")
    wider = SPACE.replace(LR, f"{LR}, train.momentum: {{low: 0.5, high: 0.9}}")
    with pytest.raises(LapmlError, match="has no value of train.momentum; run `lapml tune birds` again"):
        resolved(params(space=wider), paths, "birds", "baseline", 0)


@pytest.mark.parametrize("value", ["fast", None, True])
def test_a_tuned_file_with_a_value_of_another_kind_is_refused(params, paths, asked, value):
    found = search(params(), paths, "baseline")
    assert tuned_record(params(), paths, "birds", "baseline") == found
    found["trials"][1]["values"]["train.lr"] = value
    paths.tuned("birds", "baseline").write_text(json.dumps(found))
    with pytest.raises(LapmlError, match=f"baseline.json: values: train.lr: found {value!r}, expected"):
        tuned_record(params(), paths, "birds", "baseline")
