"""The suites: `suites/NAME.yaml`, which of them has a data set, and writing one to params.yaml, the file that DVC reads."""

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

from lapml.config import overlays
from lapml.config.parts import Data
from lapml.config.reading import load
from lapml.config.schema import Params
from lapml.errors import LapmlError, expected
from lapml.files import write_text

FOLDER = Path("suites")
BASE = "base"  # base of all suites


def names() -> list[str]:
    """The names of all suites."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != BASE)


def find_dataset(params: Params, name: str) -> Data:
    """The settings of a data set; LapmlError where a suite has none of that name, which names the suites that have."""
    if name in params.data:
        return params.data[name]
    there = _having(name)
    others = (
        f"suites that have it: {', '.join(there)} (give --params {FOLDER}/NAME.yaml)"
        if there
        else "if a file of your own has it, give --params FILE"
    )
    raise LapmlError(f"unknown data set {name!r}: {expected(name, params.data)}; {others}")


def _having(dataset: str) -> list[str]:
    """The names of the suites with a data set; those that cannot be read are passed over."""
    found = []
    for name in names():
        with suppress(LapmlError):
            data = overlays.merged(overlays.layers(FOLDER / f"{name}.yaml")).get("data")
            if isinstance(data, dict) and dataset in data:
                found.append(name)
    return found


def use(name: str, target: Path = Path("params.yaml")) -> str:
    """Write ``suites/NAME.yaml`` as one complete file to params.yaml; a params.yaml that is not the text of a suite is
    kept beside it.

    Raises:
        LapmlError: no such suite, or it is not valid.
    """
    if name not in names():
        raise LapmlError(
            f"no suite {name!r}: {expected(name, names())}{'' if names() else ' (run from the project folder)'}"
        )
    source = FOLDER / f"{name}.yaml"
    load(source)
    kept = ""
    text = target.read_text(encoding="utf-8") if target.exists() else None
    if text is not None and all(overlays.composed(FOLDER / f"{each}.yaml") != text for each in names()):
        numbered = (f"{target.name}.old{number or ''}" for number in itertools.count())
        old = next(path for path in map(target.with_name, numbered) if not path.exists())
        shutil.copy2(target, old)
        kept = f" (its old content is kept as {old})"
    write_text(target, overlays.composed(source))
    below = "".join(f" over {path}" for path, _ in overlays.layers(source)[1:])
    return f"{target} is now {source}{below}{kept}"
