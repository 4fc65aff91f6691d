"""Tars with a manifest: the first member lists all others with their sha256.

A tar that is cut off, even between members, or holds anything but these plain files is refused.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lapml.errors import LapmlError, words
from lapml.files import atomic, sha256

MANIFEST = "kit.json"
BLOCK = tarfile.BLOCKSIZE
EMPTY = tarfile.RECORDSIZE  # bytes of a tar are a multiple of it
LONGEST = 255  # bytes of a file's name, on common disks


def room(size: int, name: str) -> int:
    """Most bytes that a member of ``size`` bytes takes: header, whole blocks, its line in the manifest.

    A name that is long or no plain ASCII takes a second header, and its escapes in the manifest up to 6 bytes for each of its own.
    """
    plain = name.isascii() and name.isprintable() and len(name) <= tarfile.LENGTH_NAME
    return size + 3 * BLOCK + (0 if plain else 2 * BLOCK + 8 * len(name.encode(errors="surrogateescape")))


def write(path: Path, record: dict[str, Any], members: Mapping[str, Path]) -> None:
    """Write ``path`` whole or not at all; the same content gives the same bytes.

    Args:
        record: further keys of the manifest.
        members: file of each name.
    """
    listed = {name: sha256(file) for name, file in members.items()}
    text = json.dumps({**record, "members": listed}, indent=1).encode()
    with atomic(path) as temporary, tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_info(MANIFEST, len(text)), io.BytesIO(text))
        for name, file in members.items():
            with open(file, "rb") as content:
                tar.addfile(_info(name, file.stat().st_size), content)


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def manifest(path: Path) -> dict[str, Any]:
    """Read the manifest.

    Raises:
        LapmlError: no such file, or not a tar of lapml.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            if first is None or first.name != MANIFEST or not first.isreg():
                found = "nothing" if first is None else first.name
                raise LapmlError(f"{path}: its first member is {found}, expected {MANIFEST}: not made by lapml")
            record = json.load(tar.extractfile(first))
        if not isinstance(record["members"], dict):
            raise TypeError("members is no mapping")
    except FileNotFoundError:
        raise LapmlError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise LapmlError(f"{path}: cut off or damaged, or no tar ({words(error)[:120]}); get it again") from None
    return record


def extract(path: Path, folder: Path) -> dict[str, Any]:
    """Write every member but the manifest below ``folder``, and return the manifest. A fault may be
    found after some members are written: give a temporary folder.

    Raises:
        LapmlError: cut off, damaged, or a member that is not a plain file inside ``folder`` or not in the manifest.
    """
    record = manifest(path)
    left: dict[str, str] = dict(record["members"])
    try:
        with tarfile.open(path, "r:") as tar:
            for at, member in enumerate(tar):
                if at == 0:
                    continue
                _refuse_unsafe(path, member)
                if member.name not in left:
                    raise LapmlError(f"{path}: {member.name}: not in its manifest, or twice in the tar; get it again")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file)
                if sha256(target) != left.pop(member.name):
                    raise LapmlError(
                        f"{path}: {member.name}: damaged (checksum differs from the manifest); get it again"
                    )
    except (tarfile.TarError, EOFError) as error:
        raise LapmlError(f"{path}: cut off or damaged ({words(error)[:120]}); get it again") from None
    if left:
        raise LapmlError(f"{path}: cut off: {next(iter(left))} and {len(left) - 1} more are missing; get it again")
    return record


def _refuse_unsafe(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if not member.isreg():
        kind = "a link" if member.issym() or member.islnk() else "a folder" if member.isdir() else "a device"
        raise LapmlError(f"{path}: {member.name}: is {kind}, expected plain files only; nothing of it is used")
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise LapmlError(f"{path}: {member.name}: leads outside of its folder; nothing of it is used")
    if any(len(part.encode(errors="surrogateescape")) > LONGEST for part in name.parts):
        raise LapmlError(f"{path}: {member.name[:80]}…: found a name of over {LONGEST} bytes; nothing of it is used")
