"""The house: which rooms there are, that each imports only rooms to its left, and that none of its files is too long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "common",
    "mixing",
    "config",
    "data",
    "models",
    "localise",
    "training",
    "runs",
    "analysis",
    "report",
    "apply",
    "cli",
)
LOOSE = {
    "__init__",
    "__main__",
    "errors",
    "paths",
    "files",
}  # modules that stand in no room; every room may import them
FILES = sorted((ROOT / "lapml").rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines, docstrings of functions left out


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imported(tree: ast.Module) -> Iterator[str]:
    """All modules that are imported anywhere in a file, but for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        for each in ast.walk(node):
            if isinstance(each, ast.ImportFrom) and each.module:
                yield from (f"{each.module}.{name.name}" for name in each.names)
            elif isinstance(each, ast.Import):
                yield from (name.name for name in each.names)


def test_every_module_stands_in_a_room():
    below = {path.name for path in (ROOT / "lapml").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert below == set(ROOMS)
    assert {path.stem for path in (ROOT / "lapml").glob("*.py")} == LOOSE


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room):
    assert len(ast.get_docstring(ast.parse((ROOT / "lapml" / room / "__init__.py").read_text())) or "") > 60


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_rooms_to_their_left(room):
    right = {f"lapml.{other}" for other in ROOMS[ROOMS.index(room) + 1 :]} | {"benchmarks", "kit"}
    for file in FILES:
        if name_of(file).split(".")[1] == room:
            back = [
                each for each in imported(TREES[file]) if any(f"{each}.".startswith(f"{other}.") for other in right)
            ]
            assert not back, f"{name_of(file)} imports {back[0]}"


def test_no_file_and_no_function_is_too_long():
    for file, tree in TREES.items():
        assert len(file.read_text().splitlines()) <= LONGEST_FILE, name_of(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0] if ast.get_docstring(node) else None
                own = node.end_lineno - node.lineno + 1
                own -= docstring.end_lineno - docstring.lineno + 1 if docstring else 0
                assert own <= LONGEST_FUNCTION, f"{name_of(file)}.{node.name}: {own} lines"
