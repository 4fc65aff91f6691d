"""A timm backbone with our own linear head: features, logits, embedding.

The head is (mean pool → linear) over the last feature map, so that weight · features is a true class map. Backbones
that do more after pooling are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lapml.config import Model
from lapml.errors import LapmlError
from lapml.models import weights
from lapml.models.frozen import Frozen, freeze

GRID = 6  # cells per side, at least: a coarser map localises nothing


class Output(NamedTuple):
    features: Tensor  # (B, C, h, w)
    logits: Tensor  # (B, K)
    embedding: Tensor  # (B, D), unit length, fp32


class Classifier(nn.Module):
    """Backbone → (B, C, h, w) → mean → linear head; the embedding is the normalised mean, or a projection of it."""

    def __init__(self, backbone: nn.Module, tap: int | None, channels: int, classes: int, embedding_dim: int | None):
        super().__init__()
        self.backbone = backbone
        self.stride = 1  # input pixels a cell of the map; `build` measures it
        self.tap = tap  # index of the intermediate map that is taken, None for the last
        self.head = nn.Linear(channels, classes)
        self.projects = embedding_dim is not None
        self.projection = nn.Linear(channels, embedding_dim, bias=False) if embedding_dim else nn.Identity()
        self.frozen: Frozen | None = None  # the stages that stay as they are; `build` sets it

    def features(self, images: Tensor) -> Tensor:
        if self.frozen is None or torch.compiler.is_compiling():  # compilers and exporters fold for themselves
            return self._features(images)
        with self.frozen.folded(self.backbone):
            return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        if self.tap is None:
            return self.backbone.forward_features(images)
        return self.backbone.forward_intermediates(
            images, indices=[self.tap], stop_early=True, intermediates_only=True
        )[0]

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) normalised images → :class:`Output`."""
        features = self.features(images)
        pooled = features.mean((2, 3))
        embedding = self.projection(pooled)
        return Output(
            features, self.head(pooled), normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)))
        )

    def train(self, mode: bool = True) -> Self:
        """As of any module, but that frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen.modules(self.backbone) if self.frozen else ():
            module.eval()
        return self

    def moving_buffers(self) -> list[Tensor]:
        """Those that training changes: not the statistics of frozen stages."""
        still = self.frozen.modules(self.backbone) if self.frozen else ()
        frozen = {id(buffer) for module in still for buffer in module.buffers()}
        return [buffer for buffer in self.buffers() if id(buffer) not in frozen]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if self.frozen:
            self.frozen.forget()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:  # what `to` and its like do
        if self.frozen:
            self.frozen.forget()
        return super()._apply(*args, **kwargs)


def build(config: Model, classes: int, side: int, seed: int, initial: bool = True) -> tuple[Classifier, dict[str, Any]]:
    """Make a model for square inputs.

    Args:
        config: the ``model`` section.
        classes: K.
        side: of the input in pixels.
        seed: of the head's and projection's (and, without weights, the backbone's) initial values.
        initial: load the initial weights; False where a saved model is loaded over them anyway.

    Returns:
        (model in training mode, record of the weights and of the input's mean, std and map: for provenance.json).

    Raises:
        LapmlError: unknown model, wrong weights, an unsuitable head, a map under 6×6, a side that the stride does not
            divide, or stages to freeze that are not there.
    """
    torch.manual_seed(seed)
    state, record = weights.load(config.weights, config.name) if initial else (None, {})
    options = {"output_stride": config.output_stride} if config.output_stride else {}
    try:
        backbone = timm.create_model(config.name, pretrained=initial and config.weights == "timm", **options)
    except Exception as error:  # timm raises many types here: unknown name, unsupported stride, no connection
        raise LapmlError(f"model.name {config.name!r}: timm cannot make it ({' '.join(str(error).split())})") from None
    if initial and config.weights == "timm":  # the hub gives no checksum of its own
        record["sha256"] = weights.state_sha256(backbone.state_dict())
    if state is not None:
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise LapmlError(f"model.weights do not fit {config.name}: {' '.join(str(error).split())[:300]}") from None
    try:
        if config.truncate:
            tap, channels = _truncate(backbone, config)
        else:
            _check_head(backbone, config.name, side)
            tap, channels = None, backbone.num_features
            backbone.reset_classifier(0)
        torch.manual_seed(seed)
        model = Classifier(backbone, tap, channels, classes, config.embedding_dim)
        grid = _grid(model, side)
    except (AssertionError, RuntimeError) as error:  # such as a transformer of one fixed input size
        why = " ".join(str(error).split()) or type(error).__name__
        raise LapmlError(f"model.name: {config.name} does not take {side} px inputs ({why}); set view.side") from None
    if min(grid) < GRID:
        raise LapmlError(
            f"model: the map of {config.name} at {side} px has {grid[0]}×{grid[1]} cells, expected at least {GRID}×{GRID}: "
            "enlarge view.side, or set model.truncate or model.output_stride lower"
        )
    if side % grid[0] or side // grid[0] & (side // grid[0] - 1):
        raise LapmlError(
            f"view.side: {side} px gives a map of {grid[0]}×{grid[1]} cells, which the stride does not divide: padding would "
            "shift the cells; expected a multiple of the model's stride"
        )
    if config.freeze:
        freeze(model, config.freeze, config.name, side)
    model.stride = side // grid[0]
    cfg = backbone.pretrained_cfg
    return model, {**record, "mean": list(cfg["mean"]), "std": list(cfg["std"]), "grid": list(grid)}


def training_mode(model: nn.Module, batch_norm: str) -> None:
    """Training mode, in which frozen batch norm keeps its running statistics (its scale and shift still train, but for those
    of frozen stages)."""
    model.train()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm by the batch's own statistics, running ones left untouched (SnapMix's code updates them twice)."""
    norms = [norm for norm in _norms(model) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Copies of the running means and variances of batch norm in training mode."""
    return [value.clone() for norm in _norms(model) if norm.training for value in (norm.running_mean, norm.running_var)]


@contextmanager
def normalised_alike(model: nn.Module, before: list[Tensor]) -> Iterator[None]:
    """Within, in evaluation mode, batch norm uses the statistics of the model's last pass in training mode, so that an
    image's output is what it would have been in that batch. They follow from what that pass did to the running ones.

    Args:
        before: :func:`running_statistics` before that pass.
    """
    norms = [norm for norm in _norms(model) if norm.training]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    old = iter(before)
    for norm in norms:  # replaced, not written to: backward needs the same tensors
        mean, var = (now.lerp(next(old), 1 - 1 / norm.momentum) for now in (norm.running_mean, norm.running_var))
        norm.running_mean, norm.running_var = mean, var.clamp_min(0)  # rounding may leave less
    model.eval()
    try:
        yield
    finally:
        for norm, (mean, var) in zip(norms, running, strict=True):
            norm.running_mean, norm.running_var = mean, var


def _norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def groups(model: Classifier, lr: float, head_lr_mult: float) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer: what learns of the backbone at ``lr``, the new layers at ``lr·head_lr_mult``."""
    new = [*model.head.parameters(), *model.projection.parameters()]
    old = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    return [{"params": old, "lr": lr}, {"params": new, "lr": lr * head_lr_mult}]


def _truncate(backbone: nn.Module, config: Model) -> tuple[int, int]:
    """Cut the backbone after its last stage of a stride; returns (index of the tap, channels)."""
    stages = backbone.feature_info if isinstance(backbone.feature_info, list) else list(backbone.feature_info)
    taps = [index for index, stage in enumerate(stages) if stage["reduction"] == config.truncate]
    if not taps or not hasattr(backbone, "prune_intermediate_layers"):
        strides = sorted({stage["reduction"] for stage in stages})
        raise LapmlError(f"model.truncate: {config.name} has no stage of stride {config.truncate}, only {strides}")
    backbone.prune_intermediate_layers([taps[-1]], prune_norm=True, prune_head=True)
    return taps[-1], stages[taps[-1]]["num_chs"]


@torch.no_grad()
def _check_head(backbone: nn.Module, name: str, side: int) -> None:
    """Refuse a backbone whose head is not (mean pool → linear), by comparing numbers."""
    training = backbone.training
    backbone.eval()
    features = backbone.forward_features(torch.randn(1, 3, side, side))
    suitable = features.ndim == 4 and features.shape[1] == backbone.num_features
    if suitable:
        pooled = backbone.forward_head(features, pre_logits=True)
        suitable = pooled.shape == features.shape[:2] and torch.allclose(
            pooled, features.mean((2, 3)), rtol=1e-4, atol=1e-5
        )
    backbone.train(training)
    if not suitable:
        raise LapmlError(
            f"model.name: {name} does more than mean pooling between its last map and its classifier (a norm, a convolution "
            "or tokens), so that class maps would not be true; expected a model such as resnet50 or tf_efficientnet_lite0"
        )


@torch.no_grad()
def _grid(model: Classifier, side: int) -> tuple[int, int]:
    training = model.training
    model.eval()
    height, width = model.features(torch.zeros(1, 3, side, side)).shape[2:]
    model.train(training)
    return height, width
