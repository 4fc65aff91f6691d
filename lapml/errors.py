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
    """A batch does not fit into a GPU's memory.

    Args:
        batch: which one, in words.
        error: what torch said.
        advice: what to do.
    """

    everywhere = False

    def __init__(self, batch: str, error: Exception, advice: str):
        why = str(error).partition(". ")[2][:150]
        super().__init__(f"{batch} ({why}); {advice}; what was saved before is intact")
