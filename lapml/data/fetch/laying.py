"""Lay a data set out: generate it, find it in a folder, unpack archives, or download one.

Where a folder holds archives, or an archive does, they are unpacked only as long as the reader cannot read the data
set without them. So archives beside a complete data set are ignored.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from lapml import config
from lapml.data.fetch import archives, shown
from lapml.data.readers import Reader, layouts, read, reader
from lapml.data.readers import folder as own
from lapml.errors import LapmlError
from lapml.files import locked, scratch, sha256
from lapml.paths import Paths

MARKER = ".unpacked.json"  # in a folder that we unpacked: from what
SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")  # of archives in a folder
DEPTH = 2  # how many folders down a root, or an archive, is looked for
MOST_FILES = 10_000  # beside the archives in a folder: they are copied
LARGEST_FILE = 64 * 2**20  # bytes of one of them
Lacks = Callable[[Path], str]


def lay_out(
    name: str, source: str | list[str], data: config.Data, paths: Paths, advice: str
) -> tuple[str, str | list[str], Path]:
    """Make what lies at ``source`` available: its kind (drawn, folder, archive or url), the source as used (of several URLs
    the one), and the folder that the reader knows.

    Args:
        source: as ``data.source``, or what the environment variable has in its place.
        advice: what to set instead, for messages.

    Raises:
        LapmlError: the source is missing, broken, unsafe to unpack or cannot be downloaded, or holds no data set.
    """
    how, target = reader(data.reader), paths.raw(name)
    lacks = partial(_lacks, how, data, advice)
    if source == "synthetic":
        kind, folder = "drawn", _generated(name, data, paths)
    elif source == "official" or isinstance(source, list) or "://" in source:
        file, source = _downloaded(name, source, how, paths.raw("downloads"), advice)
        kind, folder = "url", _unpacked(file, target, lacks, advice)
    else:
        path = located(source, paths)
        if not path.exists():
            raise LapmlError(f"{path}: no such folder or archive (the source of {name}); {advice}")
        kind = "folder" if path.is_dir() else "archive"
        whole = path.is_dir() and (not archives_in(path) or len(_roots(path, how)) > 1 or not lacks(path))
        folder = path if whole else _unpacked(path, target, lacks, advice)
    return kind, source, root_in(folder, how, advice).resolve()


def located(source: str, paths: Paths) -> Path:
    """Where a folder or an archive lies that ``source`` names. Relative paths start at ``paths.root``; in the temporary
    workspace of an experiment of DVC, where what is neither git's nor DVC's is lacking, also at the project's own folder."""
    path = paths.root / os.path.expanduser(source)  # pathlib's raises where there is no such user
    return path if path.exists() else paths.home / os.path.expanduser(source)


def _downloaded(name: str, source: str | list[str], how: Reader, folder: Path, advice: str) -> tuple[Path, str]:
    """An archive, and the URL it is from."""
    from lapml.data.fetch.download import download  # slow to import

    known = how.DOWNLOAD
    if source == "official" and not known.urls:
        raise LapmlError(f"data set {name}: {how.TITLE} cannot be downloaded: {known.by_hand}; then {advice} to it")
    urls = list(known.urls) if source == "official" else [source] if isinstance(source, str) else source
    checksum = known.checksum if set(urls) & set(known.urls) else None  # mirrors hold the same file
    by_hand = known.by_hand if source == "official" else "download it by hand"
    with _alone(folder):
        file, url = download(urls, checksum, folder, advice, by_hand)
    return file, shown(url)


def _generated(name: str, data: config.Data, paths: Paths) -> Path:
    if data.synthetic is None:
        raise LapmlError(f"data.{name}.synthetic: found null, expected its settings, as source is 'synthetic'")
    from lapml.data.synthetic.birds import VERSION
    from lapml.data.synthetic.layouts import draw

    layout = [] if data.reader == "cub200" else [data.reader]  # the first layout has no suffix
    root = paths.raw(f"drawn-{config.digest([VERSION, data.synthetic.model_dump(), *layout])}")
    if not root.exists():
        with _alone(root):
            if not root.exists():
                draw(root, data.synthetic, data.reader)
    return root


def _alone(target: Path) -> AbstractContextManager[None]:
    """One process at a time makes ``target``; the others wait, and then find it made."""
    say = partial(print, f"{target}: waiting for another process to make it", file=sys.stderr)
    return locked(target.with_name(f".{target.name}.lock"), say)


# --- roots ---


def root_in(folder: Path, how: Reader, advice: str) -> Path:
    """The one folder that the reader knows: ``folder``, or one below it (archives have a folder of their own)."""
    found = _roots(folder, how)
    if how is own and (not found or layouts.by_class(layouts.top_of(folder))):
        raise LapmlError(layouts.explained(folder, advice))
    if len(found) == 1:
        return found[0]
    if found:
        raise LapmlError(
            f"{folder}: holds {how.TITLE} {len(found)} times: {', '.join(map(str, found))}; {advice} to one of them"
        )
    there = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    what = ", ".join(there[:8]) + (", …" if len(there) > 8 else "") or "nothing"
    raise LapmlError(
        f"{folder}: expected the layout of {how.TITLE} in it or at most {DEPTH} folders down, found none; at its top is {what}; "
        f"{advice} to the folder that holds it"
    )


