"""Evaluation: predictions, accuracy and retrieval of a trained net."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from lapml import ranks
from lapml.config import Run
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.errors import LapmlError, OutOfMemoryError
from lapml.model import Net
from lapml.optim import DTYPES, autocast

TOP = 5


@dataclass(frozen=True)
class Predictions:
    rows: np.ndarray  # (N,) rows of the index
    labels: np.ndarray  # (N,)
    logits: np.ndarray  # (N, K) float32
    embeddings: np.ndarray  # (N, D) float32, unit length


@torch.no_grad()
def predict(
    net: Net, packed: Packed, config: Run, weights: dict[str, Any], device: torch.device, precision: str
) -> Predictions:
    """Logits and embeddings of the run's evaluation split, in evaluation mode and view.

    Several ranks take every so manieth image each, and every image counts once; all of them get the whole.
    """
    rows = rows_of(packed.index, [config.evaluate])
    if not len(rows):
        raise LapmlError(f"{config.dataset}: its {config.evaluate} split is empty; nothing to evaluate")
    net.eval()
    own = rows[ranks.rank() :: ranks.size()]
    batches = Batches(packed, own, config.data.view, weights["mean"], weights["std"], device, DTYPES[precision])
    outputs = []
    for batch in batches.evaluation(max(config.train.batch, 64)):
        try:
            with autocast(device, precision):
                outputs.append(net(batch.images)[1:])
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{config.dataset}: {batch.count} images of {config.data.view.side} px do not fit into the GPU's memory when "
                "they are evaluated",
                error,
                "take another GPU that nobody else uses, or a smaller data.*.view.side",
            ) from None
    parts = [torch.cat(part).float().cpu().numpy() for part in zip(*outputs, strict=True)] if outputs else None
    shares = ranks.collected(parts)
    logits, embeddings = (np.empty((len(rows), part.shape[1]), np.float32) for part in shares[0])
    for rank, share in enumerate(shares):
        if share is not None:  # fewer images than ranks
            logits[rank :: ranks.size()], embeddings[rank :: ranks.size()] = share
    return Predictions(rows, packed.index["label"].to_numpy()[rows], logits, embeddings)


def metrics(predictions: Predictions) -> dict[str, float]:
    """Top-1, top-5, mean per-class accuracy, Recall@1 and @5 of the embedding (all in percent), loss and n."""
    labels, logits = predictions.labels, predictions.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    hits = order == labels[:, None]
    classes, members = np.unique(labels, return_inverse=True)
    per_class = np.bincount(members, hits[:, 0]) / np.bincount(members)
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return {
        "top1": 100 * float(hits[:, 0].mean()),
        "top5": 100 * float(hits.any(1).mean()),
        "mean_class": 100 * float(per_class.mean()),
        "loss": float(loss.mean()),
        **retrieval(predictions),
    }


def retrieval(predictions: Predictions) -> dict[str, float]:
    """Recall@1 and @5 of the embedding, in percent, and n: all that can be said of classes the net does not know."""
    recall = recall_at(predictions.embeddings, predictions.labels, (1, 5))
    return {"recall1": 100 * recall[1], "recall5": 100 * recall[5], "n": len(predictions.labels)}


def recall_at(embeddings: np.ndarray, labels: np.ndarray, ks: tuple[int, ...]) -> dict[int, float]:
    """Recall@K: the share of images with one of their class among their K nearest others (cosine).

    Args:
        embeddings: (N, D) of unit length.
        labels: (N,).
    """
    vectors, targets = torch.from_numpy(embeddings), torch.from_numpy(labels)
    k = min(max(ks), len(labels) - 1)
    if k < 1:
        return dict.fromkeys(ks, 0.0)
    found = []
    for start in range(0, len(labels), 1024):  # a block of the similarity matrix at a time
        similarity = vectors[start : start + 1024] @ vectors.T
        similarity[torch.arange(len(similarity)), torch.arange(start, start + len(similarity))] = -torch.inf
        nearest = similarity.topk(k, dim=1).indices
        found.append(targets[nearest] == targets[start : start + len(similarity), None])
    hit = torch.cat(found)
    return {each: float(hit[:, :each].any(1).double().mean()) for each in ks}


def table(predictions: Predictions, packed: Packed) -> pd.DataFrame:
    """A row an image: image, label, top1 … top5, probability of the true class; in the index's order."""
    logits = predictions.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    probability = shares[np.arange(len(logits)), predictions.labels] / shares.sum(1)
    frame = pd.DataFrame({"image": packed.index["path"].to_numpy()[predictions.rows], "label": predictions.labels})
    for rank in range(order.shape[1]):
        frame[f"top{rank + 1}"] = order[:, rank]
    return frame.assign(probability=probability)
