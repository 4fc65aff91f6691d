"""A custom mixer, in params.yaml and in the record of a run: its function's name, and the keys of its settings."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationInfo, model_validator

from lapml.common import custom
from lapml.common.sections import Text
from lapml.errors import LapmlError
from lapml.mixing.boxes import Mixed
from lapml.mixing.protocol import FIELDS, LABELS, Draws, Evidence, Mixer

GROUP = "lapml.mixers"


class Custom(Mixer):
    """Every key beyond these is one of the function's ``settings``, see docs/methods.md.

    The record of a run can be read where the function is not at hand. What its settings declare can then not be asked for,
    but for the evidence.
    """

    model_config = ConfigDict(extra="allow")
    name: Text  # dotted path of the function, or an entry point of group lapml.mixers
    sha256: str  # of the file that holds it; filled in when params are read
    evidence: list[str]  # what its settings ask for; likewise

    @model_validator(mode="before")
    @classmethod
    def _looked_up(cls, keys: Any, info: ValidationInfo) -> Any:
        context = info.context or {"reading": False, "known": ()}
        found = custom.looked_up(keys, GROUP, model_of, ("name",), context["reading"], context["known"], ("evidence",))
        if isinstance(found, dict) and "evidence" not in found:
            found["evidence"] = list(model_of(custom.named(found["name"], GROUP)[0]).asks)
        return found

    def mix(self, batch: Draws, evidence: Evidence) -> Mixed:
        """What the user's function makes of a batch.

        Raises:
            LapmlError: it is no :class:`Mixed`; or the file is gone, or has changed since the settings were read.
        """
        function = custom.bound(self.name, self.sha256, GROUP)
        mixed = function(batch, evidence, self._as(model_of(function)).labelled(self.label))
        _check(self.name, mixed, batch)
        return mixed

    def theirs(self) -> Mixer:
        """The settings as the user's own model.

        Raises:
            LapmlError: the function is gone.
        """
        return self._as(model_of(custom.named(self.name, GROUP)[0]))

    def _as(self, model: type[Mixer]) -> Mixer:
        return model.model_validate(self.model_extra, strict=False)  # a record has lists for tuples

    def needs(self) -> tuple[str, ...]:
        maps = (self.model_extra or {}).get("maps")
        return (maps, *self.evidence) if maps else tuple(self.evidence)

    def labels(self) -> tuple[str, ...]:
        return self.theirs().labels()

    def allowed(self) -> str:
        return self.theirs().allowed()

    def describe(self, label: str | None) -> str:
        settings = self.theirs()
        return f"{self.name}: {settings.describe(label) if settings.summary else 'a custom mixer'}"

    shows_donor = property(lambda self: self.theirs().shows_donor)
    finds_similar = property(lambda self: self.theirs().finds_similar)
    uniform = property(lambda self: self.theirs().uniform)
    second = property(lambda self: self.theirs().second)


@lru_cache
def model_of(function: Callable, file: Path | str = "") -> type[Mixer]:
    """The model of a user's mixer's settings: the annotation of its third argument.

    Raises:
        ValueError: the function takes other arguments, or the model declares what there is not.
    """
    where = f"{file}: {function.__name__}"
    arguments = list(inspect.signature(function).parameters.values())
    placed = [each.name for each in arguments if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(arguments) != 3 or len(placed) != 3:
        raise ValueError(
            f"{where}: found the arguments {', '.join(each.name for each in arguments) or 'none'}, expected (batch, evidence, "
            "settings: MySettings): its keys in params.yaml are the fields of that class, a lapml.mixing.Mixer"
        )
    try:
        model = get_type_hints(function).get(placed[2])
        if inspect.isclass(model) and issubclass(model, Mixer):
            model.model_rebuild()  # names that pydantic could not look up yet
    except Exception as error:  # a name that is there for type checkers only, or misspelt
        raise ValueError(f"{where}: its annotations cannot be read ({error})") from None
    if model is None:
        raise ValueError(
            f"{where}: found no annotation of its argument {placed[2]}, expected a class that is a lapml.mixing.Mixer, whose "
            "fields are the keys in params.yaml: write `class MySettings(Mixer): number: int = 4` (or `pass`) and "
            f"`def {function.__name__}({', '.join(placed)}: MySettings)`"
        )
    if not (inspect.isclass(model) and issubclass(model, Mixer)):
        raise ValueError(f"{where}: found {placed[2]}: {model}, expected a class that is a lapml.mixing.Mixer")
    own_maps = "; class maps are asked for by a field `maps: Maps`"
    for key, declared, known, also in (
        ("asks", model.asks, [each for each in FIELDS if FIELDS[each][0] != "maps"], own_maps),
        ("rules", model.rules, list(LABELS), ""),
    ):
        if wrong := [each for each in declared if each not in known]:
            raise ValueError(
                f"{where}: {model.__name__}.{key}: found {wrong[0]!r}, expected some of {', '.join(known)}{also}"
            )
    return model


def _check(name: str, mixed: Any, batch: Draws) -> None:
    """A custom mixer returns what the steps after it need."""
    if not isinstance(mixed, Mixed):
        raise LapmlError(f"{name}: found {type(mixed).__name__}, expected a Mixed to be returned")
    if mixed.images.shape != batch.images[: batch.count].shape:
        found, expected = tuple(mixed.images.shape), tuple(batch.images[: batch.count].shape)
        raise LapmlError(f"{name}: its Mixed has images of shape {found}, expected {expected}")
    for part in ("kept", "pasted", "rho"):
        if (shape := tuple(getattr(mixed, part).shape)) != (batch.count,):
            raise LapmlError(f"{name}: its Mixed has {part} of shape {shape}, expected ({batch.count},)")
    mixed.hidden(1)  # says what was replaced
