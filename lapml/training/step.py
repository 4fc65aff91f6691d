"""A model as it trains, and one step of it: mix, forward, loss, backward, update."""

import copy
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]  # which timm exports implicitly
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from lapml.common import ranks
from lapml.config import Method, Run, Train
from lapml.data.batches import Batch
from lapml.errors import LapmlError
from lapml.localise.evidence import stored
from lapml.mixing.boxes import Mixed
from lapml.models.attention import refuse_without_class_token
from lapml.models.device import DTYPES, autocast
from lapml.models.model import Classifier, Output, training_mode
from lapml.training import losses, methods
from lapml.training.bank import Bank
from lapml.training.optim import make_optimizer
from lapml.training.passes import passed

if TYPE_CHECKING:
    from lapml.localise.store import Localised

PARTS = ("localise", "mix", "forward", "reference", "loss", "bank", "backward", "update")  # of a step, in its profile


@dataclass
class Learner:
    """A model as it trains, and everything that a step of it needs."""

    model: Classifier
    forward: Callable[[Tensor], Output]  # the model, or DDP around it
    optimizer: torch.optim.Optimizer
    settings: Method
    train: Train
    bank: Bank | None
    frozen: Classifier | None  # as it was before training, for mixers that attend by it
    cast: Callable[[], AbstractContextManager]
    average: ModelEmaV3 | None = None  # moving average of the weights, which is what is evaluated
    maps: Mapping[str, methods.Stored] = field(default_factory=dict)  # what the stage `localise` found, as evidence

    def passed(self, images: Tensor, references: Tensor | None = None) -> tuple[Output, Tensor | None]:
        """See :func:`lapml.training.passes.passed`."""
        return passed(self.model, self.forward, images, references, self.train.accumulate, self.train.batch_norm)

    @property
    def stored(self) -> dict[str, methods.Stored]:
        """The evidence that is at hand before a batch's step, and what gives it."""
        return {**({"recent": self.bank} if self.bank else {}), **self.maps}

    def update_average(self, step: int) -> None:
        """Let the moving average take in the weights after a step of the run, counted from 1."""
        if self.average is not None:
            self.average.update(self.model, step)

    def models(self) -> list[Classifier]:
        """All that change in training, the one last that is evaluated."""
        return [self.model, self.average.module] if self.average else [self.model]

    def ahead(self, batch: Batch) -> Mixed | None:
        """What can be mixed before a batch's step."""
        return methods.ahead(self.settings, batch, self.stored)


