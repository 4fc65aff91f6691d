"""``python -m kit make`` writes the pieces, ``python -m kit run`` (kit/run.sh) works with them: docs/offline.md.

With argparse: newer versions of typer need pydantic, which the pieces bring.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lapml.errors import LapmlError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status, as of the `lapml` command."""
    options = _parser().parse_args(arguments)
    try:
        return options.work_of(options)
    except LapmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1


def _make(options: argparse.Namespace) -> int:
    from kit.make import make

    suite = options.suite
    if suite.is_absolute() or ".." in suite.parts:
        raise LapmlError(f"{suite}: expected a params file inside the checkout, named from its root")
    for path in make(suite, options.images, f"{options.py[0]}.{options.py[1:]}", options.out, options.mib):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _run(options: argparse.Namespace) -> int:
    from kit.offline import offline

    return offline(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kit", description="A suite on a machine that reaches nothing.")
    commands = parser.add_subparsers(required=True)

    make = commands.add_parser(
        "make", help="make the pieces of a kit", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    make.set_defaults(work_of=_make)
    make.add_argument("suite", type=Path, help="a params file of this checkout")
    make.add_argument("--images", type=Path, help="a folder with the images, as they are to travel")
    make.add_argument("--py", choices=("311", "312"), default="312", help="Python of the other machine")
    make.add_argument("--out", type=Path, default=Path("kit/out"), help="where the pieces go")
    make.add_argument("--mib", type=float, default=60, help="what a piece and the checkout may take together")

    run = commands.add_parser(
        "run",
        help="take the pieces in, make the data ready, run the suite, pack what is finished; again, to go on",
        epilog="Exit status: 0 all runs are finished; 75 some are to do, give the same command again; 1 something failed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run.set_defaults(work_of=_run)
    run.add_argument("pieces", type=Path, help="the folder with the pieces of a kit")
    run.add_argument("--jobs", type=_positive(int), default=os.environ.get("JOBS", "1"), help="runs side by side")
    run.add_argument(
        "--limit", type=float, default=os.environ.get("LIMIT", "0"), help="begin no run after this many seconds"
    )
    run.add_argument(
        "--stop", type=float, default=os.environ.get("STOP", "0"), help="stop the runs after this many seconds"
    )
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a setting"
    )
    run.add_argument("--take", action="store_true", help="only take in the pieces that are here")
    run.add_argument(
        "--gpu-tests", type=float, default=0, help="first run the tests marked gpu, for at most this many seconds"
    )
    run.add_argument(
        "--rates", type=_several(float), default=[], help="choose one of these learning rates on val: 0.005,0.01"
    )
    run.add_argument("--rate-epochs", type=_positive(int), default=5, help="epochs of the runs that choose it")
    run.add_argument("--probe", type=_several(int), default=[], help="choose one of these numbers as --jobs: 1,4,8,12")
    run.add_argument("--probe-seconds", type=float, default=20, help="how long each is tried, its start included")
    run.add_argument("--output", type=Path, default=Path("kit/results"), help="folder of the tar of finished runs")
    run.add_argument("--work", type=Path, default=Path("kit/work"), help="folder for what is taken in and installed")
    return parser


def _positive(kind: Callable) -> Callable:
    def number(text: str):
        if (value := kind(text)) <= 0:
            raise ValueError
        return value

    number.__name__ = "positive number"  # for argparse's message
    return number


def _several(kind: Callable) -> Callable:
    def numbers(text: str) -> list:
        return [_positive(kind)(part) for part in text.split(",")]

    numbers.__name__ = "list of positive numbers with commas between"
    return numbers


if __name__ == "__main__":
    sys.exit(main())
