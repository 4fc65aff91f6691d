"""Jobs spread over the GPUs of a machine, and memory that does not suffice is one clear line; no GPU is needed for either."""

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st

from lapml.cli.common import plain, say_device
from lapml.common import gpus, ranks
from lapml.data import batches as batches_module
from lapml.data.batches import Batches
from lapml.errors import LapmlError, OutOfMemoryError
from lapml.models import device as optim
from lapml.runs import evaluate
from lapml.runs import execute as runs
from lapml.runs.folder import open_run
from lapml.training import loop as train
from lapml.training import methods, watch

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More"
FORK = multiprocessing.get_context("fork")


def quietly(line: str) -> None:
    pass


# --- which GPU ---


def holder(names: list[str], folder: Path, answers) -> None:
    number, _slot = gpus.slot(names, folder)
    answers.put((os.getpid(), names[number]))
    signal.pause()


@pytest.fixture
def hold(tmp_path):
    """hold(n, names) → {pid: GPU} of n processes that start at once and each take a slot, and keep it."""
    started = []

    def made(count: int, names: list[str]) -> dict[int, str]:
        answers = FORK.Queue()
        new = [FORK.Process(target=holder, args=(names, tmp_path / "slots", answers)) for _ in range(count)]
        started.extend(new)
        for process in new:
            process.start()
        return dict(answers.get(timeout=60) for _ in new)

    yield made
    for process in started:
        process.kill()
        process.join()


def test_processes_spread_and_the_dead_leave_their_place(hold):
    first = hold(7, ["a", "b", "c"])
    assert sorted(Counter(first.values()).values()) == [2, 2, 3]
    killed = [pid for pid, name in first.items() if name == "b"]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # till it is dead
    assert list(hold(len(killed), ["a", "b", "c"]).values()) == ["b"] * len(killed)


def test_a_process_takes_a_gpu_that_it_sees(hold):
    """As CUDA_VISIBLE_DEVICES says, which may also change their order; others that see more go where there is room."""
    assert list(hold(2, ["b"]).values()) == ["b", "b"]
    assert Counter(hold(2, ["b", "a"]).values()) == {"a": 2}
    assert Counter(hold(4, ["c", "b", "a"]).values()) == {"c": 3, "b": 1}  # of equals the first one


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=25), st.integers(1, 4))
def test_the_least_taken_comes_next(tmp_path_factory, actions, count):
    """None: take a slot; a number: give up that one."""
    folder, names, held = tmp_path_factory.mktemp("slots"), [f"GPU-{each}" for each in range(count)], []
    for action in actions:
        if action is None:
            taken = Counter(number for number, _ in held)
            number, file = gpus.slot(names, folder)
            assert taken[number] == min(taken[each] for each in range(count))
            held.append((number, file))
        elif held:
            held.pop(action % len(held))[1].close()
    for _, file in held:
        file.close()


# --- none ---


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "init", fails(RuntimeError("Found no NVIDIA driver on your system. Please check")))


def fails(error: Exception):
    def call(*_):
        raise error

    return call


@pytest.mark.parametrize(
    "visible, error, why",
    [
        (
            None,
            RuntimeError("Found no NVIDIA driver on your system. Please check"),
            "Found no NVIDIA driver on your system",
        ),
        (None, AssertionError("Torch not compiled with CUDA enabled"), "Torch not compiled with CUDA enabled"),
        ("0", RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
        ("", RuntimeError("No CUDA GPUs are available"), "CUDA_VISIBLE_DEVICES is ''"),
        ("-1", RuntimeError("No CUDA GPUs are available"), "CUDA_VISIBLE_DEVICES is '-1'"),
    ],
)
def test_why_there_is_no_gpu_is_said(no_gpu, small_run, monkeypatch, capsys, visible, error, why):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "init", fails(error))
    assert gpus.why_none() == why
    auto = small_run("baseline", "train.device=auto").train
    assert optim.without_gpu(auto) == why and optim.pick_device(auto)[0].type == "cpu"
    say_device(auto)
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith(
        f"note: train.device is auto and there is no GPU ({why}): this runs on the CPU"
    )
    with pytest.raises(LapmlError, match="train.device: found cuda, but torch sees no GPU here") as raised:
        optim.pick_device(small_run("baseline", "train.device=cuda").train)
    assert f"({why})" in str(raised.value)


