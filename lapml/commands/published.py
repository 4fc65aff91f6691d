"""`lapml publish` and `lapml restore`: what is committed of a suite, there and back."""

from typing import Annotated

import typer

from lapml.commands.common import DEFAULT, ParamsFile, load, plain


@plain
def publish(
    params: ParamsFile = DEFAULT,
    finished: Annotated[
        bool, typer.Option("--finished", help="Add the runs that are finished, whether or not there is a report yet.")
    ] = False,
) -> None:
    """Copy a suite's report, metrics, predictions and provenance to results/published/SUITE, which is committed.

    Example: lapml publish --params suites/sparrows.yaml
    """
    settings, paths = load(params, [])
    from lapml.report.accumulate import publish_finished
    from lapml.report.published import publish as publish_whole

    typer.echo(f"{(publish_finished if finished else publish_whole)(settings, paths)}")


@plain
def restore(params: ParamsFile = DEFAULT) -> None:
    """Take over the runs of results/published/SUITE that fit the settings and the packed data, so that only the others
    are run.

    Example: lapml restore --params suites/sparrows.yaml
    """
    settings, paths = load(params, [])
    from lapml.report import accumulate

    typer.echo(accumulate.restore(settings, paths))
