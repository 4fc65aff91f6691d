"""Mixers by maps made before training, and what says how much of a gain is localisation's: each by its definition, in loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.config import Method
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.mixing import Draws, Evidence, Mixed, mix, mixer
from lapml.mixing.localized import Settings
from lapml.mixing.maps import centred_gaussian, normalised
from lapml.models.model import build
from lapml.training.mixes import Mixes, freshly
from lapml.training.step import make_learner

SIDE = 24
FOUND = ["objects", "activation"]
LOCALIZED = {"alpha": 1.0, "area": [0.05, 0.5], "temperature": 1.0, "support": 0.3}
KEYS = {
    "localized": LOCALIZED,
    "cutmix": {"alpha": 1.0, "maps": "objects"},
    "clipped": {"alpha": 1.0, "maps": None, "area": [0.05, 0.5]},
    "random": {"alpha": 1.0, "area": [0.05, 0.5], "maps": None},
    "snapmix": {"alpha": 5.0, "same_class": "single"},
    "attentive_cutmix": {"cells": 0.2},
}


def make(seed: int, count: int = 5, grid: int = 14) -> tuple[Draws, Evidence]:
    g = torch.Generator().manual_seed(seed)
    objects, activation = torch.rand(2, count, grid, grid, generator=g) ** 6
    maps = torch.rand(count, 6, 6, generator=g)
    batch = Draws(
        torch.randn(count, 3, SIDE, SIDE, generator=g),
        torch.randint(3, (count,), generator=g),
        torch.arange(count).roll(1),
        torch.rand(count, generator=g),
        torch.rand(count, 2, generator=g),
        torch.rand(count, 3, generator=g),
    )
    features = torch.randn(count, 5, 6, 6, generator=g)
    known = {"maps": maps, "objects": objects, "activation": activation}
    return batch, Evidence(features=features, **{name: normalised(each) for name, each in known.items()})


def averaged(cells: np.ndarray, grid: int) -> np.ndarray:
    """Each of grid × grid cells is the mean of the cells that it touches; then to sum 1."""
    number, made = len(cells), np.zeros((grid, grid))
    for y in range(grid):
        for x in range(grid):
            (top, bottom), (left, right) = (
                (at * number // grid, -(-(at + 1) * number // grid)) for at in (y, x)
            )  # fmt: skip
            made[y, x] = cells[top:bottom, left:right].mean()
    return made / made.sum()


def square(centre: list[float], extent: int) -> list[int]:
    low = [min(max(round(each * SIDE - extent / 2), 0), SIDE - extent) for each in centre]
    return [*low, low[0] + extent, low[1] + extent]


def extent_of(lam: float, low: float = 0.05, high: float = 0.5) -> int:
    return round(math.sqrt(min(max(1 - lam, low), high)) * SIDE)


def mass(cells: np.ndarray, box: list[int]) -> float:
    fine = math.lcm(len(cells), SIDE)
    pixels = np.kron(cells, np.ones((fine // len(cells),) * 2)) / (fine // len(cells)) ** 2
    x0, y0, x1, y1 = (edge * fine // SIDE for edge in box)
    return float(pixels[y0:y1, x0:x1].sum())


def same_paste(batch: Draws, mixed: Mixed) -> None:
    """The images are the references with the donors' boxes pasted."""
    for i, (to, source) in enumerate(zip(mixed.box_reference.tolist(), mixed.box_donor.tolist(), strict=True)):
        expected = batch.images[i].clone()
        expected[:, to[1] : to[3], to[0] : to[2]] = batch.images[
            int(batch.donors[i]), :, source[1] : source[3], source[0] : source[2]
        ]
        assert torch.equal(mixed.images[i], expected)


# --- localized CutMix on other maps ---


@given(
    st.integers(0, 2**31 - 1), st.sampled_from([*FOUND, "gaussian"]), st.sampled_from(["area", "semantic", "snapmix"])
)
@settings(max_examples=60)
def test_localized_goes_by_the_maps_that_it_is_given(seed, maps, label):
    """As with class maps equal to them: the part is drawn, the support found and the label made on them, at the grid of the
    features; the model's own class maps are not looked at."""
    batch, evidence = make(seed)
    if maps == "gaussian":
        at = (np.arange(6) + 0.5) / 6 - 0.5
        bell = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 0.25**2))
        expected = np.stack([bell / bell.sum()] * 5)
    else:
        expected = np.stack([averaged(each.double().numpy(), 6) for each in getattr(evidence, maps)])
    same = Evidence(maps=torch.from_numpy(expected).float(), features=evidence.features)
    mixed = mix(batch, evidence, mixer("localized", label, **LOCALIZED, maps=maps))
    as_class_maps = mix(batch, same, mixer("localized", label, **LOCALIZED, maps="fresh"))
    assert torch.equal(mixed.box_reference, as_class_maps.box_reference)
    assert torch.equal(mixed.box_donor, as_class_maps.box_donor) and torch.equal(mixed.images, as_class_maps.images)
    for name in ("kept", "pasted", "rho", "similarity"):
        torch.testing.assert_close(getattr(mixed, name), getattr(as_class_maps, name), atol=1e-6, rtol=0)
    same_paste(batch, mixed)


