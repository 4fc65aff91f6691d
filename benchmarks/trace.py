"""Where the time of a step goes, by torch's profiler; the parts are those that :func:`lapml.training.loop.take_step` names."""

from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import table, written
from benchmarks.rows import Bench, endless, heading
from lapml.config import Params
from lapml.paths import Paths
from lapml.training.step import PARTS, take_step

DATA = "data"  # the next batch, mixed ahead where that can be; on a CPU a thread makes it, and this is the wait for it


def trace(params: Params, paths: Paths, dataset: str, steps: int, output: Path | None) -> str:
    """Profile the first and the last method; returns a Markdown table, written with its figures to profile.json and
    profile.md in ``output/SUITE`` if given. Traces for chrome://tracing or Perfetto go to ``results/SUITE/bench/``.
    """
    here = Bench(params.of(dataset), paths, dataset)
    cuda = here.device.type == "cuda"
    parts: dict[str, dict[str, float]] = {}
    traces = []
    for method in here.ends():
        config = here.config(method)
        learner, weights = here.make_learner(config)
        pool = here.batches(config, weights)
        source = endless(pool, config, learner)

        def step(learner=learner, source=source) -> None:  # noqa: ANN001
            with record_function(DATA):
                batch = next(source)
            take_step(learner, batch)

        here.timed(step, 3)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
            whole = here.timed(step, steps)
        parts[method] = {name: seconds / steps for name, seconds in _parts(profiler, cuda).items()}
        parts[method]["the rest"] = max(0.0, whole - sum(parts[method].values()))
        parts[method]["step"] = whole
        traces.append(paths.base / "bench" / f"trace-{method}.json.gz")
        traces[-1].parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(traces[-1]))
    record = {**here.record(1, steps), "seconds_per_step": parts}
    text = _markdown(record, "GPU" if cuda else "CPU")
    return written(record, text, output and output / params.suite, "profile") + "\n\n" + "\n".join(map(str, traces))


def _parts(profiler: profile, cuda: bool) -> dict[str, float]:
    """Seconds of each named part; on a GPU those of its kernels, so that "the rest" is the time in which none ran."""
    averages = profiler.key_averages()
    named = {event.key: event for event in averages if event.device_type == DeviceType.CPU}
    names = [name for name in (DATA, *PARTS) if name in named]
    if not cuda:
        return {name: named[name].cpu_time_total / 1e6 for name in names}
    found = {name: named[name].device_time_total / 1e6 for name in names if name != "backward"}
    kernels = sum(event.self_device_time_total for event in averages if event.device_type == DeviceType.CUDA
                  and not event.is_user_annotation)  # fmt: skip
    # Autograd launches its kernels from a thread of its own, outside the part's name.
    return {**found, "backward": max(0.0, kernels / 1e6 - sum(found.values()))}


def _markdown(record: dict[str, Any], kind: str) -> str:
    rows = record["seconds_per_step"]
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts if name != "step"))
    lines = []
    for name in (*names, "step"):
        cells = [
            f"{1000 * parts[name]:.2f} ({100 * parts[name] / parts['step']:.0f} %)" if name in parts else "–"
            for parts in rows.values()
        ]
        lines.append([name, *cells])
    return "\n".join([heading(record), "", *table([f"ms of {kind} time per step", *rows], lines)])
