"""How well probabilities fit: cross-entropy, Brier score and calibration error, as they are and after temperature scaling."""

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 15  # of confidence
FOLDS = 5  # each takes its temperature from the others
RANGE = (-3.0, 3.0)  # of a temperature's natural logarithm


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``loss`` (cross-entropy), ``brier`` (mean squared distance of the probabilities from the true class, 0 to 2; Brier, 1950),
    ``ece`` (expected calibration error by 15 bins of equal width, in percent; Guo et al., ICML 2017); ``loss_scaled`` and
    ``ece_scaled``: with logits divided by a temperature (Guo et al.); ``temperature``: that of all images.

    A run is trained on the validation images too, so none are left to take its temperature from. So each fifth of the images is
    scaled by the temperature of the other four: no image's label has a part in its own scaling. None where there are too few.

    Args:
        logits: (N, K); labels: (N,).
    """
    plain = _log_softmax(logits.astype(np.float64))
    found: dict[str, float | None] = {"loss": _loss(plain, labels), "ece": _ece(plain, labels)}
    shares = np.exp(plain)
    shares[np.arange(len(labels)), labels] -= 1  # now the error of each probability
    found["brier"] = float((shares**2).sum(1).mean())
    if len(labels) < 2 * FOLDS:
        return found | {"loss_scaled": None, "ece_scaled": None, "temperature": None}
    scaled, fold = np.empty_like(plain), np.arange(len(labels)) % FOLDS
    for part in range(FOLDS):
        scaled[fold == part] = plain[fold == part] / temperature(plain[fold != part], labels[fold != part])
    scaled = _log_softmax(scaled)
    found |= {"loss_scaled": _loss(scaled, labels), "ece_scaled": _ece(scaled, labels)}
    return found | {"temperature": temperature(plain, labels)}


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least cross-entropy, between 1/20 and 20."""
    cost = lambda log: _loss(_log_softmax(logits / np.exp(log)), labels)  # noqa: E731
    return float(np.exp(minimize_scalar(cost, bounds=RANGE, method="bounded").x))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _loss(log_shares: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_shares[np.arange(len(labels)), labels].mean())


def _ece(log_shares: np.ndarray, labels: np.ndarray) -> float:
    confidence = np.exp(log_shares.max(1))
    right = np.argmax(log_shares, 1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return 100 * float(np.abs(np.bincount(bins, right - confidence, BINS)).sum() / len(labels))
