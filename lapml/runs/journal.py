"""The Optuna journal of a study of margins, which survives killed processes and full disks."""

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
VALUES = "values"  # attribute of a trial: its margins, if the search is by quantiles


def opened(paths: Paths, dataset: str, name: str) -> optuna.Study:
    """The study of this name, created if there is none.

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
        _cut_partial_line(journal, lock)
        storage = JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        _refuse_odd(study)
        return study
    except OSError:  # not damage
        raise
    except Exception as error:  # damage raises many types
        if before is not None and journal.read_bytes() != before:  # changed by the attempt
            with atomic(journal) as temporary:
                temporary.write_bytes(before)
        raise LapmlError(
            f"{journal}: cannot be read as an Optuna journal ({error}); delete it to start this study over"
        ) from error


class _Lock:
    """Lock of a journal; the system frees it when the process dies. Optuna's own lock outlives a killed process, and
    blocks for ever with a relative path.
    """

    def __init__(self, journal: Path):
        self.journal = journal

    def acquire(self) -> bool:
        self.file = open(self.journal, "rb")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self.file.close()


def _cut_partial_line(journal: Path, lock: _Lock) -> None:
    """Cut off an incomplete last line, which a full disk or a crash leaves."""
    lock.acquire()
    try:
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _refuse_odd(study: optuna.Study) -> None:
    """Raise a ValueError for a trial whose numbers are not finite numbers, which Optuna does not check."""
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
    """Mark trials that a killed process left as failed; they do not count and are drawn again."""
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING), deepcopy=False):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: scored, pruned, or with a diverged loss; not those that a killed process left."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(states=ended, deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or DIVERGED in trial.user_attrs]
