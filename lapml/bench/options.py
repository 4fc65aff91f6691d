"""Which of torch's own accelerations pay for runs of this suite's length, each against the step as it is."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from lapml.bench.record import interleaved, interval, ratio, written
from lapml.bench.rows import Bench, endless, heading
from lapml.config import Params
from lapml.data.batches import Batches
from lapml.paths import Paths
from lapml.train import Learner, take_step

PLAIN = "as it is"


def _contiguous(it: Learner) -> None:
    it.net.to(memory_format=torch.contiguous_format)
    it.net.register_forward_pre_hook(lambda _, images: (images[0].contiguous(),))


def _fused(it: Learner) -> None:
    for group in it.optimizer.param_groups:
        group.update(fused=True, foreach=False)


def _compiled(it: Learner) -> None:
    it.forward = torch.compile(it.net)


def _graphs(it: Learner) -> None:
    it.forward = torch.compile(it.net, mode="reduce-overhead")


def _benchmark(it: Learner) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True


OPTIONS: dict[str, Callable[[Learner], None]] = {
    PLAIN: lambda it: None,
    "without channels_last": _contiguous,
    "fused optimizer": _fused,
    "torch.compile": _compiled,
    "torch.compile, CUDA graphs": _graphs,
    "cudnn.benchmark, not deterministic": _benchmark,
}
GPU_ONLY = ("torch.compile, CUDA graphs", "cudnn.benchmark, not deterministic")


def options(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time each option with the first and the last row; writes options.json and options.md into ``output/SUITE``.

    An option pays if the steps of a whole run gain more than its first steps (compiling) lose.
    """
    here = Bench(params.of(dataset), paths, dataset)
    config = here.params.train
    seconds, first, length, failed, pool = {}, {}, 0, {}, None
    for row in dict.fromkeys((here.params.all_rows()[0], here.params.all_rows()[-1])):
        stepped = {}
        for name, apply in OPTIONS.items():
            if here.device.type == "cpu" and name in GPU_ONLY:
                continue
            run = here.config(row)
            it, weights = here.learner(run)
            pool = pool or here.batches(run, weights)
            length = pool.steps(config.batch) * config.epochs
            apply(it)
            step = _stepper(it, pool, run)
            started = time.perf_counter()
            try:
                step(), step()
                here.wait()
            except Exception as error:  # no compiler, an operation that cannot be captured
                failed[f"{row}: {name}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            first[f"{row}: {name}"] = time.perf_counter() - started
            stepped[name] = lambda step=step, name=name: _with_backend(name, here, step, steps)
        seconds |= {f"{row}: {name}": times for name, times in interleaved(stepped, repeats).items()}
        torch.compiler.reset()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    record = {
        **here.record(),
        "rounds": repeats,
        "steps": steps,
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


def _stepper(it: Learner, pool: Batches, run) -> Callable[[], None]:  # noqa: ANN001
    source = endless(pool, run, it)
    return lambda: take_step(it, next(source))


def _with_backend(name: str, here: Bench, step: Callable[[], None], steps: int) -> float:
    fast = name.startswith("cudnn.benchmark")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = not fast, fast
    return here.timed(step, steps)


def _markdown(record: dict) -> str:
    length = record["steps_of_a_run"]
    lines = [
        heading(record), "", f"| row: option | step time / as it is | first two steps, s | a run of {length:,} steps, s |",
        "|---|---:|---:|---:|",
    ]  # fmt: skip
    for name, times in record["seconds_per_step"].items():
        first, mean = record["seconds_of_first_two_steps"][name], sum(times) / len(times)
        cells = (interval(record["step_vs_as_it_is"][name]), f"{first:.1f}", f"{first + mean * (length - 2):,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | does not run: {why} | | |" for name, why in record["failed"].items()]
    return "\n".join(lines)
