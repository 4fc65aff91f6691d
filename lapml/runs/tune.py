"""Tuning the margins with Optuna, nested: (m, weight) on `margin`; then, these frozen, (δ, τ_s) on `adaptive_margin`.

Only the validation split is read. Each tuned method gets the same fixed number of trials. The journal lies beside the
declared output; its study is named by everything that its scores depend on, so that a changed setting never meets a
finished study. Trials run one after another, each sampled from (seed, its number), so that an interrupted study that is
taken up again ends in the same margins.

Where a range is one of quantiles, a run without the margin losses comes first: it gives the distances that occur, and a score
to compare the trials with.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from lapml.common import ranks
from lapml.common.locks import alone
from lapml.common.provenance import commit, versions
from lapml.config import Params, Range, Run, digest, frozen_margins, resolve, study_identity, tuned_values, unseeded
from lapml.config.method import Margin
from lapml.config.parts import Space, Tune
from lapml.config.schema import ADAPTIVE, MARGIN
from lapml.data.fetch.sources import refuse_other
from lapml.data.pack import Packed
from lapml.errors import DivergedError, LapmlError
from lapml.files import write_json
from lapml.localise.evidence import opened
from lapml.models.device import without_gpu
from lapml.paths import Paths
from lapml.runs import evaluate, journal
from lapml.runs.occurring import Distances, measured
from lapml.training.loop import Fitted, fit

if TYPE_CHECKING:
    from lapml.localise.store import Localised

MARGINS = ("m", "weight", "delta", "quantile")
WITHOUT = "without"  # attribute of a study: score and distances of the run without margin losses
CHECKS = 4  # parts of a run, after each but the last of which it may be pruned


def tune(params: Params, paths: Paths, dataset: str, method: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Find the margins of one method and write its tuned file.

    Args:
        method: ``margin``, or ``adaptive_margin``, which takes m and weight from the tuned file of ``margin``.

    Returns:
        the tuned file's content; ``values`` holds the best margins, those of ``margin`` included. Of a method that is not
        tuned they are none: DVC has the stage all the same.
    """
    if method not in params.studies():
        return _nothing(paths, dataset, method)
    params = params.of(dataset)
    follows = method == ADAPTIVE and params.starts_from_margin()
    earlier = tuned_values(params, paths, dataset, MARGIN) if follows else None
    frozen = frozen_margins(params.methods[method], earlier)
    refuse_other(dataset, params.data[dataset], paths)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    maps = opened(unseeded(params, dataset, method, development=True), paths, packed)
    maps_sha256 = maps.meta["sha256"] if maps else None
    what = study_identity(params, dataset, method, frozen, packed.meta["sha256"], maps_sha256)
    name = digest(what)
    with alone(paths.journal(dataset, name), log):
        return _study(params, paths, dataset, method, frozen, packed, maps, name, log)


