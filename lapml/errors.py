"""The one exception that users see: its message says what was found, what was expected, and what to do."""


class LapmlError(Exception):
    """Bad input or state that a user can mend. The CLI prints it as one line and exits with status 1."""


class DivergedError(LapmlError):
    """A loss that is not finite: the settings, not the files, are to blame. Tuning counts it as a failed trial."""
