"""Batches: complete, reproducible, and the same however they are read."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from lapml.config import View
from lapml.config.parts import Augment
from lapml.data import views
from lapml.data.augment import augment
from lapml.data.batches import AHEAD, Batches, _ahead
from lapml.data.draws import Purpose, donors_of, stream
from lapml.data.index import rows_of
from lapml.errors import LapmlError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
CPU = torch.device("cpu")


@pytest.fixture
def view(small_params) -> View:
    return small_params().data["birds"].view.model_copy(update={"side": 16})


@pytest.fixture
def make(packed, view):
    def made(splits=("train",), **changes) -> Batches:
        chosen = view.model_copy(update=changes)
        return Batches(packed, rows_of(packed.index, splits), chosen, MEAN, STD, CPU)

    return made


@pytest.fixture
def row(small_run):
    """A row's settings with a mixing probability and warm-up."""

    def made(name="loc_cutmix", prob=1.0, warmup=0, cooldown=0):
        mix = [f"methods.{name}.mix.prob={prob}", f"methods.{name}.mix.warmup_epochs={warmup}"]
        mix += [f"methods.{name}.mix.cooldown_epochs={cooldown}"]
        return small_run(name, "train.epochs=9", *(mix if name != "baseline" else [])).settings

    return made


def assert_same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.rows.tolist() == other.rows.tolist() and one.mixed == other.mixed
        for name in ("images", "labels", "donors", "lam", "uniform"):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first, second)


def by_row(epoch) -> dict[int, tuple]:
    """What each image met: its view, λ and part."""
    found = {}
    for batch in epoch:
        for i, image in enumerate(batch.rows.tolist()):
            extra = (batch.lam[i].item(), batch.uniform[i].tolist()) if batch.mixed else None
            found[image] = (batch.images[i], batch.labels[i].item(), extra)
    return found


# --- training ---


@pytest.mark.parametrize("size", [2, 5, 6, 24])
def test_each_training_image_at_most_once_an_epoch(make, packed, row, size):
    batches, seen = make(), []
    for batch in batches.training(0, 0, size, row()):
        assert batch.images.shape == (size, 3, 16, 16) and batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == packed.index["label"].to_numpy()[batch.rows].tolist()
        seen += batch.rows.tolist()
    assert len(seen) == batches.steps(size) * size == 24 // size * size
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(rows_of(packed.index, ["train"]).tolist())


def test_the_dropped_images_differ_from_epoch_to_epoch(make, row):
    batches = make()
    kept = [
        frozenset(itertools.chain(*(b.rows.tolist() for b in batches.training(0, epoch, 7, row()))))
        for epoch in range(6)
    ]
    assert len(set(kept)) > 1


@pytest.mark.parametrize("size", [2, 3, 8, 11])
def test_donors_are_a_derangement(make, row, size):
    for batch in make().training(1, 0, size, row()):
        assert sorted(batch.donors.tolist()) == list(range(size))
        assert all(donor != i for i, donor in enumerate(batch.donors.tolist()))
        assert batch.lam.shape == (size,) and batch.uniform.shape == (size, 2)
        assert ((batch.lam >= 0) & (batch.lam <= 1)).all() and ((batch.uniform >= 0) & (batch.uniform < 1)).all()


def test_pairs_are_random(make, row):
    """Any image may be any other's donor."""
    batches, pairs = make(), set()
    for epoch in range(50):
        for batch in batches.training(0, epoch, 24, row()):
            pairs |= set(zip(batch.rows.tolist(), batch.rows[batch.donors.numpy()].tolist(), strict=True))
    assert len(pairs) > 0.8 * 24 * 23  # expected: 1 − exp(−50/23) = 89 % of them


def test_same_seed_same_batches(make, row):
    first = list(make(jitter=0.3).training(3, 1, 6, row(prob=0.5)))
    assert_same(first, make(jitter=0.3).training(3, 1, 6, row(prob=0.5)))
    for seed, epoch in ((4, 1), (3, 2)):
        other = list(make(jitter=0.3).training(seed, epoch, 6, row(prob=0.5)))
        assert any(a.rows.tolist() != b.rows.tolist() for a, b in zip(first, other, strict=True))
        assert not torch.equal(first[0].images, other[0].images)


