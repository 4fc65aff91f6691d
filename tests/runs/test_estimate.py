"""How long a suite takes: the kinds of steps, the sums over them, and the order of jobs; recomputed in a slow way."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lapml import config
from lapml.cli import app
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.runs import estimate, timing
from lapml.runs.estimate import Images, Jobs
from lapml.runs.timing import Speed, Step

ROOT = Path(__file__).parents[2]
BEGIN, GLANCE = 5.0, 0.001
FOUND = Images({"train": 256, "val": 64, "test": 90}, packing=0.01, localising=0.2)


@pytest.fixture(scope="module")
def suite():
    """suite(*overrides): base.yaml with these methods, of which those with margins are not tuned."""

    def made(*overrides):
        before = os.getcwd()
        os.chdir(ROOT)
        try:
            plain = ["ablation=[baseline, cutmix, snapmix, loc_cutmix]", "tuned_methods=[]"]
            return config.load("suites/base.yaml", [*plain, *overrides])
        finally:
            os.chdir(before)

    return made


def seconds_of(run):
    """Steps of made-up lengths: each mixer its own, more where margin losses are taken."""
    settings = run.settings
    assert settings.mix is None or (settings.mix.prob, settings.mix.warmup_epochs) == (1.0, 0)
    assert settings.margin is None or settings.margin.every == 1
    taken = {None: 0.1, "cutmix": 0.11, "snapmix": 0.15, "localized": 0.12}
    return taken[settings.mixer and settings.mixer.name] + 0.04 * (settings.margin is not None)


def speed_of(params):
    kinds = [kind for dataset in params.datasets for kind in estimate.kinds(params, dataset)]
    return Speed(BEGIN, {timing.key(run): Step(seconds_of(run), GLANCE) for run in kinds})


def of(params, at_once=1, found=FOUND):
    return estimate.suite(params, speed_of(params), dict.fromkeys(params.datasets, found), at_once)


# --- what it adds up to ---


def test_one_core_takes_the_sum_of_all(suite):
    """20 epochs, of which 18 mix with probability 0.5; 320 images in batches of 32; 3 seeds."""
    params = suite()
    found = of(params)
    costs = {"baseline": 0.1, "cutmix": 0.11, "snapmix": 0.15, "loc_cutmix": 0.12}
    mixed = 0.5 * 18 / 20
    runs = {name: BEGIN + 200 * ((1 - mixed) * 0.1 + mixed * cost) + GLANCE * 90 for name, cost in costs.items()}
    assert {job.name: job.seconds for job in found.jobs if job.name in costs} == pytest.approx(runs)
    assert all(job.count == 3 for job in found.jobs if job.name in costs)
    stages = (
        2 * BEGIN + 0.01 * 410 + BEGIN + estimate.FACTORISING * BEGIN + 0.2 * 320 + BEGIN + estimate.DRAWING * BEGIN
    )
    stages += estimate.SEEN * GLANCE * params.diagnose.images * 3 + estimate.REPORTING * BEGIN
    assert found.seconds == pytest.approx(stages + 3 * sum(runs.values()))


def test_margins_count_by_how_often_they_are_taken_and_studies_by_their_trials(suite):
    """20 epochs that mix every batch, margin losses on each fourth; trials of 3 epochs on 256 images, read on 64."""
    mixing = ["methods.margin.mix.prob=1.0", "methods.margin.mix.warmup_epochs=0", "methods.margin.margin.every=4"]
    params = suite(*mixing, "tuned_methods=[margin]", "tune.trials=7", "tune.seeds=[100, 101]", "tune.epochs=3")
    jobs = {job.name: job for job in of(params).jobs}
    step = 0.75 * 0.12 + 0.25 * 0.16
    assert jobs["margin"].seconds == pytest.approx(BEGIN + 200 * step + GLANCE * 90)
    trial = 3 * 8 * step + GLANCE * 64
    assert jobs["tuning margin"].seconds == pytest.approx(BEGIN + 14 * trial) and jobs["tuning margin"].count == 1
    assert set(jobs["margin"].after) == {("birds", "maps"), ("birds", "tuning margin")}


def test_what_is_tuned_counts_as_the_last_that_a_trial_may_have(suite):
    drawn = "tune.methods={cutmix: {train.epochs: {low: 5, high: 40}, mix.prob: {low: 0.1, high: 0.8}}}"
    params = suite("ablation=[baseline]", "tuned_methods=[cutmix]", drawn, "tune.trials=2", "tune.epochs=9")
    jobs = {job.name: job for job in of(params).jobs}
    step = 0.1 + 0.01 * 0.8 * 38 / 40
    assert jobs["cutmix"].seconds == pytest.approx(BEGIN + 400 * step + GLANCE * 90)
    assert jobs["tuning cutmix"].seconds == pytest.approx(BEGIN + 2 * (40 * 8 * step + GLANCE * 64))


def test_a_recipe_of_its_own_counts_for_its_method_alone(suite):
    longer = "methods.baseline={overrides: {train: {epochs: 40, batch: 16}}}"
    jobs, plain = ({job.name: job.seconds for job in of(suite(*more)).jobs} for more in ([longer], []))
    assert jobs["baseline"] == pytest.approx(BEGIN + 40 * 20 * 0.1 + GLANCE * 90)
    assert jobs["snapmix"] == plain["snapmix"]


def test_a_suite_that_is_read_on_val_trains_on_less(suite):
    params = suite("eval_split=val")
    jobs = {job.name: job.seconds for job in of(params).jobs}
    assert jobs["baseline"] == pytest.approx(BEGIN + 20 * 8 * 0.1 + GLANCE * 64)
    assert jobs["maps"] == pytest.approx(BEGIN * (1 + estimate.FACTORISING) + 0.2 * 256)


@given(st.integers(1, 40), st.floats(0.001, 1), st.integers(32, 10_000))
def test_more_cores_take_less_but_no_less_than_their_share(suite, cores, packing, fit):
    params = suite()
    found = Images({"train": fit, "test": 100}, packing, 0.2)
    several, alone = of(params, cores, found), of(params, 1, found)
    longest = max(job.seconds for job in several.jobs)
    assert max(longest, alone.seconds / cores) <= several.seconds * (1 + 1e-9)
    assert several.seconds <= alone.seconds * (1 + 1e-9)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 5), st.sets(st.integers(0, 5))), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_jobs_wait_for_those_that_they_need(drawn, at_once):
    """Against a clock that ticks from one end to the next."""
    jobs = [
        Jobs("d", str(at), seconds, count, tuple(("d", str(other)) for other in sorted(others) if other < at))
        for at, (seconds, count, others) in enumerate(drawn)
    ]
    left = {job.name: job.count for job in jobs}
    running, now = [], 0.0
    while any(left.values()) or running:
        done = {job.name for job in jobs if not left[job.name] and job.name not in {name for _, name in running}}
        ready = [job for job in jobs if left[job.name] and {name for _, name in job.after} <= done]
        if ready and len(running) < at_once:
            running.append((now + ready[0].seconds, ready[0].name))
            left[ready[0].name] -= 1
        else:
            now = min(end for end, _ in running)
            running = [each for each in running if each[0] > now]
    assert estimate._ends(jobs, at_once) == pytest.approx(now)


# --- what is timed ---


def test_kinds_are_timed_once(suite):
    """The baseline's step is every method's clean one; margins and labels beside that."""
    margins = ("margin", "adaptive_margin")
    fixed = [f"methods.{name}.margin.{key}=0.5" for name in margins for key in ("m", "weight")]
    fixed += [f"methods.adaptive_margin.adaptive.{key}=0.1" for key in ("delta", "quantile")]
    params = suite(*fixed, "ablation=[baseline, cutmix, loc_cutmix, margin, adaptive_margin]")
    kinds = {timing.key(run) for run in estimate.kinds(params, "birds")}
    assert len(kinds) == 1 + 1 + 1 + 2
    longer = suite(*fixed, "ablation=[baseline, cutmix, loc_cutmix, margin, adaptive_margin]", "train.epochs=50")
    assert {timing.key(run) for run in estimate.kinds(longer, "birds")} == kinds, "epochs change no step"
    smaller = suite(*fixed, "ablation=[baseline]", "train.batch=8")
    assert not {timing.key(run) for run in estimate.kinds(smaller, "birds")} & kinds


class Alone:
    """A barrier of one process."""

    def wait(self):
        return 0


@pytest.mark.parametrize("method", ["baseline", "snapmix", "loc_cutmix", "loc_cutmix_oracle", "adaptive_margin"])
@pytest.mark.parametrize("maps", ["recent", "objects"])
def test_steps_of_a_model_are_timed(small_run, monkeypatch, method, maps):
    monkeypatch.setattr(timing, "_together", Alone())
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    steps = []
    take = timing.take_step
    monkeypatch.setattr(timing, "take_step", lambda *given: steps.append(given[1]) or take(*given))
    run = small_run(method, f"defaults.mixers.localized.maps={maps}")
    for share, kind in timing.mixture(run):
        steps.clear()
        ready, step = timing._steps(kind, 3)
        assert ready > 0 and min(step) > 0 and 0 <= share <= 1
        assert 2 <= len(steps) <= timing.WARM + 1
        assert {batch.mixed for batch in steps} == {kind.settings.mixer is not None}
        assert {batch.margins for batch in steps} == {kind.settings.margin is not None}
    assert sum(share for share, _ in timing.mixture(run)) == pytest.approx(1)


@pytest.mark.slow
def test_processes_time_at_once(small_run):
    runs = [small_run("baseline"), small_run("snapmix")]
    found = timing.speeds(runs, 3, 2)
    assert found.begin > 0 and len(found.steps) == 2
    assert np.isfinite(list(found.steps.values())).all() and np.min(list(found.steps.values())) > 0


# --- the command ---


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(*overrides): `lapml suite time` of a small suite in an empty folder, where steps take made-up times."""
    for name in ("params.yaml",):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        timing, "speeds", lambda runs, *_: Speed(1.0, {timing.key(run): Step(0.1, 0.001) for run in runs})
    )
    monkeypatch.setattr(estimate, "localising", lambda *_: 0.1)
    small = [
        "data.birds.synthetic.classes=3",
        "data.birds.synthetic.train_images=40",
        "data.birds.synthetic.test_images=2",
    ]

    def made(*overrides):
        chosen = [argument for each in (*small, *overrides) for argument in ("--set", each)]
        return CliRunner().invoke(app, ["suite", "time", *chosen])

    return made


