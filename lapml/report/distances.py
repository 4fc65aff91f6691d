"""Distance d of generated images from their references in the embeddings of finished models, against the similarity s of the
exchanged parts.

All models get the same training views, donors and draws, mixed by one method's localized CutMix, with each model's features
(and class maps, where that method goes by them). In evaluation mode, so that an image which mixing did not change lies at
d = 0. Donors of the reference's class are left out, as the margin losses do not push them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lapml.analysis import gather
from lapml.analysis.stats import t_interval
from lapml.common.provenance import command, commit, device_name, versions
from lapml.common.text import line, markdown_table, shortened
from lapml.common.text import markdown as escaped
from lapml.config import Localise, Method, settings_of
from lapml.errors import LapmlError
from lapml.files import write_json, write_text
from lapml.localise.evidence import opened
from lapml.report.figures import STYLE, looks, svg
from lapml.runs.execute import open_data, ready
from lapml.runs.folder import open_run, paths_of
from lapml.training.losses import band, distance
from lapml.training.mixes import Mixes, freshly

LETTERS = 60  # of a method's name in the figure
BINS = 8  # of s in the figure, with equal numbers of images


class Edges(NamedTuple):
    """The band that distances are compared with, and its method."""

    method: str
    m: float
    delta: float | None


class Measured(NamedTuple):
    table: pd.DataFrame  # one row per method, see :func:`measure`
    pairs: pd.DataFrame  # one row per generated image: method, seed, d, s, rho
    mixed_by: str  # the method whose localized CutMix is used
    edges: Edges | None
    dataset: str
    images: int  # generated for each model, those with donors of another class
    record: dict[str, Any]  # what made them


def measure(
    folders: Sequence[Path], baseline: str | None, images: int, confidence: float, root: Path = Path(".")
) -> Measured:
    """Measure the distances of finished runs, by method.

    Args:
        folders, baseline: as of :func:`lapml.analysis.gather.rows`; at least one method mixes by localized CutMix.
        images: generated for each model, at least.

    Returns:
        ``table`` with columns method, seeds, d and d_half (mean over seeds and its Student-t half-width), d_low and d_high
        (10th and 90th percentile), beyond_m, beyond_band (shares of the images), s_d and rho_d (Spearman's rank correlations
        of d with s and with ρ), means over seeds; NaN if no method has such an edge.

    Raises:
        LapmlError: as of ``gather.rows``; no method mixes by localized CutMix; a run holds no weights, or its packed data are
            gone.
    """
    methods = gather.rows(folders, baseline)
    settings = {
        label: settings_of(run.folder / "config.json", run.config).settings
        for label, runs in methods.items()
        for run in [*runs.values()][:1]
    }
    mixed_by = next(
        (label for label, method in settings.items() if method.mixer and method.mixer.name == "localized"), None
    )
    if mixed_by is None:
        raise LapmlError(f"none of {gather.listed(methods)} mixes by localized CutMix; add a run of a method that does")
    _refuse_other_views([run for by_seed in methods.values() for run in by_seed.values()])
    edges, made = _edges(settings), dict(zip(("commit", "dirty"), commit(), strict=True))
    mixer = (
        freshly(settings[mixed_by]).always_mixing().model_copy(update={"margin": None, "adaptive": None, "loss": None})
    )
    localise = next(iter(methods[mixed_by].values())).config.get("localise")
    frames, table = [], []
    for label, by_seed in methods.items():
        found = [
            _of_run(run.folder, mixer, localise, images, root).assign(method=label, seed=seed)
            for seed, run in by_seed.items()
        ]
        frames += found
        table.append({"method": label, "seeds": list(by_seed), **_summary(found, edges, confidence)})
    runs = [run for by_seed in methods.values() for run in by_seed.values()]
    record = {
        "command": command(),
        **made,
        "data_sha256": runs[0].origin["data_sha256"],
        "models_sha256": {str(run.folder): run.origin["files"]["model.safetensors"] for run in runs},
        "devices": sorted({frame.attrs["device"] for frame in frames}),
        "versions": versions(),
    }
    pairs, dataset = pd.concat(frames, ignore_index=True), runs[0].config["dataset"]
    return Measured(pd.DataFrame(table), pairs, mixed_by, edges, dataset, len(frames[0]), record)


def _refuse_other_views(runs: list[gather.Run]) -> None:
    """Raise a LapmlError if a run would get other views than the first."""
    first = runs[0]
    for run in runs[1:]:
        for keys in (("data", "view"), ("train", "batch"), ("fit",)):
            found, expected = run.config, first.config
            for key in keys:
                found, expected = found[key], expected[key]
            if found != expected:
                raise LapmlError(
                    f"{run.folder / 'config.json'}: {'.'.join(keys)}: found {found}, expected {expected} (as in "
                    f"{first.folder}): only models with the same views are compared; leave it out"
                )


def _edges(settings: dict[str, Method]) -> Edges | None:
    """Those of the last method with a band, else of the last with a margin; constant margins only."""
    with_margin = {
        label: method for label, method in settings.items() if method.margin and method.margin.scale == "constant"
    }
    banded = {label: method for label, method in with_margin.items() if method.adaptive}
    for label, method in reversed((banded or with_margin).items()):
        return Edges(label, method.margin.m, method.adaptive.delta if method.adaptive else None)
    return None


@torch.no_grad()
def _of_run(folder: Path, mixer: Method, localise: dict | None, images: int, root: Path) -> pd.DataFrame:
    record, provenance = open_run(folder)
    packed = open_data(folder, record, provenance, root)
    run = ready(folder, record, len(packed.class_names))
    run.model.eval()
    mixing = {"settings": mixer, "seed": 0, "localise": localise and Localise(**localise)}
    config = run.config.model_copy(update=mixing)  # the same views and draws for every model
    columns: dict[str, list[np.ndarray]] = {"d": [], "s": [], "rho": []}
    maps = opened(config, paths_of(folder, record, root, provenance["data_sha256"]), packed)
    mixes = Mixes(config, run.model, run.weights, packed, {"mixed": mixer}, precision=run.precision, maps=maps)
    for batch, _, made, _ in mixes.generate(images):
        mixed = made["mixed"].mixed
        clean = run.model(batch.images[: batch.count]).embedding
        d = distance(run.model(mixed.images).embedding, clean)
        other = batch.labels[: batch.count] != batch.labels[mixed.donors]
        for name, values in (("d", d), ("s", mixed.similarity), ("rho", mixed.rho)):
            columns[name].append(values[other].float().cpu().numpy())
    frame = pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})
    frame.attrs["device"] = device_name(run.device)
    return frame


def _summary(found: list[pd.DataFrame], edges: Edges | None, confidence: float) -> dict[str, float]:
    d, half = t_interval([float(each["d"].mean()) for each in found], confidence)
    rows = []
    for each in found:
        row = {"d_low": each["d"].quantile(0.1), "d_high": each["d"].quantile(0.9)}
        row["beyond_m"] = row["beyond_band"] = math.nan
        if edges:
            row["beyond_m"] = (each["d"] > edges.m).mean()
            if edges.delta is not None:
                row["beyond_band"] = (each["d"] > band(edges.m, edges.delta, each["s"])).mean()
        row |= {f"{name}_d": spearmanr(each[name], each["d"]).statistic for name in ("s", "rho")}
        rows.append(row)
    return {"d": d, "d_half": half, **pd.DataFrame(rows).mean().to_dict()}


def markdown(found: Measured, confidence: float) -> str:
    """The table as Markdown, with a note on its numbers."""
    level, edges = f"{100 * confidence:g} %", found.edges
    heads = ["method", "seeds", f"d (± {level})", "10th, 90th percentile"]
    if edges:
        heads.append(f"beyond m = {edges.m:.2f} %")
    if edges and edges.delta is not None:
        heads.append(f"beyond m + {edges.delta:.2f}·(1 − s) %")
    heads += ["rank correlation of d with s", "with ρ"]
    lines = []
    for row in found.table.to_dict("records"):
        cells = [
            escaped(row["method"]),
            str(len(row["seeds"])),
            f"{row['d']:.3f} " + ("(one seed)" if np.isnan(row["d_half"]) else f"± {row['d_half']:.3f}"),
            f"{row['d_low']:.2f}, {row['d_high']:.2f}",
        ]
        cells += [f"{100 * row[name]:.1f}" for name in ("beyond_m", "beyond_band") if not np.isnan(row[name])]
        lines.append([*cells, *(f"{row[name]:+.2f}".replace("-", "−") for name in ("s_d", "rho_d"))])
    text = (
        f"{found.dataset}: {found.images:,} generated images for each model, the same views, donors and draws, mixed as "
        f"{escaped(found.mixed_by)} does, places compared by each model's own features; donors of another class. d: distance "
        "of a generated image's embedding from its reference's, in evaluation mode; ±: Student-t interval over seeds; s: "
        "similarity of the parts; ρ: the donor's share of the label."
    )
    if edges:
        text += f" m{' and δ are' if edges.delta is not None else ' is'} those of {escaped(edges.method)}."
    return "\n".join([*markdown_table(heads, lines), "", text])


def figure(found: Measured) -> bytes:
    """d against s: the mean of each method's images in bins of s with equal numbers of images, and the band. SVG."""
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(5.0, 3.6), layout="constrained")
        axes = drawing.add_subplot()
        for label, (colour, dash) in looks(found.table["method"]).items():
            pairs = found.pairs[found.pairs["method"] == label]
            bins = pd.qcut(pairs["s"], BINS, duplicates="drop")
            means = pairs.groupby(bins, observed=True)[["s", "d"]].mean()
            name = shortened(line(label), LETTERS)
            axes.plot(means["s"], means["d"], color=colour, linestyle=dash, marker="o", markersize=3.5, label=name)
        if found.edges:
            s = np.linspace(*axes.get_xlim(), 2)
            axes.plot(s, [found.edges.m] * 2, color="#5f5f5f", linestyle=":", linewidth=1.2, label="m")
            if found.edges.delta is not None:
                edge = found.edges.m + found.edges.delta * (1 - s)
                axes.plot(s, edge, color="#5f5f5f", linestyle="--", linewidth=1.2, label="m + δ(1 − s)")
        axes.set_ylim(bottom=0)
        axes.set(xlabel="similarity s of the exchanged parts", ylabel="distance d from the reference")
        axes.set_title("Generated images: distance against similarity")
        axes.legend(fontsize=8)
        return svg(drawing)


def write(folder: Path, found: Measured, confidence: float) -> None:
    """distances.md, .svg, .json (what made them) and .csv (one row per generated image) in a folder that is made."""
    write_text(folder / "distances.md", markdown(found, confidence) + "\n")
    write_text(folder / "distances.csv", found.pairs.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    write_text(folder / "distances.svg", figure(found).decode())
    write_json(folder / "distances.json", found.record)
