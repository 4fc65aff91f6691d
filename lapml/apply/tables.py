"""What predict and explain find as JSON and CSV, one object or line per image, as the results come."""

import csv
import json
from collections.abc import Iterable, Iterator
from textwrap import indent
from types import SimpleNamespace
from typing import Any


def as_json(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A JSON array in pieces, of one object per image."""
    before = "["
    for result in results:
        yield f"{before}\n{indent(json.dumps(result, indent=2), '  ')}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def as_csv(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Lines of CSV: names of columns, if there is a result, and one line per image."""
    line = csv.writer(
        SimpleNamespace(write=str), lineterminator="\n"
    ).writerow  # it returns what its file's `write` does
    for number, result in enumerate(results):
        row = _row(result)
        if not number:
            yield line(row.keys())
        yield line(row.values())


def _row(result: dict[str, Any]) -> dict[str, Any]:
    row = {"image": result["image"]}
    if "figure" in result:
        target = result["target"]
        row |= {"figure": result["figure"], "target": target["class"], "target_probability": target["probability"]}
    for rank, each in enumerate(result["predictions"], start=1):
        row |= {f"class{rank}": each["class"], f"probability{rank}": each["probability"]}
    for rank, each in enumerate(result.get("neighbours", []), start=1):
        row |= {f"neighbour{rank}": each["image"], f"neighbour{rank}_class": each["class"]}
        row[f"neighbour{rank}_similarity"] = each["similarity"]
    return row
