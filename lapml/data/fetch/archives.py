"""Unpack tar and zip archives: nothing outside the folder, and no more than fits.

An archive may come from anywhere, so name, link and size of each member are checked before it is written. Files and
folders do not get the archive's owners, modes and times. Links must lead to places inside.
"""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from lapml.errors import LapmlError, words

LEAST_BOUND, RATIO = 2**30, 20  # an archive may unpack to this many bytes, or this many times its size
MOST_MEMBERS = 3_000_000
HEADERS = 2**20  # bytes of a tar that may stand between two members
PADDING = 2**26  # bytes of a tar that may stand after the last
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # how such a tar starts


class _UnsafeError(Exception):
    """A member that must not be unpacked."""


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file | folder | symlink | hardlink
    size: int = 0
    link: str = ""
    open: Callable[[], IO[bytes]] | None = None  # of a file


class Budget:
    """What may be written below ``folder``, together for all archives of one source.

    Nothing is written beyond the sizes that members declare, and those are counted: tarfile and zipfile stop there.
    """

    def __init__(self, archives: list[Path], folder: Path):
        self.most = max(LEAST_BOUND, RATIO * sum(archive.stat().st_size for archive in archives))
        self.free = shutil.disk_usage(folder).free
        self.bytes = self.members = 0

    def spend(self, what: Path, size: int) -> None:
        self.bytes += size
        self.members += 1
        if self.members > MOST_MEMBERS or self.bytes > self.most:
            raise LapmlError(
                f"{what}: unpacks to more than {self.most / 1e9:.1f} GB ({RATIO} times its size, at least "
                f"{LEAST_BOUND / 1e9:.1f} GB) or {MOST_MEMBERS} members, so it is not an archive of images; if you trust it, "
                "unpack it by hand and set data.NAME.source to the folder"
            )
        if self.bytes > self.free:
            raise LapmlError(
                f"{what}: unpacks to more than the {self.free / 1e9:.2f} GB that the disk has free; free some"
            )


def extract(archive: Path, folder: Path, budget: Budget, advice: str) -> None:
    """Put what is in a tar or zip archive, told by its content, below ``folder``; files that are there are replaced.

    Args:
        advice: what to set instead, for messages.

    Raises:
        LapmlError: the archive is damaged, encrypted, unsafe or too large. What was unpacked until then stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    made = {folder}
    try:
        for member in _members(archive, advice):
            _place(archive, member, folder, made, budget)
    except _UnsafeError as error:
        raise LapmlError(f"{archive}: unsafe member {error}; do not use this archive; {advice}") from None
    except LapmlError:
        raise
    except Exception as error:  # damage raises many types
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LapmlError(f"{archive}: the disk is full; free some space and try again") from None
        raise LapmlError(
            f"{archive}: cannot be unpacked ({words(error)}): cut off or damaged; remove it and get it again, or {advice}"
        ) from None


def _members(archive: Path, advice: str) -> Iterator[_Member]:
    """What is in an archive, by its content: a URL's last part need not end in .tgz."""
    with open(archive, "rb") as file:
        start = file.read(100)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        yield from _zip_members(archive, advice)
        return
    opener: Any = next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), open)
    with opener(archive, "rb") as plain:
        meter = _Meter(plain)
        try:
            tar = tarfile.open(fileobj=meter, mode="r:")
        except tarfile.ReadError:
            page = ": it looks like a web page" if start.lstrip().startswith(b"<") else ""
            raise LapmlError(
                f"{archive}: is neither a tar (.tgz, .tar, .tar.gz, .tar.bz2, .tar.xz) nor a zip archive, or it is cut "
                f"off{page}; remove it and get it again, or {advice}"
            ) from None
        with tar:
            yield from _tar_members(tar, meter)


