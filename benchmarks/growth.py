"""How costs grow: a step with the batch and the side, packing with the images, report and ``snakemake -n`` with the runs."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.packing import images_of, packing
from benchmarks.record import interleaved, revision, table, written
from benchmarks.rows import Bench, endless, stepper
from benchmarks.scheduler import project, run
from lapml.analysis.stats import t_interval
from lapml.config import Params
from lapml.config.spaces import FILLED
from lapml.errors import LapmlError
from lapml.files import sha256, write_json
from lapml.paths import RUN_FILES, Paths
from lapml.report.figures import growth as figure

BATCHES = (8, 16, 32, 64, 128)
SIDES = (48, 64, 96, 128, 160, 224)
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the images
TIMES = (1, 3, 9)  # the suite's seeds
PANELS = {  # name: (what grows, unit of the times)
    "batch": ("images per batch", "ms per step"),
    "side": ("side of the input in pixels", "ms per step"),
    "images": ("images", "s of packing"),
    "runs": ("runs of the suite", "s"),
}


def growth(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Measure all four; writes growth.json, growth.md and growth.svg into ``output/SUITE`` if given. LapmlError where the suite
    has not been run yet: its runs are what the report is timed on."""
    here = Bench(params.of(dataset), paths, dataset)
    measured = {
        "batch": _steps(here, paths, repeats, steps, "batch", BATCHES),
        "side": _steps(here, paths, repeats, steps, "side", SIDES),
        "images": _images(params, paths, dataset, repeats),
        "runs": _runs(params, paths, repeats),
    }
    points = {panel: _points(times, params.report.confidence) for panel, times in measured.items()}
    record = {
        **here.record(repeats, steps),
        "seconds": {
            panel: {f"{line} {x}": each for (line, x), each in times.items()} for panel, times in measured.items()
        },
        "points": points,
    }
    if output:
        chart = figure(points, PANELS)
        (output / params.suite).mkdir(parents=True, exist_ok=True)
        (output / params.suite / "growth.svg").write_bytes(chart)
    return written(record, _markdown(record), output and output / params.suite, "growth")


def _steps(
    here: Bench, paths: Paths, repeats: int, steps: int, key: str, values: tuple[int, ...]
) -> dict[tuple[str, int], list[float]]:
    """Seconds per step of the first and the last method, at each batch or side that the data and the model allow."""
    contenders: dict[tuple[str, int], Callable[[], float]] = {}
    for value in values:
        try:
            sized = _sized(here, paths, key, value)
            for method in here.ends():
                config = sized.config(method)
                learner, weights = sized.make_learner(config)
                pool = sized.batches(config, weights)
                pool.steps(config.train.batch)
                step = stepper(learner, endless(pool, config, learner))
                sized.timed(step, steps)  # allocations and kernel choice
                contenders[method, value] = lambda sized=sized, step=step: sized.timed(step, steps)
        except LapmlError:  # a map under 6×6, a side that the stride does not divide, a batch larger than the data
            continue
    return interleaved(contenders, repeats)


def _sized(here: Bench, paths: Paths, key: str, value: int) -> Bench:
    """The same data set in batches or views of another size."""
    params, name = here.params, here.dataset
    if key == "batch":
        params = params.model_copy(update={"train": params.train.model_copy(update={"batch": value})})
    else:
        data = params.data[name]
        data = data.model_copy(update={"view": data.view.model_copy(update={"side": value})})
        params = params.model_copy(update={"data": {**params.data, name: data}})
    return Bench(params, paths, name)


def _images(params: Params, paths: Paths, dataset: str, repeats: int) -> dict[tuple[str, int], list[float]]:
    files, banner = images_of(params, paths, dataset)
    side = params.data[dataset].stored_side
    counts = [max(2, int(share * len(files))) for share in SHARES]
    chosen = {count: [files[at] for at in np.linspace(0, len(files) - 1, count).astype(int)] for count in counts}
    for file in files:
        file.read_bytes()  # read once, so that none waits for the disk
    name = "lapml data prepare"
    return interleaved(
        {(name, count): lambda count=count: packing(chosen[count], side, banner, paths) for count in counts}, repeats
    )


