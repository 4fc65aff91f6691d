"""`lapml diagnose`."""

import typer

from lapml.commands.common import DEFAULT, Dataset, ParamsFile, Set, known, load, plain


@plain
def diagnose(dataset: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Measure how good the mixed images and their labels are, by true boxes, parts and masks; write tables and a gallery.

    Example: lapml diagnose birds
    """
    settings, paths = load(params, overrides)
    known(settings, dataset)
    from lapml.report.diagnosis import diagnose

    folder = diagnose(settings, paths, dataset)
    typer.echo((folder / "diagnosis.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder}")
