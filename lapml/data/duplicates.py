"""Pictures that are there more than once: placeholders, exact copies, and near-duplicates on both sides of a split."""

from collections import defaultdict
from typing import Any

import numpy as np

from lapml.data import similar
from lapml.data.findings import Finding, Found
from lapml.data.look import Seen

MANY = 3  # classes: a picture that is in so many shows none of them
PLACEHOLDER = "a placeholder, such as 'no image': remove its files"
EXACT = (  # key, what, verdict and kind of findings
    ("placeholders", f"one picture in {MANY} classes or more", PLACEHOLDER, "HARMFUL"),
    ("duplicates_test", "exact duplicates, test and train or val", "test images are trained on", "HARMFUL"),
    ("duplicates_labels", "exact duplicates under two labels", "one label is wrong", "HARMFUL"),
    ("duplicates_val", "exact duplicates, train and val", "tuning sees them, the test split does not", "harmless"),
    ("duplicates_within", "exact duplicates in one split and class", "counted twice", "harmless"),
)


def findings(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    """All that are found.

    Args:
        rows: of the index (path, label, split), one for each image.
        seen: what their files hold.
    """
    return [*_exact(rows, seen), *_near(rows, seen)]


def _exact(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, each in enumerate(seen):
        if not each.error:
            groups[each.pixels].append(at)
    found: dict[str, list[Found]] = defaultdict(list)
    for group in groups.values():
        if len(group) == 1:
            continue
        splits, classes = {rows[at]["split"] for at in group}, {rows[at]["label"] for at in group}
        how = "same file" if len({seen[at].file for at in group}) == 1 else "same pixels"
        text = " = ".join(f"{rows[at]['path']} ({rows[at]['split']})" for at in group) + f": {how}"
        if len(classes) >= MANY:
            key = "placeholders"
            text = f"{rows[group[0]]['path']} and {len(group) - 1} more in {len(classes)} classes: {how}"
        elif "test" in splits and len(splits) > 1:
            key = "duplicates_test"
        elif len(classes) > 1:
            key = "duplicates_labels"
        else:
            key = "duplicates_val" if len(splits) > 1 else "duplicates_within"
        found[key].append(Found(text, tuple(rows[at]["path"] for at in group)))
    return [Finding(key, what, found[key], verdict, kind) for key, what, verdict, kind in EXACT]


def _near(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    """Pairs in two splits that are no exact duplicates."""
    read = [at for at, each in enumerate(seen) if each.thumbnail is not None]
    thumbnails = [each.thumbnail for each in seen if each.thumbnail is not None]
    test, val = [], []
    for one, other in similar.near(np.stack(thumbnails)).tolist() if thumbnails else ():
        pair = sorted((rows[read[one]], rows[read[other]]), key=lambda row: row["split"])  # test first, val last
        splits = {row["split"] for row in pair}
        if len(splits) == 1 or seen[read[one]].pixels == seen[read[other]].pixels:
            continue
        text = " ~ ".join(f"{row['path']} ({row['split']})" for row in pair)
        (test if "test" in splits else val).append(Found(text, tuple(row["path"] for row in pair)))
    tests = {row["path"] for row in rows if row["split"] == "test"}
    known = len(tests.intersection(path for found in test for path in found.files))
    easy = f"{known} of {len(tests)} test images are known from training; `lapml data split` keeps such on one side"
    return [
        Finding("near_test", "near-duplicates, test and train or val", test, easy, "suspect"),
        Finding("near_val", "near-duplicates, train and val", val, "tuning sees them, the test split does not"),
    ]
