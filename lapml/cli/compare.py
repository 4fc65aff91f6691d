"""`lapml compare` and `lapml confusions`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import plain


@plain
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, and folders that hold some at any depth.")],
    baseline: Annotated[
        str,
        typer.Option(help="The row to compare with; by default the first, or of a first folder of several, baseline."),
    ] = "",
    top: Annotated[int, typer.Option(min=1, max=5, help="Count an answer that is among so many first ones.")] = 1,
    confidence: Annotated[float, typer.Option(help="Of the intervals, and for what is called significant.")] = 0.95,
    replicates: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a Markdown table.")] = False,
) -> None:
    """Compare rows of finished runs: accuracy over seeds, differences with tests, and the seeds that would show them.

    Example: lapml compare results/published/demo/runs/birds/baseline results/published/demo/runs/birds/cutmix
    """
    from lapml.analysis import compare as rows

    result = rows.compare(runs, baseline or None, top, confidence, replicates)
    typer.echo(rows.as_json(result) if as_json else rows.markdown(result))


@plain
def confusions(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, and folders that hold some at any depth.")],
    baseline: Annotated[str, typer.Option(help="The row to compare with, as of `lapml compare`.")] = "",
    group: Annotated[
        list[str], typer.Option(help="A group of sisters to show, as Sparrow; repeatable. The largest four by default.")
    ] = [],  # noqa: B006
    word: Annotated[str, typer.Option(help="Of a class name that sisters share: last, or first.")] = "last",
    confidence: Annotated[float, typer.Option(help="Of the intervals, and for what is called significant.")] = 0.95,
    replicates: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 10_000,
) -> None:
    """Which mistakes rows of finished runs make: between sister species (classes of one last word), and the others.

    Example: lapml confusions results/published/sparrows/runs/cub200/baseline results/published/sparrows/runs/cub200/cutmix
    """
    from lapml.analysis import confusions as mistakes

    if word not in ("last", "first"):
        raise typer.BadParameter(f"found {word!r}, expected last or first", param_hint="--word")
    typer.echo(mistakes.markdown(mistakes.confusions(runs, baseline or None, group, word, confidence, replicates)))
