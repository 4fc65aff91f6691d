"""What made a result: code, versions and device."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def code_sha256() -> str:
    """Checksum of the package's source files: an interrupted run goes on only with the code that began it."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*.py")):
        if not {"report", "bench", "commands", "diagnose", "apply"} & set(
            path.relative_to(HERE).parts
        ):  # these do not change what a run is
            digest.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def command() -> str:
    """As it was given."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    names = ("lapml", "torch", "timm", "numpy", "pandas", "pillow", "optuna")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> tuple[str | None, bool | None]:
    """(commit, whether any file of the package differs from it) of the project, or Nones outside git.

    Call it when work begins: a commit that is made meanwhile did not do the work.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def device_name(device: Any = None) -> str:
    """Of the GPU that a torch.device is, or of the CPU with its number of cores."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU: {model}, {os.cpu_count()} cores"
