"""The bank of maps: what is kept of a visit, where it lies in the image, and what comes back at the next one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.data.views import cut
from lapml.mixing import Evidence
from lapml.mixing.boxes import covered
from lapml.mixing.maps import class_maps
from lapml.models.model import build
from lapml.training import loop as train
from lapml.training import methods
from lapml.training import step as stepping
from lapml.training.bank import PARTS, SEEN, Bank, _inverse

CPU, SIDE, GRID = torch.device("cpu"), 48, 6
HALF = 2**-10  # of fp16 near 1
WHOLE = [0.0, 0.0, 1.0, 1.0, 0.0]
windows = st.tuples(st.floats(0.35, 1.0), st.floats(0.35, 1.0), st.floats(0, 1), st.floats(0, 1), st.booleans()).map(
    lambda w: [w[2] * (1 - w[0]), w[3] * (1 - w[1]), w[0], w[1], float(w[4])]
)
seeds = st.integers(0, 2**31 - 1)


def bank_of(images: int = 4, channels: int = 8, grid: int = GRID) -> Bank:
    return Bank(images, channels, grid, CPU)


def visit(seed: int, count: int = 2, channels: int = 8, grid: int = GRID) -> tuple[Tensor, Tensor, Tensor]:
    """Features of a step, the head's weight and labels, by which every class map is somewhere above 0."""
    g = torch.Generator().manual_seed(seed)
    features = torch.rand(count, channels, grid, grid, generator=g)
    return features, torch.rand(3, channels, generator=g), torch.randint(3, (count,), generator=g)


def keep(bank: Bank, rows: list[int], where: list[list[float]], seen: tuple, boxes: Tensor | None = None) -> None:
    features, weight, labels = seen
    hidden = None if boxes is None else covered(boxes, bank.grid, SIDE)
    bank.keep(torch.tensor(rows), torch.tensor(where), features, weight, labels, hidden)


def recall(bank: Bank, rows: list[int], where: list[list[float]]) -> tuple[Tensor, Tensor]:
    return bank.recall(torch.tensor(rows), torch.tensor(where))


def relative(maps: Tensor) -> Tensor:
    return maps / maps.amax((1, 2), keepdim=True)


def smooth(seed: int, grid: int = GRID) -> Tensor:
    """(grid, grid, 3) slow waves over the cells, 0.2 to 1."""
    g = np.random.default_rng(seed)
    y, x = (np.mgrid[:grid, :grid] + 0.5) / grid
    waves = [0.6 + 0.4 * np.sin(2 * a * x + 2 * b * y + c) for a, b, c in g.uniform(-1, 1, (3, 3))]
    return torch.tensor(np.stack(waves, 2), dtype=torch.float32)


