"""Runs that are carried from one machine to another: tars of the finished ones, without weights, and of the logs of what failed."""

from pathlib import Path
from typing import Any, NamedTuple

from lapml.common import tars
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import scratch
from lapml.paths import READS, RUN_FILES, Paths
from lapml.runs.collect import UNREAD, examined

FORMAT = 1
RUNS, LOGS = "runs", "logs"  # what names in such a tar begin with
FILES = tuple(name for name in RUN_FILES if name not in UNREAD)
MOST = 16 * 2**20  # bytes of a tar
MOST_LOG = 64 * 2**10  # bytes of a log: its end


class Job(NamedTuple):
    """One run of a suite."""

    dataset: str
    method: str
    seed: int

    def __str__(self) -> str:
        return "/".join(map(str, self))


def finished(params: Params, paths: Paths) -> list[Job]:
    """The runs that are whole and of these settings."""
    return [Job(*run) for run, found in examined(params, paths, UNREAD) if not isinstance(found, LapmlError)]


def pack(
    params: Params, paths: Paths, about: dict[str, Any], logs: list[Path], target: Path, most: int = MOST
) -> list[Path]:
    """Write the finished runs and these logs to ``target``; what does not fit into ``most`` bytes, to TARGET-2.tar ….

    Raises:
        LapmlError: one run alone is too large.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.with_name(f".{target.stem}.tmp")) as ends:
        groups = [{f"{LOGS}/{log.name}": _end(log, ends)} for log in logs if log.is_file()]
        for job in finished(params, paths):
            folder = paths.run(*job)
            names = [*FILES, *([READS] if (folder / READS).is_file() else [])]
            groups.append({f"{RUNS}/{job}/{name}": folder / name for name in names})
        tarfuls: list[dict[str, Path]] = [{}]
        filled = 0
        for group in groups:
            size = sum(tars.room(file.stat().st_size) for file in group.values())
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
    """The end of a log, in a file of its own."""
    short = folder / log.name
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - MOST_LOG))
        short.write_bytes(file.read())
    return short


def unpack(tar: Path, folder: Path) -> tuple[dict[str, Any], list[Job]]:
    """Unpack such a tar into a folder that is thrown away later: its runs lie in ``runs``.

    Returns:
        (what its manifest says, the runs in it, whole or not).

    Raises:
        LapmlError: damaged or unsafe (see :func:`lapml.common.tars.extract`), or it is something else.
    """
    record = tars.extract(tar, folder)
    if record.get("format") != FORMAT or "suite" not in record or "piece" in record:
        raise LapmlError(f"{tar}: holds no runs of a suite; give a tar that kit/run.sh wrote")
    jobs = []
    for name in record["members"]:
        parts = name.split("/")
        if parts[0] == LOGS and len(parts) == 2:
            continue
        known = parts[0] == RUNS and len(parts) == 5 and parts[4] in (*FILES, READS) and parts[3].isdecimal()
        if not known:
            raise LapmlError(
                f"{tar}: {name}: expected {RUNS}/DATASET/METHOD/SEED/FILE or {LOGS}/FILE only; nothing is used"
            )
        job = Job(parts[1], parts[2], int(parts[3]))
        if str(job) != "/".join(parts[1:4]):
            raise LapmlError(f"{tar}: {name}: seed: found {parts[3]}, expected {job.seed}; nothing is used")
        jobs += [job] if job not in jobs else []
    return record, jobs
