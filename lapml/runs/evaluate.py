"""Evaluation: predictions, accuracy, retrieval and calibration of a trained model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor

from lapml.common import ranks
from lapml.common.gpus import ALONE, memory
from lapml.config import Run
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.models.device import DTYPES, autocast
from lapml.models.model import Classifier
from lapml.runs.records import RECALL, TOP, only_of_class, recall_counts, top5_counts

if TYPE_CHECKING:
    from lapml.runs.corruptions import Change

BLOCK = 1024  # images whose neighbours are searched at once
BINS = 15  # of confidence
FOLDS = 5  # each takes its temperature from the others
RANGE = (-3.0, 3.0)  # of a temperature's natural logarithm


@dataclass(frozen=True)
class Predictions:
    rows: np.ndarray  # (N,) rows of the index
    labels: np.ndarray  # (N,)
    logits: np.ndarray  # (N, K) float32
    embeddings: np.ndarray  # (N, D) float32, unit length
    device: torch.device = torch.device("cpu")  # on which they were made and are compared


def predict(
    model: Classifier,
    packed: Packed,
    config: Run,
    weights: dict[str, Any],
    device: torch.device,
    precision: str,
    change: "Change | None" = None,
) -> Predictions:
    """Logits and embeddings of the run's evaluation split, in evaluation mode and with evaluation views.

    Ranks share the images; each rank gets all results.

    Args:
        change: what is made of the images first, see :func:`lapml.runs.corruptions.changes`.

    Raises:
        LapmlError: the split is empty, or a batch does not fit into the GPU's memory.
    """
    rows = rows_of(packed.index, [config.evaluate])
    if not len(rows):
        raise LapmlError(f"{config.dataset}: its {config.evaluate} split is empty; nothing to evaluate")
    share_rows, size, view = rows[ranks.rank() :: ranks.size()], max(config.train.batch, 64), config.data.view
    what = f"{config.dataset}: {size} images of {view.side} px in evaluation"
    with memory(what, f"take {ALONE}, or a smaller data.*.view.side"):
        batches = Batches(packed, share_rows, view, weights["mean"], weights["std"], device, DTYPES[precision])
        found = outputs(model, batches, size, precision, change) if len(share_rows) else None
        parts = found and [part.cpu().numpy() for part in found]
    shares = ranks.collected(parts)
    logits, embeddings = (np.empty((len(rows), part.shape[1]), np.float32) for part in shares[0])
    for rank, share in enumerate(shares):
        if share is not None:  # fewer images than ranks
            logits[rank :: ranks.size()], embeddings[rank :: ranks.size()] = share
    return Predictions(rows, packed.index["label"].to_numpy()[rows], logits, embeddings, device)


@torch.no_grad()
def outputs(
    model: Classifier, batches: Batches, size: int, precision: str, change: "Change | None" = None
) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N, D) embeddings of all rows of ``batches``, fp32, on the device, without waiting for it.

    Args:
        size: images per forward pass.
        change: see :func:`predict`.
    """
    model.eval()
    found = []
    for batch in batches.evaluation(size):
        images = change(batch, batches) if change else batch.images  # in full precision
        with autocast(batches.device, precision):
            found.append(model(images)[1:])
    logits, embeddings = (torch.cat(part).float() for part in zip(*found, strict=True))
    return logits, embeddings


def metrics(predictions: Predictions) -> dict[str, float | None]:
    """Top-1, top-5, mean per-class accuracy, Recall@1 and @5 of the embedding (all in percent), n, and
    :func:`calibration`.

    A measure that no answer can miss is None: top-5 among five classes or fewer; see also :func:`retrieval`.
    """
    labels, logits = predictions.labels, predictions.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    hits = order == labels[:, None]
    classes, members = np.unique(labels, return_inverse=True)
    per_class = np.bincount(members, hits[:, 0]) / np.bincount(members)
    return {
        "top1": 100 * float(hits[:, 0].mean()),
        "top5": 100 * float(hits.any(1).mean()) if top5_counts(logits.shape[1]) else None,
        "mean_class": 100 * float(per_class.mean()),
        **calibration(logits, labels),
        **retrieval(predictions),
    }


def retrieval(predictions: Predictions) -> dict[str, float | None]:
    """Recall@1 and @5 of the embedding, in percent, and n: the measures for classes that the model does not know.

    ``recall_left_out`` images are the only one of their class and do not count. A Recall@K is None if no image counts, or if
    there are at most K others.
    """
    count, left_out = len(predictions.labels), int(only_of_class(predictions.labels).sum())
    with memory(f"the neighbours of {count} images among each other", f"take {ALONE}"):
        recall = recall_at(predictions.embeddings, predictions.labels, RECALL, predictions.device)
    return {
        **{f"recall{k}": 100 * share if recall_counts(k, count, left_out) else None for k, share in recall.items()},
        "recall_left_out": left_out,
        "n": count,
    }


