"""`lapml localise`."""

from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, Dataset, ParamsFile, Set, load, plain, quiet, say_device


@plain
def localise(
    dataset: Dataset,
    params: ParamsFile = DEFAULT,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also if no method of the suite mixes by the maps.")] = False,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Find objects and parts of the training images. A pretrained model does so, without labels; an interrupted search
    continues.

    Example: lapml localise birds
    """
    settings, paths = load(params, overrides, dataset)
    from lapml.localise.suite import localise_suite

    if anyway or settings.localising():
        say_device(settings.of(dataset).train)
    meta = localise_suite(settings, paths, dataset, anyway, progress=not quiet())
    if meta is None:
        typer.echo(
            f"no method of suite {settings.suite} mixes by object or part maps: nothing to do (--anyway makes them)"
        )
    else:
        typer.echo(f"{paths.localised(dataset)}: {meta['count']} images of {' + '.join(meta['splits'])}")
