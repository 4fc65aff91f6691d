"""Several processes that share a run: the same weights, draws, counts and predictions as one, and one clear error.

One pair of gloo processes does the work of all unmarked tests (:func:`work`), beside the single process that it is
compared with; the slow tests go through the command line.
"""

import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from lapml.cli import app
from lapml.common import ranks
from lapml.data.batches import Batches
from lapml.data.fetch.sources import fetch
from lapml.data.index import rows_of
from lapml.data.pack import Packed, prepare
from lapml.errors import DivergedError, LapmlError, Stopped
from lapml.models.model import build
from lapml.paths import RUN_FILES, Paths
from lapml.runs import evaluate
from lapml.runs import tune as tuning
from lapml.runs.tune import tune
from lapml.training import loop as train
from lapml.training import losses

ROOT = Path(__file__).resolve().parents[2]
ROWS = ("baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin")
EPOCHS, STEPS = 2, 4  # of an epoch
EXACT = [
    "train.precision=fp64",
    "train.batch_norm=frozen",
    "train.batch=8",
    f"train.epochs={EPOCHS}",
    "train.lr=0.1",
    "train.head_lr_mult=10.0",
]
FRESH = "methods.{}.mixer.maps=fresh"
EVERY = "methods.{}.margin.every={}"
CASES = {
    **{row: (row, []) for row in ROWS[:4]},
    "adaptive_margin": ("adaptive_margin", [EVERY.format("adaptive_margin", 2)]),
    "adaptive_margin, some batches": (
        "adaptive_margin",
        ["methods.adaptive_margin.mix.prob=0.5", EVERY.format("adaptive_margin", 1)],
    ),
    "loc_cutmix, fresh maps": ("loc_cutmix", [FRESH.format("loc_cutmix")]),
    "margin, joint": (
        "margin",
        [FRESH.format("margin"), EVERY.format("margin", 1), "methods.margin.margin.reference=joint"],
    ),
    "margin, projected, every 3": ("margin", [EVERY.format("margin", 3), "model.embedding_dim=16"]),
    "loc_cutmix, frozen stage": ("loc_cutmix", ["model.freeze=1", "train.label_smoothing=0.1"]),
    "adaptive_margin, in parts": ("adaptive_margin", ["train.accumulate=2", EVERY.format("adaptive_margin", 2)]),
    "cutmix, adamw, clipped": ("cutmix", ["train.optimizer=adamw", "train.clip_grad=0.5", "train.lr=0.003"]),
    "cutmix, averaged": ("cutmix", ["train.ema=0.9"]),
    "margin, every 3": ("margin", [EVERY.format("margin", 3)]),
    **{row: (row, []) for row in ("mixup", "snapmix", "cutmix_semantic")},
    "adaptive_margin, fresh maps, every 3": (
        "adaptive_margin",
        [FRESH.format("adaptive_margin"), EVERY.format("adaptive_margin", 3)],
    ),
    "adaptive_margin, by share": (
        "adaptive_margin",
        [
            EVERY.format("adaptive_margin", 1),
            "methods.adaptive_margin.margin.scale=share",
            "methods.adaptive_margin.label=snapmix",
            "model.embedding_dim=16",
        ],
    ),
}
COUNTS = ("images_forward", "images_backward", "mixed_batches")
SIZES = {"all": 12, "odd": 5, "fewer than ranks": 1}  # test images


def quietly(line: str) -> None:
    pass


def fitted(config, packed: Packed, path: Path) -> dict:
    """A run's outcome as it can be sent between processes; ``path`` of its state, which holds the bank."""
    found = train.fit(config, packed, path, log=quietly)
    seen = evaluate.predict(found.model, packed, config, found.weights, found.device, found.precision)
    return {
        "weights": {name: value.clone() for name, value in found.model.state_dict().items()},
        "history": found.history,
        "logits": seen.logits,
        "bank": torch.load(path, weights_only=True)["bank"] if path.exists() else None,
        "resumed": found.resumed,
    }


def failed(call, *arguments, **keywords) -> tuple[str, str]:
    try:
        call(*arguments, **keywords)
    except LapmlError as error:
        return type(error).__name__, str(error)
    return "", "went well"


def predicted(config, packed: Packed) -> dict:
    """Predictions of an untrained model for test splits of several sizes; the other test images are given to train."""
    model, weights = build(config.model, 3, config.data.view.side, 0)
    model.double()
    found = {}
    for name, count in SIZES.items():
        index = packed.index.copy()
        surplus = index.index[index["split"] == "test"][count:]
        index.loc[surplus, "split"] = "train"
        data = replace(packed, index=index)
        seen = evaluate.predict(model, data, config, weights, torch.device("cpu"), "fp64")
        found[name] = {**vars(seen), "metrics": evaluate.metrics(seen)}
    return found


def draws(config, packed: Packed) -> list[dict[str, Tensor]]:
    """What a rank is given in an epoch; donors as rows of the index."""
    rows, cpu = rows_of(packed.index, config.fit), torch.device("cpu")
    batches = Batches(packed, rows, config.data.view, [0.5] * 3, [0.2] * 3, cpu, torch.float64)
    found = []
    for batch in batches.training(0, 1, config.train.batch, config.settings):
        own = slice(0, batch.count)
        found.append({
            "images": batch.images[own], "labels": batch.labels[own], "rows": batch.index[own], "lam": batch.lam,
            "uniform": batch.uniform, "donors": batch.index[batch.donors], "windows": batch.windows[own],
            "donor_images": batch.images[batch.donors],
        })  # fmt: skip
    return found