class _Meter:
    """A tar's bytes, limited to ``left``, since tarfile reads a whole header into memory."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left, self.last = file, HEADERS, b""
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError("found more bytes than a header may have")
        self.left -= size
        self.last = self.file.read(size)
        return self.last


def _tar_members(tar: tarfile.TarFile, meter: _Meter) -> Iterator[_Member]:
    while info := tar.next():
        meter.left = max(0, info.size) + HEADERS
        if info.isreg():
            yield _Member(info.name, "file", info.size, open=partial(tar.extractfile, info))
        elif info.isdir():
            yield _Member(info.name, "folder")
        elif info.issym() or info.islnk():
            yield _Member(info.name, "symlink" if info.issym() else "hardlink", link=info.linkname)
        else:
            raise _UnsafeError(f"{info.name!r} (neither file nor folder nor link)")
        tar.members.clear()  # keeps memory small
        meter.left = HEADERS
    # tarfile stops silently at a tar cut between two members, or at an unreadable header.
    if not meter.last or meter.last.strip(b"\0"):
        raise tarfile.ReadError("its end is missing")
    meter.left = PADDING
    while meter.read(2**16):  # up to the checksum of what is compressed
        pass


def _zip_members(archive: Path, advice: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.flag_bits & 1:
                raise LapmlError(
                    f"{archive}: is protected by a password (member {info.filename!r}); unpack it by hand with the "
                    f"password that its authors gave you, and {advice} to the folder"
                )
            # Of the other ways zipfile decompresses a whole piece into memory, whatever its size.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise LapmlError(
                    f"{archive}: member {info.filename!r} is neither stored nor deflated, as members of a zip archive "
                    f"nearly always are; unpack it by hand, and {advice} to the folder"
                )
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _UnsafeError(f"{info.filename!r} (a link or device)")
            name = info.orig_filename.replace("\\", "/")  # as some Windows programs write
            if name.endswith("/") or kind == stat.S_IFDIR:
                yield _Member(name, "folder")
            else:  # zipfile stops at the size that it declares, whatever is there
                yield _Member(name, "file", info.file_size, open=partial(file.open, info))


# --- one member ---


def _place(archive: Path, member: _Member, folder: Path, made: set[Path], budget: Budget) -> None:
    path = folder.joinpath(*(parts := _inside(member.name)))
    if member.kind == "folder":
        budget.spend(archive, 0)
        _make(path, made, member)
        return
    if not parts:
        raise _UnsafeError(f"{member.name!r} (no name)")
    _make(path.parent, made, member)
    path.unlink(missing_ok=True)  # the later of two wins, and is not written through a link
    if member.kind == "symlink":
        budget.spend(archive, 0)
        os.symlink(_link(member, len(parts) - 1), path)
        return
    size, source = member.size, None
    if member.kind == "hardlink":
        other = folder.joinpath(*_inside(member.link))
        if other.resolve() != other or not other.is_file():
            raise _UnsafeError(f"{member.name!r} (a link to {member.link!r}, expected a file before it)")
        size, source = other.stat().st_size, partial(open, other, "rb")
    budget.spend(archive, size)
    with (source or member.open)() as content, open(path, "xb") as written:
        shutil.copyfileobj(content, written, 2**16)
        if written.tell() != size:
            raise tarfile.ReadError(f"member {member.name!r} has {written.tell()} bytes, and declares {size}")


def _inside(name: str) -> tuple[str, ...]:
    """The parts of a name; it must stay in the folder, on any system."""
    path = PureWindowsPath(name)  # knows both separators, drives, and any path from the top
    if path.anchor or ".." in path.parts:
        raise _UnsafeError(f"{name!r} (a path that leaves the folder)")
    return PurePosixPath(name).parts


def _link(member: _Member, depth: int) -> str:
    """Where a symbolic link leads: up at first, if at all, so that other links on the way cannot lead it out."""
    link = PureWindowsPath(member.link)  # knows both separators, drives, and any path from the top
    up = next((at for at, part in enumerate(link.parts) if part != ".."), len(link.parts))
    if link.anchor or up > depth or ".." in link.parts[up:]:
        raise _UnsafeError(f"{member.name!r} (a link to {member.link!r}, which may leave the folder)")
    return member.link


def _make(path: Path, made: set[Path], member: _Member) -> None:
    """A folder and those above it; none of them may be a link."""
    if path not in made:
        _make(path.parent, made, member)
        if path.is_symlink():
            raise _UnsafeError(f"{member.name!r} (it lies behind a link)")
        path.mkdir(exist_ok=True)
        made.add(path)
