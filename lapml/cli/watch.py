"""`lapml watch`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, ParamsFile, Set, load, plain


@plain
def watch(
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
    once: Annotated[bool, typer.Option("--once", help="Print the table and end.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds from one look to the next.")] = 5.0,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write TensorBoard's event files there, a folder for each run."),
    ] = None,
    dvc: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write metrics and plots there, for `dvc exp show` and `dvc plots show`."
        ),
    ] = None,
) -> None:
    """Show how all runs of a suite stand: epochs, loss, accuracy and time left of those under way, top-1 of finished ones.
    Ctrl-C ends the command, not the runs.

    Example: lapml watch --once
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from lapml.runs.watching import DONE, RUNNING, standings

    settings, paths = load(params, overrides)
    console = Console()
    writers: list = []
    if tensorboard is not None:
        from lapml.runs.live import Events

        writers.append(Events(settings, paths, tensorboard))
    if dvc is not None:
        from lapml.runs.live import Plots

        writers.append(Plots(paths, dvc))

    def seen() -> list:
        rows = standings(settings, paths)
        for writer in writers:
            writer.added(rows)
        return rows

    if once:
        console.print(_table(settings.suite, seen()))
        return
    rows: list = []
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                rows = seen()
                live.update(_table(settings.suite, rows), refresh=True)
                if all(row.state == DONE for row in rows):
                    return
                time.sleep(every)
    except KeyboardInterrupt:
        under_way = sum(row.state == RUNNING for row in rows)
        if rows:  # else, stopped before the first look
            typer.echo(f"{under_way} runs go on" if under_way else "no run is under way")


def _table(suite: str, rows: list):
    from rich import box
    from rich.table import Table

    from lapml.common.text import duration
    from lapml.runs.watching import DONE, OTHER, RUNNING, STOPPED

    done = sum(row.state == DONE for row in rows)
    table = Table(
        title=f"suite {suite}: {done} of {len(rows)} runs done",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("data set", "method", "seed", "state", "epoch", "loss", "train %", "left", "top-1 %"):
        text = name in ("data set", "method", "state")
        table.add_column(name, justify="left" if text else "right", no_wrap=True)
    style = {DONE: "green", RUNNING: "bold", STOPPED: "yellow", OTHER: "yellow"}
    number = lambda value, form: "" if value is None else format(value, form)  # noqa: E731
    for row in rows:
        table.add_row(
            row.dataset,
            row.method,
            str(row.seed),
            row.state,
            "" if row.epoch is None else f"{row.epoch}/{row.epochs or '?'}",
            number(row.loss, ".3f"),
            number(row.accuracy, ".1f"),
            "" if row.left is None else duration(row.left),
            number(row.top1, ".2f"),
            style=style.get(row.state, "dim"),
        )
    return table
