"""Part for part against a slow, literal recomputation of docs/methods.md, the resize against torchvision, and what always holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import resize

from lapml.mixing import Draws, Evidence, Mixed, mix, mixer, parts
from lapml.mixing.boxes import paste_resized, square_sides

LABELS = ["area", "semantic", "snapmix"]
KEYS = {"alpha": 1.0, "area": [0.1, 0.8], "threshold": 0.5}


def make(
    seed: int, count: int = 5, side: int = 40, grids: tuple[int, int] = (7, 7), k: int = 3
) -> tuple[Draws, Evidence]:
    """A batch, and evidence in which parts are often missing; ``grids``: cells a side of objects and of parts."""
    g = torch.Generator().manual_seed(seed)
    (h, p), exact = grids, {"generator": g, "dtype": torch.float64}
    objects = torch.rand(count, h, h, **exact) ** 8
    maps = torch.rand(count, k, p, p, **exact) ** 2 * (torch.rand(count, k, 1, 1, generator=g) > 0.4)
    found = torch.randn(count, k, 8, **exact)
    batch = Draws(
        torch.randn(count, 3, side, side, generator=g),
        torch.arange(count),
        torch.arange(count).roll(1),
        torch.rand(count, **exact),
        torch.rand(count, 2, **exact),
    )
    there = maps.amax((2, 3))[..., None] > 0
    descriptors = torch.nn.functional.normalize(found + 1, dim=2) * there
    objects = objects / objects.sum((1, 2), keepdim=True)
    return batch, Evidence(objects=objects, part_maps=maps, part_descriptors=descriptors)


def mixed_by(batch: Draws, evidence: Evidence, label: str = "semantic", **changes) -> Mixed:
    return mix(batch, evidence, mixer("parts", label, **{**KEYS, **changes}))


def resized(image: torch.Tensor, box: list[int], size: int) -> torch.Tensor:
    x0, y0, x1, y1 = box
    return resize(image[:, y0:y1, x0:x1], [size, size], antialias=True)


def literal(i: int, batch: Draws, evidence: Evidence, label: str) -> dict:
    """Image i of the generated batch, word for word."""
    j, side = int(batch.donors[i]), batch.images.shape[-1]
    objects, maps, found = (each.numpy() for each in (evidence.objects, evidence.part_maps, evidence.part_descriptors))

    # A part that both images show, strength above a threshold, at random among those.
    common = [k for k in range(maps.shape[1]) if min(maps[i, k].max(), maps[j, k].max()) > KEYS["threshold"]]
    part = common[int(float(batch.uniform[i, 0]) * len(common))] if common else None

    # Sizes follow the objects; shifted inside, never cut. Where no part is shared, the peaks of O.
    share = min(max(1 - float(batch.lam[i]), KEYS["area"][0]), KEYS["area"][1])
    squares = []
    for n in (i, j):
        covered = sum(value > 0.1 * objects[n].max() for value in objects[n].flatten()) / objects[n].size
        extent = max(round(math.sqrt(share) * math.sqrt(covered) * side), 1)
        cells = objects[n] if part is None else maps[n, part]
        y, x = np.unravel_index(cells.argmax(), cells.shape)
        corner = []
        for place, number in ((x, cells.shape[1]), (y, cells.shape[0])):
            low = round((place + 0.5) / number * side - extent / 2)
            corner.append(min(max(low, 0), side - extent))
        squares.append([*corner, corner[0] + extent, corner[1] + extent])
    to, source = squares

    image = batch.images[i].clone()
    image[:, to[1] : to[3], to[0] : to[2]] = resized(batch.images[j], source, to[2] - to[0])

    # Kept: 1 − O-mass under the box; pasted: O-mass of the donor's box.
    def seen(n: int, box: list[int]) -> float:
        fine = math.lcm(objects.shape[1], side)
        pixels = np.kron(objects[n], np.ones((fine // objects.shape[1],) * 2)) / (fine // objects.shape[1]) ** 2
        x0, y0, x1, y1 = (edge * fine // side for edge in box)
        return float(pixels[y0:y1, x0:x1].sum())

    k, g, area = 1 - seen(i, to), seen(j, source), (to[2] - to[0]) ** 2 / side**2
    rho = area if label == "area" else g / (k + g)
    cosine = 0.0 if part is None else float(found[i, part] @ found[j, part])
    weights = {"area": (1 - area, area), "semantic": (1 - rho, rho), "snapmix": (k, g)}[label]
    return {
        "image": image, "to": to, "source": source, "kept": weights[0], "pasted": weights[1], "rho": rho,
        "similarity": min(max(cosine, 0), 1), "shared": part is not None,
    }  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize(("side", "grids", "k"), [(40, (7, 7), 3), (48, (6, 12), 1), (33, (14, 5), 4)])
def test_against_the_letter(label, count, side, grids, k):
    shared = set()
    for seed in range(6):
        batch, evidence = make(seed, count, side, grids, k)
        mixed = mixed_by(batch, evidence, label)
        for i in range(count):
            expected = literal(i, batch, evidence, label)
            shared.add(expected.pop("shared"))
            assert mixed.box_reference[i].tolist() == expected.pop("to")
            assert mixed.box_donor[i].tolist() == expected.pop("source")
            torch.testing.assert_close(mixed.images[i], expected.pop("image"), atol=2e-5, rtol=0)
            for name, value in expected.items():
                assert float(getattr(mixed, name)[i]) == pytest.approx(value, abs=1e-6), name
    assert shared == {True, False} or count == 1


@st.composite
def squares(draw):
    side, count = draw(st.integers(2, 40)), draw(st.integers(1, 5))
    boxes = []
    for _ in range(2 * count):  # torch 2.14 resizes columns of one pixel wrongly: it repeats the first row
        w, h = draw(st.integers(2, side)), draw(st.integers(1, side))
        x, y = draw(st.integers(0, side - w)), draw(st.integers(0, side - h))
        boxes.append([x, y, x + w, y + h])
    return side, torch.tensor(boxes).view(2, count, 4), draw(st.booleans()), draw(st.integers(0, 2**31 - 1))


@given(squares())
@settings(max_examples=150)
def test_the_resize_is_torchvisions(case):
    """Of the donor's box alone, larger, smaller or as large; nothing but the reference's box is changed."""
    side, (to, source), channels_last, seed = case
    images = torch.randn(len(to) + 1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    donors = torch.arange(len(to)) + 1
    found = paste_resized(images.to(memory_format=layout), donors, to, source)
    for i, (box, own) in enumerate(zip(to.tolist(), source.tolist(), strict=True)):
        x0, y0, x1, y1 = box
        expected = images[i].clone()
        patch = images[i + 1, :, own[1] : own[3], own[0] : own[2]]
        expected[:, y0:y1, x0:x1] = resize(patch, [y1 - y0, x1 - x0], antialias=True)
        torch.testing.assert_close(found[i], expected, atol=2e-5, rtol=0)


def test_a_patch_of_one_size_is_copied_to_the_bit():
    images = torch.randn(2, 3, 21, 21)
    to, source = torch.tensor([[3, 2, 13, 9]]), torch.tensor([[11, 14, 21, 21]])
    found = paste_resized(images, torch.tensor([1]), to, source)
    assert torch.equal(found[0, :, 2:9, 3:13], images[1, :, 14:21, 11:21])


# --- what always holds ---


@given(st.integers(0, 2**31 - 1), st.sampled_from(LABELS), st.integers(1, 5), st.integers(16, 64), st.integers(1, 9))
@settings(max_examples=80)
def test_boxes_lie_inside_and_shares_are_shares(seed, label, count, side, grid):
    batch, evidence = make(seed, count, side, (grid, grid))
    mixed = mixed_by(batch, evidence, label)
    for box in (mixed.box_reference, mixed.box_donor):
        extent = box[:, 2:] - box[:, :2]
        assert torch.equal(extent[:, 0], extent[:, 1]) and (extent > 0).all()
        assert (box >= 0).all() and (box <= side).all()
    for each in (mixed.kept, mixed.pasted, mixed.rho, mixed.similarity, mixed.hidden(grid)):
        assert ((each >= 0) & (each <= 1)).all()
    if label != "snapmix":
        torch.testing.assert_close(mixed.kept + mixed.pasted, torch.ones(count), check_dtype=False)
        torch.testing.assert_close(mixed.pasted, mixed.rho)


@given(st.integers(0, 2**31 - 1), st.integers(1, 5), st.integers(16, 64))
@settings(max_examples=40)
def test_identical_images_mix_to_themselves(seed, count, side):
    """Also their similarity is 1 where they show a part."""
    batch, evidence = make(seed, 1, side)
    images = batch.images.expand(count, -1, -1, -1).contiguous()
    one = {name: getattr(evidence, name).expand(count, *[-1] * (getattr(evidence, name).ndim - 1))
           for name in ("objects", "part_maps", "part_descriptors")}  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    lam, uniform = torch.rand(count, generator=g), torch.rand(count, 2, generator=g)
    drawn = Draws(images, torch.zeros(count), torch.arange(count).roll(1), lam, uniform)
    mixed = mixed_by(drawn, Evidence(**one))
    assert torch.equal(mixed.images, images) and torch.equal(mixed.box_reference, mixed.box_donor)
    shows = float(evidence.part_maps.max()) > KEYS["threshold"]
    assert mixed.similarity.tolist() == pytest.approx([float(shows)] * count)


def test_sizes_follow_the_objects():
    """An object of 2 × 2 cells over one of 4 × 4: the patch is half as large, and half of either is half of either."""
    batch, _ = make(0, 2, 64)
    objects = torch.zeros(2, 8, 8)
    objects[0, 2:6, 2:6], objects[1, 5:7, 4:6] = 1 / 16, 1 / 4
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, 0, 3, 3], maps[1, 0, 5, 4] = 2.0, 1.0
    evidence = Evidence(objects=objects, part_maps=maps, part_descriptors=torch.ones(2, 1, 1))
    drawn = Draws(batch.images, batch.labels, batch.donors, torch.tensor([0.75, 0.75]), batch.uniform)
    mixed = mixed_by(drawn, evidence)
    assert mixed.box_reference.tolist() == [[20, 20, 36, 36], [32, 40, 40, 48]]
    assert mixed.box_donor.tolist() == [[32, 40, 40, 48], [20, 20, 36, 36]]
    assert mixed.kept.tolist() == pytest.approx([0.75, 0.75]) and mixed.rho.tolist() == pytest.approx([0.25, 0.25])


def test_every_shared_part_is_drawn_as_often_as_another():
    count = 3000
    maps = torch.zeros(count, 4, 2, 2)
    maps[:, [0, 2, 3], 0, 0] = 1.0
    maps[::2, 1, 1, 1] = 1.0  # every other image shows this one: no pair does
    for part, (y, x) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
        maps[:, part, y, x] *= 2
        maps[:, part, y, x] += 1.5 * (part in (2, 3))
    drawn = Draws(
        torch.zeros(count, 1, 8, 8), torch.zeros(count), torch.arange(count).roll(1),
        torch.full((count,), 0.99), torch.rand(count, 2, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    evidence = Evidence(
        objects=torch.full((count, 2, 2), 0.25), part_maps=maps, part_descriptors=torch.ones(count, 4, 1)
    )
    middle = mixed_by(drawn, evidence, area=[0.1, 0.1]).box_reference[:, :2] // 4
    counts = np.bincount((2 * middle[:, 1] + middle[:, 0]).numpy(), minlength=4)
    assert counts[3] == 0 and np.abs(counts[:3] / count - 1 / 3).max() < 0.03  # three standard errors


@pytest.mark.parametrize("bad", [0.0, 0.37, float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["objects", "part_maps", "part_descriptors"])
def test_maps_that_say_nothing(bad, which):
    batch, evidence = make(3, 3)
    given_ = {name: getattr(evidence, name).clone() for name in ("objects", "part_maps", "part_descriptors")}
    given_[which][0] = bad
    mixed = mixed_by(batch, Evidence(**given_))
    assert mixed.images.isfinite().all()
    for each in (mixed.kept, mixed.pasted, mixed.rho, mixed.similarity):
        assert ((each >= 0) & (each <= 1)).all()
    if which == "part_maps" and bad != 0.37:  # shows no part
        assert mixed.similarity[0] == 0 and mixed.similarity[1] == 0  # as the reference; as the donor of the next
    if which == "objects":  # counts as everywhere
        share = float(1 - batch.lam[0].clamp(1 - 0.8, 1 - 0.1))
        assert int(mixed.box_reference[0, 2] - mixed.box_reference[0, 0]) == round(math.sqrt(share) * 40)


def test_an_object_that_is_everywhere_has_its_peak_in_the_middle():
    batch, evidence = make(0, 2)
    evidence = Evidence(
        objects=torch.full((2, 5, 5), 0.04),
        part_maps=torch.zeros_like(evidence.part_maps),
        part_descriptors=evidence.part_descriptors,
    )
    mixed = mixed_by(batch, evidence)
    assert ((mixed.box_reference[:, :2] + mixed.box_reference[:, 2:]) / 2 - 20).abs().max() <= 0.5
    torch.testing.assert_close(mixed.rho, (mixed.box_reference[:, 2] - mixed.box_reference[:, 0]) ** 2 / 1600.0)


def test_under_autocast_the_numbers_are_the_same():
    batch, evidence = make(1)
    evidence = Evidence(objects=evidence.objects.float(), part_maps=evidence.part_maps.float(),
                        part_descriptors=evidence.part_descriptors.float())  # fmt: skip
    plain = mixed_by(batch, evidence)
    with torch.autocast("cpu", torch.bfloat16):
        cast = mixed_by(batch, evidence)
    for name in ("images", "kept", "pasted", "rho", "similarity"):
        assert torch.equal(getattr(cast, name), getattr(plain, name)), name


@pytest.mark.parametrize("label", LABELS)
def test_it_waits_for_nothing(label, recorder):
    batch, evidence = make(2)
    with recorder() as seen:
        mixed_by(batch, evidence, label).hidden(7)
    assert seen.count > 20 and not seen.waits


def test_no_operator_runs_once_for_each_image(recorder):
    counts = []
    for count in (2, 9):
        batch, evidence = make(2, count)
        with recorder() as seen:
            mixed_by(batch, evidence)
        counts.append(seen.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"area": [0.5, 0.1]}, "area\n.*found \\[0.5, 0.1\\], expected \\[a_min, a_max\\] with a_min <= a_max"),
        ({"threshold": 0}, "greater than 0"),
        ({"temperature": 1.0}, "Extra inputs"),
    ],
)
def test_keys_that_are_wrong(keys, said):
    with pytest.raises(ValueError, match=said):
        mixer("parts", "area", **{**KEYS, **keys})


def test_what_it_declares():
    settings_ = mixer("parts", "semantic", **KEYS)
    assert settings_.needs() == ("objects", "parts") and settings_.freshly() is settings_
    assert type(settings_) is parts.Settings and settings_.finds_similar and settings_.shows_donor
    assert square_sides(torch.tensor([0.75, 0.0]), [0.1, 0.64], 40, torch.tensor([20.0, 40.0])).tolist() == [10, 32]
