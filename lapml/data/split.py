"""Lay a folder of images, CLASS/*.jpg, out as train/CLASS and test/CLASS in a new folder, by links.

Images that show the same stay on one side: equal files, near-duplicates (:mod:`lapml.data.similar`), and series that their
names tell. The order in which groups are drawn depends on their files' names and the seed alone.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from lapml.common.text import line
from lapml.data import similar
from lapml.data.decode import decode, in_order
from lapml.data.inspect import counts
from lapml.data.readers import layouts, listing
from lapml.errors import LapmlError
from lapml.files import linked_or_copied, scratch, sha256

TRAINED = 2  # images of a class that stay to train on: one of them validates
SHOWN = 5  # examples


def split(
    folder: Path,
    target: Path | None = None,
    test: float = 0.2,
    seed: int = 0,
    group_by: str | None = None,
    exact: bool = False,
    labels: str | None = None,
    progress: bool = False,
) -> str:
    """Lay the images of ``folder`` out in ``target``; nothing in ``folder`` is changed.

    Where ``folder`` holds CLASS/train and CLASS/test, these are kept as they are, and nothing is drawn.

    Args:
        folder: holds a folder for each class.
        target: a new folder; None: ``folder`` with ``-split`` at its end.
        test: share of each class's images to test.
        seed: of the draw.
        group_by: a regular expression, searched in the path below the class's folder: images with the same first group
            stay on one side.
        exact: keep only equal files together, no near-duplicates.
        labels: which folders are classes: "nested": each that holds images; "top": each of ``folder``, whatever lies below;
            None: these too, unless one holds nothing but several folders of images.

    Returns:
        What was done, in lines of text: counts of each split, what was kept together, classes without test images.

    Raises:
        LapmlError: the folder has another layout, or too few images to test two classes; ``labels`` must say which folders
            are classes; two images of a class have one name in a split; ``target`` is there, or within ``folder``; or
            ``group_by`` is no regular expression with a group, or matches nothing.
    """
    if not folder.is_dir():
        raise LapmlError(f"{folder}: no such folder, expected one that holds a folder of images for each class")
    if not 0 < test < 1:
        raise LapmlError(f"--test: found {test:g}, expected a share between 0 and 1, such as 0.2")
    if labels not in (None, "nested", "top"):
        raise LapmlError(f"--labels: found {labels!r}, expected nested or top")
    top = layouts.top_of(folder)
    named = folder if folder.name not in ("", "..") else folder.resolve()
    target = target or named.with_name(f"{named.name}-split")
    if target.exists() or target.is_symlink():
        raise LapmlError(f"{target}: is there already; remove it, or name another new folder with --to")
    if target.resolve().is_relative_to(folder.resolve()):
        raise LapmlError(f"{target}: lies in {folder}, in which nothing is changed; name a folder outside it with --to")
    if layouts.by_class(top):
        index, lines = _as_split(top)
    else:
        index, lines = _drawn(top, test, seed, group_by, exact, labels, progress)
    how = _lay(index, top, target)
    return "\n".join([f"{target}: {len(index)} images of {top}, by {how}", counts(index), *lines])


def _as_split(top: Path) -> tuple[pd.DataFrame, list[str]]:
    """The index of CLASS/train, CLASS/test (and CLASS/val), and what there is to say about it."""
    rows, others, beside = [], [], []
    for name in layouts.folders_in(top):
        named: set[str] = set()
        for split_name, folders in layouts.split_folders(top / name).items():
            named.update(folders)
            for each in folders:
                prefix = f"{name}/{each}/"
                found = listing.images_in(str(top / prefix), prefix, top)
                rows += [(path, name, split_name, path.removeprefix(prefix)) for path in found.images]
                others += found.others
        rest = sorted(set(os.listdir(top / name)) - named)
        beside += [f"{name}/{each}" for each in rest if not layouts.clutter(each)]
    return _index(rows), [
        "as CLASS/train and CLASS/test were: nothing is drawn",
        *_named("files left out, no images", others),
        *_named("files and folders left out, beside those of the splits", beside),
    ]


def _drawn(
    top: Path, test: float, seed: int, group_by: str | None, exact: bool, labels: str | None, progress: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The index of a draw, and what there is to say about it."""
    listing.refuse_split(top)
    found = listing.classes_in(top)
    class_of = listing.class_of(found, labels, top)
    if not class_of:
        raise LapmlError(layouts.explained(top))
    listed = list(class_of)
    below = {path: path.removeprefix(f"{name}/") for path, name in class_of.items()}
    series_of = dict(zip(listed, _series(list(below.values()), group_by), strict=True))
    looks = in_order(_look, [top / path for path in listed])
    looks = tqdm(looks, "split", len(listed), unit="img", disable=not progress)
    seen = dict(zip(listed, looks, strict=True))
    paths = sorted(path for path, each in seen.items() if each)
    if not paths:
        raise LapmlError(
            f"{top}: found {len(listed)} images of which none can be read, such as {line(listed[0])}; get them again"
        )
    classes, within = [class_of[path] for path in paths], [below[path] for path in paths]
    files, thumbnails = zip(*(each for path in paths if (each := seen[path])), strict=True)
    series = [series_of[path] for path in paths]
    links = [copies := _same(files), _same(series)]
    if not exact:
        first = np.unique(copies[:, 0])  # of each file: its copies are linked to it, and not compared
        links.append(first[similar.near(np.stack(thumbnails)[first])])
    pairs = np.concatenate(links)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(paths), len(paths)))
    groups = connected_components(graph, directed=False)[1]  # (n,): equal numbers for images that are linked
    tested = assigned(paths, classes, groups, test, seed)
    untested = sorted(set(classes) - {name for name, each in zip(classes, tested, strict=True) if each})
    if len(set(classes)) - len(untested) < 2:
        raise LapmlError(
            f"{top}: {len(untested)} of {len(set(classes))} classes cannot be split ({', '.join(map(repr, untested[:SHOWN]))}), "
            f"expected at least two that can: of {TRAINED + 1} images or more, not all kept together (--group-by, --exact)"
        )
    sizes = Counter(classes)
    lines = [
        *_named(
            f"classes by --labels {labels} (let data.NAME.labels say so too)", sorted(set(classes)) if labels else []
        ),
        *_named("files left out, no images", [path for each in found.values() for path in each.others]),
        *_named("files left out, unreadable", [path for path, each in seen.items() if not each]),
        *_together(paths, groups),
        *_named(
            f"classes that cannot be split (under {TRAINED + 1} images, or kept together), all in train",
            [f"{name} ({sizes[name]})" for name in untested],
        ),
    ]
    if untested:
        lines.append("    (data.NAME.min_images leaves them out)")
    if group_by:
        lines.append(f"series by --group-by: {len(set(series) - {None})}; images of no series: {series.count(None)}")
    splits = ["test" if each else "train" for each in tested]
    return _index(zip(paths, classes, splits, within, strict=True)), lines


