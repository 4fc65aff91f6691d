"""`lapml data`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, RAW, Dataset, ParamsFile, Set, known, load, plain, quiet, refuse_pictures
from lapml.errors import LapmlError

app = typer.Typer(help="Fetch, prepare, check and show data sets.", **RAW)


@app.command("fetch")
@plain
def data_fetch(
    name: Dataset,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Take what the environment variable names, whatever was fetched before."),
    ] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Draw, find, unpack or download a data set.

    Example: lapml data fetch birds
    """
    from lapml.data.fetch.sources import fetch

    settings, paths = load(params, overrides)
    fetch(name, known(settings, name), paths, anew)
    _say_left_out(name, settings, paths)
    typer.echo(f"{paths.source(name)}")


@app.command("prepare")
@plain
def data_prepare(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Index a fetched data set, carve the validation split, and pack its images.

    Example: lapml data prepare birds
    """
    from lapml.data.pack import prepare

    settings, paths = load(params, overrides)
    prepare(name, known(settings, name), paths)
    _say_left_out(name, settings, paths)
    typer.echo(f"{paths.pack(name)}")


@app.command("check")
@plain
def data_check(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Count splits and classes, and look for unreadable and duplicate images and boxes outside.

    Example: lapml data check birds
    """
    from lapml.data.inspect import check

    settings, paths = load(params, overrides)
    text, sound = check(name, known(settings, name), paths, progress=not quiet())
    typer.echo(text)
    if not sound:
        raise typer.Exit(1)


@app.command("show")
@plain
def data_show(
    name: Dataset,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("contact.png"),
    count: Annotated[int, typer.Option(min=1, max=400, help="Images.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    objects: Annotated[
        bool, typer.Option("--objects", help="With the object and part maps that `lapml localise` found.")
    ] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Write a contact sheet with boxes and parts; or, with --objects, with what was found without them.

    Example: lapml data show birds --output birds.png
    """
    from lapml.data.fetch.sources import refuse_other

    settings, paths = load(params, overrides)
    refuse_other(name, known(settings, name), paths)
    refuse_pictures(settings, "a contact sheet")
    if objects:
        from lapml.localise.sheet import show
    else:
        from lapml.data.sheet import show

    show(name, paths, output, count, seed)
    _say_left_out(name, settings, paths)
    typer.echo(f"{output}")


def _say_left_out(name: str, settings, paths) -> None:
    """What lies among the images and is not read, on standard error; nothing where the data set itself is gone."""
    from lapml.data.fetch.sources import laid_out
    from lapml.data.inspect import left_out

    try:
        _, root = laid_out(name, paths)
        for note in left_out(settings.data[name], root):
            typer.echo(f"note: {note}", err=True)
    except LapmlError:
        return  # a pack can be shown without the data set that it was made of
