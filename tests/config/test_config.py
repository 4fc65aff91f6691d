"""params.yaml: every mistake is one line that names the file, the key, what was found and what is allowed."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from lapml import config
from lapml.common.sections import Section
from lapml.config import Method, Params, Range
from lapml.config.method import MethodOverrides
from lapml.config.parts import Overrides
from lapml.errors import LapmlError

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
SUITES = [PARAMS, *sorted((ROOT / "suites").rglob("*.yaml"))]
# Every key written out in every method and data set, so that each can be changed; `defaults` has them too.
RAW = config.expanded(json.loads(json.dumps(YAML(typ="safe", pure=True).load(PARAMS.read_text()))))
VALUES = {"m": 0.5, "weight": 0.1, "delta": 0.2, "quantile": 0.5}
NAN, INF = math.nan, math.inf


def changed(key: str, value: Any) -> dict:
    raw = copy.deepcopy(RAW)
    *parents, last = key.split(".")
    where = raw
    for part in parents:
        where = where[int(part) if isinstance(where, list) else part]
    where[int(last) if isinstance(where, list) else last] = value
    return raw


def written(folder: Path, raw: Any) -> Path:
    path = folder / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(raw, file)
    return path


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(LapmlError) as caught:
        config.load(path, overrides)
    return str(caught.value)


# --- good files ---


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_suites_load_and_are_complete(path):
    """Every key is written out: nothing has a hidden default."""
    params = config.load(path)

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Section):
            if not isinstance(
                value, Method | Range | Overrides | MethodOverrides
            ):  # a row leaves out what it does not do; log is off unless asked for; an override names what differs
                assert value.model_fields_set == set(type(value).model_fields), key
            for name, part in value:
                walk(part, f"{key}.{name}")
        elif isinstance(value, dict):
            for name, part in value.items():
                walk(part, f"{key}.{name}")

    walk(params, path.name)
    for dataset in params.datasets:
        for row in params.all_methods():
            assert config.resolve(params, dataset, row, params.seeds[0], VALUES).method == row


@pytest.mark.parametrize(
    "path", [path for path in SUITES if config.load(path).eval_split == "test"], ids=lambda path: path.name
)
def test_the_rows_are_the_ablation(path):
    """A row differs from the one before it in what the table of docs/methods.md says, and in nothing else."""
    rows = config.load(path).methods
    assert rows["baseline"] == Method()
    cutmix, localised, margin, adaptive = (rows[name] for name in ("cutmix", "loc_cutmix", "margin", "adaptive_margin"))
    assert cutmix.mix == localised.mix == margin.mix == adaptive.mix
    assert (cutmix.mixer.name, cutmix.label) == ("cutmix", "area")
    assert (localised.mixer.name, localised.label) == ("localized", "semantic")
    assert localised.mixer == margin.mixer == adaptive.mixer and margin.label == adaptive.label == "semantic"
    assert cutmix.margin is localised.margin is None and margin.margin == adaptive.margin is not None
    assert margin.margin.pos_margin == 0
    assert margin.adaptive is None and adaptive.adaptive is not None


def test_a_suite_read_on_validation_trains_on_the_training_split_alone():
    params = config.load(PARAMS, ["eval_split=val"])
    run = config.resolve(params, "birds", "cutmix", 0)
    assert (run.fit, run.evaluate) == (["train"], "val")
    assert run == config.resolve(config.load(PARAMS), "birds", "cutmix", 0, development=True)


def test_a_joint_pass_embeds_every_batch():
    joint = "methods.margin.margin.reference=joint"
    config.load(PARAMS, [joint, "methods.margin.margin.every=1"])
    line = "margin.every: found 4, expected 1 with margin.reference 'joint'"
    with pytest.raises(LapmlError, match=re.escape(line)):
        config.load(PARAMS, [joint, "methods.margin.margin.every=4"])


@pytest.mark.parametrize("key, value, line", [
    ("margin.weight", "{low: 0.1, high: 0.9, quantile: true}", "weight.quantile: found true, expected false: it is no distance"),
    ("adaptive_margin.quantile", "{low: 0.1, high: 0.9, quantile: true}", "quantile.quantile: found true, expected false"),
    ("margin.m", "{low: 0.1, high: 1.2, quantile: true}", "found 0.1..1.2, expected within 0..1, and no log"),
    ("margin.m", "{low: 0.1, high: 0.9, log: true, quantile: true}", "found 0.1..0.9, expected within 0..1, and no log"),
])  # fmt: skip
def test_a_search_by_quantiles_of_distances(key, value, line):
    with pytest.raises(LapmlError, match=re.escape(line)):
        config.load(PARAMS, [f"tune.{key}={value}"])


def test_numbers_in_place_of_tuned(tmp_path):
    fixed = ["methods.margin.margin.m=1", "methods.margin.margin.weight=0.25"]
    with pytest.raises(LapmlError, match="tuned_methods: margin has no key that says 'tuned'"):
        config.load(PARAMS, fixed)
    params = config.load(
        PARAMS, [*fixed, "ablation=[baseline, cutmix, loc_cutmix, margin]", "tuned_methods=[adaptive_margin]"]
    )
    assert params.methods["margin"].margin.m == 1 and params.methods["margin"].unresolved() == []
    assert params.methods["adaptive_margin"].margin.m == "tuned"  # an anchor's copies change apart


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods.cutmix.mix.warmup_epochs=99", "methods.cutmix.mix.warmup_epochs: found 99"),
        ("tune.epochs=2", "tune.epochs: found 2, expected more than the warm-up"),
        (
            "methods.cutmix.mix.cooldown_epochs=18",
            "methods.cutmix.mix.cooldown_epochs: found 18, expected less than the 18 epochs that train.epochs (20) leaves after "
            "warmup_epochs (2): the method would never mix",
        ),
        (
            "methods.margin.mix.cooldown_epochs=17",
            "tune.epochs: found 10, expected more than the epochs that its runs do not mix "
            "(mix.warmup_epochs + mix.cooldown_epochs: 19)",
        ),
        ("tune.margin.m={low: 0.5, high: 9.0}", "m: found 0.5..9.0"),
        ("tune.adaptive_margin.quantile={low: 0.5, high: 1.0}", "quantile: found 0.5..1.0"),
    ],
)
def test_settings_that_contradict_each_other(override, message):
    with pytest.raises(LapmlError, match=re.escape(message)):
        config.load(PARAMS, ["train.epochs=20", "tune.epochs=10", override])


@pytest.mark.parametrize(
    ("key", "value", "most"),
    [
        ("methods.adaptive_margin.overrides", {"train": {"warmup_epochs": 6}}, "the warm-up of its runs (6)"),
        ("methods.margin.mix.warmup_epochs", 5, "the warm-up of its runs (5)"),  # where adaptive_margin starts
        ("methods.margin.mix.cooldown_epochs", 3, "the epochs that its runs do not mix"),
    ],
)
def test_a_study_that_would_never_warm_up_or_mix(tmp_path, key, value, most):
    own = ["tuned_methods=[adaptive_margin]", "train.epochs=20", "tune.epochs=5"]
    config.load(PARAMS, own)
    said = mistake(written(tmp_path, changed(key, value)), *own)
    assert f"tune.epochs: found 5, expected more than {most}" in said


def test_trials_whose_epochs_are_tuned_are_as_long_as_these(tmp_path):
    path = written(tmp_path, changed("methods.cutmix.overrides", {"train": {"warmup_epochs": 6}}))
    listed = ["ablation=[baseline]", "tuned_methods=[cutmix]", "train.epochs=20", "tune.epochs=5"]
    config.load(path, [*listed, "tune.methods={cutmix: {train.epochs: {low: 10, high: 20}}}"])


@pytest.mark.parametrize("override", ["methods.cutmix.mix.cooldown_epochs=17", "methods.margin.mix.cooldown_epochs=7"])
def test_a_cool_down_may_leave_one_epoch(override):
    config.load(PARAMS, ["train.epochs=20", "tune.epochs=10", override])


# --- bad values ---

BAD = [
    ("suite", "a/b"), ("suite", ""), ("suite", 3), ("datasets", []), ("datasets", ["bees"]),
    ("datasets", ["birds", "birds"]), ("datasets", "birds"), ("ablation", ["baseline", "nothing"]),
    ("ablation", ["baseline", "margin"]), ("ablation", ["cutmix", "cutmix"]), ("tuned_methods", ["cutmix"]), ("seeds", []),
    ("seeds", [0, -1]), ("seeds", [0, 0]), ("seeds", [0.5]), ("seeds", [True]), ("seeds", [2**31]), ("data", []),
    ("data.birds", None), ("data.birds.reader", "cub"), ("data.birds.source", ""), ("data.birds.source", "elsewhere"),
    ("data.birds.synthetic", None), ("data.birds.synthetic.classes", 1), ("data.birds.synthetic.classes", "12"),
    ("data.birds.synthetic.nuisance", 1.5), ("data.birds.synthetic.side", 16), ("data.birds.classes", "1-"),
    ("data.birds.min_images", 2), ("data.birds.min_images", 0),  # 2: for a folder of one's own alone
    ("data.birds.classes", 5), ("data.birds.val_fraction", 0), ("data.birds.val_fraction", 1.0),
    ("data.birds.val_fraction", NAN), ("data.birds.stored_side", 200), ("data.birds.stored_side", 96.5),
    ("data.birds.view.side", 8), ("data.birds.view.aspect", "squash"), ("data.birds.view.crop", None),
    ("data.birds.view.scale", [0.5]), ("data.birds.view.scale", [0.6, 0.5]), ("data.birds.view.scale", [0, 0.5]),
    ("data.birds.view.scale", [0.5, 1.5]), ("data.birds.view.flip", "yes"), ("data.birds.view.flip", 1),
    ("data.birds.view.augment", {"ops": 0, "magnitude": 9}), ("data.birds.view.augment", {"ops": 2, "magnitude": 31}),
    ("data.birds.view.augment", 9),
    ("data.birds.view.jitter", -0.1), ("data.birds.view.jitter", INF), ("model.name", ""), ("model.truncate", 12),
    ("model.output_stride", "16"), ("model.embedding_dim", 1), ("train.epochs", 0), ("train.epochs", 2.5),
    ("train.epochs", "16"), ("train.batch", 1), ("train.lr", 0), ("train.lr", -1.0), ("train.lr", "0.01"),
    ("train.lr", NAN), ("train.lr", INF), ("train.lr", True), ("train.lr", None), ("train.momentum", 1.0),
    ("train.weight_decay", -1e-4), ("train.warmup_epochs", 10_000), ("train.device", "gpu"),
    ("train.precision", "fp16"), ("train.threads", 0), ("methods.cutmix.mix.prob", 1.1),
    ("model.freeze", -1), ("model.freeze", 2.0), ("model.freeze", None), ("train.label_smoothing", 1.0),
    ("train.label_smoothing", -0.1), ("train.label_smoothing", NAN), ("methods.cutmix.mix.cooldown_epochs", -1),
    ("methods.cutmix.mix.cooldown_epochs", 1.5), ("methods.cutmix.mix.warmup_epochs", -1),
    ("methods.cutmix.mix", None), ("methods.cutmix.mixer.alpha", 0),
    ("methods.cutmix.mixer.name", "cutmx"), ("report.steps", {"cutmix": "nomix"}), ("methods.cutmix.mixer", {"alpha": 1.0}),
    ("methods.cutmix.label", "semantic"), ("methods.cutmix.label", "mass"),
    ("methods.loc_cutmix.mixer.area", [0.5, 0.1]), ("methods.loc_cutmix.mixer.area", [0.0, 0.5]),
    ("methods.loc_cutmix.mixer.temperature", 0), ("methods.loc_cutmix.mixer.support", 1.01),
    ("train.nodes", 0), ("train.nodes", 2),
    ("eval_split", "train"), ("train.gpus", 0), ("train.batch_norm", "none"), ("methods.margin.margin.every", 0),
    ("methods.loc_cutmix.mixer.maps", "old"), ("methods.loc_cutmix.mixer", None), ("methods.margin.margin.m", 2.5),
    ("methods.margin.margin.m", -0.1), ("methods.margin.margin.m", "tune"), ("methods.margin.margin.m", NAN),
    ("methods.margin.margin.weight", -1.0), ("methods.margin.margin.pos_margin", 2.5),
    ("methods.margin.margin.scale", "shared"), ("methods.margin.margin.reference", "ema"),
    ("methods.adaptive_margin.adaptive.delta", 2.5), ("methods.adaptive_margin.adaptive.quantile", 1.0),
    ("methods.adaptive_margin.margin", None), ("tune.trials", 0), ("tune.seeds", []),
    ("tune.margin.m", {"low": 1.0, "high": 0.5}), ("tune.margin.weight", {"low": 0.0, "high": 1.0, "log": True}),
    ("data.birds.labels", "variant"), ("data.birds.labels", "make"), ("data.birds.reader", "aircraft"),
    ("data.birds.val_fraction", "official"), ("data.birds.val_fraction", "half"), ("data.birds.source", []),
    ("data.birds.overrides", None),
    ("train.milestones", [5, 5]), ("train.milestones", [9, 5]), ("train.milestones", [0]), ("train.milestones", [20]),
    ("train.milestones", [1]), ("train.milestones", 5), ("report.beside", 5),
    ("report.beside", [{"dataset": "bees", "method": "x", "top1": 50.0, "source": "y"}]),
    ("tune.margin.m", {"low": 0.5}), ("report.confidence", 1.0), ("report.bootstrap", 10), ("report.images", "no"),
]  # fmt: skip


@pytest.mark.parametrize("key, value", BAD, ids=[f"{key}={value!r}" for key, value in BAD])
def test_a_bad_value(tmp_path, key, value):
    path = written(tmp_path, changed(key, value))
    said = mistake(path)
    assert len(said.splitlines()) == 1, "one mistake, one line"
    assert said.startswith(f"{path}: ")
    section = key.rpartition(".")[0]
    if value is None and key.count(".") > 1 or isinstance(value, dict):
        assert section in said or key in said  # what is wrong is a section that others need, or a key below it
    elif key in said:
        assert said.startswith(f"{path}: {key}") or key in ("tuned_methods", "datasets", "ablation")
    else:  # a rule between keys of one section: the section, then the key
        assert said.startswith(f"{path}: {section}: ") and key.rpartition(".")[2] in said
    assert "expected" in said or "missing" in said or "need" in said or "give" in said


@pytest.mark.parametrize("key, value, found", [
    ("train.lr", -1.0, "-1.0"), ("train.device", "gpu", "'gpu'"), ("data.birds.view.scale", [0.6, 0.5], "[0.6, 0.5]"),
    ("methods.cutmix.mixer.alpha", 0, "0"), ("methods.margin.margin.m", 2.5, "2.5"), ("train.epochs", "16", "'16'"),
    ("ablation", ["baseline", "nothing"], "'nothing'"), ("train.lr", NAN, "nan"),
    ("methods.adaptive_margin.adaptive.quantile", 1.0, "1.0"),
])  # fmt: skip
def test_the_line_says_what_was_found_and_what_is_allowed(tmp_path, key, value, found):
    said = mistake(written(tmp_path, changed(key, value)))
    assert f"found {found}" in said and "expected" in said
    assert all(strange not in said for strange in ("constrained", "literal[", "function-", "tagged-union")), said


@pytest.mark.parametrize("key", ["train.lr", "model.truncate", "report", "defaults.margin.pos_margin",
                                 "defaults.mix.prob"])  # fmt: skip
def test_a_missing_key(tmp_path, key):
    raw = copy.deepcopy(RAW)
    *parents, last = key.split(".")
    where = raw
    for part in parents:
        where = where[part]
    del where[last]
    path = written(tmp_path, raw)
    overlay = ", or start with `base:` and the file to change" if key == "report" else ""
    assert mistake(path) == f"{path}: {key}: missing; add it{overlay}"


@pytest.mark.parametrize("key", ["trian", "train.learning_rate", "data.birds.view.rotate", "methods.margin.margin.n",
                                 "methods.cutmix.mixer.support"])  # fmt: skip
def test_an_unknown_key(tmp_path, key):
    path = written(tmp_path, changed(key, 1))
    meant = {"trian": "did you mean train?"}.get(key, "remove it or correct its spelling")
    assert mistake(path) == f"{path}: {key}: unknown key; {meant}"


def test_two_mistakes_are_two_lines(tmp_path):
    raw = changed("train.lr", -1.0)
    raw["model"]["truncate"] = 5
    lines = mistake(written(tmp_path, raw)).splitlines()
    assert len(lines) == 2 and "model.truncate" in lines[0] and "train.lr" in lines[1]


# --- bad files ---


@pytest.mark.parametrize("content", ["", "[1, 2]", "just text", "null", "3", "- a\n- b"])
def test_a_file_that_is_no_mapping(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    assert "expected a mapping of sections" in mistake(path)


@pytest.mark.parametrize("content", [
    b"a: [1", b"a: 1\na: 2", b"\xff\xfe\xfa", b"a: *nowhere", b"a: !!python/object:os.system x", b"a:\t- 1", b"'",
    b"suite: 2020-13-45", b"suite: !!int twelve", b"a: &a [*a]", b"a: &a {b: *a}", b"2020-01-01: x", b"? [a, b]\n: c",
    b"suite: !!binary '*'", b"suite: !!timestamp x", b"!!set {a, b}", b"\x00", b"a: " + b"9" * 5000,
])  # fmt: skip
def test_a_file_that_is_no_yaml_or_no_plain_yaml(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert str(path) in mistake(path)


def test_no_file(tmp_path):
    assert "no such file" in mistake(tmp_path / "params.yaml")
    assert str(tmp_path) in mistake(tmp_path)  # a folder


KEYS = [f"{key}" for key, _ in BAD] + ["methods", "train", "model", "tune", "report", "methods.baseline"]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
)


@given(st.lists(st.tuples(st.sampled_from(KEYS), ANYTHING), min_size=1, max_size=3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_load_raises_nothing_else(tmp_path, changes):
    raw = copy.deepcopy(RAW)
    for key, value in changes:
        *parents, last = key.split(".")
        where = raw
        for part in parents:
            where = where.get(part) if isinstance(where, dict) else None
        if isinstance(where, dict):
            where[last] = value
    try:
        path = written(tmp_path, raw)
    except Exception:  # the writer's own limits
        return
    try:
        assert isinstance(config.load(path), Params)
    except LapmlError as error:
        assert str(path) in str(error)


@given(st.integers(0, 10_000), st.integers(0, 60), st.text(alphabet="[]{}:,&*!|>'\"#%@-? \n\tab0.1é", max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_load_raises_nothing_else_on_broken_text(tmp_path, start, length, put):
    text = (ROOT / "params.yaml").read_text()
    start %= len(text)
    path = tmp_path / "params.yaml"
    path.write_text(text[:start] + put + text[start + length :])
    try:
        config.load(path)
    except LapmlError as error:
        assert str(path) in str(error)


# --- overrides ---


def test_overrides():
    params = config.load(PARAMS, ["train.lr=0.5", "seeds=[4, 5]", "model.truncate=null", "train.lr=0.25"])
    assert params.train.lr == 0.25 and params.seeds == [4, 5] and params.model.truncate is None


@pytest.mark.parametrize("override", ["train.lr", "train.rl=1", "=1", "", "nothing.lr=1", "train.lr.x=1", "seeds.0=1",
                                      "train.lr=[1", "train.lr=!!int x", "suite=2020-13-45",
                                      "train={a: 1, a: 2}"])  # fmt: skip
def test_a_bad_override(override):
    said = mistake(PARAMS, override)
    assert f"--set {override}" in said and len(said.splitlines()) == 1


def test_an_override_below_a_key_that_holds_dots():
    space = "tune.methods={cutmix: {train.lr: {low: 0.01, high: 0.1}, mix.prob: {low: 0.2, high: 1.0}}}"
    params = config.load(PARAMS, [space, "tune.methods.cutmix.train.lr.low=0.02"])
    assert params.tune.methods["cutmix"]["train.lr"] == Range(low=0.02, high=0.1)
    params = config.load(PARAMS, [space, "tune.methods.cutmix.train.lr={low: 0.03, high: 0.1}"])
    assert params.tune.methods["cutmix"]["train.lr"].low == 0.03
    assert "did you mean tune.methods.cutmix.train.lr.low?" in mistake(
        PARAMS, space, "tune.methods.cutmix.train.lr.lwo=1"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lr=-2", "--set train.lr: found -2, expected"),
        ("defaults.mix.prob=2", "--set defaults.mix.prob: found 2, expected"),
        ("methods.cutmix.mix.prob=2", "--set methods.cutmix.mix.prob: found 2, expected"),
        ("report.primary=[[baseline, cutmx]]", "--set report.primary: found 'cutmx', expected"),
        ("seeds=[0, -1]", "--set seeds.1: found -1, expected"),
        ("tune.margin.m={low: 1.0}", "--set tune.margin.m.high: missing"),
        ("data.birds.overrides.train.epoch=5", "--set data.birds.overrides.train.epoch: unknown key"),
    ],
)
def test_an_override_with_a_bad_value(override, said):
    assert [line.startswith(said) for line in mistake(PARAMS, override).splitlines()] == [True]


def test_a_mistake_of_the_file_beside_an_override(tmp_path):
    path = written(tmp_path, changed("train.lr", -1.0))
    lines = mistake(path, "train.momentum=2").splitlines()
    assert [line.partition(" found")[0] for line in lines] == [f"{path}: train.lr:", "--set train.momentum:"]


def test_an_override_adds_what_its_section_may_have():
    """Keys of `overrides`, of a custom mixer and of a custom loss are in the file only if they differ."""
    own = ["methods.baseline.overrides.train.lr=0.02", "methods.baseline.overrides.view.flip=false"]
    params = config.load(PARAMS, [*own, "data.birds.overrides.train.momentum=0.8"])
    run = config.resolve(params, "birds", "baseline", 0)
    assert (run.train.lr, run.train.momentum, run.data.view.flip) == (0.02, 0.8, False)
    for wrong in ("bees.overrides.train.lr=1", "birds.override.train.lr=1", "birds.overrides.train.epoch=1"):
        with pytest.raises(LapmlError, match=re.escape(f"data.{wrong.partition('=')[0]}")):
            config.load(PARAMS, [f"data.{wrong}"])


# --- what differs for one data set ---


def test_overrides_of_a_data_set():
    """Two data sets; one trains longer, in another model, and tunes less."""
    raw = copy.deepcopy(RAW)
    raw["data"]["bees"] = copy.deepcopy(raw["data"]["birds"])
    raw["data"]["bees"]["overrides"] = {
        "train": {"epochs": 90, "lr": 1},
        "model": {"truncate": 16},
        "tune": {"trials": 2},
    }
    raw["datasets"] = ["birds", "bees"]
    params = Params.model_validate(config.expanded(json.loads(json.dumps(raw))))
    own, other = params.of("bees"), params.of("birds")
    assert other is params
    assert (own.train.epochs, own.train.lr, own.model.truncate, own.tune.trials) == (90, 1.0, 16, 2)
    assert own.train.batch == params.train.batch and own.tune.margin == params.tune.margin
    assert own.of("bees") == own  # twice is once
    run = config.resolve(params, "bees", "margin", 0, VALUES)
    assert (run.train.epochs, run.model.truncate) == (90, 16)
    assert "overrides" not in run.record()["data"]
    assert config.resolve(params, "birds", "margin", 0, VALUES).train.epochs == params.train.epochs
    studies = [config.study_identity(params, name, "margin", {}, "d") for name in ("birds", "bees")]
    assert "trials" not in studies[0]  # more of them go on with the study
    assert studies[1]["run"]["model"]["truncate"] == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train": {"rate": 1}}, "data.birds.overrides.train.rate: unknown key; remove it or correct its spelling"),
        ({"tune": {"margin": {"n": 1}}}, "data.birds.overrides.tune.margin.n: unknown key"),
        ({"train": {"head_lr": 5}}, "data.birds.overrides.train.head_lr: was renamed; write head_lr_mult instead"),
        ({"train": {"lr": -1.0}}, "data.birds.overrides.train.lr: found -1.0, expected"),
        ({"train": {"epochs": 1}}, "data.birds.overrides.train: warmup_epochs: found 1"),
        ({"model": {"truncate": 12}}, "data.birds.overrides.model.truncate: found 12, expected"),
        ({"train": {"epochs": 2}}, "mix.warmup_epochs: found 2, expected less than train.epochs for birds (2)"),
        ({"tune": {"epochs": 2}}, "tune.epochs: found 2 for birds, expected more than the warm-up"),
        ({"tune": {"margin": {"m": {"low": 2.0, "high": 1.0}}}}, "data.birds.overrides.tune.margin"),
        ({"view": {"side": 32}}, "data.birds.overrides.view: unknown key"),
        ({"train": 3}, "data.birds.overrides.train: found 3"),
    ],
)
def test_bad_overrides_of_a_data_set(tmp_path, overrides, message):
    assert message in mistake(written(tmp_path, changed("data.birds.overrides", overrides)))


def test_an_override_may_go_deep():
    params = config.load(PARAMS, ["data.birds.overrides={tune: {margin: {m: {low: 0.5}}}}"])
    own = params.of("birds").tune
    assert (
        own.margin.m == Range(low=0.5, high=params.tune.margin.m.high)
        and own.margin.weight == params.tune.margin.weight
    )


def test_overrides_of_a_row():
    raw = copy.deepcopy(RAW)
    raw["methods"]["long"] = {"overrides": {"train": {"epochs": 99, "lr": 0.5}, "view": {"scale": [0.2, 0.9]}}}
    raw["methods"]["projected"] = {"overrides": {"model": {"embedding_dim": 16}}}
    raw["data"]["birds"]["overrides"] = {"train": {"lr": 0.25, "batch": 8}}
    raw["ablation"] += ["long", "projected"]
    params = Params.model_validate(config.expanded(raw))
    long, projected, base = (
        config.resolve(params, "birds", row, 0).record() for row in ("long", "projected", "baseline")
    )
    assert (long["train"]["epochs"], long["train"]["lr"], long["train"]["batch"]) == (99, 0.5, 8)  # the row's come last
    assert long["data"]["view"] == {**base["data"]["view"], "scale": [0.2, 0.9]}
    assert projected == {**base, "method": "projected", "model": {**base["model"], "embedding_dim": 16}}
    assert base["train"]["lr"] == 0.25 and "overrides" not in base["settings"]


def test_any_mixing_row_may_have_a_margin_and_one_that_finds_parts_a_band(tmp_path):
    margin = copy.deepcopy(RAW["methods"]["margin"]["margin"]) | {"m": 0.5, "weight": 0.1}
    raw = changed("methods.cutmix.margin", margin)
    assert config.load(written(tmp_path, raw)).methods["cutmix"].margin.m == 0.5
    raw["methods"]["cutmix"]["adaptive"] = {"delta": 0.1, "quantile": 0.5}
    assert "methods.cutmix: adaptive: needs mixer.name 'localized'" in mistake(written(tmp_path, raw))
    raw = changed("methods.baseline.margin", margin)
    assert "methods.baseline: margin: needs a mixer that shows something of a donor" in mistake(written(tmp_path, raw))
    assert "methods.cutout: margin: needs" in mistake(written(tmp_path, changed("methods.cutout.margin", margin)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train": {"rate": 1}}, "methods.cutmix.overrides.train.rate: unknown key; remove it or correct its spelling"),
        ({"train": {"threads": 2}}, "methods.cutmix.overrides.train.threads: unknown key; what a job runs on"),
        ({"train": {"gpus": 2}}, "methods.cutmix.overrides.train.gpus: unknown key"),
        ({"train": {"nodes": 2}}, "methods.cutmix.overrides.train.nodes: unknown key"),
        ({"train": {"lr": -1.0}}, "methods.cutmix.overrides.train.lr: found -1.0, expected"),
        ({"view": {"scale": [0.9, 0.1]}}, "methods.cutmix.overrides.view: scale: found [0.9, 0.1]"),
        ({"view": {"side": 16}}, "methods.cutmix.overrides.view: birds: stored_side: found"),
        ({"model": {"truncate": 12}}, "methods.cutmix.overrides.model.truncate: found 12, expected"),
        ({"tune": {"trials": 1}}, "methods.cutmix.overrides.tune: unknown key"),
        ({"train": {"epochs": 2}}, "methods.cutmix.mix.warmup_epochs: found"),
        ({"train": {"label_smoothing": 2}}, "methods.cutmix.overrides.train.label_smoothing: found 2, expected"),
    ],
)
def test_bad_overrides_of_a_row(tmp_path, overrides, message):
    assert message in mistake(written(tmp_path, changed("methods.cutmix.overrides", overrides)))


def test_overrides_of_a_data_set_that_is_not_run_are_checked_too(tmp_path):
    raw = copy.deepcopy(RAW)
    raw["data"]["bees"] = {**raw["data"]["birds"], "overrides": {"train": {"lr": -1.0}}}
    assert "data.bees.overrides.train.lr: found -1.0" in mistake(written(tmp_path, raw))


@given(epochs=st.integers(2, 300), warmup=st.integers(0, 10), data=st.data(), shorter=st.integers(1, 300))
def test_a_shortened_schedule_is_one_that_may_be(epochs, warmup, data, shorter):
    warmup = min(warmup, epochs - 1)
    between = range(warmup + 1, epochs)
    milestones = sorted(data.draw(st.sets(st.sampled_from(between), max_size=4))) if between else []
    train = config.load(PARAMS).train.model_dump() | {"epochs": epochs, "warmup_epochs": float(warmup)}
    short = config.Train.model_validate(train | {"milestones": milestones}).shortened(max(shorter, warmup + 1))
    assert config.Train.model_validate(short.model_dump()) == short


def test_milestones_keep_their_place_in_a_shorter_run():
    whole = config.load(PARAMS, ["train.epochs=200", "train.milestones=[80, 150, 180]"]).train
    assert whole.shortened(100).milestones == [40, 75, 90] and whole.shortened(100).epochs == 100
    assert whole.shortened(2).milestones == []  # 1 is the end of the warm-up
    assert config.load(PARAMS, ["train.epochs=20", "train.milestones=[2, 15]"]).train.shortened(5).milestones == [4]
    assert config.load(PARAMS).train.shortened(5).milestones is None


# --- resolve ---


def test_resolve():
    params = config.load(PARAMS)
    run = config.resolve(params, "birds", "adaptive_margin", 2, VALUES)
    assert run.settings.margin.m == 0.5 and run.settings.margin.weight == 0.1
    assert run.settings.adaptive.delta == 0.2 and run.settings.adaptive.quantile == 0.5
    assert run.settings.unresolved() == []
    assert (run.fit, run.evaluate, run.seed) == (["train", "val"], "test", 2)
    early = config.resolve(params, "birds", "adaptive_margin", 2, VALUES, development=True)
    assert (early.fit, early.evaluate) == (["train"], "val")
    assert params.methods["adaptive_margin"].margin.m == "tuned"  # the suite's own settings stay
    assert config.resolve(params, "birds", "baseline", 0).settings == Method()


def test_a_number_is_not_replaced_by_a_tuned_value():
    params = config.load(PARAMS, ["methods.margin.margin.m=0.75"])
    run = config.resolve(params, "birds", "margin", 0, VALUES)
    assert run.settings.margin.m == 0.75 and run.settings.margin.weight == 0.1


def test_resolve_refuses():
    params = config.load(PARAMS)
    for arguments, said in (
        (("bees", "margin", 0, VALUES), "unknown data set 'bees': expected one of birds"),
        (("birds", "nomix", 0, VALUES), "unknown method 'nomix': expected one of baseline, mixup"),
        (
            ("birds", "margin", 0),
            "methods.margin.margin.m is 'tuned', and there is no tuned value: run `lapml tune birds`",
        ),
        (
            ("birds", "adaptive_margin", 0, {"m": 0.5, "weight": 0.1}),
            "methods.adaptive_margin.adaptive.delta is 'tuned'",
        ),
    ):
        with pytest.raises(LapmlError, match=said.replace("`", ".")):
            config.resolve(params, *arguments)


@pytest.mark.parametrize(
    "name, value", [("m", 2.5), ("m", NAN), ("weight", -1.0), ("quantile", 1.0), ("delta", "wide"), ("m", "tuned")]
)
def test_resolve_refuses_tuned_values_out_of_range(name, value):
    with pytest.raises(LapmlError) as caught:
        config.resolve(config.load(PARAMS), "birds", "adaptive_margin", 0, {**VALUES, name: value})
    said = str(caught.value)
    assert said.startswith("birds/adaptive_margin/0: ") and f".{name}: found {value!r}" in said
    assert len(said.splitlines()) == 1


def test_record_is_json_without_the_source():
    run = config.resolve(config.load(PARAMS), "birds", "margin", 0, VALUES)
    record = json.loads(json.dumps(run.record(), allow_nan=False))
    assert "source" not in record["data"] and record["settings"]["margin"]["m"] == 0.5
    moved = config.resolve(
        config.load(PARAMS, ["data.birds.source=x", "data.birds.synthetic=null"]), "birds", "margin", 0, VALUES
    )
    assert moved.record()["data"] == record["data"] | {"synthetic": None}
    other = config.resolve(config.load(PARAMS, ["train.lr=0.02"]), "birds", "margin", 0, VALUES)
    names = {config.digest(each.record()) for each in (run, other)}
    assert len(names) == 2 and config.digest(run.record()) in names


def test_the_schema_knows_what_the_readers_have():
    from typing import get_args

    from lapml.config import parts
    from lapml.data.readers import reader

    names = get_args(parts.Data.model_fields["reader"].annotation)
    published = {name: reader(name).PUBLISHED for name in names}
    with_val = {name for name, levels in published.items() if any("val" in counts.splits for counts in levels.values())}
    assert with_val | {"folder"} == set(parts.OFFICIAL_VAL)
    for name, levels in published.items():
        assert set(levels) <= set(parts.LABELS.get(name, (None,)))
    levels, folders, _ = map(get_args, get_args(parts.Data.model_fields["labels"].annotation))
    assert levels == reader("aircraft").LEVELS == parts.LABELS["aircraft"]
    assert (None, *folders) == parts.LABELS["folder"]


def test_what_always_mixes_has_no_cool_down():
    """Benchmarks, pictures and smoke runs mix to their end."""
    params = config.load(PARAMS, ["methods.cutmix.mix.cooldown_epochs=3"])
    mix = params.methods["cutmix"].always_mixing(after=1).mix
    assert (mix.prob, mix.warmup_epochs, mix.cooldown_epochs) == (1.0, 1, 0)
    assert [mix.at_work(epoch, 2) for epoch in range(2)] == [False, True]


def test_keys_at_their_defaults_are_not_in_a_record():
    """So records of before they were there are of the same runs."""
    record = config.resolve(config.load(PARAMS, ["model.freeze=0"]), "birds", "cutmix", 0).record()
    changed = ["model.freeze=2", "train.label_smoothing=0.1", "methods.cutmix.mix.cooldown_epochs=3"]
    new = config.resolve(config.load(PARAMS, changed), "birds", "cutmix", 0).record()
    assert new["model"].pop("freeze") == 2 and new["train"].pop("label_smoothing") == 0.1
    assert new["settings"]["mix"].pop("cooldown_epochs") == 3
    assert new == record


# --- what data sets never have ---

FOLDER = ["data.birds.reader=folder", "data.birds.source=photos", "data.birds.synthetic=null"]


def test_boxes_that_a_data_set_never_has_are_asked_for_before_anything_runs():
    given = [*FOLDER, "ablation=[baseline, loc_cutmix_oracle, cutmix]"]
    with pytest.raises(LapmlError) as caught:
        config.load(PARAMS, given)
    said = str(caught.value)
    assert "loc_cutmix_oracle" in said and "data set birds (reader folder) has none" in said
    assert said.endswith("write ablation: [baseline, cutmix]")
    config.load(PARAMS, [*given, "ablation=[baseline, cutmix]"])  # which is right
    config.load(PARAMS, given[3:])  # the birds have boxes


def test_a_method_outside_the_tables_is_refused_where_it_is_run():
    params = config.load(PARAMS, FOLDER)
    with pytest.raises(LapmlError, match="loc_cutmix_oracle: every image needs a box for it, and data set birds"):
        config.resolve(params, "birds", "loc_cutmix_oracle", 0)
    config.resolve(params, "birds", "loc_cutmix", 0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("methods.snapmix.mix.warmup_epochs=12", "warmup_epochs: found 12, expected less than train.epochs (12)"),
        (
            "methods.snapmix.mix.cooldown_epochs=10",
            "cooldown_epochs: found 10, expected less than the 10 epochs that train",
        ),
    ],
)
def test_a_method_outside_the_tables_that_would_never_mix_is_refused_where_it_is_run(override, said):
    params = config.load(PARAMS, ["ablation=[baseline]", "train.epochs=12", override])
    with pytest.raises(LapmlError) as caught:
        config.resolve(params, "birds", "snapmix", 0)
    assert str(caught.value).startswith(f"birds/snapmix/0: methods.snapmix.mix.{said}")
    record = config.resolve(params, "birds", "cutmix", 0).record()
    record["settings"]["mix"]["warmup_epochs"] = 12
    assert config.settings_of("config.json", record).settings.mix.warmup_epochs == 12  # old records are read


def test_mix_without_a_mixer(tmp_path):
    path = written(tmp_path, changed("methods.own", {"mix": {"prob": 1.0}}))
    said = "mix and mixer go together: give both, or none for a method that does not mix"
    assert mistake(path) == f"{path}: methods.own: {said}"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.epoch", "epochs"),
        ("methods.cutmix.lable", "label"),
        ("methods.baseline.margn", "margin"),  # which other methods have
        ("data.birds.view.crops", "crop"),
        ("defaults.mix.propb", "prob"),
    ],
)
def test_a_misspelt_key(tmp_path, key, meant):
    path = written(tmp_path, changed(key, 1))
    assert f"{path}: {key}: unknown key; did you mean {meant}?" in mistake(path).splitlines()


def test_a_key_misspelt_where_it_stood(tmp_path):
    raw = copy.deepcopy(RAW)
    raw["train"]["milestons"] = raw["train"].pop("milestones")
    path = written(tmp_path, raw)
    assert f"{path}: train.milestons: unknown key; did you mean milestones?" in mistake(path).splitlines()
