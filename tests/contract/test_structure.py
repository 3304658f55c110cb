"""The house: which room may look into which, and how large a file and a function get."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
FILES = sorted(p for room in ("components", "pipeline") for p in (HERE / room).rglob("*.py"))
LINES, PARAMETERS = 500, 12


def room(module: str) -> str:
    """`components.<name>` or `pipeline`: folders below these are parts of their room."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "components" else parts[0]


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from components import train` names a room too.
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.fixture(scope="module")
def rooms() -> dict[str, set[str]]:
    """For each room those that it looks into."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        own = room(".".join(file.relative_to(HERE).with_suffix("").parts))
        others = {room(m) for m in imported(file) if m.split(".")[0] in ("components", "pipeline")}
        found[own] |= others - {own}
    return found


def test_no_room_is_reached_from_one_that_it_looks_into(rooms: dict[str, set[str]]) -> None:
    def below(start: str) -> set[str]:
        seen: set[str] = set()
        left = [*rooms[start]]
        while left:
            if (name := left.pop()) not in seen:
                seen.add(name)
                left.extend(rooms.get(name, ()))
        return seen

    assert [name for name in rooms if name in below(name)] == []
    assert rooms["components.common"] == set()
    assert not any("pipeline" in others for others in rooms.values())


def test_files_and_functions_are_not_large() -> None:
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= LINES, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                number = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
                assert number <= PARAMETERS, f"{file}: {node.name}"
