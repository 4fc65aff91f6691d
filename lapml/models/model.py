"""A timm backbone with our own linear head: features, logits, embedding.

The head is (mean pool → linear) over the last feature map (:mod:`lapml.models.backbone`), so that weight · features is a true
class map, whatever the model's own head does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from timm.layers import DropPath  # type: ignore[attr-defined]  # which timm exports implicitly
from torch import Tensor, nn
from torch.nn.functional import normalize

from lapml.common import ranks
from lapml.config import Model
from lapml.errors import LapmlError, words
from lapml.models.backbone import Tap, create, last_map, resize
from lapml.models.frozen import Frozen, freeze

GRID = 6  # cells per side, at least: a coarser map localises nothing


class Output(NamedTuple):
    features: Tensor  # (B, C, h, w)
    logits: Tensor  # (B, K)
    embedding: Tensor  # (B, D), unit length, fp32


class Classifier(nn.Module):
    """Backbone → (B, C, h, w) → mean → linear head; the embedding is the normalised mean, or a projection of it."""

    def __init__(self, backbone: nn.Module, tap: Tap, channels: int, classes: int, embedding_dim: int | None):
        super().__init__()
        self.backbone = backbone
        self.stride = 1  # input pixels a cell of the map; `build` measures it
        self.tap = tap
        self.head = nn.Linear(channels, classes)
        self.projects = embedding_dim is not None
        self.projection = nn.Linear(channels, embedding_dim, bias=False) if embedding_dim else nn.Identity()
        self.frozen: Frozen | None = None  # the stages that stay as they are; `build` sets it

    def features(self, images: Tensor) -> Tensor:
        if self.frozen is None or torch.compiler.is_compiling():  # compilers and exporters fold for themselves
            return self.tap.features(self.backbone, images)
        with self.frozen.folded(self.backbone):
            return self.tap.features(self.backbone, images)

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
        LapmlError: unknown model, wrong weights, no spatial map, one under 6×6, a side that the model does not take or the stride
            does not divide, a stride that is no power of two and no patch, or stages to freeze that are not there.
    """
    key, name = "model.name", config.name
    options: dict[str, Any] = {"output_stride": config.output_stride} if config.output_stride else {}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    backbone, record = create(name, config.weights, seed, (key, "model.weights"), initial, **options)
    resize(backbone, side, key, name)
    if not config.drop_path:  # some models of timm drop paths unless told not to
        for module in backbone.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    if config.truncate:
        tap, channels = cut(backbone, name, config.truncate)
    else:
        tap, channels = last_map(backbone.eval(), side, key, name), backbone.num_features
        backbone.train()
    torch.manual_seed(seed)
    model = Classifier(backbone, tap, channels, classes, config.embedding_dim)
    grid = _grid(model, side, name)
    if min(grid) < GRID:
        raise LapmlError(
            f"model: the map of {config.name} at {side} px has {grid[0]}×{grid[1]} cells, expected at least {GRID}×{GRID}: "
            "enlarge view.side, or set model.truncate or model.output_stride lower"
        )
    if why := uneven(backbone, side, grid[0]):
        raise LapmlError(
            f"view.side: {side} px gives {config.name} a map of {grid[0]}×{grid[1]} cells{why}; expected a multiple of the "
            "model's stride, which is to be a power of two or a transformer's patch"
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
def spare_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm as in training, whose running statistics are afterwards what they were. (Copies stand in for them, as a pass
    that is made again must keep the same tensors for its gradient.)"""
    held = [
        (norm, {name: value for name, value in norm._buffers.items() if value is not None}) for norm in _norms(model)
    ]
    for norm, buffers in held:
        norm._buffers.update({name: value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in held:
            norm._buffers.update(buffers)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Copies of the running means and variances of batch norm in training mode."""
    return [value.clone() for norm in _norms(model) if norm.training for value in (norm.running_mean, norm.running_var)]


@contextmanager
def normalised_alike(model: nn.Module, before: list[Tensor]) -> Iterator[None]:
    """Within, in evaluation mode, batch norm uses the statistics of the model's last pass in training mode, so that an
    image's output is what it would have been in that batch. They follow from what that pass did to the running ones.

    For one pass of as many images as that one had.

    Args:
        before: :func:`running_statistics` before that pass.
    """
    norms = [norm for norm in _norms(model) if norm.training]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    old = iter(before)
    for norm in norms:  # replaced, not written to: backward needs the same tensors
        mean, var = (now.lerp(next(old), 1 - 1 / norm.momentum) for now in (norm.running_mean, norm.running_var))
        norm.running_mean, norm.running_var = mean, var.clamp_min(0)  # rounding may leave less
    hooks = [norm.register_forward_pre_hook(_of_the_batch) for norm in norms]
    model.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (mean, var) in zip(norms, running, strict=True):
            norm.running_mean, norm.running_var = mean, var


def _of_the_batch(norm: nn.Module, given: tuple[Tensor]) -> None:
    """Before a pass: a batch of n values is normalised by (n − 1) / n times the variance that the running one takes in."""
    count = given[0].numel() // given[0].shape[1] * (ranks.size() if isinstance(norm, nn.SyncBatchNorm) else 1)
    norm.running_var = norm.running_var * ((count - 1) / count)


def _norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def cut(backbone: nn.Module, name: str, stride: int) -> tuple[Tap, int]:
    """Cut a backbone of that name after its last stage of a stride; returns (where its map is taken, channels)."""
    stages = backbone.feature_info if isinstance(backbone.feature_info, list) else list(backbone.feature_info)
    taps = [index for index, stage in enumerate(stages) if stage["reduction"] == stride]
    if not taps or not hasattr(backbone, "prune_intermediate_layers"):
        strides = sorted({stage["reduction"] for stage in stages})
        raise LapmlError(f"model.truncate: {name} has no stage of stride {stride}, only {strides}")
    backbone.prune_intermediate_layers([taps[-1]], prune_norm=True, prune_head=True)
    return Tap(taps[-1]), stages[taps[-1]]["num_chs"]


@torch.no_grad()
def _grid(model: Classifier, side: int, name: str) -> tuple[int, int]:
    training = model.training
    model.eval()
    try:
        height, width = model.features(torch.zeros(1, 3, side, side)).shape[2:]
    except (AssertionError, RuntimeError) as error:
        raise LapmlError(f"model.name: {name} does not take {side} px inputs ({words(error)}); set view.side") from None
    model.train(training)
    return height, width


def uneven(backbone: nn.Module, side: int, cells: int) -> str:
    """Why a map's cells may not lie evenly over the input, to be said behind their number; "" if they do.

    A model's stride is a power of two, or a transformer's patch. Where cells are of another size, padding shifts most of them.
    (A few models have another stride, such as ConvMixer's 7: they cannot be told from those, and are refused too.)

    Args:
        side: of the input in pixels.
        cells: per side of the map.
    """
    if side % cells:
        return ", which do not divide the side"
    stride = side // cells
    if stride & (stride - 1) and stride != _patch(backbone):
        return f" of {stride} px, which is no power of two and no transformer's patch"
    return ""


def _patch(backbone: nn.Module) -> int | None:
    """The side in pixels of a transformer's patches; None for other models."""
    size = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    return size[0] if isinstance(size, tuple) else size
