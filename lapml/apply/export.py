"""The model of a finished run as one file for other programs, written only if it gives the run's own numbers."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lapml.apply.images import BATCH, refuse_output
from lapml.apply.sidecar import described
from lapml.config import Run, settings_of
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.errors import LapmlError
from lapml.files import atomic, sha256, write_json
from lapml.models.model import Classifier
from lapml.runs.execute import load_model, open_data
from lapml.runs.folder import class_names, open_run

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}  # format: its file beside the run's
TOLERANCE = 1e-4  # of logits relative to the largest, and of the unit embedding
RANDOM = (1, 2, 7)  # sizes of the batches of random views that are compared
KEY = "lapml"  # of what the file itself says: ONNX's metadata_props, and a file in the .pt2
Call = Callable[[Tensor], tuple[Tensor, Tensor]]


class Exported(nn.Module):
    """(N, 3, side, side) RGB in 0..1 → logits (N, K) and embedding (N, D) of unit length; fp32."""

    def __init__(self, model: Classifier, mean: list[float], std: list[float]):
        super().__init__()
        # A copy in plain memory order: the exporters do not all take channels_last weights.
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model((image - self.mean) / self.std)
        return output.logits, output.embedding


def export(folder: Path, form: str, output: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write a run's model in fp32, and FILE.json: its input, how an image becomes that, classes, origin, and how far it agrees.

    The file that was written is read again, by onnxruntime or torch on the CPU, and compared with the run's model on random
    views, and on training images where the run's packed data are still there.

    Args:
        form: a key of :data:`FILES`.
        output: the file; beside the run's own by default.

    Returns:
        (the file, what FILE.json says).

    Raises:
        LapmlError: the run is not complete or of another version, its model cannot be exported, or the exported one gives
            other numbers; an older export then stays as it was.
    """
    output = output or folder / FILES[form]
    sidecar = output.with_name(f"{output.name}.json")
    for file in (output, sidecar):
        refuse_output(file, folder)
    record, provenance = open_run(folder)
    names = class_names(folder, provenance)
    config = settings_of(folder / "config.json", record)
    model, weights = load_model(folder, config, len(names))
    try:
        packed = open_data(folder, record, provenance)
    except LapmlError:  # gone or other data: random views must do
        packed = None
    module = Exported(model, weights["mean"], weights["std"]).eval()
    about = described(form, names, config, weights, model, provenance)
    with atomic(output) as temporary:
        with _silent(folder, form):
            call = (_onnx if form == "onnx" else _torch)(module, config.data.view.side, temporary, json.dumps(about))
            agreement = _agreement(call, model, weights, config, packed)
        _refuse_other(output, form, agreement)
        about |= {"sha256": sha256(temporary), "check": agreement}
        sidecar.unlink(missing_ok=True)  # an old one must never stand beside a new model
    write_json(sidecar, about)
    return output, about


def text(file: Path, about: dict[str, Any]) -> str:
    """What :func:`export` did, in a few lines."""
    shapes = {name: f"{name} ({', '.join(map(str, shape))})" for name, shape in about["outputs"].items()}
    lines = [
        f"{file}  ({file.stat().st_size / 1e6:.1f} MB; {file.name}.json says more)",
        f"image ({', '.join(map(str, about['input']['shape']))}) RGB in 0..1 → {', '.join(shapes.values())}",
    ]
    for kind, found in about["check"].items():
        if isinstance(found, dict):
            count = f"{found['count']} training images" if "count" in found else "random views"
            lines.append(
                f"agrees on {count}: logits within {found['logits']:.1e} of the largest, embedding within "
                f"{found['embedding']:.1e}, {found['other_top1']:.0f} other top-1 classes"
            )
        elif found is None:
            lines.append(f"not compared on {kind.replace('_', ' ')}: the run's packed data are gone or changed")
    return "\n".join(lines)


# --- the formats: each writes the file, reads it again, and returns what calls it ---


def _onnx(module: Exported, side: int, file: Path, about: str) -> Call:
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, side, side),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=["image"],
        output_names=["logits", "embedding"],
        verbose=False,
    )
    program.model.metadata_props[KEY] = about
    program.save(str(file), external_data=False)  # one file, of at most the 2 GB that ONNX allows
    return read("onnx", file)


