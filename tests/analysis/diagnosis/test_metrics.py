"""The metrics of docs/diagnosis.md, counted again by loops over images, pixels and parts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lapml.analysis.diagnosis import metrics
from lapml.data.truth import Scene, Truth
from lapml.mixing import Draws, Evidence, Mixed, mix, mixer, snapmix

KINDS = ("cutmix", "localized", "snapmix", "cutout", "cells", "mixup", "empty")
PASTES = ("cutmix", "localized", "snapmix", "cells")  # something of the donor, whole


# --- the document, literally ---


def in_box(x: int, y: int, box: list) -> bool:
    return box[0] <= x < box[2] and box[1] <= y < box[3]


class Picture:
    """One generated image: what is replaced of the reference, and what is shown of the donor, pixel by pixel."""

    def __init__(self, kind: str, mixed: Mixed, i: int, side: int):
        self.kind, self.side = kind, side
        self.replaced = [[0.0] * side for _ in range(side)]  # [y][x]
        self.shown = [[0.0] * side for _ in range(side)]
        self.scale = 1.0
        for y in range(side):
            for x in range(side):
                if mixed.mask is not None:
                    height, width = mixed.mask.shape[1:]
                    value = float(mixed.mask[i, y * height // side, x * width // side])
                    self.replaced[y][x] = self.shown[y][x] = value
                    continue
                self.replaced[y][x] = float(in_box(x, y, mixed.box_reference[i].tolist()))
                if mixed.box_donor is not None:
                    self.shown[y][x] = float(in_box(x, y, mixed.box_donor[i].tolist()))
        if mixed.box_donor is not None:
            to, source = self.area(mixed.box_reference[i]), self.area(mixed.box_donor[i])
            self.scale = to / source if source else 0.0

    @staticmethod
    def area(box: torch.Tensor) -> float:
        x0, y0, x1, y1 = box.tolist()
        return float((x1 - x0) * (y1 - y0))

    def left(self, x: float, y: float) -> float:
        """How much of the reference's pixel at a point is left."""
        return 1 - self.replaced[math.floor(y)][math.floor(x)]

    def there(self, x: float, y: float) -> float:
        return self.shown[math.floor(y)][math.floor(x)]


def literal(kind: str, mixed: Mixed, scene: Scene) -> dict[str, list[tuple[float, bool]]]:
    """{metric: (value, applies) an image}, as the table of docs/diagnosis.md says; "true" is D / (K + D) of the primary."""
    side = scene.objects.shape[-1]
    found: dict[str, list] = {name: [] for name in (*metrics.MIXING, "true")}
    for i, j in enumerate(mixed.donors.tolist()):
        picture = Picture(kind, mixed, i, side)
        rho = float(mixed.rho[i])
        pixels = [(x, y) for y in range(side) for x in range(side)]
        found["area"].append((sum(picture.replaced[y][x] for x, y in pixels) / side**2, True))

        theirs = [(x, y) for x, y in pixels if scene.objects[j, y, x]]
        own = [(x, y) for x, y in pixels if scene.objects[i, y, x]]
        pasted = kind in PASTES and any(picture.shown[y][x] > 0 for x, y in pixels)
        shows = any(picture.shown[y][x] > 0 for x, y in theirs)
        found["meaningless"].append((float(not shows), pasted and bool(theirs)))

        my_parts = {p: (x, y) for p, (x, y, seen) in enumerate(scene.truth.parts[i].tolist()) if seen}
        their_parts = {p: (x, y) for p, (x, y, seen) in enumerate(scene.truth.parts[j].tolist()) if seen}
        both = bool(my_parts) and bool(their_parts)
        if kind == "mixup" or not both:
            found["obscured"].append((0.0, False))
        else:
            covered = sum(picture.left(*at) == 0 for at in my_parts.values())
            shown = sum(picture.there(*at) == 1 for at in their_parts.values())
            value = 2 * covered > len(my_parts) and 10 * shown <= len(their_parts)
            found["obscured"].append((float(value), True))

        k = sum(1 - picture.replaced[y][x] for x, y in own)
        d = sum(picture.shown[y][x] for x, y in theirs) * picture.scale
        found["label_error_masks"].append(
            (abs(rho - d / (k + d)), True) if scene.masked and k + d > 0 else (0.0, False)
        )
        true = (d / (k + d), True) if k + d > 0 else (0.0, False)

        k = sum(picture.left(*at) for at in my_parts.values())
        d = sum(picture.there(*at) for at in their_parts.values())
        found["label_error_parts"].append((abs(rho - d / (k + d)), True) if k + d > 0 else (0.0, False))
        found["true"].append(true if scene.masked else (d / (k + d), True) if k + d > 0 else (0.0, False))

        if not both:
            found["ghost"].append((0.0, False))
        elif scene.labels[i] == scene.labels[j]:
            found["ghost"].append((float(k == 0 and d == 0), True))
        else:
            found["ghost"].append((float((rho > 0.05 and d == 0) or (1 - rho > 0.05 and k == 0)), True))

        matched = [p for p, at in their_parts.items() if picture.there(*at) > 0 and p in my_parts]
        if kind in PASTES and matched:
            under = sum(picture.left(*my_parts[p]) == 0 for p in matched)
            found["agreement"].append((under / len(matched), True))
        else:
            found["agreement"].append((0.0, False))
    return found


