"""`lapml diagnose`: measure every mixer of a suite on one data set."""

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lapml.analysis.diagnosis import intervals, localisers
from lapml.analysis.diagnosis.metrics import LOCALISATION, MIXING, localisation, mixing, shares, true_share
from lapml.common.provenance import command, commit, device_name, versions
from lapml.config import Method, Params, settings_of
from lapml.config.suites import find_dataset
from lapml.data.batches import Batch
from lapml.data.fetch.sources import laid_out, refuse_other
from lapml.data.index import rows_of
from lapml.data.pack import Packed
from lapml.data.truth import Annotations, Scene, read_masks
from lapml.errors import LapmlError
from lapml.localise.evidence import found
from lapml.models.device import DTYPES, pick_device
from lapml.paths import Paths
from lapml.runs.execute import load_model, resolved
from lapml.runs.folder import open_run
from lapml.training.mixes import RANDOM, Made, Mixes, control, distinct

if TYPE_CHECKING:
    from lapml.localise.store import Localised

MAPS = "class maps"  # what is measured of the models, not of a mixer
COUNTED = ("meaningless", "obscured")  # rates of images that are, or are not
EVENTS = 20  # such images, at least, for a ratio to that rate
BINS = 10  # of ρ, for the figure of labels


class Known(NamedTuple):
    """What is known of a data set."""

    packed: Packed
    masks: np.ndarray | None  # of its training images
    annotations: Annotations | None
    maps: "Localised | None" = None  # what the stage `localise` found


class Measured(NamedTuple):
    table: pd.DataFrame  # one row per mixer: method, and of each metric its value, low and high (shares of 1)
    maps: pd.DataFrame  # one row: the same of the metrics of localisation
    ratios: pd.DataFrame  # one row per (metric, against): value, low and high of loc_cutmix's over that one's
    labels: pd.DataFrame  # one row per (method, bin of ρ): images, mean ρ, mean true share
    record: dict[str, Any]  # what made them
    localisers: pd.DataFrame  # a row for each localiser, see localisers.py; none where nothing was localised


def measure(params: Params, paths: Paths, dataset: str, known: Known) -> Measured:
    """Measure all mixers of a suite on one data set; LapmlError where the runs of ``diagnose.method`` are not there, or do not fit
    the settings."""
    made = dict(zip(("commit", "dirty"), commit(), strict=True))
    packed, masks, annotations, maps_found = known
    rows = mixers(params, dataset, known)
    compared = localisers.chosen(maps_found, params.diagnose.images) if maps_found and annotations else None
    of_models: list[np.ndarray] = []
    sums: dict[str, np.ndarray] = {}
    bins = {name: np.zeros((BINS, 3)) for name in rows}
    checksums = {}
    models = len(params.seeds)
    shape = (models, len(packed.index))
    used = np.zeros(shape[1], bool)
    for place, seed in enumerate(params.seeds):
        mixes, _, checksums[str(seed)] = opened(params, paths, dataset, seed, rows, known)
        points = torch.Generator().manual_seed(seed)
        generated_images = 0
        if compared is not None:
            of_models.append(localisers.trained(mixes, compared))
        for batch, scene, generated, maps in mixes.generate(params.diagnose.images):
            generated_images += batch.count
            used[batch.rows[: batch.count]] = True
            found = _of_batch(batch, scene, generated, maps, points, bins)
            for name, metrics in found.items():
                names = LOCALISATION if name == MAPS else MIXING
                total = sums.setdefault(name, np.zeros((2, *shape, len(names))))
                for column, metric in enumerate(names):
                    if metric in metrics:
                        for part, values in enumerate(metrics[metric]):
                            np.add.at(total[part, place, :, column], batch.rows[: len(values)], values.cpu().numpy())
    sums = {name: total[:, :, used] for name, total in sums.items()}
    table, maps, ratios = _tables(sums, list(rows), params)
    record = {
        "command": command(),
        **made,
        "dataset": dataset,
        "settings": settings(params, dataset, maps_found is not None),
        "seeds": params.seeds,
        "images": int(used.sum()),
        "generated": generated_images,
        "data_sha256": packed.meta["sha256"],
        "models_sha256": checksums,
        "object": "masks" if masks is not None else "boxes" if annotations else "unknown",
        "masks_sha256": hashlib.sha256(masks.data).hexdigest() if masks is not None else None,
        "device": device_name(mixes.device),
        "versions": versions(),
    }
    if maps_found:
        record["localised_sha256"] = maps_found.meta["sha256"]
    beside = pd.DataFrame()
    if compared is not None:
        record["compared"] = len(compared)
        assert annotations is not None and maps_found is not None
        truth = localisers.places(annotations, packed.index[["width", "height"]].to_numpy(np.float64), compared)
        beside = localisers.compare(maps_found, truth, compared, of_models, params)
    return Measured(table, maps, ratios, _labels(bins), record, beside)


def _of_batch(
    batch: Batch,
    scene: Scene | None,
    generated: dict[str, Made],
    maps: torch.Tensor,
    points: torch.Generator,
    bins: dict[str, np.ndarray],
) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """{mixer, or MAPS: its metrics} of a batch of :meth:`Mixes.generate`; its labels are added to ``bins``, by
    ρ: images, the sum of ρ, and that of true shares."""
    found = {}
    if scene:
        found[MAPS] = localisation(maps.float(), scene.truth, batch.images.shape[-1], points)
    for name, (mixed, _) in generated.items():
        if scene:
            found[name] = mixing(mixed, scene)
            truth, applies = true_share(mixed, scene)
            given, true = (values[applies].cpu().double().numpy() for values in (mixed.rho, truth))
            place = np.clip((given * BINS).astype(int), 0, BINS - 1)
            np.add.at(bins[name], place, np.stack([np.ones_like(given), given, true], 1))
        else:
            area = shares(mixed).hidden.mean((1, 2))
            found[name] = {"area": (area, torch.ones_like(area))}
    return found


