"""The house: which rooms there are, that each imports only rooms to its left, that none of its files is too long, and that the
tests use what there is."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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
OURS = ("lapml", "kit", "benchmarks")
TESTS = sorted(file for file in (ROOT / "tests").rglob("*.py") if "fixtures" not in file.parts)


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


def ours_in(tree: ast.Module) -> dict[str, object]:
    """What a test file's imports of our modules bind, but for names that it gives to something else as well."""
    nodes = list(ast.walk(tree))
    taken = {each.arg for each in nodes if isinstance(each, ast.arg)}
    taken |= {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    found: dict[str, object] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")  # which makes it an attribute
                found[name.asname or name.name] = getattr(module, name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if (root := name.name.split(".")[0]) in OURS:
                    module = importlib.import_module(name.name)
                    found |= {name.asname: module} if name.asname else {root: importlib.import_module(root)}
    return {name: each for name, each in found.items() if name not in taken}


@pytest.mark.parametrize("folder", sorted({file.parent for file in TESTS}), ids=lambda folder: folder.name)
def test_tests_use_what_there_is(folder):
    """Each `module.name` of ours that they name exists, also where a test does not run on this machine."""
    for file in TESTS:
        if file.parent != folder:
            continue
        tree = ast.parse(file.read_text())
        known = ours_in(tree)
        for node in ast.walk(tree):
            names = []
            inner = node
            while isinstance(inner, ast.Attribute):
                names.append(inner.attr)
                inner = inner.value
            at = known.get(inner.id) if isinstance(inner, ast.Name) else None
            while names and isinstance(at, ModuleType):
                name = names.pop()
                assert hasattr(at, name), f"{file.relative_to(ROOT)}:{node.lineno}: {at.__name__} has no {name}"
                at = getattr(at, name)
