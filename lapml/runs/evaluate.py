"""Evaluation: predictions, accuracy and retrieval of a trained model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
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
from lapml.runs.calibration import calibration
from lapml.runs.results import RECALL, TOP, only_of_class, recall_counts, top5_counts

if TYPE_CHECKING:
    from lapml.runs.corruptions import Change

BLOCK = 1024  # images whose neighbours are searched at once


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
        with autocast(batches.device, precision):
            found.append(model(change(batch, batches) if change else batch.images)[1:])
    logits, embeddings = (torch.cat(part).float() for part in zip(*found, strict=True))
    return logits, embeddings


def metrics(predictions: Predictions) -> dict[str, float | None]:
    """Top-1, top-5, mean per-class accuracy, Recall@1 and @5 of the embedding (all in percent), n, and
    :func:`~lapml.runs.calibration.calibration`.

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


def table(predictions: Predictions, packed: Packed) -> pd.DataFrame:
    """One row per image: image, label, top1 … top5, probability of the true class, confidence (that of the first answer); in the
    index's order."""
    logits = predictions.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    probability = shares[np.arange(len(logits)), predictions.labels]
    frame = pd.DataFrame({"image": packed.index["path"].to_numpy()[predictions.rows], "label": predictions.labels})
    for rank in range(order.shape[1]):
        frame[f"top{rank + 1}"] = order[:, rank]
    return frame.assign(probability=probability, confidence=shares.max(1))
