"""Killed, stopped, out of room, diverged: the same command, given again, ends in the same bytes.

Commands run in children of one process that has everything imported already (:func:`serve`), so that a kill lands in
their work and not in Python's start.
"""

import importlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

from lapml.config import Params
from lapml.data import pack  # noqa: F401
from lapml.data.synthetic import birds as synthetic  # noqa: F401
from lapml.errors import DivergedError, LapmlError, OutOfMemoryError
from lapml.paths import LIVE, READS, REPORT_FILES, RUN_FILES, Paths
from lapml.report import page  # noqa: F401
from lapml.runs import execute as runs
from lapml.runs import tune as tuning  # noqa: F401, for the children
from lapml.runs.folder import open_run
from lapml.training import loop as train
from lapml.training import state
from lapml.training.optim import schedule

KILLS = 30
PATHS = Paths("kill")
FETCH, PREPARE, TUNE, REPORT = ("data", "fetch", "birds"), ("data", "prepare", "birds"), ("tune", "birds"), ("report",)
TRAIN = ("train", "birds", "adaptive_margin", "0")
STEPS = 5  # an epoch, 4 epochs
OWN = {  # command → what it makes
    FETCH: (Path("data"), PATHS.source("birds")),
    PREPARE: (PATHS.pack("birds"), PATHS.pack("birds").parent / ".packing"),
    TUNE: (PATHS.base / "tuned", PATHS.base / "studies"),
    TRAIN: (PATHS.run("birds", "adaptive_margin", 0),),
    REPORT: (PATHS.report,),
}
FOLDER, LAST = OWN[TRAIN][0], OWN[TRAIN][0] / "last.pt"
TIMES = ("seconds",)


# --- the process that runs commands ---


class Result(NamedTuple):
    status: int  # negative: the signal that ended it
    out: str
    err: str
    seconds: float
    operations: list[str]  # on files below the project's folder, while it was watched; empty if it was killed

    @property
    def told(self) -> str:
        """What `lapml train` says after the two lines on the run."""
        return self.out.split("\n", 2)[2]