def same(found: tuple[torch.Tensor, torch.Tensor], expected: list[tuple[float, bool]], name: str) -> None:
    value, applies = found
    assert applies.tolist() == [each for _, each in expected], name
    for i, (number, counts) in enumerate(expected):
        if counts:
            assert float(value[i]) == pytest.approx(number, abs=2e-5), (name, i)
        elif name != "true":
            assert float(value[i]) == 0, (name, i)


def check(kind: str, mixed: Mixed, scene: Scene) -> None:
    expected = literal(kind, mixed, scene)
    found = metrics.mixing(mixed, scene)
    assert set(found) == set(metrics.MIXING)
    for name, pair in found.items():
        same(pair, expected[name], name)
    same(metrics.true_share(mixed, scene), expected["true"], "true")


# --- random scenes ---


def pixels_in(boxes: np.ndarray, side: int) -> torch.Tensor:
    """The pixels whose centres lie in each box."""
    objects = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for i, box in enumerate(boxes.tolist()):
        for y in range(side):
            for x in range(side):
                objects[i, y, x] = in_box(x + 0.5, y + 0.5, box)
    return objects


def random_scene(rng: np.random.Generator, side: int, images: int, parts: int, masked: bool) -> Scene:
    ends = np.sort(rng.uniform(-0.6 * side, 1.6 * side, (images, 2, 2)), 2)  # (image, axis, end), some beside the view
    boxes = np.clip(np.stack([ends[:, 0, 0], ends[:, 1, 0], ends[:, 0, 1], ends[:, 1, 1]], 1), 0, side)
    where = np.zeros((images, max(parts, 1), 3))
    where[..., :2] = rng.uniform(-0.4 * side, 1.4 * side, where[..., :2].shape)
    inside = ((where[..., :2] >= 0) & (where[..., :2] < side)).all(-1)
    if parts:
        where[..., 2] = inside & (rng.random(inside.shape) < 0.75)
    objects = pixels_in(boxes, side)
    if masked:
        objects &= torch.from_numpy(rng.random((images, side, side)) < 0.6)
        objects[rng.random(images) < 0.15] = False
    truth = Truth(torch.from_numpy(boxes).float(), torch.from_numpy(where).float())
    return Scene(truth, objects, masked, torch.from_numpy(rng.integers(0, 2, images)))


def random_box(rng: np.random.Generator, side: int, extent: tuple[int, int] | None = None) -> list[int]:
    width, height = extent or rng.integers(1, side + 1, 2)
    x, y = rng.integers(0, side - width + 1), rng.integers(0, side - height + 1)
    return [int(x), int(y), int(x + width), int(y + height)]


def random_mixed(rng: np.random.Generator, kind: str, side: int, images: int, count: int) -> Mixed:
    donors = torch.tensor([int(rng.choice([k for k in range(images) if k != i])) for i in range(count)])
    rho = torch.from_numpy(rng.integers(0, 129, count) / 128).float()  # never at a threshold
    weight = torch.from_numpy(rng.random(count)).float() + 0.5  # weights need not sum to 1
    common = dict(images=torch.zeros(count, 3, side, side), donors=donors)
    common |= dict(kept=(1 - rho) * weight, pasted=rho * weight, rho=rho)
    to = torch.tensor([random_box(rng, side) for _ in range(count)])
    if kind == "cutmix":
        return Mixed(**common, box_reference=to, box_donor=to)
    if kind == "localized":
        source = [random_box(rng, side, (x1 - x0, y1 - y0)) for x0, y0, x1, y1 in to.tolist()]
        return Mixed(**common, box_reference=to, box_donor=torch.tensor(source))
    if kind == "snapmix":
        return Mixed(**common, box_reference=to, box_donor=torch.tensor([random_box(rng, side) for _ in range(count)]))
    if kind == "empty":
        none = torch.zeros(count, 4, dtype=torch.int64)
        return Mixed(**common, box_reference=none, box_donor=none)
    ones = torch.ones(count)
    if kind == "cutout":
        common |= dict(kept=ones, pasted=0 * ones, rho=0 * ones)
        return Mixed(**common, box_reference=to)
    if kind == "cells":
        cells = int(rng.integers(2, 8))
        mask = torch.zeros(count, cells, cells)
        for i in range(count):
            mask[i].view(-1)[torch.from_numpy(rng.permutation(cells**2)[: rng.integers(1, cells**2)])] = 1.0
        return Mixed(**common, mask=mask)
    share = torch.from_numpy(rng.uniform(0.001, 0.999, count)).float()
    return Mixed(common["images"], donors, 1 - share, share, share, mask=share[:, None, None])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.integers(12, 24),
    images=st.integers(3, 6),
    parts=st.sampled_from([0, 1, 2, 3, 4, 5, 5, 11, 12]),
    donors_only=st.booleans(),
)
def test_every_metric_is_what_the_document_counts(kind, seed, side, images, parts, donors_only):
    rng = np.random.default_rng([seed, side, images, parts])
    for masked in (False, True):
        scene = random_scene(rng, side, images, parts, masked)
        check(kind, random_mixed(rng, kind, side, images, images - donors_only), scene)


