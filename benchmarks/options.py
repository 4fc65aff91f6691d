"""Which of torch's options pay for runs of this suite's length, each against the plain step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import interleaved, interval, ratio, table, written
from benchmarks.rows import Bench, endless, heading, stepper
from lapml.config import Params
from lapml.paths import Paths
from lapml.training.step import Learner

PLAIN = "as it is"
GRAPHS = "torch.compile, CUDA graphs"
FAST = "cudnn.benchmark, not deterministic"  # two flags of the process, which :func:`_timed` sets
GPU_ONLY = (GRAPHS, FAST)


def _contiguous(learner: Learner) -> None:
    learner.model.to(memory_format=torch.contiguous_format)
    learner.model.register_forward_pre_hook(lambda _, images: (images[0].contiguous(),))


def _fused(learner: Learner) -> None:
    for group in learner.optimizer.param_groups:
        group.update(fused=True, foreach=False)


def _compiled(learner: Learner, mode: str | None = None) -> None:
    learner.forward = torch.compile(learner.model, mode=mode)


OPTIONS: dict[str, Callable[[Learner], None]] = {
    PLAIN: lambda learner: None,
    "without channels_last": _contiguous,
    "fused optimizer": _fused,
    "torch.compile": _compiled,
    GRAPHS: lambda learner: _compiled(learner, "reduce-overhead"),
    FAST: lambda learner: None,
}


def options(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time each option with the first and the last method; writes options.json and options.md into ``output/SUITE``.

    An option pays if the steps of a whole run gain more than its first steps (compiling) lose.
    """
    here = Bench(params.of(dataset), paths, dataset)
    config = here.params.train
    seconds, first, length, failed = {}, {}, 0, {}
    for method in here.ends():
        stepped = {}
        for name, apply in OPTIONS.items():
            if here.device.type == "cpu" and name in GPU_ONLY:
                continue
            run = here.config(method)
            learner, weights = here.make_learner(run)
            pool = here.batches(run, weights)
            length = pool.steps(config.batch) * config.epochs
            apply(learner)
            step = stepper(learner, endless(pool, run, learner))
            try:
                first_two = 2 * _timed(name, here, step, 2)
            except Exception as error:  # no compiler, an operation that cannot be captured
                failed[f"{method}: {name}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            first[f"{method}: {name}"] = first_two
            stepped[name] = lambda step=step, name=name: _timed(name, here, step, steps)
        seconds |= {f"{method}: {name}": times for name, times in interleaved(stepped, repeats).items()}
        torch.compiler.reset()
    record = {
        **here.record(repeats, steps),
        "steps_of_a_run": length,
        "seconds_of_first_two_steps": first,
        "seconds_per_step": seconds,
        "failed": failed,
        "step_vs_as_it_is": {
            name: ratio(times, seconds[f"{name.partition(': ')[0]}: {PLAIN}"], params.report.confidence)
            for name, times in seconds.items()
        },
    }
    return written(record, _markdown(record), output and output / params.suite, "options")


def _timed(name: str, here: Bench, step: Callable[[], Any], steps: int) -> float:
    """Mean seconds of a step of an option."""
    cudnn, fast = torch.backends.cudnn, name == FAST
    cudnn.deterministic, cudnn.benchmark = not fast, fast
    try:
        return here.timed(step, steps)
    finally:
        cudnn.deterministic, cudnn.benchmark = True, False


def _markdown(record: dict) -> str:
    length = record["steps_of_a_run"]
    heads = ["method: option", "step time / as it is", "first two steps, s", f"a run of {length:,} steps, s"]
    rows = []
    for name, times in record["seconds_per_step"].items():
        first, mean = record["seconds_of_first_two_steps"][name], sum(times) / len(times)
        seconds = f"{first:.1f}", f"{first + mean * (length - 2):,.0f}"
        rows.append([name, interval(record["step_vs_as_it_is"][name]), *seconds])
    failed = [f"| {name} | does not run: {why} | | |" for name, why in record["failed"].items()]
    return "\n".join([heading(record), "", *table(heads, rows), *failed])
