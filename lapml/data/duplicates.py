"""Pictures that are there more than once: placeholders, exact copies, and near-duplicates on both sides of a split."""

from collections import defaultdict
from typing import Any

import numpy as np

from lapml.data import similar
from lapml.data.findings import Finding, Found
from lapml.data.look import Seen

MANY = 3  # classes: a picture that is in so many shows none of them


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
    placeholders, leaks, torn, validation, within = [], [], [], [], []
    for group in groups.values():
        if len(group) == 1:
            continue
        splits, classes = {rows[at]["split"] for at in group}, {rows[at]["label"] for at in group}
        how = "same file" if len({seen[at].file for at in group}) == 1 else "same pixels"
        found = Found(
            " = ".join(f"{rows[at]['path']} ({rows[at]['split']})" for at in group) + f": {how}",
            tuple(rows[at]["path"] for at in group),
        )
        if len(classes) >= MANY:
            text = f"{found.files[0]} and {len(group) - 1} more in {len(classes)} classes: {how}"
            placeholders.append(found._replace(text=text))
        elif "test" in splits and len(splits) > 1:
            leaks.append(found)
        elif len(classes) > 1:
            torn.append(found)
        elif len(splits) > 1:
            validation.append(found)
        else:
            within.append(found)
    several = f"one picture in {MANY} classes or more"
    return [
        Finding(
            "placeholders", several, placeholders, "a placeholder, such as 'no image': remove its files", "HARMFUL"
        ),
        Finding(
            "duplicates_test",
            "exact duplicates, test and train or val",
            leaks,
            "test images are trained on",
            "HARMFUL",
        ),
        Finding("duplicates_labels", "exact duplicates under two labels", torn, "one label is wrong", "HARMFUL"),
        Finding(
            "duplicates_val",
            "exact duplicates, train and val",
            validation,
            "tuning sees them, the test split does not",
        ),
        Finding("duplicates_within", "exact duplicates in one split and class", within, "counted twice"),
    ]


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
