"""Metrics against literal loops."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from lapml.data.fetch.sources import fetch
from lapml.data.index import rows_of
from lapml.data.pack import prepare
from lapml.errors import LapmlError
from lapml.models.model import build
from lapml.paths import Paths
from lapml.runs import evaluate
from lapml.runs.evaluate import Predictions, metrics, recall_at, table
from lapml.runs.reevaluate import transfer


def predictions_of(count: int, classes: int, seed: int = 0, width: int = 6, integer: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (count, classes)) if integer else 3 * rng.standard_normal((count, classes))
    embeddings = rng.standard_normal((count, width))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = rng.integers(0, classes, count)
    return Predictions(np.arange(count), labels, logits.astype(np.float32), embeddings.astype(np.float32))


def ranked(logits: list[float]) -> list[int]:
    """Classes from the best, the first of equals first."""
    return sorted(range(len(logits)), key=lambda k: (-logits[k], k))


def loop_recall(embeddings: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Over the images that have another one of their class."""
    hits, counted = 0, [i for i in range(len(labels)) if labels.tolist().count(labels[i]) > 1]
    for i in counted:
        others = [j for j in range(len(labels)) if j != i]
        others.sort(key=lambda j: -float(embeddings[i].astype(np.float64) @ embeddings[j].astype(np.float64)))
        hits += any(labels[j] == labels[i] for j in others[:k])
    return hits / len(counted) if counted else math.nan


def loop_metrics(predictions: Predictions) -> dict[str, float]:
    labels, logits = predictions.labels.tolist(), predictions.logits.astype(np.float64).tolist()
    top1 = [ranked(z)[0] == y for z, y in zip(logits, labels, strict=True)]
    top5 = [y in ranked(z)[:5] for z, y in zip(logits, labels, strict=True)]
    classes = [[hit for hit, y in zip(top1, labels, strict=True) if y == label] for label in sorted(set(labels))]
    loss = [math.log(sum(math.exp(each) for each in z)) - z[y] for z, y in zip(logits, labels, strict=True)]
    softmax = [[math.exp(each - max(z)) / sum(math.exp(other - max(z)) for other in z) for each in z] for z in logits]
    brier = [sum((p - (k == y)) ** 2 for k, p in enumerate(shares)) for shares, y in zip(softmax, labels, strict=True)]
    ece = 0.0
    for low in range(15):
        inside = [(max(s), hit) for s, hit in zip(softmax, top1, strict=True) if low / 15 < max(s) <= (low + 1) / 15]
        ece += abs(sum(hit - confidence for confidence, hit in inside)) / len(labels)
    lone = sum(labels.count(y) == 1 for y in labels)
    recalls = {k: 100 * loop_recall(predictions.embeddings, predictions.labels, k) for k in (1, 5)}
    return {
        "top1": 100 * sum(top1) / len(top1),
        "top5": 100 * sum(top5) / len(top5) if len(logits[0]) > 5 else None,
        "mean_class": 100 * sum(sum(each) / len(each) for each in classes) / len(classes),
        **{f"recall{k}": recall if lone < len(labels) > k + 1 else None for k, recall in recalls.items()},
        "recall_left_out": lone,
        "loss": sum(loss) / len(loss),
        "ece": 100 * ece,
        "brier": sum(brier) / len(brier),
        "n": len(labels),
    }


@given(st.integers(2, 30), st.integers(2, 9), st.integers(0, 10_000), st.booleans())
@settings(max_examples=40)
def test_metrics(count, classes, seed, ties):
    """Also with equal logits, with fewer than five classes, and with classes that no image has."""
    predictions = predictions_of(count, classes, seed, integer=ties)
    found, expected = metrics(predictions), loop_metrics(predictions)
    assert found.keys() == expected.keys() | {"loss_scaled", "ece_scaled", "temperature"}  # test_calibration.py
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
    assert found["n"] == count and isinstance(found["n"], int)


