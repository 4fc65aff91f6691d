"""`lapml diagnose` and `lapml distances`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, Dataset, ParamsFile, Set, known, load, plain, say_device


@plain
def diagnose(dataset: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Measure how good the mixed images and their labels are, by true boxes, parts and masks; write tables and a gallery.

    Example: lapml diagnose birds
    """
    settings, paths = load(params, overrides)
    known(settings, dataset)
    from lapml.report.diagnosis import diagnose

    say_device(settings.of(dataset).train)
    folder = diagnose(settings, paths, dataset)
    typer.echo((folder / "diagnosis.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder}")


@plain
def distances(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, and folders that hold some; with their weights.")],
    baseline: Annotated[str, typer.Option(help="The row that comes first, as of `lapml compare`.")] = "",
    images: Annotated[int, typer.Option(min=2, help="Generated for each model, at least.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the intervals over seeds.")] = 0.95,
    output: Annotated[
        Path | None, typer.Option(help="Writes distances.md, .svg, .csv and .json there; only printed without it.")
    ] = None,
) -> None:
    """How far generated images lie from their references in the embeddings of finished models, against the similarity of their
    parts.

    Example: lapml distances results/demo/runs/birds/loc_cutmix results/demo/runs/birds/adaptive_margin
    """
    from lapml.report import distances as report

    found = report.measure(runs, baseline or None, images, confidence)
    if output:
        report.write(output, found, confidence)
    typer.echo(report.markdown(found, confidence))