def serve() -> None:
    """Read requests from standard input, a line each; run each in a child, and answer with a line."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    import lapml.cli
    import lapml.data.synthetic.layouts
    import lapml.report.build
    import lapml.report.pictures
    import lapml.runs.left  # noqa: F401
    from lapml.config import overlays
    from lapml.report import figures, studies
    from lapml.runs import study

    for late in ("alembic.command", "pyarrow.dataset", "sklearn.decomposition"):  # what commands import on their way
        importlib.import_module(late)
    # A killed process loses nothing that it has written, so SQLite need not wait for the disk.
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    figures._chart = lambda draw, height=0.0: b'<svg xmlns="http://www.w3.org/2000/svg"/>'  # tests/report look at them
    studies._draw = figures._chart
    state.SAVE_EVERY = 0.0
    study.HEARTBEAT, study.GRACE, study.POLL = 1, 2, 0.1  # a killed trial is soon found out
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request, started = json.loads(line), time.monotonic()
        overlays.read(Path(request["child"]["root"], "params.yaml"))  # parsed once, for all children
        if not (child := os.fork()):
            _child(**request["child"])
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        limit = time.monotonic() + request["limit"]
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > limit:
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.002)
        answer = [os.waitstatus_to_exitcode(ended[1]), time.monotonic() - started]
        print(json.dumps(answer), file=answers, flush=True)


def _child(argv: list[str], root: str, log: str, before: str, kill_at: int | None) -> None:
    status = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{log}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
        os.chdir(root)
        sys.argv = ["lapml", *argv]
        exec(before, globals())
        operations = _watched(root, kill_at)
        from lapml.cli import app

        try:
            app(argv)
        except SystemExit as end:
            status = end.code or 0
        little_room(resource.RLIM_INFINITY)
        Path(log, "part").write_text(json.dumps(operations))
        os.rename(f"{log}/part", f"{log}/operations")  # whole or not at all: a kill may fall while it is written
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watched(root: str, kill_at: int | None) -> list[str]:
    """Note what this process does to files below ``root``; it dies just before the ``kill_at``-th of these operations."""
    seen, writing = [], os.O_WRONLY | os.O_RDWR | os.O_CREAT
    events = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate")

    def hook(event: str, arguments: tuple) -> None:
        changes = event in events or event == "open" and arguments[2] & writing
        if changes and arguments[0] and isinstance(arguments[0], str | bytes | os.PathLike):  # and not a descriptor
            path = os.path.relpath(os.path.join(root, os.fsdecode(arguments[0])))
            if not path.startswith(".."):
                if len(seen) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen.append(f"{event} {path}")

    sys.addaudithook(hook)
    return seen


# What `before` may call, in the child.


def at_step(number: int, action: Callable[[Any, Any], Any]) -> None:
    """``action(learner, what the step returned)`` after the ``number``-th step of training; may return something else."""
    original, count = train.take_step, 0

    def step(learner, batch):
        nonlocal count
        count += 1
        result = original(learner, batch)
        return (action(learner, result) or result) if count == number else result

    train.take_step = step


def before_call(owner: Any, name: str, action: Callable[[], None], number: int = 1) -> None:
    """``action()`` just before the ``number``-th call of a function."""
    original, count = getattr(owner, name), 0

    def called(*arguments, **more):
        nonlocal count
        count += 1
        if count == number:
            action()
        return original(*arguments, **more)

    setattr(owner, name, called)


def send(*numbers: int) -> Callable[..., None]:
    """Send signals to this process, one after another."""

    def sent(*_: Any) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0)  # the handler runs before the next one comes

    return sent


def wait(*_: Any) -> None:
    """Say who waits, and go on when that file is gone."""
    Path("waits.tmp").write_text(str(os.getpid()))
    os.rename("waits.tmp", "waits")
    while Path("waits").exists():
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def not_finite(learner: Any, result: tuple) -> tuple:
    stats, *counts = result
    return {**stats, "loss": torch.full_like(stats["loss"], math.nan)}, *counts


def break_weights(learner: Any, _: tuple) -> None:
    """The update overflowed, though the loss was finite."""
    with torch.no_grad():
        next(learner.model.parameters()).fill_(math.inf)


def little_room(size: int) -> None:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def read_only(folder: str) -> None:
    """This process can no longer write there: by a mount of its own for root, who may write where modes forbid it."""
    if os.geteuid():
        os.chmod(folder, 0o555)
        return
    import ctypes

    libc, place = ctypes.CDLL(None, use_errno=True), os.path.abspath(folder).encode()
    private, bind, remount, only_read = 1 << 18 | 1 << 14, 1 << 12, 1 << 5, 1
    done = (
        libc.unshare(0x20000) == 0
        and libc.mount(b"none", b"/", None, private, None) == 0
        and libc.mount(place, place, None, bind, None) == 0
        and libc.mount(place, place, None, bind | remount | only_read, None) == 0
    )
    if not done:
        os._exit(NO_MOUNT)
    os.chdir(os.getcwd())  # into the new mount


NO_MOUNT = 99


# --- what the tests work with ---


@pytest.fixture(autouse=True)
def saved_after_every_epoch(monkeypatch):
    """As in the children, see :func:`serve`."""
    monkeypatch.setattr(state, "SAVE_EVERY", 0.0)


@dataclass
class Shop:
    """A project's folder, and the process that runs commands in it."""

    root: Path
    server: subprocess.Popen

    def __call__(self, *argv: str, **options: Any) -> Result:
        self.begin(*argv, **options)
        return self.end()

    @property
    def log(self) -> Path:
        return self.root.parent / f"{self.root.name}-log"

    def begin(
        self,
        *argv: str,
        before: str = "",
        kill_after: float | None = None,
        kill_at: int | None = None,
        limit: float = 120,
    ) -> None:
        shutil.rmtree(self.log, ignore_errors=True)
        self.log.mkdir()
        child = {"argv": argv, "root": str(self.root), "log": str(self.log), "before": before, "kill_at": kill_at}
        print(
            json.dumps({"child": child, "kill_after": kill_after, "limit": limit}), file=self.server.stdin, flush=True
        )

    def end(self) -> Result:
        log = self.log
        status, seconds = json.loads(self.server.stdout.readline())
        operations = json.loads((log / "operations").read_text()) if (log / "operations").exists() else []
        # A process that is killed at once may not have opened them yet.
        said = [(log / name).read_text() if (log / name).exists() else "" for name in ("out", "err")]
        return Result(status, *said, seconds, operations)

    def done(self, *argv: str, **options: Any) -> Result:
        result = self(*argv, **options)
        assert result.status == 0, result
        return result

    def copy(self, target: Path) -> "Shop":
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.root, target)
        return Shop(target, self.server)

    def without(self, command: tuple[str, ...], target: Path) -> "Shop":
        """A copy in which ``command`` has not run."""
        shop = self.copy(target)
        for path in OWN[command]:
            shutil.rmtree(target / path, ignore_errors=True)
            (target / path).unlink(missing_ok=True)
        return shop

    def outputs(self, command: tuple[str, ...]) -> dict[str, Any]:
        """What a command has made and what of it has a final name, without times and provenance."""
        made = [path for own in OWN[command] for path in (self.root / own, *(self.root / own).rglob("*"))]
        files = {path.relative_to(self.root): path for path in made if path.is_file()}
        return {
            name.as_posix(): comparable(path)
            for name, path in files.items()
            if name.name not in ("provenance.json", READS, "last.pt", LIVE)
            and name.suffix != ".db"
            and not any(part.startswith(".") for part in name.parts)
        }

    def hidden(self) -> list[str]:
        """Files and folders that no finished command should leave."""
        found = [path.relative_to(self.root) for path in self.root.rglob("*")]
        found = [path for path in found if path.suffix != ".lock" and ".kept" not in path.parts]
        return [path.as_posix() for path in found
                if path.name in ("last.pt", LIVE) or ".tmp" in path.suffixes or path.name.startswith(".")
                or ".db-" in path.name]  # fmt: skip


