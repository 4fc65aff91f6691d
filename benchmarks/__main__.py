"""``python -m benchmarks``: what lapml costs on this machine."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, RAW, ParamsFile, Set, load, plain

app = typer.Typer(add_completion=False, help="Measure what lapml costs on this machine.", **RAW)

Repeats = Annotated[int, typer.Option(min=2, help="Rounds; each round times every contender once.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps per contender and round, best a multiple of margin.every.")]
Dataset = Annotated[str, typer.Argument(help="A data set; the suite's first by default.")]
Output = Annotated[
    Path | None, typer.Option(help="Folder for JSON, table and plot, below OUTPUT/SUITE; default: print only.")
]


def _settings(params: Path, overrides: list[str], dataset: str):
    settings, paths = load(params, overrides, dataset or None)
    return settings, paths, dataset or settings.datasets[0]


def _timed(file: str, function: str, repeats: int, steps: int, summary: str) -> None:
    """Add a command that times contenders in interleaved rounds, by a function of one of the files here."""

    @plain
    def command(
        dataset: Dataset = "",
        repeats: Repeats = repeats,
        steps: Steps = steps,
        output: Output = None,
        params: ParamsFile = DEFAULT,
        overrides: Set = [],  # noqa: B006
    ) -> None:
        measure = getattr(import_module(f"benchmarks.{file}"), function)
        typer.echo(measure(*_settings(params, overrides, dataset), repeats, steps, output))

    app.command(file, help=f"{summary}\n\nExample: python -m benchmarks {file} --repeats {repeats}")(command)


_timed("rows", "bench", 10, 12, "Time each method's step against the bare model's, at mix.prob = 1.")
_timed("loaders", "loaders", 10, 12, "Time the data's way to the model against torchvision's and timm's loaders.")
_timed(
    "options",
    "options",
    10,
    12,
    "Time a step with torch's own options (channels_last, compilation, …) against a plain one.",
)
_timed("growth", "growth", 5, 8, "Time and memory as the data grow.")


@app.command()
@plain
def backbones(
    models: Annotated[list[str], typer.Argument(help="Models of timm; several that are common by default.")] = [],  # noqa: B006
    repeats: Repeats = 5,
    steps: Steps = 4,
    output: Output = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time each method's step by backbone, whole and with all of it learning, on the suite's first data set.

    Example: python -m benchmarks backbones resnet18 vit_tiny_patch16_224 --params suites/warblers.yaml
    """
    from benchmarks.backbones import MODELS
    from benchmarks.backbones import backbones as measured

    typer.echo(measured(*_settings(params, overrides, ""), models or MODELS, repeats, steps, output))


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


@app.command()
@plain
def slurm(
    suite: Annotated[str, typer.Argument(help="A suite's file.")] = "suites/tiny.yaml",
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and table; default: print only.")] = None,
) -> None:
    """Time a suite through SLURM against Snakemake alone, each from nothing.

    Example: python -m benchmarks slurm suites/tiny.yaml
    """
    from benchmarks.scheduler import slurm

    typer.echo(slurm(suite, output))


@app.command()
@plain
def workers(
    counts: Annotated[list[int], typer.Argument(min=1, help="Numbers of workers.")] = [1, 2, 4],  # noqa: B006
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study.")] = 8,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and table; default: print only.")] = None,
    params: ParamsFile = DEFAULT,
) -> None:
    """Time a suite's first study by the number of workers that share it.

    Example: python -m benchmarks workers 1 2 4 --trials 8
    """
    from benchmarks.workers import workers

    typer.echo(workers(*_settings(params, [], ""), counts, trials, params, output))


@app.command()
@plain
def plans(
    runs: Annotated[list[int], typer.Argument(min=1, help="Numbers of runs.")] = [100, 1000, 5000],  # noqa: B006
    repeats: Repeats = 3,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and table; default: print only.")] = None,
) -> None:
    """Time Snakemake's plan of a suite by the number of its runs.

    Example: python -m benchmarks plans 100 1000
    """
    from benchmarks.scheduler import plans as measured

    typer.echo(measured(runs, repeats, output))


if __name__ == "__main__":
    app()
