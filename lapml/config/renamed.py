"""Renamed keys: params files with an old name are refused with the new one; old records are read by the new names."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

KEYS = {  # old path, * for any name: new key
    "rows": "ablation",
    "tuned_rows": "tuned_methods",
    "read": "eval_split",
    "diagnose.row": "method",
    "report.beside.*.row": "method",
    "*data.*.drawn": "synthetic",
    "defaults.data.drawn": "synthetic",
    "*train.head_lr": "head_lr_mult",
    "*margin.alpha": "weight",
    "*margin.positive": "pos_margin",
    "*.loss.alpha": "weight",
    "*.mixer.beta": "alpha",
    "defaults.mixers.*.beta": "alpha",
}
DATA, TRAIN = {"drawn": "synthetic"}, {"head_lr": "head_lr_mult"}
MARGIN, LOSS, MIXER = {"alpha": "weight", "positive": "pos_margin"}, {"alpha": "weight"}, {"beta": "alpha"}
VALUES = {"alpha": "weight"}  # of a tuned file


def new_name(key: str) -> str | None:
    """The new name of a key of a params file (``train.head_lr``); None if it was not renamed."""
    return next((new for pattern, new in KEYS.items() if fnmatchcase(key, pattern)), None)


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """config.json of a run of format 1 or 2, by today's names."""
    parts = {"data": lambda section: _named(section, DATA), "train": lambda section: _named(section, TRAIN)}
    parts["settings"] = upgraded_method
    return {key: parts[key](value) if key in parts else value for key, value in record.items()}


def upgraded_method(settings: Any) -> Any:
    """The old settings of a method, with the new names."""
    if not isinstance(settings, dict):
        return settings
    return {key: _named(value, _names(key, value)) for key, value in settings.items()}


def upgraded_tuned(record: dict[str, Any]) -> dict[str, Any]:
    """A tuned file, old or new, with the new names."""
    trials = [{**trial, "values": _named(trial["values"], VALUES)} for trial in record.get("trials", [])]
    return {**record, "values": _named(record["values"], VALUES), **({"trials": trials} if "trials" in record else {})}


def upgraded_diagnosis(settings: Any) -> Any:
    """The settings of a diagnosis, old or new, with the new names."""
    if not isinstance(settings, dict) or not isinstance(settings.get("methods"), dict):
        return settings
    methods = {name: upgraded_method(method) for name, method in settings["methods"].items()}
    return {**settings, "diagnose": _named(settings.get("diagnose"), {"row": "method"}), "methods": methods}


def study_of_before(study: dict[str, Any]) -> dict[str, Any]:
    """The identity of a study in format 2."""
    run = study["run"]
    settings = {key: _named(value, _back(_names(key, value))) for key, value in run["settings"].items()}
    run = {**run, "data": _named(run["data"], _back(DATA)), "train": _named(run["train"], _back(TRAIN))}
    values = {part: _named(study[part], _back(VALUES)) for part in ("frozen", "space")}
    return {**study, **values, "run": {**run, "settings": settings}}


def _names(part: str, section: Any) -> dict[str, str]:
    """{old: new} of the keys of a part of a method. The keys of a custom mixer were never renamed."""
    custom = part == "mixer" and isinstance(section, dict) and "sha256" in section
    return {} if custom else {"margin": MARGIN, "loss": LOSS, "mixer": MIXER}.get(part, {})


def _back(names: dict[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}


def _named(section: Any, names: Mapping[str, str]) -> Any:
    """A section with some keys renamed."""
    if not isinstance(section, dict):
        return section
    return {names.get(key, key): value for key, value in section.items()}
