"""A study's trials in Optuna's storage, where any number of workers share them, on one machine or several.

The heartbeat of a trial stops with its worker. Another one, or the next to come, then makes the trial again with the same values.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from lapml.config.tuning import Tune
from lapml.errors import DivergedError, LapmlError, words
from lapml.files import locked

DIVERGED = "diverged"  # attribute of a trial, with the message
VALUES = "values"  # attribute of a trial: its values, if margins are searched by quantiles
BEGUN = "trials_at_start"  # attribute of a study: tune.trials when it began, which sampler and pruner go by
HEARTBEAT, GRACE = 10, 60  # seconds between a trial's signs of life; without one, until it is made again
POLL = 1.0  # seconds between two looks at what other workers do
PATIENCE = 60  # seconds that another process may lock an SQLite file
CREATED = 3  # tries to make the tables of a database: two processes may make them at once


class _Storage(RDBStorage):
    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life that cannot be given now is given the next time; Optuna's thread for it would end with a traceback."""
        with suppress(DatabaseError, StorageInternalError):
            super().record_heartbeat(trial_id)


class _SurplusError(Exception):
    """Two workers asked for the last trial at once."""


def opened(url: str | None, file: Path, name: str, about: dict[str, object]) -> optuna.Study:
    """The study of this name, created if there is none.

    Args:
        url: of a database (``tune.storage``); None: the SQLite file ``file``.
        about: attributes that it gets, if it has them not yet.

    Raises:
        LapmlError: the database cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with reported(url, file), locked(file.with_name(f".{file.name}.lock")):
            study = _connected(url, file, name)
            for key, value in about.items():
                if key not in study.user_attrs:
                    study.set_user_attr(key, value)
            _refuse_odd(study)
            return study
    except (LapmlError, OSError):
        raise
    except Exception as error:  # damage raises many types
        raise _damaged(url, file, error) from error


def _connected(url: str | None, file: Path, name: str, tries: int = CREATED) -> optuna.Study:
    try:
        return _created(url, file, name)
    except DatabaseError:  # another machine is making the tables
        if url is None or tries == 1:
            raise
    time.sleep(POLL)
    return _connected(url, file, name, tries - 1)


def _created(url: str | None, file: Path, name: str) -> optuna.Study:
    storage = _Storage(
        f"sqlite:///{file}" if url is None else _driven(url),
        {"pool_pre_ping": True} if url else {"connect_args": {"timeout": PATIENCE}},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _driven(url: str) -> str:
    """The URL with the driver of the extra `postgresql`, where it names none."""
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def shown(url: str | None, file: Path) -> str:
    """Where a study lies, for messages: no password."""
    try:
        return make_url(url).render_as_string() if url else str(file)
    except ArgumentError:
        return "tune.storage"


@contextmanager
def reported(url: str | None, file: Path) -> Iterator[None]:
    """LapmlError where the storage cannot be reached, read or written."""
    where = shown(url, file)
    try:
        yield
    except (ArgumentError, NoSuchModuleError) as error:
        raise LapmlError(
            f"tune.storage: {words(error)}; expected null, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error
    except ImportError as error:
        raise LapmlError(
            f"{where}: the driver of this database is not installed ({words(error.__cause__ or error)}); for postgresql:// "
            "run `pip install 'lapml[postgresql]'`"
        ) from error
    except (DatabaseError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if not isinstance(cause, OperationalError):
            raise _damaged(url, file, cause or error) from error
        raise LapmlError(
            f"{where}: {words(cause.orig)}: the storage of this study cannot be used now; finished trials are kept: see that it "
            "can be reached and written, and run the same command again"
        ) from error


def _damaged(url: str | None, file: Path, error: BaseException) -> LapmlError:
    return LapmlError(
        f"{shown(url, file)}: cannot be read as an Optuna study ({words(getattr(error, 'orig', None) or error)}); delete "
        f"{'the study there' if url else 'it'} to start this study over"
    )


def _refuse_odd(study: optuna.Study) -> None:
    """Raise a ValueError for a trial whose numbers are not finite numbers, which Optuna does not check."""
    for trial in study.get_trials(deepcopy=False):
        chosen = [name for name, each in trial.distributions.items() if isinstance(each, CategoricalDistribution)]
        values = trial.user_attrs.get(VALUES, {})
        for where in (trial.params, trial.intermediate_values, values, dict(enumerate(trial.values or []))):
            if not isinstance(where, dict):
                raise ValueError(f"trial {trial.number}: found {where!r}, expected numbers by name")
            for name, value in where.items():
                if name in chosen:  # text, true or false
                    continue
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"trial {trial.number}: {name}: found {value!r}, expected a finite number")
        if trial.state == TrialState.COMPLETE and not trial.values:
            raise ValueError(f"trial {trial.number}: is complete without a score")


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count or will: made, pruned, with a diverged loss, in work, waiting to be made again. Not those that a worker
    lost or gave back."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or DIVERGED in trial.user_attrs]


def finished(study: optuna.Study, trials: int) -> list[FrozenTrial]:
    """The first trials that are made: as many as ``tune.trials``."""
    return [trial for trial in _counted(study) if trial.state.is_finished()][:trials]


def work(
    study: optuna.Study,
    tune: Tune,
    make: Callable[[Trial, int], float],
    log: Callable[[str], None],
    idle: Callable[[], None],
) -> None:
    """Make trials until all of them are made, beside any other workers of the study.

    Args:
        make: takes a trial, and how many come before it; returns its score.
        idle: called once a second where only others' trials are left.
    """
    bare: dict[int, float] = {}
    while len(finished(study, tune.trials)) < tune.trials:
        counted = _counted(study)
        if len(counted) < tune.trials or any(trial.state == TrialState.WAITING for trial in counted):
            _make_one(study, tune, make, log)
        else:
            idle()
            time.sleep(POLL)
            _free_dead(study, bare)


def wait_for_dead(study: optuna.Study, log: Callable[[str], None]) -> None:
    """Before a worker begins: find out whether trials in work have a worker, or are left by a killed one. Then one worker that
    goes on alone repeats the last trial before it draws the next, as if nothing had happened."""
    bare: dict[int, float] = {}
    _free_dead(study, bare)
    until = time.monotonic() + GRACE + HEARTBEAT
    if running := _running(study):
        log(
            f"{len(running)} trial(s) of this study are in work elsewhere, or were left by a killed process: looking for "
            f"up to {GRACE + HEARTBEAT} s which"
        )
    while running & _running(study) and time.monotonic() < until:
        time.sleep(POLL)
        _free_dead(study, bare)


def _running(study: optuna.Study) -> set[int]:
    return {trial.number for trial in study.get_trials(states=(TrialState.RUNNING,), deepcopy=False)}


def _free_dead(study: optuna.Study, bare: dict[int, float]) -> None:
    """Let others make the trials again whose heartbeat has stopped, or whose worker died before it drew a value; ``bare``: when a
    trial without one was first seen."""
    fail_stale_trials(study)
    for trial in study.get_trials(states=(TrialState.RUNNING,), deepcopy=False):
        if not trial.params and time.monotonic() - bare.setdefault(trial.number, time.monotonic()) > GRACE:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _make_one(study: optuna.Study, tune: Tune, make: Callable[[Trial, int], float], log: Callable[[str], None]) -> None:
    """Make one trial: one that waits to be made again, or the next."""
    asked: list[int] = []
    begun = study.user_attrs[BEGUN]
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=max(2, begun // 3))

    def objective(trial: Trial) -> float:
        asked.append(trial.number)
        before = sum(each.number < trial.number for each in _counted(study))
        if before >= tune.trials:
            raise _SurplusError
        seed = int(np.random.default_rng([tune.seeds[0], before]).integers(2**32))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, begun // 2))
        return make(trial, before)

    try:
        study.optimize(objective, n_trials=1, catch=(DivergedError, _SurplusError))
    except BaseException as error:
        if isinstance(error, AssertionError) and isinstance(error.__context__, StorageInternalError):
            # Optuna says "Should not reach" where how a trial ended cannot be written.
            raise error.__context__ from error.__context__.__cause__
        for number in asked:
            again = any(
                number in each.system_attrs.get("retry_history", []) for each in study.get_trials(deepcopy=False)
            )
            if again and isinstance(error, ValueError):  # of Optuna: it is not in work
                log(f"trial {number + 1} seemed dead and is made by another worker")
                return
            trial = study.get_trials()[number]
            if not again and trial.state == TrialState.FAIL:  # let it be made again, with the same values
                RetryHeartbeatStaleTrialCallback()(study, trial)
        raise