def test_draws_depend_on_seed_epoch_and_row_only(make, row):
    """Not on the batch size, nor on which other images are trained on."""
    expected = by_row(make(jitter=0.3).training(5, 2, 6, row()))
    for epoch in (
        make(jitter=0.3).training(5, 2, 8, row()),
        make(("train", "val"), jitter=0.3).training(5, 2, 4, row()),
    ):
        for image, (pixels, label, extra) in by_row(epoch).items():
            if image in expected:
                torch.testing.assert_close(pixels, expected[image][0], atol=1e-5, rtol=0)
                assert (label, extra) == expected[image][1:]
    # λ and the part do not change what the views are, nor the other way round
    plain = by_row(make(jitter=0.3).training(5, 2, 6, row("baseline")))
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[image][0], expected[image][0]) for image in plain)


def test_erasing_leaves_all_else_as_it_is(make, row):
    """Crops, donors and λ are those without it; evaluation is not touched."""
    plain, erased = (by_row(make(erase=share).training(5, 2, 6, row(prob=0.5))) for share in (0.0, 0.5))
    assert plain.keys() == erased.keys() and all(plain[image][1:] == erased[image][1:] for image in plain)
    changed = [not torch.equal(plain[image][0], erased[image][0]) for image in plain]
    assert 0 < sum(changed) < len(changed)
    for image in plain:
        assert (erased[image][0][plain[image][0] != erased[image][0]] == 0).all()
    one, two = (next(iter(make(("test",), erase=share).evaluation(12))) for share in (0.0, 1.0))
    assert torch.equal(one.images, two.images)


def test_operations_leave_all_else_as_it_is(make, row):
    """Crops, donors and λ are those without them; evaluation is not touched."""
    two = Augment(ops=2, magnitude=9)
    plain, one, other = (by_row(make(augment=each).training(5, 2, 6, row(prob=0.5))) for each in (None, two, two))
    assert plain.keys() == one.keys() and all(plain[image][1:] == one[image][1:] for image in plain)
    assert all(torch.equal(one[image][0], other[image][0]) for image in one)
    changed = [not torch.allclose(plain[image][0], one[image][0], atol=1e-4) for image in plain]
    assert len(changed) / 2 < sum(changed)
    first, second = (next(iter(make(("test",), augment=each).evaluation(12))) for each in (None, two))
    assert torch.equal(first.images, second.images)


def test_operations_depend_on_seed_epoch_and_row_only(make, packed, row, view):
    """They are those of the documented stream, in a batch of any size, applied to the view before it is normalised."""
    settings = Augment(ops=3, magnitude=12)
    uniform = np.random.default_rng([7, 3, int(Purpose.AUGMENT)]).random((len(packed.index), 3, 2))
    plain = by_row(make().training(7, 3, 6, row("baseline")))
    mean, std = (torch.tensor(each)[:, None, None] * 255 for each in (MEAN, STD))
    for size in (6, 8):
        for image, (pixels, *_) in by_row(make(augment=settings).training(7, 3, size, row("baseline"))).items():
            before = (plain[image][0] * std + mean)[None]
            expected = (augment(before, uniform[[image]], settings)[0] - mean) / std
            # a pixel at the edge of a level of posterize or equalize may fall on either side
            assert ((pixels - expected).abs() > 1e-3).float().mean() < 0.03