def pairs(seed: int) -> dict[str, Tensor]:
    """A whole batch of 6 pairs, with sets N, P and N_s that may be empty or lie on one rank only."""
    g = torch.Generator().manual_seed(seed)
    kind = {"generator": g, "dtype": torch.float64}
    same = torch.rand(6, generator=g) < (0.0, 1.0, 0.5)[seed % 3]
    if seed % 4 == 3:
        same = torch.tensor([True] * 3 + [False] * 3)
    return {
        "d": torch.rand(6, **kind), "same": same, "m": torch.rand(6, **kind), "similarity": torch.rand(6, **kind),
        "logits": torch.randn(6, 4, **kind), "labels": torch.arange(6) % 4, "others": torch.arange(6) % 3,
        "kept": torch.rand(6, **kind), "pasted": torch.rand(6, **kind),
    }  # fmt: skip


def losses_of(whole: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each loss of this rank's share of a batch, and its gradient."""
    own = SimpleNamespace(**{name: value[ranks.shard(6)] for name, value in whole.items()})
    d, logits = own.d.clone().requires_grad_(), own.logits.clone().requires_grad_()
    similar = losses.similar_pairs(own.similarity, own.same, 0.3)
    found = {
        "ce": (losses.mixed_cross_entropy(logits, own.labels, own.others, own.kept, own.pasted), logits),
        "margin": (losses.pairwise_margin(d, own.same, own.m, 0.2), d),
        "adaptive": (losses.adaptive_margin(d, similar, 0.2 + 0.1 * own.similarity), d),
        "share": (losses.share(d.detach() > 0.5, ~own.same) + 0 * d.sum(), d),
    }
    return {name: (loss.detach(), torch.autograd.grad(loss, of)[0]) for name, (loss, of) in found.items()}


def signalled(config, packed: Packed, path: Path, at: int) -> tuple[str, str]:
    """Train until the last rank gets SIGTERM in its step ``at`` (counted from 1)."""
    original, done = train.take_step, 0

    def step(*arguments):
        nonlocal done
        done += 1
        if done == at and ranks.rank() == ranks.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    train.take_step = step
    try:
        return failed(train.fit, config, packed, path, log=quietly)
    finally:
        train.take_step = original


def diverged(config, packed: Packed) -> tuple[str, str]:
    """Train with a loss that is not finite on the last rank only, in its second step."""
    original, done = train.take_step, 0

    def step(*arguments):
        nonlocal done
        done += 1
        stats, *counts = original(*arguments)
        if done == 2 and ranks.rank() == ranks.size() - 1:
            stats = {**stats, "loss": stats["loss"] * torch.nan}
        return stats, *counts

    train.take_step = step
    try:
        return failed(train.fit, config, packed, log=quietly)
    finally:
        train.take_step = original


def study(params, packed: Packed, folder: Path) -> dict:
    """A study of the margins, whose scores are a smooth function of them; and what a rank was asked for and told."""
    asked, lines, kept = [], [], (tuning._score, Packed.open)

    def score(config, packed, maps, check):
        values = {"m": config.settings.margin.m, "weight": config.settings.margin.weight}
        asked.append((config.seed, values))
        if len(asked) == 3:  # counts as a trial
            raise DivergedError("diverged")
        ranks.collected(None)  # as training, in which the ranks wait for one another
        return 90 - 20 * (values["m"] - 0.9) ** 2 - (values["weight"] - 0.1) ** 2, None

    tuning._score, Packed.open = score, classmethod(lambda *_: packed)
    try:
        result = tune(params, Paths("demo", folder), "birds", "margin", lines.append)
    finally:
        tuning._score, Packed.open = kept
    return {
        "asked": asked,
        "lines": lines,
        "trials": [(each["values"], each["score"], each["state"]) for each in result["trials"]],
        "values": result["values"],
    }


def jobs(runs: dict, params, packed: Packed, folder: Path) -> dict:
    """Everything that is done both by one process and by two; name → call."""
    baseline, adaptive = runs["baseline"], runs["adaptive_margin"]
    local = changed(adaptive, batch_norm="local")
    path = folder / "states"
    path.mkdir(parents=True, exist_ok=True)

    def resumed(config, name: str, at: int):
        state = path / f"{name}.pt"
        return {"stopped": signalled(config, packed, state, at), **fitted(config, packed, state)}

    return {
        **{name: lambda name=name: fitted(runs[name], packed, path / f"{name}.pt") for name in CASES},
        "predicted": lambda: predicted(baseline, packed),
        "draws": lambda: draws(adaptive, packed),
        "losses": lambda: [losses_of(pairs(seed)) for seed in range(24)],
        "other number": lambda: [
            failed(train.fit, changed(baseline, gpus=count, epochs=1), packed, log=quietly) for count in (1, 2, 3)
        ],
        "refused batch": lambda: failed(train.fit, changed(baseline, batch=9, epochs=1), packed, log=quietly),
        "other settings on a process": lambda: failed(
            train.fit, changed(baseline, lr=0.1 + ranks.rank() / 100, epochs=1), packed, log=quietly
        ),
        "refused sync": lambda: failed(train.fit, changed(baseline, batch_norm="sync"), packed, log=quietly),
        "local": lambda: fitted(local, packed, path / "local.pt"),
        "stopped in mid-epoch": lambda: resumed(adaptive, "middle", 6),
        "stopped at an epoch's end": lambda: resumed(adaptive, "end", 4),
        "stopped with local batch norm": lambda: resumed(local, "local middle", 6),
        "diverged": lambda: diverged(baseline, packed),
        "study": lambda: study(params, packed, folder),
    }


def changed(config, **settings):
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def gpus_of(params, count: int):
    return params.model_copy(update={"train": params.train.model_copy(update={"gpus": count})})


def work(rank: int, runs: dict, params, packed: Packed, folder: Path, port: int) -> None:
    """What one of the two processes does: every job, each outcome in a file of its own."""
    torch.set_num_threads(1)
    runs, params = {name: changed(run, gpus=2) for name, run in runs.items()}, gpus_of(params, 2)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank),
        "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    with ranks.joined("cpu"):
        for number, job in enumerate(jobs(runs, params, packed, folder).values()):
            torch.save(attempt(job), folder / f"{number}-{rank}.pt")


