"""A model as it trains, and one step of it: mix, forward, loss, backward, update."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]  # which timm exports implicitly
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.nn.functional import cross_entropy

from lapml.common import ranks
from lapml.config import Method, Run
from lapml.data.batches import Batch
from lapml.errors import LapmlError
from lapml.localise.evidence import stored
from lapml.mixing.boxes import Mixed
from lapml.models.device import DTYPES, autocast, make_optimizer
from lapml.models.model import Classifier, Output, running_statistics, training_mode
from lapml.training import losses, methods
from lapml.training.bank import Bank

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
    batch_norm: str
    label_smoothing: float
    bank: Bank | None
    frozen: Classifier | None  # as it was before training, for mixers that attend by it
    cast: Callable[[], AbstractContextManager]
    maps: Mapping[str, methods.Stored] = field(default_factory=dict)  # what the stage `localise` found, as evidence

    def set_rate(self, lr: float, head_lr_mult: float) -> None:
        """Set the learning rates of the backbone, and of the head."""
        backbone, head = self.optimizer.param_groups
        backbone["lr"], head["lr"] = lr, lr * head_lr_mult

    @property
    def stored(self) -> dict[str, methods.Stored]:
        """The evidence that is at hand before a batch's step, and what gives it."""
        return {**({"recent": self.bank} if self.bank else {}), **self.maps}

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
    bank = frozen = None
    if "recent" in needs:
        bank = Bank(images, model.head.in_features, config.data.view.side // model.stride, device)
    if "attention" in needs:
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
    forward = model if ranks.size() == 1 else ranks.shared(model)
    optimizer = make_optimizer(model, train)
    found = {} if maps is None else stored(maps, needs, images, device)
    return Learner(
        model,
        forward,
        optimizer,
        settings,
        train.batch_norm,
        train.label_smoothing,
        bank,
        frozen,
        lambda: autocast(device, precision),
        found,
    )


def take_step(learner: Learner, batch: Batch) -> tuple[dict[str, Tensor], int, int]:
    """One step of a method.

    Returns:
        (0-d statistics on the device, images forwarded, images gone backward).
    """
    settings, labels, margin = learner.settings, batch.labels[: batch.count], learner.settings.margin
    if not learner.model.training:  # as a step leaves it that took references
        training_mode(learner.model, learner.batch_norm)
    forwards = backwards = batch.count
    mixed = batch.made or learner.ahead(batch)
    clean = clean_logits = embedded = donor_labels = None
    with learner.cast():
        if batch.mixed and mixed is None:
            with record_function("localise"):
                seen, more, back = methods.reference(
                    learner.model, settings, batch, learner.forward, learner.frozen, learner.stored
                )
            forwards, backwards = forwards + more, backwards + back
            clean, clean_logits = seen.embedding, seen.logits
            with record_function("mix"):
                mixed = methods.mix(settings, batch, seen.evidence)
        asked = batch.mixed and settings.loss is not None and settings.loss.reference
        detached = asked or batch.margins and margin is not None and margin.reference == "detached"
        before = running_statistics(learner.model) if detached else []
        with record_function("forward"):
            output = learner.forward(mixed.images if mixed else batch.images)
        if detached:
            with record_function("reference"):
                embedded = methods.embedded(learner.model, batch.images[: batch.count], before)
            forwards += len(embedded)
            clean = embedded if batch.margins and clean is None else clean
        with record_function("loss"):
            guess = output.logits.detach().argmax(1)
            credit = (guess == labels).float()
            if mixed is None:
                loss = cross_entropy(losses.full(output.logits), labels, label_smoothing=learner.label_smoothing)
                stats = {"ce": loss.detach()}
            else:
                loss, stats = methods.loss(
                    settings, output, batch.labels, mixed, clean, clean_logits, learner.label_smoothing
                )
                donor_labels = batch.labels[mixed.donors]
                credit = credit * (1 - mixed.rho) + (guess == donor_labels) * mixed.rho
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
    with record_function("backward"):
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
    with record_function("update"):
        learner.optimizer.step()
    return {**stats, "loss": loss.detach(), "accuracy": 100 * credit.mean()}, forwards, backwards
