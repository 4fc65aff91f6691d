"""What made a result: code, versions and device."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lapml import __version__
from lapml.errors import LapmlError
from lapml.files import json_object, write_json

HERE = Path(__file__).resolve().parents[1]  # the package
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "pillow", "optuna")  # that numbers depend on
COMMIT = "COMMIT"  # in the package where the code was packed without its repository, see write_commit
NO_PART_OF_A_RUN = {"analysis", "report", "apply", "cli"}  # rooms that only read what is finished


def code_sha256() -> str:
    """Checksum of the package's source files: an interrupted run continues only with the same code."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*.py")):
        parts = path.relative_to(HERE).parts
        hidden = any(part.startswith(".") for part in parts)  # what editors and notebooks leave
        if parts[0] not in NO_PART_OF_A_RUN and not hidden:
            digest.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def command() -> str:
    """The command line."""
    file = Path(sys.argv[0])
    return " ".join([f"python -m {file.parent.name}" if file.name == "__main__.py" else file.name, *sys.argv[1:]])


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and :data:`PACKAGES` (None: not installed); on a GPU also of its driver, CUDA and cuDNN."""
    found = {"python": platform.python_version(), "lapml": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    torch = sys.modules.get("torch")  # not imported here: packing needs no torch
    if torch is not None and torch.cuda.is_initialized():
        cudnn = torch.backends.cudnn.version()
        found |= {"driver": _driver(), "cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}
    return found


def _driver() -> str | None:
    """Version of NVIDIA's driver, by the kernel or by nvidia-smi."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:  # as in some containers
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            text = subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found.group() if found else None


def commit() -> tuple[str | None, bool | None]:
    """(commit, whether any file of the package differs from it) of the project; outside git, by :func:`write_commit`;
    Nones if there is neither.

    Call it at the start of the work, before later commits.

    Raises:
        LapmlError: the file of ``write_commit`` cannot be read.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", ".")  # a repository around the code may be another project's
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return _left_commit(HERE / COMMIT)


def write_commit(folder: Path) -> Path:
    """Write the commit into a copy of this checkout without its repository, for :func:`commit` there.

    Args:
        folder: of the copy; its package lies in ``folder/lapml``.

    Returns:
        The file, ``folder/lapml/COMMIT``: JSON with commit, dirty and code_sha256, by which later edits of the copy show.
    """
    revision, dirty = commit()
    path = Path(folder) / HERE.name / COMMIT
    write_json(path, {"commit": revision, "dirty": dirty, "code_sha256": code_sha256()})
    return path


def _left_commit(path: Path) -> tuple[str | None, bool | None]:
    if not path.exists():
        return None, None
    record = json_object(path)
    revision, dirty = record.get("commit", ""), record.get("dirty")
    named = isinstance(revision, str) and re.fullmatch("[0-9a-f]{40,64}", revision) and isinstance(dirty, bool)
    if "code_sha256" not in record or not (named or revision is dirty is None):
        text = path.read_bytes().decode("utf-8", "replace")
        raise LapmlError(
            f"{path}: found {text[:100]!r}, expected JSON with a commit, dirty (true or false) and code_sha256; pack the code "
            "again, or delete the file: runs then say that their commit is unknown"
        )
    return revision, (dirty or record["code_sha256"] != code_sha256()) if named else None


def device_name(device: Any = None) -> str:
    """Name of a GPU, or of the CPU with its number of cores."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU: {model}, {os.cpu_count()} cores"
