"""Look at a data set before trusting a number made from it: a table of findings."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lapml.common.text import line
from lapml.config import Data
from lapml.data.decode import in_order, upright
from lapml.data.fetch.sources import laid_out
from lapml.data.findings import EXAMPLES, Finding, Found, exact_duplicates, near_duplicates, of_file
from lapml.data.index import OFFICIAL, SPLITS, read
from lapml.data.look import Seen, look
from lapml.data.readers import Counts, folder, reader
from lapml.paths import Paths

SLACK = 1  # pixel: annotations that count pixels from 1 put a point of the last one there


@dataclass(frozen=True)
class Checked:
    """What :func:`check` found."""

    name: str
    title: str
    data: Data
    root: Path
    index: pd.DataFrame
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Whether nothing harmful was found."""
        return not any(finding.kind == "HARMFUL" and finding.found for finding in self.findings)

    def text(self, everything: bool = False) -> str:
        """A text table; with the first few of each finding, or with ``everything``."""
        limit = None if everything else EXAMPLES
        found = {finding.kind for finding in self.findings if finding.found}
        verdict = "nothing harmful found" + (", but look at what is suspect" if "suspect" in found else "")
        if not self.sound:
            verdict = "HARMFUL findings: look at them before training"
        notes = left_out(self.data, self.root, limit=None, files=everything)
        findings = "\n".join(finding.text(limit) for finding in self.findings)
        return "\n\n".join([self.title, counts(self.index), *notes, findings, f"{self.name}: {verdict}"])

    def record(self) -> dict[str, Any]:
        """As JSON: everything."""
        splits = {split: self.index["class_name"][self.index["split"] == split] for split in SPLITS}
        own = self.data.reader == "folder"
        return {
            "dataset": self.name,
            "reader": self.data.reader,
            "root": str(self.root),
            "sound": self.sound,
            "images": len(self.index),
            "class_names": self.index.drop_duplicates("label").sort_values("label")["class_name"].tolist(),
            "splits": {split: dict(sorted(Counter(names).items())) for split, names in splits.items()},
            "left_out": folder.left_out(self.root) if own else {},
            "classes_left_out": folder.too_small(self.root, self.data.classes, self.data.labels, self.data.min_images),
            "findings": {finding.key: finding.record() for finding in self.findings},
        }


def check(name: str, data: Data, paths: Paths, progress: bool = False) -> Checked:
    """Read every image of a fetched data set and report what is wrong with it.

    Harmful are files that cannot be read, or are damaged within (:mod:`lapml.data.damage`), the same picture in test
    and in train or val, under two labels or in several classes, boxes that miss their image, and other numbers of images
    or classes than the data set's authors publish (not compared for synthetic sets, where only some classes are chosen,
    and, unless ``source`` is "official", where there are more or fewer classes: that is another data set in the layout).
    Suspect are near-duplicates (:mod:`lapml.data.similar`) in test and in train or val. Other findings are named with the
    reason why they do no harm.

    Raises:
        LapmlError: the data set is not fetched, or its annotations are wrong.
    """
    record, root = laid_out(name, paths, data)
    how = reader(data.reader)
    index = read(root, data)
    looks = in_order(partial(look, banner=how.BANNER), [root / how.IMAGES / path for path in index["path"]])
    seen = list(tqdm(looks, f"check {name}", len(index), unit="img", disable=not progress))
    rows = [
        upright(row, *each.size, banner=how.BANNER) for row, each in zip(index.to_dict("records"), seen, strict=True)
    ]
    trained = set(index["label"][index["split"] != "test"])
    names = index.drop_duplicates("label").set_index("label")["class_name"]
    lacking = [Found(str(each)) for label, each in names.items() if label not in trained]
    untrained = Finding("untrained", "classes without a training image", lacking, "their test images count as errors")
    twice = [*exact_duplicates(rows, seen), *near_duplicates(rows, seen)]
    findings = [*_files(rows, seen), *twice, *_outside(rows, seen), untrained]
    title = f"{name}: {len(index)} images of {index['label'].nunique()} classes in {root} ({how.TITLE})"
    if published := how.PUBLISHED.get(data.labels):
        if why := _incomparable(record["kind"], data, index, published):
            title += f"\n(counts are not compared with the published ones: {why})"
        else:
            findings.append(_against(index, published, data.val_fraction))
    return Checked(name, title, data, root, index, findings)


