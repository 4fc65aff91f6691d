"""The passes of a step's images through the model: at once, or in parts of which one is in memory at a time.

In parts (``train.accumulate``), the losses are still those of the whole batch, the sets that margins count included: each part's
activations are dropped and made again when its gradient is due (Chen et al., *Training deep nets with sublinear memory cost*,
2016). That costs a forward pass more, as gradients of parts that are merely added up would not know the other parts' pairs.
Batch norm normalises each part by itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath  # type: ignore[attr-defined]  # as in model.py
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.checkpoint import checkpoint

from lapml.models.model import (
    Classifier,
    Output,
    normalised_alike,
    running_statistics,
    spare_statistics,
    training_mode,
)


def passed(
    model: Classifier,
    forward: Callable[[Tensor], Output],
    images: Tensor,
    references: Tensor | None,
    parts: int,
    batch_norm: str,
) -> tuple[Output, Tensor | None]:
    """The output for a batch, and the embeddings of its references as the batch would have them (:func:`embedded`).

    Args:
        forward: the model, or DDP around it.
        images: (B, 3, H, H) the generated batch; references: (B, 3, H, H), None where no loss needs them.
        parts: that go through the model one after another.
        batch_norm: see :func:`~lapml.models.model.training_mode`.
    """
    if parts == 1:
        before = None if references is None else begun(model, images.device)
        with record_function("forward"):
            output = forward(images)
        if references is None or before is None:
            return output, None
        with record_function("reference"):
            return output, embedded(model, references, before)
    outputs, embeddings = [], []
    again: Any = lambda: (nullcontext(), spare_statistics(model))  # noqa: E731  # running statistics move once
    for start, part in enumerate(images.chunk(parts)):
        before = None if references is None else begun(model, images.device)
        with record_function("forward"):
            outputs.append(checkpoint(forward, part, use_reentrant=False, context_fn=again))
        if references is not None and before is not None:
            with record_function("reference"):
                embeddings.append(embedded(model, references.chunk(parts)[start], before))
            training_mode(model, batch_norm)
    output = Output(*(torch.cat(each) for each in zip(*outputs, strict=True)))
    return output, torch.cat(embeddings) if embeddings else None


class Begun(NamedTuple):
    """How a model stood before the pass of a generated batch."""

    statistics: list[Tensor]  # running ones
    skipping: list[DropPath]  # layers that skip the residual branches of some images (``model.drop_path``)
    generators: list[Tensor]  # their states, of the CPU and of the device, if there are such layers


def begun(model: Classifier, device: torch.device) -> Begun:
    """How a model stands, on its device, for :func:`embedded` after its next pass."""
    skipping = [each for each in model.modules() if isinstance(each, DropPath) and each.training and each.drop_prob]
    generators = [torch.get_rng_state()] if skipping else []
    if skipping and device.type == "cuda":
        generators.append(torch.cuda.get_rng_state(device))
    return Begun(running_statistics(model), skipping, generators)


@torch.no_grad()
def embedded(model: Classifier, images: Tensor, before: Begun) -> Tensor:
    """(B, D) embeddings of clean images as the batch that was just generated would have them: were an image of it not
    changed by mixing, its distance would be 0. Branches that the generated image skipped its reference skips too (but with
    ``train.compile``, whose generator is another). No running statistics are touched; the model is left in evaluation mode.

    Args:
        images: as many as the generated batch has, in its order.
        before: :func:`begun`, before the generated batch's pass.
    """
    with normalised_alike(model, before.statistics), _skipping(before, images.device):
        return model(images).embedding


@contextmanager
def _skipping(before: Begun, device: torch.device) -> Iterator[None]:
    """Within, branches are skipped as in the pass before which the model stood so."""
    if not before.skipping:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(before.generators[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(before.generators[1], device)
        for layer in before.skipping:
            layer.train()
        try:
            yield
        finally:
            for layer in before.skipping:
                layer.eval()
