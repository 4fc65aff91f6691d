"""`lapml init`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import plain


@plain
def init(
    folder: Annotated[Path, typer.Argument(help="A folder with train/CLASS/*.jpg and test/CLASS/*.jpg.")],
    name: Annotated[str, typer.Option(help="Of data set and suite; default: that of the folder.")] = "",
    output: Annotated[Path | None, typer.Option(help="The file to write; default: NAME.yaml.")] = None,
    labels: Annotated[
        str, typer.Option(help="Where folders lie in class folders: nested or top, as data.NAME.labels.")
    ] = "",
    hours: Annotated[
        float, typer.Option(help="The largest model is chosen by which the suite takes at most so long.")
    ] = 2,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
) -> None:
    """Write a suite for your own images. Model, image size and epochs suit them and this machine, and it says how long the suite
    takes.

    Example: lapml init data/mine
    """
    if labels not in ("", "nested", "top"):
        raise typer.BadParameter(f"found {labels!r}, expected nested or top", param_hint="--labels")
    from lapml.runs.begin import init as begin

    typer.echo(begin(folder, name, output, labels or None, hours, replace))