def comparable(path: Path) -> Any:
    if path.name == "metrics.json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
    if path.name == "history.csv":
        return pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str).drop(columns=list(TIMES)).to_csv()
    return path.read_bytes()


def overrides() -> list[str]:
    rows = ("margin", "adaptive_margin")
    return [
        "suite=kill", "ablation=[baseline]", "tuned_methods=[margin, adaptive_margin]", "seeds=[0]",
        "data.birds.synthetic.classes=3", "data.birds.synthetic.train_images=10", "data.birds.synthetic.test_images=5",
        "data.birds.synthetic.side=64", "train.epochs=4", "train.lr=0.03", "tune.trials=3", "tune.epochs=2",
        "report.bootstrap=100",
        "report.images=false", *(f"methods.{row}.mix.prob=0.5" for row in rows),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def settings(small_params) -> Params:
    return small_params(*overrides())


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Iterator[Shop]:
    """Everything done once, undisturbed; not to be touched."""
    root = tmp_path_factory.mktemp("resume") / "whole"
    root.mkdir()
    (root / "params.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as server:
        shop = Shop(root, server)
        for command in (FETCH, PREPARE, TUNE, ("train", "birds", "baseline", "0"), ("train", "birds", "margin", "0")):
            shop.done(*command)
        shop.done(*TRAIN)
        shop.done(*REPORT)
        yield shop
        server.stdin.close()


def half_written(shop: Shop, whole: Shop, command: tuple[str, ...], before: dict[str, Any]) -> list[str]:
    """Files under their final names that are neither what was there before nor what the undisturbed command makes."""
    made = whole.outputs(command)
    return [
        name for name, content in shop.outputs(command).items() if content not in (before.get(name), made.get(name))
    ]


def taken(shop: Shop) -> bool:
    """Whether the run folder of :data:`TRAIN` is taken for a complete one."""
    try:
        open_run(shop.root / FOLDER)
    except LapmlError:
        return False
    return True


def one_line(result: Result, status: int, *parts: str) -> None:
    """The command ended with a status and one line on standard error (beside progress bars) that holds all parts."""
    lines = [line for line in result.err.splitlines() if line.startswith("error: ") or "Traceback" in line]
    assert result.status == status and len(lines) == 1 and lines[0].startswith("error: "), result
    assert all(part in lines[0] for part in parts), lines[0]


def finished(shop: Shop, whole: Shop, command: tuple[str, ...]) -> Result:
    """Run a command to its end: it must end in the bytes of the undisturbed one, with nothing beside them."""
    result = shop(*command)
    assert result.status == 0, result
    assert shop.outputs(command) == whole.outputs(command) and shop.hidden() == []
    return result


# --- kill -9 ---


@pytest.mark.slow
def test_kill_at_random_moments(whole, tmp_path):
    """Half of them fall at a moment drawn from the command's time, half just before one of its operations on files."""
    rng, undisturbed, faults = random.Random(0), {}, []
    commands = [FETCH] * 3 + [PREPARE] * 6 + [TUNE] * 8 + [TRAIN] * 9 + [REPORT] * 4
    assert len(commands) == KILLS
    for number, command in enumerate(commands):
        if command not in undisturbed:
            undisturbed[command] = whole.without(command, tmp_path / "shop").done(*command)
        shop = whole.without(command, tmp_path / "shop")
        at = {"kill_at": rng.randrange(len(undisturbed[command].operations))}
        after = {"kill_after": rng.uniform(0, undisturbed[command].seconds)}
        when = after if number % 2 else at
        killed = shop(*command, **when)
        what = f"{' '.join(command)}, {when}: "
        assert killed.status == -signal.SIGKILL or when is after and killed.status == 0, (what, killed)
        faults += [f"{what}{name} is half-written" for name in half_written(shop, whole, command, {})]
        saved = (shop.root / LAST).is_file() and torch.load(shop.root / LAST, weights_only=True)
        result = shop(*command)
        if result.status:
            faults.append(f"{what}again: {result}")
            continue
        if shop.outputs(command) != whole.outputs(command) or shop.hidden():
            faults.append(f"{what}other outputs, or {shop.hidden()} left")
        went_on = f"resumed after epoch {len(saved['history'])} of 4" if saved else ""
        if command == TRAIN and went_on not in result.out and "put back: " not in result.out:
            faults.append(f"{what}epochs were lost: {result.out}")
        if command == TUNE:
            scored = [each.out.count(": validation top-1") for each in (killed, result, undisturbed[TUNE])]
            if scored[0] + scored[1] > scored[2]:
                faults.append(f"{what}trials were lost: {scored}")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_kill_around_every_saved_state(whole, tmp_path):
    """While it takes the place of the last one, and between the last epoch and the evaluation: no epoch that was saved is lost."""
    operations = whole.without(TRAIN, tmp_path / "shop").done(*TRAIN).operations
    moves = [at for at, each in enumerate(operations) if each.startswith("os.rename") and "last.pt" in each]
    evaluation = next(at for at, each in enumerate(operations) if READS in each)
    assert len(moves) == 4 and evaluation > moves[-1]
    for epochs, at in enumerate([*moves, evaluation]):
        shop = whole.without(TRAIN, tmp_path / "shop")
        assert shop(*TRAIN, kill_at=at).status == -signal.SIGKILL
        assert (shop.root / LAST).exists() == (epochs > 0)
        result = finished(shop, whole, TRAIN)
        assert result.told.startswith(f"resumed after epoch {epochs} of 4\n" if epochs else "epoch 1/4")


@pytest.mark.slow
def test_kill_while_a_finished_run_is_replaced(whole, tmp_path):
    """Before each of the operations that set it aside and put a new one in its place: the old one is whole somewhere, nothing is a
    mix of both, and the same command ends in the new one, with the old one beside it, once."""
    shop, replace = whole.without(TRAIN, tmp_path / "shop"), (*TRAIN, "--replace")
    shop.done(*TRAIN, "--set", "train.lr=0.02")
    old, origin = shop.outputs(TRAIN), (shop.root / FOLDER / "provenance.json").read_bytes()
    one_line(shop(*TRAIN), 1, "train.lr: found 0.02, asked for 0.03", "--replace", "0.old-1")
    assert shop.outputs(TRAIN) == old
    assert shop(*replace, before="before_call(runs, '_provenance', die)").status == -signal.SIGKILL
    assert taken(shop) and shop.outputs(TRAIN) == old != whole.outputs(TRAIN)
    shutil.copytree(shop.root, tmp_path / "trained")
    operations = shop.done(*replace).operations
    begin = max(at for at, each in enumerate(operations) if ".partial" in each and each.startswith("open")) + 1
    assert len(operations) - begin > 15
    places = [FOLDER, FOLDER / ".kept", Path(f"{FOLDER}.old-1")]
    for at in range(begin, len(operations)):
        shutil.rmtree(shop.root)
        shutil.copytree(tmp_path / "trained", shop.root)
        assert shop(*replace, kill_at=at).status == -signal.SIGKILL, operations[at]
        assert not half_written(shop, whole, TRAIN, old), operations[at]
        assert not taken(shop) or shop.outputs(TRAIN) in (old, whole.outputs(TRAIN)), operations[at]
        assert any(whole_of(shop.root / place, origin) for place in places), operations[at]
        result = shop.done(*replace)
        assert "epoch 1/4" not in result.out and shop.outputs(TRAIN) == whole.outputs(TRAIN), operations[at]
        assert shop.hidden() == [] and whole_of(shop.root / places[-1], origin), operations[at]
        assert [each.name for each in (shop.root / FOLDER).parent.glob("0.old-*")] == ["0.old-1"], operations[at]


def whole_of(folder: Path, origin: bytes) -> bool:
    """Whether a folder holds the whole run of that provenance.json."""
    try:
        open_run(folder)
    except (LapmlError, OSError):
        return False
    return (folder / "provenance.json").read_bytes() == origin


@pytest.mark.slow
def test_kill_while_a_run_folder_is_filled(whole, tmp_path):
    """The run is finished: what is left to do is to give its files their names."""
    shop = whole.without(TRAIN, tmp_path / "shop")
    operations = shop.done(*TRAIN).operations
    first = next(at for at, each in enumerate(operations) if each.startswith("os.link"))
    for at in range(first, len(operations)):
        shop = whole.without(TRAIN, tmp_path / "shop")
        assert shop(*TRAIN, kill_at=at).status == -signal.SIGKILL
        result = finished(shop, whole, TRAIN)
        assert "is put back: " in result.out or "is finished" in result.out
        assert len((shop.root / FOLDER / READS).read_text().splitlines()) == 1  # nothing was read again


@pytest.mark.slow
def test_kill_while_a_report_is_replaced(whole, tmp_path):
    """Each file is the old or the new one; a mix of them is not published; nothing is left beside them."""
    shop = whole.without(REPORT, tmp_path / "shop")
    shop.done(*REPORT, "--set", "report.confidence=0.9")
    old = shop.outputs(REPORT)
    shutil.copytree(shop.root, tmp_path / "old")
    operations = shop.done(*REPORT).operations
    new = shop.outputs(REPORT)
    moves = [i for i, each in enumerate(operations) if each.startswith("os.rename")]
    assert len(moves) == len(REPORT_FILES) and old.keys() == new.keys() and old != new
    for at in (moves[0], moves[2], moves[-1]):
        shutil.rmtree(shop.root)
        shutil.copytree(tmp_path / "old", shop.root)
        assert shop(*REPORT, kill_at=at).status == -signal.SIGKILL
        found = shop.outputs(REPORT)
        assert all(content in (old[name], new[name]) for name, content in found.items())
        if found not in (old, new):
            one_line(shop("publish"), 1, "lapml report")
        shop.done(*REPORT)
        assert shop.outputs(REPORT) == new and shop.hidden() == []


@pytest.mark.slow
def test_kill_while_a_report_is_published(whole, tmp_path):
    """What was published before is there, or is again after the next time, and nothing beside it."""
    shop = whole.copy(tmp_path / "shop")
    shop.done("publish")
    folder = shop.root / PATHS.published
    published = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(published) > len(REPORT_FILES)
    operations = shop.done("publish").operations
    moves = [at for at, each in enumerate(operations) if each.startswith("os.rename")]
    assert len(moves) > 2  # the last two: the old one away, the new one there; before them, parts of the new one
    for at in (moves[0], *moves[-2:]):
        assert shop("publish", kill_at=at).status == -signal.SIGKILL
        shop.done("publish")
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == published
        assert shop.hidden() == []


# --- SIGTERM and Ctrl-C ---


def test_a_signal_to_a_process(whole, tmp_path):
    """From another one: the step is finished and saved, and the same command goes on in the middle of the epoch."""
    shop = whole.without(TRAIN, tmp_path / "shop")
    waits, limit = shop.root / "waits", time.monotonic() + 50
    shop.begin(*TRAIN, before="at_step(7, wait)")
    try:
        while not waits.exists():
            assert time.monotonic() < limit, "it has not come to its step 7"
            time.sleep(0.01)
        os.kill(int(waits.read_text()), signal.SIGTERM)
    finally:
        waits.unlink(missing_ok=True)
        result = shop.end()
    one_line(result, 75, "epoch 2 after step 2 of 5", "the same command again")
    assert (shop.root / LAST).is_file() and not taken(shop)
    result = finished(shop, whole, TRAIN)
    assert result.told.startswith("resumed after epoch 1 of 4, step 2\n")


@pytest.mark.parametrize(
    "before",
    [
        "at_step(12, send(signal.SIGINT, signal.SIGTERM))",  # the second one is of the other kind
        "at_step(12, send(signal.SIGINT)); before_call(torch, 'save', send(signal.SIGINT), 3)",
        "before_call(torch, 'save', send(signal.SIGTERM, signal.SIGTERM), 2)",
        "before_call(torch, 'save', send(signal.SIGTERM), 4)",  # after the last step
        "before_call(runs.evaluate, 'predict', send(signal.SIGTERM))",
    ],
)
def test_signals_at_awkward_moments(whole, tmp_path, before):
    shop = whole.without(TRAIN, tmp_path / "shop")
    one_line(shop(*TRAIN, before=before), 75, "run the same command again")
    assert not taken(shop) and torch.load(shop.root / LAST, weights_only=True)["history"]
    assert finished(shop, whole, TRAIN).told.startswith("resumed after epoch ")


def test_a_signal_while_a_run_folder_is_filled(whole, tmp_path):
    shop = whole.without(TRAIN, tmp_path / "shop")
    one_line(shop(*TRAIN, before="before_call(os, 'link', send(signal.SIGINT), 3)"), 75, "run the same command again")
    assert not taken(shop)
    assert "is put back: " in finished(shop, whole, TRAIN).out


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_signal_in_the_last_step_of_an_epoch(whole, tmp_path, epoch):
    """No step of that epoch is left for the next time, but its line of history is."""
    shop = whole.without(TRAIN, tmp_path / "shop")
    one_line(shop(*TRAIN, before=f"at_step({epoch * STEPS}, send(signal.SIGTERM))"), 75, f"epoch {epoch}")
    assert finished(shop, whole, TRAIN).told.startswith("resumed after epoch ")


@pytest.mark.parametrize("maps", ["recent", "fresh"])
def test_a_stop_in_mid_epoch_whatever_the_maps(small_run, packed, tmp_path, monkeypatch, maps):
    """What is done once an epoch, is not done again."""
    config = small_run("loc_cutmix", f"methods.loc_cutmix.mixer.maps={maps}", "train.epochs=2")
    whole = train.fit(config, packed, log=quietly)
    with monkeypatch.context() as patch:
        after_steps(patch, 3, send(signal.SIGTERM))
        with pytest.raises(LapmlError, match="stopped in epoch 1 after step 3"):
            train.fit(config, packed, tmp_path / "last.pt", log=quietly)
    again = train.fit(config, packed, tmp_path / "last.pt", log=quietly)
    for one, other in zip(whole.history, again.history, strict=True):
        assert {**one, "seconds": None} == {**other, "seconds": None}
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "command, before",
    [
        (TUNE, "at_step(27, send(signal.SIGTERM))"),
        (TUNE, "before_call(tuning.evaluate, 'metrics', send(signal.SIGINT), 2)"),
        (PREPARE, "before_call(pack, 'square', send(signal.SIGTERM), 20)"),
        (FETCH, "before_call(synthetic, 'render', send(signal.SIGINT), 20)"),
    ],
    ids=str,
)
def test_a_signal_to_another_command(whole, tmp_path, command, before):
    shop = whole.without(command, tmp_path / "shop")
    one_line(shop(*command, before=before), 75, "run the same command again")
    finished(shop, whole, command)


def test_a_signal_while_a_report_is_made(whole, tmp_path):
    shop = whole.copy(tmp_path / "shop")
    before = "before_call(page, 'build', send(signal.SIGTERM))"
    one_line(shop(*REPORT, before=before), 75, "run the same command again")
    assert shop.outputs(REPORT) == whole.outputs(REPORT) and shop.hidden() == []


# --- no room, no right to write ---


@pytest.mark.parametrize(
    "before, epochs",
    [
        ("little_room(30_000)", 0),  # no last.pt at all
        ("at_step(8, lambda *_: little_room(30_000))", 1),  # the first one stays
        ("before_call(runs, 'record_read', lambda: little_room(30_000))", 4),  # model.safetensors
        ("before_call(runs.evaluate, 'table', lambda: little_room(1000))", 4),  # predictions.parquet
    ],
)
def test_a_disk_that_is_full_while_a_run_is_made(whole, tmp_path, before, epochs):
    """One line that says so; an earlier run of other settings and the last saved state stay as they were."""
    shop = whole.without(TRAIN, tmp_path / "shop")
    shop.done(*TRAIN, "--set", "train.lr=0.02")
    old = shop.outputs(TRAIN)
    one_line(shop(*TRAIN, "--replace", before=before), 1, "File too large")
    assert taken(shop) and old.items() <= shop.outputs(TRAIN).items()
    if epochs:
        assert len(torch.load(shop.root / LAST, weights_only=True)["history"]) == epochs
    result = shop.done(*TRAIN, "--replace")
    assert shop.outputs(TRAIN) == whole.outputs(TRAIN) and shop.hidden() == []
    assert result.told.startswith(f"resumed after epoch {epochs} of 4" if epochs else "epoch 1/4")


def test_a_disk_that_is_full_while_a_report_is_made(whole, tmp_path):
    shop = whole.copy(tmp_path / "shop")
    command = (*REPORT, "--set", "report.confidence=0.9")
    one_line(shop(*command, before="little_room(5000)"), 1, "File too large")
    assert shop.outputs(REPORT) == whole.outputs(REPORT) and shop.hidden() == []


def test_a_disk_that_is_full_while_tuning(whole, tmp_path):
    """Nobody is told to delete the study, and the trials that it holds count when there is room again."""
    shop = whole.without(TUNE, tmp_path / "shop")
    result = shop(*TUNE, before="before_call(tuning, '_score', lambda: little_room(1000), 2)")
    one_line(result, 1, "cannot be used now")
    assert "delete" not in result.err and "trial 1/3: validation" in result.out
    again = finished(shop, whole, TUNE)
    assert "margin trial 1/3" not in again.out.replace("adaptive_margin", "adaptive")


@pytest.mark.parametrize("command, folder", [
    (TRAIN, FOLDER), (REPORT, PATHS.report), (TUNE, PATHS.base / "studies/birds"),
    (PREPARE, PATHS.pack("birds").parent), (FETCH, Path(".")),
])  # fmt: skip
def test_a_folder_that_may_not_be_written(whole, tmp_path, command, folder):
    """One line that names a place below it; what is there stays."""
    shop = whole.without(command, tmp_path / "shop")
    (shop.root / folder).mkdir(parents=True, exist_ok=True)
    result = shop(*command, before=f"read_only({str(folder)!r})")
    if result.status == NO_MOUNT:
        pytest.skip("root may write everywhere, and no mount is allowed here")
    one_line(result, 1)
    assert any(words in result.err for words in ("Read-only file system", "Permission denied")), result
    assert (folder.as_posix() in result.err or folder == Path(".")) and "delete" not in result.err, result
    if not os.geteuid() == 0:
        (shop.root / folder).chmod(0o755)
    finished(shop, whole, command)


# --- a GPU's memory, and a loss that is not finite ---


def quietly(line: str) -> None:
    pass


@pytest.mark.parametrize("batch", [2, 6])
def test_out_of_memory_on_the_gpu(small_run, packed, tmp_path, monkeypatch, batch):
    """The message names a smaller batch, and the epochs before it are kept."""
    config, calls = small_run("baseline", f"train.batch={batch}"), 0
    original, steps = train.take_step, 36 // batch

    def full(learner, batch):
        nonlocal calls
        calls += 1
        if calls > steps + 2:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More"
            )
        return original(learner, batch)

    path = tmp_path / "last.pt"
    with monkeypatch.context() as patch:
        patch.setattr(train, "take_step", full)
        with pytest.raises(
            OutOfMemoryError, match=f"train.batch: {batch} images of 48 px do not fit.*2.00 GiB"
        ) as raised:
            train.fit(config, packed, path, log=quietly)
    assert isinstance(raised.value, LapmlError) and raised.value.status == 1
    assert ("try train.accumulate=2" in str(raised.value)) == (batch == 6)
    assert train.fit(config, packed, path, log=quietly).resumed == 1


