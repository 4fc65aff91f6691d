"""A run that is lost ends early, and only such a one."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import DivergedError
from lapml.models.model import build
from lapml.training import loop, watch
from lapml.training.step import make_learner, take_step

SAVED = SimpleNamespace(good="the initial one")
STEPS = 7  # of an epoch


def quietly(line: str) -> None:
    pass


def ended(run, seen: list[tuple[float, float]], classes: int = 4, lag: int = 0) -> int | None:
    """The step after which a run ends whose steps are (multiple of guessing, accuracy in percent); None: it goes on."""
    it = watch.Watch(run, STEPS, classes, SAVED, lag)
    for at, (far, right) in enumerate(seen):
        it.epoch = at // STEPS
        stats = {"loss": torch.tensor(far), "of_guessing": torch.tensor(far), "accuracy": torch.tensor(right)}
        it.add(at % STEPS, stats)
        try:
            it.asked_to_stop(0 if at % STEPS == STEPS - 1 else lag)
        except DivergedError as error:
            assert "train.lr" in str(error) and "train.clip_grad" in str(error)
            return at
    return None


@pytest.fixture(scope="module")
def warm(small_run):
    return small_run("baseline", "train.warmup_epochs=2", "train.epochs=9")


@given(st.lists(st.tuples(st.sampled_from([0.5, 2.9, 3.1, 50.0]), st.sampled_from([0.0, 25.0, 60.0])), max_size=60),
       st.integers(1, 6), st.sampled_from([2, 4]), st.integers(0, 1))  # fmt: skip
def test_a_run_ends_as_it_is_defined(warm, seen, long, classes, lag):
    """After so many steps in a row, none of them in the warm-up, that are all far above guessing while hardly more are right."""
    lost = lambda part: all(far > 3 for far, _ in part) and sum(right for _, right in part) / long < 150 / classes  # noqa: E731
    ends = [at for at in range(2 * STEPS + long - 1, len(seen)) if lost(seen[at - long + 1 : at + 1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "LONG", long)
        found = ended(warm, seen, classes, lag)
    if ends and found is not None:
        assert ends[0] <= found <= ends[0] + lag
    else:  # the last step is looked at only once the next is under way
        assert found is None and (not ends or ends[0] == len(seen) - 1 and lag)


@pytest.mark.parametrize(
    "seen",
    [
        [(1.0, 25.0)] * 500,  # guesses throughout, as at the beginning from random weights
        [(1e9, 0.0)] * 14 + ([(1e9, 0.0)] * 99 + [(1.5, 0.0)]) * 5,  # recovers again and again
        [(20.0, 60.0)] * 500,  # far too sure of itself, but learns
        [(50.0, 0.0)] * (14 + 99),  # a few steps, after a long warm-up
    ],
)
def test_what_goes_on(warm, seen):
    assert ended(warm, seen) is None


def test_what_ends(warm):
    assert ended(warm, [(3.5, 26.0)] * 500) == 14 + 100 - 1


def test_an_absurd_learning_rate(small_run, packed, monkeypatch):
    """Its loss stays finite, so that nothing else would end it."""
    monkeypatch.setattr(watch, "LONG", 20)
    run = small_run("baseline", "train.lr=10.0", "train.epochs=20", "train.warmup_epochs=1")
    with pytest.raises(DivergedError) as raised:
        loop.fit(run, packed, log=quietly)
    text = str(raised.value)
    assert text.startswith("birds/baseline/0: the cross-entropy was above 3 times that of guessing for 20 steps, with ")
    assert " % right, in epoch " in text and "the last good state is the initial one. Lower train.lr" in text


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(
    "method, changes",
    [
        ("baseline", []),
        ("mixup", []),
        ("cutout", []),
        ("snapmix", []),  # whose weights need not sum to 1
        ("loc_cutmix", ["train.accumulate=2"]),
        ("margin", []),
        ("margin", ["methods.margin.margin.reference=joint", "methods.margin.margin.every=1"]),
    ],
)
def test_guessing_is_once_that_of_guessing(small_run, packed, method, changes, smoothing):
    """A head of zeros gives each class the same probability."""
    run = small_run(method, f"train.label_smoothing={smoothing}", *changes)
    model, weights = build(run.model, len(packed.class_names), run.data.view.side, 0)
    it = make_learner(run, model, len(packed.index), torch.device("cpu"), "fp32")
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    rows, (mean, std) = rows_of(packed.index, ["train"]), (weights["mean"], weights["std"])
    batches = Batches(packed, rows, run.data.view, mean, std, torch.device("cpu"))
    settings = run.settings
    if settings.mix:
        settings = settings.model_copy(
            update={"mix": settings.mix.model_copy(update={"prob": 1.0, "warmup_epochs": 0})}
        )
    batch = next(iter(batches.training(0, 0, 12, settings, then=it.ahead)))
    assert batch.mixed == (method != "baseline")
    stats, *_ = take_step(it, batch)
    assert stats["of_guessing"].item() == pytest.approx(1, abs=1e-4)