@pytest.mark.parametrize("kind", KINDS)
def test_random_scenes_show_all_sides_of_every_metric(kind):
    """The comparison above is no comparison of constants: each metric that applies to a kind takes several values."""
    rng = np.random.default_rng(1)
    seen: dict[str, set] = {name: set() for name in metrics.MIXING}
    for _ in range(60):
        scene = random_scene(rng, 12, 5, 5, True)
        for name, pairs in literal(kind, random_mixed(rng, kind, 12, 5, 5), scene).items():
            if name in seen:
                seen[name] |= {round(value, 6) for value, applies in pairs if applies}
    lacking = {name for name, values in seen.items() if len(values) < 2}
    expected = {
        "mixup": {"meaningless", "obscured", "agreement", "ghost"},  # of a blend, every part is seen a little
        "cutout": {"meaningless", "agreement", "label_error_masks", "label_error_parts"},  # the label is right
        "empty": {"area", "meaningless", "agreement", "obscured"},
    }
    assert lacking == expected.get(kind, set())


# --- real mixers on images that say of each pixel where it comes from ---


def coded(images: int, side: int) -> torch.Tensor:
    """Image i has (i + 1, x, y) at each pixel."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.stack([torch.full_like(x, i + 1), x, y]) for i in range(images)]).float()


def mixed_by(kind: str, rng: np.random.Generator, images: torch.Tensor) -> Mixed:
    count = len(images)
    donors = torch.arange(count).roll(1)
    lam, uniform = (torch.from_numpy(rng.random(shape)).float() for shape in (count, (count, 2)))
    maps = torch.from_numpy(rng.dirichlet(np.ones(25), count)).float().view(count, 5, 5)
    features = torch.from_numpy(rng.random((count, 4, 5, 5))).float() if kind == "localized" else maps[:, None]
    name, label, keys = HOW[kind]
    evidence = Evidence(maps=maps, features=features, attention=maps)
    return mix(Draws(images, torch.arange(count), donors, lam, uniform), evidence, mixer(name, label, **keys))


HOW = {
    "cutmix": ("cutmix", "semantic", {"alpha": 1.0, "maps": "fresh"}),
    "localized": (
        "localized", "semantic", {"alpha": 1.0, "area": [0.05, 0.5], "temperature": 1.0, "support": 0.3, "maps": "fresh"}
    ),
    "cutout": ("cutout", None, {"side": 0.5}),
    "cells": ("attentive_cutmix", None, {"cells": 0.2}),
    "mixup": ("mixup", None, {"alpha": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("side", [12, 17, 20])
@pytest.mark.parametrize("kind", ["cutmix", "localized", "cutout", "cells", "mixup"])
def test_what_is_counted_is_what_the_pixels_of_the_generated_image_show(kind, side):
    """The kept and the shown object, read off the image itself: also where cells are not whole pixels."""
    rng = np.random.default_rng(3)
    count = 6
    for _ in range(5):
        scene = random_scene(rng, side, count, 5, True)
        images = coded(count, side)
        mixed = mixed_by(kind, rng, images)
        found = metrics.mixing(mixed, scene)
        for i, j in enumerate(mixed.donors.tolist()):
            k = d = replaced = 0.0
            for y in range(side):
                for x in range(side):
                    source, from_x, from_y = mixed.images[i, :, y, x].tolist()
                    share = (source - (i + 1)) / (j - i) if kind == "mixup" else float(source != i + 1)
                    replaced += share
                    k += (1 - share) * float(scene.objects[i, y, x])
                    if source:  # not erased
                        d += share * float(scene.objects[j, round(from_y), round(from_x)])
            assert float(found["area"][0][i]) == pytest.approx(replaced / side**2, abs=1e-4)
            assert bool(found["label_error_masks"][1][i]) == (k + d > 0)
            if k + d > 0:
                expected = abs(float(mixed.rho[i]) - d / (k + d))
                assert float(found["label_error_masks"][0][i]) == pytest.approx(expected, abs=1e-3)


def test_snapmix_shows_the_object_at_the_size_that_it_has_in_the_generated_image():
    """A box of plain colour in the donor, pasted four times as large: its pixels in the generated image are counted."""
    side, count = 24, 2
    images = torch.zeros(count, 3, side, side)
    objects = torch.zeros(count, side, side, dtype=torch.bool)
    objects[1, 8:12, 8:12] = True
    images[1, :, 8:12, 8:12] = 1.0
    to, source = torch.tensor([[4, 4, 20, 20]] * 2), torch.tensor([[6, 6, 14, 14]] * 2)
    made = snapmix._resized(images[[1, 0]], source, to)[0, 0, 4:20, 4:20]
    scene = Scene(Truth(torch.zeros(2, 4), torch.zeros(2, 1, 3)), objects, True, torch.tensor([0, 1]))
    objects[0, 0, :4] = True  # four pixels of the reference stay
    half = torch.full((2,), 0.5)
    mixed = Mixed(images, torch.tensor([1, 0]), half, half, half, to, source)
    value, applies = metrics.true_share(mixed, scene)
    assert applies[0] and float(value[0]) == pytest.approx(64 / 68, abs=1e-6)
    assert float((made > 0.5).sum()) == pytest.approx(64, rel=0.15)  # bilinear: the edge is soft


# --- by eye: 10 × 10 pixels ---


def scene_of(objects: list, parts: list, labels: tuple[int, ...] = (0, 1), masked: bool = False, side: int = 10):
    """Two images: their boxes, and their parts (x, y), None where one is not seen."""
    where = torch.zeros(len(parts), len(parts[0]), 3)
    for i, each in enumerate(parts):
        for p, at in enumerate(each):
            if at is not None:
                where[i, p] = torch.tensor([*at, 1.0])
    boxes = torch.tensor(objects, dtype=torch.float32)
    return Scene(Truth(boxes, where), pixels_in(boxes.numpy(), side), masked, torch.tensor(labels))


def pair(to: tuple | None, source: tuple | None, rho: float = 0.5, side: int = 10, **others) -> Mixed:
    """Image 0 is the reference, 1 its donor."""
    share = torch.tensor([rho])
    boxes = (None if box is None else torch.tensor([box]) for box in (to, source))
    return Mixed(torch.zeros(1, 3, side, side), torch.tensor([1]), 1 - share, share, share, *boxes, **others)


def values(mixed: Mixed, scene: Scene) -> dict[str, float | None]:
    """{metric: its value, or None where it does not apply}."""
    found = metrics.mixing(mixed, scene)
    return {name: float(value[0]) if applies[0] else None for name, (value, applies) in found.items()}


BIRDS = ((2, 2, 8, 8), (5, 5, 10, 10))
PARTS = ([(3.5, 3.5), (6.5, 6.5), None], [(6.5, 6.5), (8.5, 8.5), (5.5, 5.5)])


@pytest.mark.parametrize(
    ("patch", "meaningless"),
    [((0, 0, 5, 5), 1.0), ((0, 5, 5, 10), 1.0), ((0, 0, 6, 5), 1.0), ((0, 0, 6, 6), 0.0), ((9, 9, 10, 10), 0.0)],
)
def test_a_patch_beside_the_donors_object_is_meaningless(patch, meaningless):
    assert values(pair(patch, patch), scene_of(BIRDS, PARTS))["meaningless"] == meaningless


def test_the_patch_is_looked_at_where_it_was_taken_from_not_where_it_lies():
    there, beside = (6, 6, 9, 9), (0, 0, 3, 3)
    assert values(pair(there, beside), scene_of(BIRDS, PARTS))["meaningless"] == 1
    assert values(pair(beside, there), scene_of(BIRDS, PARTS))["meaningless"] == 0


def test_meaningless_does_not_apply_without_a_patch_or_without_an_object():
    gone = ((2, 2, 8, 8), (0, 0, 0, 0))
    assert values(pair((0, 0, 5, 5), (0, 0, 5, 5)), scene_of(gone, PARTS))["meaningless"] is None
    assert values(pair((0, 0, 5, 5), None), scene_of(BIRDS, PARTS))["meaningless"] is None
    assert values(pair((0, 0, 0, 0), (0, 0, 0, 0)), scene_of(BIRDS, PARTS))["meaningless"] is None
    assert values(pair((3, 3, 3, 8), (3, 3, 3, 8)), scene_of(BIRDS, PARTS))["meaningless"] is None  # of no width


def test_a_mask_is_the_object_where_there_is_one():
    """The box reaches under the patch, the mask does not."""
    scene = scene_of(BIRDS, PARTS, masked=True)
    scene.objects[1, :8] = False
    patch = (0, 0, 8, 8)
    assert values(pair(patch, patch), scene_of(BIRDS, PARTS))["meaningless"] == 0
    assert values(pair(patch, patch), scene)["meaningless"] == 1
    assert values(pair(patch, patch), scene_of(BIRDS, PARTS))["label_error_masks"] is None  # no masks


def test_all_covered():
    found = values(pair((0, 0, 10, 10), (0, 0, 10, 10), rho=0.75), scene_of(BIRDS, PARTS, masked=True))
    assert found["area"] == 1 and found["meaningless"] == 0
    assert found["obscured"] == 0  # all of the donor's parts are shown
    assert found["label_error_masks"] == found["label_error_parts"] == 0.25  # nothing but the donor is seen
    assert found["ghost"] == 1  # a quarter of the label is for the reference
    assert found["agreement"] == 1


def test_an_erased_image_shows_nothing():
    found = values(pair((0, 0, 10, 10), None, rho=0.0), scene_of(BIRDS, PARTS, masked=True))
    assert found["area"] == 1 and found["obscured"] == 1 and found["ghost"] == 1
    for name in ("meaningless", "agreement", "label_error_masks", "label_error_parts"):
        assert found[name] is None, name
    found = values(pair((0, 0, 10, 8), None, rho=0.0), scene_of(((2, 2, 8, 9), BIRDS[1]), PARTS, masked=True))
    assert found["label_error_masks"] == 0  # a row of the reference is left
    assert found["label_error_parts"] is None and found["ghost"] == 1  # none of its parts


def test_counts_are_raw_not_shares_of_each_object():
    """Reference 36 pixels, 9 of them covered; donor 25 pixels, 16 of them shown."""
    scene = scene_of(BIRDS, PARTS, masked=True)
    mixed = pair((5, 5, 9, 9), (5, 5, 9, 9), rho=0.0)
    found = values(mixed, scene)
    assert found["label_error_masks"] == pytest.approx(16 / (27 + 16), abs=1e-6)
    assert found["label_error_parts"] == pytest.approx(3 / (1 + 3), abs=1e-6)
    assert float(metrics.true_share(mixed, scene)[0]) == pytest.approx(16 / 43, abs=1e-6)
    without = scene._replace(masked=False)
    assert float(metrics.true_share(mixed, without)[0]) == pytest.approx(0.75, abs=1e-6)
    assert values(mixed, without)["label_error_masks"] is None


def test_mixup_weighs_what_both_show():
    """36 pixels at 0.75 and 25 at 0.25; two parts at 0.75 and three at 0.25."""
    found = values(pair(None, None, rho=0.25, mask=torch.tensor([[[0.25]]])), scene_of(BIRDS, PARTS, masked=True))
    assert found["area"] == 0.25
    assert found["label_error_masks"] == pytest.approx(abs(0.25 - 6.25 / (27 + 6.25)), abs=1e-6)
    assert found["label_error_parts"] == pytest.approx(abs(0.25 - 0.75 / (1.5 + 0.75)), abs=1e-6)
    assert found["ghost"] == 0  # something of every part is seen
    assert found["meaningless"] is found["obscured"] is found["agreement"] is None


FAR = ([(1.5, 1.5)], [(8.5, 8.5)])


@pytest.mark.parametrize(
    ("patch", "rho", "ghost"),
    [
        ((4, 4, 6, 6), 0.06, 1),  # nothing of the donor is shown, the reference is
        ((4, 4, 6, 6), 0.0501, 1),
        ((4, 4, 6, 6), 0.05, 0),  # not above
        ((4, 4, 6, 6), 0.0, 0),
        ((0, 0, 3, 3), 0.0, 1),  # the reference is covered and has the label, and nothing of the donor is shown
        ((0, 0, 3, 3), 1.0, 1),
        ((0, 0, 9, 9), 0.9499, 1),  # the reference is covered, the donor is shown
        ((0, 0, 9, 9), 0.9501, 0),
        ((0, 0, 9, 9), 1.0, 0),
        ((6, 6, 9, 9), 0.5, 0),  # both are seen
    ],
)
def test_a_label_that_nothing_is_seen_of_is_a_ghost(patch, rho, ghost):
    assert values(pair(patch, patch, rho), scene_of(BIRDS, FAR))["ghost"] == ghost


@pytest.mark.parametrize(
    ("patch", "ghost"), [((4, 4, 6, 6), 0), ((0, 0, 3, 3), 1), ((0, 0, 9, 9), 0), ((6, 6, 9, 9), 0)]
)
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_a_pair_of_one_class_has_a_ghost_where_neither_is_seen(patch, ghost, rho):
    assert values(pair(patch, patch, rho), scene_of(BIRDS, FAR, labels=(3, 3)))["ghost"] == ghost


@pytest.mark.parametrize(
    ("kept", "pasted", "patch", "ghost"),
    [
        (0.2, 19.8, (0, 0, 9, 9), 0),  # the covered reference has a hundredth of the label
        (0.04, 0.04, (0, 0, 9, 9), 1),  # half of it
        (1.9, 0.06, (4, 4, 6, 6), 0),  # the donor, of which nothing is shown, has 0.03
        (0.04, 0.04, (4, 4, 6, 6), 1),
    ],
)
def test_shares_of_the_label_decide_not_weights_that_need_not_sum_to_one(kept, pasted, patch, ghost):
    rho = pasted / (kept + pasted)
    mixed = replace(pair(patch, patch, rho), kept=torch.tensor([kept]), pasted=torch.tensor([pasted]))
    assert values(mixed, scene_of(BIRDS, FAR))["ghost"] == ghost


def test_ghost_and_obscured_apply_where_both_show_a_part():
    for parts in ([[None], [(8.5, 8.5)]], [[(1.5, 1.5)], [None]], [[None], [None]]):
        found = values(pair((0, 0, 3, 3), (0, 0, 3, 3)), scene_of(BIRDS, parts))
        assert found["ghost"] is None and found["obscured"] is None and found["agreement"] is None, parts


def test_label_error_by_parts_applies_where_one_part_of_either_is_seen():
    found = values(pair((0, 0, 3, 3), (0, 0, 3, 3), 0.25), scene_of(BIRDS, [[(5.5, 5.5)], [None]]))
    assert found["label_error_parts"] == 0.25
    found = values(pair((0, 0, 3, 3), (0, 0, 3, 3), 0.25), scene_of(BIRDS, [[None], [(1.5, 1.5)]]))
    assert found["label_error_parts"] == 0.75
    assert values(pair((0, 0, 3, 3), (0, 0, 3, 3)), scene_of(BIRDS, [[None], [None]]))["label_error_parts"] is None


@pytest.mark.parametrize(
    ("covered", "shown", "obscured"), [(5, 0, 0), (6, 0, 1), (6, 1, 1), (6, 2, 0), (10, 1, 1), (10, 2, 0), (5, 1, 0)]
)
def test_obscured_is_more_than_half_and_at_most_a_tenth(covered, shown, obscured):
    """Ten parts each; the left half of the image is replaced."""
    mine = [(1.5 if p < covered else 8.5, p + 0.5) for p in range(10)]
    theirs = [(1.5 if p < shown else 8.5, p + 0.5) for p in range(10)]
    found = values(pair((0, 0, 5, 10), (0, 0, 5, 10)), scene_of(BIRDS, [mine, theirs]))
    assert found["obscured"] == obscured


def test_obscured_counts_seen_parts_only():
    """Of three parts, one is not seen: one of two is not more than half; two of three are."""
    other = [(8.5, 8.5)] * 3
    patch = (0, 0, 5, 10)
    assert values(pair(patch, patch), scene_of(BIRDS, [[(1.5, 1.5), (8.5, 1.5), None], other]))["obscured"] == 0
    mine = [(1.5, 1.5), (8.5, 1.5), (2.5, 2.5)]
    assert values(pair(patch, patch), scene_of(BIRDS, [mine, other]))["obscured"] == 1


@pytest.mark.parametrize(
    ("mine", "agreement"),
    [
        ([(1.5, 1.5), (2.5, 2.5), (9.5, 9.5)], 1.0),  # the same parts are under the patch
        ([(1.5, 1.5), (9.5, 0.5), (2.5, 2.5)], 0.5),
        ([(9.5, 0.5), (9.5, 0.5), (2.5, 2.5)], 0.0),  # another part is
        ([(1.5, 1.5), None, None], 1.0),
        ([None, (9.5, 0.5), (1.5, 1.5)], 0.0),
        ([None, None, (1.5, 1.5)], None),  # the reference shows none of those in the patch
    ],
)
def test_agreement_of_parts(mine, agreement):
    """The donor's patch holds its parts 0 and 1."""
    theirs = [(6.5, 6.5), (8.5, 8.5), (1.5, 1.5)]
    found = values(pair((0, 0, 4, 4), (6, 6, 10, 10)), scene_of(BIRDS, [mine, theirs]))
    assert found["agreement"] == agreement


