"""Class maps of the pretrained model's own classifier, a control beside the object maps.

Zhou, Khosla, Lapedriza, Oliva and Torralba, *Learning deep features for discriminative localization*, CVPR 2016: the last
map weighed by a class's row of a linear classifier on the map's mean. The class here is the one that the classifier finds most
probable, of those that it was pretrained on (ImageNet's), so that no label is used.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

PROBE = 256  # px: a side that any usual stride divides


class Classifier(NamedTuple):
    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)


@torch.inference_mode()
def classifier_of(model: nn.Module) -> Classifier | None:
    """The classifier of a timm model, on the CPU in evaluation mode; None where it is not linear on the mean of the last
    map, as class maps want it, or where there is none."""
    head = model.get_classifier()
    if not isinstance(head, nn.Linear):
        return None
    probe = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
    try:
        features = model.forward_features(probe)
    except (AssertionError, RuntimeError):  # it takes another size
        return None
    if features.ndim != 4 or features.shape[1] != head.in_features:
        return None
    expected = model(probe)
    if not torch.allclose(head(features.mean((2, 3))), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        return None
    weight = head.weight.detach().clone()
    return Classifier(weight, torch.zeros(len(weight)) if head.bias is None else head.bias.detach().clone())


def class_maps(cells: Tensor, classifier: Classifier | None) -> Tensor:
    """The map of each image's most probable class, ≥ 0, relative to its peak.

    Args:
        cells: (B, h·w, C) float32 features.

    Returns:
        (B, h·w) float32; 0 everywhere without a classifier, or where nothing speaks for the class.
    """
    if classifier is None:
        return torch.zeros(cells.shape[:2], device=cells.device)
    weight, bias = (each.to(cells.device) for each in classifier)
    guess = (cells.mean(1) @ weight.T + bias).argmax(1)
    maps = torch.einsum("bnc,bc->bn", cells, weight[guess]).relu()
    return maps / maps.amax(1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
