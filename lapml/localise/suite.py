"""`lapml localise`: the maps of a suite's data set, and which of its runs depend on them."""

import json
from typing import Any

from lapml.config import Params
from lapml.config.stages import by_maps
from lapml.errors import LapmlError
from lapml.files import write_json
from lapml.paths import Paths


def localise_suite(
    params: Params, paths: Paths, dataset: str, anyway: bool = False, progress: bool = True
) -> dict[str, Any] | None:
    """Localise the images of a data set that the suite's runs are fit on; returns the maps' meta.json.

    Args:
        anyway: also where no method of the suite's tables asks for maps. Else there are none then, and None is returned:
            DVC has the stage all the same.

    Raises:
        LapmlError: see :func:`~lapml.localise.stage.localise`; or the params file has no section `localise`.
    """
    resolved, meta = params.of(dataset), None
    if anyway or params.localising():
        if resolved.localise is None:
            raise LapmlError(
                "localise: found no such section in the params file, expected one; suites/base.yaml has it"
            )
        from lapml.localise.stage import localise  # slow to import, for nothing where no method asks
        from lapml.models.device import pick_device

        settings, (device, _) = resolved.localise, pick_device(resolved.train)
        folder, threads = paths.localised(dataset), resolved.train.threads
        meta = localise(
            dataset,
            resolved.data[dataset],
            paths,
            params.localised_splits(),
            folder,
            settings,
            device,
            threads,
            progress,
        )
    _write_uses(params, paths, dataset)
    return meta


def _write_uses(params: Params, paths: Paths, dataset: str) -> None:
    """Say beside the maps which runs use them: ``runs/METHOD.json`` and ``diagnosis.json`` hold the maps' checksum, or null
    where none are used. DVC's stages depend on these, so that a run is made again where its maps have changed, and only then.
    The files are of all methods of the params file, so that one more in the tables finds its own.
    """
    folder = paths.localised(dataset)
    made = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["sha256"] if params.localising() else None
    for method, asks in by_maps(params).items():
        write_json(folder / "runs" / f"{method}.json", {"localised_sha256": made if asks else None})
    write_json(folder / "diagnosis.json", {"localised_sha256": made})
