"""Mixing: one mixer per file, and one function for all. Nothing here imports torch before something is mixed.

In another training loop (docs/methods.md)::

    settings = mixer("cutmix", label="area", alpha=1.0, maps=None)
    mixed = mix(draws(images, labels), Evidence(), settings)
"""

from importlib import import_module
from typing import Any

from lapml.errors import LapmlError
from lapml.mixing.boxes import Mixed
from lapml.mixing.custom import Custom
from lapml.mixing.protocol import FIELDS, LABELS, Draws, Evidence, Maps, Mixer, Truth, draws

__all__ = [
    "FIELDS", "LABELS", "MIXERS", "Draws", "Evidence", "Maps", "Mixed", "Mixer", "Truth",
    "draws", "mix", "mixer", "names", "settings_of",
]  # fmt: skip

MIXERS = {  # name in params.yaml: the file that holds its Settings and its mix
    "mixup": "lapml.mixing.mixup",
    "cutout": "lapml.mixing.cutout",
    "cutmix": "lapml.mixing.cutmix",
    "snapmix": "lapml.mixing.snapmix",
    "attentive_cutmix": "lapml.mixing.attentive",
    "resizemix": "lapml.mixing.resizemix",
    "saliencymix": "lapml.mixing.saliencymix",
    "fmix": "lapml.mixing.fmix",
    "transmix": "lapml.mixing.transmix",
    "localized": "lapml.mixing.localized",
    "oracle": "lapml.mixing.oracle",
    "parts": "lapml.mixing.parts",
    "random": "lapml.mixing.random",
}


def mix(batch: Draws, evidence: Evidence, settings: Mixer) -> Mixed:
    """Generate a batch.

    Args:
        batch: see :func:`draws`.
        evidence: of its images, what ``settings.needs()`` names.
        settings: see :func:`mixer`.

    Raises:
        LapmlError: some of the evidence is missing, or a custom mixer does not return a :class:`Mixed`.
    """
    for need in settings.needs():
        for field in FIELDS[need]:
            if getattr(evidence, field) is None:
                raise LapmlError(
                    f"{settings.name}: found no evidence.{field}, expected it: this mixer asks for {need!r}"
                )
    if isinstance(settings, Custom):
        return settings.mix(batch, evidence)
    return import_module(MIXERS[settings.name]).mix(batch, evidence, settings)


def mixer(name: str, label: str | None = None, **keys: Any) -> Mixer:
    """A mixer's settings by its name and its keys, as they stand in params.yaml.

    Args:
        name: a key of :data:`MIXERS`, or of a custom mixer.
        label: a key of :data:`LABELS`, for the mixers that have no rule of their own.

    Raises:
        pydantic.ValidationError: a key is unknown, missing or out of range (a ValueError).
        ValueError: the mixer does not take this label.
    """
    found = settings_of({"name": name, **keys})
    if label not in (found.labels() or (None,)):
        raise ValueError(f"label: found {label!r}, expected {found.allowed()}")
    return found.labelled(label)


def settings_of(keys: Any, reading: bool = True) -> Mixer:
    """A mixer's settings as a checked model.

    Args:
        keys: a section ``mixer`` of params.yaml, or such a model.
        reading: the keys are a user's, not the record of a run.

    Raises:
        pydantic.ValidationError: of the keys of the mixer that ``name`` says.
    """
    if isinstance(keys, Mixer):
        return keys
    name = keys.get("name") if isinstance(keys, dict) else None
    if isinstance(name, str) and name in MIXERS:
        return import_module(MIXERS[name]).Settings.model_validate(keys)
    return Custom.model_validate(keys, context={"reading": reading, "known": tuple(MIXERS)})


def names(attribute: str) -> str:
    """The built-in mixers with an attribute such as ``finds_similar``, in words."""
    return " or ".join(repr(name) for name, file in MIXERS.items() if getattr(import_module(file).Settings, attribute))
