"""`lapml data`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, RAW, Dataset, ParamsFile, Set, load, plain, quiet, refuse_pictures
from lapml.errors import LapmlError

app = typer.Typer(help="Fetch, prepare, check and show data sets.", **RAW)


@app.command("fetch")
@plain
def data_fetch(
    name: Dataset,
    anew: Annotated[
        bool,
        typer.Option(
            "--anew", help="Take the data that the environment variable names, even if other data were fetched before."
        ),
    ] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Fetch a data set: generate, find, unpack or download it.

    Example: lapml data fetch birds
    """
    from lapml.data.fetch.sources import fetch

    settings, paths = load(params, overrides, name)
    fetch(name, settings.data[name], paths, anew)
    _print_left_out(name, settings, paths)
    typer.echo(f"{paths.source(name)}")


@app.command("prepare")
@plain
def data_prepare(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Index a fetched data set, split off the validation set, and pack the images.

    Example: lapml data prepare birds
    """
    from lapml.data.pack import prepare

    settings, paths = load(params, overrides, name)
    boxed = [method for method in settings.all_methods() if settings.methods[method].annotated()]
    prepare(name, settings.data[name], paths, boxed=boxed if name in settings.datasets else ())
    _print_left_out(name, settings, paths)
    typer.echo(f"{paths.pack(name)}")


@app.command("check")
@plain
def data_check(
    name: Dataset,
    everything: Annotated[
        bool, typer.Option("--all", help="Name every file that is found, instead of the first few.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, which names every file.")] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Count splits and classes; find unreadable files, copies, near-duplicates across splits, and boxes outside their image.

    Example: lapml data check birds --all
    """
    from lapml.data.inspect import check

    settings, paths = load(params, overrides, name)
    checked = check(name, settings.data[name], paths, progress=not quiet())
    # In ASCII, for names of files left out may be bytes that are no text.
    typer.echo(json.dumps(checked.record(), indent=1) if as_json else checked.text(everything))
    if not checked.sound:
        raise typer.Exit(1)


@app.command("split")
@plain
def data_split(
    folder: Annotated[Path, typer.Argument(help="A folder that holds a folder of images for each class.")],
    target: Annotated[Path | None, typer.Option("--to", help="The new folder; default: FOLDER-split.")] = None,
    test: Annotated[float, typer.Option(help="The share of each class's images to test.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the draw.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="A regular expression, searched in the path below CLASS: images with the same first group stay on one side."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Keep only equal files on one side, not all near-duplicates.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="Where folders lie in class folders: nested or top, as data.NAME.labels.")
    ] = None,
) -> None:
    """Lay CLASS/*.jpg out as train/CLASS and test/CLASS in a new folder, by links; near-duplicates stay on one side.

    Example: lapml data split photos --test 0.2 --group-by '^(.+)_'
    """
    from lapml.data.split import split

    typer.echo(split(folder, target, test, seed, group_by, exact, labels, progress=not quiet()))


@app.command("show")
@plain
def data_show(
    name: Dataset,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("contact.png"),
    count: Annotated[int, typer.Option(min=1, max=400, help="Images.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of images.")] = 0,
    objects: Annotated[
        bool, typer.Option("--objects", help="Show the object and part maps of `lapml localise`.")
    ] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Write a contact sheet with boxes and parts, or with --objects with object and part maps.

    Example: lapml data show birds --output birds.png
    """
    from lapml.data.fetch.sources import refuse_other

    settings, paths = load(params, overrides, name)
    refuse_other(name, settings.data[name], paths)
    refuse_pictures(settings, "a contact sheet")
    if objects:
        from lapml.localise.sheet import show
    else:
        from lapml.data.sheet import show

    show(name, paths, output, count, seed)
    _print_left_out(name, settings, paths)
    typer.echo(f"{output}")


def _print_left_out(name: str, settings, paths) -> None:
    """Print which files among the images are not read; nothing if the data set is gone."""
    from lapml.data.fetch.sources import laid_out
    from lapml.data.inspect import left_out

    try:
        _, root = laid_out(name, paths)
        for note in left_out(settings.data[name], root):
            typer.echo(f"note: {note}", err=True)
    except LapmlError:
        return  # a pack can be shown without its data set
