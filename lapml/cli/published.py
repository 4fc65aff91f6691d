"""`lapml publish` and `lapml restore`: the committed results of a suite."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, ParamsFile, Set, load, plain


@plain
def publish(
    params: ParamsFile = DEFAULT,
    finished: Annotated[
        bool, typer.Option("--finished", help="Add finished runs, even if there is no report yet.")
    ] = False,
    source: Annotated[Path | None, typer.Option("--from", help="Add the finished runs of a tar by kit/run.sh.")] = None,
    made: Annotated[
        bool,
        typer.Option(
            "--tables", help="Make report, tables and charts of the published runs again, from their records."
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also if published runs that the settings do not have are deleted.")
    ] = False,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Copy a suite's results to results/published/SUITE. Report, metrics, predictions and provenance are to be committed.

    Example: lapml publish --params suites/sparrows.yaml
    """
    if replace and (finished or made or source is not None):
        raise typer.BadParameter("give it without --finished, --from and --tables", param_hint="--replace")
    settings, paths = load(params, overrides)
    from lapml.report.accumulate import publish_finished, publish_from
    from lapml.report.published import publish as publish_whole
    from lapml.report.published import publish_tables

    if source is not None:
        typer.echo(publish_from(settings, paths, source))
    if finished:
        typer.echo(publish_finished(settings, paths))
    if made:
        typer.echo(f"{publish_tables(settings, params, paths)}")
    if not (finished or made or source is not None):
        typer.echo(f"{publish_whole(settings, paths, replace)}")


@plain
def restore(params: ParamsFile = DEFAULT) -> None:
    """Take over published runs that fit the settings and data. Only the others of the suite are then run.

    Example: lapml restore --params suites/sparrows.yaml
    """
    settings, paths = load(params, [])
    from lapml.report import accumulate

    typer.echo(accumulate.restore(settings, paths))
