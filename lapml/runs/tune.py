"""Tuning with Optuna: any settings of a method (``tune.methods``), and the margins, nested: (m, weight) on `margin`; then, these
frozen, (δ, τ_s) on `adaptive_margin`.

Only the validation split is read. Each tuned method gets the same fixed number of trials. A study is named by everything that its
scores depend on, so that a changed setting never meets a finished study. Each trial is sampled from (seed, its number), so that an
interrupted study that one worker takes up again ends in the same values. Several workers may share a study (study.py).

Where a range is one of quantiles, runs without the margin losses come first: they give the distances that occur, and a score
to compare the trials with.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import Trial, TrialState

from lapml.common import ranks
from lapml.common.provenance import commit, versions
from lapml.common.recorded import Value
from lapml.config import Params, Run, digest, frozen_margins, study_identity, trial_run, tuned_values, unseeded
from lapml.config.tuning import ADAPTIVE, MARGIN, Choices, Range
from lapml.data.fetch.sources import refuse_other
from lapml.data.pack import Packed
from lapml.errors import DivergedError, LapmlError
from lapml.files import locked, write_json
from lapml.localise.evidence import opened
from lapml.models.device import without_gpu
from lapml.paths import Paths
from lapml.runs import evaluate, margins, workers
from lapml.runs import study as shared
from lapml.runs.occurring import measured
from lapml.training.loop import Fitted, fit

if TYPE_CHECKING:
    from lapml.localise.store import Localised

MARGINS = ("m", "weight", "delta", "quantile")
WITHOUT = "without"  # attribute of a study: score and distances of the run without margin losses
IDLE = "idle"  # what the first of several ranks tells the others while it waits for other workers
CHECKS = 4  # parts of a run, after each but the last of which it may be pruned


def tune(
    params: Params, paths: Paths, dataset: str, method: str, log: Callable[[str], None] = print, helpers: int = 0
) -> dict[str, Any]:
    """Find the values of one method and write its tuned file.

    Args:
        method: ``margin``; ``adaptive_margin``, which takes m and weight from the tuned file of ``margin``; or one of
            ``tune.methods``.
        helpers: further processes on this machine that share the study.

    Returns:
        the tuned file's content; ``values`` holds the best ones, those of ``margin`` included. Of a method that is not
        tuned they are none: DVC has the stage all the same.
    """
    if method not in (*params.studies(), *params.of(dataset).tune.methods):
        result = {"dataset": dataset, "method": method, "values": {}, "score": None, "trials": []}
        if ranks.rank() == 0:
            write_json(paths.tuned(dataset, method), result)
        return result
    made = dict(zip(("commit", "dirty"), commit(), strict=True))
    search = _search(params, paths, dataset, method)
    with shared.reported(search.params.tune.storage, paths.study(dataset, search.name)):
        study = _opened(search, paths) if ranks.rank() == 0 else None  # one of several ranks
        if study:
            place = shared.shown(search.params.tune.storage, paths.study(dataset, search.name))
            log(f"{dataset}/{method}: the trials lie in {place}")
            shared.wait_for_dead(study, log)
        without = _without(search, study, log)
        with workers.beside(helpers, _help, (params, paths, dataset, method), log):
            _work(search, study, without, log)
        return _result(search, paths, study, without, made)


@dataclass(frozen=True)
class Search:
    """What the trials of a study share."""

    params: Params  # of the data set
    dataset: str
    method: str
    frozen: dict[str, float]  # margins that an earlier study found
    packed: Packed
    maps: "Localised | None"
    identity: dict[str, Any]  # of the study

    @property
    def name(self) -> str:
        """Of the study."""
        return digest(self.identity)

    @property
    def space(self) -> dict[str, Range | Choices]:
        """What is drawn, and from which values."""
        return self.params.searched(self.method)


def _search(params: Params, paths: Paths, dataset: str, method: str) -> Search:
    params = params.of(dataset)
    follows = method == ADAPTIVE and params.starts_from_margin()
    earlier = tuned_values(params, paths, dataset, MARGIN) if follows else None
    frozen = frozen_margins(params.methods[method], earlier)
    refuse_other(dataset, params.data[dataset], paths)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    maps = opened(unseeded(params, dataset, method, development=True), paths, packed)
    made_of = packed.meta["sha256"], maps.meta["sha256"] if maps else None
    identity = study_identity(params, dataset, method, frozen, *made_of)
    return Search(params, dataset, method, frozen, packed, maps, identity)


def _opened(search: Search, paths: Paths) -> optuna.Study:
    tune, dataset, method = search.params.tune, search.dataset, search.method
    about = {"dataset": dataset, "method": method, "commit": commit()[0], shared.BEGUN: tune.trials}
    return shared.opened(tune.storage, paths.study(dataset, search.name), search.name, about)


def _help(params: Params, paths: Paths, dataset: str, method: str) -> None:
    """The work of a further process of ``lapml tune --workers``."""
    search = _search(params, paths, dataset, method)
    with shared.reported(search.params.tune.storage, paths.study(dataset, search.name)):
        study = _opened(search, paths)
        _work(search, study, _without(search, study, workers.say), workers.say)


def _work(
    search: Search, study: optuna.Study | None, without: dict[str, Any] | None, log: Callable[[str], None]
) -> None:
    """Make trials until none is left to make. The first of several ranks, which has the study, tells the others what to train."""

    def make(trial: Trial, before: int) -> float:
        drawn = margins.draw(trial, search.params, search.dataset, search.method)
        ranks.agreed((before, drawn))
        return _tried(search, before, drawn, without, trial, log)

    def idle() -> None:
        ranks.agreed(IDLE)

    if study:
        shared.work(study, search.params.tune, make, log, idle)
        ranks.agreed(None)
        return
    while proposed := ranks.agreed(None):
        if proposed != IDLE:
            with suppress(optuna.TrialPruned, DivergedError):
                _tried(search, *proposed, without, None, log)


def _result(
    search: Search, paths: Paths, study: optuna.Study | None, without: dict[str, Any] | None, made: dict[str, Any]
) -> dict[str, Any]:
    """The tuned file's content, written by the first of several ranks."""
    params, dataset, method = search.params, search.dataset, search.method
    finished = ranks.agreed(shared.finished(study, params.tune.trials) if study else None)
    scored = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not scored:
        raise LapmlError(
            f"{dataset}/{method}: the loss diverged in all {len(finished)} trials; lower train.lr or what tune says of {method}"
        )
    best = max(scored, key=lambda trial: trial.value)  # the first of equals
    result = {
        "dataset": dataset,
        "method": method,
        "values": {**search.frozen, **margins.values_of(best)},
        "score": best.value,
        "metric": "top-1 on the validation split, percent, mean over seeds",
        "trials": [
            {"number": number, "values": margins.values_of(trial), "score": trial.value, "state": trial.state.name}
            for number, trial in enumerate(finished)
        ],
        **({"without": without["score"], "distances": margins.quantiles(without)} if without else {}),
        "seeds": params.tune.seeds,
        "epochs": params.tune.epochs,
        "study": search.name,
        "data_sha256": search.packed.meta["sha256"],
        **({"localised_sha256": search.maps.meta["sha256"]} if search.maps else {}),
        **({"without_gpu": why} if (why := without_gpu(params.train)) else {}),
        **made,
        "versions": versions(),
    }
    if study:
        path = paths.tuned(dataset, method)
        with locked(path.with_name(f".{path.name}.lock")):  # workers of a study end at the same time
            write_json(path, result)
    return result


