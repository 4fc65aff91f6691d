"""The comparators against torchvision, timm, and slow recomputations of their papers' formulas, one image at a time."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.mixup import Mixup as TimmMixup
from torch.nn.functional import adaptive_avg_pool2d, interpolate, one_hot
from torchvision.transforms import v2

from lapml.data.truth import Truth
from lapml.mixing import MIXERS, Draws, Evidence, boxes, fmix, mix, mixer, snapmix

SIDE, CLASSES = 24, 5
BEFORE_ONE = float(torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))


def draws(seed: int, count: int = 5, side: int = SIDE) -> SimpleNamespace:
    """A batch and every random number that a mixer takes."""
    g = torch.Generator().manual_seed(seed)
    it = SimpleNamespace(
        images=torch.randn(count, 3, side, side, generator=g),
        donors=torch.arange(count).roll(1),
        labels=torch.randint(CLASSES, (count,), generator=g),
        lam=torch.rand(count, generator=g),
        uniform=torch.rand(count, 2, generator=g),
        second=torch.rand(count, 3, generator=g),
        features=torch.randn(count, 7, 6, 6, generator=g),
        weight=torch.randn(CLASSES, 7, generator=g),
        bias=torch.randn(CLASSES, generator=g),
    )
    more = torch.rand(count, fmix.Settings.uniform - 2, generator=g)
    it.uniform = torch.cat([it.uniform, more], 1)  # for mixers that draw more
    return it


def mixed_by(
    it: SimpleNamespace, name: str, label: str | None = None, keys: dict | None = None, **known
) -> boxes.Mixed:
    """What a mixer of these keys makes of a batch; ``known``: its evidence."""
    batch = Draws(it.images, it.labels, it.donors, it.lam, it.uniform, it.second)
    return mix(batch, Evidence(**known), mixer(name, label, **(keys or KEYS[name])))


KEYS = {
    "mixup": {"alpha": 1.0},
    "cutout": {"side": 0.5},
    "cutmix": {"alpha": 1.0, "maps": "fresh"},
    "snapmix": {"alpha": 5.0, "same_class": "official"},
    "attentive_cutmix": {"cells": 0.2},
    "resizemix": {"scale": [0.1, 0.8]},
    "saliencymix": {"alpha": 1.0},
    "fmix": {"alpha": 1.0, "decay": 3.0},
    "transmix": {"alpha": 1.0},
    "oracle": {"alpha": 1.0, "area": [0.05, 0.5]},
    "parts": {"alpha": 1.0, "area": [0.1, 0.8], "threshold": 0.5},
    "random": {"alpha": 1.0, "area": [0.05, 0.5], "maps": "objects"},
}
LABELLED = ("cutmix", "oracle", "parts", "random")  # by a rule that is chosen
PLAIN = {"alpha": 1.0, "maps": None}  # CutMix labelled by area


# --- Mixup ---


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("count", [2, 5])
def test_mixup_is_torchvisions(lam, count):
    """v2.MixUp draws one λ a batch and takes donors by roll(1)."""
    it, transform = draws(0, count), v2.MixUp(num_classes=CLASSES)
    transform._dist = SimpleNamespace(sample=lambda shape: torch.tensor(lam))
    expected, targets = transform(it.images.clone(), it.labels)
    before = it.images.clone()
    it.lam = torch.full((count,), lam)
    mixed = mixed_by(it, "mixup")
    torch.testing.assert_close(mixed.images, expected)
    assert torch.equal(it.images, before)
    found = (
        mixed.kept[:, None] * one_hot(it.labels, CLASSES)
        + mixed.pasted[:, None] * one_hot(it.labels, CLASSES)[it.donors]
    )
    torch.testing.assert_close(found, targets)
    torch.testing.assert_close(mixed.rho, mixed.pasted)


def timm_elementwise(images: torch.Tensor, lam: torch.Tensor, **alphas: float) -> tuple[torch.Tensor, torch.Tensor]:
    """timm's Mixup, a λ an image; its donors are the batch reversed."""
    transform = TimmMixup(mode="elem", num_classes=CLASSES, **alphas)
    with mock.patch("numpy.random.beta", return_value=lam.double().numpy()):
        made = images.clone()
        return made, transform._mix_elem(made)[:, 0]


