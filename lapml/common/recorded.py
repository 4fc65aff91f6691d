"""Models of the records that are read back. Keys that were added later may be absent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lapml.common.sections import mistake
from lapml.errors import LapmlError
from lapml.paths import RUN_FILES

Value = bool | int | float | str | None  # of a setting that is tuned
MISSING = object()  # in place of an absent value


class Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Weights(Record):
    name: str | None = None
    sha256: str | None = None


class Provenance(Record):
    """provenance.json of a run."""

    files: dict[str, str] = {}  # their checksums
    class_names: list[str] | None = None
    weights: Weights | None = None
    source: dict[str, Any] | None = None
    versions: dict[str, str | None] | None = None
    command: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    data_sha256: str | None = None
    localised_sha256: str | None = None
    device: str | None = None
    precision: str | None = None
    started: str | None = None
    finished: str | None = None
    threads: int | None = None
    seconds: float | None = Field(None, ge=0)
    peak_memory_bytes: int | None = Field(None, ge=0, lt=2**63)
    resumed: int | None = Field(None, ge=0, lt=2**31)
    test_reads: int | None = Field(None, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := [name for name in self.files if name not in RUN_FILES]:
            raise ValueError(f"files: found {unknown[0]!r}, expected checksums of {', '.join(RUN_FILES)} only")
        if self.class_names is not None and len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names: found one twice, expected each class once")
        return self


class Config(Record):
    """config.json of a run: the keys read before its settings (see :func:`lapml.config.settings_of`)."""

    suite: str
    dataset: str
    fit: list[str]


class Trial(Record):
    number: int
    values: dict[str, Value]
    score: float | None
    state: Literal["COMPLETE", "PRUNED", "FAIL"] = "COMPLETE"

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.state == "COMPLETE" and self.score is None:
            raise ValueError("score: found None, expected a number of a trial that is complete")
        return self


class Tuned(Record):
    """A tuned file."""

    values: dict[str, Value]
    score: float | None = None
    trials: list[Trial] = []
    seeds: list[int] = []
    epochs: int | None = None
    without: float | None = None
    data_sha256: str | None = None
    localised_sha256: str | None = None

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if any(trial.values.keys() != self.trials[0].values.keys() for trial in self.trials):
            raise ValueError("trials: found values of different keys, expected the same keys in all")
        return self


def checked(where: str | Path, record: Any, form: type[Record], advice: str = "") -> dict[str, Any]:
    """The record, checked; LapmlError with the first wrong key and advice."""
    advice = advice and f"; {advice}"
    if not isinstance(record, dict):
        raise LapmlError(f"{where}: found {type(record).__name__}, expected a JSON object{advice}")
    try:
        form.model_validate(record)
    except ValidationError as error:
        raise LapmlError(f"{where}: {mistake(error).removesuffix('; add it')}{advice}") from None
    return record


def differing(found: Any, expected: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON records differ: (``train.lr``, found, expected), in the order of ``expected``; a value may be MISSING."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in dict.fromkeys([*expected, *found]):
            where = f"{key}.{name}" if key else str(name)
            yield from differing(found.get(name, MISSING), expected.get(name, MISSING), where)
    elif found != expected:
        yield key, found, expected


def read_json(path: Path, shown: str | None = None) -> dict[str, Any]:
    """A JSON object.

    Args:
        shown: its name in messages.

    Raises:
        LapmlError: it is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LapmlError(f"{shown or path}: missing") from None
    except (ValueError, OSError, RecursionError):
        raise LapmlError(f"{shown or path}: cannot be read as JSON (half written?)") from None
    if not isinstance(record, dict):
        raise LapmlError(f"{shown or path}: found {type(record).__name__}, expected a JSON object")
    return record
