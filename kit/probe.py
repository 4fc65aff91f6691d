"""Before the runs, where asked for: the tests that need a GPU, learning rates read on the validation split, and how many
runs side by side are fastest."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from kit.processes import TICK, Asked, end, start, tail
from kit.runs import Bench
from lapml.errors import LapmlError, Stopped

MPS = "nvidia-cuda-mps-control"
GPU_TESTS = "gpu-tests"  # name of their log


def gpu_tests(bench: Bench, seconds: float, asked: Asked) -> bool:
    """Run the tests marked gpu for at most ``seconds``, print how they ended, and return whether they passed."""
    files = sorted(
        str(path) for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8")
    )
    log = bench.work.logs / f"{GPU_TESTS}.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    process = start(command, log, bench.work.env, bench.work.lock)
    _wait([process], seconds, asked)
    said = (
        tail(log, 1) if process.returncode is not None and process.returncode >= 0 else f"not over in {seconds:.0f} s"
    )
    print(f"tests marked gpu: {said} ({log})", flush=True)
    return process.returncode == 0


def _wait(processes: list[subprocess.Popen], seconds: float, asked: Asked) -> None:
    """Until all have ended, or for ``seconds`` (0: no limit); then they are ended. Stopped if asked to."""
    until = time.monotonic() + seconds if seconds else float("inf")
    while any(process.poll() is None for process in processes) and not asked and time.monotonic() < until:
        time.sleep(TICK)
    end(processes)
    if asked:
        raise Stopped("stopped before the runs; run the same command again to continue")


def learning_rate(bench: Bench, rates: list[float], epochs: int, asked: Asked) -> float:
    """The rate of the best validation top-1 of a short development run of the first method; of equals the first. LapmlError
    where none of them came to its end."""
    job = bench.jobs()[0]
    running, places = [], []
    for at, rate in enumerate(rates):
        name = f"{bench.params.suite}-rate-{at}"
        paths = bench.beside(name)
        shutil.rmtree(paths.base / "development", ignore_errors=True)
        own = [f"suite={name}", f"train.lr={rate}", f"train.epochs={epochs}", "train.milestones=null"]
        own += [
            f"ablation=[{job.method}]",
            f"diagnose.method={job.method}",
            "report.primary=[]",
        ]  # else other methods' warm-ups must fit as well
        log = bench.log(job, name)
        log.unlink(missing_ok=True)
        running.append(bench.train(job, log, *own, development=True))
        places.append((rate, paths.development(*job), log))
    _wait(running, 0, asked)
    found = {}
    for rate, folder, log in places:
        try:
            found[rate] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["top1"]
            print(
                f"learning rate {rate:g}: {found[rate]:.2f} % on val after {epochs} epochs of {job.method}", flush=True
            )
        except (OSError, ValueError, KeyError):
            print(f"learning rate {rate:g}: failed; {log} ends in:\n{tail(log, 4)}", flush=True)
        shutil.rmtree(folder.parents[3], ignore_errors=True)
    if not found:
        raise LapmlError(f"--rates: none of {', '.join(map(str, rates))} came to its end; see above, and give others")
    return max(found, key=lambda rate: found[rate])


def side_by_side(bench: Bench, counts: list[int], seconds: float, asked: Asked) -> dict[str, object]:
    """Try each number of runs together for ``seconds`` (their start is not in the speed).

    Returns:
        ``images_per_second`` of each number, and ``together``: the number by which what is left to do finishes :func:`soonest`.
    """
    left, rates = bench.left(), {}
    for count in sorted({min(count, len(left)) for count in counts}):
        name = f"{bench.params.suite}-together-{count}"
        paths = bench.beside(name)
        some = left[:count]
        running = [bench.train(job, bench.log(job, name), f"suite={name}", development=True) for job in some]
        _wait(running, seconds, asked)
        each = [progress(paths.development(*job)) for job in some]
        rates[count] = round(sum(images / spent for images, spent in each if spent), 1)
        print(f"{count} side by side: {rates[count]:.0f} images/s", flush=True)
        shutil.rmtree(paths.base, ignore_errors=True)
    together = soonest(rates, len(left))
    print(f"{together} side by side finish soonest", flush=True)
    return {"images_per_second": rates, "together": together}


def finish(rates: dict[int, float], runs: int, together: int) -> float:
    """How long equal runs take, in images a run over images a second, with ``together`` runs side by side.

    Full rounds go at the speed measured for ``together``, what is left over at that of its number, between measured ones
    in a straight line. ``rates``: images a second of all runs together, by how many there are.
    """
    known = sorted(rates)
    full, rest = divmod(runs, together)
    speed = lambda count: float(np.interp(count, known, [rates[each] for each in known]))  # noqa: E731
    return full * together / speed(together) + (rest / speed(rest) if rest else 0.0)


def soonest(rates: dict[int, float], runs: int) -> int:
    """How many runs side by side finish all of them soonest; of equals the fewest. LapmlError where none came so far that its
    speed is known."""
    measured = {count: rate for count, rate in rates.items() if rate > 0}
    if not measured:
        raise LapmlError(
            "side by side: no run came to its first step in that time; give more --probe-seconds, or --jobs"
        )
    return min(sorted(measured), key=lambda count: finish(measured, runs, min(count, runs)))


def progress(folder: Path) -> tuple[int, float]:
    """(images trained, seconds that took) of an interrupted or finished run; zeros where it has not begun."""
    import torch

    now = {"counts": {"images_backward": 0}, "seconds": 0.0}
    if (folder / "history.csv").is_file():
        history = pd.read_csv(folder / "history.csv").to_dict("records")
    elif (folder / "last.pt").is_file():
        saved = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
        history, now = saved["history"], saved["ranks"][0]["epoch"]
    else:
        history = []
    images = sum(row["images_backward"] for row in history) + now["counts"]["images_backward"]
    return images, sum(row["seconds"] for row in history) + now["seconds"]


@contextmanager
def mps(bench: Bench) -> Iterator[bool]:
    """CUDA's multi-process service for the runs in here, if this machine has it and it works: kernels of several runs then
    share the GPU at the same moment. Its pipes lie in the kit's folder; nothing else of the GPU is touched. Yields whether it runs.
    """
    import torch

    if shutil.which(MPS) is None or not torch.cuda.is_available():
        yield False
        return
    folder = bench.work.folder / "mps"
    folder.mkdir(parents=True, exist_ok=True)
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    env = bench.work.env | own
    _quit(env)  # one that a killed kit left
    started = subprocess.run([MPS, "-d"], env=env, capture_output=True).returncode == 0
    check = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').add(1).item()"]
    try:
        works = started and subprocess.run(check, env=env, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        works = False
    if not works:
        _quit(env)
    print(f"CUDA MPS: {'on' if works else 'does not work here'}", flush=True)
    try:
        bench.env |= own if works else {}
        yield works
    finally:
        for name in own:
            bench.env.pop(name, None)
        if works:
            _quit(env)


def _quit(env: dict[str, str]) -> None:
    try:
        subprocess.run([MPS], env=env, input=b"quit\n", capture_output=True, timeout=30)
    except subprocess.TimeoutExpired:
        print(f"{MPS}: does not answer", file=sys.stderr, flush=True)
