"""What the class token of a vision transformer attends to."""

from typing import Any

import torch
from torch import Tensor, nn

from lapml.errors import LapmlError
from lapml.models.model import Classifier


def refuse_without_class_token(model: Classifier, name: str, mixer: str) -> None:
    """LapmlError where a model's last layer has no class token whose attention could be read."""
    blocks = getattr(model.backbone, "blocks", None)
    last = getattr(blocks[-1], "attn", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    if getattr(model.backbone, "cls_token", None) is None or type(last).__name__ != "Attention":
        raise LapmlError(
            f"model.name: {name} has no class token whose attention can be read, which {mixer} labels by; expected a ViT, "
            "DeiT or DINOv2, such as vit_small_patch16_224"
        )


@torch.no_grad()
def class_attention(model: Classifier, images: Tensor) -> Tensor:
    """(B, h, w) fp32: how the class token attends to each place in the last layer, on the mean of its heads, to sum 1.

    Its queries and keys are noted on their way, as the layer itself may keep no weights (fused attention).
    """
    backbone: Any = model.backbone
    layer, noted = backbone.blocks[-1].attn, {}
    hooks = [
        getattr(layer, name).register_forward_hook(lambda _, given, out, name=name: noted.update({name: out.float()}))
        for name in ("q_norm", "k_norm")
    ]
    try:
        grid = model.features(images).shape[2:]
    finally:
        for hook in hooks:
            hook.remove()
    with torch.autocast(images.device.type, enabled=False):
        scores = layer.scale * noted["q_norm"][:, :, :1] @ noted["k_norm"].transpose(2, 3)  # (B, heads, 1, tokens)
    seen = scores.softmax(3).mean(1)[:, 0, backbone.num_prefix_tokens :]
    return (seen / seen.sum(1, keepdim=True)).unflatten(1, grid)