def recall_at(
    embeddings: np.ndarray, labels: np.ndarray, ks: tuple[int, ...], device: torch.device | str = "cpu"
) -> dict[int, float]:
    """Recall@K: the share of images with one of their class among their K nearest others (cosine).

    Images that are the only one of their class are left out, as in pytorch-metric-learning. NaN if no image is left.

    Args:
        embeddings: (N, D) of unit length.
        labels: (N,).
        device: on which they are compared.
    """
    counted = ~only_of_class(labels)
    if not counted.any():
        return dict.fromkeys(ks, float("nan"))
    k = min(max(ks), len(labels) - 1)
    hit = nearest_hits(torch.from_numpy(embeddings).to(device), torch.from_numpy(labels).to(device), k)
    hit = hit[torch.from_numpy(counted).to(device)]
    shares = torch.stack([hit[:, :each].any(1).double().mean() for each in ks]).tolist()
    return dict(zip(ks, shares, strict=True))


def nearest_hits(vectors: Tensor, targets: Tensor, k: int) -> Tensor:
    """(N, k) bool: whether the i-th nearest other of each of (N, D) unit vectors has its label, (N,)."""
    found = []
    for start in range(0, len(targets), BLOCK):  # a block of the similarity matrix at a time
        similarity = vectors[start : start + BLOCK] @ vectors.T
        similarity.diagonal(start).fill_(-torch.inf)
        nearest = similarity.topk(k, dim=1).indices
        found.append(targets[nearest] == targets[start : start + BLOCK, None])
    return torch.cat(found)


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``loss`` (cross-entropy), ``brier`` (mean squared distance of the probabilities from the true class, 0 to 2; Brier, 1950),
    ``ece`` (expected calibration error by 15 bins of equal width, in percent; Guo et al., ICML 2017); ``loss_scaled`` and
    ``ece_scaled``: with logits divided by a temperature (Guo et al.); ``temperature``: that of all images.

    A run of the tables is trained on the validation images too, or read on them, so none are left to take its temperature
    from. So each fifth of the images is scaled by the temperature of the other four: no image's label has a part in its own
    scaling. None where there are too few.

    Args:
        logits: (N, K); labels: (N,).
    """
    plain = log_softmax(logits.astype(np.float64), 1)
    found: dict[str, float | None] = {"loss": _loss(plain, labels), "ece": _ece(plain, labels)}
    shares = np.exp(plain)
    shares[np.arange(len(labels)), labels] -= 1  # now the error of each probability
    found["brier"] = float((shares**2).sum(1).mean())
    if len(labels) < 2 * FOLDS:
        return found | {"loss_scaled": None, "ece_scaled": None, "temperature": None}
    scaled, fold = np.empty_like(plain), np.arange(len(labels)) % FOLDS
    for part in range(FOLDS):
        scaled[fold == part] = plain[fold == part] / temperature(plain[fold != part], labels[fold != part])
    scaled = log_softmax(scaled, 1)
    found |= {"loss_scaled": _loss(scaled, labels), "ece_scaled": _ece(scaled, labels)}
    return found | {"temperature": temperature(plain, labels)}


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least cross-entropy, between 1/20 and 20."""
    cost = lambda log: _loss(log_softmax(logits / np.exp(log), 1), labels)  # noqa: E731
    return float(np.exp(minimize_scalar(cost, bounds=RANGE, method="bounded").x))


def _loss(log_shares: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_shares[np.arange(len(labels)), labels].mean())


def _ece(log_shares: np.ndarray, labels: np.ndarray) -> float:
    confidence = np.exp(log_shares.max(1))
    right = np.argmax(log_shares, 1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return 100 * float(np.abs(np.bincount(bins, right - confidence, BINS)).sum() / len(labels))


def table(predictions: Predictions, packed: Packed) -> pd.DataFrame:
    """One row per image: image, label, top1 … top5, probability of the true class, confidence (that of the first answer); in the
    index's order."""
    logits = predictions.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    shares = softmax(logits, 1)
    probability = shares[np.arange(len(logits)), predictions.labels]
    frame = pd.DataFrame({"image": packed.index["path"].to_numpy()[predictions.rows], "label": predictions.labels})
    frame[[f"top{rank + 1}" for rank in range(order.shape[1])]] = order
    return frame.assign(probability=probability, confidence=shares.max(1))
