"""On the other machine: take the pieces in, install what they bring, and make the data ready. What is done stays done."""

import importlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.processes import Asked, finish
from lapml.common import tars
from lapml.errors import LapmlError
from lapml.files import scratch, write_json

NEEDED = (  # what the machine has: a kit brings the rest
    "torch", "torchvision", "timm", "pandas", "pyarrow", "scipy", "sklearn", "PIL", "typer", "tqdm", "safetensors", "jinja2",
)  # fmt: skip
UNPACK = "unpack"  # a Python script in the folder of images: `unpack DEST` lays them out
ABOUT = ("kit", "of", "suite", "python", "commit", "dirty", "code_sha256")  # what all pieces of a kit say alike


class Work:
    """The kit's own folder on the machine, and a note of what was done in it."""

    def __init__(self, folder: Path, lock: int, asked: Asked):
        self.folder, self.lock, self.asked = folder.resolve(), lock, asked
        self.kit, self.site, self.logs = (self.folder / name for name in ("kit", "site", "logs"))
        self.images = self.folder / "images"
        self.file = self.folder / "state.json"
        self.state: dict[str, Any] = {"about": None, "pieces": [], "seconds": {}, "found": {}}
        if self.file.is_file():
            try:
                self.state |= json.loads(self.file.read_text(encoding="utf-8"))
            except ValueError:
                raise LapmlError(f"{self.file}: damaged; remove {self.folder} and give all pieces again") from None
        path = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH"))))
        self.env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def save(self) -> None:
        write_json(self.file, self.state)

    def once(self, step: str, work: Callable[[], None]) -> None:
        """Do a step and note its seconds, unless it is done."""
        if step in self.state["seconds"]:
            print(f"{step}: done before", flush=True)
            return
        self.state["seconds"][step] = self.timed(step, work)
        self.save()

    def timed(self, step: str, work: Callable[[], None]) -> float:
        """Do a step, and print and return its seconds."""
        started = time.perf_counter()
        work()
        seconds = round(time.perf_counter() - started, 2)
        print(f"{step}: {seconds:.1f} s", flush=True)
        return seconds

    def call(self, what: str, *command: str, env: dict[str, str] | None = None) -> None:
        """Run a command to its end, with what is installed here."""
        log = self.logs / f"{what}.log"
        finish(what, command, log, {**self.env, **(env or {})}, self.lock, self.asked)


def take_in(pieces: Path, work: Work) -> list[int]:
    """Unpack the pieces that lie in a folder, and return the numbers of those that are still missing; LapmlError for a piece
    that is damaged, given twice, of another kit, or for another Python."""
    given: dict[int, Path] = {}
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not pieces.is_dir():
        raise LapmlError(f"{pieces}: no such folder, expected one with the pieces of a kit (kit/out of `make kit`)")
    for path in sorted(pieces.glob("*.tar")):
        record = tars.manifest(path)
        if any(key not in record for key in (*ABOUT, "piece")):
            raise LapmlError(f"{path}: is no piece of a kit; leave only pieces in {pieces}")
        about = {key: record[key] for key in ABOUT}
        if work.state["about"] not in (None, about):
            raise LapmlError(
                f"{path}: is of another kit ({about['kit']}, {about['suite']}) than {next(iter(given.values()), work.folder)} "
                f"({work.state['about']['kit']}, {work.state['about']['suite']}); give pieces of one `make kit`, or for "
                f"another kit another --work"
            )
        if record["piece"] in given:
            raise LapmlError(f"{path}: is piece {record['piece']}, as is {given[record['piece']]}; remove one of them")
        if about["python"] != here:
            raise LapmlError(
                f"{path}: is for Python {about['python']}, found {here}; make it with PY={here.replace('.', '')}"
            )
        given[record["piece"]] = path
        work.state["about"] = about
    for number, path in given.items():
        if number not in work.state["pieces"]:
            step = f"take in piece {number} of {work.state['about']['of']}"
            work.state["seconds"][step] = work.timed(step, lambda path=path: _unpacked(path, work.kit))
            work.state["pieces"].append(number)
            work.save()
    if work.state["about"] is None:
        raise LapmlError(f"{pieces}: holds no piece of a kit; `make kit` writes them to kit/out")
    return [number for number in range(1, work.state["about"]["of"] + 1) if number not in work.state["pieces"]]