def test_cells_are_pasted_in_their_places():
    """Of 2 × 2 cells, the lower right one."""
    mixed = pair(None, None, 0.25, mask=torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    found = values(mixed, scene_of(BIRDS, PARTS, masked=True))
    assert found["area"] == 0.25 and found["meaningless"] == 0 and found["obscured"] == 0
    assert found["label_error_masks"] == pytest.approx(abs(0.25 - 25 / (27 + 25)), abs=1e-6)
    assert found["agreement"] == 0.5  # part 1 lies under it, part 0 does not; the reference does not show part 2


def test_a_part_lies_in_the_pixel_that_it_lies_in():
    """A patch of columns 3 and 4: from 3 up to, not including, 5."""
    patch = (3, 0, 5, 10)
    for x, kept in ((2.99, 1), (3.0, 0), (4.99, 0), (5.0, 1)):
        scene = scene_of(BIRDS, [[(x, 4.5)], [(9.5, 9.5)]])
        found = values(pair(patch, patch, 0.0), scene)
        assert found["label_error_parts"] == (0.0 if kept else None), x
        assert found["ghost"] == 1 - kept, x


def test_pixels_of_a_box_are_those_whose_centre_lies_in_the_box():
    boxes = np.random.default_rng(0).uniform(0, 15, (40, 4))
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:] / 2, 15)
    boxes[0] = [2, 3, 2, 3]
    assert torch.equal(metrics.inside(torch.from_numpy(boxes) - 0.5, 15), pixels_in(boxes, 15))


