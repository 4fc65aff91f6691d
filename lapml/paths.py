"""The paths of all files, for the commands and for both orchestrators.

Every method also takes a wildcard such as ``"{seed}"`` in place of a value, which is how the Snakemake
rules name their files.
"""

from pathlib import Path
from typing import Self

RUN_FILES = (
    "config.json",
    "history.csv",
    "metrics.json",
    "predictions.parquet",
    "provenance.json",
    "model.safetensors",
)
READS = "test_reads.jsonl"  # beside RUN_FILES, not a declared output: a line for each reading of the test split
TRANSFERS = "transfers.jsonl"  # likewise: a line for each evaluation on another data set
CORRUPTIONS = "corruptions.json"  # likewise: top-1 on corrupted images
LIVE = "live.csv"  # likewise, of an unfinished run: history.csv so far
EMBEDDINGS = "embeddings.npz"  # likewise: of the training images, for `lapml explain`
PACK_FILES = ("index.parquet", "images.u8", "meta.json")
DIAGNOSIS_FILES = ("diagnosis.csv", "diagnosis.md", "quality.svg", "labels.svg", "gallery.html", "diagnosis.json")
LOCALISED_FILES = (
    "rows.npy",
    "objects.npy",
    "parts.npy",
    "activation.npy",
    "descriptors.npy",
    "strengths.npy",
    "fitted.safetensors",
    "meta.json",
)
REPORT_FILES = ("accuracy.csv", "accuracy.md", "accuracy.tex", "runs.csv", "curves.csv", "summary.json", "report.html")


class Paths:
    """Files of one suite below ``root`` (the folder that holds params.yaml's ``results/``)."""

    def __init__(self, suite: str, root: str | Path = "."):
        self.root = Path(root)
        self.home = _project_folder(self.root)
        self.suite = suite
        self.base = self.root / "results" / suite
        self.data = self.base / "data"
        self.places = self.base / "places"
        self.report = self.base / "report"
        self.published = self.root / "results" / "published" / suite

    def as_published(self) -> Self:
        """The same suite, with tuned files, runs and diagnoses where `lapml publish` copies them; the packed data stay."""
        there = type(self)(self.suite, self.root)
        there.base = self.published
        return there

    def raw(self, name: str) -> Path:
        """Where ``data fetch`` puts what it generates, unpacks or downloads (shared by all suites and by DVC's experiments)."""
        return self.home / "data" / name

    def source(self, dataset: str) -> Path:
        """``source.json``: number of images and checksums of the data set, whatever its place."""
        return self.data / str(dataset) / "source.json"

    def place(self, dataset: str) -> Path:
        """Where the data set lies on this machine; not a declared output, no stage depends on it."""
        return self.places / f"{dataset}.json"

    def pack(self, dataset: str) -> Path:
        """The folder of :data:`PACK_FILES`."""
        return self.data / str(dataset) / "packed"

    def localised(self, dataset: str) -> Path:
        """The folder of :data:`LOCALISED_FILES`, and of the files that say which runs use them (lapml/localise/suite.py)."""
        return self.base / "localised" / str(dataset)

    def settings(self, dataset: str) -> Path:
        """The folder of the settings that each stage depends on (stages.py)."""
        return self.base / "settings" / str(dataset)

    def tuned(self, dataset: str, method: str) -> Path:
        """The best margins of a tuned method."""
        return self.base / "tuned" / str(dataset) / f"{method}.json"

    def study(self, dataset: str, name: str) -> Path:
        """The SQLite file of a study, unless ``tune.storage`` names a database; not a declared output, so that no orchestrator
        deletes it."""
        return self.base / "studies" / str(dataset) / f"{name}.db"

    def run(self, dataset: str, method: str, seed: int | str) -> Path:
        """The folder of :data:`RUN_FILES`."""
        return self.base / "runs" / str(dataset) / str(method) / str(seed)

    def diagnosis(self, dataset: str) -> Path:
        """The folder of :data:`DIAGNOSIS_FILES`."""
        return self.base / "diagnosis" / str(dataset)

    def development(self, dataset: str, method: str, seed: int | str) -> Path:
        """Runs trained on ``train`` and evaluated on ``val``; not declared outputs."""
        return self.base / "development" / str(dataset) / str(method) / str(seed)


def _project_folder(root: Path) -> Path:
    """``root``; in the temporary workspace of a DVC experiment (``PROJECT/.dvc/tmp/exps/…``) the project's folder, which
    holds the data that neither git nor DVC tracks."""
    parts = root.resolve().parts
    for at in range(len(parts) - 3):
        if parts[at : at + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:at])
    return root