def attempt(job):
    """A job's outcome; an exception becomes one, so that a test fails and not all."""
    try:
        return job()
    except Exception:
        return Failure(traceback.format_exc())


class Failure(str):
    pass


class Outcomes(dict):
    def __getitem__(self, name: str):
        one, two = super().__getitem__(name)
        for outcome in (one, *two):
            assert not isinstance(outcome, Failure), outcome
        return one, two


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def done(small_run, small_params, packed, tmp_path_factory):
    """name → (outcome of one process, [outcome of each of two])."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = {name: small_run(row, *EXACT, *overrides) for name, (row, overrides) in CASES.items()}
    params = small_params("tune.trials=5", "tune.seeds=[100]")
    two, one = folder / "two", folder / "one"
    two.mkdir()
    multiprocessing.set_forkserver_preload(["lapml.runs.tune"])  # imported once for both
    arguments = (runs, params, packed, two, free_port())
    pair = torch.multiprocessing.start_processes(work, arguments, 2, join=False, start_method="forkserver")
    try:
        names = list(jobs(runs, params, packed, two))
        own = jobs(runs, params, packed, one)
        alone = {name: None if name.startswith("stopped") else attempt(job) for name, job in own.items()}
        limit = time.monotonic() + 300
        while not pair.join(timeout=5):  # raises what a process raised
            assert time.monotonic() < limit, "the processes wait for one another"
    finally:
        for process in pair.processes:
            process.kill()
    read = [
        [torch.load(two / f"{number}-{rank}.pt", weights_only=False) for rank in (0, 1)] for number in range(len(names))
    ]
    return Outcomes((name, (alone[name], outcomes)) for name, outcomes in zip(names, read, strict=True))


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def without(history: list[dict], *columns: str) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("seconds", *columns)} for row in history]


# --- training ---


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_in_the_weights_of_one(done, small_run, case):
    one, two = done[case]
    row, overrides = CASES[case]
    start, _ = build(small_run(row, *EXACT, *overrides).model, 3, 48, 0)
    start = {name: value.double() for name, value in start.state_dict().items()}
    assert one["weights"].keys() == two[0]["weights"].keys()
    assert {value.dtype for value in one["weights"].values()} == {torch.float64, torch.int64}
    moved = [float((one["weights"][name] - value).abs().max()) for name, value in start.items()]
    assert max(moved) > 0.1 and np.median([each for each in moved if each]) > 1e-3  # all but the buffers
    apart = difference(one["weights"], two[0]["weights"])
    print(f"{case}: {apart:.1e}")
    assert apart < 1e-9
    assert difference(two[0]["weights"], two[1]["weights"]) == 0
    np.testing.assert_allclose(two[0]["logits"], one["logits"], rtol=0, atol=1e-6)  # float32
    np.testing.assert_array_equal(two[0]["logits"], two[1]["logits"])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_record_what_one_records(done, case):
    """Losses, accuracy and means over pairs; on every rank the same."""
    one, two = done[case]
    assert len(one["history"]) == EPOCHS
    for expected, found in zip(without(one["history"]), without(two[0]["history"]), strict=True):
        assert expected.keys() == found.keys()
        for name in expected.keys() - set(COUNTS):
            assert (found[name] is None) == (expected[name] is None), name
            assert expected[name] is None or found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    assert without(two[0]["history"]) == without(two[1]["history"])


def test_the_cases_use_what_they_are_about(done):
    """Donors of one's own class, similar pairs beyond the band, clean and mixed batches; else the above shows little."""
    for case, (row, _) in CASES.items():
        history = done[case][0]["history"]
        mixed = [each["mixed_batches"] for each in history]
        whole = EPOCHS * STEPS
        assert sum(mixed) == {"baseline": 0}.get(row, whole) or ("some" in case and 2 < sum(mixed) < whole - 2), case
        if row in ROWS[3:]:
            assert any(each["loss_margin"] for each in history), case
        if row == "adaptive_margin":
            assert any(each["loss_adaptive"] for each in history), case
        if row in ROWS[2:]:
            assert max(each["s_mean"] or 0 for each in history) > 0.1, case
    seen = done["draws"][0]
    same = [(each["labels"] == each["labels"].roll(1)).float().mean().item() for each in seen]
    assert 0 < sum(same) / len(same) < 1


