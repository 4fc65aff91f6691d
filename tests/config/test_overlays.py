"""Suites as overlays over suites/base.yaml, what data sets and methods share, and what each stage resolves to."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from lapml import config
from lapml.analysis.headline import developed
from lapml.config import overlays, stages, suites
from lapml.config.reading import override_in
from lapml.errors import LapmlError
from lapml.files import write_json
from lapml.paths import Paths

ROOT = Path(__file__).parents[2]
BASE = ROOT / "suites/base.yaml"
NAMES = sorted(path.stem for path in (ROOT / "suites").glob("*.yaml") if path != BASE)


def plain(text: str) -> dict:
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def overlay(tmp_path):
    """overlay("train: {lr: 0.5}") → the file of an overlay over the real base; further ones lie one over the other."""

    def made(*texts: str) -> Path:
        base = BASE
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.yaml"
            path.write_text(f"base: {base if base == BASE else base.name}\n{text}\n", encoding="utf-8")
            base = path
        return base

    return made


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(LapmlError) as caught:
        config.load(path, overrides)
    return str(caught.value)


def test_what_is_read_is_ones_own(overlay):
    """The same text is parsed once: what one reader does to its settings, the next does not see; a new text it does."""
    path = overlay("train: {lr: 0.5}")
    overlays.read(path)["train"]["lr"] = 9
    assert overlays.read(path)["train"] == {"lr": 0.5}
    overlay("train: {lr: 0.6}")
    assert overlays.read(path)["train"] == {"lr": 0.6}


# --- the merger ---


def test_sections_merge_key_by_key_and_lists_replace(overlay):
    params, base = config.load(overlay("train: {lr: 0.5}\nseeds: [7]")), config.load(BASE)
    assert params.train == base.train.model_copy(update={"lr": 0.5}) and params.seeds == [7]


def test_null_clears_a_value_a_section_and_an_entry(overlay):
    path = overlay(
        "model: {truncate: null}\ndata: {birds: null, mine: {reader: folder, source: photos}}\ndatasets: [mine]\n"
        "methods: {cutout: null}\nreport: {steps: {cutout: null}}"
    )
    params = config.load(path)
    assert params.model.truncate is None and list(params.data) == ["mine"] and "cutout" not in params.methods
    assert "cutout" not in params.report.steps and params.data["mine"].synthetic is None


DEVELOPED = "data: {birds: {classes: 1-8}}\nreport: {developed_on: {birds: 2-3}}"


@pytest.mark.parametrize(
    "text",
    ["report: {developed_on: {birds: null}}", "data: {mine: {reader: folder, source: photos}}\ndatasets: [mine]"],
)
def test_classes_that_something_was_developed_on_are_cleared_or_of_no_concern(overlay, text):
    assert developed(config.load(overlay(DEVELOPED))) == {"birds": "2-3"}
    assert developed(config.load(overlay(DEVELOPED, text))) == {}


def test_classes_that_something_was_developed_on_are_of_a_data_set_that_is_there(overlay):
    mine = "data: {birds: null, mine: {reader: folder, source: photos}}\ndatasets: [mine]"
    path = overlay(DEVELOPED, mine)
    said = f"{path}: report.developed_on: found 'birds', expected one of mine; null clears an entry"
    assert mistake(path) == said
    config.load(overlay(DEVELOPED, f"{mine}\nreport: {{developed_on: {{birds: null}}}}"))


@pytest.mark.parametrize("recipe", sorted((ROOT / "suites/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_others_takes_ones_own_data(recipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"base: {recipe}\nsuite: mine\ndatasets: [mine]\ndata: {{mine: {{reader: folder, source: photos}}}}\n"
    )
    assert developed(config.load(path)) == {} and config.load(path).datasets == ["mine"]


def test_a_mixer_of_another_name_replaces_the_whole_section(overlay):
    params = config.load(overlay("methods: {cutmix_semantic: {mixer: {name: mixup}, label: null}}"))
    assert params.methods["cutmix_semantic"].mixer.model_dump() == {"name": "mixup", "alpha": 1.0}  # no `maps` is left
    same = config.load(overlay("methods: {cutmix_semantic: {mixer: {name: cutmix, alpha: 0.5}}}"))
    assert same.methods["cutmix_semantic"].mixer.recorded() == {"name": "cutmix", "alpha": 0.5, "maps": "objects"}


def test_a_model_of_another_name_keeps_the_rest(overlay):
    assert config.load(overlay("model: {name: resnet18}")).model.weights == "pypi"


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-03", ".001", "0.001"])
def test_numbers_read_as_numbers(overlay, number):
    path = overlay(f"train: {{lr: {number}}}")
    assert config.load(path).train.lr == 0.001
    assert config.load(BASE, [f"train.lr={number}"]).train.lr == 0.001
    assert plain(overlays.composed(path))["train"]["lr"] == 0.001


def test_overlays_lie_one_over_the_other(overlay):
    params = config.load(overlay("train: {lr: 0.5, epochs: 9}\ntune: {epochs: 9}", "train: {lr: 0.25}"))
    assert (params.train.lr, params.train.epochs) == (0.25, 9)


@given(
    st.recursive(
        st.integers() | st.lists(st.integers(), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    ),
    st.recursive(
        st.integers() | st.lists(st.integers(), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    ),
)
def test_merging_twice_is_merging_once_and_what_is_not_named_stays(base, changes):
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return
    once = copy.deepcopy(base)
    overlays.merge(once, changes)
    again = copy.deepcopy(once)
    overlays.merge(again, changes)
    assert again == once
    for key in base.keys() - changes.keys():
        assert once[key] == base[key]
    for key, value in changes.items():
        if not isinstance(value, dict):
            assert once[key] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trian: {lr: 1}", "trian: unknown key"),
        ("train: {learning_rate: 1}", "train.learning_rate: unknown key"),
        ("defaults: {mixers: {cutmix: {bta: 1.0}}}", "defaults.mixers.cutmix.bta: unknown key"),
        (
            "defaults: {mixers: {my.stripes: {number: 1}}}",
            "defaults.mixers: found 'my.stripes', a custom mixer has",
        ),
        ("defaults: {mix: {prob: 2}}", "defaults.mix.prob: found 2"),
        ("defaults: {data: {view: {rotate: 1}}}", "defaults.data.view.rotate: unknown key"),
        ("methods: {loc_cutmix: {mixer: {bta: 1.0}}}", "methods.loc_cutmix.mixer.bta: unknown key"),
        ("train: {lr: null}", "train.lr: found None"),
        ("ablation: [baseline, cutmx]", "ablation: found 'cutmx'"),
        ("defaults: 3", "defaults: found 3"),
    ],
)
def test_a_mistake_names_the_file_and_the_key_that_was_written(overlay, text, said):
    path = overlay(text)
    lines = mistake(path).splitlines()
    assert lines[0].startswith(f"{path}: {said}") and len(lines) == 1, lines


def test_a_mistake_of_a_lower_layer_names_that_file(overlay):
    top = overlay("train: {lr: -1}", "seeds: [1]")
    assert mistake(top).startswith(f"{top.parent / '0.yaml'}: train.lr: found -1")


def test_bad_bases(tmp_path):
    path = tmp_path / "a.yaml"
    for text, said in (
        ("base: nowhere.yaml", f"a.yaml: base: found no file {tmp_path / 'nowhere.yaml'}"),
        ("base: a.yaml", "base: found 'a.yaml', which is itself based on this file"),
        ("base: 3", "base: found 3, expected a file such as base.yaml"),
        ("base: b.yaml", "base: found 'a.yaml', which is itself based on this file"),
        ("train: {lr: 1}", "datasets: missing; add it, or start with `base:` and the file to change"),
    ):
        path.write_text(text)
        (tmp_path / "b.yaml").write_text("base: a.yaml")
        assert said in mistake(path)


# --- suites and params.yaml ---


def test_params_yaml_is_the_demo_composed():
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == overlays.composed(ROOT / "suites/demo.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_a_composed_suite_is_complete_has_no_anchor_and_says_the_same(name, tmp_path):
    text = overlays.composed(ROOT / f"suites/{name}.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert config.load(path) == config.load(ROOT / f"suites/{name}.yaml")
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    assert not {"&", "*", "<<"} & {word[0] if word[0] in "&*" else word for word in code.split()}
    assert "base" not in plain(text) and text.startswith("# ")
    assert plain(text).keys() == plain(BASE.read_text(encoding="utf-8")).keys()  # no section is left out


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_holds_only_what_differs(name):
    path = ROOT / f"suites/{name}.yaml"
    [(_, own), *lower] = overlays.layers(path)
    below = overlays.merged(lower)

    def walk(value, base, key):
        for part, each in value.items():
            there = base.get(part) if isinstance(base, dict) else None
            if isinstance(each, dict) and isinstance(there, dict):
                walk(each, there, f"{key}{part}.")
            else:
                assert each is None or each != there, f"{key}{part} says what {lower[0][0].name} says"

    walk(own, below, "")
    assert own["suite"] == name
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 90


def test_what_an_anchor_shares_is_changed_in_one_place(tmp_path):
    text = BASE.read_text(encoding="utf-8")
    for old, new in (
        ("  cutmix: {mixer: {name: cutmix}, label: area}\n",
         "  cutmix: &c\n    mixer: &m {name: cutmix}\n    label: &l area\n    mix: {prob: 0.5}\n"
         "  twin: *c\n  merged:\n    <<: *c\n    mixer: *m\n"),
        ("seeds: [0, 1, 2]", "seeds: [0, &one 1, 2]"),
        ("trials: 5 ", "trials: *one "),
    ):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "whole.yaml").write_text(text, encoding="utf-8")
    top, written = tmp_path / "top.yaml", tmp_path / "params.yaml"
    top.write_text(
        "base: whole.yaml\nmethods: {cutmix: {mix: {prob: 0.9}, mixer: {alpha: 0.2}}, merged: {mix: {prob: 0.7}}}\n",
        encoding="utf-8",
    )
    written.write_text(overlays.composed(top), encoding="utf-8")
    params = config.load(written)
    assert params == config.load(top)
    found = [(params.methods[name].mix.prob, params.methods[name].mixer.alpha) for name in ("cutmix", "twin", "merged")]
    assert found == [(0.9, 0.2), (0.5, 1.0), (0.7, 1.0)]
    code = [line.partition("#")[0] for line in written.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in code if "&" in line or "*" in line or "<<" in line]


def test_using_a_suite_says_what_it_lies_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/whole.yaml").write_text(overlays.composed(ROOT / "suites/tiny.yaml"), encoding="utf-8")
    (tmp_path / "suites/mine.yaml").write_text("base: whole.yaml\nsuite: mine\n", encoding="utf-8")
    assert suites.use("mine") == "params.yaml is now suites/mine.yaml over suites/whole.yaml"
    assert suites.use("whole") == "params.yaml is now suites/whole.yaml"


def test_using_a_suite_keeps_an_edited_params_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").symlink_to(ROOT / "suites")
    target = tmp_path / "params.yaml"
    assert "params.yaml is now suites/tiny.yaml" in suites.use("tiny")
    suites.use("demo")
    assert list(tmp_path.glob("params.yaml.old*")) == []  # it was a suite's own
    target.write_text(target.read_text().replace("lr: 0.01", "lr: 0.02"))
    assert "kept as params.yaml.old" in suites.use("demo")
    assert "lr: 0.02" in (tmp_path / "params.yaml.old").read_text()
    with pytest.raises(LapmlError, match="no suite 'base': expected one of birds50, choices-cub200"):
        suites.use("base")


# --- what DVC's --set-param and lapml's --set change ---


def leaves(value, key=()):
    if isinstance(value, dict) and value:
        for part, each in value.items():
            yield from leaves(each, (*key, part))
    else:
        yield key, value


def another(value, number):
    """A value of the same kind that no other key has."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(number + 1) + (0.5 if isinstance(value, float) else 0)
    return [f"x{number}"] if isinstance(value, list) else f"x{number}"


