"""The distances that occur between generated images and their references after training without margin losses.

Distances differ between data sets, so margins may be searched by their quantiles.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from lapml.common import ranks
from lapml.common.sections import FARTHEST
from lapml.config import Run
from lapml.data.pack import Packed
from lapml.models.device import autocast
from lapml.models.model import training_mode
from lapml.training.loop import Fitted
from lapml.training.losses import distance
from lapml.training.mixes import Mixes, freshly
from lapml.training.passes import passed

if TYPE_CHECKING:
    from lapml.localise.store import Localised

PAIRS = 2000  # generated images measured, those with donors of the reference's class included


@dataclass(frozen=True)
class Distances:
    """Distances of pairs whose donor is of another class than the reference.

    Args:
        d: (n,) distances.
        rho: (n,) the donors' shares of the labels.
        farthest: that embeddings of this model can be apart: √2 where none of them is negative, else 2.
    """

    d: np.ndarray
    rho: np.ndarray
    farthest: float = math.sqrt(2)

    def margin(self, quantile: float, scale: str) -> float:
        """The margin m (with ``margin.scale: share``, 2mρ) that this share of the pairs lies within."""
        reached = self.d / np.maximum(2 * self.rho, 1e-6) if scale == "share" else self.d
        return float(min(np.quantile(reached, quantile), self.farthest))

    def delta(self, quantile: float, m: float, scale: str) -> float:
        """The width δ ≥ 0 of the band such that this share of the pairs lies within its outer edge at similarity 0."""
        beyond = self.d - (2 * m * self.rho if scale == "share" else m)
        return float(np.clip(np.quantile(beyond, quantile), 0, self.farthest))

    def record(self) -> dict[str, Any]:
        """The distances as JSON."""
        record = {"d": np.round(self.d, 4).tolist(), "rho": np.round(self.rho, 4).tolist()}
        return record | ({"farthest": self.farthest} if self.farthest > math.sqrt(2) else {})

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Read the JSON of :meth:`record`."""
        farthest = {"farthest": record["farthest"]} if "farthest" in record else {}
        return cls(np.asarray(record["d"]), np.asarray(record["rho"]), **farthest)


@torch.no_grad()
def measured(config: Run, packed: Packed, fitted: Fitted, maps: "Localised | None" = None) -> Distances:
    """Distances in the training views of a trained run, with batch norm, parts and references as in training. Changes the
    model's running statistics.

    Args:
        config: of the run, which mixes.
        fitted: the run; class maps and features come from a forward pass of their own.
    """
    own = config.settings
    mixing = own.always_mixing().model_copy(update={"margin": None, "adaptive": None})
    model, method = fitted.model.eval(), freshly(mixing)
    mixes = Mixes(config, model, fitted.weights, packed, {"mixed": method}, precision=fitted.precision, maps=maps)
    through = partial(passed, model, model, parts=config.train.accumulate, batch_norm=config.train.batch_norm)
    found: dict[str, list[np.ndarray]] = {"d": [], "rho": []}
    negative = False
    with autocast(fitted.device, fitted.precision):
        for batch, _, made, _ in mixes.generate(PAIRS):
            mixed = made["mixed"].mixed
            references = batch.images[: batch.count]
            training_mode(model, config.train.batch_norm)
            output, clean = through(mixed.images, None if own.joint else references)
            if clean is None:
                clean = through(references, None)[0].embedding
            model.eval()  # for the evidence of the next batch
            negative |= bool((output.embedding < 0).any())
            d = distance(output.embedding, clean)
            other = batch.labels[: batch.count] != batch.labels[mixed.donors]
            for name, values in (("d", d), ("rho", mixed.rho)):
                found[name].append(values[other].float().cpu().numpy())
    d, rho = (np.concatenate(sum(ranks.collected(found[name]), [])) for name in ("d", "rho"))
    return Distances(d, rho, FARTHEST if any(ranks.collected(negative)) else math.sqrt(2))