def test_every_method_and_the_whole_is_printed(asked):
    found = asked()
    assert found.exit_code == 0, found.output
    params = config.load("params.yaml")
    names = [line.split("  ")[0] for line in found.output.splitlines()]
    for name in ("maps", *params.all_methods(), "tuning margin", "tuning adaptive_margin", "diagnosis"):
        assert name in names, name
    assert found.output.splitlines()[-1].startswith("in all about ")
    assert not (Path("results")).exists(), "nothing is made but the images"


def test_what_would_be_downloaded_first_is_not(asked):
    found = asked("data.birds.source=official", "data.birds.synthetic=null")
    assert found.exit_code == 1 and "run `lapml data fetch birds` first, or set LAPML_BIRDS" in found.stderr


def test_images_are_counted_as_they_are_prepared(asked):
    overrides = [
        "data.birds.synthetic.classes=3",
        "data.birds.synthetic.train_images=10",
        "data.birds.synthetic.test_images=2",
    ]
    params = config.load("params.yaml", [*overrides, "data.birds.val_fraction=0.2"])
    found, classes = estimate.images_of(params, Paths(params.suite), "birds", estimate.places(params)[0])
    assert classes == 3 and found.splits == {"train": 24, "val": 6, "test": 6} and found.count("train", "val") == 30
    assert found.packing > 0 and found.localising > found.packing


def test_a_folder_that_is_not_there_is_named(asked):
    params = config.load("params.yaml", ["data.birds.source=nowhere", "data.birds.synthetic=null"])
    with pytest.raises(LapmlError, match="nowhere: no such folder"):
        estimate.images_of(params, Paths(params.suite), "birds", estimate.places(params)[0])


def test_shared_batch_norm_is_timed_as_one_process_has_it(small_run):
    run = small_run("loc_cutmix")
    several = run.model_copy(update={"train": run.train.model_copy(update={"batch_norm": "sync", "gpus": 2})})
    for _, kind in timing.mixture(several):
        assert (kind.train.batch_norm, kind.train.gpus, kind.train.batch) == ("local", 1, run.train.batch // 2)