@pytest.mark.parametrize(
    "case", [name for name, (row, _) in CASES.items() if row in ROWS[2:] and not re.search("fresh|joint", name)]
)
def test_two_processes_keep_the_bank_of_one(done, case):
    one, two = done[case]
    assert (one["bank"] != 0).any(3).float().mean() > 0.5  # of the images of train and val, most cells
    torch.testing.assert_close(two[0]["bank"].float(), one["bank"].float(), rtol=0, atol=1e-3)  # of fp16 near 1


@pytest.mark.parametrize("case", CASES)
def test_images_are_counted_over_all_processes(done, case):
    """Two processes forward what one does, and the donor of each rank's first image where clean images are passed."""
    one, two = done[case]
    row, overrides = CASES[case]
    clean = row == "snapmix" or any("fresh" in each for each in overrides)
    for expected, found in zip(one["history"], two[0]["history"], strict=True):
        surplus = 2 * expected["mixed_batches"] if clean else 0  # an image a rank
        assert found["images_forward"] == expected["images_forward"] + surplus
        joint = any("joint" in each for each in overrides)
        assert found["images_backward"] == expected["images_backward"] + surplus * joint
        assert found["mixed_batches"] == expected["mixed_batches"]


def test_local_batch_norm_ends_alike_on_all_ranks(done):
    one, two = done["local"]
    assert difference(two[0]["weights"], two[1]["weights"]) == 0
    assert difference(one["weights"], two[0]["weights"]) > 1e-3  # the statistics are those of shares
    assert without(two[0]["history"]) == without(two[1]["history"])
    assert all(np.isfinite(each["loss"]) for each in two[0]["history"])


# --- draws and losses ---


def test_shares_together_are_the_batch_of_one_process(done):
    one, two = done["draws"]
    assert len(one) == 4
    for whole, first, second in zip(one, *two, strict=True):
        for name in whole:
            torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=0, atol=0)
        assert (whole["donors"] != whole["rows"]).all()


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 5), st.integers(0, 100))
def test_any_number_of_ranks_has_the_same_draws(packed, small_run, count, share, start, seed):
    """Every rank's slice, its donors too, for 1 to 6 ranks and any step that an epoch is taken up at."""
    config, cpu = small_run("cutmix"), torch.device("cpu")
    batches = Batches(packed, rows_of(packed.index, config.fit), config.data.view, [0.5] * 3, [0.2] * 3, cpu)
    batch = count * share
    start %= batches.steps(batch)

    def drawn(rank: int, size: int) -> list:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranks, "rank", lambda: rank)
            patch.setattr(ranks, "size", lambda: size)
            return list(batches.training(seed, 1, batch, config.settings, start))

    whole, parts = drawn(0, 1), [drawn(rank, count) for rank in range(count)]
    for step, expected in enumerate(whole):
        shares = [part[step] for part in parts]
        assert {each.count for each in shares} == {share}
        for name in ("lam", "uniform"):
            assert torch.equal(torch.cat([getattr(each, name) for each in shares]), getattr(expected, name))
        for name in ("images", "index", "labels", "windows"):
            own = torch.cat([getattr(each, name)[: each.count] for each in shares])
            assert torch.equal(own, getattr(expected, name)), name
            donors = torch.cat([getattr(each, name)[each.donors] for each in shares])
            assert torch.equal(donors, getattr(expected, name)[expected.donors]), name


def test_sets_are_counted_over_all_ranks(done):
    """The mean of the ranks' losses is the batch's, and so are the gradients, also of sets that a rank has nothing of."""
    one, two = done["losses"]
    positive = dict.fromkeys(one[0], 0)
    for whole, first, second in zip(one, *two, strict=True):
        for name, (loss, gradient) in whole.items():
            positive[name] += bool(loss > 0)
            limit = 1e-6 if name == "share" else 1e-12  # a share is fp32
            torch.testing.assert_close((first[name][0] + second[name][0]) / 2, loss, rtol=limit, atol=1e-15)
            # DDP takes the mean over the ranks
            together = torch.cat([first[name][1], second[name][1]]) / 2
            torch.testing.assert_close(together, gradient, rtol=1e-12, atol=1e-15)
    assert min(positive.values()) > 8


# --- evaluation ---


