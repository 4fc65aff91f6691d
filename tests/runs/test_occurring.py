"""The distances that a search of margins goes by."""

import numpy as np
import pytest
import torch

from lapml.runs.occurring import PAIRS, Distances, measured
from lapml.training import loop as train


def test_margin_and_delta_by_their_meaning():
    rng = np.random.default_rng(0)
    found = Distances(rng.uniform(0.1, 1.2, 500), rng.uniform(0, 1, 500))
    for quantile in (0.0, 0.3, 0.8):
        m = found.margin(quantile, "constant")
        assert np.mean(found.d <= m) == pytest.approx(quantile, abs=0.004)
        m = found.margin(quantile, "share")
        assert np.mean(found.d <= 2 * m * found.rho) == pytest.approx(quantile, abs=0.004) or m == 2**0.5
    for quantile, scale in ((0.9, "constant"), (0.95, "share")):
        edge = 0.5 * (2 * found.rho if scale == "share" else 1)
        delta = found.delta(quantile, 0.5, scale)
        assert np.mean(found.d <= edge + delta) == pytest.approx(quantile, abs=0.004)
    assert found.delta(0.01, 1.0, "constant") == 0.0  # nothing lies that near: a band of no width
    again = Distances.read(found.record())
    assert np.allclose(again.d, found.d, atol=1e-4) and np.allclose(again.rho, found.rho, atol=1e-4)


@pytest.mark.parametrize("keys", [[], ["train.batch_norm=frozen"]])
def test_of_a_trained_run(small_run, packed, monkeypatch, keys):
    monkeypatch.setattr("lapml.runs.occurring.PAIRS", 60)
    config = small_run("loc_cutmix", *keys)
    found = measured(config, packed, train.fit(config, packed, log=lambda line: None))
    assert PAIRS == 2000 and 30 <= len(found.d) == len(found.rho) <= 60 + config.train.batch
    assert (found.d > 0).all() and (found.d <= 2**0.5 + 1e-5).all() and ((found.rho >= 0) & (found.rho <= 1)).all()
    assert found.d.std() > 0


@pytest.mark.parametrize("joint", [False, True])
def test_passes_are_those_of_training(small_run, packed, monkeypatch, joint):
    """In parts, and with the references of its own: of a joint method, clean batches' own passes."""
    monkeypatch.setattr("lapml.runs.occurring.PAIRS", 24)
    keys = ["methods.margin.margin.reference=joint", "methods.margin.margin.every=1"] if joint else []
    config = small_run("margin", "train.batch=12", "train.accumulate=2", *keys)
    fitted = train.fit(config, packed, log=lambda line: None)
    sizes = []
    fitted.model.head.register_forward_pre_hook(lambda head, given: sizes.append((len(given[0]), head.training)))
    found = measured(config, packed, fitted)
    assert len(found.d) == len(found.rho)
    training = [size for size, whether in sizes if whether]
    assert set(training) == {6} and len(training) == (2 if joint else 1) * 2 * 2


def test_looking_after_an_epoch_changes_nothing(small_run, packed):
    config, seen = small_run("loc_cutmix"), []

    def then(epoch, fitted):
        seen.append((epoch, len(fitted.history)))
        fitted.model.eval()(torch.zeros(2, 3, config.data.view.side, config.data.view.side))

    looked = train.fit(config, packed, log=lambda line: None, then=then)
    plain = train.fit(config, packed, log=lambda line: None)
    assert seen == [(epoch, epoch) for epoch in range(1, config.train.epochs)]
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, looked.model.state_dict()[name]), name
