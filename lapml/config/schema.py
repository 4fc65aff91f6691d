"""A whole suite, params.yaml, and one run of it, as pydantic models. Their sections are in parts.py and tuning.py, methods in
method.py.

Every key is written out in params.yaml. The only defaults are those of keys that joined later (LATER), an absent part (None), a
custom loss without the reference, a linear search range, and sections that a data set or method overrides nothing of.
"""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lapml import mixing
from lapml.common.sections import LATER, Name, Section, Seed
from lapml.config import spaces
from lapml.config.changing import refuse_unknown, validated, with_changes
from lapml.config.method import Method
from lapml.config.parts import UNANNOTATED, Data, Defaults, Diagnose, Localise, Model, Report, Train, beyond
from lapml.config.tuning import ADAPTIVE, MARGIN, Choices, Range, Tune
from lapml.errors import expected

FORMAT = 3  # of a run's record (config.json); those without a number are of format 1
WHERE = ("device", "threads", "nodes")  # of ``train``: where and how a run is computed, which is not what it is
JOB = (*WHERE, "gpus")  # of ``train``: what a job runs on
TAKEN = ("published", "bench")  # folders below results/ and results/published/ that are no suite's


class Params(Section):
    """A whole suite: params.yaml."""

    suite: Name
    datasets: Annotated[list[Name], Field(min_length=1)]
    ablation: list[Name]
    tuned_methods: list[Name]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    eval_split: Literal["test", "val"]  # the split that runs are read on; val: they train on train alone
    defaults: Defaults | None = None
    data: dict[Name, Data]
    model: Model
    train: Train
    localise: Annotated[Localise | None, LATER] = None
    methods: dict[Name, Method]
    tune: Tune
    diagnose: Diagnose
    report: Report

    @field_validator("datasets", "ablation", "tuned_methods", "seeds")
    @classmethod
    def _unique(cls, value: list) -> list:
        if len(set(value)) != len(value):
            raise ValueError(f"found {value}, expected each entry once")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.suite in TAKEN:
            raise ValueError(
                f"suite: found {self.suite!r}, expected another name: results/ keeps other things under this one"
            )
        for name in self.datasets:
            refuse_unknown("datasets", name, self.data)
        self._shared()
        self._listed()
        if self.localise is None and (asking := self.localising()):
            needs = " and ".join(self.methods[asking[0]].localised())
            raise ValueError(
                f"localise: missing; {asking[0]} mixes by {needs}: add the section, as in suites/base.yaml"
            )
        refuse_unknown("diagnose.method", self.diagnose.method, self.all_methods())
        for name in itertools.chain(*self.report.steps.items()):
            refuse_unknown("report.steps", name, self.methods)
        for name in itertools.chain(*self.report.primary):
            refuse_unknown("report.primary", name, self.all_methods())
        self._developed()
        for number in self.report.beside:
            refuse_unknown("report.beside", number.dataset, self.data)
        for dataset in self.data:
            params = self.of(dataset)
            for method in self.methods:
                params.of(dataset, method)
            if dataset in self.datasets:
                self._annotated(dataset)
                self._runnable(dataset, params, "" if params is self else f" for {dataset}")
                spaces.refuse(params, dataset)
        return self

    def _developed(self) -> None:
        """The classes that something was developed on are of a data set here, and can be told from the others."""
        for dataset, classes in self.report.developed_on.items():
            if dataset not in self.data:
                raise ValueError(
                    f"report.developed_on: found {dataset!r}, {expected(dataset, sorted(self.data))}; null clears an entry"
                )
            if (least := self.data[dataset].min_images) is not None:
                raise ValueError(
                    f"report.developed_on: found {dataset}, whose min_images ({least}) leaves classes out, and runs do not record "
                    f"which numbers; set data.{dataset}.min_images to null, and choose its classes by data.{dataset}.classes"
                )
            if (self.data[dataset].reader, self.data[dataset].classes) == ("deepfashion", "all"):
                raise ValueError(
                    f"report.developed_on: found {dataset}, whose classes are all that have images, and runs do not record which; "
                    f"choose them by number, by data.{dataset}.classes"
                )
            if (own := self.data[dataset].classes) != "all" and (part := beyond(classes, own)):
                raise ValueError(
                    f"report.developed_on.{dataset}: found {part}, expected class numbers of data.{dataset}.classes ({own}); null "
                    "clears an entry"
                )

    def _shared(self) -> None:
        """The keys of mixers that no method uses are checked too."""
        used = {method.mixer.name for method in self.methods.values() if method.mixer}
        for name, keys in self.defaults.mixers.items() if self.defaults else ():
            refuse_unknown("defaults.mixers", name, mixing.MIXERS, "a custom mixer has its keys below methods: ")
            if name not in used:
                validated(mixing.settings_of, {"name": name, **keys}, f"defaults.mixers.{name}")

    def _listed(self) -> None:
        """The methods of the tables are there, each once, and tuned where they are listed as such."""
        if not self.ablation + self.tuned_methods:
            raise ValueError("ablation: found no method in ablation and tuned_methods, expected at least one")
        for key, names in (("ablation", self.ablation), ("tuned_methods", self.tuned_methods)):
            for name in names:
                refuse_unknown(key, name, self.methods)
        for name in self.tune.methods:
            refuse_unknown("tune.methods", name, self.methods)
        for name in self.ablation:
            if open_keys := self.methods[name].unresolved():
                raise ValueError(
                    f"methods.{name}.{open_keys[0]}: found 'tuned' in a method listed under ablation; "
                    f"give a number, or list {name} under tuned_methods"
                )
        if both := set(self.ablation) & set(self.tuned_methods):
            raise ValueError(f"tuned_methods: found {min(both)!r} in ablation too, expected each method in one of them")
        if {MARGIN, ADAPTIVE}.intersection(self.tuned_methods):
            for name in (MARGIN, ADAPTIVE):
                refuse_unknown("methods", name, self.methods, "tuning goes from margin to adaptive_margin: ")
        self._tunable()

    def of(self, dataset: str, method: str | None = None) -> Self:
        """The params with the overrides of one data set in place, and those of one method.

        Raises:
            ValueError: an override is unknown or not allowed.
        """
        changed: dict[str, Any] = {}
        for part, section in self.data[dataset].overrides:
            if section:
                key = f"data.{dataset}.overrides.{part}"
                if (whole := getattr(self, part)) is None:
                    raise ValueError(f"{key}: found a change of {part}, expected that section too; add it")
                changed[part] = with_changes(whole, section, key)
        own = self.model_copy(update=changed) if changed else self
        overrides = self.methods[method].overrides if method else None
        if overrides is None:
            return own
        key = f"methods.{method}.overrides"
        for name in JOB:
            if name in overrides.train:
                raise ValueError(f"{key}.train.{name}: unknown key; what a job runs on is the same for all methods")
        changed = {
            part: with_changes(getattr(own, part), getattr(overrides, part), f"{key}.{part}")
            for part in ("model", "train")
            if getattr(overrides, part)
        }
        if overrides.view:
            view = with_changes(own.data[dataset].view, overrides.view, f"{key}.view")
            data = with_changes(own.data[dataset], {"view": view.model_dump()}, f"{key}.view: {dataset}")
            changed["data"] = {**own.data, dataset: data}
        return own.model_copy(update=changed)

    def _annotated(self, dataset: str) -> None:
        """Its layout may have what the methods of the tables mix by."""
        for key, names in (("ablation", self.ablation), ("tuned_methods", self.tuned_methods)):
            lacking = [name for name in names if self.methods[name].annotated()]
            if lacking and (reader := self.data[dataset].reader) in UNANNOTATED:
                others = ", ".join(name for name in names if name not in lacking)
                raise ValueError(
                    f"{key}: found {' and '.join(lacking)}, for which every image needs a box, and data set {dataset} (reader "
                    f"{reader}) has none; write {key}: [{others}]"
                )

    def _runnable(self, dataset: str, params: Self, where: str) -> None:
        """Warm-ups and cool-downs leave something of the runs."""
        for name in self.all_methods():
            self.methods[name].refuse_unmixed(name, params.of(dataset, name).train.epochs, where)
        studies = [name for name in self.studies() if "train.epochs" not in params.tune.methods.get(name, {})]
        if studies:
            mixes = [mix for name in studies if (mix := self.methods[name].mix)]
            warmups = [params.of(dataset, name).train.warmup_epochs for name in studies]
            warmup = max([*warmups, *(mix.warmup_epochs for mix in mixes)])
            clean = max([0, *(mix.warmup_epochs + mix.cooldown_epochs for mix in mixes)])
            unmixed = f"the epochs that its runs do not mix (mix.warmup_epochs + mix.cooldown_epochs: {clean})"
            for least, what in ((warmup, f"the warm-up of its runs ({warmup:g})"), (clean, unmixed)):
                if params.tune.epochs <= least:
                    raise ValueError(f"tune.epochs: found {params.tune.epochs}{where}, expected more than {what}")

    def _tunable(self) -> None:
        """Tuned methods have something to tune, and no key that says 'tuned' without a range."""
        own = {MARGIN: ("margin.m", "margin.weight"), ADAPTIVE: ("adaptive.delta", "adaptive.quantile")}
        for name in self.tuned_methods:
            space, unresolved = self.tune.methods.get(name, {}), self.methods[name].unresolved()
            if name in own and not (space or set(own[name]) & set(unresolved)):
                raise ValueError(
                    f"tuned_methods: {name} has no key that says 'tuned' among {' and '.join(own[name])}; list it under ablation"
                )
            if name not in own and not space:
                raise ValueError(
                    f"tuned_methods: found {name!r}, which has nothing to tune; say what in tune.methods.{name}, or list it under "
                    "ablation"
                )
            if name not in own and (left := [key for key in unresolved if key not in space]):
                raise ValueError(
                    f"methods.{name}.{left[0]}: found 'tuned' without a range; give a number, or a range in "
                    f"tune.methods.{name}: {{{left[0]}: {{low: …, high: …}}}}"
                )

    def studies(self) -> list[str]:
        """The methods that are tuned, and ``margin`` before them where adaptive_margin starts from it."""
        first = [MARGIN] if ADAPTIVE in self.tuned_methods and self.starts_from_margin() else []
        margins = [name for name in (MARGIN, ADAPTIVE) if name in [*first, *self.tuned_methods]]
        return list(dict.fromkeys([*margins, *self.tuned_methods]))

    def searched(self, method: str) -> dict[str, Range | Choices]:
        """What is drawn for a method's trials: its margins that say 'tuned', and the settings of ``tune.methods``."""
        drawn = {*self.methods[method].open_names(), *self.tune.methods.get(method, {})}
        return {name: each for name, each in self.tune.ranges(method).items() if name in drawn}

    def starts_from_margin(self) -> bool:
        """Whether adaptive_margin takes over what ``margin`` was tuned to."""
        taken = {"m", "weight"}.intersection(self.methods[ADAPTIVE].open_names())
        return bool(taken.intersection(self.methods[MARGIN].open_names()))

    def localising(self) -> list[str]:
        """The methods of the tables and studies that mix by what the stage `localise` finds."""
        names = dict.fromkeys([*self.all_methods(), *self.studies(), *self.tune.methods])
        return [name for name in names if self.methods[name].localised()]

    def localised_splits(self) -> list[str]:
        """Those whose images are localised: what the tables' runs are fit on. Studies and development runs, which are fit on
        less, use the same maps."""
        return ["train", "val"] if self.eval_split == "test" else ["train"]

    def split_name(self) -> str:
        """Of the split that runs are read on, in words."""
        return {"test": "test", "val": "validation"}[self.eval_split]

    def all_methods(self) -> list[str]:
        """The methods of every table, in the order of ``ablation``; those that are tuned come last."""
        return [*self.ablation, *self.tuned_methods]


