"""The device and precision of a run."""

from contextlib import AbstractContextManager

import torch

from lapml.common import gpus, ranks
from lapml.config import Train
from lapml.errors import LapmlError

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.float32}  # of weights and images


def pick_device(train: Train) -> tuple[torch.device, str]:
    """(device, precision) that ``auto`` means here, made ready: a GPU is taken (gpus.py) and told to repeat its numbers (all but
    the gradients of fused attention, which torch sums in any order), and to compute fp32 in fp32. LapmlError if a GPU is asked
    for and none is there."""
    if train.device == "cuda" and not torch.cuda.is_available():
        raise LapmlError(
            f"train.device: found cuda, but torch sees no GPU here ({gpus.why_none()}); set train.device to auto or cpu"
        )
    name = train.device if train.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    precision = train.precision if train.precision != "auto" else "bf16" if name == "cuda" else "fp32"
    if name == "cuda":
        if not ranks.launched():  # else each process has one already
            gpus.take()
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = (
            precision == "bf16"
        )  # torch's default, by which fp32 convolutions have 10 bits
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(name), precision


def without_gpu(train: Train) -> str | None:
    """Why ``auto``, which asks for a GPU, means the CPU here; None where it does not, or another device is named."""
    return gpus.why_none() if train.device == "auto" and not torch.cuda.is_available() else None


def tf32(device: torch.device) -> bool:
    """Whether any fp32 product of this process is taken in TF32."""
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return device.type == "cuda" and allowed


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 autocast, or nothing for fp32 and fp64."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
