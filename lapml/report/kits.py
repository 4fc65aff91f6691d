"""Take over the runs that a kit made on another machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lapml.common.recorded import read_json
from lapml.config import Params
from lapml.errors import LapmlError
from lapml.files import locked, write_json
from lapml.paths import Paths
from lapml.report import carried
from lapml.report.accumulate import refuse_unfit
from lapml.report.published import LOCK, copy_run, recover
from lapml.runs.collect import UNREAD, examined, one_origin
from lapml.runs.kept import same_run


def publish_from(params: Params, paths: Paths, tar: Path) -> str:
    """Add the runs in a tar that kit/run.sh wrote on another machine to what is published; given twice, it changes nothing.

    They come without weights, so no diagnosis can be made of them: those of ``diagnose.method`` are published like the others.

    Returns:
        How many runs were added, and how many are there.

    Raises:
        LapmlError: the tar is cut off, damaged or unsafe, or what is published does not fit (then nothing is added); or
            some of its runs are not whole, not of this suite's settings, or not made with the same data and weights (the
            others are added).
    """
    there, added, faults = paths.as_published(), 0, []
    with locked(paths.base / LOCK), TemporaryDirectory(prefix="lapml-") as folder:
        recover(paths)
        record, jobs = carried.unpack(tar, Path(folder))
        given = type(paths)(params.suite, paths.root)
        given.base = Path(folder)
        if record["suite"] != params.suite:
            raise LapmlError(
                f"{tar}: holds runs of suite {record['suite']!r}, expected {params.suite!r}; give its --params"
            )
        published = refuse_unfit(params, paths, there)
        suite = dict(examined(params, given, UNREAD))
        known = {run: found for run, found in suite.items() if given.run(*run).exists()}
        faults += [f"{job}: no run of this suite" for job in jobs if job not in known]
        for run, found in known.items():
            name, rows = "/".join(map(str, run)), published.setdefault(run[0], [])
            if isinstance(found, LapmlError):
                faults += [f"{name}: {line}" for line in str(found).splitlines()]
                continue
            _name_commit(given.run(*run) / "provenance.json", record.get("about") or {})
            if there.run(*run).exists():
                if not same_run(given.run(*run), there.run(*run)):
                    faults.append(f"{name}: another run of that name is published, and stays")
            else:
                row = {**dict(zip(("dataset", "method", "seed"), run, strict=True)), **found}
                if origin := one_origin(params, [*rows, row], paths.pack(run[0]) / "meta.json"):
                    faults += origin
                    continue
                copy_run(given.run(*run), there.run(*run))
                rows.append(row)
                added += 1
    text = f"{paths.published}: {added} runs added, {sum(there.run(*run).exists() for run in suite)} of {len(suite)} are there"
    if faults:
        made = f"; they were made with --set {' --set '.join(record['overrides'])}" if record.get("overrides") else ""
        raise LapmlError(f"{text}; {tar}: holds what is not taken{made}:\n  " + "\n  ".join(faults))
    return text


def _name_commit(file: Path, kit: dict[str, Any]) -> None:
    """Where a run's checkout differed from its commit, but its code has the checksum of the kit's, which was committed: record that
    commit, and what the checkout said under ``checkout``.

    Args:
        kit: commit, dirty and code_sha256 of what the kit was made of.
    """
    origin = read_json(file)
    if origin.get("dirty") and kit.get("dirty") is False and origin.get("code_sha256") == kit.get("code_sha256"):
        checkout = {name: origin[name] for name in ("commit", "dirty")}
        write_json(file, {**origin, "commit": kit["commit"], "dirty": False, "checkout": checkout})