def planted(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features whose class map is proportional to the first channel of ``values`` (B, h, w, C)."""
    weight = torch.zeros(1, values.shape[3])
    weight[0, 0] = 1
    return values.permute(0, 3, 1, 2), weight, torch.zeros(len(values), dtype=torch.int64)


def inside(window: list[float], grid: int = GRID) -> np.ndarray:
    """(grid, grid) share of each cell of the stored square that a view shows."""
    x, y, w, h, _ = window

    def covers(start: float, extent: float) -> np.ndarray:
        edges = np.arange(grid) / grid
        return (np.minimum(edges + 1 / grid, start + extent) - np.maximum(edges, start)).clip(0) * grid

    return covers(y, h)[:, None] * covers(x, w)[None]


# --- the same view again ---


@settings(max_examples=30)
@given(seeds, st.booleans())
def test_what_was_kept_of_the_whole_comes_back(seed, flip):
    """To fp16: maps relative to their peak, and unit vectors; flipped or not."""
    bank, seen, where = bank_of(), visit(seed), [[0.0, 0.0, 1.0, 1.0, float(flip)]] * 2
    keep(bank, [3, 1], where, seen)
    maps, parts = recall(bank, [3, 1], where)
    torch.testing.assert_close(relative(maps), relative(class_maps(*seen)), rtol=0, atol=HALF)
    torch.testing.assert_close(parts, normalize(seen[0], dim=1), rtol=0, atol=HALF)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


@given(seeds)
def test_a_flipped_view_shows_the_mirror_image(seed):
    bank, seen = bank_of(), visit(seed)
    keep(bank, [0, 1], [WHOLE] * 2, seen)
    plain, flipped = recall(bank, [0, 1], [WHOLE] * 2), recall(bank, [0, 1], [[0.0, 0.0, 1.0, 1.0, 1.0]] * 2)
    for there, mirrored in zip(plain, flipped, strict=True):
        torch.testing.assert_close(mirrored, there.flip(-1))
    assert not torch.allclose(plain[0], flipped[0])


@settings(max_examples=30)
@given(seeds, windows)
def test_a_crop_comes_back_near_what_it_was(seed, where):
    """Two resamplings, into the stored square and out of it again, blur a smooth map by less than 0.15 of its peak."""
    bank, seen = bank_of(channels=3), planted(smooth(seed)[None])
    keep(bank, [0], [where], seen)
    maps, parts = recall(bank, [0], [where])
    # the view's border may lie in cells of which too little was seen
    core = slice(1, -1)
    expected = relative(class_maps(*seen))[0, core, core]
    found = maps[0, core, core]
    assert float((found / found.mean() - expected / expected.mean()).abs().max()) < 0.15
    assert float(cosine_similarity(parts, seen[0], dim=1)[0, core, core].min()) > 0.98


# --- geometry ---


@given(windows, windows)
def test_the_inverse_of_a_window_maps_back(first, second):
    """The view's unit square into the stored one and back, with flips, as literal arithmetic on points."""
    inverse = _inverse(torch.tensor([first, second], dtype=torch.float64))
    for (x, y, w, h, flip), (ix, iy, iw, ih, iflip) in zip((first, second), inverse.tolist(), strict=True):
        for u, v in ((0.0, 0.0), (0.3, 0.9), (1.0, 0.5)):
            s, t = (x + (1 - u) * w if flip else x + u * w), y + v * h  # where the view's point lies in the square
            # `inverse` takes the square as a view of the view: its point (s, t) shows the view's point
            assert (ix + (1 - s) * iw if iflip else ix + s * iw) == pytest.approx(u, abs=1e-9)
            assert iy + t * ih == pytest.approx(v, abs=1e-9)


@settings(max_examples=30)
@given(windows)
def test_cells_lie_where_they_were_seen(where):
    """Views of coordinate ramps: what a cell of the stored square holds is its own place, to within half a cell."""
    bank, (x, y, w, h, flip) = bank_of(channels=3), where
    centres = (torch.arange(GRID) + 0.5) / GRID
    across = x + (1 - centres if flip else centres) * w
    down = y + centres * h
    ramps = torch.stack([across.expand(GRID, GRID), down[:, None].expand(GRID, GRID), torch.ones(GRID, GRID)], 2)
    keep(bank, [0], [where], planted(ramps[None]))
    known = torch.tensor(inside(where) > SEEN + 1e-4)
    assert known.any() and bank.cells[0][known].any(1).all()
    held = bank.cells[0].float()[..., 1:]
    place = held[..., :2] / held[..., 2:]  # a unit vector's direction: (x, y, 1)
    off = torch.stack([(place[..., 0] - centres).abs(), (place[..., 1] - centres[:, None]).abs()])
    assert float(off[:, known].max()) < 0.5 / GRID + 2 * HALF


@settings(max_examples=30)
@given(windows, seeds)
def test_cells_that_a_view_does_not_show_keep_what_they_had(where, seed):
    """All of which it shows at least a share of SEEN are renewed, to rounding, and no others."""
    bank = bank_of()
    keep(bank, [2], [WHOLE], visit(seed, count=1))
    before = bank.cells.clone()
    keep(bank, [2], [where], visit(seed + 1, count=1))
    renewed, share = (bank.cells[2] != before[2]).any(2).numpy(), inside(where)
    assert renewed[share > SEEN + 1e-4].all()
    assert not renewed[share < SEEN - 1e-4].any()
    assert not bank.cells[[0, 1, 3]].any()


def literal(values: np.ndarray, window: list[float], grid: int) -> np.ndarray:
    """(grid, grid, C) the view of (S, S, C) cells: at each of its cells, the mean of bilinear samples over the cell."""
    x, y, w, h, flip = window
    stored, found = len(values), np.zeros((grid, grid, values.shape[2]))
    steps = (np.arange(8) + 0.5) / 8
    for i in range(grid):
        for j in range(grid):
            for di in steps:
                for dj in steps:
                    u, v = (j + dj) / grid, (i + di) / grid
                    px = (x + (1 - u if flip else u) * w) * stored - 0.5
                    py = (y + v * h) * stored - 0.5
                    px, py = min(max(px, 0), stored - 1), min(max(py, 0), stored - 1)
                    x0, y0 = min(int(px), stored - 2), min(int(py), stored - 2)
                    fx, fy = px - x0, py - y0
                    found[i, j] += (
                        (1 - fy) * ((1 - fx) * values[y0, x0] + fx * values[y0, x0 + 1])
                        + fy * ((1 - fx) * values[y0 + 1, x0] + fx * values[y0 + 1, x0 + 1])
                    ) / 64  # fmt: skip
    return found


@settings(max_examples=20)
@given(windows, seeds)
def test_another_crop_agrees_with_a_literal_resampling(where, seed):
    """Kept whole and recalled cut: smooth maps agree within 0.1 of their peak, part features in direction."""
    bank, values = bank_of(channels=3), smooth(seed)
    keep(bank, [0], [WHOLE], planted(values[None]))
    maps, parts = recall(bank, [0], [where])
    peak = float(values[..., 0].max())
    expected = literal(values.double().numpy(), where, GRID)
    np.testing.assert_allclose(
        maps[0] / maps[0].mean(), expected[..., 0] / expected[..., 0].mean(), rtol=0, atol=0.1 / peak
    )
    across = normalize(torch.tensor(expected), dim=2).permute(2, 0, 1).float()
    assert float(cosine_similarity(parts[0], across, dim=0).min()) > 0.99


@settings(max_examples=20)
@given(windows, windows, seeds)
def test_kept_in_one_crop_and_recalled_in_another(first, second, seed):
    """Of a smooth picture: where the first view saw all that the second shows, both agree within 0.2 of the mean."""
    bank, fine = bank_of(channels=3), smooth(seed, 48).double().numpy()
    shown = torch.tensor(literal(fine, first, GRID)).float()
    keep(bank, [0], [first], planted(shown[None]))
    maps, _ = recall(bank, [0], [second])
    expected = literal(fine, second, GRID)[..., 0]
    # a cell of the second view counts where the cells of the stored square around it were seen whole
    seen = np.zeros((GRID, GRID), bool)
    whole = inside(first) > 0.99
    x, y, w, h, flip = second
    for i in range(GRID):
        for j in range(GRID):
            u, v = (j + 0.5) / GRID, (i + 0.5) / GRID
            px, py = (x + (1 - u if flip else u) * w) * GRID, (y + v * h) * GRID
            columns, rows = (
                range(max(0, int(px - 1)), min(GRID, int(px + 2))),
                range(max(0, int(py - 1)), min(GRID, int(py + 2))),
            )
            seen[i, j] = all(whole[r, c] for r in rows for c in columns)
    if seen.sum() < 4:
        return
    found = maps[0].numpy()[seen]
    assert np.abs(found / found.mean() - expected[seen] / expected[seen].mean()).max() < 0.2


# --- what was not seen ---


boxes = st.tuples(st.integers(1, SIDE), st.integers(0, SIDE), st.integers(0, SIDE)).map(
    lambda b: [min(b[1], SIDE - b[0]), min(b[2], SIDE - b[0]), min(b[1], SIDE - b[0]) + b[0], min(b[2], SIDE - b[0]) + b[0]]
)  # fmt: skip


@settings(max_examples=50)
@given(boxes, boxes, seeds)
def test_cells_that_were_pasted_over_keep_what_they_had(first, second, seed):
    bank, old, new = bank_of(), visit(seed), visit(seed + 1)
    keep(bank, [0, 1], [WHOLE] * 2, old)
    before = bank.cells.clone()
    where = torch.tensor([first, second])
    keep(bank, [0, 1], [WHOLE] * 2, new, where)
    unseen = 1 - covered(where, GRID, SIDE) < SEEN
    assert torch.equal(bank.cells[:2][unseen], before[:2][unseen])
    fresh = torch.cat([relative(class_maps(*new))[..., None], normalize(new[0], dim=1).permute(0, 2, 3, 1)], 3)
    torch.testing.assert_close(bank.cells[:2][~unseen].float(), fresh[~unseen], rtol=0, atol=HALF)


@given(st.permutations(range(6)), st.integers(1, 6), windows, seeds)
def test_rows_of_a_batch_touch_their_own_images_only(order, count, where, seed):
    """Each as if it were alone, whatever the order in the batch."""
    rows = list(order[:count])
    together, alone = bank_of(6), bank_of(6)
    features, weight, labels = visit(seed, count)
    keep(together, rows, [where] * count, (features, weight, labels))
    for i, row in enumerate(rows):
        keep(alone, [row], [where], (features[i : i + 1], weight, labels[i : i + 1]))
    torch.testing.assert_close(together.cells, alone.cells, rtol=0, atol=HALF)
    others = [row for row in range(6) if row not in rows]
    assert not together.cells[others].any() and together.cells[rows].any()


@given(windows)
def test_an_image_never_visited_has_a_uniform_map_and_no_features(where):
    bank = bank_of()
    keep(bank, [0], [WHOLE], visit(0, 1))
    maps, parts = recall(bank, [1, 2], [where] * 2)
    assert torch.equal(maps, torch.full((2, GRID, GRID), 1 / GRID**2)) and not parts.any()


@pytest.mark.parametrize("row", ["loc_cutmix", "adaptive_margin"])
def test_images_never_visited_can_be_mixed_and_trained_on(small_run, packed, row):
    run = small_run(row)
    model, weights = build(run.model, 3, SIDE, seed=0)
    batches = Batches(packed, rows_of(packed.index, ["train"]), run.data.view, weights["mean"], weights["std"], CPU)
    batch = next(iter(batches.training(0, 0, 8, run.settings)))
    learner = stepping.make_learner(run, model, len(packed.index), CPU, "fp32")
    evidence = Evidence(*learner.bank.recall(batch.index, batch.windows))
    assert not learner.bank.cells.any()
    mixed = methods.mix(run.settings, batch, evidence)
    assert mixed.images.isfinite().all() and not torch.equal(mixed.images, batch.images)
    share = (mixed.box_reference[:, 2:] - mixed.box_reference[:, :2]).prod(1) / SIDE**2
    torch.testing.assert_close(mixed.rho, share.float())  # what is seen of a uniform map is its area
    assert not mixed.similarity.any()
    stats, _, _ = stepping.take_step(learner, batch)
    assert all(value.isfinite() for value in stats.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())


# --- numbers that are none ---


BAD = {
    "nan": lambda x: x * math.nan,
    "inf": lambda x: x * math.inf,
    "negative inf": lambda x: x * -math.inf,
    "one nan": lambda x: torch.cat([x[:, :, :1] * 1, x[:, :, 1:2] * math.nan, x[:, :, 2:]], 2),
    "one inf": lambda x: torch.cat([x[:, :1] * math.inf, x[:, 1:]], 1),
    "zero": lambda x: x * 0,
    "huge": lambda x: x * 3e38,
    "tiny": lambda x: x * 1e-44,
}


@pytest.mark.parametrize("grid, channels", [(GRID, 8), (7, 80)])
@pytest.mark.parametrize("kind", BAD)
def test_features_that_are_not_finite_do_not_poison_the_bank(kind, grid, channels):
    """Nor those that are 0: all that is kept, and all that comes back of it, is finite, and maps sum to 1."""
    bank = bank_of(4, channels, grid)
    where = [[0.1, 0.2, 0.7, 0.6, 1.0], WHOLE]
    good = visit(0, 2, channels, grid)
    keep(bank, [0, 1], where, good)
    features, weight, labels = visit(1, 2, channels, grid)
    keep(bank, [1, 2], where, (BAD[kind](features), weight, labels))
    assert bank.cells.isfinite().all()
    untouched = bank.cells[0].clone()
    for view in (where, [WHOLE, [0.0, 0.5, 0.5, 0.4, 0.0]]):
        maps, parts = recall(bank, [1, 2], view)
        assert maps.isfinite().all() and parts.isfinite().all() and (maps >= 0).all()
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
    keep(bank, [1, 2], [WHOLE] * 2, good)  # and a sound visit mends it
    maps, _ = recall(bank, [1, 2], [WHOLE] * 2)
    torch.testing.assert_close(relative(maps), relative(class_maps(*good)), rtol=0, atol=HALF)
    assert torch.equal(bank.cells[0], untouched)


def test_a_head_that_is_not_finite_does_not_poison_the_bank():
    bank = bank_of()
    features, weight, labels = visit(0)
    keep(bank, [0, 1], [WHOLE] * 2, (features, weight * math.nan, labels))
    maps, parts = recall(bank, [0, 1], [WHOLE] * 2)
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / GRID**2))
    torch.testing.assert_close(parts, normalize(features, dim=1), rtol=0, atol=HALF)


