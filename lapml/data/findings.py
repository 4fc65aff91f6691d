"""What `lapml data check` finds, and how it is printed; and of all findings those of pictures that are there more than once:
placeholders, exact copies, and near-duplicates on both sides of a split."""

from collections import defaultdict
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from lapml.common.text import line
from lapml.data import similar
from lapml.data.look import Seen

EXAMPLES = 5  # named for each finding, if not all are
MANY = 3  # classes: a picture that is in so many shows none of them
PLACEHOLDER = "a placeholder, such as 'no image': remove its files"
EXACT = (  # key, what, verdict and kind of findings
    ("placeholders", f"one picture in {MANY} classes or more", PLACEHOLDER, "HARMFUL"),
    ("duplicates_test", "exact duplicates, test and train or val", "test images are trained on", "HARMFUL"),
    ("duplicates_labels", "exact duplicates under two labels", "one label is wrong", "HARMFUL"),
    ("duplicates_val", "exact duplicates, train and val", "tuning sees them, the test split does not", "harmless"),
    ("duplicates_within", "exact duplicates in one split and class", "counted twice", "harmless"),
)


class Found(NamedTuple):
    """One thing: what is printed, and the files that it is about, as the index names them."""

    text: str
    files: tuple[str, ...] = ()


def of_file(path: str, remark: str = "") -> Found:
    """One file, with a remark."""
    return Found(f"{path}: {remark}" if remark else path, (path,))


class Finding(NamedTuple):
    """All that is wrong in one way."""

    key: str  # for scripts
    what: str
    found: list[Found]
    verdict: str
    kind: str = "harmless"  # or suspect, or HARMFUL: then the exit status is 1

    def text(self, limit: int | None) -> str:
        """A line with the count and the verdict, and one for each of the first ``limit``; None: for each."""
        count = len(self.found)
        verdict = f"{self.kind}: {self.verdict}" if count else "ok"
        named = "".join(f"\n    {line(each.text)}" for each in self.found[:limit])
        more = f"\n    … and {count - limit} more (--all)" if limit is not None and count > limit else ""
        return f"{self.what:<44}{count:>6}   {verdict}{named}{more}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        found = [{"text": each.text, "files": list(each.files)} for each in self.found]
        return {"what": self.what, "kind": self.kind if found else "ok", "verdict": self.verdict, "found": found}


# --- pictures that are there more than once, of rows of the index and what their files hold ---


def exact_duplicates(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    """Placeholders and copies: equal upright pixels, whatever the file."""
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


def near_duplicates(rows: list[dict[str, Any]], seen: list[Seen]) -> list[Finding]:
    """Pairs in two splits that are no exact duplicates."""
    test, val = [], []
    for one, other in _near(rows, seen):
        pair = sorted((rows[one], rows[other]), key=lambda row: row["split"])  # test first, val last
        splits = {row["split"] for row in pair}
        text = " ~ ".join(f"{row['path']} ({row['split']})" for row in pair)
        (test if "test" in splits else val).append(Found(text, tuple(row["path"] for row in pair)))
    tests = {row["path"] for row in rows if row["split"] == "test"}
    known = len(tests.intersection(path for found in test for path in found.files))
    easy = f"{known} of {len(tests)} test images are known from training; `lapml data split` keeps such on one side"
    return [
        Finding("near_test", "near-duplicates, test and train or val", test, easy, "suspect"),
        Finding("near_val", "near-duplicates, train and val", val, "tuning sees them, the test split does not"),
    ]


def _near(rows: list[dict[str, Any]], seen: list[Seen]) -> list[tuple[int, int]]:
    """The pairs of :func:`near_duplicates`, in order. Of exact copies in one split only the first is compared: pairs of many
    copies of a placeholder would fill the memory."""
    copies: dict[tuple[str, str], list[int]] = defaultdict(list)  # by pixels and split
    for at, each in enumerate(seen):
        if each.thumbnail is not None:
            copies[each.pixels, rows[at]["split"]].append(at)
    if not copies:
        return []
    keys, groups = list(copies), list(copies.values())
    found: list[tuple[int, int]] = []
    for one, other in similar.near(np.stack([seen[group[0]].thumbnail for group in groups])).tolist():
        if keys[one][0] != keys[other][0] and keys[one][1] != keys[other][1]:
            found += [(min(pair), max(pair)) for pair in product(groups[one], groups[other])]
    return sorted(found)
