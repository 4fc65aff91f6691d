"""The `lapml` command. Each command names files and calls one function; heavy imports happen inside.

Exit status: 0 done; 1 bad input or state (one line on standard error says what to do); 2 wrong usage; 75 stopped by
SIGTERM or Ctrl-C with its state saved: the same command continues.
"""

import signal
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lapml import __version__
from lapml.cli import data as data_commands
from lapml.cli.apply import explain, export, predict
from lapml.cli.common import (
    DEFAULT,
    RAW,
    Dataset,
    MethodName,
    ParamsFile,
    SeedNumber,
    Set,
    is_first,
    load,
    plain,
    quiet,
    say_device,
)
from lapml.cli.compare import compare, confusions
from lapml.cli.diagnose import diagnose, distances, picture
from lapml.cli.group import Group
from lapml.cli.init import init
from lapml.cli.localise import localise
from lapml.cli.model import app as model_app
from lapml.cli.published import publish, restore
from lapml.cli.settings import config_app, suite_app
from lapml.cli.watch import watch
from lapml.errors import LapmlError, expected

app = typer.Typer(
    cls=Group,
    help="Fine-grained image recognition: baseline, CutMix, localized CutMix, margin losses.",
    **RAW,
)
app.add_typer(config_app, name="config")
app.add_typer(suite_app, name="suite")
app.add_typer(model_app, name="model")
app.add_typer(data_commands.app, name="data")
for command in (
    init,
    localise,
    watch,
    publish,
    restore,
    diagnose,
    picture,
    distances,
    compare,
    confusions,
    predict,
    explain,
    export,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
@plain
def train(
    dataset: Dataset,
    method: MethodName,
    seed: SeedNumber,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
    development: Annotated[
        bool, typer.Option(help="Train on train and evaluate on val, into results/SUITE/development/.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Also train over a run or state of other settings, data, code, torch or device; it is kept as SEED.old-1.",
        ),
    ] = False,
    smoke: Annotated[
        bool, typer.Option(help="Test run of two epochs, every batch of the second one mixed, in a temporary folder.")
    ] = False,
) -> None:
    """Train one run and evaluate its last epoch. It trains on train + val and is read on test (eval_split:
    val: on train, and on val), and writes its run folder.

    Example: lapml train birds loc_cutmix 0
    """
    import tempfile

    settings, paths = load(params, overrides, dataset)
    _launch_processes(settings, dataset)
    from lapml.common import ranks
    from lapml.data.fetch.sources import refuse_other
    from lapml.data.pack import Packed
    from lapml.localise.evidence import opened
    from lapml.models.device import pick_device
    from lapml.runs.execute import execute, resolve_smoke, resolved
    from lapml.runs.left import left
    from lapml.training.progress import heading

    config = (
        resolve_smoke(settings, dataset, method, seed)
        if smoke
        else resolved(settings, paths, dataset, method, seed, development)
    )
    refuse_other(dataset, config.data, paths)
    packed = Packed.open(paths.pack(dataset), config.data)
    maps = opened(config, paths, packed)
    with tempfile.TemporaryDirectory() if smoke else nullcontext() as temporary:
        folder = (paths.development if development else paths.run)(dataset, method, seed)
        say_device(config.train)
        _log(heading(config, packed, "a temporary folder" if smoke else str(folder)))
        with ranks.joined(pick_device(config.train)[0].type):
            metrics = execute(config, packed, Path(temporary, "run") if smoke else folder, quiet(), _log, maps, replace)
    _log(f"{config.evaluate} top-1 {metrics['top1']:.2f} %  ({'smoke' if smoke else folder})")
    if not (smoke or development) and is_first():
        with suppress(OSError, LapmlError):  # the run is finished, whatever can be said of the others
            typer.echo(left(settings, paths))


@app.command()
@plain
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    dataset: Annotated[
        str, typer.Option(help="Another prepared data set of the params file; default: that of the run.")
    ] = "",
    split: Annotated[
        str, typer.Option(help="test, val or train, if the run was not trained on it. Readings of test are recorded.")
    ] = "test",
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="On corrupted images, and with the object or the background hidden.")
    ] = False,
    params: ParamsFile = DEFAULT,
) -> None:
    """Evaluate a finished run again, or on another data set. That gives accuracy if the run knows all its classes, else
    Recall@K of the embedding.

    Example: lapml evaluate results/demo/runs/birds/baseline/0
    """
    import json

    if split not in ("test", "val", "train"):
        raise typer.BadParameter(f"found {split!r}, expected test, val or train", param_hint="--split")
    if corruptions and dataset:
        raise typer.BadParameter("give it without --dataset", param_hint="--corruptions")
    from lapml.runs.reevaluate import reevaluate, robustness, transfer

    if corruptions:
        result = robustness(run, split, log=_log)
        _log("mean over severities: " + ", ".join(f"{name} {value:.2f} %" for name, value in result["mean"].items()))
        return
    if dataset:
        settings, _ = load(params, [])
        result = transfer(run, dataset, split, settings)
    else:
        result = reevaluate(run, split)
    typer.echo(json.dumps(result, indent=2))


