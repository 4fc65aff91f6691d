"""`lapml init`: a suite for a folder of images, sized for them and for this machine."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lapml.common.sections import LONGEST_NAME, NAME
from lapml.common.text import duration
from lapml.config import Params, load
from lapml.config.schema import TAKEN
from lapml.config.suites import BASE, FOLDER, names
from lapml.data.decode import square
from lapml.data.fetch.laying import root_in
from lapml.data.readers import reader
from lapml.errors import LapmlError
from lapml.files import atomic
from lapml.models.device import pick_device
from lapml.runs import estimate, timing

FILE = FOLDER / f"{BASE}.yaml"  # that the suite changes
METHODS = ("baseline", "cutmix", "snapmix", "loc_cutmix")
LEAST_STEPS = 8  # of an epoch


class Recipe(NamedTuple):
    """A model with the images and the schedule that suit it; which suite it is of, says what it was chosen on."""

    what: str
    side: int  # of a view, in pixels
    stored: int
    model: str
    train: dict[str, Any]
    images: int  # up to which its epochs are as many; of more images fewer epochs are enough
    least: int  # the shorter side of images that it is for, in pixels


GPU = Recipe("the whole model, first stages frozen, as of suites/cub200.yaml", 224, 256, "{truncate: null, freeze: 3}",
             {"epochs": 30, "batch": 32, "lr": 0.03, "head_lr_mult": 1.0}, 10_000, 150)  # fmt: skip
WHOLE = Recipe("the whole model, first stages frozen, as of suites/warblers.yaml", 192, 256, "{truncate: null, freeze: 3}",
               {"epochs": 30, "batch": 16, "lr": 0.015, "head_lr_mult": 1.0}, 2_000, 150)  # fmt: skip
CUT = Recipe("cut at stride 16, as of suites/sparrows.yaml: it cannot see fine marks", 96, 128, "{truncate: 16}",
             {"epochs": 20, "batch": 32, "head_lr_mult": 5.0, "weight_decay": 0.001}, 2_000, 80)  # fmt: skip
SMALL = Recipe("cut at stride 8, as of suites/base.yaml: for small images or little time", 64, 96, "{truncate: 8}",
               {"epochs": 20, "batch": 32}, 2_000, 0)  # fmt: skip


def init(folder: Path, name: str, output: Path | None, labels: str | None, hours: float, replace: bool) -> str:
    """Write a suite for a folder of images; returns what was found and chosen, how long the suite takes, and what to do next.

    Args:
        folder: holds train/CLASS/… and test/CLASS/…
        name: of data set and suite; "": that of the folder.
        output: the file to write; None: ``NAME.yaml``.
        labels: as ``data.NAME.labels``.
        hours: what the suite may take: the largest model is chosen that fits.
        replace: overwrite ``output``.

    Raises:
        LapmlError: the folder has another layout, the name cannot be one, or the file exists.
    """
    if not folder.is_dir():
        raise LapmlError(f"{folder}: no such folder, expected one with train/CLASS/*.jpg and test/CLASS/*.jpg")
    if not FILE.is_file():
        raise LapmlError(f"{FILE}: no such file; run from the project's folder")
    base = load(FILE)
    name, output = _named(folder, name, output, base, replace)
    if output.exists() and not replace:
        raise LapmlError(f"{output}: exists, and is not overwritten; give --output another file, or --replace")
    how = reader("folder")
    root = root_in(folder, how, "point `lapml init`")
    frame = how.read(root, "all", labels)
    data = {"reader": "folder", "source": _path(folder, Path.cwd()), **({"labels": labels} if labels else {})}
    if (frame["official"] == "val").any():
        data["val_fraction"] = "official"
    with atomic(output) as draft:
        chosen = _chosen(draft, output, name, data, frame, root, hours, base)
    return chosen


def _named(folder: Path, name: str, output: Path | None, base: Params, replace: bool) -> tuple[str, Path]:
    """The names of suite and file; the name of a suite is free if its file is replaced."""
    name = name or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")
    output = output or Path(f"{name}.yaml")
    replaced = {output.stem} if replace and output.parent.resolve() == FOLDER.resolve() else set()
    taken = {*names()} - replaced | {*base.data, BASE, *TAKEN}
    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME or name in taken:
        raise LapmlError(
            f"--name: found {name!r}, expected letters, digits, _ and -, and none of {', '.join(sorted(taken))}; give another"
        )
    return name, output


def _path(path: Path, where: Path) -> str:
    """A path as seen from a folder, where it lies below it or both lie in this project; else absolute."""
    path, where, project = path.resolve(), where.resolve(), Path.cwd().resolve()
    near = path.is_relative_to(where) or path.is_relative_to(project) and where.is_relative_to(project)
    return os.path.relpath(path, where) if near else str(path)


def _chosen(
    draft: Path,
    output: Path,
    name: str,
    data: dict[str, Any],
    frame: pd.DataFrame,
    root: Path,
    hours: float,
    base: Params,
) -> str:
    """Write the draft of the largest recipe that fits; returns the summary."""
    test = int((frame["official"] == "test").sum())
    fit, classes = len(frame) - test, frame["label"].nunique()
    files = [root / file for file in estimate.sample(frame["image"].tolist())]
    sizes = np.array([square(file, 16)[1][:2] for file in files])  # (n, 2) widths and heights in pixels
    shorter = int(np.median(sizes.min(1)))
    device, _ = pick_device(base.train)
    recipes = [
        each for each in ((GPU,) if device.type == "cuda" else ()) + (WHOLE, CUT, SMALL) if each.least <= shorter
    ]

    def written(recipe: Recipe, note: str) -> Params:
        draft.write_text(_text(output, name, data, recipe, fit, note, base), encoding="utf-8")
        return load(draft)

    suites = [written(recipe, "") for recipe in recipes]
    _, at_once = estimate.places(suites[0])
    speed = timing.speeds([kind for params in suites for kind in estimate.kinds(params, name)], classes, at_once)
    decoding = estimate.decoding(files, max(each.stored for each in recipes))
    assert base.localise is not None
    localising = estimate.localising(base.localise, sizes, base.train.threads, device)
    images = estimate.Images({"train": fit, "test": test}, decoding, localising + decoding)
    taken = [estimate.suite(params, speed, {name: images}, at_once).seconds for params in suites]
    at = next((at for at, whole in enumerate(taken) if whole <= 3600 * hours), len(taken) - 1)
    params, whole = suites[at], taken[at]
    run = max(job.seconds for job in estimate.suite(params, speed, {name: images}, at_once).jobs if job.name in METHODS)
    where = estimate.where(device, at_once, params.train)
    written(recipes[at], f"{where}, about {duration(whole)} as written; fewer seeds or epochs take less in proportion")
    at_a_time = at_once * params.train.threads * params.train.gpus
    runs, shown = len(params.all_methods()) * len(params.seeds), _path(output, Path.cwd())
    return "\n".join(
        [
            f"{data['source']}: {fit} training and {test} test images of {classes} classes, about {shorter} px on the shorter side",
            f"{output}: {params.model.name} {recipes[at].what}; {params.data[name].view.side} px, {params.train.epochs} epochs "
            f"of {fit // params.train.batch} steps of {params.train.batch}",
            f"{runs} runs ({', '.join(params.all_methods())}; {len(params.seeds)} seeds), the longest about {duration(run)}; the "
            f"whole suite about {duration(whole)} on {where} if nothing else runs there",
            *([_larger(recipes[0], taken[0])] if at else []),
            *(
                [f"that is more than the {hours:g} h of --hours, and nothing smaller is sensible"]
                if whole > 3600 * hours
                else []
            ),
            f"how long it takes after an edit of the file: lapml suite time --params {shown}",
            "next:",
            f"  snakemake --cores {at_a_time if device.type == 'cpu' else 'all'} --configfile {shown}",
        ]
    )


def _larger(recipe: Recipe, seconds: float) -> str:
    return f"{recipe.what}: would take about {duration(seconds)} (--hours), and less with fewer seeds or epochs in the file"


def _text(output: Path, name: str, data: dict[str, Any], recipe: Recipe, fit: int, note: str, base: Params) -> str:
    """The file."""
    train = {**recipe.train, "epochs": max(10, round(recipe.train["epochs"] * min(1, recipe.images / fit)))}
    while train["batch"] > 2 and fit < LEAST_STEPS * train["batch"]:
        train["batch"] //= 2
    boxed = [method for method, settings in base.methods.items() if settings.annotated()]
    others = [method for method in base.methods if method not in (*METHODS, *boxed, *base.tuned_methods)]
    keys = "".join(f"    {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in data.items())
    schedule = ", ".join(f"{key}: {value}" for key, value in train.items())
    tuned = ", ".join(base.tuned_methods)
    quoted = json.dumps(name)  # `2024` is a number to YAML
    return f"""\
# {name}: a suite for one's own images, written by `lapml init`. It holds what differs from the file that `base` names, where every
# setting is explained.
#   run:      snakemake --cores all --configfile {_path(output, Path.cwd())}
#   time:     lapml suite time --params {_path(output, Path.cwd())}    # how long it takes here, after an edit too
#   device:   {note or "any"}
base: {json.dumps(_path(FILE, output.parent), ensure_ascii=False)}
suite: {quoted}     # results go to results/{name}/
datasets: [{quoted}]
ablation: [{", ".join(METHODS)}]
# Others: add {", ".join(others)} to ablation;
# for those whose margins are searched first, write tuned_methods: [{tuned}].
# Left out: {", ".join(boxed)}, which needs a box for every image, as no folder of images has.
tuned_methods: []
seeds: {base.seeds}            # more seeds, narrower intervals
data:
  {", ".join(f"{each}: null" for each in base.data)}               # not wanted here
  {quoted}:
{keys}    stored_side: {recipe.stored}
    view: {{side: {recipe.side}}}      # add flip: false where left and right mean something
# {recipe.what}
model: {recipe.model}
train: {{{schedule}}}
diagnose: {{images: {min(200, fit)}}}     # generated images for each mixer and model
"""