def test_an_image_whose_map_is_nowhere_above_zero():
    """A class map that a ReLU leaves nothing of is uniform, as everywhere else."""
    bank = bank_of()
    features, weight, labels = visit(0)
    keep(bank, [0, 1], [WHOLE] * 2, (features, -weight, labels))
    maps, _ = recall(bank, [0, 1], [WHOLE] * 2)
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / GRID**2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
def test_any_precision_and_scale_of_features_is_kept_within_fp16(dtype, scale):
    """Maps are relative to their peak and features unit vectors, so that nothing overflows; under autocast too."""
    features, weight, labels = visit(3)
    features = (features * scale).to(dtype)
    bank, under = bank_of(), bank_of()
    keep(bank, [0, 1], [WHOLE] * 2, (features, weight * 100, labels))
    with torch.autocast("cpu", torch.bfloat16):
        keep(under, [0, 1], [WHOLE] * 2, (features, weight * 100, labels))
        again, _ = recall(under, [0, 1], [WHOLE] * 2)
    assert bank.cells.dtype == torch.float16 and float(bank.cells.abs().max()) <= 1
    torch.testing.assert_close(under.cells, bank.cells, rtol=0, atol=HALF)
    maps, _ = recall(bank, [0, 1], [WHOLE] * 2)
    assert maps.dtype == again.dtype == torch.float32
    expected = class_maps(features.double(), weight.double() * 100, labels)
    torch.testing.assert_close(relative(maps).double(), relative(expected), rtol=0, atol=2 * HALF)