def test_a_cpu_that_is_asked_for_needs_no_word(no_gpu, small_run, capsys):
    say_device(small_run("baseline").train)
    assert capsys.readouterr().out == ""


def test_of_several_processes_one_speaks(no_gpu, small_run, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    say_device(small_run("baseline", "train.device=auto").train)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device, why", [("auto", "Found no NVIDIA driver on your system"), ("cpu", None)])
def test_a_record_says_that_a_gpu_was_asked_for_and_not_there(no_gpu, small_run, packed, tmp_path, device, why):
    runs.execute(
        small_run("baseline", "train.epochs=2", f"train.device={device}"), packed, tmp_path / "run", log=quietly
    )
    record = json.loads((tmp_path / "run/provenance.json").read_text())
    assert record["device_asked"] == device and record["without_gpu"] == why and record["device"].startswith("CPU")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_does_not_start_is_refused(two_gpus, small_run, monkeypatch, device):
    """Also where `auto` asks for it: the CPU would be no answer to a broken driver."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", fails(RuntimeError("CUDA error: device busy\nmore")))
    with pytest.raises(LapmlError, match="a GPU is here, but CUDA does not start \\(CUDA error: device busy\\)"):
        optim.pick_device(small_run("baseline", f"train.device={device}").train)


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    variables = {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LapmlError, match="train.gpus: found 3 processes on this machine, expected at most its 2 GPUs"):
        with ranks.joined("cuda"):
            pass


# --- which GPU ---


@pytest.fixture
def two_gpus(monkeypatch, tmp_path) -> Iterator[list[int]]:
    """A machine that seems to have two; which were set."""
    chosen: list[int] = []
    monkeypatch.setattr(gpus, "_taken", None)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda each: SimpleNamespace(uuid=f"0-{each}"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    flags = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")]
    flags.append((torch.backends.cudnn, "deterministic"))
    before = [getattr(*flag) for flag in flags]
    yield chosen
    for flag, value in zip(flags, before, strict=True):
        setattr(*flag, value)


def test_a_process_keeps_its_gpu(two_gpus, monkeypatch):
    assert gpus.take() == gpus.take() == 0 and two_gpus == [0]
    kept = gpus._taken
    monkeypatch.setattr(gpus, "_taken", None)  # stands for another process
    assert gpus.take() == 1 and two_gpus == [0, 1] and not kept[1].closed


def test_a_rank_keeps_the_gpu_of_its_number(two_gpus, monkeypatch):
    """And counts among its processes: a job that comes later goes elsewhere."""
    for name, value in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(ranks.dist, name, lambda *_: None)
    other = gpus.take(0)
    rank = gpus._taken
    monkeypatch.setattr(gpus, "_taken", None)
    with ranks.joined("cuda"):
        assert gpus.take() == 0
    second = gpus._taken
    monkeypatch.setattr(gpus, "_taken", None)
    assert (other, gpus.take()) == (0, 1) and rank and second


@pytest.mark.parametrize("precision, tf32", [("fp32", False), ("bf16", True), ("fp64", False), ("auto", True)])
def test_fp32_on_a_gpu_is_fp32(two_gpus, small_run, precision, tf32):
    """TF32, torch's default in convolutions, has 10 bits where fp32 has 23."""
    settings = small_run("baseline", "train.device=auto", f"train.precision={precision}").train
    for before in (True, False):  # whatever another run of this process left
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
        device, found = optim.pick_device(settings)
        assert (device, found) == (torch.device("cuda"), "bf16" if precision == "auto" else precision)
        assert torch.backends.cudnn.allow_tf32 == optim.tf32(device) == tf32
        assert not torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.deterministic
    assert optim.tf32(torch.device("cpu")) is False
    assert two_gpus == [0]


def test_a_launched_process_takes_no_gpu_by_itself(two_gpus, small_run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    optim.pick_device(small_run("baseline", "train.device=cuda").train)
    assert two_gpus == []


# --- memory ---


@pytest.mark.parametrize(
    "error, why",
    [
        (torch.OutOfMemoryError(SAID), "Tried to allocate 2.00 GiB. GPU 0"),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
            "CUDA error: out of memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS_STATUS_ALLOC",
        ),
    ],
)
def test_memory_that_does_not_suffice(error, why):
    with pytest.raises(OutOfMemoryError) as raised, gpus.memory("three models", "take one"):
        raise error
    text = str(raised.value)
    assert text.startswith(f"three models do not fit into the GPU's memory ({why}") and "\n" not in text
    assert "; take one; saved states are intact" in text


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), LapmlError("bad"), ValueError("out of memory")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as raised, gpus.memory("three models", "take one"):
        raise error
    assert raised.value is error