def test_out_of_memory_in_evaluation(small_run, packed, tmp_path, monkeypatch):
    """Its batches are larger than those of training may be."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More")

    monkeypatch.setattr(runs.evaluate, "autocast", full)
    with pytest.raises(LapmlError, match="do not fit into the GPU's memory.*2.00 GiB"):
        runs.execute(small_run("baseline"), packed, tmp_path / "run", log=quietly)
    assert (tmp_path / "run/last.pt").is_file()


def after_steps(monkeypatch, number: int, action: Callable[[Any, Any], Any]) -> None:
    monkeypatch.setattr(train, "take_step", train.take_step)  # so that it is put back
    at_step(number, action)


def all_finite(path: Path) -> bool:
    return all(value.isfinite().all() for value in torch.load(path, weights_only=True)["models"][0].values())


@pytest.mark.parametrize(
    "step, where", [(3, "the initial one"), (8, "that of epoch 1, {}"), (18, "that of epoch 2, {}")]
)
def test_a_loss_that_becomes_nan(small_run, packed, tmp_path, monkeypatch, step, where):
    """It stops at that step; step, learning rate and the last good state are named, and that state is good."""
    path, config = tmp_path / "last.pt", small_run("adaptive_margin", "train.epochs=3")
    after_steps(monkeypatch, step, not_finite)
    with pytest.raises(DivergedError) as raised:
        train.fit(config, packed, path, log=quietly)
    text = str(raised.value)
    assert (
        f"epoch {(step - 1) // 6 + 1}, step {(step - 1) % 6 + 1} of 6, at lr {schedule(config.train, 6, step - 1):.3g};"
        in text
    )
    assert f"the last good state is {where.format(path)}." in text and "\n" not in text
    assert path.exists() == (step > 6) and (step <= 6 or all_finite(path))


def test_a_loss_that_becomes_nan_after_a_stop(small_run, packed, tmp_path, monkeypatch):
    """The last good state is the one saved in mid-epoch, not the initial one."""
    path = tmp_path / "last.pt"
    with monkeypatch.context() as patch:
        after_steps(patch, 3, send(signal.SIGTERM))
        with pytest.raises(LapmlError, match="stopped in epoch 1 after step 3"):
            train.fit(small_run("baseline"), packed, path, log=quietly)
    after_steps(monkeypatch, 2, not_finite)
    with pytest.raises(DivergedError, match="epoch 1, step 5 of 6") as raised:
        train.fit(small_run("baseline"), packed, path, log=quietly)
    assert (
        str(path) in str(raised.value) and "step 3" in str(raised.value) and "the initial one" not in str(raised.value)
    )


@pytest.mark.parametrize("step", [6, 12])  # the last one of an epoch, and of all
def test_weights_that_overflow_in_the_last_step_of_an_epoch(small_run, packed, tmp_path, monkeypatch, step):
    """The loss was finite; yet what is saved as a good state is one, and nothing is evaluated."""
    folder = tmp_path / "run"
    after_steps(monkeypatch, step, break_weights)
    with pytest.raises(DivergedError):
        runs.execute(small_run("baseline"), packed, folder, log=quietly)
    assert not (folder / "last.pt").exists() or all_finite(folder / "last.pt")
    assert not any((folder / name).exists() for name in (*RUN_FILES, READS))


@pytest.mark.parametrize("maps", ["recent", "fresh"])
@pytest.mark.parametrize("row", ["loc_cutmix", "adaptive_margin"])
def test_class_maps_that_are_not_finite(small_run, packed, monkeypatch, row, maps):
    """They are not drawn from: the run stops for its loss."""
    after_steps(monkeypatch, 8, break_weights)
    with pytest.raises(DivergedError, match="epoch 2, step 3 of 6"):
        train.fit(small_run(row, f"methods.{row}.mixer.maps={maps}"), packed, log=quietly)


def test_a_diverged_trial_counts_and_tuning_goes_on(whole, tmp_path):
    """It is not repeated after a kill either."""
    shop = whole.without(TUNE, tmp_path / "shop")
    die_later = "before_call(tuning, '_score', die, 3)"
    first = shop(*TUNE, "--method", "margin", before=f"at_step({STEPS + 2}, not_finite); {die_later}")
    assert first.status == -signal.SIGKILL and "margin trial 1/3: failed: birds/margin/100: the loss" in first.out
    again = shop.done(*TUNE, "--method", "margin")
    assert "trial 1/3" not in again.out and "trial 2/3: validation" not in again.out
    record = json.loads((shop.root / PATHS.tuned("birds", "margin")).read_text())
    assert [trial["state"] for trial in record["trials"]] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert record["trials"][0]["score"] is None and record["values"] in [t["values"] for t in record["trials"][1:]]


if __name__ == "__main__":
    serve()