def test_the_gaussian_is_centred_and_as_wide_as_said():
    bell = centred_gaussian(torch.zeros(3, 7, 101, 51))
    assert bell.shape == (3, 101, 51) and bell.sum((1, 2)).tolist() == pytest.approx([1] * 3)
    torch.testing.assert_close(bell, bell.flip(1))
    torch.testing.assert_close(bell, bell.flip(2))
    assert float(bell[0, 50, 25] / bell[0, 50 + 25, 25]) == pytest.approx(math.exp(0.5 * (25 / 101 / 0.25) ** 2))


@pytest.mark.parametrize(
    ("keys", "needs", "fresh"),
    [
        ({"maps": "recent"}, ("recent",), ("fresh",)),
        ({"maps": "fresh"}, ("fresh",), ("fresh",)),
        ({"maps": "objects"}, ("objects", "recent"), ("objects", "fresh")),
        ({"maps": "activation", "features": "fresh"}, ("activation", "fresh"), ("activation", "fresh")),
        ({"maps": "gaussian"}, ("recent",), ("fresh",)),
    ],
)
def test_what_localized_asks_for(keys, needs, fresh):
    settings_ = mixer("localized", "semantic", **LOCALIZED, **keys)
    assert settings_.needs() == needs and settings_.freshly().needs() == fresh
    assert settings_.freshly().label == "semantic"
    assert settings_.recorded() == {"name": "localized", **LOCALIZED, **keys}  # as before there were others


def test_its_own_features_are_fresh_for_a_joint_pass():
    made = Method.model_validate({
        "mix": {"prob": 1.0, "warmup_epochs": 0}, "label": "semantic",
        "mixer": {"name": "localized", **LOCALIZED, "maps": "objects", "features": "fresh"},
        "margin": {"m": 0.6, "weight": 0.7, "pos_margin": 0.1, "scale": "constant", "reference": "joint", "every": 1},
    })  # fmt: skip
    assert isinstance(made.mixer, Settings)


# --- CutMix with our sizes, at random places, with our label ---


@given(st.integers(0, 2**31 - 1), st.sampled_from(["clipped", "random"]))
@settings(max_examples=60)
def test_clipped_cutmix_and_random_places_by_loops(seed, name):
    """Both have the reference's square at the same place; CutMix takes the donor's from there, the other from anywhere."""
    batch, _ = make(seed)
    mixed = mix(batch, Evidence(), mixer("random" if name == "random" else "cutmix", "area", **KEYS[name]))
    for i in range(5):
        extent = extent_of(float(batch.lam[i]))
        to = square(batch.uniform[i].tolist(), extent)
        source = to if name == "clipped" else square(batch.second[i, 1:].tolist(), extent)
        assert mixed.box_reference[i].tolist() == to and mixed.box_donor[i].tolist() == source
        assert float(mixed.rho[i]) == pytest.approx(extent**2 / SIDE**2)
    torch.testing.assert_close(mixed.kept + mixed.pasted, torch.ones(5))
    same_paste(batch, mixed)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["cutmix", "random"]), st.sampled_from(FOUND),
       st.sampled_from(["semantic", "snapmix"]))  # fmt: skip
