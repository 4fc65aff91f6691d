"""Look at a data set before trusting a number made from it: a table of findings."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from lapml.common.text import line
from lapml.config import Data
from lapml.data import damage, formats
from lapml.data.decode import decode, in_order, upright
from lapml.data.fetch.sources import laid_out
from lapml.data.index import OFFICIAL, SPLITS, read
from lapml.data.readers import Counts, folder, reader
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.paths import Paths

EXAMPLES = 5  # named for each finding
FLAT = 16  # levels of 256, from the darkest to the brightest of nearly all pixels of an image that shows nothing
MOST = 0.99  # of them
SLACK = 1  # pixel: annotations that count pixels from 1 put a point of the last one there


@dataclass(frozen=True)
class _Seen:
    """What one file holds; ``error`` is set if it cannot be read, and then nothing else is."""

    error: str = ""
    file: str = ""  # sha256 of its bytes
    pixels: str = ""  # sha256 of its upright RGB pixels and their shape
    gray: bool = False
    flat: bool = False
    damage: str = ""
    size: tuple[int, int, int] = (0, 0, 1)  # upright width and height, stored orientation


@dataclass(frozen=True)
class _Finding:
    what: str
    images: list[str]
    verdict: str
    harmful: bool = False


def check(name: str, data: Data, paths: Paths, progress: bool = False) -> tuple[str, bool]:
    """Read every image of a fetched data set and report what is wrong with it.

    Harmful are files that cannot be read, or are damaged within (:mod:`lapml.data.damage`), the same picture in test
    and in train or val, the same picture under two labels, boxes that miss their image, and other numbers of images or
    classes than the data set's authors publish (not compared for synthetic sets, where only some classes are chosen, and,
    unless ``source`` is "official", where there are more or fewer classes: that is another data set in the layout).
    Other findings are named with the reason why they do no harm.

    Returns:
        A text table, and False if something harmful was found.

    Raises:
        LapmlError: the data set is not fetched, or its annotations are wrong.
    """
    record, root = laid_out(name, paths, data)
    how = reader(data.reader)
    index = read(root, data)
    bar = tqdm(total=len(index), desc=f"check {name}", unit="img", disable=not progress)
    seen = []
    with bar:
        for look in in_order(partial(_look, banner=how.BANNER), [root / how.IMAGES / path for path in index["path"]]):
            seen.append(look)
            bar.update()
    rows = [
        upright(row, *look.size, banner=how.BANNER) for row, look in zip(index.to_dict("records"), seen, strict=True)
    ]
    findings = _file_findings(rows, seen) + _duplicates(rows, seen) + _outside(rows, seen) + _untrained(index)
    title = f"{name}: {len(index)} images of {index['label'].nunique()} classes in {root} ({how.TITLE})"
    if published := how.PUBLISHED.get(data.labels):
        if why := _incomparable(record["kind"], data, index, published):
            title += f"\n(counts are not compared with the published ones: {why})"
        else:
            findings.append(_against(index, published, data.val_fraction))
    ok = not any(finding.harmful and finding.images for finding in findings)
    verdict = f"{name}: {'nothing harmful found' if ok else 'HARMFUL findings: look at them before training'}"
    notes = left_out(data, root, limit=None)
    return "\n\n".join([title, _counts(index), *notes, "\n".join(map(_line, findings)), verdict]), ok


def left_out(data: Data, root: Path, limit: int | None = EXAMPLES) -> list[str]:
    """What lies among the images and is not read, and folders in a class's folder: a paragraph each, of a line a class.

    Args:
        root: of the laid-out data set.
        limit: the most classes that are named; None: all.
    """
    if data.reader != "folder":
        return []  # the other layouts list their images, and whatever lies beside them is not theirs
    others, below = folder.left_out(root), {} if data.labels == "nested" else folder.folders_below(root)
    lines = [
        f"{name}: {found.total()} left out: " + ", ".join(f"{count} {what}" for what, count in found.most_common())
        for name, found in others.items()
    ]
    total = sum(found.total() for found in others.values())
    nested = [
        f"{name}: {', '.join(folders[:EXAMPLES])}{', …' if len(folders) > EXAMPLES else ''}"
        for name, folders in below.items()
    ]
    return [
        *_paragraph(f"{total} files left out", lines, limit),
        *_paragraph(
            "folders of images in a class's folder (labels: nested reads them as classes, top as one)",
            nested,
            limit,
        ),
    ]


def _paragraph(title: str, lines: list[str], limit: int | None) -> list[str]:
    if not lines:
        return []
    more = (
        [f"… and {len(lines) - limit} more: `lapml data check` names them all"] if limit and len(lines) > limit else []
    )
    return ["".join(f"{line}\n    " for line in [f"{title}:", *lines[:limit], *more]).rstrip()]


def _incomparable(kind: str, data: Data, index: pd.DataFrame, published: Counts) -> str:
    if kind == "drawn":
        return "the images are synthetic"
    if data.classes != "all":
        return f"only classes {data.classes} are chosen"
    if (found := index["label"].nunique()) != published.classes and data.source != "official":
        return f"found {found} classes, published {published.classes}: another data set in this layout"
    return ""


def _against(index: pd.DataFrame, published: Counts, val_fraction: float | str) -> _Finding:
    """The counts against what the authors publish; a carved validation split belongs to train again."""
    split = index["split"].tolist()
    expected = dict(published.splits)
    if val_fraction != OFFICIAL:
        split = ["train" if each == "val" else each for each in split]
        expected["train"] += expected.pop("val", 0)
    wrong = []
    if (found := index["label"].nunique()) != published.classes:
        wrong.append(f"found {found} classes, published {published.classes}")
    wrong += [
        f"{name}: found {split.count(name)} images, published {count}"
        for name, count in expected.items()
        if split.count(name) != count
    ]
    if published.per_class:
        low, high = published.per_class
        for name, count in index["class_name"].value_counts().items():
            if not low <= count <= high:
                wrong.append(
                    f"class {name}: found {count} images, published {low if low == high else f'{low} to {high}'}"
                )
    return _Finding("counts that differ from the published ones", wrong, "an incomplete copy", harmful=True)


def _untrained(index: pd.DataFrame) -> list[_Finding]:
    trained = set(index["label"][index["split"] != "test"])
    names = index.drop_duplicates("label").set_index("label")["class_name"]
    lacking = [str(name) for label, name in names.items() if label not in trained]
    return [_Finding("classes without a training image", lacking, "their test images count as errors")]


def _look(file: Path, banner: int) -> _Seen:
    try:
        decoded = decode(file, banner)
    except LapmlError as error:
        return _Seen(error=str(error))
    image = decoded.image
    with formats.opened(file) as stored:
        gray, form = stored.getbands()[0] in ("L", "1", "I", "F"), stored.format
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return _Seen(
        "", sha256(file), pixels, gray, _flat(image), damage.found(file, form), (*image.size, decoded.orientation)
    )


def _flat(image: Image.Image) -> bool:
    """Whether nearly all pixels have nearly the same level, in every channel."""
    counts = np.array(image.histogram()).reshape(3, 256).cumsum(1)
    within = counts - np.pad(counts, ((0, 0), (FLAT, 0)))[:, :256]  # pixels in the FLAT levels that end at each
    return bool((within.max(1) >= MOST * image.width * image.height).all())


def _counts(index: pd.DataFrame) -> str:
    lines = [
        f"{'split':<8}{'images':>8}{'classes':>9}   images a class: min / median / max; balance (entropy, 1 = equal)"
    ]
    for split in (*SPLITS, "all"):
        labels = index["label"] if split == "all" else index["label"][index["split"] == split]
        count = labels.value_counts()
        per_class = f"{count.min()} / {count.median():g} / {count.max()}; {_balance(count)}" if len(count) else "-"
        lines.append(f"{split:<8}{len(labels):>8}{len(count):>9}   {per_class}")
    return "\n".join(lines)


def _balance(count: pd.Series) -> str:
    """Entropy of the classes, over that of equally many images in each."""
    share = count.to_numpy() / count.sum()
    return f"{-(share * np.log(share)).sum() / np.log(len(share)):.3f}" if len(share) > 1 else "-"


def _line(finding: _Finding) -> str:
    count = len(finding.images)
    verdict = ("HARMFUL: " if finding.harmful else "harmless: ") + finding.verdict if count else "ok"
    named = "".join(f"\n    {line(image)}" for image in finding.images[:EXAMPLES])
    more = f"\n    … and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return f"{finding.what:<44}{count:>6}   {verdict}{named}{more}"


def _file_findings(rows: list[dict[str, Any]], seen: list[_Seen]) -> list[_Finding]:
    broken = [look.error for look in seen if look.error]
    gray = [row["path"] for row, look in zip(rows, seen, strict=True) if look.gray]
    turned = [row["path"] for row, look in zip(rows, seen, strict=True) if look.size[2] > 1]
    damaged = [f"{row['path']}: {look.damage}" for row, look in zip(rows, seen, strict=True) if look.damage]
    flat = [row["path"] for row, look in zip(rows, seen, strict=True) if look.flat]
    return [
        _Finding("unreadable files", broken, "packing refuses them", harmful=True),
        _Finding("damaged files, read in part", damaged, "what is shown may be wrong: get them again", harmful=True),
        _Finding("images of nearly one level", flat, "nothing is to be seen in them: look why"),
        _Finding("grayscale images", gray, "packed with three equal channels"),
        _Finding("images that EXIF turns", turned, "packed upright, with boxes and parts mapped"),
    ]


def _duplicates(rows: list[dict[str, Any]], seen: list[_Seen]) -> list[_Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, look in enumerate(seen):
        if not look.error:
            groups[look.pixels].append(at)
    leaks, torn, validation, within = [], [], [], []
    for group in groups.values():
        if len(group) == 1:
            continue
        splits = {rows[at]["split"] for at in group}
        how = "same file" if len({seen[at].file for at in group}) == 1 else "same pixels"
        text = " = ".join(f"{rows[at]['path']} ({rows[at]['split']})" for at in group) + f": {how}"
        if "test" in splits and len(splits) > 1:
            leaks.append(text)
        elif len({rows[at]["label"] for at in group}) > 1:
            torn.append(text)
        elif len(splits) > 1:
            validation.append(text)
        else:
            within.append(text)
    return [
        _Finding("exact duplicates, test and train or val", leaks, "test images are trained on", harmful=True),
        _Finding("exact duplicates under two labels", torn, "one label is wrong", harmful=True),
        _Finding("exact duplicates, train and val", validation, "tuning sees them, the test split does not"),
        _Finding("exact duplicates in one split and class", within, "counted twice"),
    ]


def _outside(rows: list[dict[str, Any]], seen: list[_Seen]) -> list[_Finding]:
    missed, boxes, parts = [], [], []
    given = any(row["box"] is not None for row in rows)
    without = [row["path"] for row in rows if given and row["box"] is None]
    for row, look in zip(rows, seen, strict=True):
        if look.error:
            continue
        width, height = row["width"], row["height"]
        text = f"{row['path']} ({width} x {height})"
        if row["box"] is not None:
            x, y, w, h = row["box"]
            if x >= width or y >= height or x + w <= 0 or y + h <= 0:
                missed.append(f"{text}: box {row['box']}")
            elif min(x, y) < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
                boxes.append(f"{text}: box {row['box']}")
        for part, (x, y, visible) in enumerate(row["parts"] or []):
            if visible and not (-SLACK <= x <= width + SLACK and -SLACK <= y <= height + SLACK):
                parts.append(f"{text}: part {part + 1} at ({x:g}, {y:g})")
    return [
        _Finding("images without a box, where others have one", without, "nothing is trained on boxes"),
        _Finding("boxes that miss their image", missed, "box or image is another's", harmful=True),
        _Finding("boxes partly outside, by over a pixel", boxes, "kept as they are in the index"),
        _Finding("visible parts outside, by over a pixel", parts, "kept as they are in the index"),
    ]