def make_learner(
    config: Run,
    model: Classifier,
    images: int,
    device: torch.device,
    precision: str,
    maps: "Localised | None" = None,
) -> Learner:
    """Put a model on its device, ready to train.

    Args:
        images: in the data set.
        maps: what the stage `localise` found, for methods that mix by it.
    """
    train, settings = config.train, config.settings
    if train.batch_norm == "sync":
        if device.type != "cuda" or ranks.size() == 1:
            raise LapmlError(
                f"train.batch_norm: found sync on {ranks.size()} process(es) on {device.type}, expected several GPUs; "
                "set it to local"
            )
        # timm's: torch's own drops the activations that timm fuses into batch norm
        model = convert_sync_batchnorm(model)
    # torch's stubs have memory_format without a device only
    model.to(device, DTYPES[precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    training_mode(model, train.batch_norm)
    needs = settings.needs()
    if settings.mixer is not None and settings.mixer.attends:
        refuse_without_class_token(model, config.model.name, settings.mixer.name)
    bank = frozen = None
    if "recent" in needs:
        bank = Bank(images, model.head.in_features, config.data.view.side // model.stride, device)
    if "attention" in needs:
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
    # DDP counts on one pass a step
    forward: Callable[[Tensor], Output] = model if ranks.size() == 1 or train.accumulate > 1 else ranks.shared(model)
    if train.compile:
        if not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
            raise LapmlError(
                "train.compile: found no C++ compiler, expected g++, clang++ or what CXX names; "
                "install one, or set train.compile to false"
            )
        forward = torch.compile(forward, dynamic=False)  # one shape: the last, incomplete batch is left out
    optimizer = make_optimizer(model, train)
    found = {} if maps is None else stored(maps, needs, images, device)
    return Learner(
        model,
        forward,
        optimizer,
        settings,
        train,
        bank,
        frozen,
        lambda: autocast(device, precision),
        # as timm's recipes have it: over few steps at first, so that the initial weights do not linger
        ModelEmaV3(model, decay=train.ema, use_warmup=True) if train.ema else None,
        found,
    )


def take_step(learner: Learner, batch: Batch) -> tuple[dict[str, Tensor], int, int]:
    """One step of a method.

    Returns:
        (0-d statistics on the device, images forwarded, images gone backward).
    """
    settings, labels, margin = learner.settings, batch.labels[: batch.count], learner.settings.margin
    if not learner.model.training:  # as a step leaves it that took references
        training_mode(learner.model, learner.train.batch_norm)
    forwards = backwards = batch.count
    again = batch.count  # passed once more where a batch goes in parts
    mixed = batch.made or learner.ahead(batch)
    clean = clean_logits = donor_labels = None
    with learner.cast():
        if batch.mixed and mixed is None:
            # a joint reference is a pass like that of the generated batch, and is counted as one
            with nullcontext() if settings.joint else record_function("localise"):
                seen, more, back = methods.reference(
                    learner.model,
                    settings,
                    batch,
                    lambda images: learner.passed(images)[0],
                    learner.frozen,
                    learner.stored,
                )
            forwards, backwards = forwards + more, backwards + back
            again += back
            clean, clean_logits = seen.embedding, seen.logits
            with record_function("mix"):
                mixed = methods.mix(settings, batch, seen.evidence, learner.model)
            forwards += batch.count * (settings.mixer is not None and settings.mixer.attends)
        asked = batch.mixed and settings.loss is not None and settings.loss.reference
        detached = asked or batch.margins and margin is not None and margin.reference == "detached"
        references = batch.images[: batch.count] if detached else None
        output, embedded = learner.passed(mixed.images if mixed else batch.images, references)
        if embedded is not None:
            forwards += len(embedded)
            clean = embedded if batch.margins and clean is None else clean
        with record_function("loss"):
            guess = output.logits.detach().argmax(1)
            credit = (guess == labels).float()
            if mixed is None:
                loss = cross_entropy(losses.full(output.logits), labels, label_smoothing=learner.train.label_smoothing)
                stats = {"ce": loss.detach()}
            else:
                loss, stats = methods.loss(
                    settings, output, batch.labels, mixed, clean, clean_logits, learner.train.label_smoothing
                )
                donor_labels = batch.labels[mixed.donors]
                credit = credit * (1 - mixed.rho) + (guess == donor_labels) * mixed.rho
            stats["of_guessing"] = stats["ce"] / (math.log(output.logits.shape[1]) * _weight(mixed, clean_logits))
            if settings.loss is not None:
                extra = methods.custom_loss(settings, methods.Seen(output, labels, donor_labels, mixed, embedded))
                loss, stats = loss + settings.loss.weight * extra, stats | {"loss_custom": extra.detach()}
            if learner.model.projects:
                loss = loss + 0 * output.embedding.sum()  # DDP wants a gradient for each parameter in every step
    if learner.bank is not None:
        weight, hidden = learner.model.head.weight.detach(), mixed.hidden(learner.bank.grid) if mixed else None
        index, windows = batch.index[: batch.count], batch.windows[: batch.count]
        with record_function("bank"):
            learner.bank.keep(index, windows, output.features.detach(), weight, labels, hidden)
    _update(learner, loss)
    forwards += again if learner.train.accumulate > 1 else 0
    return {**stats, "loss": loss.detach(), "accuracy": 100 * credit.mean()}, forwards, backwards


def _weight(mixed: Mixed | None, clean_logits: Tensor | None) -> Tensor | float:
    """The weight of all labels of an image in the cross-entropy, on the mean: the same answer to all costs as often log K."""
    if mixed is None:
        return 1.0
    return (mixed.kept + mixed.pasted).mean() + (clean_logits is not None)


def _update(learner: Learner, loss: Tensor) -> None:
    """Take the gradient of a loss, and a step of the optimizer."""
    with record_function("backward"):
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if learner.train.accumulate > 1:
            ranks.average(each.grad for each in learner.model.parameters() if each.grad is not None)
    with record_function("update"):
        if learner.train.clip_grad is not None:
            clip_grad_norm_(learner.model.parameters(), learner.train.clip_grad)
        learner.optimizer.step()