def _runs(params: Params, paths: Paths, repeats: int) -> dict[tuple[str, int], list[float]]:
    """Report and dry run of the suite with copies of its runs as further seeds, in a temporary folder."""
    with tempfile.TemporaryDirectory() as scratch:
        contenders: dict[tuple[str, int], Callable[[], float]] = {}
        for times in TIMES:
            folder = Path(scratch) / str(times)
            count = _grown(params, paths, folder, times)
            contenders["lapml report", count] = lambda folder=folder: run(folder, "lapml", "report", "--no-images")[0]
            contenders["snakemake -n", count] = lambda folder=folder: run(folder, "snakemake", "-n", "--quiet", "all")[
                0
            ]
        return interleaved(contenders, repeats)


def _grown(params: Params, paths: Paths, folder: Path, times: int) -> int:
    """A suite folder with ``times`` times the seeds; returns the number of its runs."""
    seeds = params.seeds
    grown = params.model_dump(mode="json") | {"seeds": [seed + 1000 * copy for copy in range(times) for seed in seeds]}
    for method in grown["methods"].values():
        for part in filter(None, (method["mixer"], method["loss"])):
            for key in FILLED:
                part.pop(key, None)
    project(folder)
    write_json(folder / "params.yaml", grown)  # JSON is YAML
    target, count = Paths(params.suite, folder), 0
    for dataset in params.datasets:
        for source in (paths.base / "data" / dataset, paths.localised(dataset)):
            if source.is_dir():  # there are no maps where nothing mixes by them
                shutil.copytree(source, target.base / source.relative_to(paths.base), copy_function=_linked)
        for method in params.tuned_methods:
            _linked(paths.tuned(dataset, method), target.tuned(dataset, method))
        for method in params.all_methods():
            for copy in range(times):
                for seed in seeds:
                    source = paths.run(dataset, method, seed)
                    if not all((source / name).is_file() for name in RUN_FILES):
                        raise LapmlError(f"{source}: is not complete; run the suite first, its runs are what is timed")
                    _as_seed(source, target.run(dataset, method, seed + 1000 * copy), seed + 1000 * copy)
                    count += 1
    return count


def _as_seed(source: Path, copy: Path, seed: int) -> None:
    """A copy of a run that says it is one of another seed."""
    for name in RUN_FILES:
        if name not in ("config.json", "provenance.json"):
            _linked(source / name, copy / name)
    config = json.loads((source / "config.json").read_text())
    write_json(copy / "config.json", {**config, "seed": seed})
    origin = json.loads((source / "provenance.json").read_text())
    origin["files"]["config.json"] = sha256(copy / "config.json")
    write_json(copy / "provenance.json", origin)


def _linked(source: str | Path, target: str | Path) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).symlink_to(Path(source).resolve())


def _points(times: dict[tuple[str, int], list[float]], confidence: float) -> dict[str, list[list[float]]]:
    """{line: [[x, mean seconds, half-width], …]}."""
    lines: dict[str, list[list[float]]] = {}
    for (line, x), each in times.items():
        lines.setdefault(line, []).append([x, *map(float, t_interval(np.array(each), confidence))])
    return {line: sorted(points) for line, points in lines.items()}


def _markdown(record: dict[str, Any]) -> str:
    data = record["data"]
    lines = [
        f"{record['model']['name']}, {data['dataset']} at {data['side']} px, batch {record['batch']}, {record['precision']}, "
        f"{record['threads']} thread(s), {record['device']}; {record['rounds']} interleaved rounds; {revision(record)}. "
        "`order` is the slope between the ends on logarithmic axes: 1 is proportional growth."
    ]
    for panel, (what, unit) in PANELS.items():
        scale = 1000 if unit.startswith("ms") else 1
        for line, points in record["points"][panel].items():
            (x0, y0, _), (x1, y1, _) = points[0], points[-1]
            order = f"{np.log(y1 / y0) / np.log(x1 / x0):.2f}" if len(points) > 1 else "–"
            cells = [unit, *(f"{scale * y:.3g} ± {scale * half:.2g}" for _, y, half in points), order]
            lines += ["", *table([f"{line}: {what}", *(f"{int(x):,}" for x, *_ in points), "order"], [cells])]
    return "\n".join(lines)
