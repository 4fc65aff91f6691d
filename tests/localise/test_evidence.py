"""Maps on the disk as evidence: carried into views, checked when a run opens them, part of what a run is."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapml import config, mixing
from lapml.config.method import LOCALISED
from lapml.data.index import rows_of
from lapml.data.views import cut
from lapml.errors import LapmlError, Stopped
from lapml.localise import evidence
from lapml.localise.evidence import opened, stored
from lapml.mixing import FIELDS
from lapml.paths import Paths
from lapml.runs import execute as run
from lapml.training import loop as train

CPU = torch.device("cpu")
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
BY_PARTS = "methods.by_parts={mixer: {name: parts, alpha: 1.0, area: [0.1, 0.9], threshold: 0.5}, label: semantic}"
FROZEN = (
    "methods.frozen={mixer: {name: localized, alpha: 1.0, area: [0.05, 0.5], temperature: 1.0, support: 0.3, "
    "maps: activation}, label: semantic}"
)
MIX = ["methods.{}.mix.prob=1.0", "methods.{}.mix.warmup_epochs=0"]


@pytest.fixture(scope="module")
def params(small_params, tmp_path_factory):
    """params(*overrides): the small ones, with two methods that mix by maps."""
    file = tmp_path_factory.mktemp("suite") / "mapped.yaml"
    methods = "".join(f"  {each.partition('methods.')[2].replace('=', ': ', 1)}\n" for each in (BY_PARTS, FROZEN))
    base = os.path.relpath("params.yaml", file.parent)
    file.write_text(f"base: {base}\nmethods:\n{methods}")
    mixed = [each.format(name) for name in ("by_parts", "frozen") for each in MIX]
    return lambda *overrides: small_params(*mixed, *overrides, path=file)


@pytest.fixture(scope="module")
def by_parts(params):
    return lambda *overrides, seed=0: config.resolve(params(*overrides), "birds", "by_parts", seed)


def test_the_names_are_those_that_mixers_ask_by():
    assert set(LOCALISED) <= set(FIELDS)
    assert FIELDS["parts"] == ("part_maps", "part_descriptors")


# --- carried into views ---


def test_the_whole_square_shows_the_maps_as_they_are(packed, maps_of):
    maps = maps_of(packed)
    found = stored(maps, LOCALISED, len(packed.index), CPU)
    rows = torch.tensor([int(maps.rows[3]), int(maps.rows[0])])
    windows = WHOLE.repeat(2, 1)
    for need in ("objects", "activation"):
        expected = torch.from_numpy(getattr(maps, need)[[3, 0]].astype(np.float32))
        expected /= expected.sum((1, 2), keepdim=True)
        torch.testing.assert_close(found[need].recall(rows, windows)[0], expected, atol=1e-6, rtol=1e-4)
    parts, descriptors = found["parts"].recall(rows, windows)
    torch.testing.assert_close(parts, torch.from_numpy(maps.parts[[3, 0]].astype(np.float32)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        descriptors, torch.from_numpy(maps.descriptors[[3, 0]].astype(np.float32)), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(descriptors.norm(dim=2), torch.ones(2, 3))
    assert all(each.dtype == torch.float32 for each in (parts, descriptors))


@given(st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0.2, 0.4), st.booleans(), st.integers(0, 9))
def test_maps_go_where_the_image_goes(packed, maps_of, x, y, extent, flip, seed):
    """A part map is cut as an image of its cells would be, by the code that cuts images; it stays within its range."""
    maps = maps_of(packed, seed=seed)
    window = torch.tensor([[x, y, extent, extent, float(flip)]])
    row = torch.tensor([int(maps.rows[5])])
    found = stored(maps, LOCALISED, len(packed.index), CPU)
    parts, _ = found["parts"].recall(row, window)
    image = torch.from_numpy(maps.parts[5].astype(np.float32))
    for part in range(3):
        expected = cut(image[part][None, :, :, None], window, 6)[0, 0]
        torch.testing.assert_close(parts[0, part], expected)
    assert parts.min() >= 0 and parts.max() <= image.max() + 1e-5
    objects = found["objects"].recall(row, window)[0]
    torch.testing.assert_close(objects.sum(), torch.tensor(1.0))


def test_a_flipped_view_has_its_maps_mirrored(packed, maps_of):
    maps = maps_of(packed)
    found = stored(maps, ["objects"], len(packed.index), CPU)["objects"]
    row, flipped = torch.tensor([int(maps.rows[1])]), WHOLE.clone()
    flipped[4] = 1
    torch.testing.assert_close(found.recall(row, flipped[None])[0], found.recall(row, WHOLE[None])[0].flip(2))


def test_what_is_not_known_is_uniform_and_a_part_that_is_nowhere_is_0(packed, maps_of):
    maps = maps_of(packed)
    maps.objects[0] = 0
    maps.parts[0, 1], maps.descriptors[0, 1] = 0, 0
    found = stored(maps, LOCALISED, len(packed.index), CPU)
    test = int(rows_of(packed.index, ["test"])[0])  # was not localised
    rows = torch.tensor([int(maps.rows[0]), test])
    windows = WHOLE.repeat(2, 1)
    objects = found["objects"].recall(rows, windows)[0]
    torch.testing.assert_close(objects, torch.full((2, 6, 6), 1 / 36))
    parts, descriptors = found["parts"].recall(rows, windows)
    assert not parts[0, 1].any() and not descriptors[0, 1].any() and descriptors[0, 0].any()
    assert not parts[1].any() and not descriptors[1].any()


def test_only_what_is_asked_for_is_held(packed, maps_of):
    assert set(stored(maps_of(packed), ("parts", "fresh"), len(packed.index), CPU)) == {"parts"}
    assert stored(maps_of(packed), ("recent",), len(packed.index), CPU) == {}


# --- settings and records ---


def test_only_runs_that_mix_by_maps_record_how_they_were_found(params, by_parts):
    found = by_parts().record()["localise"]
    assert found == params().localise.recorded() and set(found) == {"model", "weights", "side", "parts", "seed"}
    for method in ("baseline", "loc_cutmix", "snapmix"):
        assert "localise" not in config.resolve(params(), "birds", method, 0).record()
    again = config.settings_of("config.json", by_parts().record())
    assert again.record() == by_parts().record() and again.localise == by_parts().localise
    assert by_parts("localise.side=224").record() != by_parts().record()
    assert by_parts("data.birds.overrides={localise: {side: 96}}").localise.side == 96


def test_a_file_without_the_section_is_complete_until_a_method_mixes_by_maps(params):
    without = "localise=null"
    assert params(without).localise is None
    with pytest.raises(LapmlError, match="localise: missing; by_parts mixes by objects and parts"):
        params(without, "ablation=[baseline, by_parts]")
    with pytest.raises(LapmlError, match="localise: missing; by_parts mixes by objects and parts"):
        config.resolve(params(without), "birds", "by_parts", 0)
    with pytest.raises(LapmlError, match="overrides.localise: found a change of localise, expected that section too"):
        params(without, "data.birds.overrides={localise: {side: 96}}")
    with pytest.raises(LapmlError, match="localise.side: found 8"):
        params("localise.side=8")


def test_a_study_is_named_by_its_maps_only_where_it_has_some(params):
    names = [
        config.study_identity(params(), "birds", "margin", {}, "d" * 64, maps) for maps in (None, "1" * 64, "2" * 64)
    ]
    assert "localised_sha256" not in names[0] and len({config.digest(each) for each in names}) == 3


# --- opened for a run ---


@pytest.fixture
def on_disk(tmp_path, monkeypatch, packed, maps_of):
    """Paths at which maps seem to lie: on_disk(**meta)."""
    paths = Paths("demo", tmp_path)
    folder = paths.localised("birds")
    folder.mkdir(parents=True)

    def made(splits=("train", "val"), **meta):
        (folder / "meta.json").write_text("{}")
        maps = maps_of(packed, splits, **meta)
        monkeypatch.setattr("lapml.localise.store.Localised.open", lambda *_: maps)
        return paths

    return made


def test_opened(packed, on_disk, by_parts, params):
    settings = by_parts().localise.model_dump()
    paths = on_disk(settings=settings)
    assert opened(by_parts(), paths, packed).meta["settings"] == settings
    assert opened(config.resolve(params(), "birds", "baseline", 0), paths, packed) is None
    frozen = config.resolve(params(), "birds", "frozen", 0)
    assert opened(frozen, paths, packed) is not None
    with pytest.raises(LapmlError, match="localise.model: tf_efficientnet_lite0 has no linear classifier"):
        opened(frozen, on_disk(settings=settings, classes=0), packed)
    with pytest.raises(
        LapmlError, match="birds: was made with localise.side 96, expected 448; run `lapml localise birds`"
    ):
        opened(by_parts(), on_disk(settings=settings | {"side": 96}), packed)
    with pytest.raises(
        LapmlError, match="birds: image .* has no object map: the maps are of train; 12 of 36 images lack"
    ):
        opened(by_parts(), on_disk(("train",), settings=settings), packed)


def test_maps_that_are_not_there_say_what_to_run(tmp_path, packed, by_parts):
    with pytest.raises(
        LapmlError, match="found no maps, and by_parts mixes by them .objects, parts.; run `lapml localise"
    ):
        opened(by_parts(), Paths("demo", tmp_path), packed)
    with pytest.raises(LapmlError, match="by_parts: found no maps, expected those of `lapml localise birds`"):
        train.fit(by_parts(), packed, log=lambda _: None)


def test_a_diagnosis_takes_maps_that_fit_and_no_others(packed, on_disk, params, by_parts):
    settings = by_parts().localise.model_dump()
    paths = on_disk(settings=settings)
    assert evidence.found(params(), paths, "birds", packed) is not None
    other = on_disk(settings=settings | {"seed": 5})
    assert evidence.found(params(), other, "birds", packed) is None  # made anyway, and no longer of these settings
    with pytest.raises(LapmlError, match="localise.seed 5, expected 0"):
        evidence.found(params("ablation=[baseline, by_parts]"), other, "birds", packed)
    (paths.localised("birds") / "meta.json").unlink()
    assert evidence.found(params(), paths, "birds", packed) is None
    assert evidence.found(params("localise=null"), paths, "birds", packed) is None


# --- training ---


@pytest.mark.parametrize("method", ["by_parts", "frozen"])
def test_a_run_mixes_by_its_maps_and_records_them(packed, maps_of, params, tmp_path, method):
    maps = maps_of(packed)
    settings = config.resolve(params(), "birds", method, 0)
    run.execute(settings, packed, tmp_path / "run", log=lambda _: None, maps=maps)
    provenance = json.loads((tmp_path / "run/provenance.json").read_text())
    assert provenance["localised_sha256"] == maps.meta["sha256"]
    other = replace(maps, **{name: getattr(maps, name)[::-1].copy() for name in ("objects", "parts", "activation")})
    losses = [
        train.fit(settings, packed, log=lambda _: None, maps=each).history[-1]["loss"] for each in (maps, maps, other)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_by_maps_a_batch_is_made_before_its_step(packed, maps_of, by_parts):
    """So what training reads of them takes nothing of its time where a core is free."""
    seen = []
    real = mixing.mix

    def noted(*args):
        seen.append(args[1].part_maps.shape)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lapml.training.methods.mixing.mix", noted)
        fitted = train.fit(by_parts("train.epochs=2"), packed, log=lambda _: None, maps=maps_of(packed))
    assert set(seen) == {(6, 3, 6, 6)}
    assert fitted.history[0]["images_forward"] == 36  # no pass more than the baseline's


def test_a_run_that_was_interrupted_is_not_taken_up_with_other_maps(packed, maps_of, by_parts, tmp_path):
    path, settings = tmp_path / "last.pt", by_parts()

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGTERM)

    def resumed(maps):
        path.write_bytes(state)
        return train.fit(settings, packed, path, log=lambda _: None, maps=maps).resumed

    with pytest.raises(Stopped):
        train.fit(settings, packed, path, log=interrupt, maps=maps_of(packed))
    state = path.read_bytes()
    assert resumed(maps_of(packed)) == 1
    with pytest.raises(LapmlError, match="localised_sha256: found .*--replace to set it aside"):
        resumed(maps_of(packed, seed=1))
    assert path.read_bytes() == state
