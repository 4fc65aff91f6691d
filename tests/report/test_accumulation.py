"""A suite completed over several occasions: what is finished is published, what is published is taken over."""

import json
import shutil

import pandas as pd
import pytest

from lapml import config
from lapml.analysis import tables
from lapml.analysis.gather import MAPS
from lapml.common.locks import alone
from lapml.errors import LapmlError
from lapml.paths import DIAGNOSIS_FILES, READS, RUN_FILES, Paths
from lapml.report import account, accumulate, build, diagnosis
from lapml.runs.folder import NOT_KEPT

LIKE = ("config.json", "history.csv", "metrics.json", "predictions.parquet", "provenance.json")


@pytest.fixture(autouse=True)
def diagnosed(suite, monkeypatch):
    """A diagnosis that fits wherever its files are."""
    _, paths = suite
    paths.diagnosis("birds").mkdir(parents=True)
    for name in DIAGNOSIS_FILES:
        (paths.diagnosis("birds") / name).write_text(name)
    there = lambda params, paths, dataset: (paths.diagnosis(dataset) / "diagnosis.json").is_file() or None  # noqa: E731
    monkeypatch.setattr(diagnosis, "read", there)


@pytest.fixture
def elsewhere(suite, tmp_path_factory):
    """(params, paths) of a suite that is wholly published, in a folder where nothing but its data are."""
    params, paths = suite
    accumulate.publish_finished(params, paths)
    other = Paths(params.suite, tmp_path_factory.mktemp("elsewhere"))
    shutil.copytree(paths.data, other.data)
    shutil.copytree(paths.published, other.published)
    return params, other


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_runs_are_published_without_a_report(suite):
    params, paths = suite
    (paths.run("birds", "cutmix", 1) / "metrics.json").unlink()
    (paths.run("birds", "baseline", 0) / READS).write_text("{}\n")
    text = accumulate.publish_finished(params, paths)
    assert text == f"{paths.published}: 9 runs added, 9 of 10 are there; not finished: birds/cutmix/1"
    there = files(paths.published)
    once = {f"tuned/birds/{name}.json" for name in ("margin", "adaptive_margin")} | {f"runs/birds/baseline/0/{READS}"}
    once |= {f"diagnosis/birds/{name}" for name in DIAGNOSIS_FILES if name != "gallery.html"}
    assert set(there) == once | {
        f"runs/birds/{row}/{seed}/{name}"
        for row in params.all_methods()
        for seed in params.seeds
        for name in LIKE
        if (row, seed) != ("cutmix", 1)
    }
    for name, content in there.items():
        assert (paths.base / name).read_bytes() == content


def test_later_ones_are_added_and_earlier_ones_stay(suite, edit):
    params, paths = suite
    run = paths.run("birds", "cutmix", 1)
    metrics = (run / "metrics.json").read_bytes()
    (run / "metrics.json").unlink()
    accumulate.publish_finished(params, paths)
    before = files(paths.published)
    (run / "metrics.json").write_bytes(metrics)
    edit(paths.run("birds", "baseline", 0) / "metrics.json", top5=1.0)  # trained once more: the first one stands
    assert "1 runs added, 10 of 10 are there" in accumulate.publish_finished(params, paths)
    after = files(paths.published)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + len(LIKE)
    assert "0 runs added, 10 of 10 are there" in accumulate.publish_finished(params, paths)


def test_runs_of_other_settings_do_not_come_together(suite, make, tmp_path):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    before = files(paths.published)
    other, _ = make("suite=other", "train.lr=0.5")
    other = other.model_copy(update={"suite": params.suite})
    with pytest.raises(LapmlError, match=r"(?s)holds what does not fit; give the suite.*baseline/0: .*train.lr: found"):
        accumulate.publish_finished(other, paths)
    assert files(paths.published) == before


def test_nor_do_margins_tuned_since(suite, edit):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    edit(paths.tuned("birds", "margin"), values={"m": 0.1, "weight": 0.05})
    with pytest.raises(LapmlError, match="tuned/birds: has other values than .*published"):
        accumulate.publish_finished(params, paths)