@pytest.mark.parametrize("count", [2, 6])
def test_mixup_an_image_is_timms(count):
    it = draws(1, count)
    expected, lam = timm_elementwise(it.images, it.lam, mixup_alpha=1.0, cutmix_alpha=0.0)
    it.donors = torch.arange(count).flip(0)
    mixed = mixed_by(it, "mixup")
    torch.testing.assert_close(mixed.images, expected)
    torch.testing.assert_close(mixed.kept, lam)


def test_mixup_says_how_much_of_each_cell_is_the_donors():
    mixed = mixed_by(draws(2), "mixup")
    torch.testing.assert_close(mixed.hidden(4), mixed.rho[:, None, None].expand(-1, 4, 4))


# --- CutMix ---


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_an_image_is_timms_where_cuts_are_even(seed):
    """timm makes a cut of an odd side a pixel larger than the paper's code; torchvision does not, nor do we."""
    it = draws(seed, 6)
    cuts = torch.tensor([2, 4, 8, 12, 18, 22])
    lam = 1 - ((cuts + 0.3) / SIDE).double() ** 2  # off whole pixels: timm rounds λ to fp32
    centres = torch.randint(SIDE, (6, 2), generator=torch.Generator().manual_seed(seed))
    with mock.patch("numpy.random.randint", side_effect=[int(c) for xy in centres.tolist() for c in reversed(xy)]):
        expected, kept = timm_elementwise(it.images, lam, mixup_alpha=0.0, cutmix_alpha=1.0)
    it.donors, it.lam, it.uniform = torch.arange(6).flip(0), lam, (centres.double() + 0.5) / SIDE
    mixed = mixed_by(it, "cutmix", "area", PLAIN)
    assert torch.equal(mixed.images, expected)
    torch.testing.assert_close(mixed.kept, kept)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["semantic", "snapmix"]))
@settings(max_examples=40)
def test_cutmix_labelled_by_what_is_seen(seed, label):
    """The places are plain CutMix's; the weights are of the class maps inside and outside of the clipped box."""
    it = draws(seed)
    maps = it.features[:, 0].abs()
    maps = maps / maps.sum((1, 2), keepdim=True)
    plain = mixed_by(it, "cutmix", "area", PLAIN)
    mixed = mixed_by(it, "cutmix", label, maps=maps, features=it.features)
    assert torch.equal(mixed.images, plain.images) and torch.equal(mixed.box_donor, plain.box_donor)
    fine = maps.repeat_interleave(4, 1).repeat_interleave(4, 2) / 16  # by pixels
    for i in range(5):
        x0, y0, x1, y1 = mixed.box_reference[i].tolist()
        kept = 1 - float(fine[i, y0:y1, x0:x1].sum())
        pasted = float(fine[int(it.donors[i]), y0:y1, x0:x1].sum())
        expected = (kept, pasted) if label == "snapmix" else (kept / (kept + pasted), pasted / (kept + pasted))
        assert (float(mixed.kept[i]), float(mixed.pasted[i])) == pytest.approx(expected, abs=1e-5)


# --- Cutout ---


