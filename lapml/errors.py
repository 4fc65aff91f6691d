"""The one exception that users see: its message says what was found, what was expected, and what to do."""


class LapmlError(Exception):
    """Bad input or state that a user can mend. The CLI prints it as one line and exits with ``status``."""

    status = 1
    everywhere = True  # where several processes share a run, all of them meet it


class DivergedError(LapmlError):
    """A loss that is not finite: the settings, not the files, are to blame. Tuning counts it as a failed trial."""


class Stopped(LapmlError):
    """Somebody asked to stop. The status is sysexits.h's EX_TEMPFAIL: the same command, given again, goes on."""

    status = 75


class LostError(LapmlError):
    """A process of several failed, or lost another one."""

    everywhere = False


class OutOfMemoryError(LapmlError):
    """Something does not fit into a GPU's memory; :func:`lapml.common.gpus.memory` raises it.

    Args:
        what: a sentence that says what.
        error: what torch said.
        advice: what to do.
    """

    everywhere = False

    def __init__(self, what: str, error: Exception, advice: str):
        said = " ".join(str(error).split())
        why = (said.partition(". ")[2] or said)[:150]  # torch's first sentence says no more than we do
        super().__init__(f"{what} ({why}); {advice}; what was saved before is intact")
