"""`lapml model`."""

from typing import Annotated

import typer

from lapml.cli.common import RAW, plain

app = typer.Typer(help="List backbones, or show what one is.", **RAW)
Side = Annotated[int, typer.Option(min=1, help="Side of the square input in pixels; default: as pretrained.")]
LINE = "{:<40} {:>6} {:>7} {:>8} {:>9} {:>8}  {}"


@app.command("list")
@plain
def model_list(
    pattern: Annotated[
        str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern such as 'vit_*dinov2'.")
    ],
    side: Side = None,
) -> None:
    """List timm's models with their map, parameters, cost and weights. Those that give no map of places say so.

    Example: lapml model list convnext_
    """
    from lapml.models.catalogue import rows

    typer.echo(LINE.format("name", "px", "map", "channels", "params", "Gflop", "pretrained weights: model.weights"))
    for row in rows(pattern, side):
        if "error" in row:
            typer.echo(f"{row['name']:<40} {row['error'].partition(': ')[2].removeprefix(row['name']).strip()}")
        else:
            typer.echo(_line(row))


@app.command("show")
@plain
def model_show(
    name: Annotated[str, typer.Argument(help="A model of timm.")],
    side: Side = None,
) -> None:
    """Show one model: its map at a side, parameters, cost, and whether its weights are on this machine.

    Example: lapml model show convnext_tiny --side 224
    """
    from lapml.models.catalogue import row

    found = row(name, side)
    typer.echo(LINE.format("name", "px", "map", "channels", "params", "Gflop", "pretrained weights: model.weights"))
    typer.echo(_line(found))
    typer.echo(
        f"cells of {found['side'] / found['cells']:g} px; pretrained at {found['native']} px; stages for model.freeze: "
        f"{found['stages'] or 'none that can be told'}, or all"
    )


def _line(row: dict) -> str:
    return LINE.format(
        row["name"],
        row["side"],
        f"{row['cells']}×{row['cells']}",
        row["channels"],
        f"{row['parameters'] / 1e6:.1f} M",
        f"{row['gflop']:.2f}",
        row["weights"],
    )
