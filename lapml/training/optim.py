"""The optimizer, its parameter groups, and its learning rate."""

import math
from typing import Any

import torch
from timm.optim import (  # type: ignore[attr-defined]  # which timm exports implicitly
    create_optimizer_v2,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn

from lapml.config import Train
from lapml.models.model import Classifier


def make_optimizer(model: Classifier, train: Train) -> torch.optim.Optimizer:
    """SGD as of torch, with Nesterov momentum where there is momentum; the others as of timm, with their own betas."""
    parameters = groups(model, train)
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.momentum > 0,
            weight_decay=train.weight_decay,
        )
    return create_optimizer_v2(parameters, train.optimizer, lr=train.lr, weight_decay=train.weight_decay)


def groups(model: Classifier, train: Train) -> list[dict[str, Any]]:
    """What learns, each group with ``lr_scale``, the factor on the learning rate: 1 for the backbone (with ``layer_decay``
    its power for each layer before the last, Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021), ``head_lr_mult`` for
    the new layers. Without ``decay_norms``, norms, biases and what timm's model names itself have no weight decay."""
    new = nn.ModuleList([model.head, model.projection])
    scale = {"lr_scale": train.head_lr_mult}
    kept = list(getattr(model.backbone, "no_weight_decay", set)())
    if train.layer_decay is None and train.decay_norms:
        old = [value for value in model.backbone.parameters() if value.requires_grad]
        return [{"params": old, "lr_scale": 1.0}, {"params": list(new.parameters()), **scale}]
    if train.layer_decay is None:
        found = param_groups_weight_decay(model.backbone, train.weight_decay, no_weight_decay_list=kept)
        backbone = [{**group, "lr_scale": 1.0} for group in found]
    else:
        backbone = param_groups_layer_decay(
            model.backbone, train.weight_decay, no_weight_decay_list=kept, layer_decay=train.layer_decay
        )
        if train.decay_norms:
            backbone = [{**group, "weight_decay": train.weight_decay} for group in backbone]
    if train.decay_norms:
        return [*backbone, {"params": list(new.parameters()), **scale}]
    return [*backbone, *({**group, **scale} for group in param_groups_weight_decay(new, train.weight_decay))]


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate: ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def schedule(train: Train, steps: int, step: int) -> float:
    """The backbone's learning rate at a step: linear warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017), or
    a tenth after each milestone."""
    warm = train.warmup_epochs * steps
    if step < warm:
        return train.lr * (step + 1) / (warm + 1)
    if train.milestones is not None:
        return train.lr * 0.1 ** sum(step >= epoch * steps for epoch in train.milestones)
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (train.epochs * steps - warm)))
