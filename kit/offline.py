"""All that kit/run.sh does, from the pieces to the tar of finished runs. Needs the standard library to begin with."""

from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from kit.processes import Asked, alone
from kit.take import Work, install, make_ready, take_in
from lapml.errors import LapmlError, Stopped

if TYPE_CHECKING:
    from kit.runs import Bench

ROOT = Path(".")


def offline(plan: Namespace) -> int:
    """Do all of it by the options of ``python -m kit run``; returns the exit status.

    Raises:
        LapmlError: bad pieces, a step that failed, a suite that cannot run here; a learning rate is given and to be chosen.
        Stopped: asked to stop before the first run.
    """
    if missing := [name for name in ("kit", "lapml") if not (ROOT / name).is_dir()]:
        raise LapmlError(
            f"{ROOT.resolve()}: holds no {' and no '.join(missing)}; run kit/run.sh from the root of a checkout"
        )
    if plan.rates and _sets_rate(plan):
        raise LapmlError(
            "--rates: found beside --set train.lr, expected one of the two; leave --rates out to train with that rate"
        )
    with Asked(plan.stop) as asked, alone(plan.work / "lock") as lock:
        work = Work(plan.work, lock, asked)
        missing = take_in(plan.pieces, work)
        if missing:
            pieces = ", ".join(map(str, missing))
            text = f"piece {pieces} of {work.state['about']['of']} of the kit is missing; what was given is taken in"
            if not plan.take:
                raise LapmlError(f"{plan.pieces}: {text}: give the others, in this folder or in one of their own")
            print(text, flush=True)
        if plan.take:
            return 0
        install(work, ROOT)
        return _suite(plan, work, asked)


def _sets_rate(plan: Namespace) -> bool:
    """Whether the learning rate is given by --set, which one that was chosen before does not replace."""
    return any(each.partition("=")[0].strip() in ("train", "train.lr") for each in plan.overrides)


def _suite(plan: Namespace, work: Work, asked: Asked) -> int:
    """From here on the packages of the kit are there."""
    from kit import probe
    from kit.runs import Bench, Outcome, run_all
    from lapml.report import carried

    here = Bench.of(Path(work.state["about"]["suite"]), plan.overrides, work)
    make_ready(work, here.suite, here.overrides)
    if (rate := work.state["found"].get("rate")) and not _sets_rate(plan):
        here.set(f"train.lr={rate}")
    outcome, passed = Outcome(), True

    def pack() -> list[Path]:
        logs = [here.log(job) for job in outcome.failed]
        logs += [] if passed else [work.logs / f"{probe.GPU_TESTS}.log"]
        target = plan.output / f"{here.paths.suite}-runs.tar"
        return carried.pack(here.params, here.paths, {**work.state, "overrides": here.overrides}, logs, target)

    try:
        if plan.gpu_tests and here.left() and not work.state["found"].get("gpu_tests"):
            passed = work.state["found"]["gpu_tests"] = probe.gpu_tests(here, plan.gpu_tests, asked)
            work.save()
        with probe.mps(here) if max([plan.jobs, len(plan.rates), *plan.probe]) > 1 else nullcontext():
            together = _chosen(plan, here, asked)
            run_all(here, here.left(), together, plan.limit, asked, outcome, done=pack)
    finally:
        for path in pack():
            print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB", flush=True)
        print(f"{len(here.jobs()) - len(here.left())} of {len(here.jobs())} runs are finished", flush=True)
    if outcome.failed or not passed:
        return 1
    return Stopped.status if outcome.stopped or outcome.left else 0


def _chosen(plan: Namespace, here: "Bench", asked: Asked) -> int:
    """Choose the learning rate, if asked to and not chosen yet, and how many runs are side by side."""
    from kit import probe

    found = here.work.state["found"]
    if plan.rates and "rate" not in found and here.left():
        found |= {"rate": probe.learning_rate(here, plan.rates, plan.rate_epochs, asked)}
        here.work.save()
        here.set(f"train.lr={found['rate']}")
    if plan.probe and "together" not in found and here.left():
        found |= probe.side_by_side(here, plan.probe, plan.probe_seconds, asked)
        here.work.save()
    return found["together"] if plan.probe and "together" in found else plan.jobs
