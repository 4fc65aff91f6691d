"""Settings that are tuned by their paths: what is allowed, what a run resolves to, what is refused."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml import config
from lapml.config import stages
from lapml.config.schema import JOB
from lapml.config.spaces import FIXED, is_whole
from lapml.errors import LapmlError

PARAMS = "params.yaml"
LR = "train.lr: {low: 0.003, high: 0.1, log: true}"
SPACE = f"baseline: {{{LR}}}, cutmix: {{mix.prob: {{low: 0.2, high: 1.0}}, {LR}, mixer.alpha: {{low: 0.2, high: 2.0}}}}"
LISTED = ["ablation=[loc_cutmix]", "tuned_methods=[baseline, cutmix]"]


def load(space: str, *overrides: str) -> config.Params:
    return config.load(PARAMS, [f"tune.methods={{{space}}}", *overrides])


def test_a_run_resolves_to_its_tuned_values_and_records_them():
    params = load(SPACE, *LISTED)
    values = {"mix.prob": 0.7, "train.lr": 0.05, "mixer.alpha": 0.4}
    run, plain = (config.resolve(params, "birds", "cutmix", 1, each) for each in (values, None))
    record = run.record()
    assert record["train"]["lr"] == 0.05 and record["settings"]["mix"]["prob"] == 0.7
    assert record["settings"]["mixer"]["alpha"] == 0.4
    record["train"]["lr"], record["settings"]["mix"]["prob"] = plain.train.lr, plain.settings.mix.prob
    record["settings"]["mixer"]["alpha"] = plain.settings.mixer.alpha
    assert record == plain.record()  # and nothing else is changed
    assert config.settings_of("config.json", run.record()).record() == run.record()
    assert params.methods["cutmix"].mix.prob == plain.settings.mix.prob  # the suite's own settings stay


def test_views_models_and_recipes_of_a_method_of_its_own():
    space = (
        "own: {train.lr: {low: 0.1, high: 0.9}, view.jitter: {low: 0, high: 1}, model.drop_path: {low: 0, high: 0.5}}"
    )
    own = "{overrides: {train: {lr: 0.2, epochs: 14}, view: {flip: false}}}"
    params = config.load(PARAMS, [f"methods={{own: {own}, baseline: {{}}}}", "ablation=[baseline]", "report.steps={}",
                                  "tuned_methods=[own]", f"tune.methods={{{space}}}"])  # fmt: skip
    run = config.resolve(
        params, "birds", "own", 0, {"train.lr": 0.3, "view.jitter": 0.25, "model.drop_path": 0.1, "m": 1}
    )
    assert (run.train.lr, run.train.epochs) == (0.3, 14)
    assert (run.data.view.jitter, run.data.view.flip, run.model.drop_path) == (0.25, False, 0.1)
    assert config.resolve(params, "birds", "own", 0).train.lr == 0.2


def test_only_values_of_the_space_are_taken():
    params = load(SPACE, *LISTED)
    run = config.resolve(params, "birds", "baseline", 0, {"train.lr": 0.05, "train.momentum": 0.1})
    assert run.train.lr == 0.05 and run.train.momentum == params.train.momentum
    untuned = config.resolve(params, "birds", "loc_cutmix", 0, {"train.lr": 0.05})
    assert untuned.train.lr == params.train.lr


@pytest.mark.parametrize("value", [-1.0, math.nan, "fast", None])
def test_a_tuned_value_that_is_not_allowed_is_one_line(value):
    with pytest.raises(LapmlError) as caught:
        config.resolve(load(SPACE, *LISTED), "birds", "baseline", 0, {"train.lr": value})
    said = str(caught.value)
    assert said.startswith("birds/baseline/0: ") and f"train.lr: found {value!r}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("cutmix: {mix.prob: {low: 0.1, high: 1.5}}", "mix.prob: found 1.5, expected: input should be less than or equal"),
        ("cutmix: {train.lr: {low: -0.1, high: 0.5}}", "train.lr: found -0.1, expected: input should be greater than 0"),
        ("cutmix: {train.lr: {low: 0.1}}", "train.lr.high: missing"),
        ("cutmix: {train.lr: {low: 0.1, high: 0.2, step: 2}}", "train.lr.step: unknown key"),
        ("cutmix: {train.lr: {low: 0.2, high: 0.1}}", "train.lr: found 0.2..0.1, expected low < high"),
        ("cutmix: {train.lr: 0.1}", "train.lr: found 0.1, expected"),
        ("cutmix: {}", "tune.methods.cutmix: found {}, expected"),
        ("cutmix: {mix.probe: {low: 0, high: 1}}", "mix.probe: no setting of this method that can be tuned; expected one of"),
        ("cutmix: {mix.probe: {low: 0, high: 1}}", "did you mean mix.prob?"),
        ("baseline: {mix.prob: {low: 0, high: 1}}", "tune.methods.baseline.mix.prob: no setting of this method"),
        ("cutmix: {train.gpus: {low: 1, high: 2}}", "tune.methods.cutmix.train.gpus: no setting of this method"),
        ("cutmix: {view.scale: {low: 0, high: 1}}", "tune.methods.cutmix.view.scale: no setting of this method"),
        ("cutmix: {mixer.name: {choices: [cutmix, mixup]}}", "mixer.name: no setting of this method"),
        ("cutmix: {train.epochs: {low: 4.5, high: 8}}", "train.epochs: found 4.5, expected: input should be a valid integer"),
        ("cutmix: {train.epochs: {low: 2, high: 8}}", "train.epochs: found 2, expected warm-ups and cool-downs that leave"),
        ("cutmix: {mix.warmup_epochs: {low: 1, high: 12}}", "mix.warmup_epochs: found 12, expected warm-ups"),
        ("cutmix: {train.warmup_epochs: {low: 1, high: 99}}", "warmup_epochs: found 99.0, expected less than epochs"),
        ("cutmix: {train.compile: {low: 0, high: 1}}", "train.compile: found 0, expected: input should be a valid boolean"),
        ("cutmix: {train.optimizer: {choices: [sgd, adam]}}", "train.optimizer: found 'adam', expected"),
        ("cutmix: {train.optimizer: {choices: [sgd]}}", "train.optimizer.choices: found ['sgd'], expected"),
        ("cutmix: {mix.prob: {low: 0, high: 1, quantile: true}}", "mix.prob.quantile: found true, expected false: of margin.m and"),
        ("loc_cutmix: {mixer.maps: {choices: [recent, objects]}}", "maps: found 'recent', expected one that mixes by the same"),
        ("margin: {margin.m: {low: 0, high: 1}}", "margin.m: is tuned by tune.margin already"),
        ("cutmx: {train.lr: {low: 0.1, high: 1}}", "tune.methods: found 'cutmx', expected one of"),
        ("cutmix: {train.optimizer: {choices: [sgd, adamw], log: true}}", "train.optimizer.log: unknown key; remove it"),
        ("cutmix: {train.lr: {choices: [0.1, 0.2], low: 0.1, high: 0.2}}", "train.lr.low: unknown key; remove it"),
        ("cutmix: {view.side: {low: 64, high: 96}}", "view.side: found a range, 64 to 96, between whose ends are values"),
        ("cutmix: {train.accumulate: {low: 1, high: 4}}", "train.accumulate: found a range, 1 to 4, between whose ends"),
        ("cutmix: {model.truncate: {low: 8, high: 16}}", "model.truncate: found a range, 8 to 16, between whose ends are"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_key(space, said):
    with pytest.raises(LapmlError, match=re.escape(said)) as caught:
        load(space)
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("--set tune.methods")] == lines
    assert len(lines) == (2 if "choices: [0.1, 0.2], low" in space else 1)  # each key too many has its own


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("cutmix: {train.epochs: {low: 5, high: 40}, mix.warmup_epochs: {low: 0, high: 10}}",
         "{train.epochs: 5, mix.warmup_epochs: 10}: found 5 and 10, expected warm-ups and cool-downs that leave some of the 5"),
        ("cutmix: {mix.cooldown_epochs: {low: 0, high: 12}, mix.warmup_epochs: {low: 0, high: 12}}",
         "{mix.warmup_epochs: 12, mix.cooldown_epochs: 12}: found 12 and 12, expected warm-ups"),
        ("baseline: {train.epochs: {low: 5, high: 40}, train.warmup_epochs: {low: 0, high: 8}}",
         "{train.epochs: 5, train.warmup_epochs: 8}: warmup_epochs: found 8.0, expected less than epochs (5)"),
        ("baseline: {train.batch: {choices: [18, 32]}, train.accumulate: {choices: [1, 2, 4]}}",
         "{train.batch: 18, train.accumulate: 4}: accumulate: found 4, expected parts of 2 images or more of batch (18)"),
        ("margin: {margin.every: {low: 1, high: 4}, margin.reference: {choices: [detached, joint]}}",
         "{margin.every: 4, margin.reference: joint}: margin.every: found 4, expected 1 with margin.reference 'joint'"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_each_other_are_not_drawn_together(space, said):
    more = ("train.epochs=20", "tune.epochs=20", "defaults.margin.every=1")
    with pytest.raises(LapmlError, match=re.escape(said)) as caught:
        load(space, *more)
    method = space.partition(":")[0]
    assert str(caught.value).startswith(f"--set tune.methods.{method}: one trial may have {{")
    for path in re.findall(r"\w+\.\w+(?=: \{)", space):  # each alone is as good as before
        (alone,) = re.findall(rf"{re.escape(path)}: \{{.*?\}}", space)
        load(f"{method}: {{{alone}}}", *more)


def test_values_that_fit_each_other_are_drawn_together():
    epochs = "train.epochs: {low: 12, high: 40}, mix.warmup_epochs: {low: 0, high: 5}, mix.cooldown_epochs: {low: 0, high: 6}"
    load(f"cutmix: {{{epochs}, train.warmup_epochs: {{low: 0, high: 8}}}}")
    load(
        "cutmix: {train.batch: {choices: [16, 32]}, train.accumulate: {choices: [1, 2, 4]}, view.side: {choices: [64, 96]}}"
    )


@pytest.mark.parametrize("parted", ["train.accumulate=4", "train.gpus=2"])
def test_a_batch_in_parts_has_choices_and_no_range(parted):
    space = "cutmix: {train.batch: {low: 16, high: 64}}"
    load(space)
    with pytest.raises(LapmlError, match=r"train.batch: found a range, 16 to 64, .* expected \{choices: "):
        load(space, parted)
    load("cutmix: {train.batch: {choices: [16, 32, 64]}}", parted)


@settings(max_examples=30)
@given(low=st.floats(-1, 2), width=st.floats(0.01, 2))
def test_a_range_is_read_exactly_if_its_setting_allows_both_ends(low, width):
    allowed = low >= 0 and low + width <= 1
    try:
        load(f"cutmix: {{mix.prob: {{low: {low!r}, high: {low + width!r}}}}}")
    except LapmlError:
        assert not allowed
    else:
        assert allowed


def test_whole_numbers_are_told_from_others():
    space = (
        "cutmix: {train.epochs: {low: 4, high: 9}, mix.prob: {low: 0, high: 1}, model.freeze: {low: 0, high: 3}, "
        "train.ema: {low: 0.5, high: 0.9}, train.lr: {low: 1, high: 2}, train.optimizer: {choices: [sgd, adamw]}}"
    )
    params = load(space)
    whole = {path for path in params.searched("cutmix") if is_whole(params, "birds", "cutmix", path)}
    assert whole == {"train.epochs", "model.freeze"}


def test_what_a_job_runs_on_is_not_tuned():
    assert {f"train.{name}" for name in JOB} < set(FIXED)


def test_methods_that_are_tuned_have_something_to_tune():
    with pytest.raises(
        LapmlError, match="tuned_methods: found 'cutmix', which has nothing to tune; say what in tune.methods"
    ):
        load(f"baseline: {{{LR}}}", *LISTED)
    text = ["methods={baseline: {}, mine: {mixer: {name: localized}, label: semantic, margin: {}}}", "report.steps={}",
            "ablation=[baseline]", "tuned_methods=[mine]"]  # fmt: skip
    ranges = "margin.m: {low: 0.1, high: 1}"
    with pytest.raises(LapmlError, match=re.escape("methods.mine.margin.weight: found 'tuned' without a range")):
        load(f"mine: {{{ranges}}}", *text)
    params = load(
        f"mine: {{{ranges}, margin.weight: {{low: 0.01, high: 1}}, train.lr: {{low: 0.01, high: 0.1}}}}", *text
    )
    assert params.studies() == ["mine"]
    run = config.resolve(params, "birds", "mine", 0, {"margin.m": 0.5, "margin.weight": 0.25, "train.lr": 0.02})
    assert (run.settings.margin.m, run.settings.margin.weight, run.train.lr) == (0.5, 0.25, 0.02)
    with pytest.raises(LapmlError, match="methods.mine.margin.weight is 'tuned', and there is no tuned value"):
        config.resolve(params, "birds", "mine", 0, {"margin.m": 0.5})


def test_margins_come_first_and_are_searched_with_other_settings():
    params = load(
        f"margin: {{{LR}}}, cutmix: {{{LR}}}", "ablation=[baseline]", "tuned_methods=[cutmix, adaptive_margin]"
    )
    assert params.studies() == ["margin", "adaptive_margin", "cutmix"]
    assert list(params.searched("margin")) == ["m", "weight", "train.lr"]
    assert list(params.searched("adaptive_margin")) == ["delta", "quantile"]
    one, other = (
        config.study_identity(each, "birds", "margin", {}, "d" * 64) for each in (params, config.load(PARAMS))
    )
    assert one["space"].pop("train.lr") and one["space"] == other["space"]


def test_a_data_set_may_have_ranges_of_its_own():
    own = "data.birds.overrides={tune: {methods: {baseline: {train.lr: {low: 0.01, high: 0.2}}}}}"
    params = load(SPACE, own)
    assert params.of("birds").tune.methods["baseline"]["train.lr"].high == 0.2
    assert params.tune.methods["baseline"]["train.lr"].high == 0.1
    with pytest.raises(LapmlError, match=re.escape("tune.methods.baseline.train.lr: found -1, expected")):
        load(SPACE, own.replace("0.01", "-1").replace("0.2", "0.2, log: false"))
    with pytest.raises(LapmlError, match=re.escape("tune.methods: found 'baselin', expected one of")):
        load(SPACE, own.replace("baseline", "baselin"))


def test_without_spaces_settings_and_studies_are_recorded_as_before():
    params = config.load(PARAMS)
    assert "methods" not in params.tune.recorded()
    found = config.study_identity(params, "birds", "margin", {}, "d" * 64)["space"]
    assert found == params.tune.margin.recorded()


def test_a_space_concerns_the_study_of_its_method_alone():
    plain, spaced = (stages.settings(params, "birds") for params in (config.load(PARAMS), load(SPACE)))
    assert {name for name in spaced if spaced[name] != plain.get(name)} == {"studies/baseline", "studies/cutmix"}
    wider = stages.settings(load(SPACE.replace("high: 2.0", "high: 3.0")), "birds")
    assert {name for name in spaced if spaced[name] != wider[name]} == {"studies/cutmix"}


def test_an_overlay_takes_a_space_away(tmp_path):
    (tmp_path / "one.yaml").write_text(
        f"base: {config.suites.FOLDER.resolve()}/demo.yaml\ntune: {{methods: {{{SPACE}}}}}\n"
    )
    (tmp_path / "two.yaml").write_text("base: one.yaml\ntune: {methods: {baseline: null}}\n")
    assert list(config.load(tmp_path / "two.yaml").tune.methods) == ["cutmix"]
    (tmp_path / "two.yaml").write_text("base: one.yaml\ntune: {methods: {cutmix: {train.lr: {choices: [0.1, 0.2]}}}}\n")
    with pytest.raises(LapmlError, match=re.escape("one.yaml: tune.methods.cutmix.train.lr.low: unknown key")):
        config.load(tmp_path / "two.yaml")  # sections merge: the range is there too