def left_out(data: Data, root: Path, limit: int | None = EXAMPLES, files: bool = False) -> list[str]:
    """What lies among the images and is not read, folders in a class's folder, and classes with too few images: a paragraph
    each, of a line a class.

    Args:
        root: of the laid-out data set.
        limit: the most classes that are named; None: all.
        files: name each file, instead of counting those of a class.
    """
    if data.reader != "folder":
        return []  # the other layouts list their images, and whatever lies beside them is not theirs
    others, below = folder.left_out(root), {} if data.labels == "nested" else folder.folders_below(root)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for path, what in others.items():
        kinds["/".join(path.split("/")[:2])][what] += 1
    by_class = [
        f"{name}: {found.total()} left out: " + ", ".join(f"{count} {what}" for what, count in found.most_common())
        for name, found in kinds.items()
    ]
    nested = [
        f"{name}: {', '.join(folders[:EXAMPLES])}{', …' if len(folders) > EXAMPLES else ''}"
        for name, folders in below.items()
    ]
    few = folder.too_small(root, data.classes, data.labels, data.min_images)
    small = [f"{name}: {train} to train on, {test} to test" for name, (train, test) in few.items()]
    notes = {
        f"{len(others)} files left out": [f"{path}: {what}" for path, what in others.items()] if files else by_class,
        "folders of images in a class's folder (labels: nested reads them as classes, top as one)": nested,
        f"{len(small)} classes left out (min_images: {data.min_images})": small,
    }
    paragraphs = []
    for title, lines in notes.items():
        shown = [line(each) for each in lines[:limit]]
        if len(lines) > len(shown):
            shown.append(f"… and {len(lines) - len(shown)} more: `lapml data check` names them all")
        if lines:
            paragraphs.append("\n    ".join([f"{title}:", *shown]))
    return paragraphs


def _incomparable(kind: str, data: Data, index: pd.DataFrame, published: Counts) -> str:
    if kind == "drawn":
        return "the images are synthetic"
    if data.classes != "all":
        return f"only classes {data.classes} are chosen"
    if (found := index["label"].nunique()) != published.classes and data.source != "official":
        return f"found {found} classes, published {published.classes}: another data set in this layout"
    return ""


def _against(index: pd.DataFrame, published: Counts, val_fraction: float | str) -> Finding:
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
        usual = low if low == high else f"{low} to {high}"
        sizes = index["class_name"].value_counts().items()
        wrong += [
            f"class {name}: found {size} images, published {usual}" for name, size in sizes if not low <= size <= high
        ]
    differing = [Found(each) for each in wrong]
    return Finding("counts", "counts that differ from the published ones", differing, "an incomplete copy", "HARMFUL")


def counts(index: pd.DataFrame) -> str:
    """Images and classes of each split, by its columns label and split: a text table."""
    lines = [
        f"{'split':<8}{'images':>8}{'classes':>9}   images a class: min / median / max; balance (entropy, 1 = equal)"
    ]
    for split in (*SPLITS, "all"):
        labels = index["label"] if split == "all" else index["label"][index["split"] == split]
        count = labels.value_counts()
        share = count.to_numpy() / count.sum()
        balance = f"{-(share * np.log(share)).sum() / np.log(len(share)):.3f}" if len(share) > 1 else "-"
        per_class = f"{count.min()} / {count.median():g} / {count.max()}; {balance}" if len(count) else "-"
        lines.append(f"{split:<8}{len(labels):>8}{len(count):>9}   {per_class}")
    return "\n".join(lines)


def _files(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    each = list(zip((row["path"] for row in rows), seen, strict=True))
    broken = [Found(look.error, (path,)) for path, look in each if look.error]
    damaged = [of_file(path, look.damage) for path, look in each if look.damage]
    flat = [of_file(path) for path, look in each if look.flat]
    gray = [of_file(path) for path, look in each if look.gray]
    turned = [of_file(path) for path, look in each if look.size[2] > 1]
    wrong = "what is shown may be wrong: get them again"
    return [
        Finding("unreadable", "unreadable files", broken, "packing refuses them", "HARMFUL"),
        Finding("damaged", "damaged files, read in part", damaged, wrong, "HARMFUL"),
        Finding("flat", "images of nearly one level", flat, "nothing is to be seen in them: look why"),
        Finding("grayscale", "grayscale images", gray, "packed with three equal channels"),
        Finding("turned", "images that EXIF turns", turned, "packed upright, with boxes and parts mapped"),
    ]


def _outside(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    missed, boxes, parts = [], [], []
    given = any(row["box"] is not None for row in rows)
    without = [of_file(row["path"]) for row in rows if given and row["box"] is None]
    for row, each in zip(rows, seen, strict=True):
        if each.error:
            continue
        path, width, height = row["path"], row["width"], row["height"]
        text = f"{path} ({width} x {height})"
        if row["box"] is not None:
            x, y, w, h = row["box"]
            found = Found(f"{text}: box {row['box']}", (path,))
            if x >= width or y >= height or x + w <= 0 or y + h <= 0:
                missed.append(found)
            elif min(x, y) < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
                boxes.append(found)
        for part, (x, y, visible) in enumerate(row["parts"] or []):
            if visible and not (-SLACK <= x <= width + SLACK and -SLACK <= y <= height + SLACK):
                parts.append(Found(f"{text}: part {part + 1} at ({x:g}, {y:g})", (path,)))
    kept = "kept as they are in the index"
    return [
        Finding("no_box", "images without a box, where others have one", without, "nothing is trained on boxes"),
        Finding("boxes_missing", "boxes that miss their image", missed, "box or image is another's", "HARMFUL"),
        Finding("boxes_outside", "boxes partly outside, by over a pixel", boxes, kept),
        Finding("parts_outside", "visible parts outside, by over a pixel", parts, kept),
    ]
