"""What FILE.json says of an exported model, so that other programs can use it without lapml."""

from importlib.metadata import version
from typing import Any

from lapml.common.provenance import versions
from lapml.config import Run
from lapml.data.decode import GAP
from lapml.data.readers import reader
from lapml.data.views import WINDOW
from lapml.models.model import Classifier


def described(
    form: str, names: list[str], config: Run, weights: dict[str, Any], model: Classifier, provenance: dict[str, Any]
) -> dict[str, Any]:
    """What FILE.json says of a model before it was compared: where it comes from, its input and outputs, its classes."""
    data, embedding = config.data, model.head.in_features
    if model.projects:
        embedding = model.projection.out_features
    libraries = {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")} if form == "onnx" else {}
    return {
        "format": form,
        "run": {key: getattr(config, key) for key in ("suite", "dataset", "method", "seed")},
        "model": config.model.name,
        "model_sha256": provenance["files"]["model.safetensors"],
        "commit": provenance["commit"],
        "versions": provenance["versions"],
        "exported_with": {**versions(), **libraries},
        "input": {
            "name": "image",
            "shape": ["N", 3, data.view.side, data.view.side],
            "dtype": "float32",
            "channels": "RGB",
            "range": [0, 1],
            "normalised_inside_by": {"mean": weights["mean"], "std": weights["std"]},
        },
        "preprocessing": preprocessing(config),
        "outputs": {"logits": ["N", len(names)], "embedding": ["N", embedding]},
        "class_names": names,
    }


def preprocessing(config: Run) -> list[dict[str, Any]]:
    """The steps from an image file to the model's input, with names and words of Pillow; see :mod:`lapml.apply.preprocess`."""
    data, stored, side = config.data, config.data.stored_side, config.data.view.side
    banner = reader(data.reader).BANNER
    return [
        {
            "step": "draft",
            "size": None if banner else [GAP * stored] * 2,
            "what": "Image.draft(None, size): a JPEG that stays at least as large is decoded at 1/2, 1/4 or 1/8 of its size. "
            "The box that this returns, in fractions of pixels, is the whole image from here on. Null: decode at full size",
        },
        {"step": "upright", "what": "ImageOps.exif_transpose: turned as the file's EXIF orientation says"},
        {
            "step": "rgb",
            "mode": "RGB",
            "background": "white",
            "what": "Image.alpha_composite on the background where Image.has_transparency_data; then Image.convert(mode). Colour "
            "profiles are ignored. More than 8 bits a channel are scaled by the range of their values",
        },
        {"step": "banner", "rows": banner, "what": "so many rows of pixels are cut off the bottom"},
        {
            "step": "square",
            "size": [stored, stored],
            "filter": "LANCZOS",
            "dtype": "uint8",
            "what": "Image.resize of the whole image, which antialiases, and rounds to whole levels; the aspect is not kept",
        },
        {
            "step": "window",
            "share": WINDOW,
            "aspect": data.view.aspect,
            "what": "centred in the square of side s, of an image w wide and h high. aspect keep: share * s * min(w, h) / w wide "
            "and share * s * min(w, h) / h high; aspect warp: share * s wide and high. Its edges are fractions of pixels; pixels "
            "wholly outside are cut off before the next step (Image.crop from floor(edge + 0.001) to ceil(edge - 0.001))",
        },
        {
            "step": "view",
            "size": [side, side],
            "filter": "BILINEAR",
            "dtype": "float32",
            "what": "Image.resize of each channel as an image of mode F, with the window as box: antialiased, and never rounded to "
            "whole levels (rounding moves probabilities by several points)",
        },
        {
            "step": "scale",
            "divide_by": 255,
            "dtype": "float32",
            "what": "then as input says: (N, 3, side, side), RGB in 0..1; mean and std are subtracted and divided inside the model",
        },
    ]
