"""The passes of a step's images through the model: at once, or in parts of which one is in memory at a time.

In parts (``train.accumulate``), the losses are still those of the whole batch, the sets that margins count included: each part's
activations are dropped and made again when its gradient is due (Chen et al., *Training deep nets with sublinear memory cost*,
2016). That costs a forward pass more, as gradients of parts that are merely added up would not know the other parts' pairs.
Batch norm normalises each part by itself.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
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
        before = [] if references is None else running_statistics(model)
        with record_function("forward"):
            output = forward(images)
        if references is None:
            return output, None
        with record_function("reference"):
            return output, embedded(model, references, before)
    outputs, embeddings = [], []
    again: Any = lambda: (nullcontext(), spare_statistics(model))  # noqa: E731  # running statistics move once
    for start, part in enumerate(images.chunk(parts)):
        before = [] if references is None else running_statistics(model)
        with record_function("forward"):
            outputs.append(checkpoint(forward, part, use_reentrant=False, context_fn=again))
        if references is not None:
            with record_function("reference"):
                embeddings.append(embedded(model, references.chunk(parts)[start], before))
            training_mode(model, batch_norm)
    output = Output(*(torch.cat(each) for each in zip(*outputs, strict=True)))
    return output, torch.cat(embeddings) if embeddings else None


@torch.no_grad()
def embedded(model: Classifier, images: Tensor, before: list[Tensor]) -> Tensor:
    """(B, D) embeddings of clean images as the batch that was just generated would have them: were an image of it not
    changed by mixing, its distance would be 0. No running statistics are touched; the model is left in evaluation mode.

    Args:
        before: :func:`~lapml.models.model.running_statistics` before the generated batch's pass.
    """
    with normalised_alike(model, before):
        return model(images).embedding