def settings(params: Params, dataset: str, localised: bool) -> dict[str, Any]:
    """Everything of the params that a diagnosis depends on, beside the runs and maps that it names by checksum; ``localised``:
    it is by maps of the stage `localise`."""
    rows, own = distinct(params.of(dataset), localised=localised), params.of(dataset, params.diagnose.method)
    return {
        "view": own.data[dataset].view.recorded(),
        "batch": own.train.batch,
        "diagnose": params.diagnose.recorded(),
        "methods": {name: method.recorded(exclude_none=True) for name, method in rows.items()},
        "confidence": params.report.confidence,
        "bootstrap": params.report.bootstrap,
    }


def mixers(params: Params, dataset: str, known: Known) -> dict[str, Method]:
    """The methods that are measured and shown: each way of mixing, and the control."""
    rows = distinct(params.of(dataset), known.annotations is not None, known.maps is not None)
    return rows | control(rows)


def truths(params: Params, paths: Paths, dataset: str) -> Known:
    """A packed data set, and the masks (of its training images), boxes and maps that it has, or None.

    Raises:
        LapmlError: unknown data set, it is not prepared, where it lay is gone, a mask is missing, or maps are that a method of
            the tables mixes by.
    """
    refuse_other(dataset, find_dataset(params, dataset), paths)
    packed = Packed.open(paths.pack(dataset), params.data[dataset])
    boxed = all(box is not None for box in packed.index["box"])
    _, root = laid_out(dataset, paths, params.data[dataset])
    fit = resolved(params, paths, dataset, params.diagnose.method, params.seeds[0]).fit
    masks, maps = read_masks(root, packed, rows_of(packed.index, fit)), found(params, paths, dataset, packed)
    return Known(packed, masks, Annotations(packed.index) if boxed else None, maps)


def opened(
    params: Params,
    paths: Paths,
    dataset: str,
    seed: int,
    rows: dict,
    known: Known,
) -> tuple[Mixes, dict[str, Any], str]:
    """What the model of one seed makes of the training images: (mixes, the record of its input, its checksum)."""
    packed, masks, annotations, maps = known
    folder = paths.run(dataset, params.diagnose.method, seed)
    config = resolved(params, paths, dataset, params.diagnose.method, seed)
    record, provenance = open_run(folder)
    made = settings_of(folder / "config.json", record)
    if made.record() != config.record() or provenance["data_sha256"] != packed.meta["sha256"]:
        raise LapmlError(
            f"{folder}: was made with other settings or data than params.yaml has now; train it again "
            f"(`lapml train {dataset} {params.diagnose.method} {seed}`)"
        )
    model, weights = load_model(folder, config, len(packed.class_names))
    device, precision = pick_device(config.train)
    torch.set_num_threads(config.train.threads)
    model = model.to(device, DTYPES[precision])
    mixes = Mixes(config, model, weights, packed, rows, masks, annotations, precision, maps)
    return mixes, weights, provenance["files"]["model.safetensors"]


def _tables(
    sums: dict[str, np.ndarray], rows: list[str], params: Params
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    draws, table = {}, []
    for name, (above, below) in sums.items():
        metrics = LOCALISATION if name == MAPS else MIXING
        row, draws[name] = intervals.estimated(above, below, metrics, params)
        table.append({"method": name, **row})
    frame = pd.DataFrame(table, columns=None if table else ["method"])
    columns = ["method", *(f"{metric}{end}" for metric in MIXING for end in ("", "_low", "_high"))]
    of_mixers = frame[frame["method"].isin(rows)].reindex(columns=columns)
    of_maps = frame[frame["method"] == MAPS].drop(columns=["method", *columns[1:]], errors="ignore")
    return of_mixers, of_maps, _ratios(of_mixers, sums, draws, params.report.confidence)


def _ratios(
    table: pd.DataFrame, sums: dict[str, np.ndarray], draws: dict[str, np.ndarray], confidence: float
) -> pd.DataFrame:
    """loc_cutmix's rates over those of cutmix and of the control: what the hypothesis is about."""
    rows = []
    by_method = table.set_index("method")
    masked = "label_error_masks" in table and table["label_error_masks"].notna().any()
    asked = ("meaningless", "obscured", "label_error_masks" if masked else "label_error_parts")
    for against in ("cutmix", RANDOM):
        if not {"loc_cutmix", against} <= set(draws):
            continue
        for metric in asked:
            if by_method.loc[["loc_cutmix", against], metric].isna().any():  # such as parts, where there are none
                continue
            column = list(MIXING).index(metric)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = draws["loc_cutmix"][:, column] / draws[against][:, column]
                value = by_method.loc["loc_cutmix", metric] / by_method.loc[against, metric]
            low, high = (float(end) for end in intervals.percentiles(ratio, confidence))
            if metric in COUNTED and sums[against][0][..., column].sum() < EVENTS:  # a handful would decide
                low = high = math.nan
            rows.append({"metric": metric, "against": against, "ratio": value, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["metric", "against", "ratio", "low", "high"])


def _labels(bins: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = [
        {"method": name, "images": int(count), "rho": rho / count, "true": truth / count}
        for name, each in bins.items()
        for count, rho, truth in each
        if count
    ]
    return pd.DataFrame(rows, columns=["method", "images", "rho", "true"])
