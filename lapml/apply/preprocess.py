"""An image file as an exported model's input, by Pillow and numpy alone: the example of docs/usage.md, word for word."""

import numpy as np
from PIL import Image, ImageOps


def preprocess(file, about):
    """An image file as (1, 3, side, side) float32, RGB in 0..1, by what FILE.json says."""
    step = {each["step"]: each for each in about["preprocessing"]}
    with Image.open(file) as image:
        draft = step["draft"]["size"] and image.draft(None, step["draft"]["size"])
        image.load()
        # A draft's box ends in fractions of pixels: the last ones are seen in part.
        width, height = draft[1][2:] if draft else image.size
        turn = image.getexif().get(0x0112, 1)
        image = ImageOps.exif_transpose(image)
    if turn in (5, 6, 7, 8):
        width, height = height, width
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, step["rgb"]["background"]), image)
    height -= step["banner"]["rows"]
    image = image.convert("RGB").crop((0, 0, image.width, image.height - step["banner"]["rows"]))
    left = image.width - width if turn in (2, 3, 6, 7) else 0
    top = image.height - height if turn in (3, 4, 7, 8) else 0
    by = Image.Resampling[step["square"]["filter"]]
    square = image.resize(step["square"]["size"], by, (left, top, left + width, top + height))

    frame = np.array([width, height]) if step["window"]["aspect"] == "keep" else np.ones(2)
    extent = step["window"]["share"] * frame.min() / frame * square.width
    start, stop = (square.width - extent) / 2, (square.width + extent) / 2
    low, high = np.floor(start + 1e-3).astype(int), np.ceil(stop - 1e-3).astype(int)
    seen = square.crop((*low, *high))  # first: the filter must not see pixels outside the window
    box = np.clip([start - low, stop - low], 0, high - low).ravel()
    by = Image.Resampling[step["view"]["filter"]]
    channels = [channel.convert("F").resize(step["view"]["size"], by, box) for channel in seen.split()]
    return np.stack([np.asarray(channel) for channel in channels])[None] / np.float32(step["scale"]["divide_by"])
