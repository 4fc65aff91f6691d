"""`lapml predict`, `lapml explain` and `lapml export`: a finished run applied to image files."""

from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, ParamsFile, load, plain, refuse_pictures

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Images = Annotated[list[Path], typer.Argument(help="Image files.")]
Banner = Annotated[
    int | None,
    typer.Option(
        min=0, help="Rows of pixels to cut off the bottom; default: as for the run's data set (FGVC-Aircraft: 20)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@plain
def predict(
    run: RunFolder,
    images: Images,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.")] = 5,
    banner: Banner = None,
    as_json: Json = False,
) -> None:
    """Print the most probable classes of images. They are preprocessed as in evaluation.

    Files that are not images are named at the end, with exit status 1; the others are predicted.

    Example: lapml predict results/demo/runs/birds/baseline/0 photos/*.jpg
    """
    import json

    from lapml.apply.predict import predict as predicted
    from lapml.apply.predict import table

    failed: list[tuple[Path, str]] = []
    results = predicted(run, images, top, banner, failed)
    if results or as_json:
        typer.echo(json.dumps(results, indent=2) if as_json else table(results))
    _print_failed(failed)


@plain
def explain(
    run: RunFolder,
    images: Images,
    output: Annotated[Path, typer.Option(help="A folder for the figures, STEM.png for each image.")] = Path(
        "explanations"
    ),
    neighbours: Annotated[
        int, typer.Option(min=0, max=100, help="Similar training images per image; 0 needs no packed data.")
    ] = 5,
    target: Annotated[str, typer.Option(help="The class whose map is drawn; default: the predicted one.")] = "",
    banner: Banner = None,
    params: ParamsFile = DEFAULT,
    as_json: Json = False,
) -> None:
    """Draw images' class maps, and similar training images.

    Files that are not images are named at the end, with exit status 1; the others are explained.

    Example: lapml explain results/demo/runs/birds/baseline/0 photos/*.jpg --output why
    """
    import json

    from lapml.apply.explain import explain as explained
    from lapml.apply.explain import text
    from lapml.runs.folder import open_run

    if neighbours and params.is_file():
        settings, _ = load(params, [])
        if settings.suite == open_run(run)[0]["suite"]:
            refuse_pictures(settings, "a training image", "give --neighbours 0 to see only the images that you name")
    failed: list[tuple[Path, str]] = []
    results = explained(run, images, output, neighbours, target or None, banner, failed=failed)
    if results or as_json:
        typer.echo(json.dumps(results, indent=2) if as_json else text(results))
    _print_failed(failed)


def _print_failed(failed: list[tuple[Path, str]]) -> None:
    """Print the files that could not be read; the exit status is then 1."""
    for _, why in failed:
        typer.echo(f"error: {why}", err=True)
    if failed:
        raise typer.Exit(1)


@plain
def export(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="onnx or torch (torch.export's .pt2).")],
    output: Annotated[
        Path | None, typer.Option(help="The file; default: model.onnx or model.pt2 in the run's folder.")
    ] = None,
) -> None:
    """Export the model as one file for other programs. FILE.json describes it; its outputs must equal the run's.

    Example: lapml export results/demo/runs/birds/baseline/0 --format onnx
    """
    if form not in ("onnx", "torch"):
        raise typer.BadParameter(f"found {form!r}, expected onnx or torch", param_hint="--format")
    from lapml.apply.export import export as exported
    from lapml.apply.export import text

    typer.echo(text(*exported(run, form, output)))
