"""A timm model without its classifier, and its last feature map as (B, C, h, w), whatever its family.

A convolutional model gives that map by ``forward_features``. Others do by timm's ``forward_intermediates``, which lays tokens out
in rows and columns and drops those that stand for no place (class and register tokens). A norm that the model's own head applies
*after* pooling (ConvNeXt's ``head.norm``, ``fc_norm`` of a ViT that pools) is applied to each cell *before* it, so that a linear
head on the mean of the map has true class maps.
"""

from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from lapml.errors import LapmlError, words
from lapml.models import weights

SIDES = {"model.name": "view.side", "localise.model": "localise.side"}
AFTER_POOLING = ("head.norm", "fc_norm")  # timm's names of norms between pooling and classifier


class Tap(NamedTuple):
    """Where a backbone's map is taken.

    Attributes:
        index: of an intermediate map of timm's, −1 for the last one; None for what ``forward_features`` gives.
        normed: by the model's last norm, where it is an intermediate map.
        norm: name of a module that is applied to each cell.
    """

    index: int | None = None
    normed: bool = False
    norm: str | None = None

    def features(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images → (B, C, h, w)."""
        if self.index is None:
            found = backbone.forward_features(images)
        else:
            found = backbone.forward_intermediates(
                images, indices=[self.index], norm=self.normed, stop_early=True, intermediates_only=True
            )[0]
        return found if self.norm is None else by_cell(backbone.get_submodule(self.norm), found)


def by_cell(norm: nn.Module, features: Tensor) -> Tensor:
    """A norm for pooled features, of each cell of (B, C, h, w) by itself."""
    batch, channels, height, width = features.shape
    cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
    flat = not type(norm).__name__.endswith("2d")  # timm's LayerNorm2d and its like want (B, C, 1, 1)
    normed = norm(cells if flat else cells[:, :, None, None]).reshape(batch, height, width, channels)
    return normed.permute(0, 3, 1, 2)


def create(
    name: str, source: str, seed: int, keys: tuple[str, str], initial: bool = True, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A timm model with its classifier.

    Args:
        name: timm's.
        source: of its weights, see :func:`lapml.models.weights.load`.
        seed: of its initial values where there are no weights.
        keys: the settings that hold ``name`` and ``source``, for messages.
        initial: load the weights; False where a saved model is loaded over them anyway.
        options: of the model.

    Returns:
        (the model, record of its weights for provenance).

    Raises:
        LapmlError: unknown model, missing or wrong weights.
    """
    torch.manual_seed(seed)
    state, record = weights.load(source, name, keys[1]) if initial else (None, {})
    try:
        backbone = timm.create_model(name, pretrained=initial and source == "timm", **options)
    except Exception as error:  # timm raises many types here: unknown name, unsupported stride, no connection
        raise LapmlError(f"{keys[0]} {name!r}: timm cannot make it ({words(error)})") from None
    if initial and source == "timm":  # the hub gives no checksum of its own
        record["sha256"] = weights.state_sha256(backbone.state_dict())
    if state is not None:
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise LapmlError(f"{keys[1]} {source!r} do not fit {name}: {words(error)[:300]}") from None
    return backbone, record


def resize(backbone: nn.Module, side: int, key: str, name: str) -> None:
    """Make a model of fixed input size (a ViT, Swin, …) take square images of another side, as timm does: by interpolating the
    embeddings of positions. Others take any size anyway.

    Raises:
        LapmlError: it does not.
    """
    if not hasattr(backbone, "set_input_size") or side == native_side(backbone):
        return
    try:
        backbone.set_input_size(img_size=(side, side))
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise LapmlError(f"{key}: {name} does not take {side} px inputs ({words(error)}); set {SIDES[key]}") from None


def native_side(backbone: nn.Module) -> int:
    """The side in pixels that a model was pretrained with."""
    return backbone.pretrained_cfg["input_size"][-1]


@torch.no_grad()
def last_map(backbone: nn.Module, side: int, key: str, name: str) -> Tap:
    """How to take the last map of a whole model, in evaluation mode, at a side that it takes. Its classifier is removed, and
    every layer that the map does not depend on.

    Raises:
        LapmlError: it has no such map, or does not take that side.
    """
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        if mean_pooled(backbone, images):
            backbone.reset_classifier(0)
            return Tap()
        backbone.reset_classifier(0)
        tap = taken(backbone, images)
    except (AssertionError, RuntimeError, IndexError) as error:
        raise LapmlError(f"{key}: {name} does not take {side} px inputs ({words(error)}); set {SIDES[key]}") from None
    except (TypeError, ValueError, AttributeError):  # of models that do not offer what is asked of them
        tap = None
    if tap is None:
        raise LapmlError(
            f"{key}: {name} gives no square map of places, which mixing by places needs; `lapml model list` shows models that do, "
            "such as resnet50, convnext_tiny or vit_small_patch16_224"
        )
    _drop_unused(backbone, tap, images)
    return tap


@torch.no_grad()
def mean_pooled(backbone: nn.Module, images: Tensor) -> bool:
    """Whether a model's classifier takes the mean of its last map as it is."""
    features = backbone.forward_features(images)
    if not _is_map(backbone, features):
        return False
    pooled = backbone.forward_head(features, pre_logits=True)
    return pooled.shape == features.shape[:2] and torch.allclose(pooled, features.mean((2, 3)), rtol=1e-4, atol=1e-5)


def _is_map(backbone: nn.Module, features: Any) -> bool:
    return (
        isinstance(features, Tensor)
        and features.ndim == 4
        and features.shape[1] == backbone.num_features
        and features.shape[2] == features.shape[3]
    )


def taken(backbone: nn.Module, images: Tensor) -> Tap | None:
    """How a model without its classifier gives a map; None if it gives none."""
    modules = dict(backbone.named_modules())
    norms = [name for name in AFTER_POOLING if not isinstance(modules.get(name, nn.Identity()), nn.Identity)]
    norm = norms[0] if norms else None
    if _is_map(backbone, backbone.forward_features(images)):
        return Tap(norm=norm)
    if not hasattr(backbone, "forward_intermediates"):
        return None
    tap = Tap(-1, True, norm)
    try:
        features = tap.features(backbone, images)
    except AssertionError:  # of those that have no last norm, or only the head's
        tap = tap._replace(normed=False)
        features = tap.features(backbone, images)
    return tap if _is_map(backbone, features) else None


@torch.enable_grad()
def _drop_unused(backbone: nn.Module, tap: Tap, images: Tensor) -> None:
    """Replace the layers that the map does not depend on, which would be decayed and saved for nothing, and let weights of no
    layer that it does not depend on stay as they are."""
    tap.features(backbone, images).sum().backward()
    used = {name for name, value in backbone.named_parameters() if value.grad is not None}
    backbone.zero_grad(set_to_none=True)
    dropped: list[str] = []
    for name, module in list(backbone.named_modules()):
        held = [f"{name}.{each}" for each, _ in module.named_parameters()] if name else []
        if held and not used.intersection(held) and not name.startswith(tuple(f"{each}." for each in dropped)):
            backbone.set_submodule(name, nn.Identity())
            dropped.append(name)
    for name, value in backbone.named_parameters():
        value.requires_grad_(name in used)
