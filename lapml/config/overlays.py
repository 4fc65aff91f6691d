"""A params file is complete, or an overlay: `base:` names the file that it changes, and it holds only what differs.

Sections merge key by key; any other value, lists included, replaces the old one. ``null`` deletes a named entry (of data,
methods, defaults.mixers, report.steps, report.developed_on, tune.methods) and sets any other key to null. A mixer or loss of
another ``name`` replaces the whole section, since its keys depend on its name.
"""

import json
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, merge_attrib
from ruamel.yaml.error import YAMLError

from lapml.errors import LapmlError

BASE = "base"  # key of an overlay: the file that it changes, relative to its own folder
NAMED = (
    ("data",),
    ("methods",),
    ("defaults", "mixers"),
    ("report", "steps"),
    ("report", "developed_on"),
    ("tune", "methods"),
)  # sections whose keys are names
KINDS = ("mixer", "loss")  # sections whose other keys depend on their name
MOST_VALUES = 100_000  # of a file: nested anchors could fill the memory
WIDTH = 100  # characters that a section or list may take on one line
NOTE = """#
# Every setting of the suite, written by `lapml suite use {name}`. Edit it, then run `snakemake` or `dvc repro`: only what depends
# on the change is made again. `lapml config show --method NAME` prints what a run resolves to, `lapml suite list` the other suites.
"""


def layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A params file and its bases, each as plain values without `base`; the complete file comes last.

    Raises:
        LapmlError: a file is missing or not YAML, or `base` names no file, or one that is an overlay of this one.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    while True:
        raw = read(path, found[-1][0] if found else None)
        base = raw.pop(BASE, None)
        found.append((path, raw))
        if base is None:
            return found
        if not isinstance(base, str):
            raise LapmlError(f"{path}: {BASE}: found {base!r}, expected a file such as base.yaml")
        seen = [each.resolve() for each, _ in found]
        path = path.parent / base
        if path.resolve() in seen:
            raise LapmlError(f"{found[-1][0]}: {BASE}: found {base!r}, which is itself based on this file")


def merged(found: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """The merged settings of :func:`layers`."""
    whole: dict[str, Any] = {}
    for _, raw in reversed(found):
        merge(whole, raw)
    return whole


def merge(whole: Any, changes: dict[str, Any], where: tuple[str, ...] = ()) -> None:
    """Apply an overlay's changes, see the module; ``whole`` may be a CommentedMap, whose comments stay."""
    for key, value in changes.items():
        current = whole.get(key)
        if value is None and where in NAMED:
            whole.pop(key, None)
        elif (
            isinstance(value, dict)
            and isinstance(current, dict)
            and not (key in KINDS and value.get("name", current.get("name")) != current.get("name"))
        ):
            merge(current, value, (*where, key))
        else:
            whole[key] = _styled(value) if isinstance(whole, CommentedMap) else value


def composed(path: Path) -> str:
    """A params file as one complete text: the overlay's heading, then keys, order and comments of the base; no anchors.

    Raises:
        LapmlError: see :func:`layers`.
    """
    found = layers(path)
    yaml = YAML()  # keeps comments
    yaml.width = 10**6  # folding would lose a space after some commas
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    whole = yaml.load(found[-1][0].read_text(encoding="utf-8"))
    _part(whole, set())
    for _, raw in reversed(found[:-1]):
        merge(whole, raw)
    stream = StringIO()
    yaml.dump(whole, stream)
    body = stream.getvalue().splitlines()
    start = next((number for number, line in enumerate(body) if line and not line.startswith("#")), 0)
    text = ""
    for line in body[start:]:
        section = line[:1].isalpha() and (line.partition("#")[0].rstrip().endswith(":"))
        text += ("\n" if section and not text.endswith("\n\n") else "") + line.rstrip() + "\n"
    return f"{heading(path)}{NOTE.format(name=path.stem)}\n{text}"


def _part(node: Any, seen: set[int]) -> None:
    """Make copies of what an anchor shares, so that a change concerns one place only, and take the anchors away.

    Args:
        seen: ids of the sections and lists that have their place.
    """
    if getattr(node, merge_attrib, None):  # keys by `<<: *anchor`
        own = dict(node.items())
        delattr(node, merge_attrib)
        node.update(own)
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if hasattr(value, "anchor"):
            value.anchor.value = None
        if isinstance(value, dict | list):
            if id(value) in seen:
                node[key] = value = deepcopy(value)
            seen.add(id(value))
            _part(value, seen)


def heading(path: Path) -> str:
    """The comment at the start of a params file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(f"{line}\n" for line in lines[:count])


def _styled(value: Any) -> Any:
    """For the round-trip dumper: short values on one line, others below their key."""
    if not isinstance(value, dict | list):
        return value
    made: CommentedMap | CommentedSeq
    if isinstance(value, dict):
        made = CommentedMap((key, _styled(each)) for key, each in value.items())
    else:
        made = CommentedSeq(_styled(each) for each in value)
    if len(str(value)) < WIDTH:
        made.fa.set_flow_style()
    return made


def read(path: Path, above: Path | None = None) -> dict[str, Any]:
    """One params file as plain values, `base` included; ``above`` is the file that names it as its base.

    Raises:
        LapmlError: it is missing, or not plain YAML.
    """
    try:
        raw = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        close = get_close_matches(path.name, [file.name for file in path.parent.glob("*.y*ml")], 1)
        meant = f"; did you mean {path.with_name(close[0])}?" if close else ""
        if above:
            raise LapmlError(
                f"{above}: {BASE}: found no file {path}{meant or f'; name one relative to {above.parent}'}"
            ) from None
        raise LapmlError(
            f"{path}: no such file{meant or '; run from the project’s folder, or name one with --params'}"
        ) from None
    except (YAMLError, ValueError, RecursionError, OSError) as error:
        # ValueError: bad UTF-8, impossible dates, endless integers; RecursionError: brackets without end
        raise LapmlError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise LapmlError(f"{path}: found {type(raw).__name__}, expected a mapping of sections (suite, datasets, …)")
    try:
        if (count := _values(raw, {})) > MOST_VALUES:
            raise LapmlError(
                f"{path}: found {count:,} values, anchors counted at each use, expected {MOST_VALUES:,} at most"
            )
        copied = json.loads(json.dumps(raw, default=str))  # anchors become copies: an override changes one place only
        odd = _odd_key(raw)
    except (TypeError, ValueError, RecursionError) as error:
        raise LapmlError(f"{path}: expected plain YAML with text keys and no anchor inside itself ({error})") from None
    if odd is not None:
        raise LapmlError(f"{path}: key {odd!r}: found {type(odd).__name__}, expected text; put it in quotes")
    return copied


@lru_cache(maxsize=8)  # suites share their base; what is kept is never handed out
def _parsed(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def _values(raw: Any, known: dict[int, int]) -> int:
    """Number of values, anchors counted at each use; RecursionError for an anchor inside itself."""
    if not isinstance(raw, dict | list):
        return 1
    if id(raw) not in known:
        known[id(raw)] = 1 + sum(_values(each, known) for each in (raw.values() if isinstance(raw, dict) else raw))
    return known[id(raw)]


def _odd_key(raw: Any) -> Any:
    """The first key that is not text (007, 1e3), which would change when made text; None if all are."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            odd = _odd_key(value) if isinstance(key, str) else key if key is not None else "null"
            if odd is not None:
                return odd
    elif isinstance(raw, list):
        return next((odd for odd in map(_odd_key, raw) if odd is not None), None)
    return None
