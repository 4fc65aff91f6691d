"""Putting a suite into params.yaml, the one file that DVC knows."""

import itertools
import os
import shutil
from pathlib import Path

from lapml.config import load
from lapml.errors import LapmlError

FOLDER = Path("suites")


def use(name: str, target: Path = Path("params.yaml")) -> str:
    """Copy ``suites/NAME.yaml`` over params.yaml; a params.yaml that is no suite's own text is kept beside it.

    Raises:
        LapmlError: no such suite, or it is not valid.
    """
    source = FOLDER / f"{name}.yaml"
    known = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))}
    if name not in known:
        raise LapmlError(
            f"no suite {name!r}: expected one of {', '.join(known) or 'none (run from the project folder)'}"
        )
    load(source)
    kept = ""
    if target.exists() and target.read_bytes() not in known.values():
        names = (f"{target.name}.old{number or ''}" for number in itertools.count())
        old = next(path for path in map(target.with_name, names) if not path.exists())
        shutil.copy2(target, old)
        kept = f" (what it held is kept as {old})"
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_bytes(known[name])
    os.replace(temporary, target)
    return f"{target} is now {source}{kept}"
