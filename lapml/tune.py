"""Tuning the margins with Optuna, nested: (m, α) on `margin`; then, these frozen, (δ, τ_s) on `adaptive_margin`.

Only the validation split is read. Each tuned row gets the same fixed number of trials. The journal lies beside the
declared output; its study is named by everything that its scores depend on, so that a changed setting never meets a
finished study. Trials run one after another, each sampled from (seed, its number), so that an interrupted study that is
taken up again ends in the same margins.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lapml import evaluate, ranks
from lapml.config import Params, Range, digest, frozen_margins, resolve, study_identity, tuned_values, unseeded
from lapml.data.pack import Packed
from lapml.errors import DivergedError, LapmlError
from lapml.files import write_json
from lapml.localise.evidence import opened
from lapml.paths import Paths
from lapml.provenance import commit, versions
from lapml.schema import ADAPTIVE, MARGIN
from lapml.train import fit

if TYPE_CHECKING:
    from lapml.localise.store import Localised

DIVERGED = "diverged"  # attribute of a trial, with the message


def tune(params: Params, paths: Paths, dataset: str, method: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Find the margins of one row and write its tuned file.

    Args:
        method: ``margin``, or ``adaptive_margin``, which takes m and α from the tuned file of ``margin``.

    Returns:
        the tuned file's content; ``values`` holds the best margins, those of ``margin`` included. Of a method that is not
        tuned they are none: DVC has the stage all the same.
    """
    if method not in params.studies():
        return _nothing(paths, dataset, method)
    params = params.of(dataset)
    follows = method == ADAPTIVE and params.starts_from_margin()
    earlier = tuned_values(params, paths, dataset, MARGIN) if follows else None
    revision, dirty = commit()
    searched = params.methods[method].open_names()
    frozen = frozen_margins(params.methods[method], earlier)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    maps = opened(unseeded(params, dataset, method, development=True), paths, packed)
    maps_sha256 = maps.meta["sha256"] if maps else None
    what = study_identity(params, dataset, method, frozen, packed.meta["sha256"], maps_sha256)
    name = digest(what)
    study = _open(paths, dataset, name) if ranks.rank() == 0 else None  # of several ranks, the first one keeps it
    space = getattr(params.tune, method)
    trial = None

    def asked() -> tuple[int, dict[str, float]] | None:
        nonlocal trial
        if (done := len(_finished(study))) == params.tune.trials:
            return None
        seed = int(np.random.default_rng([params.tune.seeds[0], done]).integers(2**32))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, params.tune.trials // 2))
        trial = study.ask()
        return done, {key: _suggest(trial, key, each) for key, each in space if key in searched}

    if study:
        _drop_unfinished(study)
    while proposed := ranks.agreed(asked() if study else None):
        done, values = proposed
        log(f"{dataset}/{method} trial {done + 1}/{params.tune.trials}: {_show(values)}")
        try:
            scores = [
                _score(params, packed, dataset, method, seed, {**frozen, **values}, maps) for seed in params.tune.seeds
            ]
        except DivergedError as error:
            if study:
                trial.set_user_attr(DIVERGED, str(error))
                study.tell(trial, state=TrialState.FAIL)
            log(f"{dataset}/{method} trial {done + 1}/{params.tune.trials}: failed: {error}")
            continue
        if study:
            study.tell(trial, sum(scores) / len(scores))
        log(
            f"{dataset}/{method} trial {done + 1}/{params.tune.trials}: validation top-1 {sum(scores) / len(scores):.2f} %"
        )
    finished = ranks.agreed(_finished(study) if study else None)
    scored = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not scored:
        raise LapmlError(
            f"{dataset}/{method}: the loss diverged in all {len(finished)} trials; lower train.lr or tune.{method}"
        )
    best = max(scored, key=lambda trial: trial.value)  # the first of equals
    result = {
        "dataset": dataset,
        "method": method,
        "values": {**frozen, **best.params},
        "score": best.value,
        "metric": "top-1 on the validation split, percent, mean over seeds",
        "trials": [
            {"number": number, "values": trial.params, "score": trial.value, "state": trial.state.name}
            for number, trial in enumerate(finished)
        ],
        "seeds": params.tune.seeds,
        "epochs": params.tune.epochs,
        "study": name,
        "data_sha256": packed.meta["sha256"],
        **({"localised_sha256": maps_sha256} if maps else {}),
        "commit": revision,
        "dirty": dirty,
        "versions": versions(),
    }
    if study:
        write_json(paths.tuned(dataset, method), result)
    return result


def _nothing(paths: Paths, dataset: str, method: str) -> dict[str, Any]:
    result = {"dataset": dataset, "method": method, "values": {}, "score": None, "trials": []}
    if ranks.rank() == 0:
        write_json(paths.tuned(dataset, method), result)
    return result


def _score(
    params: Params,
    packed: Packed,
    dataset: str,
    method: str,
    seed: int,
    values: dict[str, float],
    maps: "Localised | None",
) -> float:
    """Validation top-1 in percent of one development run."""
    config = resolve(params, dataset, method, seed, values, development=True)
    config = config.model_copy(update={"train": config.train.shortened(params.tune.epochs)})
    fitted = fit(config, packed, log=lambda line: None, maps=maps)
    seen = evaluate.predict(fitted.net, packed, config, fitted.weights, fitted.device, fitted.precision)
    return evaluate.metrics(seen)["top1"]


def _open(paths: Paths, dataset: str, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = paths.journal(dataset, name)
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = _Lock(journal)
        backend = JournalFileBackend(str(journal), lock)  # makes the file
        _mend(journal, lock)
        storage = JournalStorage(backend)
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except OSError:  # says itself what is wrong, and not that the journal is
        raise
    except Exception as error:  # a damaged journal shows itself in many ways
        raise LapmlError(
            f"{journal}: cannot be read as an Optuna journal ({error}); delete it to start this study over"
        ) from error


class _Lock:
    """Of a journal; the system frees it when its process dies. Optuna's own is a link whose death nobody notices, and is
    waited for for ever where the journal's path is relative.
    """

    def __init__(self, journal: Path):
        self.journal = journal

    def acquire(self) -> bool:
        self.file = open(self.journal, "rb")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self.file.close()


def _mend(journal: Path, lock: _Lock) -> None:
    """Cut off a last line that is half-written, as a full disk or a crash leaves it: what is before it counts."""
    lock.acquire()
    try:
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _drop_unfinished(study: optuna.Study) -> None:
    """Trials that a killed process left behind are failed; they do not count, and their draw is made again."""
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING), deepcopy=False):
        study.tell(trial.number, state=TrialState.FAIL)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: scored ones, and those whose loss diverged (not those that a killed process left behind)."""
    trials = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL), deepcopy=False)
    return [trial for trial in trials if trial.state == TrialState.COMPLETE or DIVERGED in trial.user_attrs]


def _suggest(trial: Trial, name: str, each: Range) -> float:
    return trial.suggest_float(name, each.low, each.high, log=each.log)


def _show(values: dict[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
