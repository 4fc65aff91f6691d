"""Explain predictions: the class map of an image, and the most similar training images."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from lapml.apply.images import BATCH, Failed, listed, packs, shown
from lapml.apply.picture import draw
from lapml.apply.predict import best
from lapml.common.text import line
from lapml.data.batches import Batches
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import atomic
from lapml.mixing.maps import class_maps
from lapml.models.device import DTYPES, autocast
from lapml.paths import EMBEDDINGS
from lapml.report.pairs import pixels
from lapml.runs import evaluate
from lapml.runs.execute import Ready, open_data, ready
from lapml.runs.folder import class_names, open_run


@torch.no_grad()
def explain(
    folder: Path,
    images: list[Path],
    output: Path,
    neighbours: int = 5,
    target: str | None = None,
    banner: int | None = None,
    failed: Failed | None = None,
) -> Iterator[dict[str, Any]]:
    """Draw a figure for each image: the view, its class activation map, the top classes, the nearest training images.

    Args:
        images: files, folders and patterns, see :func:`~lapml.apply.images.listed`; folders are searched but for ``output``.
        output: a folder for the figures, STEM.png for each image; further files of the same stem are numbered.
        neighbours: how many training images (of those that the run was fit on), the most similar by the cosine of the
            unit embeddings; with 0 the packed data are not needed.
        target: the name of the class whose map is drawn; without it, the predicted class.
        banner, failed: as of :func:`~lapml.apply.images.packs`.

    Yields:
        A dict for each file that could be read, in order: ``image`` and ``figure`` (paths), ``target`` (``class`` and
        ``probability``), ``predictions`` (see :func:`~lapml.apply.predict.best`), ``neighbours`` (see :meth:`Training.nearest`).

    Raises:
        LapmlError: the run is not complete or of another version, a file lies in ``output``, or is no image and ``failed``
            is None, there is no such class, or the packed data are gone or changed.
    """
    files = listed(images, failed, without=output)
    figures = _figures(files, output)
    record, provenance = open_run(folder)
    names = class_names(folder, provenance)
    asked = None if target is None else _label(target, names)
    run = ready(folder, record, len(names))
    training = Training(folder, run, record, provenance) if neighbours else None
    for packed in packs(files, run.config, names, banner, failed):
        batch = next(_batches(packed, np.arange(len(packed.index)), run, run.device).evaluation(BATCH))
        with autocast(run.device, run.precision):
            features, *outputs = run.model(batch.images)
        guesses = outputs[0].argmax(1)
        labels = guesses if asked is None else torch.full_like(guesses, asked)
        maps = class_maps(features, run.model.head.weight, labels).float().cpu().numpy()
        logits, embeddings = (each.float().cpu().numpy() for each in outputs)
        views = pixels(batch.images.float().cpu(), run.weights)
        for i, place in enumerate(packed.meta["places"]):
            figure, classes = figures[place], best(logits[i], names, len(names))
            found, near = training.nearest(embeddings[i], neighbours, int(guesses[i])) if training else ([], [])
            result = {
                "image": str(files[place]),
                "figure": str(figure),
                "target": next(each for each in classes if each["class"] == names[int(labels[i])]),
                "predictions": classes[: evaluate.TOP],
                "neighbours": found,
            }
            with atomic(figure) as temporary:
                draw(temporary, result, views[i], maps[i], near)
            yield result


class Training:
    """The images that a run was fit on, and their embeddings in the evaluation view, which are kept beside the run; LapmlError
    where the packed data are gone or changed."""

    def __init__(self, folder: Path, run: Ready, record: dict[str, Any], provenance: dict[str, Any]):
        self.run = run
        try:
            self.packed = open_data(folder, record, provenance)
        except LapmlError as error:
            raise LapmlError(f"{error}; or leave training images out with --neighbours 0") from None
        file, key = folder / EMBEDDINGS, f"{provenance['files']['model.safetensors']} {provenance['data_sha256']}"
        # Damaged, or of another model or other data: made again.
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                self.rows, self.embeddings = kept["rows"], kept["embeddings"]
                return
        seen = [run.predict(self.packed, split) for split in run.config.fit]
        self.rows = np.concatenate([each.rows for each in seen])
        self.embeddings = np.concatenate([each.embeddings for each in seen])
        # In a run folder without write permission they are made again each time.
        with suppress(OSError), atomic(file) as temporary, open(temporary, "wb") as opened:
            np.savez(opened, key=key, rows=self.rows, embeddings=self.embeddings)

    def nearest(self, embedding: np.ndarray, count: int, guess: int) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """The most similar training images, best first.

        Args:
            embedding: (D,) of unit length.
            guess: label of the predicted class.

        Returns:
            (dicts with ``image``, as the data set's index names it, ``class``, ``similarity``, the cosine, and
            ``predicted``, whether the class is the predicted one; their views, (side, side, 3) uint8).
        """
        similarity = self.embeddings @ embedding
        order = np.argsort(-similarity, kind="stable")[:count]
        rows = self.rows[order]
        batch = next(_batches(self.packed, rows, self.run, torch.device("cpu")).evaluation(len(rows)))
        found = [
            {
                "image": row["path"],
                "class": row["class_name"],
                "similarity": float(similarity[place]),
                "predicted": row["label"] == guess,
            }
            for place, row in zip(order, self.packed.index.iloc[rows].to_dict("records"), strict=True)
        ]
        return found, list(pixels(batch.images.float(), self.run.weights))


def text(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The results of :func:`explain` as paragraphs, one per image."""
    for number, result in enumerate(results):
        target, lines = result["target"], [""] if number else []
        lines.append(f"{shown(Path(result['image']))}: {shown(Path(result['figure']))}")
        width = max(len(line(each["class"])) for each in [*result["predictions"], *result["neighbours"], target])
        for rank, each in enumerate(result["predictions"], start=1):
            lines.append(f"  {rank:>3}  {line(each['class']):<{width}}  {100 * each['probability']:6.2f} %")
        if target["class"] != result["predictions"][0]["class"]:
            lines.append(f"  map  {line(target['class']):<{width}}  {100 * target['probability']:6.2f} %")
        if result["neighbours"]:
            lines.append("  most similar training images (cosine; * of the predicted class)")
        for rank, each in enumerate(result["neighbours"], start=1):
            mark = "*" if each["predicted"] else " "
            lines.append(
                f"  {rank:>3}  {line(each['class']):<{width}}  {each['similarity']:6.3f} {mark}  {shown(Path(each['image']))}"
            )
        yield "".join(f"{each}\n" for each in lines)