def test_metrics_by_hand():
    logits = np.array([[2, 1, 0], [0, 2, 1], [0, 1, 2], [9, 0, 0]], np.float32)
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    found = metrics(Predictions(np.arange(4), np.array([0, 1, 2, 1]), logits, embeddings))
    assert found["top1"] == 75 and found["top5"] is None  # among three classes
    assert found["mean_class"] == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    assert found["recall1"] == 0 and found["recall5"] is None  # the five nearest of three others
    assert found["recall_left_out"] == 2


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0], [0, 1e4]], np.float32)
    found = metrics(Predictions(np.arange(2), np.array([0, 0]), logits, np.eye(2, dtype=np.float32)))
    assert found["loss"] == pytest.approx(5e3)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_recall(k):
    predictions = predictions_of(40, 6, seed=3)
    found = recall_at(predictions.embeddings, predictions.labels, (k,))
    assert found == {k: pytest.approx(loop_recall(predictions.embeddings, predictions.labels, k))}


def test_recall_over_several_blocks():
    """1024 rows are searched at a time."""
    predictions = predictions_of(1100, 300, seed=4)
    similarity = predictions.embeddings.astype(np.float64) @ predictions.embeddings.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    hits = predictions.labels[similarity.argmax(1)] == predictions.labels
    found = recall_at(predictions.embeddings, predictions.labels, (1,))
    assert found[1] == pytest.approx(hits.mean(), abs=2 / 1100)


LABELS = st.one_of(
    st.lists(st.integers(0, 5), min_size=2, max_size=60),  # random
    st.lists(st.integers(1, 400).map(lambda n: int(400 / n)), min_size=2, max_size=60),  # long-tailed: many come once
    st.integers(2, 20).map(lambda n: [7] * n),  # one class
    st.tuples(st.integers(0, 6), st.integers(2, 9)).map(lambda each: [*range(100, 100 + each[0]), *[3] * each[1]]),
)


@given(LABELS, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_recall_is_pytorch_metric_learnings(labels, seed):
    """Images that are the only one of their class are left out there too; some image has another one here."""
    labels = np.array([*labels, labels[0]])
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((500, 6))[labels] + 0.8 * rng.standard_normal((len(labels), 6))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)

    def nearest(query, k, reference, ref_includes_query):
        similarity = query @ reference.T
        similarity.fill_diagonal_(2.0)  # an image is the nearest to itself, whatever rounding says
        return (order := similarity.sort(1, descending=True)).values[:, 1 : k + 1], order.indices[:, 1 : k + 1]

    calculator = AccuracyCalculator(include=("precision_at_1",), k=1, knn_func=nearest)
    expected = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))["precision_at_1"]
    found = recall_at(embeddings, labels, (1, 5))
    assert found[1] == pytest.approx(expected)
    assert found[5] == pytest.approx(loop_recall(embeddings, labels, 5))


@pytest.mark.parametrize("ties", [False, True])
def test_a_perfect_embedding_finds_all_that_can_be_found(ties):
    """Four classes of one image beside one of eight: what counts is whether those that have others find them."""
    labels = np.array([0, 1, 2, 3, *[4] * 8])
    embeddings = np.eye(5, dtype=np.float32)[labels]
    if not ties:
        embeddings = embeddings + 0.01 * np.random.default_rng(0).random(embeddings.shape, np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert recall_at(embeddings, labels, (1, 5)) == {1: 1.0, 5: 1.0}
    found = metrics(Predictions(np.arange(12), labels, np.eye(9, dtype=np.float32)[labels], embeddings))
    assert (found["recall1"], found["recall5"], found["recall_left_out"], found["n"]) == (100, 100, 4, 12)
    assert found["top5"] == 100  # of nine classes


def test_where_no_image_can_be_found_there_is_no_recall():
    found = recall_at(np.eye(4, dtype=np.float32), np.arange(4), (1, 5))
    assert set(found) == {1, 5} and all(math.isnan(share) for share in found.values())
    seen = Predictions(np.arange(4), np.arange(4), np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32))
    measured = metrics(seen)
    assert measured["top1"] == 100 and measured["recall_left_out"] == measured["n"] == 4
    assert measured["recall1"] is measured["recall5"] is measured["top5"] is None
    json.dumps(measured, allow_nan=False)


def test_recall_of_few_images():
    one = np.array([[1.0, 0.0]], np.float32)
    assert all(math.isnan(share) for share in recall_at(one, np.array([0]), (1, 5)).values())
    pair = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert recall_at(pair, np.array([3, 3]), (1, 5)) == {1: 1.0, 5: 1.0}


