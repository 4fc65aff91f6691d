"""The `lapml` command: thin, it names files and calls one function. Heavy imports happen inside the commands.

Exit status: 0 done; 1 bad input or state (one line on standard error says what to do); 2 wrong usage; 75 stopped by
SIGTERM or Ctrl-C with its state saved: the same command, given again, goes on.
"""

import os
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from lapml import __version__
from lapml.errors import LapmlError, Stopped

RAW = {"rich_markup_mode": None, "no_args_is_help": True, "pretty_exceptions_enable": False}
app = typer.Typer(
    add_completion=False,
    help="Fine-grained image recognition: baseline, CutMix, localized CutMix, margin losses.",
    **RAW,
)
config_app = typer.Typer(help="Show and check settings.", **RAW)
suite_app = typer.Typer(help="List suites, or put one into params.yaml.", **RAW)
data_app = typer.Typer(help="Fetch, prepare, check and show data sets.", **RAW)
app.add_typer(config_app, name="config")
app.add_typer(suite_app, name="suite")
app.add_typer(data_app, name="data")

ParamsFile = Annotated[Path, typer.Option("--params", help="A complete params file.")]
Set = Annotated[list[str], typer.Option("--set", help="Override a key, as train.lr=0.01; repeatable.")]
Dataset = Annotated[str, typer.Argument(help="A section of `data` in the params file.")]
MethodName = Annotated[str, typer.Argument(help="A row: a section of `methods`.")]
SeedNumber = Annotated[int, typer.Argument(min=0, help="The seed.")]
DEFAULT = Path("params.yaml")


def _plain(function):
    """A LapmlError becomes one message on standard error and its exit status; so do a full disk and Ctrl-C."""

    @wraps(function)
    def command(*args, **kwargs):
        everywhere, status = False, 1
        try:
            return function(*args, **kwargs)
        except LapmlError as error:
            message, everywhere, status = str(error), error.everywhere, error.status
        except OSError as error:  # a full disk, a folder that may not be written
            message = f"{error.filename or 'the system'}: {error.strerror or error}; what was finished before is intact"
        except KeyboardInterrupt:
            message, status = "stopped; run the same command again to go on", Stopped.status
        if not everywhere or os.environ.get("RANK", "0") == "0":
            typer.echo(f"error: {message}", err=True)
        raise typer.Exit(status)

    return command


def _load(path: Path, overrides: list[str]):
    from lapml.config import load
    from lapml.paths import Paths

    params = load(path, overrides)
    return params, Paths(params.suite)


def _quiet() -> bool:
    return not sys.stderr.isatty()


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if version:
        typer.echo(__version__)
        raise typer.Exit


