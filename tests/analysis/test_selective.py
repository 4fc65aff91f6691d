"""Risk against coverage, recounted one image at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapml.analysis import probabilities
from lapml.analysis.sections import markdown

ANSWERS = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.50001, 0.9]), st.booleans()), min_size=1, max_size=30)


@given(ANSWERS)
def test_risks_by_hand(answers):
    """The mean over all orders in which answers of equal confidence may stand."""
    confidence, right = (np.array(column) for column in zip(*answers, strict=True))
    found = probabilities.risks(confidence, right)
    for k in range(1, len(right) + 1):
        wrong, left = 0.0, k
        for level in sorted(set(confidence), reverse=True):
            of_level = ~right[confidence == level]
            taken = min(left, len(of_level))
            wrong, left = wrong + taken * of_level.mean(), left - taken
        assert found[k - 1] == pytest.approx(wrong / k)


@given(ANSWERS, st.randoms())
def test_order_does_not_matter(answers, random):
    shuffled = random.sample(answers, len(answers))
    one, two = (probabilities.risks(*map(np.array, zip(*each, strict=True))) for each in (answers, shuffled))
    assert one == pytest.approx(two)


def test_the_area_is_what_the_literature_has():
    """Scores of the least risk: all right answers before all wrong ones, the area is r + (1 − r) ln(1 − r) for many images."""
    n, rate = 20_000, 0.2
    right = np.arange(n) >= rate * n
    area = probabilities.risks(right.astype(float) + np.linspace(0, 1e-3, n), right).mean()
    assert area == pytest.approx(rate + (1 - rate) * np.log(1 - rate), abs=1e-3)
    unsure = probabilities.risks(np.random.default_rng(0).random(n), right)
    assert unsure.mean() == pytest.approx(rate, abs=0.02) and unsure[-1] == pytest.approx(rate)


def test_a_table_by_hand():
    right = np.array([True] * 8 + [False] * 2)
    curves = {"a_method": probabilities.risks(np.linspace(1, 0.1, 10), right)}
    area = np.mean([0] * 8 + [1 / 9, 2 / 10])
    [section] = probabilities.coverages("birds", curves, ["a_method"])
    assert section.rows == [["a_method", f"{100 * area:.2f}", "80.0", "88.9", "100.0", "100.0"]]
    text = markdown([section])
    assert f"| a_method | {100 * area:.2f} | 80.0 | 88.9 | 100.0 | 100.0 |" in text
    assert text.startswith("### birds: risk") and text.endswith(f"\n\n{probabilities.RISK_NOTE}\n")
    assert probabilities.coverages("none", {}, ["a_method"]) == [] and markdown([]) == ""
    [section] = probabilities.coverages("birds", curves, ["old", "a_method", "older"])
    assert section.note.endswith(" Without old, older: not all runs of them recorded their confidence.")
