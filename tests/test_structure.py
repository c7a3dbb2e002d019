"""The shape of the code: rooms, sizes, documentation. The rooms are those of docs/architecture.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "longrope"
HEAVY = {"accelerate", "lm_eval", "torch", "transformers"}
MAX_LINES = 400


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the dotted name inside the package, `store.code`; a package's own file is `store`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in python_files()}


def imports(path: Path) -> Iterator[str]:
    """Yield every absolute name that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def inner_imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    imported = set()
    for name in imports(MODULES[module]):
        if name.split(".")[0] == PACKAGE.name:
            inside = name.split(".")[1:]
            # the last part may be a function of the module before it
            candidates = [".".join(inside), ".".join(inside[:-1])]
            imported.add(next(candidate for candidate in candidates if candidate in MODULES))
    return imported - {""}


def read_rooms() -> dict[str, tuple[set[str], bool]]:
    """Return the rooms of the table, from the ground up: what each may import, and whether torch."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("## Rooms")[1].split("\n## ")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in section.splitlines()]
    rooms = {}
    for name, _, imported in (row for row in rows if len(row) == 3 and row[0].startswith("`")):
        names = set(re.findall(r"`([^`]+)`", imported)) | set(re.findall(r"[a-z_.]+", imported))
        rooms[name.strip("`")] = (names - {"torch"}, "torch" in names)
    return rooms


ROOMS = read_rooms()


def room_of(module: str) -> str:
    """Return the room of a module: the innermost of the table that holds it."""
    parts = module.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    room = next((name for name in names if name in ROOMS), None)
    assert room is not None, f"docs/architecture.md gives {module} no room"
    return room


def members(room: str) -> list[str]:
    return [module for module in MODULES if module and room_of(module) == room]


def test_every_module_stands_in_a_documented_room_and_every_room_has_modules():
    assert {room_of(module) for module in MODULES if module} == ROOMS.keys()


def test_rooms_are_listed_from_the_ground_up():
    seen: set[str] = set()
    for room, (imported, _) in ROOMS.items():
        assert imported <= seen, f"{room} imports {imported - seen}, which stand above it"
        seen.add(room)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_its_row_says_and_nothing_else(room):
    real = {room_of(name) for module in members(room) for name in inner_imports(module)} - {room}
    assert real == ROOMS[room][0], f"docs/architecture.md, {room}: write {', '.join(sorted(real))}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_without_torch_import_neither_torch_nor_transformers(room):
    allowed = ROOMS[room][1] or any(ROOMS[name][1] for name in ROOMS[room][0])
    names = {name.split(".")[0] for module in members(room) for name in imports(MODULES[module])}
    assert allowed or not HEAVY & names


@pytest.mark.parametrize("room", ["rope", "settings", "plan", "cost", "search.algorithms"])
def test_pure_rooms_are_typed_without_any(room):
    assert members(room)
    for module in members(room):
        names = {name for name in imports(MODULES[module]) if name.startswith("typing")}
        assert names.isdisjoint({"typing.Any", "typing"}), f"{module}: name the type, or object"


def test_no_two_modules_of_a_room_import_each_other_in_a_circle():
    inner = {module: inner_imports(module) for module in MODULES if module}
    # A module whose imports are all gone cannot be part of a circle, and goes too.
    while free := [module for module, imported in inner.items() if not imported & inner.keys()]:
        for module in free:
            del inner[module]
    assert sorted(inner) == []


@pytest.mark.parametrize("pattern", ["longrope/**/*.py", "rules/*.smk"])
def test_no_file_is_over_400_lines(pattern):
    files = {str(path.relative_to(ROOT)): path for path in ROOT.glob(pattern)}
    assert files
    lines = {name: len(path.read_text().splitlines()) for name, path in files.items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_no_rule_has_a_lambda():
    for path in ROOT.glob("rules/*.smk"):
        assert not re.search(r"\blambda\b", path.read_text()), path.name


def test_no_test_file_imports_another():
    for path in ROOT.glob("tests/**/*.py"):
        assert not [name for name in imports(path) if name.startswith("test_")], path.name


def test_tests_stand_in_the_rooms_that_they_test():
    folders = {path.parent.name for path in ROOT.glob("tests/unit/*/test_*.py")}
    assert folders <= {room.split(".")[0] for room in ROOMS}
    assert not list(ROOT.glob("tests/unit/test_*.py"))


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Yield public functions, classes and methods without a docstring."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}.{node.name}")


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_every_module_and_everything_public_in_it_has_a_docstring(module):
    tree = ast.parse(MODULES[module].read_bytes())
    assert ast.get_docstring(tree), module
    assert list(undocumented(tree.body, module)) == []