class Run(Section):
    """One run, wholly resolved: what ``config.json`` records and what the table stage compares."""

    suite: str
    dataset: str
    method: str
    seed: Seed
    fit: list[Literal["train", "val"]]
    evaluate: Literal["val", "test"]
    data: Data
    model: Model
    train: Train
    settings: Method
    localise: Annotated[Localise | None, LATER] = None  # of methods that mix by what it finds

    @model_validator(mode="after")
    def _localises(self) -> Self:
        if (self.localise is None) and (needs := self.settings.localised()):
            raise ValueError(f"localise: missing; {self.method} mixes by {' and '.join(needs)}: add that section")
        return self

    @model_validator(mode="after")
    def _pretrained(self) -> Self:
        mixer = self.settings.mixer
        if mixer and "attention" in mixer.needs() and self.model.weights == "none":
            raise ValueError(f"model.weights: found 'none', expected pretrained ones: {mixer.name} attends by them")
        return self

    def record(self) -> dict[str, Any]:
        """As JSON, without what does not say what the run is: where the files lie (what they hold is recorded by checksum in
        provenance.json), and the device, threads and nodes that it is computed by. :func:`lapml.config.settings_of` reads it."""
        record = {"format": FORMAT, **self.recorded()}
        del record["data"]["source"], record["data"]["overrides"]  # overrides are in place already
        del record["settings"]["overrides"]
        for name in WHERE:
            record["train"].pop(name, None)
        return record
