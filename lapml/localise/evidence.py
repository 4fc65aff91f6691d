"""Open the maps on the disk for a run, and carry them from the stored squares into its views."""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lapml.config import Localise, Params, Run
from lapml.config.method import LOCALISED
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.data.views import cut
from lapml.errors import LapmlError
from lapml.mixing.maps import normalised
from lapml.paths import Paths

if TYPE_CHECKING:
    from lapml.localise.store import Localised


def opened(run: Run, paths: Paths, packed: Packed) -> "Localised | None":
    """The maps that a run uses, or None.

    Raises:
        LapmlError: they are not there, damaged, of other data, of other settings or of other images than the run's.
    """
    if run.localise is None:
        return None
    needs = run.settings.localised()
    if not (paths.localised(run.dataset) / "meta.json").is_file():
        raise LapmlError(
            f"{paths.localised(run.dataset)}: found no maps, and {run.method} mixes by them ({', '.join(needs)}); run "
            f"`lapml localise {run.dataset} --anyway` first"
        )
    maps = _fitting(paths.localised(run.dataset), run.localise, packed, run.fit)
    if "activation" in needs and not maps.meta["classes"]:
        raise LapmlError(
            f"localise.model: {run.localise.model} has no linear classifier on the mean of its last map, whose class maps "
            f"{run.method} mixes by; name another, such as resnet50 or tf_efficientnet_lite0"
        )
    return maps


def found(params: Params, paths: Paths, dataset: str, packed: Packed) -> "Localised | None":
    """The maps that a data set's diagnosis is by: those that the suite's methods mix by; else those that were made anyway, if
    they fit the settings and the data, or None.

    Raises:
        LapmlError: as of :func:`opened`, where methods of the tables mix by them.
    """
    folder, settings = paths.localised(dataset), params.of(dataset).localise
    if not params.localising() and (settings is None or not (folder / "meta.json").is_file()):
        return None
    try:
        return _fitting(folder, settings, packed, params.localised_splits())
    except LapmlError:
        if params.localising():
            raise
        return None


def _fitting(folder: Path, settings: Localise, packed: Packed, fit: list[str]) -> "Localised":
    from lapml.localise.store import Localised

    maps = Localised.open(folder, packed.meta["sha256"])
    again, recorded = f"run `lapml localise {folder.name}` again", maps.meta["settings"]
    for key, expected in settings.model_dump().items():
        made = recorded.get(key, type(settings).model_fields[key].default)  # older maps lack newer keys
        if made != expected:
            raise LapmlError(f"{folder}: was made with localise.{key} {made!r}, expected {expected!r}; {again}")
    try:
        maps.places(rows_of(packed.index, fit))
    except LapmlError as error:
        raise LapmlError(f"{folder}: {error}; {again}") from None
    return maps


class Maps(NamedTuple):
    """One map for each image, see :class:`lapml.training.methods.Stored`."""

    maps: Tensor  # (n, h, w) ≥ 0
    places: Tensor  # (N,) int64 where each image of the index is among them, −1 where it is not

    def recall(self, rows: Tensor, windows: Tensor) -> tuple[Tensor]:
        """(B, h, w) fp32 that sum to 1; uniform where the view shows nothing of the object, or nothing is known."""
        return (normalised(_carried(self.maps[:, None], self.places[rows], windows)[:, 0]),)


class PartMaps(NamedTuple):
    """K maps for each image, and what each part looks like there."""

    maps: Tensor  # (n, K, h, w) ≥ 0, where 1 is strong
    descriptors: Tensor  # (n, K, D)
    places: Tensor  # as of :class:`Maps`

    def recall(self, rows: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, h, w) fp32 ≥ 0, and (B, K, D) of unit length; 0 where a part, or the image, is not known."""
        places = self.places[rows]
        found = self.descriptors[places.clamp_min(0)].float() * (places >= 0)[:, None, None]
        return _carried(self.maps, places, windows), torch.nn.functional.normalize(found, dim=2)


def _carried(maps: Tensor, places: Tensor, windows: Tensor) -> Tensor:
    """(B, K, h, w) fp32 maps as views of ``windows`` show them, in as many cells; 0 where the place is negative."""
    cells = maps[places.clamp_min(0)].permute(0, 2, 3, 1)
    return cut(cells, windows, cells.shape[1]) * (places >= 0)[:, None, None, None]


def stored(maps: "Localised", needs: Collection[str], images: int, device: torch.device) -> dict[str, Maps | PartMaps]:
    """What gives the evidence of :data:`~lapml.config.method.LOCALISED` that is needed, its arrays on the device. (On a CPU
    they stay mapped from the disk.)

    Args:
        images: in the index.
    """
    places = np.full(images, -1)
    places[maps.rows] = np.arange(len(maps.rows))

    def held(array: np.ndarray) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is read-only: so is what is done with it
            return torch.from_numpy(array).to(device)

    where, made = held(places), {}
    for need in (each for each in LOCALISED if each in needs):
        if need == "parts":
            made[need] = PartMaps(held(maps.parts), held(maps.descriptors), where)
        else:
            made[need] = Maps(held(getattr(maps, need)), where)
    return made