# --- the projection ---


@given(seeds, st.sampled_from([96, 320, 1280]))
@settings(max_examples=25)
def test_the_projection_keeps_cosines(seed, channels):
    """To 3/√64 for 99.7 % of pairs, and to 5/√64 for all."""
    g = torch.Generator().manual_seed(seed)
    features = torch.rand(2, channels, GRID, GRID, generator=g) * (torch.rand(2, channels, 1, 1, generator=g) < 0.5)
    bank = bank_of(2, channels)
    keep(bank, [0, 1], [WHOLE] * 2, (features, torch.ones(1, channels), torch.zeros(2, dtype=torch.int64)))
    _, parts = recall(bank, [0, 1], [WHOLE] * 2)
    assert parts.shape == (2, PARTS, GRID, GRID)
    before, after = (normalize(each.flatten(2), dim=1) for each in (features, parts))
    off = (torch.einsum("cm,cn->mn", *before) - torch.einsum("cm,cn->mn", *after)).abs()
    assert float(off.max()) < 5 / math.sqrt(PARTS)
    assert float((off < 3 / math.sqrt(PARTS)).float().mean()) > 0.99


def test_few_channels_are_kept_as_they_are():
    for channels in (8, PARTS):
        bank, seen = bank_of(2, channels), visit(0, 2, channels)
        keep(bank, [0, 1], [WHOLE] * 2, seen)
        _, parts = recall(bank, [0, 1], [WHOLE] * 2)
        torch.testing.assert_close(parts, normalize(seen[0], dim=1), rtol=0, atol=HALF)


