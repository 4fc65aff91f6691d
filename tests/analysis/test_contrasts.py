"""Primary contrasts: the same differences as elsewhere, corrected among themselves alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from lapml import config
from lapml.analysis.headline import contrasts, sections
from lapml.analysis.sections import markdown
from lapml.analysis.stats import paired_bootstrap
from lapml.errors import LapmlError
from lapml.runs.records import Answers

PARAMS = Path(__file__).parents[2] / "params.yaml"
NAMED = "report.primary=[[loc_cutmix, cutmix], [loc_cutmix, baseline], [margin, loc_cutmix]]"


def settings(*overrides: str):
    return config.load(PARAMS, [NAMED, "report.bootstrap=500", *overrides])


@pytest.fixture
def answers() -> dict[tuple[str, str], Answers]:
    rng, luck = np.random.default_rng(0), np.random.default_rng(1).random(200)
    skill = {"baseline": 0.5, "cutmix": 0.45, "loc_cutmix": 0.62}
    found = {name: (luck + 0.2 * rng.random((3, 200)) < share + 0.1).astype(int) for name, share in skill.items()}
    found["margin"] = np.roll(found["loc_cutmix"], 1, axis=0)  # no better, no worse
    return {("birds", name): Answers([], np.ones(200), right) for name, right in found.items()}


def test_each_contrast_is_the_bootstrap_of_its_two_methods(answers):
    params = settings()
    table = pd.DataFrame(contrasts(answers, params))
    assert table[["method", "against"]].to_numpy().tolist() == params.report.primary
    for row in table.to_dict("records"):
        pair = [answers["birds", row[name]].right.astype(int) for name in ("method", "against")]
        found = paired_bootstrap(*pair, 500, 0.95, 0)
        assert [row[key] for key in ("difference", "low", "high")] == [100 * each for each in found[:3]]
        assert row["difference"] == pytest.approx(100 * (pair[0].mean() - pair[1].mean()))
    assert table["p_holm"].to_list() == pytest.approx(multipletests(table["p"], method="holm")[1])
    assert table["significant"].to_list() == (table["p_holm"] < 0.05).to_list()
    assert table["significant"].any() and not table["significant"].all()


def test_markdown_names_what_was_compared(answers):
    params = settings()
    text = markdown(sections([], contrasts(answers, params), params))
    assert text.count("\n| ") == 5 and "| loc_cutmix − cutmix | +" in text and "over these 3 alone" in text
    assert sections([], contrasts(answers, settings("report.primary=[]")), params) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[[loc_cutmix, snapmix]]", "report.primary: .*snapmix"),  # is no method of the tables
        ("[[cutmix, cutmix]]", "report.primary.0: found 'cutmix' against itself"),
        ("[[cutmix]]", "report.primary"),
    ],
)
def test_a_contrast_is_of_two_methods_of_the_tables(value, message):
    with pytest.raises(LapmlError, match=message):
        settings(f"report.primary={value}")
