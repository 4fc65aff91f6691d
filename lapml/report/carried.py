"""Tars of finished runs (without weights) and of logs of failed ones, to carry from one machine to another."""

from pathlib import Path
from typing import Any

from lapml.common import tars
from lapml.common.recorded import read_json
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import scratch
from lapml.paths import READS, RUN_FILES, Paths
from lapml.runs.collect import UNREAD, Job, examined

FORMAT = 1
RUNS, LOGS = "runs", "logs"  # first part of the names in the tar
FILES = tuple(name for name in RUN_FILES if name not in UNREAD)
MOST = 16 * 2**20  # bytes of a tar
MOST_LOG = 64 * 2**10  # bytes from the end of a log


def finished(params: Params, paths: Paths) -> list[Job]:
    """The complete runs of these settings, on the data as they are packed."""
    found = {job: row for job, row in examined(params, paths, UNREAD) if not isinstance(row, LapmlError)}
    metas = {dataset: paths.pack(dataset) / "meta.json" for dataset in params.datasets}
    packed = {dataset: read_json(meta).get("sha256") for dataset, meta in metas.items() if meta.is_file()}
    return [job for job, row in found.items() if row["data_sha256"] == packed.get(job.dataset, row["data_sha256"])]


def pack(
    params: Params, paths: Paths, about: dict[str, Any], logs: list[Path], target: Path, most: int = MOST
) -> list[Path]:
    """Write the finished runs and these logs to ``target``; what exceeds ``most`` bytes goes to TARGET-2.tar …. LapmlError
    where one run alone is too large."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.with_name(f".{target.stem}.tmp")) as ends:
        groups = [{f"{LOGS}/{log.name}": _end(log, ends)} for log in logs if log.is_file()]
        for job in finished(params, paths):
            folder = paths.run(*job)
            names = (*FILES, *[READS] * (folder / READS).is_file())
            groups.append({f"{RUNS}/{job}/{name}": folder / name for name in names})
        tarfuls: list[dict[str, Path]] = [{}]
        filled = 0
        for group in groups:
            size = sum(tars.room(file.stat().st_size, name) for name, file in group.items())
            if size > most - 2 * tars.EMPTY:
                raise LapmlError(
                    f"{next(iter(group))}: takes {size / 2**20:.1f} MiB, expected at most {most / 2**20:.1f}"
                )
            if filled + size > most - 2 * tars.EMPTY:
                tarfuls.append({})
                filled = 0
            tarfuls[-1] |= group
            filled += size
        written = []
        for at, members in enumerate(tarfuls, start=1):
            path = target if at == 1 else target.with_name(f"{target.stem}-{at}.tar")
            tars.write(path, {"format": FORMAT, **about, "suite": params.suite}, members)
            written.append(path)
    return written


def _end(log: Path, folder: Path) -> Path:
    """Write the end of a log to a file."""
    short = folder / log.name
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - MOST_LOG))
        short.write_bytes(file.read())
    return short


def unpack(tar: Path, folder: Path) -> tuple[dict[str, Any], list[Job]]:
    """Unpack a tar of runs into a temporary folder, below ``runs``; returns its manifest and its runs, complete or not.

    Raises:
        LapmlError: damaged or unsafe (see :func:`lapml.common.tars.extract`), or not a tar of runs.
    """
    record = tars.extract(tar, folder)
    if record.get("format") != FORMAT or "suite" not in record or "piece" in record:
        raise LapmlError(f"{tar}: holds no runs of a suite; give a tar that kit/run.sh wrote")
    jobs = []
    for name in record["members"]:
        parts = name.split("/")
        if parts[0] == LOGS and len(parts) == 2:
            continue
        valid = parts[0] == RUNS and len(parts) == 5 and parts[4] in (*FILES, READS) and parts[3].isdecimal()
        if not valid:
            raise LapmlError(
                f"{tar}: {name}: expected {RUNS}/DATASET/METHOD/SEED/FILE or {LOGS}/FILE only; nothing is used"
            )
        job = Job(parts[1], parts[2], int(parts[3]))
        if str(job) != "/".join(parts[1:4]):
            raise LapmlError(f"{tar}: {name}: seed: found {parts[3]}, expected {job.seed}; nothing is used")
        jobs += [job] if job not in jobs else []
    return record, jobs