def _torch(module: Exported, side: int, file: Path, about: str) -> Call:
    example = (torch.zeros(2, 3, side, side),)
    program = torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim("N")},))
    with open(file, "wb") as opened:  # by its name alone torch would insist on the ending .pt2
        torch.export.save(program, opened, extra_files={f"{KEY}.json": about})
    return read("torch", file)


def read(form: str, file: Path) -> Call:
    """What calls an exported file, by onnxruntime or torch alone, on the CPU."""
    if form == "torch":
        with open(file, "rb") as opened:
            return torch.export.load(opened).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def call(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, embedding = session.run(["logits", "embedding"], {"image": images.contiguous().numpy()})
        return torch.from_numpy(logits), torch.from_numpy(embedding)

    return call


@contextmanager
def _silent(folder: Path, form: str) -> Iterator[None]:
    """Without the exporters' progress and warnings; what they raise is a LapmlError."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, LapmlError):
        raise
    except Exception as error:  # torch's exporters and onnxruntime raise many types
        while error.__cause__:  # the first of them says what it is, the others where
            error = error.__cause__
        why = " ".join(str(error).split())[:300] or type(error).__name__
        other = next(name for name in FILES if name != form)
        raise LapmlError(
            f"{folder}: its model cannot be exported as {form} ({why}); try --format {other}, or another version of torch"
        ) from None
    finally:
        logging.disable(disabled)


# --- the check ---


@torch.no_grad()
def _agreement(
    call: Call, model: Classifier, weights: dict[str, Any], config: Run, packed: Packed | None
) -> dict[str, dict[str, Any] | None]:
    """How far the exported model is from the run's: on random views, and on training images (None without ``packed``)."""
    mean, std = (torch.tensor(weights[key])[:, None, None] for key in ("mean", "std"))
    side, generator = config.data.view.side, torch.Generator().manual_seed(0)
    views = [torch.rand(count, 3, side, side, generator=generator) for count in RANDOM]
    found = [_differences(call(view), model((view - mean) / std)[1:]) for view in views]
    agreement: dict[str, Any] = {"tolerance": TOLERANCE, "random_views": {"batches": list(RANDOM), **_worst(found)}}
    agreement["training_images"] = None
    if packed is not None:
        rows = rows_of(packed.index, config.fit)
        rows = rows[np.linspace(0, len(rows) - 1, min(BATCH, len(rows))).astype(int)]
        # As evaluation normalises them for the run's model; and not at all, for the graph that does so itself.
        normalised, plain = (
            next(Batches(packed, rows, config.data.view, *by, torch.device("cpu")).evaluation(BATCH)).images
            for by in ((weights["mean"], weights["std"]), ([0.0] * 3, [1.0] * 3))
        )
        found = [_differences(call(plain), model(normalised)[1:])]
        agreement["training_images"] = {"count": len(rows), **_worst(found)}
    return agreement


def _differences(exported: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> dict[str, float]:
    (logits, embedding), (own_logits, own_embedding) = exported, own
    return {
        "logits": float((logits - own_logits).abs().max() / own_logits.abs().max().clamp_min(1e-6)),
        "embedding": float((embedding - own_embedding).abs().max()),
        "other_top1": int((logits.argmax(1) != own_logits.argmax(1)).sum()),
    }


def _worst(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.max([each[key] for each in found])) for key in found[0]}  # NaN where any is


def _refuse_other(output: Path, form: str, agreement: dict[str, Any]) -> None:
    for kind, found in agreement.items():
        if not isinstance(found, dict):
            continue
        close = found["logits"] <= TOLERANCE and found["embedding"] <= TOLERANCE  # False where one is NaN
        if not close or (kind == "training_images" and found["other_top1"]):
            other = next(name for name in FILES if name != form)
            raise LapmlError(
                f"{output}: not written: on {kind.replace('_', ' ')} the exported model differs from the run's by "
                f"{found['logits']:.1e} of the logits' scale and {found['embedding']:.1e} in the embedding, with "
                f"{found['other_top1']:.0f} other top-1 classes; expected at most {TOLERANCE:.0e} and none: "
                f"try --format {other}, or another version of torch"
            )
