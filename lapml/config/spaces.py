"""Settings that are tuned by their paths: ``train.lr``, ``mix.prob``, ``mixer.alpha``, … of any method."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lapml.common.recorded import Value
from lapml.config.changing import merged, refuse_unknown, validated
from lapml.config.method import READING, Method
from lapml.config.tuning import Choices, Range
from lapml.errors import expected

if TYPE_CHECKING:
    from lapml.config.schema import Params

RECIPE = ("model", "train", "view")  # sections that a method's overrides change
DISTANCES = ("margin.m", "adaptive.delta")  # may be searched by quantiles of the distances that occur
FILLED = ("sha256", "evidence")  # keys of custom mixers and losses that lapml fills in
FIXED = (  # what a job runs on, what a method is, and files
    "train.device",
    "train.threads",
    "train.gpus",
    "train.nodes",
    "mixer.name",
    "loss.name",
    "model.weights",
)
# Of these not every number between two that are allowed is allowed too.
STEPPED = ("view.side", "train.accumulate", "model.truncate", "model.output_stride")
TOGETHER = (  # settings whose values must fit each other, whichever a trial draws
    ("train.epochs", "train.warmup_epochs", "mix.warmup_epochs", "mix.cooldown_epochs"),
    ("train.batch", "train.accumulate"),
    ("margin.every", "margin.reference"),
)


def with_values(params: "Params", method: str, values: dict[str, Value], reading: bool = False) -> "Params":
    """The params with these values in a method: ``train.lr`` in its overrides, ``mix.prob`` in its own section.

    Args:
        reading: the values are a user's: the keys of custom mixers and losses are looked up.

    Raises:
        ValueError: a value is not allowed.
    """
    changes: dict[str, Any] = {}
    for path, value in values.items():
        keys = path.split(".")
        nested: Any = value
        for key in reversed(["overrides", *keys] if keys[0] in RECIPE else keys):
            nested = {key: nested}
        changes = merged(changes, nested)
    own = params.methods[method].model_dump()
    if reading:
        for part in ("mixer", "loss"):
            own[part] = own[part] and {key: each for key, each in own[part].items() if key not in FILLED}

    def read(keys: dict[str, Any]) -> Method:
        return Method.model_validate(keys, context=READING if reading else None)

    settings = validated(read, merged(own, changes), f"methods.{method}")
    return params.model_copy(update={"methods": {**params.methods, method: settings}})


def refuse(params: "Params", dataset: str) -> None:
    """Check the ranges of ``tune.methods`` with the settings of a data set.

    Args:
        params: of the data set.

    Raises:
        ValueError: a path is no setting of its method, or a method does not allow a value, or some values together.
    """
    for method, space in params.tune.methods.items():
        refuse_unknown("tune.methods", method, params.methods)
        known = list(_paths(params, dataset, method))
        for path, each in space.items():
            where = f"tune.methods.{method}.{path}"
            if path not in known:
                raise ValueError(f"{where}: no setting of this method that can be tuned; {expected(path, known)}")
            if path in params.methods[method].unresolved() and path.partition(".")[2] in params.searched(method):
                raise ValueError(
                    f"{where}: is tuned by tune.{method} already; give a number in methods.{method}.{path}"
                )
            if each.quantile and path not in DISTANCES:
                raise ValueError(f"{where}.quantile: found true, expected false: of {' and '.join(DISTANCES)} only")
            if isinstance(each, Range) and _stepped(params.of(dataset, method), space, path):
                raise ValueError(
                    f"{where}: found a range, {each.low:g} to {each.high:g}, between whose ends are values that are not allowed, "
                    "expected {choices: […]} with those that are"
                )
            for value in each.tried():
                try:
                    _refuse(params, dataset, method, {path: value})
                except ValueError as error:
                    said = str(error).partition(": ")[2].removeprefix(f"{path.rpartition('.')[2]}: ")
                    raise ValueError(f"{where}: {said}") from None
        _refuse_together(params, dataset, method)


def is_whole(params: "Params", dataset: str, method: str, path: str) -> bool:
    """Whether a setting in ``tune.methods`` takes whole numbers alone."""
    each = params.tune.methods[method][path]
    if isinstance(each, Choices) or not (each.low.is_integer() and each.high.is_integer()):
        return False
    try:
        with_values(params, method, {path: each.low + 0.5}, reading=True).of(dataset, method)
    except ValueError:
        return True
    return False


def _paths(params: "Params", dataset: str, method: str) -> Iterator[str]:
    """The settings of a method that have a value which is no section or list."""
    own = params.of(dataset, method)
    sections = {"model": own.model, "train": own.train, "view": own.data[dataset].view}
    whole = {name: section.model_dump() for name, section in sections.items()}
    settings = own.methods[method].model_dump(exclude={"overrides"})
    whole |= {name: section for name, section in settings.items() if section is not None}

    def below(section: dict[str, Any], above: str) -> Iterator[str]:
        for key, value in section.items():
            if isinstance(value, dict):
                yield from below(value, f"{above}{key}.")
            elif not isinstance(value, list) and f"{above}{key}" not in FIXED and key not in FILLED:
                yield f"{above}{key}"

    return below(whole, "")


def _stepped(own: "Params", space: dict[str, Range | Choices], path: str) -> bool:
    """Whether a range of a setting holds numbers that are not allowed; ``own``: the params of the data set and method."""
    parted = own.train.accumulate > 1 or own.train.gpus > 1 or "train.accumulate" in space
    return path in STEPPED or (path == "train.batch" and parted)


def _refuse_together(params: "Params", dataset: str, method: str) -> None:
    """ValueError for values of several settings that a trial may draw, and that do not fit each other."""
    space = params.tune.methods[method]
    for group in TOGETHER:
        paths = [path for path in group if path in space]
        for drawn in itertools.product(*(space[path].tried() for path in paths)) if len(paths) > 1 else ():
            try:
                _refuse(params, dataset, method, dict(zip(paths, drawn, strict=True)))
            except ValueError as error:
                values = ", ".join(f"{path}: {value}" for path, value in zip(paths, drawn, strict=True))
                said = str(error).partition(": ")[2]
                raise ValueError(
                    f"tune.methods.{method}: one trial may have {{{values}}}: {said}; narrow one of them"
                ) from None


def _refuse(params: "Params", dataset: str, method: str, values: dict[str, Value]) -> None:
    """ValueError for values that a method does not allow, or whose trials would not train or mix as it asks."""
    changed = with_values(params, method, values, reading=True)
    named, found = " and ".join(values), " and ".join(map(repr, values.values()))
    own, before, after = changed.of(dataset, method), params.methods[method], changed.methods[method]
    if (before.localised(), before.annotated()) != (after.localised(), after.annotated()):
        raise ValueError(f"{named}: found {found}, expected one that mixes by the same maps as the method's own")
    epochs = own.train.epochs
    if "train.epochs" not in params.tune.methods[method]:
        epochs = min(epochs, params.tune.epochs)
    mix = after.mix
    if own.train.warmup_epochs >= epochs or (mix and mix.warmup_epochs + mix.cooldown_epochs >= epochs):
        raise ValueError(
            f"{named}: found {found}, expected warm-ups and cool-downs that leave some of the {epochs} epochs of its runs"
        )