@app.command()
@plain
def tune(
    dataset: Dataset,
    method: Annotated[
        str,
        typer.Option(help="margin, adaptive_margin or one of tune.methods; default: all tuned ones, in this order."),
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine that share each search.")] = 1,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Tune margins and other settings on the validation split. An interrupted search continues; more tune.trials go on with it.

    Example: lapml tune birds --workers 2
    """
    settings, paths = load(params, overrides, dataset)
    if workers > 1 and (gpus := settings.of(dataset).train.gpus) > 1:
        raise LapmlError(
            f"--workers: found {workers}, expected 1 with train.gpus {gpus}: a trial takes them all; leave one of them at 1"
        )
    _launch_processes(settings, dataset)
    from lapml.common import ranks
    from lapml.config.tuning import ADAPTIVE, MARGIN
    from lapml.models.device import pick_device
    from lapml.runs.tune import tune as search

    tunable = dict.fromkeys([MARGIN, ADAPTIVE, *settings.of(dataset).tune.methods])
    if method and method not in tunable:
        raise typer.BadParameter(
            f"found {method!r}, {expected(method, tunable)}; what else is tuned, stands in tune.methods",
            param_hint="--method",
        )
    if not (method or settings.studies()):
        _log("tuned_methods is empty: there is nothing to tune")
    if settings.studies():
        say_device(settings.of(dataset).train)
    with ranks.joined(pick_device(settings.of(dataset).train)[0].type):
        for name in [method] if method else settings.studies():
            result = search(settings, paths, dataset, name, _log, workers - 1)
            found = (
                f"{result['values']}, validation top-1 {result['score']:.2f} %" if result["trials"] else "is not tuned"
            )
            _log(f"{paths.tuned(dataset, name)}: {found}")


@app.command()
@plain
def report(
    images: Annotated[bool, typer.Option(help="Show pictures of the data (not if report.images is false).")] = True,
    params: ParamsFile = DEFAULT,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Make the tables, figures and report.html of a suite. Runs that do not fit its settings are refused.

    Example: lapml report --no-images
    """
    settings, paths = load(params, overrides)
    from lapml.report.build import report as build
    from lapml.report.pictures import gallery

    page = build(settings, params, paths, partial(gallery, settings, paths) if images else None)
    typer.echo(f"{page}")


def _launch_processes(settings, dataset: str) -> None:
    """With ``train.gpus`` above 1, run this command as that many processes, on ``train.nodes``, and end with their status."""
    from lapml.common import ranks

    train = settings.of(dataset).train
    ranks.refuse_other_count(train.gpus)
    if train.gpus > 1 and not ranks.launched():
        if train.nodes > 1:
            ranks.spread(train.nodes)
        raise typer.Exit(ranks.launch(train.gpus, train.nodes))


def _log(line: str) -> None:
    """Print a line once, whatever the number of processes."""
    if is_first():
        typer.echo(line)
