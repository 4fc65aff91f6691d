"""Records that last: real ones of before stay readable, comparable and restorable when settings learn something new."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic.fields import FieldInfo

from lapml import config
from lapml.analysis.gather import group
from lapml.analysis.gather import read as read_run
from lapml.common.sections import LATER, Section
from lapml.config.parts import Overrides
from lapml.config.schema import FORMAT
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.report.diagnosis import read as read_diagnosis
from lapml.runs import collect as runs

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "tests/fixtures/records"  # of before records had a format number
OLD = sorted(path.name for path in RECORDS.iterdir() if path.is_dir())
REFUSED = {"localisation-refreshed-loc_refreshed": "settings.mixer.maps: found 'refreshed', expected"}
PUBLISHED = [name for name in ("demo", "cub200", "birds50") if (ROOT / "results/published" / name).is_dir()]


def record(name: str) -> dict:
    return json.loads((RECORDS / name / "config.json").read_text(encoding="utf-8"))


def sections(kind: type[Section] = Section) -> list[type[Section]]:
    """All models of settings, those first that others are made of."""
    found = [each for child in kind.__subclasses__() for each in (*sections(child), child)]
    return [each for each in found if each.__pydantic_complete__]  # not those that other tests saw refused


@pytest.fixture
def a_key_more():
    """a_key_more(model) adds the key `news` to a model of settings, as a later version would; undone at the end."""
    added = []

    def rebuild():
        for _ in range(3):  # until every model holds the others' new form
            for each in sections():
                each.model_rebuild(force=True)

    def made(model):
        field = FieldInfo.from_annotated_attribute(Annotated[int, LATER], 7)
        model.model_fields["news"] = field
        model.__pydantic_fields__["news"] = field
        added.append(model)
        rebuild()

    yield made
    for model in added:
        model.__pydantic_fields__.pop("news")
    rebuild()


@pytest.mark.parametrize("name", OLD)
def test_a_real_record_of_before_is_read_by_meaning(name):
    if name in REFUSED:
        with pytest.raises(LapmlError) as caught:
            config.settings_of("config.json", record(name))
        assert str(caught.value).startswith(f"config.json: {REFUSED[name]}")
        return
    old, new = record(name), config.settings_of("config.json", record(name)).record()
    assert new.pop("format") == FORMAT
    for key in ("device", "threads"):  # where a run was computed is not what it is
        del old["train"][key]
    old["settings"].setdefault("loss", None)  # this key joined after the oldest of them
    assert new == by_new_names(old)
    assert config.settings_of("config.json", {**new, "format": FORMAT}).record() == {**new, "format": FORMAT}


def by_new_names(old: dict) -> dict:
    """A record of format 1 or 2 by the names of format 3."""
    train, data, settings = dict(old["train"]), dict(old["data"]), dict(old["settings"])
    train["head_lr_mult"] = train.pop("head_lr")
    data["synthetic"] = data.pop("drawn")
    if settings["mixer"] and "beta" in settings["mixer"]:
        settings["mixer"] = {**settings["mixer"], "alpha": settings["mixer"]["beta"]}
        del settings["mixer"]["beta"]
    if settings["margin"]:
        margin = dict(settings["margin"])
        settings["margin"] = {**margin, "weight": margin.pop("alpha"), "pos_margin": margin.pop("positive")}
        del settings["margin"]["alpha"], settings["margin"]["positive"]
    return {**old, "train": train, "data": data, "settings": settings}


def in_a_run() -> list[type[Section]]:
    """The models that a run's record is made of."""
    found: set[type] = set()
    for name in OLD:
        if name not in REFUSED:
            todo = [config.settings_of("", record(name))]
            while todo:
                section = todo.pop()
                found.add(type(section))
                todo += [value for _, value in section if isinstance(value, Section)]
    found -= {Overrides}  # in place already when a run is recorded
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("model", in_a_run(), ids=lambda kind: kind.__name__)
def test_a_key_that_joins_later_orphans_nothing(model, a_key_more):
    before = {name: config.settings_of("", record(name)).record() for name in OLD if name not in REFUSED}
    a_key_more(model)
    for name, expected in before.items():
        run = config.settings_of("", record(name))
        assert run.record() == expected  # so tables, names of studies and diagnoses stay what they were
    said = 0
    for name, expected in before.items():
        if changed := _with(config.settings_of("", record(name)), model, 8):
            said += 1
            assert changed.record() != expected
            assert config.settings_of("", changed.record()).record() == changed.record()
    assert said


def _with(section: Section, model: type[Section], value: int) -> Section | None:
    """The same section with `news` of a model in it set; None where it holds no such model."""
    if type(section) is model:
        return section.model_copy(update={"news": value})
    for name, part in section:
        if isinstance(part, Section) and (made := _with(part, model, value)) is not None:
            return section.model_copy(update={name: made})
    return None