@given(
    st.floats(0.05, 0.95), st.floats(0, BEFORE_ONE, width=32), st.floats(0, BEFORE_ONE, width=32), st.integers(8, 64)
)
def test_cutout_as_its_authors_write_it(share, u, v, side):
    """y1 = clip(y − n // 2, 0, h) and so on; the mask is 0 there."""
    it = draws(0, 1, side)
    it.images, it.uniform = torch.ones(1, 3, side, side), torch.tensor([[u, v]])
    mixed = mixed_by(it, "cutout", keys={"side": share})
    n, x, y = round(share * side), int(np.float64(np.float32(u)) * side), int(np.float64(np.float32(v)) * side)
    expected = np.ones((side, side), np.float32)
    expected[
        np.clip(y - n // 2, 0, side) : np.clip(y + n // 2, 0, side),
        np.clip(x - n // 2, 0, side) : np.clip(x + n // 2, 0, side),
    ] = 0.0
    assert np.array_equal(mixed.images[0, 0].numpy(), expected)
    assert (float(mixed.kept), float(mixed.pasted), float(mixed.rho)) == (1, 0, 0)


# --- SnapMix ---


def literal_snapmix(
    it: SimpleNamespace, i: int, same_class: str, maps: np.ndarray
) -> tuple[torch.Tensor, float, float]:
    """One image by the paper's formulas, with the two boxes cut out, resized and pasted by slices."""

    def box(lam: float, u: float, v: float) -> tuple[int, int, int, int]:
        half = int(SIDE * (1 - lam) ** 0.5) // 2
        x, y = int(u * SIDE), int(v * SIDE)
        return tuple(min(max(edge, 0), SIDE) for edge in (x - half, y - half, x + half, y + half))

    j = int(it.donors[i])
    ax0, ay0, ax1, ay1 = box(float(it.lam[i].double()), *it.uniform[i, :2].double().tolist())
    bx0, by0, bx1, by1 = box(*it.second[i].double().tolist())
    image = it.images[i].clone()
    if (ax1 - ax0) * (ay1 - ay0) == 0 or (bx1 - bx0) * (by1 - by0) == 0:
        return image, 1.0, 0.0
    patch = it.images[j : j + 1, :, by0:by1, bx0:bx1]
    image[:, ay0:ay1, ax0:ax1] = interpolate(patch, (ay1 - ay0, ax1 - ax0), mode="bilinear", align_corners=True)[0]
    kept = 1 - maps[i, ay0:ay1, ax0:ax1].sum() / maps[i].sum()
    pasted = maps[j, by0:by1, bx0:bx1].sum() / maps[j].sum()
    if it.labels[i] == it.labels[j] and same_class == "official":
        kept, pasted = kept + pasted, pasted + kept
    return image, float(kept), float(pasted)


def literal_maps(it: SimpleNamespace) -> np.ndarray:
    """Class scores of the cells with ReLU'd features and the bias, upsampled, less the minimum, divided by the sum."""
    found = []
    for features, label in zip(it.features, it.labels.tolist(), strict=True):
        scores = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
        for y in range(6):
            for x in range(6):
                cell = features[:, y, x].double().clamp_min(0)
                scores[0, 0, y, x] = float((it.weight[label].double() * cell).sum() + it.bias[label].double())
        fine = interpolate(scores, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
        fine = fine - fine.min()
        found.append((fine / fine.sum()).numpy())
    return np.stack(found)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["official", "single"]))
@settings(max_examples=60)
def test_snapmix_by_its_formulas(seed, same_class):
    it = draws(seed)
    it.labels[1] = it.labels[0]  # a pair of one class
    maps = snapmix.maps(it.features, it.weight, it.labels, SIDE)
    expected_maps = literal_maps(it)
    np.testing.assert_allclose(maps.numpy(), expected_maps, atol=2e-6)
    mixed = mixed_by(it, "snapmix", keys={"alpha": 5.0, "same_class": same_class}, scores=maps)
    for i in range(5):
        image, kept, pasted = literal_snapmix(it, i, same_class, expected_maps)
        torch.testing.assert_close(mixed.images[i], image, atol=2e-4, rtol=0)
        assert (float(mixed.kept[i]), float(mixed.pasted[i])) == pytest.approx((kept, pasted), abs=2e-5)


def test_snapmix_pairs_of_one_class_weigh_twice_the_sum_in_the_authors_code():
    it = draws(3, 2)
    maps, it.labels = torch.full((2, SIDE, SIDE), SIDE**-2.0), torch.zeros(2, dtype=torch.int64)
    it.lam, it.uniform, it.second = torch.full((2,), 0.75), torch.full((2, 2), 0.5), torch.full((2, 3), 0.5)
    official, single = (
        mixed_by(it, "snapmix", keys={"alpha": 5.0, "same_class": kind}, scores=maps) for kind in ("official", "single")
    )
    torch.testing.assert_close(official.kept + official.pasted, 2 * (single.kept + single.pasted))


@pytest.mark.parametrize("lam, second", [(1.0, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_snapmix_with_an_empty_box_is_not_mixed(lam, second):
    it = draws(4, 3)
    maps = snapmix.maps(it.features, it.weight, it.labels, SIDE)
    it.lam, it.second, it.labels = torch.full((3,), lam), torch.full((3, 3), second), torch.zeros(3, dtype=torch.int64)
    it.second[:, 1:] = 0.5
    mixed = mixed_by(it, "snapmix", scores=maps)
    assert torch.equal(mixed.images, it.images)
    assert mixed.kept.tolist() == [1] * 3 and mixed.pasted.tolist() == [0] * 3 == mixed.rho.tolist()


@pytest.mark.parametrize("bad", [0.0, 0.37, float("nan"), float("inf")])
def test_snapmix_weighs_by_area_where_a_map_says_nothing(bad):
    it = draws(5, 3)
    it.features[0] = bad
    maps = snapmix.maps(it.features, it.weight, it.labels, SIDE)
    assert not maps[0].isfinite().all() and maps[1:].isfinite().all()
    it.lam, it.second, it.labels = torch.full((3,), 0.5), it.second * 0.5, torch.arange(3)
    mixed = mixed_by(it, "snapmix", scores=maps)
    share = boxes.area(mixed.box_reference, SIDE)
    assert float(mixed.kept[0]) == pytest.approx(1 - float(share[0]))  # its own map is lost
    assert float(mixed.pasted[1]) == pytest.approx(float(share[1]))  # its donor's is
    assert mixed.rho.isfinite().all() and mixed.images.isfinite().all()


# --- Attentive CutMix ---


@given(st.integers(0, 2**31 - 1), st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_attentive_cutmix_by_its_definition(seed, share):
    it = draws(seed)
    attention = it.features.mean(1)
    mixed = mixed_by(it, "attentive_cutmix", keys={"cells": share}, attention=attention)
    top = min(max(round(share * 36), 1), 35)
    for i in range(5):
        j = int(it.donors[i])
        ranked = sorted(((float(attention[j, y, x]), y, x) for y in range(6) for x in range(6)), reverse=True)
        image = it.images[i].clone()
        for _, y, x in ranked[:top]:
            image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = it.images[j, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert torch.equal(mixed.images[i], image)
        assert float(mixed.kept[i]) == pytest.approx(1 - top / 36)
    torch.testing.assert_close(mixed.hidden(6), mixed.mask)
    torch.testing.assert_close(mixed.hidden(3), adaptive_avg_pool2d(mixed.mask, 3))


def test_attentive_cutmix_takes_six_of_seven_times_seven():
    mixed = mixed_by(draws(0, 2, 28), "attentive_cutmix", keys={"cells": 0.1224}, attention=torch.randn(2, 7, 7))
    assert mixed.mask.sum((1, 2)).tolist() == [6, 6] and mixed.pasted.tolist() == pytest.approx([6 / 49] * 2)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
def test_attentive_cutmix_of_attention_that_says_nothing(bad):
    it = draws(6, 3)
    attention = it.features.mean(1)
    attention[0] = bad
    attention[1, 2, 3] = float("nan")
    mixed = mixed_by(it, "attentive_cutmix", keys={"cells": 0.25}, attention=attention)
    assert mixed.mask.sum((1, 2)).tolist() == [9] * 3 and mixed.images.isfinite().all()
    assert mixed.mask[2, 2, 3] == 0  # image 2's donor is 1: a cell that is no number is not attended


# --- the oracle ---


def truth_of(seed: int, count: int = 5, parts: int = 4) -> Truth:
    g = torch.Generator().manual_seed(seed)
    corners = (torch.rand(count, 2, 2, generator=g) * SIDE).sort(1).values
    where = torch.rand(count, parts, 3, generator=g) * SIDE
    where[..., 2] = (where[..., 2] > 0.4 * SIDE).float()
    return Truth(corners.flatten(1), where)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["area", "semantic", "snapmix"]))
@settings(max_examples=60)
def test_oracle_by_loops(seed, label):
    it, truth, span = draws(seed), truth_of(seed), [0.05, 0.5]
    mixed = mixed_by(it, "oracle", label, truth=truth)
    for i in range(5):
        j = int(it.donors[i])
        side = round(min(max(1 - float(it.lam[i]), span[0]), span[1]) ** 0.5 * SIDE)
        common = [p for p in range(4) if truth.parts[i, p, 2] and truth.parts[j, p, 2]]
        theirs = [p for p in range(4) if truth.parts[j, p, 2]]
        drawn = (common or theirs or [None])[int(float(it.uniform[i, 0]) * len(common or theirs or [None]))]
        middle = [(truth.boxes[k, :2] + truth.boxes[k, 2:]) / 2 for k in (i, j)]
        source = middle[1] if drawn is None else truth.parts[j, drawn, :2]
        target = truth.parts[i, drawn, :2] if common else middle[0]
        squares = []
        for point in (target, source):
            low = [min(max(round(float(c) - side / 2), 0), SIDE - side) for c in point]
            squares.append([*low, low[0] + side, low[1] + side])
        assert mixed.box_reference[i].tolist() == squares[0] and mixed.box_donor[i].tolist() == squares[1]
        assert float(mixed.similarity[i]) == float(bool(common))
        seen = []
        for k, square in ((i, squares[0]), (j, squares[1])):
            x0, y0, x1, y1 = truth.boxes[k].tolist()
            across = max(0.0, min(x1, square[2]) - max(x0, square[0])) * max(
                0.0, min(y1, square[3]) - max(y0, square[1])
            )
            seen.append(across / ((x1 - x0) * (y1 - y0)))
        kept, pasted, share = 1 - seen[0], seen[1], side**2 / SIDE**2
        if label == "area":
            expected = (1 - share, share)
        elif label == "snapmix":
            expected = (kept, pasted)
        else:
            expected = (
                (kept / (kept + pasted), pasted / (kept + pasted)) if kept + pasted > 1e-9 else (1 - share, share)
            )
        assert (float(mixed.kept[i]), float(mixed.pasted[i])) == pytest.approx(expected, abs=1e-4)


def test_oracle_without_any_part_or_object():
    it = draws(7, 3)
    truth = Truth(torch.zeros(3, 4), torch.zeros(3, 1, 3))
    mixed = mixed_by(it, "oracle", "semantic", truth=truth)
    share = boxes.area(mixed.box_reference, SIDE)
    torch.testing.assert_close(mixed.kept, (1 - share))  # by area where nothing is known
    assert mixed.images.isfinite().all() and not mixed.similarity.any()


# --- all of them ---


def made(name: str, it: SimpleNamespace) -> boxes.Mixed:
    count = len(it.images)
    objects = it.features[:, 0].abs() / it.features[:, 0].abs().sum((1, 2), keepdim=True)
    known = {
        "cutmix": {"maps": torch.full((count, 6, 6), 1 / 36), "features": it.features},
        "snapmix": {"scores": snapmix.maps(it.features, it.weight, it.labels, it.images.shape[-1])},
        "attentive_cutmix": {"attention": it.features.mean(1)},
        "oracle": {"truth": truth_of(0, count)},
        "parts": {
            "objects": objects,
            "part_maps": it.features[:, :4].relu(),
            "part_descriptors": it.features[:, :4, 0],
        },
        "random": {"objects": objects},
    }.get(name, {})
    return mixed_by(it, name, "semantic" if name in LABELLED else None, **known)


NAMES = sorted(set(MIXERS) - {"localized"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 3])
def test_an_odd_or_single_image_batch(name, count):
    """A single image is its own donor: nothing but Cutout and what takes two places of it changes it."""
    it = draws(8, count)
    mixed = made(name, it)
    assert mixed.images.shape == it.images.shape and mixed.images.isfinite().all()
    assert ((mixed.rho >= 0) & (mixed.rho <= 1)).all()
    if count == 1 and name in ("mixup", "cutmix", "attentive_cutmix", "saliencymix", "fmix", "transmix", "parts"):
        torch.testing.assert_close(mixed.images, it.images)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_donors_only(name):
    """A rank's share has one image more than references."""
    it = draws(9, 5)
    whole = made(name, it)
    it.donors, it.lam, it.uniform, it.second = torch.tensor([4, 0, 1, 2]), it.lam[:4], it.uniform[:4], it.second[:4]
    part = made(name, it)
    torch.testing.assert_close(part.images, whole.images[:4])
    torch.testing.assert_close(part.kept, whole.kept[:4])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_images_keep_their_type_and_shares_are_fp32(name):
    it = draws(10)
    it.images = it.images.to(torch.bfloat16)
    mixed = made(name, it)
    assert mixed.images.dtype == torch.bfloat16
    assert mixed.kept.dtype == mixed.pasted.dtype == mixed.rho.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_changes_nothing_it_is_given(name):
    it, untouched = draws(11), draws(11)
    made(name, it)
    for key, value in vars(untouched).items():
        assert torch.equal(getattr(it, key), value), key


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_waits_for_nothing(name, recorder):
    it = draws(13)
    with recorder() as seen:
        mixed = made(name, it)
        mixed.hidden(6)
    assert seen.count > 5 and not seen.waits


def test_a_mixed_batch_must_say_what_was_replaced():
    it = draws(12)
    bare = boxes.Mixed(it.images, it.donors, it.lam, 1 - it.lam, 1 - it.lam)
    with pytest.raises(Exception, match="neither box_reference nor mask"):
        bare.hidden(6)