def _batches(packed: Packed, rows: np.ndarray, run: Ready, device: torch.device) -> Batches:
    weights, dtype = run.weights, DTYPES[run.precision]
    return Batches(packed, rows, run.config.data.view, weights["mean"], weights["std"], device, dtype)


def _figures(files: list[Path], output: Path) -> list[Path]:
    """A figure's path for each file, no two alike (nor alike but for capitals, which some disks hold to be the same)."""
    figures: list[Path] = []
    taken: set[str] = set()
    for file in files:
        if file.resolve().parent == output.resolve():
            raise LapmlError(
                f"{shown(output)}: holds the image {shown(Path(file.name))}, which a figure might replace; expected a folder "
                "of its own: name one with --output"
            )
        name, number = file.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{file.stem}-{number}"
        taken.add(name.casefold())
        figures.append(output / f"{name}.png")
    return figures


def _label(target: str, names: list[str]) -> int:
    if target in names:
        return names.index(target)
    typed = target.casefold()
    words = {word for name in names for word in re.split(r"[\W_]+", name.casefold()) if word}
    parts = [typed, *difflib.get_close_matches(typed, words)]  # a part of a name, or a misspelt word of it
    close = difflib.get_close_matches(target, names)
    close += [name for name in names if any(part in name.casefold() for part in parts) and name not in close]
    known = f"close ones are {', '.join(close[:5])}" if close else f"there are {', '.join(names[:5])} …"
    raise LapmlError(f"--target: found {target!r}, expected a class of this run; {known}")
