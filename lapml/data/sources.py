"""Make a data set available: draw it, find it in a folder, unpack an archive, or download one."""

import json
import os
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lapml import config
from lapml.data import cub200
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import Paths

CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CHECKSUMS = {CUB_URL: "md5:97eceeb196236b17998738112f37df78"}
MARKER = ".unpacked.json"  # in a folder that we unpacked: from which archive


def fetch(name: str, data: config.Data, paths: Paths) -> None:
    """Make the data set available and write ``paths.source(name)`` (source.json).

    ``data.source`` is "drawn", a folder (used in place), an archive (.tgz, .tar.gz, .tar, .zip; unpacked to
    ``data/NAME``) or an http(s) URL of one (kept in ``data/downloads``). The environment variable
    ``LAPML_<NAME>`` (upper-case, ``-`` as ``_``) overrides it. Relative paths start at ``paths.root``.

    source.json holds ``root`` (the folder with images.txt, relative to ``paths.root`` if inside it), ``kind``
    (drawn, folder, archive or url), ``source`` (as given), ``images`` (how many) and ``annotations_sha256``.

    Raises:
        LapmlError: the source is missing, broken, unsafe to unpack or cannot be downloaded, or holds no data set.
    """
    variable = "LAPML_" + name.upper().replace("-", "_")
    source = data.source if data.source == "drawn" else os.environ.get(variable) or data.source
    mend = f"set data.{name}.source or the environment variable {variable}"
    try:
        kind, folder = _folder(name, source, data, paths, mend)
        root = _root(folder, mend).resolve()
        images, annotations = cub200.fingerprint(root)
        inside = root.is_relative_to(paths.root.resolve())
        record = {
            "root": (root.relative_to(paths.root.resolve()) if inside else root).as_posix(),
            "kind": kind,
            "source": source,
            "images": images,
            "annotations_sha256": annotations,
        }
        _write(paths.source(name), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise LapmlError(f"data set {name}: {error}; mend permissions, free some disk space, or {mend}") from None


def laid_out(name: str, paths: Paths) -> tuple[dict[str, Any], Path]:
    """The record in source.json, and the folder that holds images.txt.

    Raises:
        LapmlError: source.json is missing or broken, or the folder is gone.
    """
    file = paths.source(name)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        root, _ = paths.root / record["root"], record["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise LapmlError(f"{file}: missing or not written by this program; run `lapml data fetch {name}`") from None
    if not root.is_dir():
        raise LapmlError(f"{root}: no such folder, though {file} names it; run `lapml data fetch {name}` again")
    return record, root


def _root(folder: Path, mend: str) -> Path:
    """The folder that holds images.txt: ``folder`` or one of those in it (the official archive has CUB_200_2011/)."""
    if (folder / "images.txt").is_file():
        return folder
    found = sorted(file.parent for file in folder.glob("*/images.txt"))
    if len(found) != 1:
        what = ", ".join(str(root) for root in found) or "none"
        raise LapmlError(f"{folder}: expected images.txt in it or in one folder of it, found {what}; {mend}")
    return found[0]


def _folder(name: str, source: str, data: config.Data, paths: Paths, mend: str) -> tuple[str, Path]:
    """The kind of source, and a folder with what is in it."""
    if source == "drawn":
        return "drawn", _drawn(name, data, paths)
    if "://" in source:
        return "url", _unpacked(_download(source, paths.raw("downloads"), mend), paths.raw(name), mend)
    path = paths.root / Path(source).expanduser()
    if not path.exists():
        raise LapmlError(f"{path}: no such folder or archive (the source of {name}); {mend}")
    return ("folder", path) if path.is_dir() else ("archive", _unpacked(path, paths.raw(name), mend))


def _drawn(name: str, data: config.Data, paths: Paths) -> Path:
    if data.drawn is None:
        raise LapmlError(f"data.{name}.drawn: found null, expected the settings of the drawing, as source is 'drawn'")
    from lapml.data.synthetic import VERSION, draw

    root = paths.raw(f"drawn-{config.digest([VERSION, data.drawn.model_dump()])}")
    if not root.exists():
        draw(root, data.drawn)
    return root


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


# --- archives ---


def _unpacked(archive: Path, target: Path, mend: str) -> Path:
    """``target``, holding what is in ``archive``; left as it is if it was unpacked from the same bytes before."""
    if archive.stat().st_size == 0:
        raise LapmlError(f"{archive}: is empty (0 bytes), expected an archive; remove it and get it again, or {mend}")
    marker = json.dumps({"sha256": sha256(archive)}) + "\n"
    if (target / MARKER).is_file() and (target / MARKER).read_text(encoding="utf-8") == marker:
        return target
    if target.exists() and not (target / MARKER).is_file():
        raise LapmlError(
            f"{target}: is in the way and was not unpacked by this program; move it away to have {archive} unpacked "
            f"there, or, if it is the data set, {mend} to it"
        )

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        _extract(archive, new, mend)
        (new / MARKER).write_text(marker, encoding="utf-8")
        if target.exists():
            os.replace(target, Path(temporary) / "old")
        os.replace(new, target)  # so target is whole or not there
    return target


def _extract(archive: Path, folder: Path, mend: str) -> None:
    # The content decides, not the name: a URL's last part need not end in .tgz.
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    _refuse_unsafe(archive, member)
                file.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")  # refuses absolute paths, '..', devices and links out
        else:
            raise LapmlError(
                f"{archive}: is neither a tar (.tgz, .tar.gz, .tar) nor a zip archive, or it is cut off; "
                f"remove it and get it again, or {mend}"
            )
    except tarfile.FilterError as error:
        raise LapmlError(f"{archive}: unsafe member ({error}); do not use this archive; {mend}") from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise LapmlError(
            f"{archive}: cannot be unpacked ({' '.join(str(error).split())}): cut off, damaged or encrypted, "
            f"or the disk is full; remove it and get it again, or {mend}"
        ) from None


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    windows = PureWindowsPath(name)  # knows both separators, and drives
    outside = PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise LapmlError(
            f"{archive}: unsafe member {name!r} (a link, or a path that leaves the folder); do not use this archive"
        )


# --- downloads ---


def _download(url: str, folder: Path, mend: str) -> Path:
    """The file behind ``url``, in ``folder``; not fetched again if it is there."""
    if not url.startswith(("http://", "https://")):
        raise LapmlError(f"source: found {url!r}, expected drawn, a folder, an archive or an http(s) URL; {mend}")
    import pooch
    import requests

    checksum = CHECKSUMS.get(url.partition("?")[0])
    by_hand = f"download it by hand and {mend} to the file, or try again"
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(url, checksum, path=folder, progressbar=sys.stderr.isatty()))
    except (requests.RequestException, OSError) as error:
        raise LapmlError(f"{url}: cannot be downloaded ({' '.join(str(error).split())}); {by_hand}") from None
    except ValueError as error:  # pooch: the checksum is wrong
        raise LapmlError(f"{url}: {' '.join(str(error).split())}; {by_hand}") from None
