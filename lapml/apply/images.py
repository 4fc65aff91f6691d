"""Image files as evaluation reads a data set: as small packs in memory, with the same code."""

import os
from collections.abc import Iterator
from functools import partial
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from lapml.common.text import line
from lapml.config import Run
from lapml.data.decode import in_order, square
from lapml.data.index import COLUMNS
from lapml.data.pack import Packed
from lapml.data.readers import reader
from lapml.data.readers.layouts import SUFFIXES, clutter, suffix
from lapml.errors import LapmlError
from lapml.paths import CORRUPTIONS, EMBEDDINGS, READS, RUN_FILES, TRANSFERS

BATCH = 64  # images in memory at once
OWN = (*RUN_FILES, READS, TRANSFERS, CORRUPTIONS, EMBEDDINGS)  # files of a finished run


Failed = list[tuple[Path, str]]  # files that could not be read, and why


def listed(named: list[Path], failed: Failed | None = None, without: Path | None = None) -> list[Path]:
    """The image files that files, folders and patterns name, in that order; those of a folder or a pattern are sorted.

    A folder is searched with all folders below it, but for hidden ones and links to folders, for files with one of
    :data:`~lapml.data.readers.layouts.SUFFIXES`. A name such as ``photos/**/*.jpg`` is a pattern where there is no such
    file. The same file named twice is taken once.

    Args:
        failed: folders and patterns without images, and links to folders that are not searched, are added to it, with the
            reason; None: the first one is an error.
        without: a folder below others that is not searched.

    Raises:
        LapmlError: a folder or a pattern has no images, a folder cannot be searched, or one below it is a link to what is not
            searched, and ``failed`` is None.
    """
    files: dict[str, Path] = {}
    searched: set[str] = set()  # the true paths of folders
    links: dict[str, Path] = {}  # to folders, by the true paths of those
    for name in named:
        matches = [name]
        if has_magic(str(name)) and not os.path.lexists(name):
            matches = sorted(map(Path, glob(os.path.expanduser(name), recursive=True)))
            if not matches:
                _fail(failed, name, f"{shown(name)}: no such file, and as a pattern it matches none; check the path")
        for match in matches:
            below = _below(match, failed, without, searched, links) if os.path.isdir(match) else [match]
            for file in below:
                files.setdefault(os.path.realpath(file), file)
    for there, link in links.items():
        if there not in searched:
            _fail(
                failed,
                link,
                f"{shown(link)}: is a link to a folder, which is not followed; name it too, or move it away",
            )
    return list(files.values())


def _below(
    folder: Path, failed: Failed | None, without: Path | None, searched: set[str], links: dict[str, Path]
) -> list[Path]:
    """The image files in a folder and below it; adds to the folders ``searched``, and to the ``links`` to folders."""
    found, errors, linked = [], [], []
    for where, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [each for each in folders if not clutter(each)]
        if without is not None:
            folders[:] = [each for each in folders if Path(where, each).resolve() != without.resolve()]
        searched.add(os.path.realpath(where))
        linked += [link for each in folders if (link := Path(where, each)).is_symlink()]
        found += [Path(where, each) for each in names if suffix(each) in SUFFIXES and not clutter(each)]
    for error in errors:
        _fail(
            failed, folder, f"{shown(Path(error.filename))}: cannot be searched ({error.strerror}); see its permissions"
        )
    for link in linked:
        links.setdefault(os.path.realpath(link), link)
    if not found and not errors and not linked:
        _fail(failed, folder, f"{shown(folder)}: a folder without images, expected files in {' '.join(SUFFIXES)}")
    return sorted(found)


def _fail(failed: Failed | None, file: Path, why: str) -> None:
    if failed is None:
        raise LapmlError(why)
    failed.append((file, why))


def packs(
    files: list[Path], config: Run, class_names: list[str], banner: int | None = None, failed: Failed | None = None
) -> Iterator[Packed]:
    """The files in order, :data:`BATCH` at a time, each pack wholly of the split that ``config`` evaluates.

    Args:
        class_names: of the run; the labels of these packs mean nothing.
        banner: rows of pixels to cut off the bottom of every image; None: as many as packing cuts off the run's data set's.
        failed: files that are not images are added to it, and left out; None: the first one is an error.

    Yields:
        A pack whose meta has ``places``, those of its images in ``files``; its index has no paths, whose bytes may be no text.

    Raises:
        LapmlError: a file is no image, and ``failed`` is None.
    """
    side = config.data.stored_side
    banner = reader(config.data.reader).BANNER if banner is None else banner
    squares = in_order(partial(_square, side=side, banner=banner), files)
    for at in range(0, len(files), BATCH):
        rows, images, places = [], [], []
        for place, found in enumerate(islice(squares, BATCH), start=at):
            if isinstance(found, LapmlError):
                _fail(failed, files[place], str(found))
                continue
            pixels, (width, height, _) = found
            rows.append(("", 0, "", config.evaluate, width, height, None, None))
            images.append(np.frombuffer(pixels, np.uint8).reshape(side, side, 3))
            places.append(place)
        if rows:
            yield Packed(pd.DataFrame(rows, columns=list(COLUMNS)), np.stack(images), {"places": places}, class_names)


def _square(file: Path, side: int, banner: int) -> tuple[bytes, tuple[int, int, int]] | LapmlError:
    try:
        if not os.path.exists(file):
            raise LapmlError(f"{shown(file)}: no such file; check the path, or quote it if it has spaces")
        return square(file, side, banner)
    except LapmlError as error:
        return error


def refuse_output(file: Path, run: Path) -> None:
    """LapmlError where a file is not to be written: a folder or a device, one of the run's own, or named as an image."""
    if file.is_dir():
        raise LapmlError(f"{shown(file)}: is a folder, expected a file to write; name another")
    if file.exists() and not file.is_file():
        raise LapmlError(f"{shown(file)}: is no plain file, expected one to be written whole; name another")
    if file.name in OWN and file.resolve().parent == run.resolve():
        raise LapmlError(f"{shown(file)}: is one of the run's own files, expected a new one; name another")
    if suffix(file.name) in SUFFIXES:
        raise LapmlError(f"{shown(file)}: has the name of an image, expected a file to write; name another")


def shown(path: Path) -> str:
    """A path that any terminal and any figure can print."""
    return line(str(path))