def test_what_is_published_is_taken_over(elsewhere):
    params, paths = elsewhere
    assert accumulate.restore(params, paths) == f"{paths.published}: 10 runs taken over"
    for row in params.all_methods():
        for seed in params.seeds:
            assert {path.name for path in paths.run("birds", row, seed).iterdir()} == set(RUN_FILES)
            assert (paths.run("birds", row, seed) / "model.safetensors").read_text() == NOT_KEPT
    there = files(paths.published)
    assert all(content == there.get(name, content) for name, content in files(paths.base / "runs").items())
    assert len(tables.collect(params, paths)) == 10  # and a table can be made of them
    assert accumulate.restore(params, paths) == f"{paths.published}: 0 runs taken over"


def test_the_diagnosis_row_comes_with_its_diagnosis_or_not_at_all(elsewhere):
    params, paths = elsewhere
    shutil.rmtree(paths.as_published().diagnosis("birds"))
    text = accumulate.restore(params, paths).splitlines()
    assert text[0].endswith("8 runs taken over") and len(text) == 3
    assert "birds/baseline/0: the diagnosis needs its weights" in text[1]
    assert not paths.run("birds", "baseline", 0).exists()


def test_and_is_published_with_it_or_not_at_all(suite):
    params, paths = suite
    (paths.diagnosis("birds") / "diagnosis.json").unlink()
    text = accumulate.publish_finished(params, paths)
    assert "8 runs added, 8 of 10 are there; waiting for their diagnosis: birds/baseline/0, birds/baseline/1" in text
    assert not paths.as_published().run("birds", "baseline", 0).exists()
    (paths.diagnosis("birds") / "diagnosis.json").write_text("{}")
    assert "2 runs added, 10 of 10 are there" in accumulate.publish_finished(params, paths)
    assert (paths.as_published().diagnosis("birds") / "diagnosis.json").is_file()


def test_a_diagnosis_of_fewer_seeds_is_replaced(suite, monkeypatch):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    there = paths.as_published().diagnosis("birds") / "diagnosis.json"
    there.write_text("of fewer seeds")
    fits = diagnosis.fits
    monkeypatch.setattr(
        diagnosis, "fits", lambda params, where, name: where.base == paths.base and fits(params, where, name)
    )
    accumulate.publish_finished(params, paths)
    assert there.read_bytes() == (paths.diagnosis("birds") / "diagnosis.json").read_bytes()


def test_models_of_two_machines_do_not_come_under_one_diagnosis(elsewhere, suite, edit):
    """A baseline of other weights than the published one is here: neither the others nor the diagnosis are taken over."""
    params, paths = elsewhere
    own = paths.run("birds", "baseline", 0)
    shutil.copytree(suite[1].run("birds", "baseline", 0), own)
    edit(own / "provenance.json", files={"model.safetensors": "1" * 64})
    assert accumulate.restore(params, paths).splitlines()[0].endswith("8 runs taken over")
    assert not paths.run("birds", "baseline", 1).exists() and not paths.diagnosis("birds").exists()
    shutil.rmtree(
        paths.as_published().diagnosis("birds")
    )  # a diagnosis that was made here is not that of the published
    paths.diagnosis("birds").mkdir(parents=True)
    for name in DIAGNOSIS_FILES:
        (paths.diagnosis("birds") / name).write_text(name)
    accumulate.publish_finished(params, paths)
    assert not paths.as_published().diagnosis("birds").exists()


@pytest.mark.parametrize("change", [{"data_sha256": "f" * 64}, {"weights": {"name": "other", "sha256": "f" * 64}}])
def test_runs_of_other_data_or_weights_do_not_come_together(suite, edit, change):
    params, paths = suite
    kept = paths.run("birds", "cutmix", 1).rename(paths.root / "kept")
    accumulate.publish_finished(params, paths)
    kept.rename(paths.run("birds", "cutmix", 1))
    edit(paths.run("birds", "cutmix", 1) / "provenance.json", **change)
    with pytest.raises(LapmlError, match="birds/cutmix/1: provenance.json: .*sha256: found f"):
        accumulate.publish_finished(params, paths)
    assert not paths.as_published().run("birds", "cutmix", 1).exists()