def _study(
    params: Params,
    paths: Paths,
    dataset: str,
    method: str,
    frozen: dict[str, float],
    packed: Packed,
    maps: "Localised | None",
    name: str,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """:func:`tune`, alone at the study of this name; ``params`` are those of the data set."""
    made = dict(zip(("commit", "dirty"), commit(), strict=True))
    searched = params.methods[method].open_names()
    study = journal.opened(paths, dataset, name) if ranks.rank() == 0 else None  # one of several ranks
    space, margin = getattr(params.tune, method), params.methods[method].margin
    without = _without(params, packed, dataset, method, maps, study, log) if _by_quantiles(space, searched) else None
    if study:
        journal.drop_unfinished(study)
    while True:
        trial, proposed = _ask(study, params.tune, space, searched) if study else (None, None)
        if not (proposed := ranks.agreed(proposed)):
            break
        done, drawn = proposed
        values = _valued(drawn, space, margin, frozen, without) if without else drawn
        if trial and without:
            trial.set_user_attr(journal.VALUES, values)
        where = f"{dataset}/{method} trial {done + 1}/{params.tune.trials}"
        log(f"{where}: {_show(values)}")
        outcome = _tried(params, dataset, method, {**frozen, **values}, packed, maps, study, trial)
        log(f"{where}: {outcome}")
    finished = ranks.agreed(journal.finished(study) if study else None)
    scored = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not scored:
        raise LapmlError(
            f"{dataset}/{method}: the loss diverged in all {len(finished)} trials; lower train.lr or tune.{method}"
        )
    best = max(scored, key=lambda trial: trial.value)  # the first of equals
    result = {
        "dataset": dataset,
        "method": method,
        "values": {**frozen, **_values(best)},
        "score": best.value,
        "metric": "top-1 on the validation split, percent, mean over seeds",
        "trials": [
            {"number": number, "values": _values(trial), "score": trial.value, "state": trial.state.name}
            for number, trial in enumerate(finished)
        ],
        **({"without": without["score"], "distances": _quantiles(without)} if without else {}),
        "seeds": params.tune.seeds,
        "epochs": params.tune.epochs,
        "study": name,
        "data_sha256": packed.meta["sha256"],
        **({"localised_sha256": maps.meta["sha256"]} if maps else {}),
        **({"without_gpu": why} if (why := without_gpu(params.train)) else {}),
        **made,
        "versions": versions(),
    }
    if study:
        write_json(paths.tuned(dataset, method), result)
    return result


def _ask(
    study: optuna.Study, tune: Tune, space: Space, searched: list[str]
) -> tuple[Trial | None, tuple[int, dict[str, float]] | None]:
    """The next trial of a study, how many were finished before it, and what it draws; none where all are done."""
    if (done := len(journal.finished(study))) >= tune.trials:
        return None, None
    seed = int(np.random.default_rng([tune.seeds[0], done]).integers(2**32))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=max(2, tune.trials // 3))
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, tune.trials // 2))
    trial = study.ask()
    return trial, (done, {key: _suggest(trial, key, each) for key, each in space if key in searched})


def _tried(
    params: Params,
    dataset: str,
    method: str,
    values: dict[str, float],
    packed: Packed,
    maps: "Localised | None",
    study: optuna.Study | None,
    trial: Trial | None,
) -> str:
    """Train and score one trial, tell the study (on the first of several ranks), and say in words what came out."""
    scores: list[float] = []

    def check(epoch: int, score: float) -> None:
        """Whether a run goes on; all ranks hear it."""
        prune = False
        if trial:
            trial.report(score, len(scores) * params.tune.epochs + epoch)
            prune = trial.should_prune()
        if ranks.agreed(prune):
            raise optuna.TrialPruned

    try:
        for seed in params.tune.seeds:
            config = _development(params, dataset, method, seed, values)
            scores.append(_score(config, packed, maps, check if params.tune.prune else None)[0])
    except optuna.TrialPruned:
        if study:
            study.tell(trial, state=TrialState.PRUNED)
        return "pruned"
    except DivergedError as error:
        if study:
            trial.set_user_attr(journal.DIVERGED, str(error))
            study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    score = sum(scores) / len(scores)
    if study:
        study.tell(trial, score)
    return f"validation top-1 {score:.2f} %"


def _nothing(paths: Paths, dataset: str, method: str) -> dict[str, Any]:
    result = {"dataset": dataset, "method": method, "values": {}, "score": None, "trials": []}
    if ranks.rank() == 0:
        write_json(paths.tuned(dataset, method), result)
    return result


def _development(params: Params, dataset: str, method: str, seed: int, values: dict[str, float]) -> Run:
    config = resolve(params, dataset, method, seed, values, development=True)
    return config.model_copy(update={"train": config.train.shortened(params.tune.epochs)})


def _score(
    config: Run, packed: Packed, maps: "Localised | None", check: Callable[[int, float], None] | None = None
) -> tuple[float, Fitted]:
    """Validation top-1 in percent of one development run, and the run.

    Args:
        check: called with an epoch and the score after it, a few times on the way; what it raises ends the run.
    """

    def score(fitted: Fitted) -> float:
        seen = evaluate.predict(fitted.model, packed, config, fitted.weights, fitted.device, fitted.precision)
        return evaluate.metrics(seen)["top1"]

    epochs = config.train.epochs
    looks = {epochs * part // CHECKS for part in range(1, CHECKS)} if check else ()

    def then(epoch: int, fitted: Fitted) -> None:
        if epoch in looks:
            check(epoch, score(fitted))

    fitted = fit(config, packed, log=lambda line: None, maps=maps, then=then)
    return score(fitted), fitted


def _by_quantiles(space: Space, searched: list[str]) -> bool:
    return any(each.quantile for key, each in space if key in searched)


def _without(
    params: Params,
    packed: Packed,
    dataset: str,
    method: str,
    maps: "Localised | None",
    study: optuna.Study | None,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Score and distances of the method's run without margin losses; found once, they are kept in the study."""
    if known := ranks.agreed(study.user_attrs.get(WITHOUT) if study else None):
        return known
    log(f"{dataset}/{method}: a run without margin losses first, for the distances that occur")
    config = _development(params, dataset, method, params.tune.seeds[0], dict.fromkeys(MARGINS, 0.0))
    plain = config.settings.model_copy(update={"margin": None, "adaptive": None})
    config = config.model_copy(update={"settings": plain})
    score, fitted = _score(config, packed, maps)
    found = ranks.agreed({"score": score, **measured(config, packed, fitted, maps).record()})
    if study:
        study.set_user_attr(WITHOUT, found)
    log(f"{dataset}/{method} without margin losses: validation top-1 {score:.2f} %")
    return found


def _valued(
    drawn: dict[str, float], space: Space, margin: Margin, frozen: dict[str, float], without: dict[str, Any]
) -> dict[str, float]:
    """The margins that were drawn, with distances in the place of their quantiles."""
    values, distances = dict(drawn), Distances.read(without)
    if "m" in drawn and space.m.quantile:
        values["m"] = distances.margin(drawn["m"], margin.scale)
    if "delta" in drawn and space.delta.quantile:
        m = {"m": margin.m, **frozen, **values}["m"]
        values["delta"] = distances.delta(drawn["delta"], m, margin.scale)
    return values


def _values(trial: FrozenTrial) -> dict[str, float]:
    return trial.user_attrs.get(journal.VALUES, trial.params)


def _quantiles(without: dict[str, Any]) -> dict[str, float]:
    """Of the distances that occur, for the tuned file."""
    return {f"{share:.0%}": round(float(np.quantile(without["d"], share)), 4) for share in (0.1, 0.25, 0.5, 0.75, 0.9)}


def _suggest(trial: Trial, name: str, each: Range) -> float:
    return trial.suggest_float(name, each.low, each.high, log=each.log)


def _show(values: dict[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
