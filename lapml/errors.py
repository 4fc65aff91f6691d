"""The one exception that users see: its message says what was found, what was expected, and what to do."""

from collections.abc import Collection
from difflib import get_close_matches


def expected(name: str, known: Collection[str]) -> str:
    """What a message says of an unknown name: ``expected one of a, b``, and the one that was probably meant."""
    close = get_close_matches(name, known, 1)
    return f"expected one of {', '.join(known) or 'none'}" + (f"; did you mean {close[0]}?" if close else "")


def words(error: object) -> str:
    """What another library's error says, on one line; the name of its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class LapmlError(Exception):
    """Bad input or state that a user can correct. The CLI prints it as one line and exits with ``status``."""

    status = 1
    everywhere = True  # where several processes share a run, all of them meet it


class DivergedError(LapmlError):
    """A loss that is not finite, or stays far above that of guessing: the settings are the cause. Tuning counts it as a failed
    trial."""


class Stopped(LapmlError):
    """A stop was asked for. The status is EX_TEMPFAIL of sysexits.h: the same command continues."""

    status = 75


class LostError(LapmlError):
    """One of several processes failed, or lost another one."""

    everywhere = False


class OutOfMemoryError(LapmlError):
    """Something does not fit into a GPU's memory; :func:`lapml.common.gpus.memory` raises it.

    Args:
        what: what does not fit, as a sentence.
        error: torch's.
        advice: what to do.
    """

    everywhere = False

    def __init__(self, what: str, error: Exception, advice: str):
        text = " ".join(str(error).split())
        why = (text.partition(". ")[2] or text)[:150]  # torch's first sentence repeats ours
        super().__init__(f"{what} ({why}); {advice}; saved states are intact")