def _index(rows: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Columns path (below the folder), label (the class's name), split, and within (path below the class's folder)."""
    return pd.DataFrame(rows, columns=["path", "label", "split", "within"])


# --- what stays together ---


def _series(within: Sequence[str], group_by: str | None) -> list[str | None]:
    """What ``group_by`` finds in each path below a class's folder."""
    if group_by is None:
        return [None] * len(within)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise LapmlError(f"--group-by: {group_by!r} is no regular expression ({error})") from None
    if not pattern.groups:
        raise LapmlError(
            f"--group-by: found no group in {group_by!r}, expected parentheses around what a series shares, such as '^(.+)_'"
        )
    series = [match[1] if (match := pattern.search(path)) else None for path in within]
    if not any(series):
        raise LapmlError(f"--group-by: {group_by!r} matches no file name, such as {within[0]!r}; correct it")
    return series


def _look(file: Path) -> tuple[str, np.ndarray] | None:
    """The sha256 of a file's bytes, and its thumbnail; None if it cannot be read."""
    try:
        decoded = decode(file, side=similar.SIDE)
    except LapmlError:
        return None
    return sha256(file), similar.thumbnail(decoded.image, decoded.box)


def _same(keys: Sequence[str | None]) -> np.ndarray:
    """Pairs (m, 2) that link all images of one key; None is no key."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(key, at), at) for at, key in enumerate(keys) if key is not None]
    return np.array(pairs, np.int64).reshape(-1, 2)


def assigned(
    paths: Sequence[str], classes: Sequence[str], groups: Sequence[int] | np.ndarray, test: float, seed: int
) -> list[bool]:
    """Which images test.

    Groups come in an order that is drawn, and each tests if that brings its classes nearer to their share (rounded, at least
    one image) and leaves each two images to train on. A class that has none then gets the smallest group that may be
    taken. In a class without groups exactly the share tests.

    Args:
        paths: of the images, each once.
        classes: theirs.
        groups: numbers, equal for images that stay on one side.
        test: share of a class's images.
        seed: of the draw, with the paths: other images, added later, do not change their order.
    """
    members: dict[int, list[int]] = {}
    for at in sorted(range(len(paths)), key=paths.__getitem__):
        members.setdefault(int(groups[at]), []).append(at)
    order = sorted(members.values(), key=lambda group: hashlib.sha256(f"{seed}\0{paths[group[0]]}".encode()).digest())
    sizes, taken = Counter(classes), Counter[str]()
    share = {name: max(1, round(test * size)) for name, size in sizes.items()}
    tested = [False] * len(paths)

    def take(group: list[int], only_if_nearer: bool) -> bool:
        found = Counter(classes[at] for at in group)
        if any(sizes[name] - taken[name] - count < TRAINED for name, count in found.items()):
            return False
        lacking = {name: share[name] - taken[name] for name in found}
        if only_if_nearer and sum(abs(lacking[name]) - abs(lacking[name] - found[name]) for name in found) <= 0:
            return False
        taken.update(found)
        for at in group:
            tested[at] = True
        return True

    for group in order:
        take(group, only_if_nearer=True)
    for name in sorted(sizes):
        if not taken[name]:
            own = (group for group in order if not tested[group[0]] and any(classes[at] == name for at in group))
            any(take(group, only_if_nearer=False) for group in sorted(own, key=len))
    return tested


# --- what is laid ---


def _lay(index: pd.DataFrame, top: Path, target: Path) -> str:
    """Link all images of the index; returns by what."""
    kinds: Counter[str] = Counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.with_name(f".{target.name}.partial")) as partial:  # as deep as the target: for relative links
        for row in index.itertuples():
            place = partial / row.split / row.label / row.within
            place.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(place):  # a copy would be written through the link, into the first image itself
                raise LapmlError(
                    f"{top / row.path}: is the second image that would be {row.split}/{row.label}/{row.within}, expected "
                    "each name once; merge the folders of one split, or rename one image"
                )
            kinds[linked_or_copied((top / row.path).resolve(), place)] += 1
        os.rename(partial, target)
    return " and ".join(kinds)


# --- what is said ---


def _together(names: list[str], groups: np.ndarray) -> list[str]:
    """The groups of several images, the largest first."""
    members: dict[int, list[str]] = {}
    for path, group in zip(names, groups.tolist(), strict=True):
        members.setdefault(group, []).append(path)
    several = sorted((each for each in members.values() if len(each) > 1), key=len, reverse=True)
    texts = [" ~ ".join(each[:3]) + (f" ~ … ({len(each)} images)" if len(each) > 3 else "") for each in several]
    return _named(f"groups kept together ({sum(map(len, several))} images)", texts)


def _named(what: str, texts: list[str]) -> list[str]:
    """How many, and the first few; nothing if there are none."""
    if not texts:
        return []
    more = [f"    … and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return [f"{what}: {len(texts)}", *(f"    {line(text)}" for text in texts[:SHOWN]), *more]
