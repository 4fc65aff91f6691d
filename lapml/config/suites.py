"""The suites: `suites/NAME.yaml`, and writing one to params.yaml, the file that DVC reads."""

import itertools
import shutil
from pathlib import Path

from lapml.config import load, overlays
from lapml.errors import LapmlError
from lapml.files import write_text

FOLDER = Path("suites")
BASE = "base"  # base of all suites


def names() -> list[str]:
    """The names of all suites."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != BASE)


def use(name: str, target: Path = Path("params.yaml")) -> str:
    """Write ``suites/NAME.yaml`` as one complete file to params.yaml; a params.yaml that is not the text of a suite is
    kept beside it.

    Raises:
        LapmlError: no such suite, or it is not valid.
    """
    if name not in names():
        raise LapmlError(
            f"no suite {name!r}: expected one of {', '.join(names()) or 'none (run from the project folder)'}"
        )
    source = FOLDER / f"{name}.yaml"
    load(source)
    kept = ""
    if target.exists() and not _composed(target.read_text(encoding="utf-8")):
        numbered = (f"{target.name}.old{number or ''}" for number in itertools.count())
        old = next(path for path in map(target.with_name, numbered) if not path.exists())
        shutil.copy2(target, old)
        kept = f" (its old content is kept as {old})"
    write_text(target, overlays.composed(source))
    return f"{target} is now {source} over {FOLDER / BASE}.yaml{kept}"


def _composed(text: str) -> bool:
    """Whether a text is that of a suite."""
    return any(overlays.composed(FOLDER / f"{name}.yaml") == text for name in names())