def test_data_packed_otherwise_since_are_noticed_before_anything_is_run(suite, edit):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    shutil.rmtree(paths.base / "runs")
    edit(paths.pack("birds") / "meta.json", sha256="a" * 64)
    with pytest.raises(LapmlError, match=r"(?s)holds what does not fit.*data_sha256: found d.*expected a"):
        accumulate.publish_finished(params, paths)


def test_a_band_is_not_taken_over_beside_other_margins(elsewhere, suite, edit):
    params, paths = elsewhere
    own = paths.tuned("birds", "margin")
    own.parent.mkdir(parents=True)
    shutil.copy(suite[1].tuned("birds", "margin"), own)
    edit(own, values={"m": 0.1, "weight": 0.05})
    text = accumulate.restore(params, paths)
    assert "6 runs taken over" in text and "birds/adaptive_margin/0: was trained with other tuned values" in text
    assert not paths.tuned("birds", "adaptive_margin").exists()


def test_runs_that_mix_by_maps_want_maps_and_say_if_those_are_others(elsewhere, edit):
    params, paths = elsewhere
    for seed in params.seeds:
        edit(paths.as_published().run("birds", "loc_cutmix", seed) / "provenance.json", localised_sha256="e" * 64)
    with pytest.raises(
        LapmlError, match="no maps yet, and published runs mix by them; run `lapml localise birds` first"
    ):
        accumulate.restore(params, paths)
    assert not paths.run("birds", "cutmix", 0).exists()
    meta = paths.localised("birds") / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"sha256": "other"}')
    text = accumulate.restore(params, paths)
    assert (
        "10 runs taken over" in text
        and text.count("taken over; it mixes by maps of another machine (eeeeeeeeeeee)") == 2
    )
    assert tables.collect(params, paths).groupby("method")["localised_sha256"].first()["loc_cutmix"] == "e" * 64

    shutil.rmtree(paths.base / "runs")
    meta.write_text(f'{{"sha256": "{"e" * 64}"}}')
    assert accumulate.restore(params, paths) == f"{paths.published}: 10 runs taken over"


def test_an_interrupted_run_is_replaced_and_its_readings_stay(elsewhere):
    params, paths = elsewhere
    own = paths.run("birds", "cutmix", 0)
    own.mkdir(parents=True)
    (own / "last.pt").write_bytes(b"state")
    (own / READS).write_text("mine\n")
    (paths.as_published().run("birds", "cutmix", 0) / READS).write_text("theirs\n")
    accumulate.restore(params, paths)
    assert (own / READS).read_text() == "mine\ntheirs\n" and not (own / "last.pt").exists()
    assert (own.with_name("0.old-1") / "last.pt").read_bytes() == b"state"


def test_taken_over_twice_a_reading_counts_once(elsewhere):
    """An orchestrator deletes a stage's outputs before it makes it again; the readings are none of them."""
    params, paths = elsewhere
    own = paths.run("birds", "cutmix", 0)
    (paths.as_published().run("birds", "cutmix", 0) / READS).write_text("theirs\n")
    accumulate.restore(params, paths)
    with open(own / READS, "a") as file:
        file.write("a later one\n")
    for name in RUN_FILES:
        (own / name).unlink()
    assert "1 runs taken over" in accumulate.restore(params, paths)
    assert (own / READS).read_text() == "theirs\na later one\n"


def test_a_run_in_training_is_not_taken_over(elsewhere):
    """Its saved state would be gone, and its result written over the published one."""
    params, paths = elsewhere
    own = paths.run("birds", "cutmix", 0)
    own.mkdir(parents=True)
    (own / "last.pt").write_bytes(b"state")
    with alone(own, print):
        said = accumulate.restore(params, paths)
    assert "birds/cutmix/0: process " in said and (own / "last.pt").read_bytes() == b"state"
    assert not (own / "metrics.json").exists()
    assert "birds/cutmix/0" not in accumulate.restore(params, paths) and (own / "metrics.json").exists()


