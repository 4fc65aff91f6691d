"""What the commands share: options, and how they end."""

import os
import signal
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from lapml.errors import LapmlError, OutOfMemoryError, Stopped

RAW = {"rich_markup_mode": None, "no_args_is_help": True, "pretty_exceptions_enable": False}
ParamsFile = Annotated[
    Path, typer.Option("--params", help="A params file: complete, or an overlay such as suites/tiny.yaml.")
]
Set = Annotated[list[str], typer.Option("--set", help="Override a key, as train.lr=0.01; repeatable.")]
Dataset = Annotated[str, typer.Argument(help="A section of `data` in the params file.")]
MethodName = Annotated[str, typer.Argument(help="A method: a section of `methods`.")]
SeedNumber = Annotated[int, typer.Argument(min=0, help="The seed.")]
DEFAULT = Path("params.yaml")


def plain(function):
    """A LapmlError becomes one message on standard error and its exit status; so do a full disk and Ctrl-C."""

    @wraps(function)
    def command(*args, **kwargs):
        everywhere, status = False, 1
        try:
            return function(*args, **kwargs)
        except LapmlError as error:
            message, everywhere, status = str(error), error.everywhere, error.status
        except OSError as error:  # a full disk, a folder that may not be written
            message = f"{error.filename or 'the system'}: {error.strerror or error}; finished results are intact"
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, outside lapml.common.gpus.memory
                raise
            what, advice = (
                "the models and images of this command do not fit into the GPU's memory",
                "take a GPU that no other process uses",
            )
            message = str(OutOfMemoryError(what, error, advice))
        except KeyboardInterrupt:
            message, everywhere, status = "stopped; run the same command again to continue", True, Stopped.status
        first = is_first()
        if everywhere and not first and status == 1:  # the launcher ends all processes with the first one that ends
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(15)
            first = True  # rank 0 did not fail itself
        if message and (first or not everywhere):
            typer.echo(f"error: {message}", err=True)
        raise typer.Exit(status)

    return command


def is_first() -> bool:
    """Whether this is the only process of a command, or the first of those that torchrun started."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def load(path: Path, overrides: list[str], dataset: str | None = None):
    """The params of a suite, and its paths; LapmlError where it has no data set of a name that is given."""
    from lapml.config import load
    from lapml.config.suites import find_dataset
    from lapml.paths import Paths

    params = load(path, overrides)
    if dataset is not None:
        find_dataset(params, dataset)
    return params, Paths(params.suite)


def quiet() -> bool:
    """Whether nobody watches standard error: then no progress bars are drawn."""
    return not sys.stderr.isatty()


def say_device(train) -> None:
    """Print a note if ``train.device: auto`` finds no GPU."""
    from lapml.models.device import without_gpu

    if (why := without_gpu(train)) and is_first():
        typer.echo(
            f"note: train.device is auto and there is no GPU ({why}): this runs on the CPU; set train.device to cpu to "
            "silence this note"
        )


def refuse_pictures(settings, what: str, advice: str = "to allow it, give --set report.images=true") -> None:
    """LapmlError where ``report.images`` forbids pictures of the data."""
    if not settings.report.images:
        raise LapmlError(f"report.images is false: pictures of the data are not written, and {what} is one; {advice}")
