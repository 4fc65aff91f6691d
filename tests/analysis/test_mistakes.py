"""Which classes are taken for which, and which images hardly any run gets right: counted again, one answer at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml import config
from lapml.analysis import mistakes
from lapml.runs.records import Answers

CLASSES = 5


@pytest.fixture(scope="module")
def params():
    return config.load("params.yaml")


@st.composite
def some_answers(draw, methods=("baseline", "cutmix", "loc_cutmix_oracle")):
    seeds, images = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    numbers = st.integers(0, CLASSES - 1)
    labels = np.array(draw(st.lists(numbers, min_size=images, max_size=images)))
    rows = st.lists(numbers, min_size=images, max_size=images)
    paths = [f"{row}.jpg" for row in range(images)]
    names = [f"bird {label}" for label in range(CLASSES)]
    return {
        method: Answers(paths, labels, np.array(draw(st.lists(rows, min_size=seeds, max_size=seeds))), names)
        for method in methods
    }


@given(answers=some_answers())
def test_a_cell_is_the_share_of_a_classs_images(params, answers):
    found = mistakes.confused(answers, params)
    shown = [answers[method] for method in ("baseline", "cutmix")]  # the oracle is given the truth: no best method
    wrong = [
        sum(int(((each.first != each.labels) & (each.labels == label)).sum()) for each in shown)
        for label in range(CLASSES)
    ]
    if not any(wrong):
        assert found is None
        return
    classes = [label for label in range(CLASSES) if wrong[label]]
    assert found["classes"] == [f"bird {label}" for label in classes] and found["all"] == CLASSES
    assert found["images"] == [answers["cutmix"].labels.tolist().count(label) for label in classes]
    assert list(found["shares"]) == ["baseline", "cutmix"]
    for each, shares in zip(shown, found["shares"].values(), strict=True):
        assert shares.sum(1) == pytest.approx(100)
        for label, row in zip(classes, shares, strict=True):
            given = [
                answer for run in each.first for answer, truth in zip(run, each.labels, strict=True) if truth == label
            ]
            expected = [100 * given.count(other) / len(given) for other in classes]
            assert row.tolist() == pytest.approx([*expected, 100 - sum(expected)], abs=1e-9)


@given(answers=some_answers())
def test_accuracy_of_a_class_by_hand(params, answers):
    table = mistakes.by_class(answers)
    labels = answers["baseline"].labels.tolist()
    assert table["class"].to_list() == [f"bird {label}" for label in sorted(set(labels))]
    assert table["images"].to_list() == [labels.count(label) for label in sorted(set(labels))]
    for method, each in answers.items():
        for label, share in zip(sorted(set(labels)), table[method], strict=True):
            own = [run[at] == label for run in each.first for at in range(len(labels)) if labels[at] == label]
            assert share == pytest.approx(100 * sum(own) / len(own))
    shown = mistakes.extremes(table, answers, params)
    best = mistakes.ranked(answers, params)[0]
    assert list(shown)[-1] == best and shown[best].is_monotonic_increasing and len(shown) == min(len(table), 10)


def test_the_classes_with_most_mistakes_are_shown(params, monkeypatch):
    monkeypatch.setattr(mistakes, "MOST_CLASSES", 2)
    labels = np.repeat(np.arange(4), 3)
    first = labels.copy()
    first[[0, 3, 4, 9, 10, 11]] = [1, 0, 0, 2, 2, 2]  # one mistake of class 0, two of 1, none of 2, three of 3
    found = mistakes.confused({"cutmix": Answers(["x"] * 12, labels, first[None])}, params)
    assert found["classes"] == ["class 1", "class 3"]
    assert found["shares"]["cutmix"].tolist() == [[pytest.approx(100 / 3), 0, pytest.approx(200 / 3)], [0, 0, 100]]


@given(answers=some_answers(("baseline",)), seed=st.integers(0, 9))
def test_the_hardest_are_those_that_most_runs_get_wrong(answers, seed):
    each = answers["baseline"]
    truly = np.random.default_rng(seed).permutation(len(each.labels)) / 100
    found = mistakes.hardest(each, truly, 4)
    wrong = {path: int((each.first[:, row] != each.labels[row]).sum()) for row, path in enumerate(each.images)}
    order = sorted(range(len(wrong)), key=lambda row: (-wrong[each.images[row]], truly[row]))
    assert [one.image for one in found] == [each.images[row] for row in order if wrong[each.images[row]]][:4]
    for one in found:
        row = each.images.index(one.image)
        others = [answer for answer in each.first[:, row].tolist() if answer != one.label]
        assert (one.label, one.wrong, one.runs) == (each.labels[row], len(others), len(each.first))
        assert others.count(one.answer) == max(map(others.count, others)) and one.truly == truly[row]
