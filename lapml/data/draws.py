"""The random numbers of training: one table per epoch and purpose, with a row for every image.

So they depend neither on workers, cores nor batch order, and a resumed run draws what an uninterrupted one draws.
"""

from enum import IntEnum

import numpy as np

from lapml.config import Method, View
from lapml.data import views


class Purpose(IntEnum):
    """Of a random table; a new purpose takes a new number, so that old results stay what they are."""

    ORDER = 0
    VIEW = 1
    JITTER = 2
    MIXED = 3
    LAMBDA = 4
    PART = 5
    SECOND_LAMBDA = 6
    SECOND_BOX = 7
    DROP_PATH = 9
    ERASE = 10
    AUGMENT = 11


def stream(seed: int, epoch: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one purpose in one epoch."""
    return np.random.default_rng([seed, epoch, int(purpose)])


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of what torch itself draws in a step: skipped residual branches."""
    return int(np.random.default_rng([seed, epoch, int(Purpose.DROP_PATH), step, rank]).integers(2**31))


def tables(
    sizes: np.ndarray, view: View, settings: Method, seed: int, epoch: int, steps: int, epochs: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The random numbers of an epoch: tables with a row for each of N images, and (steps,) bool each which steps are mixed and
    which of those take margins.

    Args:
        sizes: (N, 2) widths and heights of the original images, in pixels.
        steps: of the epoch.
        epochs: of the run, whose last ones are clean if ``mix.cooldown_epochs`` says so; None: there is no last one.
    """
    count = len(sizes)
    uniform = stream(seed, epoch, Purpose.VIEW).random((count, views.DRAWS))
    made = {"windows": views.training_windows(sizes, view, uniform)}
    if view.jitter:
        made["jitter"] = stream(seed, epoch, Purpose.JITTER).random((count, 3))
    if view.erase:
        made["erase"] = stream(seed, epoch, Purpose.ERASE).random((count, 5))
    if view.augment:
        made["augment"] = stream(seed, epoch, Purpose.AUGMENT).random((count, view.augment.ops, 2))
    mixed = margins = np.zeros(steps, bool)
    if settings.mix and settings.mix.at_work(epoch, epochs):
        mixed = stream(seed, epoch, Purpose.MIXED).random(steps) < settings.mix.prob
        if settings.margin:
            # Beginning at another one each epoch, so that it is one of n on the whole.
            margins = mixed & ((np.cumsum(mixed) - 1 - epoch) % settings.margin.every == 0)
        alpha = getattr(settings.mixer, "alpha", 1.0)
        made["lam"] = stream(seed, epoch, Purpose.LAMBDA).beta(alpha, alpha, count)
        made["uniform"] = stream(seed, epoch, Purpose.PART).random((count, settings.mixer.uniform))
        if settings.mixer.second:
            lam = stream(seed, epoch, Purpose.SECOND_LAMBDA).beta(alpha, alpha, (count, 1))
            made["second"] = np.concatenate([lam, stream(seed, epoch, Purpose.SECOND_BOX).random((count, 2))], 1)
    return made, mixed, margins


def donors_of(whole: np.ndarray, own: slice) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a rank's share of a mixed batch, a donor that is no reference after them, and (B,) each reference's donor as a
    position among these.

    The order is random, so that the image before it is a random donor: a random cycle through the whole batch.
    """
    rows = whole[own]
    donors = np.roll(np.arange(len(rows)), 1)
    if len(rows) < len(whole):
        donors[0] = len(rows)  # the image before this rank's first one
        rows = np.append(rows, whole[own.start - 1])
    return rows, donors