def test_a_key_that_says_something_new_is_recorded_and_compared(a_key_more):
    a_key_more(config.Train)
    old = record("demo-baseline")
    new = {**old, "train": {**old["train"], "news": 8}}
    run = config.settings_of("", new)
    assert run.record()["train"]["news"] == 8
    assert runs.differences(config.settings_of("", old).record(), run.record()) == [
        "train.news: missing, expected 8",
    ]


# --- what does not fit ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, f"run/config.json: format: found 99, expected 1 to {FORMAT}: a later version of lapml made this run"),
        ({"format": "2"}, "run/config.json: format: found '2'"),
        ({"format": 0}, "run/config.json: format: found 0"),
        ({"novelty": 1}, "run/config.json: novelty: unknown key; this version has other settings"),
        ({"train": {"lr": 0.1}}, "run/config.json: train.epochs: missing; this version has other settings"),
        ({"model": None}, "run/config.json: model: found None, expected"),
        ({"data": []}, "run/config.json: data: found [], expected"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_key(changes, said):
    with pytest.raises(LapmlError) as caught:
        config.settings_of("run/config.json", {**record("demo-baseline"), **changes})
    assert str(caught.value).startswith(said) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", [key for key in record("demo-baseline")])
def test_a_record_with_a_missing_key_is_refused(key):
    with pytest.raises(LapmlError, match=f"^config.json: {key}: missing; this version"):
        config.settings_of(
            "config.json", {name: value for name, value in record("demo-baseline").items() if name != key}
        )


# --- what is published ---


@pytest.mark.parametrize("suite", PUBLISHED)
def test_every_published_run_fits_the_settings_of_today(suite):
    params = config.load(ROOT / f"suites/{suite}.yaml")
    there = Paths(suite, ROOT).as_published()
    found = dict(runs.examined(params, there, runs.UNREAD))
    assert {run: str(each) for run, each in found.items() if isinstance(each, LapmlError)} == {}
    assert len(found) == len(params.all_methods()) * len(params.seeds)
    for dataset in params.datasets:
        if (folder := there.diagnosis(dataset)).is_dir():
            of = json.loads((folder / "diagnosis.json").read_text())["seeds"]  # of birds50 only one of three
            assert of and set(of) <= set(params.seeds)
            assert read_diagnosis(params.model_copy(update={"seeds": of}), there, dataset) is not None


@pytest.mark.parametrize("suite", PUBLISHED)
def test_a_published_run_is_of_one_row_with_a_new_one(suite, tmp_path, seal):
    """As `lapml compare` sees them: the record of before, and the same settings as they are recorded now."""
    there = next((ROOT / f"results/published/{suite}/runs").glob("*/baseline"))
    new = tmp_path / "9"
    new.mkdir()
    for path in (there / "0").iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    now = config.settings_of("", json.loads((there / "0/config.json").read_text())).record() | {"seed": 9}
    (new / "config.json").write_text(json.dumps(now))
    origin = json.loads((new / "provenance.json").read_text())
    seal(new, origin)
    rows = group(
        [read_run(folder, 1) for folder in (there / "0", there / "1", new)] + [read_run(there.parent / "cutmix/0", 1)]
    )
    assert [len(row) for row in rows.values()] == [3, 1]


def test_a_metric_that_joins_later_is_empty_for_old_runs(monkeypatch):
    params, there = config.load(ROOT / "suites/demo.yaml"), Paths("demo", ROOT).as_published()
    monkeypatch.setattr(runs, "METRICS", (*runs.METRICS, "calibration"))
    monkeypatch.setattr(runs, "PROVENANCE", (*runs.PROVENANCE, "driver"))
    missing = [each for _, each in runs.examined(params, there, runs.UNREAD)]
    assert all("calibration: found None" in str(each) and "driver: missing" in str(each) for each in missing)
    monkeypatch.setattr(runs, "LATER", (*runs.LATER, "calibration", "driver"))
    for _, each in runs.examined(params, there, runs.UNREAD):
        assert isinstance(each, dict) and each["calibration"] != each["calibration"] and each["driver"] is None


def test_every_key_that_records_may_lack_is_marked():
    """A key with a default that is not marked would be in new records and not in old ones of the same thing."""
    before = {  # as they were when the first runs were published
        "Overrides": {"model", "train", "tune"}, "Range": {"log"}, "Custom": {"evidence"}, "CustomLoss": {"reference"},
        "Method": {"mix", "mixer", "label", "margin", "adaptive", "loss", "overrides"},
        "MethodOverrides": {"model", "train", "view"}, "Params": {"defaults"},
    }  # fmt: skip
    for model in sections():
        if model.__module__.startswith("lapml."):
            fields = {
                name: field for name, field in model.model_fields.items() if name != "name"
            }  # of a mixer: its only one
            free = {name for name, field in fields.items() if not field.is_required() and LATER not in field.metadata}
            assert free <= before.get(model.__name__, set()), f"{model.__name__}: mark {free} with LATER (sections.py)"