def test_draws_are_the_documented_streams(make, packed, row, view):
    uniform = np.random.default_rng([7, 3, int(Purpose.VIEW)]).random((len(packed.index), views.DRAWS))
    sizes = packed.index[["width", "height"]].to_numpy()
    windows = views.training_windows(sizes, view, uniform)
    lam = np.random.default_rng([7, 3, int(Purpose.LAMBDA)]).beta(1.0, 1.0, len(packed.index))
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    for batch in make().training(7, 3, 6, row()):
        chosen = torch.from_numpy(windows[batch.rows]).float()
        expected = views.cut(torch.from_numpy(packed.images[batch.rows]), chosen, 16) / 255
        torch.testing.assert_close(batch.images, (expected - mean) / std, atol=1e-4, rtol=0)
        assert batch.lam.tolist() == pytest.approx(lam[batch.rows].tolist(), abs=1e-6)


def test_streams_of_different_purposes_differ():
    draws = {purpose: stream(0, 0, purpose).random() for purpose in Purpose}
    assert len(set(draws.values())) == len(Purpose)
    assert len({int(purpose) for purpose in Purpose}) == len(Purpose)


@pytest.mark.parametrize("warmup", [1, 2])
def test_no_mixing_during_warm_up(make, row, warmup):
    for epoch in range(warmup + 2):
        mixed = [batch.mixed for batch in make().training(0, epoch, 6, row(prob=1.0, warmup=warmup))]
        assert mixed == [epoch >= warmup] * 4


@pytest.mark.parametrize("warmup, cooldown, epochs, mixing", [
    (0, 0, 4, {0, 1, 2, 3}), (0, 1, 4, {0, 1, 2}), (1, 2, 4, {1}), (0, 3, 4, {0}), (1, 2, None, {1, 2, 3}),
])  # fmt: skip
def test_no_mixing_while_cooling_down(make, row, warmup, cooldown, epochs, mixing):
    """The last epochs of a run are clean; where there is no last one, none is."""
    settings = row("margin", prob=1.0, warmup=warmup, cooldown=cooldown)
    for epoch in range(4):
        batches = list(make().training(0, epoch, 6, settings, epochs=epochs))
        assert [batch.mixed for batch in batches] == [epoch in mixing] * 4
        assert all(batch.mixed or not batch.margins and batch.donors is None for batch in batches)


def test_a_cool_down_leaves_the_epochs_before_it_alone(make, row):
    """Views, orders and draws are those of a run without."""
    plain = row(prob=0.5)
    cooled = row(prob=0.5, cooldown=1)
    for epoch in range(2):
        one, other = (make().training(0, epoch, 6, settings, epochs=3) for settings in (plain, cooled))
        assert_same(one, other)
    one, other = (list(make().training(0, 2, 6, settings, epochs=3)) for settings in (plain, cooled))
    assert any(batch.mixed for batch in one) and not any(batch.mixed for batch in other)
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))


def test_probability_of_mixing(make, row):
    assert not any(batch.mixed for batch in make().training(0, 0, 6, row(prob=0.0)))
    assert all(batch.mixed for batch in make().training(0, 0, 6, row(prob=1.0)))
    assert not any(batch.mixed for batch in make().training(0, 0, 6, row("baseline")))
    flags = [batch.mixed for epoch in range(15) for batch in make().training(0, epoch, 3, row(prob=0.5))]
    assert len(flags) == 120 and 0.35 < np.mean(flags) < 0.65
    unmixed = next(batch for batch in make().training(0, 0, 6, row(prob=0.0)))
    assert unmixed.donors is None and unmixed.lam is None and unmixed.uniform is None


def test_all_mixing_rows_mix_the_same_batches_of_the_same_images(make, row):
    """Rows differ in one thing only."""
    plan = {name: [(b.rows.tolist(), b.mixed) for b in make().training(2, 1, 6, row(name, prob=0.5))]
            for name in ("cutmix", "loc_cutmix", "margin", "adaptive_margin")}  # fmt: skip
    assert all(each == plan["cutmix"] for each in plan.values())
    assert [rows for rows, _ in plan["cutmix"]] == [b.rows.tolist() for b in make().training(2, 1, 6, row("baseline"))]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_donors_of_a_batch(ranks):
    """Together they have the pairs that one of them would have."""
    whole, pairs = np.arange(100, 108), {}
    for rank in range(ranks):
        own = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
        rows, donors = donors_of(whole, own)
        pairs |= dict(zip(whole[own].tolist(), rows[donors].tolist(), strict=True))
    assert pairs == {100: 107, **{row: row - 1 for row in range(101, 108)}}