def _tried(
    search: Search,
    before: int,
    drawn: dict[str, Value],
    without: dict[str, Any] | None,
    trial: Trial | None,
    log: Callable[[str], None],
) -> float:
    """Train and score one trial (the study's, on the first of several ranks), and say in words what came out.

    Raises:
        optuna.TrialPruned: it was ended early.
        DivergedError: the loss was not finite.
    """
    params, dataset, method = search.params, search.dataset, search.method
    margin = params.methods[method].margin
    values = margins.valued(drawn, search.space, margin, search.frozen, without) if without else drawn
    if trial and without:
        trial.set_user_attr(shared.VALUES, values)
    where = f"{dataset}/{method} trial {before + 1}/{params.tune.trials}"
    log(f"{where}: {margins.shown(values)}")
    scores: list[float] = []

    def check(part: int, score: float) -> None:
        """Whether a run goes on; all ranks hear it."""
        prune = False
        if trial:
            trial.report(score, len(scores) * CHECKS + part)
            prune = trial.should_prune()
        if ranks.agreed(prune):
            raise optuna.TrialPruned

    try:
        for seed in params.tune.seeds:
            config = trial_run(params, dataset, method, seed, {**search.frozen, **values})
            scores.append(_score(config, search.packed, search.maps, check if params.tune.prune else None)[0])
    except optuna.TrialPruned:
        log(f"{where}: pruned")
        raise
    except DivergedError as error:
        if trial:
            trial.set_user_attr(shared.DIVERGED, str(error))
        log(f"{where}: failed: {error}")
        raise
    score = sum(scores) / len(scores)
    log(f"{where}: validation top-1 {score:.2f} %")
    return score