def shown(value):
    """As both command lines take it."""
    return (
        f"[{', '.join(value)}]" if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else value
    )


@pytest.mark.parametrize("name", ["demo", "cub200-scratch", "fixtures"])
def test_dvc_sets_every_key_as_lapml_does(name, tmp_path):
    """Each key alone would take minutes: all are set at once, each to a value of its own, so that one that changed
    another, or nothing, would show."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_text(overlays.composed(ROOT / f"suites/{name}.yaml"), encoding="utf-8")
    raw = plain(path.read_text(encoding="utf-8"))
    keys = [(key, value) for key, value in leaves(raw) if value != {}]  # DVC refuses to add keys to an empty section
    changes = [f"{'.'.join(key)}={shown(another(value, number))}" for number, (key, value) in enumerate(keys)]
    assert len(changes) > 80
    expected = copy.deepcopy(raw)
    for change in changes:
        override_in(expected, change)
    for number, (key, value) in enumerate(keys):  # and --set itself changes that key, and only that one
        where = expected
        for part in key:
            where = where[part]
        assert where == another(value, number)
    apply_overrides(path, changes)
    assert plain(path.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize("key", ["methods.cutmix.mix.prob", "data.birds.view.side", "methods.margin.margin.m"])
def test_a_key_that_is_only_inherited(key, tmp_path):
    """DVC says that it is not there; --set refines it for that method or data set alone."""
    from dvc.exceptions import InvalidArgumentError
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InvalidArgumentError) as caught:
        apply_overrides(path, [f"{key}=0.7"])
    assert f"Could not override '{key}'" in str(caught.value.__cause__)
    before, after = config.load(path), config.load(path, [f"{key}={'80' if 'side' in key else '0.7'}"])
    changed = [name for name in before.methods if before.methods[name] != after.methods[name]] + [
        name for name in before.data if before.data[name] != after.data[name]
    ]
    assert changed == [key.split(".")[1]]
    assert before.defaults == after.defaults


# --- what the stages resolve to ---


def resolved(*overrides: str, path: Path = ROOT / "params.yaml") -> dict:
    return json.loads(json.dumps(stages.settings(config.load(path, overrides), "birds")))


def differing(*overrides: str) -> set[str]:
    before, after = resolved(), resolved(*overrides)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


MIXING = {"cutmix", "loc_cutmix", "margin", "adaptive_margin"}
TUNED = {"studies/margin", "studies/adaptive_margin"}
RUNS = {f"runs/{name}" for name in MIXING | {"baseline"}}


@pytest.mark.parametrize(
    ("override", "stages_of_it"),
    [
        ("train.device=cuda", set()),
        ("train.threads=2", set()),
        ("ablation=[loc_cutmix, cutmix, baseline]", set()),
        ("report.images=false", {"diagnosis"}),  # whose gallery shows them
        ("seeds=[0, 1, 2, 3]", {"diagnosis"}),
        ("defaults.mix.prob=0.7", {f"runs/{name}" for name in MIXING} | TUNED),
        ("methods.cutmix.mix.prob=0.7", {"runs/cutmix"}),
        ("methods.loc_cutmix.mixer.support=0.4", {"runs/loc_cutmix", "diagnosis"}),
        ("defaults.mixers.localized.support=0.4", {"runs/loc_cutmix", "runs/margin", "runs/adaptive_margin", "diagnosis"} | TUNED),
        ("defaults.mixers.snapmix.alpha=1.0", {"diagnosis"}),
        ("defaults.margin.pos_margin=0.1", {"runs/margin", "runs/adaptive_margin"} | TUNED),
        ("methods.adaptive_margin.adaptive.delta=0.1", {"runs/adaptive_margin", "studies/adaptive_margin"}),
        ("tune.margin.m={low: 0.4, high: 1.0}", {"studies/margin"}),
        ("tune.epochs=19", TUNED),
        ("train.epochs=21", RUNS | {"diagnosis"}),
        ("train.lr=0.02", RUNS | TUNED | {"diagnosis"}),
        ("methods.baseline={overrides: {train: {lr: 0.02}}}", {"runs/baseline", "diagnosis"}),
        ("defaults.data.split_seed=1", RUNS | TUNED | {"diagnosis", "prepare"}),
        ("data.birds.synthetic.seed=1", RUNS | TUNED | {"diagnosis", "fetch"}),
        ("data.birds.view.jitter=0.1", RUNS | TUNED | {"diagnosis"}),
        ("report.bootstrap=2000", {"diagnosis"}),
    ],
)  # fmt: skip
def test_a_change_concerns_exactly_what_resolves_to_something_else(override, stages_of_it):
    assert differing(override) == stages_of_it


def test_nodes_are_no_part_of_what_a_run_is():
    """Four processes on one node, on two or on four: the same stages, and the same studies, those of old formats too."""
    one, two, four = (config.load(ROOT / "params.yaml", ["train.gpus=4", f"train.nodes={n}"]) for n in (1, 2, 4))
    names = set()
    for params in (one, two, four):
        assert stages.settings(params, "birds") == stages.settings(one, "birds")
        study = config.study_identity(params, "birds", "margin", {}, "data", None)
        names.add(config.study_names(study, 20, params.train))
    assert len(names) == 1


def test_with_no_tuned_method_nothing_is_tuned():
    made = resolved("tuned_methods=[]")
    assert made["studies/margin"] is None and made["studies/adaptive_margin"] is None
    made = resolved("tuned_methods=[adaptive_margin]")
    assert made["studies/margin"]  # where adaptive_margin starts
    fixed = ["methods.adaptive_margin.margin.m=0.5", "methods.adaptive_margin.margin.weight=0.1"]
    assert resolved("tuned_methods=[adaptive_margin]", *fixed)["studies/margin"] is None


def test_the_weights_of_a_file_count_by_what_it_holds(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"one")
    one = resolved(f"model.weights={file}")["runs/baseline"]
    file.write_bytes(b"another")
    assert one != resolved(f"model.weights={file}")["runs/baseline"]


def test_a_method_that_the_suite_does_not_tune_needs_numbers(tmp_path):
    params, paths = config.load(ROOT / "suites/quick.yaml"), Paths("quick", tmp_path)
    said = (
        "methods.margin.margin.m is 'tuned', and this suite does not tune margin: list it under tuned_methods, or give"
    )
    for _ in range(2):  # without its tuned file, and with that of a method that is not tuned
        with pytest.raises(LapmlError, match=said):
            config.tuned_values(params, paths, "birds", "margin")
        write_json(paths.tuned("birds", "margin"), {"values": {}})
    with pytest.raises(LapmlError, match="no tuned values yet; run `lapml tune birds` first"):
        config.tuned_values(config.load(ROOT / "params.yaml"), Paths("demo", tmp_path), "birds", "margin")


def test_the_files_are_written_whole_and_old_ones_go(tmp_path):
    params, paths = config.load(ROOT / "suites/tiny.yaml"), Paths("tiny", tmp_path)
    folder = stages.write(params, paths, "birds")
    (folder / "runs/gone.json").write_text("{}")
    assert stages.write(params, paths, "birds") == folder
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): json.loads(path.read_text())
        for path in folder.rglob("*.json")
    }
    expected = stages.settings(params, "birds")
    by_maps = {name: name in ("loc_cutmix", "margin", "adaptive_margin") for name in params.methods}
    expected["localise"] = {"stage": expected["localise"], "methods": by_maps}
    assert found == json.loads(json.dumps(expected))
    assert list(folder.parent.iterdir()) == [folder]


def test_the_rows_of_a_table_are_in_the_order_given():
    assert config.load(ROOT / "params.yaml", ["ablation=[loc_cutmix, baseline]"]).all_methods() == [
        "loc_cutmix", "baseline", "margin", "adaptive_margin",
    ]  # fmt: skip


@pytest.mark.parametrize(("document", "folder"), [("docs/usage.md", "."), ("docs/data.md", "suites")])
def test_the_overlays_that_are_documented_load(document, folder, tmp_path):
    (tmp_path / "suites").mkdir()
    for path in (ROOT / "suites").glob("*.yaml"):
        (tmp_path / "suites" / path.name).write_bytes(path.read_bytes())
    blocks = (ROOT / document).read_text(encoding="utf-8").split("```yaml\n")[1:]
    shown = [block.partition("```")[0] for block in blocks if block.startswith("base:")]
    assert shown
    for text in shown:
        path = tmp_path / folder / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        params = config.load(path)
        assert params.suite == "mine"
        for dataset in params.datasets:
            for method in params.all_methods():
                config.unseeded(params, dataset, method)
