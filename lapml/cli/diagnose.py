"""`lapml diagnose`, `lapml picture` and `lapml distances`."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, Dataset, ParamsFile, Set, load, plain, refuse_pictures, say_device


@plain
def diagnose(dataset: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Measure mixed images and their labels. They are held against true boxes, parts and masks, in tables and a gallery.

    Example: lapml diagnose birds
    """
    settings, paths = load(params, overrides, dataset)
    from lapml.report.diagnosis import diagnose

    say_device(settings.of(dataset).train)
    folder = diagnose(settings, paths, dataset)
    typer.echo((folder / "diagnosis.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder}")


@plain
def picture(
    dataset: Dataset,
    methods: Annotated[
        list[str], typer.Argument(help="Methods that mix; of several that mix alike, the first; none: all.")
    ] = [],  # noqa: B006
    output: Annotated[Path, typer.Option(help="The picture: .png, .webp, .svg, .pdf, …")] = Path("mixed.png"),
    pair: Annotated[
        int | None, typer.Option(min=1, help="Which pair of the diagnosis' gallery; default: its first of two classes.")
    ] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Draw one pair of images, mixed by each method, with the maps that it goes by and its label: a figure for a paper.

    Example: lapml picture birds cutmix snapmix loc_cutmix --pair 9 --output mixing.pdf
    """
    settings, paths = load(params, overrides, dataset)
    refuse_pictures(settings, "a pair of mixed images")
    from lapml.report.mixed import draw

    number = draw(settings, paths, dataset, methods, pair, output)
    if pair is None:
        typer.echo(f"note: pair {number}, the first of two classes; --pair takes another", err=True)
    typer.echo(f"{output}")


@plain
def distances(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with weights, or folders that contain some.")],
    baseline: Annotated[str, typer.Option(help="The method that comes first, as in `lapml compare`.")] = "",
    images: Annotated[int, typer.Option(min=2, help="Generated images per model, at least.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    output: Annotated[
        Path | None, typer.Option(help="Folder for distances.md, .svg, .csv and .json; default: print only.")
    ] = None,
) -> None:
    """Measure how far mixed images are from their references. In embeddings of finished models, against part similarity.

    Example: lapml distances results/demo/runs/birds/loc_cutmix results/demo/runs/birds/adaptive_margin
    """
    from lapml.report import distances as report

    found = report.measure(runs, baseline or None, images, confidence)
    if output:
        report.write(output, found, confidence)
    typer.echo(report.markdown(found, confidence))
