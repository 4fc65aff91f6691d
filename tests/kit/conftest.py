"""Shared: a tar of ours with made-up members."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.processes import Asked
from kit.take import Work
from lapml.common import tars

CONTENT = {"wheels/a.whl": b"a" * 700, "images/b.tar": bytes(range(256)) * 5, "images/empty": b""}


@pytest.fixture(scope="session")
def content() -> dict[str, bytes]:
    return CONTENT


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    """files(folder): what all of its files hold, by name."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    """written(folder, content, name, **record): a tar of ours in a folder."""

    def made(folder: Path, content: dict[str, bytes] = CONTENT, name: str = "one.tar", **record: object) -> Path:
        members = {}
        for each, data in content.items():
            members[each] = folder / "in" / each
            members[each].parent.mkdir(parents=True, exist_ok=True)
            members[each].write_bytes(data)
        tars.write(folder / name, record, members)
        return folder / name

    return made


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """A kit's folder on the other machine, with nothing in it."""
    with Asked() as asked:
        yield Work(tmp_path / "work", 0, asked)