def test_every_bank_has_the_same_projection():
    torch.manual_seed(1)
    first = bank_of(1, 320).project
    torch.manual_seed(2)
    assert torch.equal(first, bank_of(1, 320).project)
    state = torch.get_rng_state()
    bank_of(1, 320)
    assert torch.equal(torch.get_rng_state(), state)  # and making one draws nothing of the run's


# --- in training ---


def test_a_resumed_run_has_the_same_bank(small_run, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(train.state, "SAVE_EVERY", 0.0)

    class Interrupt(Exception):
        pass

    def interrupt(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise Interrupt

    run = small_run("loc_cutmix", "methods.loc_cutmix.mix.prob=0.5")
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    train.fit(run, packed, whole, log=lambda line: None)
    with pytest.raises(Interrupt):
        train.fit(run, packed, broken, log=interrupt)
    half = torch.load(broken, weights_only=True)["bank"]
    train.fit(run, packed, broken, log=lambda line: None)
    first, second = (torch.load(path, weights_only=True)["bank"] for path in (whole, broken))
    assert torch.equal(first, second) and not torch.equal(half, second)
    trained = np.isin(packed.index["split"], ["train", "val"])
    assert not first[~trained].any() and first[trained].flatten(1).any(1).all()


def test_a_step_keeps_what_it_saw_and_no_more(small_run, packed):
    """By a pass of the same model over the same images: outside the pasted boxes the bank holds that pass's cells."""
    run = small_run("loc_cutmix")
    model, weights = build(run.model, 3, SIDE, seed=0)
    view = run.data.view.model_copy(update={"crop": "fixed", "flip": False})
    batches = Batches(packed, rows_of(packed.index, ["train"]), view, weights["mean"], weights["std"], CPU)
    batch = next(iter(batches.training(0, 0, 8, run.settings)))
    learner = stepping.make_learner(run, model, len(packed.index), CPU, "fp32")
    made, seen = [], []
    original, forward = methods.mix, learner.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "mix", lambda *given: made.append(original(*given)) or made[-1])
        learner.forward = lambda images: seen.append(forward(images)) or seen[-1]
        weight = model.head.weight.detach().clone()
        stepping.take_step(learner, batch)
    own = bank_of(len(packed.index), model.head.in_features)
    own.keep(
        batch.index, batch.windows, seen[0].features.detach(), weight, batch.labels, covered(made[0].box_reference, GRID, SIDE)
    )  # fmt: skip
    assert torch.equal(learner.bank.cells, own.cells) and learner.bank.cells[batch.index].any()
    everything = bank_of(len(packed.index), model.head.in_features)
    everything.keep(batch.index, batch.windows, seen[0].features.detach(), weight, batch.labels, None)
    hidden = (everything.cells != 0).any(3) & ~(own.cells != 0).any(3)
    assert hidden.any()
    rest = torch.ones(len(own.cells), dtype=torch.bool)
    rest[batch.index] = False
    assert not own.cells[rest].any()


def test_a_bank_cuts_as_views_are_cut():
    """Recall is the cut of the images themselves, of cells in place of pixels."""
    bank, seen = bank_of(), visit(5)
    keep(bank, [0, 1], [WHOLE] * 2, seen)
    where = torch.tensor([[0.2, 0.1, 0.6, 0.8, 1.0], [0.0, 0.3, 1.0, 0.5, 0.0]])
    _, parts = bank.recall(torch.tensor([0, 1]), where)
    torch.testing.assert_close(parts, cut(bank.cells[:2, ..., 1:].float(), where, GRID))
