"""`lapml compare` and `lapml confusions`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import plain


@plain
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that contain some at any depth.")],
    baseline: Annotated[
        str,
        typer.Option(
            help="The method to compare with; default: baseline if the first folder has several methods, else the first."
        ),
    ] = "",
    top: Annotated[int, typer.Option(min=1, max=5, help="Top-K accuracy: K.")] = 1,
    confidence: Annotated[float, typer.Option(help="Confidence level of intervals and tests.")] = 0.95,
    replicates: Annotated[int, typer.Option(min=1, help="Replicates of the bootstrap.")] = 10_000,
    without: Annotated[
        str, typer.Option(help="Classes whose images are left out, by their numbers in the set: 158-182.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a Markdown table.")] = False,
    backbones: Annotated[
        Path | None,
        typer.Option(
            help="Folder for backbones.svg and .csv: top-1 against the cost of training, by backbone and method."
        ),
    ] = None,
) -> None:
    """Compare methods of finished runs. Accuracy over seeds, differences with tests, and the number of seeds needed.

    Example: lapml compare results/published/demo/runs/birds/baseline results/published/demo/runs/birds/cutmix
    """
    from lapml.analysis import compare as comparison

    result = comparison.compare(runs, baseline or None, top, confidence, replicates, without)
    if backbones:
        from lapml.report.backbones import write

        write(backbones, runs, baseline or None, confidence, without)
    typer.echo(comparison.as_json(result) if as_json else comparison.markdown(result))


@plain
def confusions(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that contain some at any depth.")],
    baseline: Annotated[str, typer.Option(help="The method to compare with, as in `lapml compare`.")] = "",
    group: Annotated[
        list[str],
        typer.Option(help="A group of sister classes to show, such as Sparrow; repeatable. Default: the four largest."),
    ] = [],  # noqa: B006
    word: Annotated[
        str, typer.Option(help="The word of their names that sister classes share: last or first.")
    ] = "last",
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file with the columns class,group: sisters are the classes of one group, not of one word."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence level of intervals and tests.")] = 0.95,
    replicates: Annotated[int, typer.Option(min=1, help="Replicates of the bootstrap.")] = 10_000,
) -> None:
    """Count mistakes between sister classes, and others. Names of sister classes share their last word, or a file groups them.

    Example: lapml confusions results/published/cub200/runs/cub200/baseline results/published/cub200/runs/cub200/cutmix
    """
    from lapml.analysis import confusions as mistakes

    if word not in ("last", "first"):
        raise typer.BadParameter(f"found {word!r}, expected last or first", param_hint="--word")
    result = mistakes.confusions(runs, baseline or None, group, word, confidence, replicates, groups)
    typer.echo(mistakes.markdown(result))