# --- localisation ---


def upsampled(cells: np.ndarray, side: int) -> np.ndarray:
    """Bilinearly, pixel by pixel, centre to centre."""
    height, width = cells.shape
    found = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            at_y = min(max((y + 0.5) * height / side - 0.5, 0), height - 1)
            at_x = min(max((x + 0.5) * width / side - 0.5, 0), width - 1)
            y0, x0 = math.floor(at_y), math.floor(at_x)
            y1, x1, v, u = min(y0 + 1, height - 1), min(x0 + 1, width - 1), at_y - y0, at_x - x0
            found[y, x] = (1 - v) * ((1 - u) * cells[y0, x0] + u * cells[y0, x1])
            found[y, x] += v * ((1 - u) * cells[y1, x0] + u * cells[y1, x1])
    return found


def near(x: float, y: float, box: list[float], parts: list) -> bool:
    longer = max(box[2] - box[0], box[3] - box[1])
    return min(math.hypot(x - px, y - py) for px, py, seen in parts if seen) <= 0.1 * longer


def localised(maps, truth: Truth, side: int, seed: int = 0) -> dict:
    return metrics.localisation(torch.as_tensor(maps).float(), truth, side, torch.Generator().manual_seed(seed))


def iou(cells: np.ndarray, box: list[float], side: int) -> tuple[float, bool]:
    """Of the box's pixels and the map's; and whether no pixel is within rounding of the threshold."""
    fine = upsampled(cells, side)
    level = 0.2 * fine.max()
    both = either = 0
    for y in range(side):
        for x in range(side):
            a, b = in_box(x + 0.5, y + 0.5, box), fine[y, x] >= level
            both, either = both + (a and b), either + (a or b)
    return both / either, bool((np.abs(fine - level) > 1e-5).all())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.integers(12, 24),
    grid=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    parts=st.integers(0, 5),
)
def test_localisation_is_what_the_document_counts(seed, side, grid, parts):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, side, 6, parts, False)
    maps = rng.random((6, *grid)) ** 4
    found = localised(maps, scene.truth, side)
    assert set(found) == set(metrics.LOCALISATION)
    for i, (box, points) in enumerate(zip(scene.truth.boxes.tolist(), scene.truth.parts.tolist(), strict=True)):
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        row, column = divmod(int(maps[i].argmax()), grid[1])
        x, y = (column + 0.5) * side / grid[1], (row + 0.5) * side / grid[0]
        assert found["pointing"][1][i]
        assert bool(found["pointing"][0][i]) == (box[0] <= x < box[2] and box[1] <= y < box[3])
        share = (box[2] - box[0]) * (box[3] - box[1]) / side**2
        assert float(found["pointing_chance"][0][i]) == pytest.approx(share, abs=1e-5)
        any_part = any(seen for *_, seen in points)
        assert bool(found["near"][1][i]) == bool(found["near_chance"][1][i]) == any_part
        if any_part:
            assert bool(found["near"][0][i]) == near(x, y, box, points)
        if scene.objects[i].any():
            expected, clear = iou(maps[i], box, side)
            assert found["iou"][1][i]
            if clear:
                assert float(found["iou"][0][i]) == pytest.approx(expected, abs=1e-5)
            assert float(found["iou_chance"][0][i]) == pytest.approx(
                float(scene.objects[i].sum()) / side**2, abs=max(1e-5, 2 / side)
            )  # in pixels or by the box itself


