"""The only place that spells where things lie, for the commands and for both orchestrators.

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
READS = "test_reads.jsonl"  # beside RUN_FILES, undeclared: a line for each reading of the test split
TRANSFERS = "transfers.jsonl"  # likewise: a line for each evaluation on another data set
EMBEDDINGS = "embeddings.npz"  # likewise: of the training images, which `lapml explain` compares with
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
        self.home = _home(self.root)
        self.suite = suite
        self.base = self.root / "results" / suite
        self.data = self.base / "data"
        self.places = self.base / "places"
        self.report = self.base / "report"
        self.published = self.root / "results" / "published" / suite

    def as_published(self) -> Self:
        """The same suite's tuned files, runs and diagnoses where `lapml publish` copies them; its packed data stay."""
        there = type(self)(self.suite, self.root)
        there.base = self.published
        return there

    def raw(self, name: str) -> Path:
        """Where ``data fetch`` lays out what it draws, unpacks or downloads (shared by all suites, and by DVC's experiments)."""
        return self.home / "data" / name

    def source(self, dataset: str) -> Path:
        """``source.json``: what the data set is, by number and checksums: the same wherever it lies."""
        return self.data / str(dataset) / "source.json"

    def place(self, dataset: str) -> Path:
        """Where it lies on this machine; never a declared output, and no stage depends on it."""
        return self.places / f"{dataset}.json"

    def pack(self, dataset: str) -> Path:
        """The folder of :data:`PACK_FILES`."""
        return self.data / str(dataset) / "packed"

    def localised(self, dataset: str) -> Path:
        """The folder of :data:`LOCALISED_FILES`, and of what says which runs use them (lapml/localise/evidence.py)."""
        return self.base / "localised" / str(dataset)

    def settings(self, dataset: str) -> Path:
        """The folder of what each stage depends on, resolved (stages.py)."""
        return self.base / "settings" / str(dataset)

    def tuned(self, dataset: str, method: str) -> Path:
        """The best margins of one tuned row."""
        return self.base / "tuned" / str(dataset) / f"{method}.json"

    def journal(self, dataset: str, study: str) -> Path:
        """The Optuna journal of one study; never a declared output, so that no orchestrator deletes it."""
        return self.base / "journals" / str(dataset) / f"{study}.journal"

    def run(self, dataset: str, method: str, seed: int | str) -> Path:
        """The folder of :data:`RUN_FILES`."""
        return self.base / "runs" / str(dataset) / str(method) / str(seed)

    def diagnosis(self, dataset: str) -> Path:
        """The folder of :data:`DIAGNOSIS_FILES`."""
        return self.base / "diagnosis" / str(dataset)

    def development(self, dataset: str, method: str, seed: int | str) -> Path:
        """Runs that train on ``train`` and are read on ``val``; no orchestrator declares them."""
        return self.base / "development" / str(dataset) / str(method) / str(seed)


def _home(root: Path) -> Path:
    """``root``; in the temporary workspace of an experiment of DVC (``PROJECT/.dvc/tmp/exps/…``) that project's folder, where
    data lie that are neither git's nor DVC's."""
    parts = root.resolve().parts
    for at in range(len(parts) - 3):
        if parts[at : at + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:at])
    return root