def _score(
    config: Run, packed: Packed, maps: "Localised | None", check: Callable[[int, float], None] | None = None
) -> tuple[float, Fitted]:
    """Validation top-1 in percent of one development run, and the run.

    Args:
        check: called with the part of the run that is done, in fourths, and the score after it; what it raises ends the run.
            (Runs of different lengths are compared by the same part, since the rate falls with it.)
    """

    def score(fitted: Fitted) -> float:
        seen = evaluate.predict(fitted.model, packed, config, fitted.weights, fitted.device, fitted.precision)
        return evaluate.metrics(seen)["top1"]

    epochs = config.train.epochs
    looks = {epochs * part // CHECKS: part for part in range(1, CHECKS)} if check else {}

    def then(epoch: int, fitted: Fitted) -> None:
        if epoch in looks:
            check(looks[epoch], score(fitted))

    fitted = fit(config, packed, log=lambda line: None, maps=maps, then=then)
    return score(fitted), fitted


def _without(search: Search, study: optuna.Study | None, log: Callable[[str], None]) -> dict[str, Any] | None:
    """Score and distances of the method's runs without margin losses, where ranges are of quantiles; found once, they are kept in
    the study. The score is the mean over ``tune.seeds``, as a trial's is; distances are the first run's. With
    ``margin.reference: joint`` they learn from the clean images too, as the trials do."""
    if not any(each.quantile for each in search.space.values()):
        return None
    if known := ranks.agreed(study.user_attrs.get(WITHOUT) if study else None):
        return known
    params, dataset, method = search.params, search.dataset, search.method
    log(f"{dataset}/{method}: without margin losses first, for the distances that occur")
    scores: list[float] = []
    distances: dict[str, Any] = {}
    for seed in params.tune.seeds:
        config = trial_run(params, dataset, method, seed, dict.fromkeys(MARGINS, 0.0))
        margin = config.settings.margin
        idle = margin.model_copy(update={"weight": 0.0}) if margin and config.settings.joint else None
        plain = config.settings.model_copy(update={"margin": idle, "adaptive": None})
        config = config.model_copy(update={"settings": plain})
        score, fitted = _score(config, search.packed, search.maps)
        distances = distances or measured(config, search.packed, fitted, search.maps).record()
        scores.append(score)
    found = {"score": sum(scores) / len(scores), **distances}
    found = ranks.agreed((study.user_attrs.get(WITHOUT) if study else None) or found)  # another worker's, if first
    if study:
        study.set_user_attr(WITHOUT, found)
    log(f"{dataset}/{method} without margin losses: validation top-1 {found['score']:.2f} %")
    return found