def _roots(folder: Path, how: Reader) -> list[Path]:
    roots = {}
    for at, folders, _ in os.walk(folder, followlinks=True):
        here = Path(at)
        if known := how.is_root(here):
            roots.setdefault(here.resolve(), here)  # a link may lead to the same one
        down = not known and len(here.relative_to(folder).parts) < DEPTH
        folders[:] = sorted(name for name in folders if down and not name.startswith("."))
    return sorted(roots.values())


def _lacks(how: Reader, data: config.Data, advice: str, folder: Path) -> str:
    """What a folder lacks to be the data set, by its reader; "" if nothing."""
    try:
        read(root_in(folder, how, advice), data)
    except LapmlError as error:
        return str(error)
    return ""


# --- archives ---


def archives_in(folder: Path) -> list[Path]:
    """The archives in a folder and a few levels below."""
    return _files(folder, DEPTH, SUFFIXES)


def _files(folder: Path, depth: int | None = None, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """All files but hidden ones, sorted, with at most ``depth`` folders above them; links to folders are not followed."""
    files = []
    for at, folders, names in os.walk(folder):
        down = depth is None or len(Path(at).relative_to(folder).parts) < depth
        folders[:] = [name for name in folders if down and not name.startswith(".")]
        files += [Path(at, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def _unpacked(source: Path, target: Path, lacks: Lacks, advice: str) -> Path:
    """``target``, holding what is in ``source``; left as it is if it was unpacked from the same bytes before.

    ``source`` is an archive; or a folder that holds some, which are unpacked to the places they lie in, with a copy of
    the other files beside them (not of hidden ones and of those above :data:`LARGEST_FILE`). Archives that were in an
    archive are removed when they are unpacked.
    """
    packed, others = ([source], []) if source.is_file() else _pieces(source, target, lacks, advice)
    for archive in packed:
        if archive.stat().st_size == 0:
            raise LapmlError(
                f"{archive}: is empty (0 bytes), expected an archive; remove it and get it again, or {advice}"
            )
    marker = _marker(source, packed, others)
    if _is_from(target, marker):
        return target
    with _alone(target):
        if _is_from(target, marker):
            return target
        if target.exists() and not (target / MARKER).is_file():
            raise LapmlError(
                f"{target}: is in the way and was not unpacked by lapml; move it away to have {source} unpacked "
                f"there, or, if it is the data set, {advice} to it"
            )
        with scratch(target.with_name(f".{target.name}.partial")) as folder:
            _unpack(source, packed, others, folder / "new", lacks, advice)
            (folder / "new" / MARKER).write_text(marker, encoding="utf-8")
            if target.exists():
                os.replace(target, folder / "old")
            os.replace(folder / "new", target)  # so target is whole or not there
    return target


def _is_from(target: Path, marker: str) -> bool:
    return (target / MARKER).is_file() and (target / MARKER).read_text(encoding="utf-8") == marker


def _unpack(source: Path, packed: list[Path], others: list[Path], new: Path, lacks: Lacks, advice: str) -> None:
    new.mkdir(parents=True)
    for file in others:
        (new / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, new / file.relative_to(source))
    budget = archives.Budget(packed, new)
    for archive in packed:
        if archive == source:
            archives.extract(archive, new, budget, advice)
        elif lacks(new):
            archives.extract(archive, new / archive.relative_to(source).parent, budget, advice)
    for archive in archives_in(new):
        if lacks(new):
            archives.extract(archive, archive.parent, budget, advice)
            archive.unlink()


def _pieces(source: Path, target: Path, lacks: Lacks, advice: str) -> tuple[list[Path], list[Path]]:
    """The archives in a folder, and the other files to copy."""
    if target.resolve().is_relative_to(source.resolve()):
        raise LapmlError(
            f"{source}: holds archives that would be unpacked to {target}, in the same folder; move them to a folder of "
            f"their own, and {advice} to it"
        )
    packed = archives_in(source)
    others = [file for file in sorted(set(_files(source)) - set(packed)) if file.stat().st_size <= LARGEST_FILE]
    if len(others) > MOST_FILES:
        raise LapmlError(
            f"{source}: is not whole ({lacks(source)}) and holds archives, but also {len(others)} other files, expected at "
            f"most {MOST_FILES} to copy; unpack the archives there by hand, or {advice}"
        )
    return packed, others


def _marker(source: Path, packed: list[Path], others: list[Path]) -> str:
    if packed == [source]:
        return json.dumps({"sha256": sha256(source)}) + "\n"
    seen = [(str(file.relative_to(source)), file.stat().st_size, file.stat().st_mtime_ns) for file in others]
    sums = {archive.relative_to(source).as_posix(): sha256(archive) for archive in packed}
    return json.dumps({"sha256": sums, "others": config.digest(seen)}) + "\n"