def _unpacked(path: Path, folder: Path) -> None:
    """A whole piece or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder.with_name(".piece.tmp")) as new:
        tars.extract(path, new)
        for file in sorted(each for each in new.rglob("*") if each.is_file()):
            target = folder / file.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)


def install(work: Work, root: Path) -> None:
    """Install the wheels beside the machine's packages, and make this process see them too; LapmlError where something that a
    kit does not bring is missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise LapmlError(
            f"{sys.executable}: has no {', '.join(missing)}; a kit needs a Python that has them (PYTHON=…)"
        )

    def wheels() -> None:
        shutil.rmtree(work.site, ignore_errors=True)
        files = sorted(map(str, (work.kit / "wheels").glob("*.whl")))
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
        work.call("install", *pip, "--no-compile", "--no-index", "--no-deps", "--target", str(work.site), *files)

    work.once("install", wheels)
    if str(work.site) not in sys.path:
        sys.path.insert(0, str(work.site))
        importlib.invalidate_caches()
    _vouch(work, root)


def _vouch(work: Work, root: Path) -> None:
    """Where there is no git, lay the file that names the commit into the checkout. It says by itself whether the code is
    that of the commit."""
    from lapml.common import provenance

    if (root / ".git").exists():
        return
    kept = work.kit / "checkout"
    for file in sorted(path for path in kept.rglob("*") if path.is_file()):
        shutil.copyfile(file, root / file.relative_to(kept))
    if provenance.code_sha256() != work.state["about"]["code_sha256"]:
        print(
            f"note: {root.resolve()} holds other code than the kit was made of (commit {work.state['about']['commit']}): "
            "its runs will say that their code is not that of the commit",
            flush=True,
        )


def lay_out(work: Work) -> Path:
    """The folder of images, unpacked where it has a script for it."""
    packed = work.kit / "images"
    script = packed / UNPACK
    if not script.is_file():
        return packed
    work.once("unpack", lambda: work.call("unpack", sys.executable, str(script), str(work.images)))
    return work.images


def make_ready(work: Work, suite: Path, overrides: list[str]) -> None:
    """Fetch and prepare the data sets of a suite, unless they are packed already, and localise them where a method asks for it."""
    from lapml.config import load
    from lapml.data.fetch.sources import refuse_other
    from lapml.data.pack import Packed
    from lapml.localise.evidence import found
    from lapml.paths import Paths

    params = load(suite, overrides)
    paths = Paths(params.suite)
    options = ("--params", str(suite), *(part for each in overrides for part in ("--set", each)))

    def call(step: str, name: str, *command: str, env: dict[str, str]) -> None:
        whole = (sys.executable, "-m", "lapml", *command, name, *options)
        seconds = work.timed(f"{step} {name}", lambda: work.call(step, *whole, env=env))
        work.state["seconds"][f"{step} {name}"] = seconds

    for name in params.datasets:
        synthetic = params.data[name].source == "synthetic"
        env = {} if synthetic else {f"LAPML_{name.upper().replace('-', '_')}": str(lay_out(work))}
        try:
            if not synthetic and f"fetch {name}" not in work.state["seconds"]:
                raise LapmlError("the images of this kit were not looked at yet; those of another one may be packed")
            refuse_other(name, params.data[name], paths)
            Packed.open(paths.pack(name), params.data[name])
            print(f"prepare {name}: done before", flush=True)
        except LapmlError:
            for step, anew in (("fetch", () if synthetic else ("--anew",)), ("prepare", ())):
                call(step, name, "data", step, *anew, env=env)
        if params.localising():
            try:
                found(params, paths, name, Packed.open(paths.pack(name), params.data[name]))
                print(f"localise {name}: done before", flush=True)
            except LapmlError:
                call("localise", name, "localise", env={})
        work.save()