@settings(max_examples=60)
def test_their_label_by_objects(seed, name, maps, label):
    """The boxes are those of the label by area; the weights are of the objects' masses in either box."""
    batch, evidence = make(seed)
    plain = mix(batch, Evidence(), mixer(name, "area", **{**KEYS[name], "maps": None}))
    mixed = mix(batch, evidence, mixer(name, label, **{**KEYS[name], "maps": maps}))
    assert torch.equal(mixed.images, plain.images)
    cells = getattr(evidence, maps).double().numpy()
    for i in range(5):
        kept = 1 - mass(cells[i], mixed.box_reference[i].tolist())
        pasted = mass(cells[int(batch.donors[i])], mixed.box_donor[i].tolist())
        expected = (kept, pasted) if label == "snapmix" else (kept / (kept + pasted), pasted / (kept + pasted))
        assert (float(mixed.kept[i]), float(mixed.pasted[i])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "label", "keys", "said"),
    [
        ("random", "semantic", {}, "expected area with mixer.maps null"),
        ("cutmix", "area", {}, "expected one of semantic, snapmix with mixer.maps objects"),
        ("cutmix", "area", {"maps": None, "area": [0.6, 0.5]}, "a_min <= a_max"),
        ("localized", "area", {"maps": "recent", "features": "fresh"}, "features: found 'fresh', .* maps 'recent'"),
        ("localized", "area", {"maps": "uniform"}, "'gaussian'"),
        ("cutmix", "area", {"maps": "gaussian"}, "maps"),
        ("random", "area", {"area": None}, "area"),
        ("snapmix", None, {"maps": "fresh"}, "'scores' or 'objects'"),
        ("attentive_cutmix", None, {"maps": "scores"}, "'attention' or 'objects'"),
    ],
)
def test_keys_that_are_wrong(name, label, keys, said):
    with pytest.raises(ValueError, match=said):
        mixer(name, label, **{**KEYS[name], **keys})


# --- the comparators given object maps ---


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=40)
def test_snapmix_weighs_by_objects(seed):
    batch, evidence = make(seed)
    uniform = torch.full((5, SIDE, SIDE), SIDE**-2.0)
    plain = mix(batch, Evidence(scores=uniform), mixer("snapmix", **KEYS["snapmix"]))
    mixed = mix(batch, evidence, mixer("snapmix", **KEYS["snapmix"], maps="objects"))
    assert torch.equal(mixed.images, plain.images) and torch.equal(mixed.box_reference, plain.box_reference)
    cells = evidence.objects.double().numpy()
    for i in range(5):
        kept = 1 - mass(cells[i], mixed.box_reference[i].tolist())
        pasted = mass(cells[int(batch.donors[i])], mixed.box_donor[i].tolist())
        assert (float(mixed.kept[i]), float(mixed.pasted[i])) == pytest.approx((kept, pasted), abs=1e-5)


@given(st.integers(0, 2**31 - 1), st.floats(0.02, 0.98), st.sampled_from([5, 7, 14]))
@settings(max_examples=40)
def test_attentive_cutmix_pastes_the_cells_with_most_of_the_object(seed, share, grid):
    """On at most 7 × 7 cells, as its authors'."""
    batch, evidence = make(seed, grid=grid)
    mixed = mix(batch, evidence, mixer("attentive_cutmix", cells=share, maps="objects"))
    cells = min(grid, 7)
    top = min(max(round(share * cells**2), 1), cells**2 - 1)
    assert mixed.mask.shape == (5, cells, cells) and mixed.mask.sum((1, 2)).tolist() == [top] * 5
    assert mixed.pasted.tolist() == pytest.approx([top / cells**2] * 5)
    for i in range(5):
        seen = averaged(evidence.objects[int(batch.donors[i])].double().numpy(), cells)
        chosen = mixed.mask[i].numpy() > 0
        assert seen[chosen].min() >= seen[~chosen].max() - 1e-7


@pytest.mark.parametrize(
    ("name", "maps"), [("snapmix", "scores"), ("attentive_cutmix", "attention"), ("cutmix", None), ("random", None)]
)
def test_what_they_ask_for_and_record(name, maps):
    """Without the new keys they are what they were."""
    keys = {key: value for key, value in KEYS[name].items() if key != "maps"}
    old = mixer(name, None if maps else "area", **keys, **({} if maps else {"maps": None}))
    assert old.needs() == ((maps,) if maps else ())
    assert old.recorded() == {"name": name, **keys, **({} if maps else {"maps": None})}
    new = mixer(name, None if maps else "semantic", **keys, maps="objects")
    assert new.needs() == ("objects",) and new.recorded()["maps"] == "objects" and new.freshly() is new


# --- all of them ---

CASES = [
    ("localized", "semantic", {**LOCALIZED, "maps": "objects"}),
    ("localized", "semantic", {**LOCALIZED, "maps": "activation"}),
    ("localized", "semantic", {**LOCALIZED, "maps": "gaussian"}),
    ("cutmix", "semantic", KEYS["cutmix"]),
    ("cutmix", "area", KEYS["clipped"]),
    ("random", "semantic", {**KEYS["random"], "maps": "objects"}),
    ("snapmix", None, {**KEYS["snapmix"], "maps": "objects"}),
    ("attentive_cutmix", None, {**KEYS["attentive_cutmix"], "maps": "objects"}),
]
NAMED = [f"{name}-{keys.get('maps')}" for name, _, keys in CASES]