@pytest.mark.parametrize(
    ("images", "known"), [(2, []), (3, ["recall1"]), (6, ["recall1"]), (7, ["recall1", "recall5"])]
)
def test_a_recall_that_cannot_be_missed_is_none(images, known):
    labels = np.zeros(images, int)
    seen = Predictions(np.arange(images), labels, np.eye(3, dtype=np.float32)[labels], np.eye(images, dtype=np.float32))
    assert [name for name in ("recall1", "recall5") if metrics(seen)[name] is not None] == known


@pytest.mark.parametrize("classes", [3, 5, 8])
def test_table(packed, classes):
    rows = np.array([40, 3, 17])
    made = predictions_of(3, classes, seed=6)
    predictions = Predictions(rows, made.labels, made.logits, made.embeddings)
    found = table(predictions, packed)
    shown = min(5, classes)
    ranks = [f"top{rank}" for rank in range(1, shown + 1)]
    assert found.columns.tolist() == ["image", "label", *ranks, "probability", "confidence"]
    assert found["image"].tolist() == packed.index["path"].iloc[rows].tolist()
    assert found["label"].tolist() == made.labels.tolist()
    for i in range(3):
        z = made.logits[i].astype(np.float64)
        assert found.loc[i, [f"top{rank}" for rank in range(1, shown + 1)]].tolist() == ranked(z.tolist())[:shown]
        shares = np.exp(z) / np.exp(z).sum()
        assert found.loc[i, "probability"] == pytest.approx(shares[made.labels[i]], rel=1e-5)
        assert found.loc[i, "confidence"] == pytest.approx(max(shares), rel=1e-5)


# --- predictions ---


@pytest.mark.parametrize("development, split", [(True, "val"), (False, "test")])
def test_predictions_are_of_the_split_in_evaluation_mode(small_run, packed, development, split):
    run = small_run("baseline", development=development)
    model, weights = build(run.model, 3, run.data.view.side, seed=0)
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    seen = evaluate.predict(model, packed, run, weights, torch.device("cpu"), "fp32")
    assert seen.rows.tolist() == rows_of(packed.index, [split]).tolist()
    assert seen.labels.tolist() == packed.index["label"].to_numpy()[seen.rows].tolist()
    assert seen.logits.shape == (12, 3) and seen.logits.dtype == seen.embeddings.dtype == np.float32
    assert np.linalg.norm(seen.embeddings, axis=1) == pytest.approx(np.ones(12), abs=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    smaller = run.model_copy(update={"train": run.train.model_copy(update={"batch": 2})})
    again = evaluate.predict(model, packed, smaller, weights, torch.device("cpu"), "fp32")
    np.testing.assert_allclose(again.logits, seen.logits, atol=1e-5)


def test_an_empty_split(small_run, packed):
    run = small_run("baseline")
    index = packed.index.assign(split="train")
    empty = type(packed)(index, packed.images, packed.meta, packed.class_names)
    with pytest.raises(LapmlError, match="its test split is empty"):
        evaluate.predict(None, empty, run, {}, torch.device("cpu"), "fp32")


def test_a_pack_of_other_settings_is_not_read(small_params, write, tmp_path):
    """As training refuses it: the split would be another one."""
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (folder := tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            picture = np.random.default_rng([number, *name.encode()]).integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(picture).save(folder / f"{number}.png")
    params, paths = small_params(), Paths("demo", tmp_path)
    changes = {"source": str(tmp_path / "images"), "reader": "folder", "synthetic": None, "classes": "all"}
    packed = params.data["birds"].model_copy(update={**changes, "val_fraction": 0.2})
    fetch("birds", packed, paths)
    prepare("birds", packed, paths, progress=False)
    asked = params.model_copy(update={"data": {"birds": packed.model_copy(update={"val_fraction": 0.5})}})
    with pytest.raises(
        LapmlError, match=r"made with val_fraction 0.2, expected data.birds.val_fraction: 0.5; make it again"
    ):
        transfer(write("baseline/0"), "birds", "val", asked, tmp_path)
