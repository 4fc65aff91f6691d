"""`lapml config` and `lapml suite`."""

from typing import Annotated

import typer

from lapml.cli.common import DEFAULT, RAW, Dataset, ParamsFile, Set, load, plain, say_device
from lapml.errors import LapmlError

config_app = typer.Typer(help="Show and check settings.", **RAW)
suite_app = typer.Typer(help="List suites, say how long one takes, or put one into params.yaml.", **RAW)


@config_app.command("show")
@plain
def config_show(
    dataset: Annotated[str, typer.Option(help="Data set.")] = "",
    method: Annotated[str, typer.Option(help="Method.")] = "",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Print the settings of one run as JSON; without --dataset and --method, check and print the whole file.

    Example: lapml config show --dataset birds --method cutmix --seed 0 --set train.lr=0.02
    """
    import json

    settings, paths = load(params, overrides)
    if not dataset and not method:
        typer.echo(settings.model_dump_json(indent=2))
        return
    from lapml.config import resolve, tuned_values

    dataset, method = dataset or settings.datasets[0], method or settings.all_methods()[0]
    values = tuned_values(settings, paths, dataset, method)
    typer.echo(json.dumps(resolve(settings, dataset, method, seed, values).record(), indent=2))


@config_app.command("resolve")
@plain
def config_resolve(dataset: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Write the settings that each stage of a data set depends on to results/SUITE/settings, for DVC.

    Example: lapml config resolve birds
    """
    settings, paths = load(params, overrides, dataset)
    from lapml.config.stages import write

    typer.echo(f"{write(settings, paths, dataset)}")


@suite_app.command("list")
@plain
def suite_list() -> None:
    """List the suites.

    Example: lapml suite list
    """
    from lapml.config.suites import FOLDER, names

    for name in names():
        settings, _ = load(FOLDER / f"{name}.yaml", [])
        runs = len(settings.datasets) * len(settings.all_methods()) * len(settings.seeds)
        typer.echo(f"{name:15} {', '.join(settings.datasets)}: {', '.join(settings.all_methods())}; {runs} runs")


@suite_app.command("use")
@plain
def suite_use(name: Annotated[str, typer.Argument(help="A file of suites/, without .yaml.")]) -> None:
    """Write a suite as one complete file to params.yaml; an edited params.yaml is kept as params.yaml.old.

    Example: lapml suite use sparrows
    """
    from lapml.config.suites import use

    typer.echo(use(name))


@suite_app.command("time")
@plain
def suite_time(params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Time steps of the suite's models here, and print how long its runs take: of each method, and all together.

    Example: lapml suite time --params mine.yaml --set train.epochs=20
    """
    settings, paths = load(params, overrides)
    from lapml.runs.estimate import estimated

    say_device(settings.train)
    typer.echo(estimated(settings, paths))


@suite_app.command("report")
@plain
def suite_report(params: ParamsFile = DEFAULT) -> None:
    """Print the path of the suite's report.

    Example: lapml suite report
    """
    _, paths = load(params, [])
    page = (paths.report / "report.html").resolve()
    if not page.is_file():
        raise LapmlError(f"{page}: no report yet; run `snakemake --cores all` or `dvc repro`")
    typer.echo(f"{page}")
