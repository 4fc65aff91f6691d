"""One image predicted both ways: as lapml does, and by an exported file with what its FILE.json says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lapml.apply.export import read
from lapml.apply.predict import best, predict
from lapml.apply.preprocess import preprocess
from lapml.common.text import line
from lapml.errors import LapmlError
from lapml.runs.evaluate import TOP

CLOSE = 0.1  # points of probability


def check(folder: Path, file: Path, image: Path) -> dict[str, Any]:
    """Predict an image by a run and by the file that its model was exported to, which is read anew with its FILE.json.

    Returns:
        ``run`` and ``exported``, the probabilities of all classes (see :func:`~lapml.apply.predict.best`); ``difference``, the
        largest of one class, in points. LapmlError where the image cannot be read.
    """
    about = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))
    names = about["class_names"]
    own = next(predict(folder, [image], len(names)))["predictions"]
    try:
        view = preprocess(image, about)
    except Exception as error:  # Pillow's decoders raise many types
        raise LapmlError(f"{image}: cannot be read by Pillow alone ({error}); check another image") from None
    logits, _ = read(about["format"], file)(torch.from_numpy(view))
    exported = best(logits[0].detach().numpy(), names, len(names))
    shares = {each["class"]: each["probability"] for each in exported}
    apart = [100 * abs(each["probability"] - shares[each["class"]]) for each in own]
    return {"run": own, "exported": exported, "difference": float(np.max(apart))}  # NaN where one is


def text(found: dict[str, Any]) -> str:
    """Both top-5s side by side, and the largest difference of all classes."""
    pairs = list(zip(found["run"][:TOP], found["exported"][:TOP], strict=True))
    width = max(len(line(each["class"])) for pair in pairs for each in pair)
    lines = [f"rank  {'lapml predict':<{width}}            exported file"]
    for rank, pair in enumerate(pairs, start=1):
        cells = (f"{line(each['class']):<{width}}  {100 * each['probability']:6.2f} %" for each in pair)
        lines.append(f"{rank:>4}  {'  '.join(cells)}")
    lines.append(f"largest difference: {found['difference']:.4f} points of probability, of at most {CLOSE}")
    return "\n".join(lines)


def refuse_far(found: dict[str, Any], file: Path, image: Path) -> None:
    """LapmlError where the two are more than :data:`CLOSE` apart."""
    if not found["difference"] <= CLOSE:  # NaN too
        raise LapmlError(
            f"{file}: differs from lapml predict on {image} by {found['difference']:.2f} points, expected at most {CLOSE}; runs in "
            "bf16 and images of more than 8 bits a channel may: try another image, and see usage.md on how a view is made"
        )
