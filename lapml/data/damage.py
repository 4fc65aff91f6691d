"""Damage that Pillow does not report: libjpeg's warnings, and wrong checksums of PNG chunks.

A JPEG whose data are damaged within is decoded all the same: libjpeg warns, and fills up with gray what it cannot decode.
Pillow drops its warnings. torchvision lets libjpeg print them, so a process of its own decodes the file once more and
reports what was printed. Most flipped bits within the data leave a stream that can be decoded, to another picture: no
program can tell those.
"""

import atexit
import json
import os
import queue
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from PIL import Image

WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")  # the others harm no picture
GRAY = (126, 130)  # what libjpeg fills up with, by a level or two
CORNER = 8  # pixels of the whole image


def found(file: Path, form: str) -> str:
    """The damage of a file that could be decoded, by its checksums or by libjpeg; "" if none is found."""
    if form == "PNG":
        try:
            with Image.open(file) as image:
                image.verify()
        except Exception as error:  # Pillow raises many types
            return " ".join(str(error).split())
    return libjpeg(file) if form in ("JPEG", "MPO") else ""


def ends_gray(image: Image.Image, whole: int) -> bool:
    """Whether the last pixels of a JPEG, as it is stored, are of the gray that lost data are replaced with.

    Args:
        whole: width of the file's image, of which ``image`` may have been decoded smaller.
    """
    (width, height), corner = image.size, max(1, CORNER * image.width // whole)
    bands = image.crop((max(0, width - corner), max(0, height - corner), width, height)).getextrema()
    bands = bands if isinstance(bands[0], tuple) else (bands,)
    return all(low == high and GRAY[0] <= low <= GRAY[1] for low, high in bands)


def libjpeg(file: Path) -> str:
    """libjpeg's warnings when it decodes a file; "" if none, or if torchvision has no libjpeg."""
    process = _idle.get()
    try:
        for _ in range(2):  # a process may be gone, as after Ctrl-C
            process = process or _started()
            with suppress(OSError):
                process.stdin.write(json.dumps(os.fspath(file)) + "\n")
                process.stdin.flush()
                if answer := process.stdout.readline():
                    return json.loads(answer)
            process = _ended(process)
        return ""
    except BaseException:  # as Ctrl-C: an answer may be on its way, which must not be taken for another file's
        process = _ended(process)
        raise
    finally:
        _idle.put(process)


# --- the processes that decode once more ---

PROCESSES = 4  # at most: each holds torch, some 0.2 GB
ROOT = Path(__file__).parents[2]  # where lapml is found, wherever the command is run
_idle: queue.LifoQueue = queue.LifoQueue()  # processes; None where one may be started
for _ in range(PROCESSES):
    _idle.put(None)


def _started() -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "lapml.data.damage"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
    )
    atexit.register(_ended, process)
    return process


def _ended(process: subprocess.Popen | None) -> None:
    if process:
        process.kill()
        process.wait()
        with suppress(OSError):  # what could not be written any more
            process.stdin.close()
        process.stdout.close()


def _serve() -> None:
    """For each line with a file's name, a line with what libjpeg printed while it decoded that."""
    import torch
    from torchvision.io import decode_jpeg

    torch.set_num_threads(1)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        for line in sys.stdin:
            printed.seek(0)
            printed.truncate()
            with suppress(Exception):  # what cannot be decoded at all, Pillow tells
                decode_jpeg(torch.frombuffer(bytearray(Path(json.loads(line)).read_bytes()), dtype=torch.uint8))
            printed.seek(0)
            lines = printed.read().decode("utf-8", "replace").splitlines()
            print(json.dumps(next((each for each in lines if each.startswith(WARNINGS)), "")), flush=True)


if __name__ == "__main__":
    _serve()
