"""`lapml predict`, `lapml explain` and `lapml export`: a finished run applied to image files."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, ParamsFile, load, plain, refuse_pictures

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, folders (all below them is searched, but for links to folders), and patterns in quotes: "
        "'photos/**/*.jpg'."
    ),
]
Banner = Annotated[
    int | None,
    typer.Option(
        min=0, help="Rows of pixels to cut off the bottom; default: as for the run's data set (FGVC-Aircraft: 20)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="A JSON array of one object per image.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV, a line per image.")]


@plain
def predict(
    run: RunFolder,
    images: Images,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.")] = 5,
    banner: Banner = None,
    as_csv: Csv = False,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option(help="A file to write, whole or not at all; default: print.")] = None,
) -> None:
    """Print the most probable classes of images. They are preprocessed as in evaluation.

    Files that are not images are named at the end, with exit status 1; the others are predicted.

    Example: lapml predict results/demo/runs/birds/baseline/0 photos --csv --output predictions.csv
    """
    from lapml.apply.predict import predict as predicted
    from lapml.apply.predict import table

    failed: list[tuple[Path, str]] = []
    form = _form(as_csv, as_json, table)
    _write(form(predicted(run, images, top, banner, failed)), output, run)
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
    as_csv: Csv = False,
    as_json: Json = False,
    results: Annotated[Path | None, typer.Option(help="A file for what is printed else, whole or not at all.")] = None,
) -> None:
    """Draw images' class maps, and similar training images.

    Files that are not images are named at the end, with exit status 1; the others are explained.

    Example: lapml explain results/demo/runs/birds/baseline/0 photos/*.jpg --output why
    """
    from lapml.apply.explain import explain as explained
    from lapml.apply.explain import text
    from lapml.runs.folder import open_run

    if neighbours and params.is_file():
        settings, _ = load(params, [])
        if settings.suite == open_run(run)[0]["suite"]:
            refuse_pictures(settings, "a training image", "give --neighbours 0 to see only the images that you name")
    failed: list[tuple[Path, str]] = []
    form = _form(as_csv, as_json, text)
    _write(form(explained(run, images, output, neighbours, target or None, banner, failed=failed)), results, run)
    _print_failed(failed)


def _form(as_csv: bool, as_json: bool, text: Callable) -> Callable[[Iterable[dict]], Iterator[str]]:
    """What makes pieces of text of results."""
    from lapml.apply import tables

    if as_csv and as_json:
        raise typer.BadParameter("give one of --csv and --json", param_hint="--csv")
    return tables.as_csv if as_csv else tables.as_json if as_json else text


def _write(pieces: Iterator[str], output: Path | None, run: Path) -> None:
    """Print pieces as they come, or write them to a file, whole or not at all. Names of files keep bytes that are no text."""
    encoded = (piece.encode("utf-8", "surrogateescape") for piece in pieces)
    if output is None:
        try:
            for piece in encoded:
                typer.echo(piece, nl=False)
        except BrokenPipeError:  # `| head` has read enough
            raise typer.Exit(1) from None
        return
    from lapml.apply.images import refuse_output
    from lapml.files import atomic

    refuse_output(output, run)
    with atomic(output) as temporary, open(temporary, "wb") as file:
        file.writelines(encoded)
    typer.echo(f"{output}")


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
    check: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Predict this image both ways; status 1 if 0.1 points apart."),
    ] = None,
) -> None:
    """Export the model as one file for other programs. FILE.json describes it; its outputs must equal the run's.

    With --check IMAGE, that image is also predicted by the file, read with Pillow as FILE.json says, and by lapml.

    Example: lapml export results/demo/runs/birds/baseline/0 --format onnx --check photo.jpg
    """
    if form not in ("onnx", "torch"):
        raise typer.BadParameter(f"found {form!r}, expected onnx or torch", param_hint="--format")
    from lapml.apply.export import export as exported
    from lapml.apply.export import text

    file, about = exported(run, form, output)
    typer.echo(text(file, about))
    if check:
        from lapml.apply import check as checking

        found = checking.check(run, file, check)
        typer.echo(checking.text(found))
        checking.refuse_far(found, file, check)
