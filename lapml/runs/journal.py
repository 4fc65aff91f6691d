"""Where a study of margins is kept: an Optuna journal beside the declared output, safe against dying processes and full disks."""

import fcntl
import math
import os
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lapml.errors import LapmlError
from lapml.files import atomic
from lapml.paths import Paths

DIVERGED = "diverged"  # attribute of a trial, with the message
VALUES = "values"  # attribute of a trial: what its margins were, where the search goes by quantiles


def opened(paths: Paths, dataset: str, name: str) -> optuna.Study:
    """The study of this name, made where there is none.

    Raises:
        LapmlError: its journal is damaged; it stays as it is.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = paths.journal(dataset, name)
    journal.parent.mkdir(parents=True, exist_ok=True)
    before = journal.read_bytes() if journal.exists() else None
    try:
        lock = _Lock(journal)
        backend = JournalFileBackend(str(journal), lock)  # makes the file
        _mend(journal, lock)
        storage = JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        _refuse_odd(study)
        return study
    except OSError:  # says itself what is wrong, and not that the journal is
        raise
    except Exception as error:  # a damaged journal shows itself in many ways
        if before is not None and journal.read_bytes() != before:  # a mended line, or the beginning of a study
            with atomic(journal) as temporary:
                temporary.write_bytes(before)
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


def _refuse_odd(study: optuna.Study) -> None:
    """ValueError for a trial whose numbers are none: Optuna reads what it is given, and stumbles over it later."""
    for trial in study.get_trials(deepcopy=False):
        margins = trial.user_attrs.get(VALUES, {})
        for where in (trial.params, trial.intermediate_values, margins, dict(enumerate(trial.values or []))):
            if not isinstance(where, dict):
                raise ValueError(f"trial {trial.number}: found {where!r}, expected numbers by name")
            for name, value in where.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"trial {trial.number}: {name}: found {value!r}, expected a finite number")
        if trial.state == TrialState.COMPLETE and not trial.values:
            raise ValueError(f"trial {trial.number}: is complete without a score")


def drop_unfinished(study: optuna.Study) -> None:
    """Trials that a killed process left behind are failed; they do not count, and their draw is made again."""
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING), deepcopy=False):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: scored ones, pruned ones, and those whose loss diverged (not those that a killed process left)."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(states=ended, deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or DIVERGED in trial.user_attrs]
