"""The split: stratified, disjoint, complete, and independent of the order of rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.data.index import COLUMNS, SPLITS, build, rows_of
from lapml.errors import LapmlError


def frame_of(counts: list[tuple[int, int]]) -> pd.DataFrame:
    """Classes with (training images, test images)."""
    rows = [
        (f"{label:03}/{official}{image}.jpg", label, f"class {label}", official, [0.0, 0.0, 1.0, 1.0], None)
        for label, (train, test) in enumerate(counts)
        for official, count in (("train", train), ("test", test))
        for image in range(count)
    ]
    return pd.DataFrame(rows, columns=["image", "label", "class_name", "official", "box", "parts"])


COUNTS = st.lists(st.tuples(st.integers(2, 9), st.integers(0, 4)), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)  # a first call imports, which is slow
@given(
    counts=COUNTS,
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
    shuffle=st.randoms(use_true_random=False),
)
def test_split(counts, fraction, seed, shuffle):
    frame = frame_of(counts)
    index = build(frame, fraction, seed)
    assert tuple(index.columns) == COLUMNS
    assert sorted(index["path"]) == sorted(frame["image"])  # complete, each once
    for label, (train, test) in enumerate(counts):
        count = index["split"][index["label"] == label].value_counts()
        assert count.get("test", 0) == test and count["train"] >= 1 and count["val"] >= 1
        assert count["val"] == min(max(round(fraction * train), 1), train - 1)
    for path, split in index[["path", "split"]].to_numpy():
        assert path.split("/")[1].startswith("test") == (split == "test")

    order = list(range(len(frame)))
    shuffle.shuffle(order)
    pd.testing.assert_frame_equal(index, build(frame.iloc[order], fraction, seed))


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS, splits=st.sets(st.sampled_from(SPLITS)))
def test_rows_of(counts, splits):
    index = build(frame_of(counts), 0.3, 0)
    rows = rows_of(index, sorted(splits))
    assert rows.tolist() == [row for row, split in enumerate(index["split"]) if split in splits]


def test_seed_changes_the_split_and_is_pinned():
    frame = frame_of([(12, 2), (12, 2)])
    indices = {seed: build(frame, 0.25, seed) for seed in (0, 1)}
    chosen = {seed: index["path"][rows_of(index, ["val"])].tolist() for seed, index in indices.items()}
    assert chosen[0] != chosen[1]
    # Recomputed from the definition: the smallest uniform numbers of default_rng([seed, label]) over sorted paths.
    for seed, paths in chosen.items():
        expected = []
        for label in (0, 1):
            names = sorted(path for path in frame["image"] if path.startswith(f"{label:03}/train"))
            order = np.random.default_rng([seed, label]).random(12).argsort()
            expected += [names[at] for at in order[:3]]
        assert sorted(paths) == sorted(expected)


def test_one_training_image():
    with pytest.raises(LapmlError, match="class 'class 1' has 1 training images"):
        build(frame_of([(3, 1), (1, 1)]), 0.5, 0)
