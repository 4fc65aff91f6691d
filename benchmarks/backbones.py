"""What each method costs by backbone: step time over that of the same backbone's baseline."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import interleaved, interval, ratio, revision, table, written
from benchmarks.rows import Bench, contender
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.paths import Paths

MODELS = ["resnet18", "resnet50", "tf_efficientnet_lite0", "mobilenetv4_conv_small", "convnext_atto",
          "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "vit_small_patch16_224"]  # fmt: skip


def backbones(
    params: Params, paths: Paths, dataset: str, models: list[str], repeats: int, steps: int, output: Path | None
) -> str:
    """Time the methods of a suite by backbone, with random weights, none frozen and no stage cut off; returns a Markdown table, and
    writes backbones.json and backbones.md into ``output/SUITE`` if given. A model that cannot take the data's side is named.
    """
    ready, refused, here = {}, [], Bench(params.of(dataset), paths, dataset)
    for name in models:
        changes = {"name": name, "weights": "none", "truncate": None, "output_stride": None, "freeze": 0}
        model = here.params.model.model_copy(update=changes)
        bench = copy.copy(here)  # the data are opened once, and lie on a GPU once
        bench.params = here.params.model_copy(update={"model": model})
        try:
            ready |= {(name, method): contender(bench, method) for method in here.params.all_methods()}
        except LapmlError as error:
            refused.append(f"{name}: {error}")
    seconds = interleaved({key: lambda each=each: here.timed(each.step, steps) for key, each in ready.items()}, repeats)
    found: dict[str, dict[str, Any]] = {}
    for (name, method), times in seconds.items():
        each = ready[name, method]
        own = found.setdefault(name, {"parameters": each.parameters, "methods": {}})
        own["methods"][method] = {
            "batch": each.batch,
            "images_per_second": each.batch / float(np.median(times)),
            "step_vs_baseline": ratio(times, seconds[name, here.params.all_methods()[0]], params.report.confidence),
            "flops_per_image": each.flops / each.batch,
            "peak_memory_bytes": each.memory,
        }
    record = {**here.record(repeats, steps), "backbones": found, "refused": refused}
    del record["model"]
    return written(record, _markdown(record), output and output / params.suite, "backbones")


def _markdown(record: dict[str, Any]) -> str:
    data, found = record["data"], record["backbones"]
    about = (
        f"{data['dataset']} at {data['side']} px, batch {record['batch']}, {record['precision']}, "
        f"{record['threads']} thread(s), {record['device']}; {record['rounds']} interleaved rounds of {record['steps']} steps; "
        f"{revision(record)}. Step time over that of the same model's first method; every batch mixed."
    )
    methods = list(next(iter(found.values()))["methods"]) if found else []
    heads = ["model", "million parameters", "Gflop per image", "images/s, " + (methods or [""])[0], *methods[1:]]
    rows = []
    for name, row in found.items():
        first, *others = row["methods"].values()
        cells = [name, f"{row['parameters'] / 1e6:.1f}", f"{first['flops_per_image'] / 1e9:.2f}"]
        cells += [f"{first['images_per_second']:.1f}", *(interval(each["step_vs_baseline"]) for each in others)]
        rows.append(cells)
    return "\n".join([about, "", *table(heads, rows), *(f"\nNot measured: {each}" for each in record["refused"])])