@pytest.mark.parametrize("name", SIZES)
def test_every_image_counts_once(done, name):
    one, two = (done["predicted"][0][name], [each[name] for each in done["predicted"][1]])
    assert len(one["rows"]) == one["metrics"]["n"] == SIZES[name]
    for found in two:
        np.testing.assert_array_equal(found["rows"], one["rows"])
        np.testing.assert_array_equal(found["labels"], one["labels"])
        np.testing.assert_allclose(found["logits"], one["logits"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["embeddings"], one["embeddings"], rtol=0, atol=1e-6)
        assert found["metrics"] == pytest.approx(one["metrics"], abs=1e-4)
    if SIZES[name] > 1:
        assert np.ptp(one["logits"], 0).min() > 1e-5  # told apart


# --- stopping, and refusals ---


@pytest.mark.parametrize(
    "where, after", [("in mid-epoch", "2 after step 2 of 4"), ("at an epoch's end", "1 after step 4")]
)
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_to_the_same_numbers(done, where, after):
    _, two = done[f"stopped {where}"]
    whole = done["adaptive_margin"][1]
    for found, expected in zip(two, whole, strict=True):
        assert found["stopped"][0] == Stopped.__name__ and f"stopped in epoch {after}" in found["stopped"][1]
        assert found["resumed"] == 1
        assert difference(found["weights"], expected["weights"]) == 0
        assert torch.equal(found["bank"], expected["bank"])
        assert without(found["history"]) == without(expected["history"])


def test_with_local_batch_norm_a_stopped_run_goes_on_to_the_same_numbers(done):
    """To rounding: the ranks' running statistics are averaged once more, where the run was stopped."""
    _, two = done["stopped with local batch norm"]
    whole = done["local"][1]
    for found, expected in zip(two, whole, strict=True):
        assert found["stopped"][0] == Stopped.__name__
        assert difference(found["weights"], expected["weights"]) < 1e-9


def test_a_loss_that_is_not_finite_on_one_rank_ends_all(done):
    one, two = done["diverged"]
    assert one == two[0] == two[1]
    assert one[0] == DivergedError.__name__ and "epoch 1, step 2 of 4" in one[1]


def test_a_batch_that_ranks_cannot_share(done):
    one, two = done["refused batch"]
    message = "train.batch: found 9, expected a multiple of the 2 processes that share it"
    assert two == [(LapmlError.__name__, message)] * 2
    assert one == ("", "went well")


def test_processes_that_train_otherwise_are_refused(done):
    """The record of a run is the first one's."""
    one, two = done["other settings on a process"]
    message = (
        "process 1 differs from process 0 in settings, data, maps, code, torch or kind of device; expected the same line, on the "
        "same files, on each machine"
    )
    assert two == [(LapmlError.__name__, message)] * 2
    assert one == ("", "went well")


def test_another_number_of_processes_than_the_settings_say(done):
    """The record of a run says how many share it: one of two that passes for one of one would stand in the tables as such."""
    one, two = done["other number"]
    message = (
        "train.gpus: found {} process(es), expected {}: a run's record says how many share it; start {}, or give --set "
    )
    for found, count in ((one, 1), (two[0], 2), (two[1], 2)):
        for asked, outcome in enumerate(found, start=1):
            well = ("", "went well")
            refused = (LapmlError.__name__, message.format(count, asked, asked) + f"train.gpus={count}")
            assert outcome == (well if asked == count else refused)


def test_synchronised_batch_norm_is_refused_on_a_cpu(done):
    one, two = done["refused sync"]
    assert two[0] == two[1] and two[0][0] == LapmlError.__name__
    for (_, message), count in ((one, 1), (two[0], 2)):
        assert f"train.batch_norm: found sync on {count} process(es) on cpu, expected several GPUs" in message


# --- tuning ---


def test_ranks_share_one_study(done):
    """The trials, and the margins, of one process; every rank trains with the same values."""
    one, two = done["study"]
    assert len(one["trials"]) == 5 and [state for *_, state in one["trials"]].count("FAIL") == 1
    for found in two:
        assert found["asked"] == one["asked"]
        assert found["trials"] == one["trials"] and found["values"] == one["values"]


# --- the command line ---


@pytest.fixture(scope="module")
def prepared(small_params, tmp_path_factory) -> Path:
    """A project's folder with a small params.yaml and packed synthetic birds."""
    folder = tmp_path_factory.mktemp("project")
    margins = [f"methods.adaptive_margin.margin.{name}={value}" for name, value in (("m", 0.3), ("weight", 0.5))]
    params = small_params(
        "ablation=[baseline, adaptive_margin]", "tuned_methods=[]", "data.birds.synthetic.classes=4", *margins,
        "methods.adaptive_margin.adaptive.delta=0.1", "methods.adaptive_margin.adaptive.quantile=0.25",
        "data.birds.synthetic.train_images=12", "data.birds.synthetic.test_images=5", "train.batch=8",
    )  # fmt: skip
    (folder / "params.yaml").write_text(params.model_dump_json())
    paths = Paths(params.suite, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fetch("birds", params.data["birds"], Paths(params.suite))
        prepare("birds", params.data["birds"], Paths(params.suite))
    assert paths.pack("birds").is_dir()
    return folder


@pytest.fixture
def project(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "project")


def started(folder: Path, *command: str, **variables: str) -> subprocess.Popen:
    unset = {"TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *ranks.STRANGERS}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, list[str], list[str]]:
    """(exit status, lines of standard output, lines of standard error)."""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), err.splitlines()


def lapml(folder: Path, *arguments: str) -> tuple[int, list[str], list[str]]:
    return ended(started(folder, "lapml", *arguments))


TRAIN = ("train", "birds", "adaptive_margin", "0")
TWO = ("--set", "train.gpus=2")
LONG = ("--set", "train.epochs=200")  # not ended before it is stopped


def run_folder(folder: Path, row: str = "adaptive_margin") -> Path:
    return Paths("demo", folder).run("birds", row, 0)


def record(folder: Path, name: str) -> dict:
    return json.loads((run_folder(folder) / name).read_text())


def measured(folder: Path) -> dict:
    return {name: value for name, value in record(folder, "metrics.json").items() if name != "seconds"}


def rank_processes(launcher: int) -> dict[int, int]:
    """rank → process of the ranks that a command has started."""
    found = {}
    for each in Path(f"/proc/{launcher}/task").iterdir():
        for child in map(int, (each / "children").read_text().split()):
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", Path(f"/proc/{child}/environ").read_bytes())
            found |= {int(rank[1]): child} if rank else {}
    return found


def wait_for_epoch(process: subprocess.Popen, epoch: int) -> list[str]:
    """The lines of standard output until that epoch has ended."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(f"epoch {epoch}/"):
            return lines
    raise AssertionError(f"it ended before epoch {epoch} did: {lines} {process.stderr.read()}")


@pytest.mark.slow
def test_gpus_2_is_what_torchrun_does(project, tmp_path):
    """One run folder, each line once, the same metrics; what it does with one process is near."""
    status, out, err = lapml(project, *TRAIN, *TWO)
    assert status == 0, err
    assert err == []
    assert [line.split("/")[0] for line in out[2:4]] == ["epoch 1", "epoch 2"]  # below what the run is
    assert out[4].startswith("test top-1 ") and len(out) == 6
    assert {path.name for path in run_folder(project).iterdir()} == {*RUN_FILES, "test_reads.jsonl", ".kept"}
    assert len((run_folder(project) / "test_reads.jsonl").read_text().splitlines()) == 1
    assert record(project, "provenance.json")["processes"] == 2
    assert "lapml train birds adaptive_margin 0 --set train.gpus=2" in (
        record(project, "provenance.json")["command"].replace("__main__.py", "lapml")
    )
    table = pd.read_parquet(run_folder(project) / "predictions.parquet")
    assert len(table) == table["image"].nunique() == 20

    other = shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns("runs"))
    status, out, err = ended(started(other, "torch.distributed.run", "--nproc-per-node=2", "-m", "lapml", *TRAIN, *TWO))
    assert status == 0, err
    assert len([line for line in out if re.match(r"epoch \d/2  loss|test top-1 ", line)]) == 3
    assert record(other, "provenance.json")["processes"] == 2
    assert measured(other) == measured(project)
    for name in ("model.safetensors", "predictions.parquet"):
        assert (run_folder(other) / name).read_bytes() == (run_folder(project) / name).read_bytes()


@pytest.mark.slow
def test_a_stopped_command_goes_on_to_the_same_result(project, tmp_path):
    options = (*TRAIN, *TWO, "--set", "train.epochs=12", "--set", "train.batch_norm=frozen")
    process = started(project, "lapml", *options)
    first = wait_for_epoch(process, 2)
    process.send_signal(signal.SIGTERM)
    status, out, err = ended(process)
    assert status == Stopped.status, err
    assert len(err) == 1 and re.match(
        r"error: birds/adaptive_margin/0: stopped (in|after) epoch .*run the same command", err[0]
    )
    assert len(first + out) == len(set(first + out)) < 12
    assert {path.name for path in run_folder(project).iterdir()} == {"last.pt", "live.csv"}

    status, out, err = lapml(project, *options)
    assert status == 0, err
    assert err == [] and len(out) == len(set(out)) and out[2].startswith("resumed after epoch ")
    assert record(project, "provenance.json")["resumed"] == 1

    other = shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns("runs"))
    assert lapml(other, *options)[0] == 0
    assert measured(other) == measured(project)
    assert (run_folder(other) / "model.safetensors").read_bytes() == (
        run_folder(project) / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_rank_ends_the_command_with_one_clear_error(project, rank):
    process = started(project, "lapml", *TRAIN, *TWO, *LONG)
    wait_for_epoch(process, 2)
    alive = rank_processes(process.pid)
    assert set(alive) == {0, 1}
    os.kill(alive[rank], signal.SIGKILL)
    status, _, err = ended(process)
    assert status == 1
    assert len(err) == 1, "\n".join(err)
    assert f"error: process {rank} of 2 was killed (SIGKILL); run the same command again" in err[0]
    assert not any(Path(f"/proc/{each}").exists() for each in alive.values())


# --- several nodes, pretended on this machine ---

NODES = (*TWO, "--set", "train.nodes=2")
SRUN = """#!{python}
import os, signal, subprocess, sys
command = sys.argv[next(place for place, each in enumerate(sys.argv) if place and not each.startswith("-")):]
own = [{{**os.environ, "SLURM_NODEID": node, "SLURM_STEP_NUM_TASKS": "2"}} for node in "01"]
tasks = [subprocess.Popen(command, env=each) for each in own]
open("tasks", "w").write(" ".join(str(task.pid) for task in tasks))
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture
def in_a_job(project) -> dict[str, str]:
    """Variables of a job of SLURM's, whose srun starts two tasks on this machine; their numbers lie in the file ``tasks``."""
    (project / "bin").mkdir()
    (project / "bin/srun").write_text(SRUN.format(python=sys.executable))
    (project / "bin/srun").chmod(0o755)
    with socket.create_server(("", 0)) as server:
        job = server.getsockname()[1]
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "SLURM_JOB_ID": str(job), "SLURMD_NODENAME": "pretended"}


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs have the same numbers, to the bit."""
    files = ("config.json", "model.safetensors", "predictions.parquet")
    assert measured(one) == measured(other)
    histories = [pd.read_csv(run_folder(each) / "history.csv").drop(columns="seconds") for each in (one, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    return all((run_folder(one) / name).read_bytes() == (run_folder(other) / name).read_bytes() for name in files)


@pytest.mark.slow
def test_two_nodes_are_one_of_two_processes(project, in_a_job, tmp_path):
    """By srun, and by the usage page's line for torchrun: each line of output once, each file once, the same numbers."""
    by_hand, alone = (
        shutil.copytree(project, tmp_path / name, ignore=shutil.ignore_patterns("runs")) for name in ("hand", "alone")
    )
    line = re.search(r"^torchrun .* -m lapml train …$", (ROOT / "docs/usage.md").read_text(), re.M)[0]
    given = {"nnodes": 2, "nproc-per-node": 1, "rdzv-endpoint": f"localhost:{in_a_job['SLURM_JOB_ID']}"}
    for option, value in given.items():
        line = line.replace(f"--{option}=…", f"--{option}={value}")
    command = ("torch.distributed.run", *line.split()[1:-2], *TRAIN, *TWO)

    status, out, err = ended(started(project, "lapml", *TRAIN, *NODES, **in_a_job))
    assert status == 0 and err == [], err
    assert [each.split("/")[0] for each in out[2:4]] == ["epoch 1", "epoch 2"] and len(out) == 6
    assert {path.name for path in run_folder(project).iterdir()} == {*RUN_FILES, "test_reads.jsonl", ".kept"}
    assert len((run_folder(project) / "test_reads.jsonl").read_text().splitlines()) == 1

    nodes = [ended(each) for each in [started(by_hand, *command), started(by_hand, *command)]]
    assert [status for status, *_ in nodes] == [0, 0], nodes
    assert sorted(len(own) for _, own, _ in nodes) == [0, len(out)]
    assert lapml(alone, *TRAIN, *TWO)[0] == 0
    assert same_run(project, alone) and same_run(by_hand, alone)
    origins = [record(each, "provenance.json") for each in (project, by_hand, alone)]
    assert [(each["nodes"], each["processes"]) for each in origins] == [(2, 2), (2, 2), (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["all", 0, 1])
def test_two_nodes_that_are_stopped_go_on_to_the_same_result(project, in_a_job, tmp_path, asked):
    """Whether SIGTERM comes to all of them or to one: one saved state, and all end with the status that says so."""
    options = (*TRAIN, *TWO, "--set", "train.epochs=12")
    spread = (*options, "--set", "train.nodes=2")
    process = started(project, "lapml", *spread, **in_a_job)
    wait_for_epoch(process, 2)
    alive = list(map(int, (project / "tasks").read_text().split()))
    os.kill(process.pid if asked == "all" else alive[asked], signal.SIGTERM)
    status, _, err = ended(process)
    assert status == Stopped.status, err
    assert all(re.match("error: birds/adaptive_margin/0: stopped (in|after) epoch ", line) for line in err)
    assert {path.name for path in run_folder(project).iterdir()} == {"last.pt", "live.csv"}

    whole = shutil.copytree(project, tmp_path / "whole", ignore=shutil.ignore_patterns("runs"))
    again = spread if asked == "all" else options  # one node goes on from the state of two
    status, out, err = ended(started(project, "lapml", *again, **in_a_job))
    assert status == 0 and err == [] and out[2].startswith("resumed after epoch "), err
    assert lapml(whole, *options)[0] == 0
    assert same_run(project, whole)


@pytest.mark.slow
def test_a_node_that_dies_ends_the_others(project, in_a_job):
    process = started(project, "lapml", *TRAIN, *NODES, *LONG, **in_a_job)
    wait_for_epoch(process, 2)
    first, second = map(int, (project / "tasks").read_text().split())
    (lost,) = rank_processes(second).values()
    os.kill(lost, signal.SIGKILL)
    status, _, err = ended(process)
    assert status == 1 and len(err) == 2, err
    assert "error: process 1 of 2 was killed (SIGKILL); run the same command again" in "\n".join(err)
    assert "error: process 0 of 2 failed, or lost one that did: " in "\n".join(err)


def torchrun(count: int, **more: str) -> dict[str, str]:
    """What torchrun tells the first of so many processes."""
    numbers = {"RANK": "0", "WORLD_SIZE": str(count), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(count)}
    return {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", **numbers, **more}


@pytest.fixture
def started_by(small_params, tmp_path, monkeypatch):
    """started_by(variables, *words): what a command of small settings ends in, where a launcher has set these variables alone."""
    (tmp_path / "params.yaml").write_text(small_params().model_dump_json())
    monkeypatch.chdir(tmp_path)
    for name in (*torchrun(1), *ranks.STRANGERS, ranks.MEETING):
        monkeypatch.delenv(name, raising=False)

    def made(variables, *words):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, words)

    return made


@pytest.mark.parametrize(
    "variables, options, said",
    [
        (torchrun(2), (), "train.gpus: found 2 process(es), expected 1"),
        (torchrun(1), TWO, "train.gpus: found 1 process(es), expected 2"),
        (torchrun(3), TWO, "train.gpus: found 3 process(es), expected 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, (), "WORLD_SIZE: found 2 processes that a launcher started, expected one"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, TWO, "if there is only this one, unset WORLD_SIZE"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            (),
            "OMPI_COMM_WORLD_SIZE: found 2 processes that mpirun started, expected one",
        ),
        ({"PMI_SIZE": "4"}, (), "PMI_SIZE: found 4 processes that mpirun started"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, TWO, "SLURM_STEP_NUM_TASKS: found 2 processes that srun started"),
    ],
)
@pytest.mark.parametrize("command", [("train", "birds", "baseline", "0"), ("tune", "birds", "--method", "margin")])
def test_processes_that_the_settings_do_not_know_of(started_by, command, variables, options, said):
    """Refused in one line, before anything is read or started, by each of them: whichever launcher it was."""
    result = started_by(variables, *command, *options)
    assert result.exit_code == 1 and result.output.startswith("error: ") and result.output.count("\n") == 1
    assert said in result.output


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # the only process of its batch script
        {"RANK": "3"},  # left in a shell
    ],
)
def test_the_only_process_of_another_launcher_goes_on_and_speaks(started_by, variables):
    result = started_by(variables, "train", "birds", "baseline", "0")
    assert result.exit_code == 1 and "lapml data prepare birds" in result.output