def full(*_, **__):
    raise torch.OutOfMemoryError(SAID)


@pytest.mark.parametrize(
    "owner, name, message",
    [
        (train, "make_learner", r"model.name: test_resnet and what its training holds do not fit .*a smaller model"),
        (train, "take_step", r"train.batch: 6 images of 48 px do not fit .*try train.accumulate=2"),
        (methods, "reference", r"train.batch: 6 images of 48 px do not fit"),  # localising
        (Batches, "_view", r"train.batch: 6 images of 48 px do not fit"),  # cutting the images
        (watch, "all_finite", r"train.batch: 6 images of 48 px do not fit"),
        (evaluate, "outputs", r"birds: 64 images of 48 px in evaluation do not fit .*view.side"),
        (evaluate, "recall_at", r"the neighbours of 12 images among each other do not fit"),
    ],
)
def test_wherever_a_run_wants_memory(small_run, packed, tmp_path, monkeypatch, owner, name, message):
    run = small_run("loc_cutmix", "methods.loc_cutmix.mixer.maps=fresh", "train.epochs=1", "train.warmup_epochs=0")
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(OutOfMemoryError, match=message):
        runs.execute(run, packed, tmp_path / "run", log=quietly)
    assert (tmp_path / "run/last.pt").exists() == (owner is evaluate)


def test_a_finished_run_that_does_not_fit(small_run, packed, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    runs.execute(small_run("baseline", "train.epochs=1", "train.warmup_epochs=0"), packed, folder, log=quietly)
    record, _ = open_run(folder)
    original = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, *args, **more: full() if args else original(self, *args, **more)
    )
    with pytest.raises(OutOfMemoryError, match="its weights do not fit"):
        runs.ready(folder, record, 3)


def test_any_other_command_ends_in_one_line(capsys):
    with pytest.raises(typer.Exit) as raised:
        plain(full)()
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err.startswith(
        "error: the models and images of this command do not fit into the GPU's memory (Tried"
    )
    with pytest.raises(RuntimeError, match="a fault of ours"):
        plain(lambda: (_ for _ in ()).throw(RuntimeError("a fault of ours")))()


# --- the array on a GPU; a CPU tensor stands for one there ---


@pytest.fixture
def room(monkeypatch) -> Counter:
    """room["bytes"] are free; how often arrays were made."""
    found, empty = Counter(bytes=2**40), torch.empty

    def counted(*size, **how):
        found["made"] += 1
        return empty(*size, **how)

    monkeypatch.setattr(batches_module, "_held", None)
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: found["bytes"])
    monkeypatch.setattr(batches_module, "CHUNK", 5)
    monkeypatch.setattr(torch, "empty", counted)
    return found


def test_an_array_is_copied_once(packed, room):
    device = torch.device("cpu")
    first = batches_module._resident(packed.images, device)
    assert torch.equal(first, torch.from_numpy(packed.images)) and first.dtype == torch.uint8
    room["bytes"] = 1  # its own place is taken from what is free
    assert batches_module._resident(packed.images, device) is first and room["made"] == 1
    room["bytes"] = 2**40
    other = packed.images[::-1].copy()
    second = batches_module._resident(other, device)
    assert torch.equal(second, torch.from_numpy(other)) and room["made"] == 2
    assert torch.equal(batches_module._resident(packed.images, device), first) and room["made"] == 3


def test_an_array_that_does_not_fit_stays_on_the_disk(packed, room, monkeypatch):
    device = torch.device("cpu")
    room["bytes"] = 2 * packed.images.nbytes
    assert batches_module._resident(packed.images, device) is None and room["made"] == 0
    room["bytes"] += 1
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", full)  # another process took it meanwhile
        assert batches_module._resident(packed.images, device) is None
    assert batches_module._resident(packed.images, device) is not None
