"""`lapml localise`."""

from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, Dataset, ParamsFile, Set, known, load, plain, quiet, say_device


@plain
def localise(
    dataset: Dataset,
    params: ParamsFile = DEFAULT,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where no method of the suite's tables mixes by what is found.")
    ] = False,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Find the objects of the training images and their parts, by a pretrained network and without labels; goes on where it was
    interrupted.

    Example: lapml localise birds
    """
    settings, paths = load(params, overrides)
    known(settings, dataset)
    from lapml.localise.suite import localise_suite

    if anyway or settings.localising():
        say_device(settings.of(dataset).train)
    meta = localise_suite(settings, paths, dataset, anyway, progress=not quiet())
    if meta is None:
        typer.echo(f"no method of suite {settings.suite} mixes by objects or parts: nothing to find (--anyway does)")
    else:
        typer.echo(f"{paths.localised(dataset)}: {meta['count']} images of {' + '.join(meta['splits'])}")