@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": "7"}])  # salloc sets this one where it runs, on no node
def test_several_nodes_outside_of_a_job(started_by, monkeypatch, variables):
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    result = started_by(variables, "train", "birds", "baseline", "0", *NODES)
    assert result.exit_code == 1 and "error: train.nodes: found 2, expected 1 outside of SLURM's jobs" in result.output


@pytest.mark.parametrize("command", [("train", "birds", "baseline", "0"), ("tune", "birds", "--method", "margin")])
def test_several_nodes_in_a_job(started_by, monkeypatch, command):
    """The command becomes srun's, once on each node; a machine without srun is told so."""
    job = {"SLURM_JOB_ID": "1234567", "SLURMD_NODENAME": "a"}
    monkeypatch.setenv(ranks.MEETING, "")
    monkeypatch.delenv(ranks.MEETING)
    monkeypatch.setattr(sys, "argv", ["lapml", *command, *NODES])
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        result = started_by(job, *command, *NODES)
        assert result.exit_code == 1 and "no srun that starts them (No such file or directory)" in result.output
    asked = []
    monkeypatch.delenv(ranks.MEETING)
    monkeypatch.setattr(os, "execvp", lambda name, words: asked.append((name, words)) or sys.exit(0))
    assert started_by(job, *command, *NODES).exit_code == 0
    ((name, words),) = asked
    assert name == words[0] == "srun" and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} < set(words)
    assert words[words.index(sys.executable) :] == [sys.executable, "-m", "lapml", *command, *NODES]
    assert os.environ[ranks.MEETING] == f"{socket.gethostname()}:19567"