def test_a_publishing_that_was_killed_is_put_back(suite):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    before = files(paths.published)
    hidden = paths.published.with_name(f".{params.suite}.tmp")
    hidden.mkdir()
    paths.published.rename(hidden / "old")  # killed between the two renames of lapml publish
    assert "0 runs added, 10 of 10 are there" in accumulate.publish_finished(params, paths)
    assert files(paths.published) == before


def test_what_a_killed_publishing_set_aside_is_taken_over(elsewhere):
    params, paths = elsewhere
    hidden = paths.published.with_name(f".{params.suite}.tmp")
    hidden.mkdir()
    paths.published.rename(hidden / "old")
    assert accumulate.restore(params, paths) == f"{paths.published}: 10 runs taken over"


def test_runs_that_do_not_fit_are_left(elsewhere, edit):
    params, paths = elsewhere
    edit(paths.as_published().run("birds", "cutmix", 0) / "provenance.json", data_sha256="f" * 64)
    (paths.as_published().run("birds", "cutmix", 1) / "metrics.json").unlink()
    shutil.rmtree(paths.as_published().run("birds", "loc_cutmix", 0))
    lines = accumulate.restore(params, paths).splitlines()
    assert lines[0].endswith("7 runs taken over") and len(lines) == 3
    assert "birds/cutmix/0: was made with other data (ffffffffffff) than the packed" in lines[1]
    assert "birds/cutmix/1: metrics.json: missing" in lines[2]


def test_what_was_made_here_is_left_alone(suite, edit):
    params, paths = suite
    accumulate.publish_finished(params, paths)
    edit(paths.run("birds", "cutmix", 0) / "metrics.json", top5=1.0)
    edit(paths.tuned("birds", "margin"), values={"m": 0.1, "weight": 0.05})
    shutil.rmtree(paths.run("birds", "margin", 0))
    before = files(paths.base)
    text = accumulate.restore(params, paths)
    assert "0 runs taken over" in text and "birds/margin/0: was trained with other tuned values" in text
    assert files(paths.base) == before


def test_nothing_published_and_nothing_prepared(suite):
    params, paths = suite
    assert accumulate.restore(params, paths) == f"{paths.published}: 0 runs taken over"
    (paths.pack("birds") / "meta.json").unlink()
    with pytest.raises(LapmlError, match="not prepared yet; run `lapml data fetch birds && lapml data prepare birds`"):
        accumulate.restore(params, paths)


@pytest.mark.usefixtures("quick")
def test_a_report_can_be_made_where_no_weights_are(elsewhere, params_file, monkeypatch):
    params, paths = elsewhere
    accumulate.restore(params, paths)
    monkeypatch.setattr(diagnosis, "read", lambda *_: None)
    assert json.loads((build.report(params, params_file, paths).parent / "summary.json").read_text())


def test_margins_that_a_row_started_from_go_along(suite):
    """adaptive_margin is tuned with the margins of a row that the suite does not run."""
    params, paths = suite
    params = params.model_copy(update={"tuned_methods": ["adaptive_margin"]})
    accumulate.publish_finished(params, paths)
    assert (paths.published / "tuned/birds/margin.json").is_file()
    for folder in ("runs", "tuned"):
        shutil.rmtree(paths.base / folder)
    assert "8 runs taken over" in accumulate.restore(params, paths)
    assert paths.tuned("birds", "margin").is_file() and paths.tuned("birds", "adaptive_margin").is_file()