def one(box: tuple, parts: list[tuple]) -> Truth:
    return Truth(torch.tensor([box]).float(), torch.tensor([[(*at, 1.0) for at in parts]]).float())


def test_an_object_outside_the_view_says_nothing_of_a_map():
    found = localised([[[0.2, 0.8], [0.0, 0.0]]], one((0, 0, 0, 0), [(4, 4)]), 16)
    assert {name for name, (_, applies) in found.items() if applies.any()} == set()


@pytest.mark.parametrize(("box", "hits"), [((8, 0, 16, 8), 1), ((12, 4, 16, 8), 1), ((0, 0, 12, 16), 0)])
def test_pointing_game_by_eye(box, hits):
    """Of 2 × 2 cells of 8 pixels, the upper right one is highest: its centre is (12, 4)."""
    found = localised([[[0.2, 0.8], [0.3, 0.1]]], one(box, [(1, 1)]), 16)
    assert float(found["pointing"][0]) == hits


@pytest.mark.parametrize(("part", "close"), [((12, 3), 1), ((12, 2.99), 0), ((12.7, 4.7), 1), ((12.8, 4.8), 0)])
def test_near_a_part_by_eye(part, close):
    """A box of 10 × 5 pixels: within 1 pixel of (12, 4). Whether it lies in the box does not matter."""
    found = localised([[[0.2, 0.8], [0.3, 0.1]]], one((2, 8, 12, 13), [part, (0, 15)]), 16)
    assert float(found["near"][0]) == close