def test_nodes_that_do_not_find_one_another(monkeypatch):
    """One error of a line: where they should have met, and what to do."""
    with socket.create_server(("localhost", 0)) as server:
        meeting = f"localhost:{server.getsockname()[1]}"
    for name, value in ((ranks.MEETING, meeting), ("SLURM_NODEID", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "PATIENCE", 1)
    monkeypatch.setattr(logging, "disable", lambda level: None)  # which would stay
    with pytest.raises(
        LapmlError, match=rf"train.nodes: the 2 nodes did not find one another at {meeting} \("
    ) as raised:
        ranks.launch(4, 2)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        (("--set", "train.batch=9"), "train.batch: found 9, expected a multiple of the 2 processes that share it"),
        (("--set", "train.lr=1.0e+20"), "the loss was not finite in epoch 1"),
    ],
)  # fmt: skip
def test_what_all_ranks_refuse_is_said_once(project, options, message):
    status, out, err = lapml(project, *TRAIN, *TWO, *options)
    assert status == 1
    assert len(out) == len(set(out)) == 2  # what the run is
    assert len(err) == 1 and err[0].startswith("error: ") and message in err[0], "\n".join(err)


@pytest.mark.slow
def test_what_all_ranks_refuse_is_said_by_a_slow_first_rank_too(project):
    """The launcher ends the others when one has failed: that must not be before the message is out."""
    (project / "slow").mkdir()
    (project / "slow" / "sitecustomize.py").write_text(
        "import os, time\nif os.environ.get('RANK') == '0':\n    time.sleep(5)\n"
    )
    path = os.pathsep.join([str(project / "slow"), str(ROOT)])
    status, _, err = ended(started(project, "lapml", *TRAIN, *TWO, "--set", "suite=other", PYTHONPATH=path))
    assert status == 1
    assert len(err) == 1 and err[0].startswith("error: ") and "lapml data prepare birds" in err[0], "\n".join(err)


@pytest.mark.slow
def test_margins_are_tuned_by_two_processes(project, tmp_path):
    """Each line once, as many trials as were asked for, and the draws of one process."""
    own = [("tune.trials", "3"), ("tune.epochs", "2"), ("tuned_methods", "[margin]"), ("train.batch_norm", "frozen")]
    options = [each for name, value in own for each in ("--set", f"{name}={value}")]
    status, out, err = lapml(project, "tune", "birds", "--method", "margin", *options, *TWO)
    assert status == 0, err
    assert err == [] and len(out) == 3 * 2 + 2 == len(set(out))
    other = shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns("tuned", "studies"))
    assert lapml(other, "tune", "birds", "--method", "margin", *options)[0] == 0
    two, one = (
        json.loads(Paths("demo", each).tuned("birds", "margin").read_text())["trials"] for each in (project, other)
    )
    assert len(two) == len(one) == 3
    assert two[0]["values"] == one[0]["values"]  # drawn before anything is scored
