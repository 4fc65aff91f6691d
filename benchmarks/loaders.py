"""The data path and CutMix against torchvision's and timm's, which decode JPEG every epoch.

All contenders train the same model with the same optimizer, precision, batch and strength of augmentation, and mix every
batch. The others get all cores as workers, which stay from epoch to epoch. Batches that a contender made ahead while another
one was timed are taken before its own time begins.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.packing import images_of
from benchmarks.record import interleaved, interval, ratio, table, written
from benchmarks.rows import Bench, endless, heading, stepper
from lapml.config import Params, View
from lapml.data.decode import cores
from lapml.data.index import rows_of
from lapml.data.views import ASPECT
from lapml.errors import LapmlError
from lapml.paths import Paths
from lapml.training.step import Learner

OURS = "lapml"
PREFETCH = 2  # batches that a worker makes ahead, torch's default


def loaders(params: Params, paths: Paths, dataset: str, repeats: int, steps: int, output: Path | None) -> str:
    """Time a step of ``cutmix``, data path included; writes loaders.json and loaders.md into ``output/SUITE`` if given.
    LapmlError where the view is not one that the others have, or the suite has no method ``cutmix``."""
    here = Bench(params.of(dataset), paths, dataset)
    view = here.params.data[dataset].view
    if view.crop != "resized" or "cutmix" not in here.params.all_methods():
        raise LapmlError(
            f"data.{dataset}.view.crop and methods: found {view.crop} and {', '.join(here.params.all_methods())}, expected "
            "resized and a method cutmix, as the other loaders have them"
        )
    config = here.config("cutmix")
    ours, weights = here.make_learner(config)
    with tempfile.TemporaryDirectory() as folder:
        _link(here, params, paths, Path(folder), rows_of(here.packed.index, config.fit))
        arguments = (here, Path(folder), view, weights)
        others = {"torchvision": _torchvision(*arguments), "timm": _timm(*arguments)}
        with closing(endless(here.batches(config, weights), config, ours)) as source:
            contenders = {OURS: _contender(here, stepper(ours, source), steps)}
            for name, batches in others.items():
                learner, _ = here.make_learner(config)
                contenders[name] = _contender(here, _plain_stepper(learner, batches), steps)
            for contender in contenders.values():
                contender()  # allocations and kernel choice
            seconds = interleaved(contenders, repeats)
    record = {
        **here.record(repeats, steps),
        "workers": cores(),
        "seconds_per_step": seconds,
        "images_per_second": {name: config.train.batch / float(np.median(times)) for name, times in seconds.items()},
        "times_ours": {name: ratio(times, seconds[OURS], params.report.confidence) for name, times in seconds.items()},
    }
    return written(record, _markdown(record), output and output / params.suite, "loaders")


def _contender(here: Bench, step: Callable[[], Any], steps: int) -> Callable[[], float]:
    """A function that gives the mean seconds of a step."""

    def run() -> float:
        for _ in range(PREFETCH * cores() + 2):
            step()
        return here.timed(step, steps)

    return run


def _plain_stepper(learner: Learner, source: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    def step() -> None:
        images, targets = next(source)
        learner.model.train()
        with learner.cast():
            loss = cross_entropy(learner.forward(images).logits.float(), targets)
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learner.optimizer.step()

    return step


def _torchvision(here: Bench, folder: Path, view: View, weights: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """As its documentation has it: ImageFolder, v2 transforms in the workers, v2.CutMix on the batch."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    parts = [v2.RandomResizedCrop(view.side, tuple(view.scale), ASPECT, antialias=True)]
    parts += [v2.RandomHorizontalFlip()] if view.flip else []
    parts += [v2.ColorJitter(view.jitter, view.jitter, view.jitter)] if view.jitter else []
    parts += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(weights["mean"], weights["std"])]
    cuda = here.device.type == "cuda"
    data = ImageFolder(str(folder), v2.Compose(parts))
    mix = v2.CutMix(num_classes=len(data.classes))

    loader = DataLoader(
        data, here.params.train.batch, shuffle=True, num_workers=cores(), pin_memory=cuda, drop_last=True,
        prefetch_factor=PREFETCH, persistent_workers=True,
    )  # fmt: skip
    while True:
        for images, labels in loader:
            yield mix(*_sent(here, images, labels))


def _timm(here: Bench, folder: Path, view: View, weights: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """As its train.py has it: with the prefetcher on a GPU, where the batch is mixed when it is collated."""
    from timm.data import FastCollateMixup, ImageDataset, Mixup, create_loader

    cuda, batch = here.device.type == "cuda", here.params.train.batch
    data = ImageDataset(str(folder))
    how = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "label_smoothing": 0.0, "num_classes": len(here.packed.class_names)}
    mix = Mixup(**how)

    loader = create_loader(
        data, view.side, batch, is_training=True, scale=tuple(view.scale), ratio=ASPECT,
        hflip=0.5 if view.flip else 0.0, color_jitter=(view.jitter,) * 3 if view.jitter else None,
        mean=tuple(weights["mean"]), std=tuple(weights["std"]), num_workers=cores(), pin_memory=cuda,
        collate_fn=FastCollateMixup(**how) if cuda else None, device=here.device, use_prefetcher=cuda,
    )  # fmt: skip
    while True:
        for images, labels in loader:
            images, targets = (images, labels) if cuda else mix(images, labels)
            yield _sent(here, images, targets)


def _sent(here: Bench, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    images = images.to(here.device, memory_format=torch.channels_last, non_blocking=True)
    return images, targets.to(here.device, non_blocking=True)


def _link(here: Bench, params: Params, paths: Paths, folder: Path, rows: np.ndarray) -> None:
    """Link the same images as one folder per class."""
    files, _ = images_of(params, paths, here.dataset)
    for row in rows:
        target = folder / f"{here.packed.index['label'][row]:05}"
        target.mkdir(exist_ok=True)
        (target / f"{row}{files[row].suffix}").symlink_to(files[row].resolve())


def _markdown(record: dict[str, Any]) -> str:
    what = f"cutmix, every batch mixed; {record['workers']} cores"
    speeds = record["images_per_second"].items()
    rows = [[name, f"{speed:.1f}", interval(record["times_ours"][name])] for name, speed in speeds]
    return "\n".join([heading(record), "", *table([what, "images/s (median)", "step time / lapml"], rows)])