def test_a_batch_larger_than_the_data(make, row):
    with pytest.raises(LapmlError, match=r"train\.batch: found 25, .*24 training images"):
        next(iter(make().training(0, 0, 25, row())))
    assert make().steps(24) == 1


# --- evaluation ---


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_evaluation_covers_every_row_once_in_order(make, packed, size):
    found = list(make(("test",)).evaluation(size))
    rows = rows_of(packed.index, ["test"])
    assert np.concatenate([batch.rows for batch in found]).tolist() == rows.tolist()
    assert torch.cat([batch.labels for batch in found]).tolist() == packed.index["label"].to_numpy()[rows].tolist()
    assert not any(batch.mixed for batch in found)


def test_evaluation_is_the_centred_window_without_jitter(make, packed, view):
    batch = next(iter(make(("test",), jitter=0.9).evaluation(12)))
    windows = views.evaluation_windows(packed.index[["width", "height"]].to_numpy()[batch.rows], view)
    expected = views.cut(torch.from_numpy(packed.images[batch.rows]), torch.from_numpy(windows).float(), 16) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    torch.testing.assert_close(batch.images, (expected - mean) / std, atol=1e-4, rtol=0)


# --- reading ---


LARGE = """
import sys
from types import SimpleNamespace
import numpy as np, pandas as pd, torch
from lapml.config import Method, View
from lapml.data import batches as module
torch.set_num_threads(1)
count, side = 60_000, 256
open(sys.argv[1], "wb").truncate(count * side * side * 3)  # 12 GB that take no room on the disk
images = np.memmap(sys.argv[1], np.uint8, "r", shape=(count, side, side, 3))
index = pd.DataFrame({"width": 300, "height": 260, "label": 0}, index=range(count))
view = View(side=64, aspect="keep", crop="resized", scale=[0.35, 1.0], flip=True, jitter=0.0)
batches = module.Batches(SimpleNamespace(images=images, index=index), np.arange(count), view, [0.5] * 3, [0.5] * 3,
    torch.device("cpu"))
def own():  # kB of memory that is the process's own, not a cache of files
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(("RssAnon", "VmSwap")))
before, most = own(), 0
for step, batch in enumerate(batches.training(0, 0, 32, Method())):
    most = max(most, own())
    if step == 24:
        break
print((most - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_huge_array_takes_little_memory(tmp_path):
    """800 images of 12 GB pass through; a copy of the array, or of all that was read (157 MB), would show."""
    file = tmp_path / "images.u8"
    try:
        done = subprocess.run([sys.executable, "-c", LARGE, str(file)], capture_output=True, text=True)
    finally:
        file.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150


def test_ahead_keeps_order_and_bounds_memory():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    for number in (reader := _ahead(items())):
        assert len(taken) <= number + 1 + AHEAD
        if number == 30:
            break
    reader.close()
    assert len(taken) < 40
    assert list(_ahead(range(50))) == list(range(50))
    assert list(_ahead([])) == []


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_ahead_passes_exceptions_on(error):
    def items():
        yield 1
        yield 2
        raise error

    found = []
    with pytest.raises(type(error)):
        for each in _ahead(items()):
            found.append(each)
    assert found == [1, 2]


def test_an_error_while_reading_reaches_the_training_loop(make, row):
    broken = make()

    class Broken:
        def __getitem__(self, rows):
            raise OSError("disk gone")

    broken.packed = type("Pack", (), {"images": Broken()})()
    with pytest.raises(OSError, match="disk gone"):
        list(broken.training(0, 0, 6, row()))


def test_leaving_early_ends_the_thread(make, row):
    before = threading.active_count()
    epoch = make().training(0, 0, 2, row())
    next(epoch)
    epoch.close()
    assert threading.active_count() == before
