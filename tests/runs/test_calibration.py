"""Temperature scaling: against torch's optimizer, fold by fold, and what it must do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from lapml.runs.evaluate import FOLDS, calibration, temperature


def answers(count: int, classes: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax, at ``sharpness`` 1, is the chance of each label."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    labels = np.array([rng.choice(classes, p=np.exp(row)) for row in log_softmax(logits, 1)])
    return (logits * sharpness).astype(np.float32), labels


def torchs(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by gradient descent."""
    log = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
    values, classes = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(values / log.exp(), classes)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log.detach().exp())


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_least_cross_entropy(sharpness):
    logits, labels = answers(4000, 5, 1, sharpness)
    found = temperature(logits.astype(np.float64), labels)
    assert found == pytest.approx(torchs(logits, labels), rel=1e-3)
    assert found == pytest.approx(sharpness, rel=0.1)  # true chances are at 1


@given(st.integers(10, 60), st.integers(2, 6), st.integers(0, 10_000))
@settings(max_examples=20)
def test_each_fifth_is_scaled_by_the_others(count, classes, seed):
    logits, labels = answers(count, classes, seed)
    found, losses = calibration(logits, labels), []
    for at in range(count):
        others = [k for k in range(count) if k % FOLDS != at % FOLDS]
        scale = temperature(log_softmax(logits[others].astype(np.float64), 1), labels[others])
        losses.append(-log_softmax(log_softmax(logits[at].astype(np.float64)) / scale)[labels[at]])
    assert found["loss_scaled"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["loss"] == pytest.approx(
        -log_softmax(logits.astype(np.float64), 1)[np.arange(count), labels].mean(), rel=1e-6
    )
    assert 0.04 < found["temperature"] < 21


def test_a_model_that_is_too_sure_is_mended_and_a_fitting_one_left():
    sure = calibration(*answers(5000, 8, 2, 4.0))
    assert sure["temperature"] == pytest.approx(4, rel=0.1)
    assert sure["ece_scaled"] < 3 < sure["ece"] and sure["loss_scaled"] < sure["loss"]
    fit = calibration(*answers(5000, 8, 2))
    assert fit["loss_scaled"] == pytest.approx(fit["loss"], abs=2e-3)


def test_too_few_images_are_not_scaled():
    found = calibration(*answers(9, 3, 0))
    assert [found[name] for name in ("loss_scaled", "ece_scaled", "temperature")] == [None] * 3
    assert math.isfinite(found["loss"]) and math.isfinite(found["ece"])


def test_a_model_that_is_always_right_has_a_finite_answer():
    logits = np.eye(4, dtype=np.float32)[np.arange(40) % 4] * 5
    found = calibration(logits, np.arange(40) % 4)
    assert found["loss_scaled"] < found["loss"] and all(math.isfinite(value) for value in found.values())
