"""``python -m benchmarks``: what lapml costs on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, RAW, ParamsFile, Set, find_dataset, load, plain

app = typer.Typer(add_completion=False, help="Measure what lapml costs on this machine.", **RAW)

Repeats = Annotated[int, typer.Option(min=2, help="Rounds; each round times every contender once.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps per contender and round, best a multiple of margin.every.")]
Dataset = Annotated[str, typer.Argument(help="A data set; the suite's first by default.")]
Output = Annotated[
    Path | None, typer.Option(help="Folder for JSON, table and plot, below OUTPUT/SUITE; default: print only.")
]


def _settings(params: Path, overrides: list[str], dataset: str):
    settings, paths = load(params, overrides)
    dataset = dataset or settings.datasets[0]
    find_dataset(settings, dataset)
    return settings, paths, dataset


@app.command()
@plain
def rows(
    dataset: Dataset = "",
    repeats: Repeats = 10,
    steps: Steps = 12,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time each method's step against the bare model's, at mix.prob = 1.

    Example: python -m benchmarks rows --repeats 10
    """
    from benchmarks.rows import bench

    typer.echo(bench(*_settings(params, overrides, dataset), repeats, steps, output))


@app.command()
@plain
def loaders(
    dataset: Dataset = "",
    repeats: Repeats = 10,
    steps: Steps = 12,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time the data path against torchvision's and timm's loaders.

    Example: python -m benchmarks loaders --repeats 5
    """
    from benchmarks.loaders import loaders as measured

    typer.echo(measured(*_settings(params, overrides, dataset), repeats, steps, output))


@app.command()
@plain
def options(
    dataset: Dataset = "",
    repeats: Repeats = 10,
    steps: Steps = 12,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time a step with torch's own options (channels_last, fused optimisers, compilation) against the plain step.

    Example: python -m benchmarks options --repeats 5
    """
    from benchmarks.options import options as measured

    typer.echo(measured(*_settings(params, overrides, dataset), repeats, steps, output))


@app.command()
@plain
def growth(
    dataset: Dataset = "",
    repeats: Repeats = 5,
    steps: Steps = 8,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time and memory as the data grow.

    Example: python -m benchmarks growth
    """
    from benchmarks.growth import growth as measured

    typer.echo(measured(*_settings(params, overrides, dataset), repeats, steps, output))


@app.command()
@plain
def profile(
    dataset: Dataset = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are profiled.")] = 20,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Profile a step by its parts, and write a trace.

    Example: python -m benchmarks profile --steps 20
    """
    from benchmarks.trace import trace

    typer.echo(trace(*_settings(params, overrides, dataset), steps, output))


@app.command()
@plain
def packing(
    dataset: Dataset = "",
    images: Annotated[int, typer.Option(min=10, help="Images, evenly spaced over the data set.")] = 600,
    repeats: Repeats = 10,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time packing a fetched data set against a plain Pillow loop over the same images.

    Example: python -m benchmarks packing birds
    """
    from benchmarks.packing import preparing

    typer.echo(preparing(*_settings(params, overrides, dataset), images, repeats, output))


if __name__ == "__main__":
    app()