@pytest.mark.parametrize(("name", "label", "keys"), CASES, ids=NAMED)
@pytest.mark.parametrize("bad", [0.0, 0.37, float("nan"), float("inf")])
def test_maps_that_say_nothing_count_as_uniform(name, label, keys, bad):
    batch, evidence = make(3, 3)
    changed = {each: getattr(evidence, each).clone() for each in FOUND}
    for each in changed.values():
        each[0] = bad
    settings_ = mixer(name, label, **keys)
    mixed = mix(batch, Evidence(maps=evidence.maps, features=evidence.features, **changed), settings_)
    uniform = {each: value.clone() for each, value in changed.items()}
    for each in uniform.values():
        each[0] = 1 / 14**2
    expected = mix(batch, Evidence(maps=evidence.maps, features=evidence.features, **uniform), settings_)
    assert torch.equal(mixed.images, expected.images)
    torch.testing.assert_close(mixed.rho, expected.rho)
    for each in (mixed.kept, mixed.pasted, mixed.rho):
        assert ((each >= 0) & (each <= 1)).all()


@pytest.mark.parametrize(("name", "label", "keys"), CASES, ids=NAMED)
def test_batches_of_any_size_and_donors_only(name, label, keys, recorder):
    """Also that nothing is waited for, and that nothing of what is given is changed."""
    settings_ = mixer(name, label, **keys)
    for count in (1, 3, 5):
        batch, evidence = make(count, count)
        with recorder() as seen:
            mixed = mix(batch, evidence, settings_)
        assert not seen.waits
        again, same = make(count, count)
        assert torch.equal(batch.images, again.images) and torch.equal(evidence.objects, same.objects)
        assert mixed.images.shape == batch.images.shape and ((mixed.rho >= 0) & (mixed.rho <= 1)).all()
    fewer = Draws(batch.images, batch.labels, batch.donors[:4], batch.lam[:4], batch.uniform[:4], batch.second[:4])
    part = mix(fewer, evidence, settings_)
    torch.testing.assert_close(part.images, mixed.images[:4])
    torch.testing.assert_close(part.kept, mixed.kept[:4])


# --- where the maps come from ---


class Half:
    """Objects are the left half of every image."""

    def recall(self, rows, windows):
        maps = torch.zeros(len(rows), 4, 4)
        maps[:, :, :2] = 1 / 8
        return (maps,)


def row(maps: str) -> Method:
    return Method.model_validate({
        "mix": {"prob": 1.0, "warmup_epochs": 0}, "label": "semantic",
        "mixer": {"name": "localized", **LOCALIZED, "maps": maps},
    })  # fmt: skip


@pytest.mark.parametrize("maps", ["objects", "gaussian"])
def test_the_diagnosis_mixes_by_what_is_stored_and_shows_it(small_run, annotated, maps):
    run = small_run("baseline")
    model, weights = build(run.model, 3, 48, seed=0)
    plain = freshly(row(maps))
    mixes = Mixes(run, model.eval(), weights, annotated, {"loc": plain})
    mixes.stored = {"objects": Half()}  # in place of maps on the disk
    batch, _, made, class_maps = next(mixes.generate(6))
    mixed, evidence = made["loc"]
    shown = plain.mixer.shown(evidence)
    assert shown.shape == class_maps.shape and not torch.equal(shown, class_maps)
    if maps == "objects":
        torch.testing.assert_close(shown[:, :, :3].sum((1, 2)), torch.ones(6))  # of 6 cells in a row
        middle = (mixed.box_donor[:, 0] + mixed.box_donor[:, 2]) / 2
        assert (middle <= torch.maximum(torch.tensor(24.0), (mixed.box_donor[:, 2] - mixed.box_donor[:, 0]) / 2)).all()
    else:
        torch.testing.assert_close(shown, centred_gaussian(evidence.features))


def test_training_by_them_keeps_a_bank_of_features(small_run, annotated):
    """And mixes ahead of the step, where what is stored is at hand."""
    run = small_run("baseline").model_copy(update={"settings": row("gaussian")})
    model, _ = build(run.model, 3, 48, seed=0)
    it = make_learner(run, model, len(annotated.index), torch.device("cpu"), "fp32")
    batches = Batches(
        annotated, rows_of(annotated.index, ["train"]), run.data.view, [0.5] * 3, [0.5] * 3, torch.device("cpu")
    )
    batch = next(iter(batches.training(0, 0, 6, run.settings, then=it.ahead)))
    assert batch.made is not None and batch.made.similarity is not None