def test_near_a_part_forgets_parts_that_are_not_seen():
    truth = Truth(torch.tensor([[2.0, 2, 12, 12]]), torch.tensor([[[12.0, 4, 0], [2, 2, 1]]]))
    assert float(localised([[[0.2, 0.8], [0.3, 0.1]]], truth, 16)["near"][0]) == 0


def test_iou_by_eye():
    """A map of one row: the left half is 1, the right 0, and between the cells' centres a ramp."""
    ramp = [
        [[1.0, 0.0], [1.0, 0.0]]
    ]  # of 8 pixels: 1 up to x = 2, 0 from x = 6; at 0.5, 1.5, … 1 1 .875 .625 .375 .125 0 0
    assert float(localised(ramp, one((0, 0, 5, 8), [(1, 1)]), 8)["iou"][0]) == 1
    assert float(localised(ramp, one((0, 0, 8, 8), [(1, 1)]), 8)["iou"][0]) == pytest.approx(5 / 8)
    assert float(localised(ramp, one((4, 0, 8, 8), [(1, 1)]), 8)["iou"][0]) == pytest.approx(1 / 8)
    assert float(localised(ramp, one((6, 0, 8, 8), [(1, 1)]), 8)["iou"][0]) == 0
    assert float(localised(ramp, one((2, 2, 6, 6), [(1, 1)]), 8)["iou_chance"][0]) == pytest.approx(16 / 64)