@config_app.command("show")
@_plain
def config_show(
    dataset: Annotated[str, typer.Option(help="Data set.")] = "",
    method: Annotated[str, typer.Option(help="Row.")] = "",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Print one resolved run as JSON; without --dataset and --method, check and print the whole file.

    Example: lapml config show --dataset birds --method cutmix --seed 0 --set train.lr=0.02
    """
    import json

    settings, paths = _load(params, overrides)
    if not dataset and not method:
        typer.echo(settings.model_dump_json(indent=2))
        return
    from lapml.config import resolve, tuned_values

    dataset, method = dataset or settings.datasets[0], method or settings.all_rows()[0]
    values = tuned_values(settings, paths, dataset, method)
    typer.echo(json.dumps(resolve(settings, dataset, method, seed, values).record(), indent=2))


@suite_app.command("list")
@_plain
def suite_list() -> None:
    """List the suites.

    Example: lapml suite list
    """
    from lapml.config import load

    for path in sorted(Path("suites").glob("*.yaml")):
        settings = load(path)
        runs = len(settings.datasets) * len(settings.all_rows()) * len(settings.seeds)
        typer.echo(f"{path.stem:12} {', '.join(settings.datasets)}: {', '.join(settings.all_rows())}; {runs} runs")


@suite_app.command("use")
@_plain
def suite_use(name: Annotated[str, typer.Argument(help="A file of suites/, without .yaml.")]) -> None:
    """Put a suite into params.yaml; an edited params.yaml is kept as params.yaml.old.

    Example: lapml suite use sparrows
    """
    from lapml.suites import use

    typer.echo(use(name))


@suite_app.command("report")
@_plain
def suite_report(params: ParamsFile = DEFAULT) -> None:
    """Print where the suite's finished report lies.

    Example: lapml suite report
    """
    _, paths = _load(params, [])
    page = (paths.report / "report.html").resolve()
    if not page.is_file():
        raise LapmlError(f"{page}: no report yet; run `snakemake --cores all` or `dvc repro`")
    typer.echo(f"{page}")


@data_app.command("fetch")
@_plain
def data_fetch(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Draw, find, unpack or download a data set.

    Example: lapml data fetch birds
    """
    from lapml.data.sources import fetch

    settings, paths = _load(params, overrides)
    fetch(name, _data(settings, name), paths)
    typer.echo(f"{paths.source(name)}")


@data_app.command("prepare")
@_plain
def data_prepare(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Index a fetched data set, carve the validation split, and pack its images.

    Example: lapml data prepare birds
    """
    from lapml.data.pack import prepare

    settings, paths = _load(params, overrides)
    prepare(name, _data(settings, name), paths)
    typer.echo(f"{paths.pack(name)}")


@data_app.command("check")
@_plain
def data_check(name: Dataset, params: ParamsFile = DEFAULT, overrides: Set = []) -> None:  # noqa: B006
    """Count splits and classes, and look for unreadable and duplicate images and boxes outside.

    Example: lapml data check birds
    """
    from lapml.data.inspect import check

    settings, paths = _load(params, overrides)
    text, sound = check(name, _data(settings, name), paths, progress=not _quiet())
    typer.echo(text)
    if not sound:
        raise typer.Exit(1)


@data_app.command("show")
@_plain
def data_show(
    name: Dataset,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("contact.png"),
    count: Annotated[int, typer.Option(min=1, max=400, help="Images.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Write a contact sheet with boxes and parts.

    Example: lapml data show birds --output birds.png
    """
    from lapml.data.inspect import show

    settings, paths = _load(params, overrides)
    _data(settings, name)
    show(name, paths, output, count, seed)
    typer.echo(f"{output}")


@data_app.command("bench")
@_plain
def data_bench(
    name: Annotated[str, typer.Argument(help="A fetched data set; the suite's first by default.")] = "",
    images: Annotated[int, typer.Option(min=10, help="Images, evenly spaced over the data set.")] = 600,
    repeats: Annotated[int, typer.Option(min=2, help="Rounds; each times both once.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Writes prepare.json and prepare.md into OUTPUT/SUITE.")] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time packing a fetched data set against a plain Pillow loop over the same images.

    Example: lapml data bench birds
    """
    settings, paths = _load(params, overrides)
    name = name or settings.datasets[0]
    _data(settings, name)
    from lapml.speed import preparing

    typer.echo(preparing(settings, paths, name, images, repeats, output))


@app.command()
@_plain
def train(
    dataset: Dataset,
    method: MethodName,
    seed: SeedNumber,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
    development: Annotated[
        bool, typer.Option(help="Train on train, read val; into results/SUITE/development/.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option(help="Two epochs, the second mixed throughout: does it run at all? Into a temporary folder.")
    ] = False,
) -> None:
    """Train one run on train + val, evaluate its last epoch on test, write its run folder.

    Example: lapml train birds loc_cutmix 0
    """
    import tempfile

    settings, paths = _load(params, overrides)
    _shared(settings, dataset)
    from lapml import ranks
    from lapml.run import Packed, execute, pick_device, resolved, smoked

    config = (
        smoked(settings, dataset, method, seed)
        if smoke
        else resolved(settings, paths, dataset, method, seed, development)
    )
    packed = Packed.open(paths.pack(dataset), config.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (paths.development if development else paths.run)(dataset, method, seed)
        with ranks.joined(pick_device(config.train)[0].type):
            metrics = execute(config, packed, Path(temporary) if smoke else folder, quiet=_quiet(), log=_log)
    _log(f"{config.evaluate} top-1 {metrics['top1']:.2f} %  ({'smoke' if smoke else folder})")


@app.command()
@_plain
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    dataset: Annotated[
        str, typer.Option(help="Another prepared data set of the params file; the run's own by default.")
    ] = "",
    split: Annotated[
        str, typer.Option(help="test, val or train, if the run was not trained on it; readings are recorded.")
    ] = "test",
    params: ParamsFile = DEFAULT,
) -> None:
    """Evaluate a finished run again, or its transfer to another data set: accuracy if that has no class that the run
    does not know, else Recall@K of the embedding.

    Example: lapml evaluate results/demo/runs/birds/baseline/0
    """
    import json

    if split not in ("test", "val", "train"):
        raise typer.BadParameter(f"found {split!r}, expected test, val or train", param_hint="--split")
    from lapml.run import reevaluate, transfer

    if dataset:
        settings, _ = _load(params, [])
        result = transfer(run, dataset, split, settings)
    else:
        result = reevaluate(run, split)
    typer.echo(json.dumps(result, indent=2))


@app.command()
@_plain
def tune(
    dataset: Dataset,
    method: Annotated[str, typer.Option(help="margin or adaptive_margin; without it, both in this order.")] = "",
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Tune the margins on the validation split; goes on where it was interrupted.

    Example: lapml tune birds
    """
    settings, paths = _load(params, overrides)
    _data(settings, dataset)
    _shared(settings, dataset)
    from lapml import ranks
    from lapml.run import pick_device
    from lapml.tune import ORDER
    from lapml.tune import tune as search

    if method and method not in ORDER:
        raise typer.BadParameter(f"found {method!r}, expected one of {', '.join(ORDER)}", param_hint="--method")
    with ranks.joined(pick_device(settings.of(dataset).train)[0].type):
        for name in [method] if method else ORDER:
            result = search(settings, paths, dataset, name, _log)
            _log(f"{paths.tuned(dataset, name)}: {result['values']}, validation top-1 {result['score']:.2f} %")


@app.command()
@_plain
def report(
    images: Annotated[bool, typer.Option(help="Show pictures of the data; also switched off by report.images.")] = True,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Make the tables, figures and report.html of a suite; refuses runs that do not fit its settings.

    Example: lapml report --no-images
    """
    settings, paths = _load(params, overrides)
    from lapml.report.build import report as build
    from lapml.report.pictures import galleries

    images = images and settings.report.images
    page = build(settings, params, paths, images, galleries(settings, paths) if images else None)
    typer.echo(f"{page}")


@app.command()
@_plain
def publish(params: ParamsFile = DEFAULT) -> None:
    """Copy a suite's report, metrics and provenance to results/published/SUITE, which is committed.

    Example: lapml publish --params suites/sparrows.yaml
    """
    settings, paths = _load(params, [])
    from lapml.report.build import publish as copy

    typer.echo(f"{copy(settings, paths)}")


@app.command()
@_plain
def bench(
    dataset: Annotated[str, typer.Option(help="A prepared data set; the suite's first by default.")] = "",
    repeats: Annotated[int, typer.Option(min=2, help="Rounds; every round times every row once.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps a row and round.")] = 6,
    output: Annotated[
        Path | None, typer.Option(help="Writes bench.json and bench.md into OUTPUT/SUITE; only printed without it.")
    ] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Time each row against the bare model in one interleaved run, at mix.prob = 1.

    Example: lapml bench --repeats 10
    """
    settings, paths = _load(params, overrides)
    dataset = dataset or settings.datasets[0]
    _data(settings, dataset)
    from lapml.bench import bench as measure

    typer.echo(measure(settings, paths, dataset, repeats, steps, output))


def _shared(settings, dataset: str) -> None:
    """With ``train.gpus`` above 1, hand this command over to that many processes, and end with their status."""
    if dataset in settings.data and settings.of(dataset).train.gpus > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        from lapml.ranks import launch

        raise typer.Exit(launch(settings.of(dataset).train.gpus))


def _log(line: str) -> None:
    """Print a line, once for all processes of a run."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(line)


def _data(settings, name: str):
    if name not in settings.data:
        raise LapmlError(f"unknown data set {name!r}: expected one of {', '.join(settings.data)}")
    return settings.data[name]


if __name__ == "__main__":
    app()
