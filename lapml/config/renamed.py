"""Renamed keys: params files with an old name are refused with the new one; old records are read by the new names."""

from fnmatch import fnmatchcase
from typing import Any

KEYS = {  # of params files: old path, * for any name: new key
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
    "*.mixer.beta": "alpha",
    "defaults.mixers.*.beta": "alpha",
}
# Of records: of a method in one, config.json of a run of format 1 or 2, a tuned file, the settings of a diagnosis.
METHOD = {"margin.alpha": "weight", "margin.positive": "pos_margin", "loss.alpha": "weight", "mixer.beta": "alpha"}
RUN = {"data.drawn": "synthetic", "train.head_lr": "head_lr_mult", **{f"settings.{key}": METHOD[key] for key in METHOD}}
TUNED = {"values.alpha": "weight", "trials.*.values.alpha": "weight"}
DIAGNOSIS = {"diagnose.row": "method", **{f"methods.*.{key}": METHOD[key] for key in METHOD}}
# Of a study's identity, from the new names to those of format 2.
STUDY = {"frozen.weight": "alpha", "space.weight": "alpha"}
for _key, _new in RUN.items():
    STUDY[f"run.{_key.rpartition('.')[0]}.{_new}"] = _key.rpartition(".")[2]


def new_name(key: str, names: dict[str, str] = KEYS) -> str | None:
    """The new name of a key of a params file (``train.head_lr``); None if it was not renamed."""
    return next((new for pattern, new in names.items() if fnmatchcase(key, pattern)), None)


def named(record: Any, names: dict[str, str], above: str = "") -> Any:
    """A record with some keys renamed. The keys of a custom mixer, which has a checksum, were never renamed."""
    if isinstance(record, list):
        return [named(each, names, f"{above}{at}.") for at, each in enumerate(record)]
    if not isinstance(record, dict) or (above.endswith("mixer.") and "sha256" in record):
        return record
    return {
        new_name(f"{above}{key}", names) or key: named(value, names, f"{above}{key}.") for key, value in record.items()
    }