def test_all_components_of_a_map_count():
    """Two equal peaks in opposite corners: no largest component is taken."""
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0] = maps[0, 3, 3] = 1.0
    box = (0.0, 0.0, 8.0, 8.0)
    fine = upsampled(maps[0], 16) >= 0.2
    corner = fine[:8, :8].sum()
    assert float(localised(maps, one(box, [(1, 1)]), 16)["iou"][0]) == pytest.approx(corner / (64 + corner))


def test_chance_to_be_near_a_part_is_that_of_random_points_in_the_box():
    """400 draws of 64 points each against 400 × 400 points of the box, within 4 standard errors."""
    box, parts, count = (3.0, 2.0, 15.0, 10.0), [(3.0, 2.0), (9.0, 6.0), (9.5, 6.5), (20.0, 20.0)], 400
    grid = (np.arange(400) + 0.5) / 400
    points = [(3 + 12 * u, 2 + 8 * v) for u in grid for v in grid]
    dense = np.mean([any(math.hypot(x - a, y - b) <= 1.2 for a, b in parts) for x, y in points])
    truth = Truth(torch.tensor([box] * count), torch.tensor([[(*at, 1.0) for at in parts]] * count))
    found, applies = localised(torch.ones(count, 2, 2), truth, 24)["near_chance"]
    assert applies.all()
    error = math.sqrt(dense * (1 - dense) / (64 * count))
    assert float(found.mean()) == pytest.approx(dense, abs=4 * error)
    assert float(found.std()) == pytest.approx(math.sqrt(dense * (1 - dense) / 64), rel=0.2)  # 64 independent points
    assert {round(float(each) * 64, 4) % 1 for each in found} == {0.0}


def test_random_points_depend_on_the_generator_alone():
    truth = one((3, 2, 15, 10), [(9, 6)])
    first, again, other = (localised(torch.ones(1, 2, 2), truth, 24, seed)["near_chance"][0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