def test_studies_are_published_and_taken_over_before_any_run(suite, tune, params_file):
    """Also one whose values the tables do not take."""
    params, paths = suite
    space = config.load(params_file, ["tune.methods={loc_cutmix: {mix.prob: {low: 0.2, high: 1.0}}}"]).tune.methods
    params = params.model_copy(update={"tune": params.tune.model_copy(update={"methods": space})})
    tune(paths, params, "birds", "loc_cutmix", {"mix.prob": 0.625})
    shutil.rmtree(paths.base / "runs")
    assert "0 runs added, 0 of 10 are there" in accumulate.publish_finished(params, paths)
    tuned = files(paths.base / "tuned")
    shutil.rmtree(paths.base / "tuned")
    assert "0 runs taken over" in accumulate.restore(params, paths)
    assert files(paths.base / "tuned") == tuned == files(paths.published / "tuned") and "birds/loc_cutmix.json" in tuned


def test_maps_that_another_machine_rounded_differently_are_told_of(suite, edit):
    """They are of the same settings, which every run records."""
    params, paths = suite
    for seed, checksum in zip(params.seeds, ("e" * 64, "f" * 64), strict=True):
        edit(paths.run("birds", "loc_cutmix", seed) / "provenance.json", localised_sha256=checksum)
    accumulate.publish_finished(params, paths)
    assert MAPS in account.caveats(params, tables.collect(params, paths))
    for seed in params.seeds:
        edit(paths.run("birds", "loc_cutmix", seed) / "provenance.json", localised_sha256="e" * 64)
    runs = tables.collect(params, paths)
    assert MAPS not in account.caveats(params, runs)
    others = runs.assign(dataset="others", localised_sha256=runs["localised_sha256"].str.replace("e", "f"))
    assert MAPS not in account.caveats(params, pd.concat([runs, others]))  # each data set has maps of its own


def test_a_diagnosis_that_was_taken_over_stands_beside_the_maps_of_another_machine(elsewhere, edit):
    """It cannot be made again: the weights of its models are not here. That of one's own runs can."""
    params, paths = elsewhere
    for seed in params.seeds:
        edit(paths.as_published().run("birds", "loc_cutmix", seed) / "provenance.json", localised_sha256="e" * 64)
    meta = paths.localised("birds") / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"sha256": "other"}')
    accumulate.restore(params, paths)
    mixing = params.model_copy(update={"methods": dict(params.methods)})
    object.__setattr__(mixing, "localising", lambda: ["loc_cutmix"])  # as if it mixed by them
    assert diagnosis._maps(mixing, paths, "birds", "e" * 64) == "e" * 64
    assert diagnosis._maps(mixing, paths, "birds", "f" * 64) == "other"  # no run mixes by those
    for seed in params.seeds:
        (paths.run("birds", params.diagnose.method, seed) / "model.safetensors").write_text("weights")
    assert diagnosis._maps(mixing, paths, "birds", "e" * 64) == "other"


def test_readings_are_kept_by_a_restore_that_is_killed(elsewhere, monkeypatch):
    params, paths = elsewhere
    own, published = paths.run("birds", "cutmix", 0), paths.as_published().run("birds", "cutmix", 0)
    own.mkdir(parents=True)
    (own / READS).write_text('{"own": 1}\n')
    (published / READS).write_text('{"published": 1}\n')

    def killed(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(accumulate, "copy_folder", killed)
        with pytest.raises(InterruptedError):
            accumulate._take_over(published, own)
    accumulate.restore(params, paths)
    assert (own / READS).read_text() == '{"own": 1}\n{"published": 1}\n'


def test_margins_that_were_taken_over_stand_beside_the_maps_of_another_machine(elsewhere, suite, edit):
    """So that further seeds can be trained with them. Those tuned here by other maps do not."""
    params, paths = elsewhere
    record = paths.as_published().tuned("birds", "margin")
    edit(record, localised_sha256="e" * 64)
    meta = paths.localised("birds") / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"sha256": "f" * 64}))
    accumulate.restore(params, paths)
    values = json.loads(record.read_text())["values"]
    assert config.tuned_values(params, paths, "birds", "margin") == values
    edit(paths.tuned("birds", "margin"), score=1.0)
    with pytest.raises(LapmlError, match="tuned on other data or maps"):
        config.tuned_values(params, paths, "birds", "margin")
