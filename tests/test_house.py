"""The house: a module imports its own floor or a lower one; no two modules import each other, not even for types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dify_batch

PACKAGE = Path(dify_batch.__file__).parent

FLOORS = (
    ("cli",),
    ("scale",),
    ("batch",),
    ("engine", "reports"),
    ("settings",),
    ("contradictions",),
    ("settingvalues",),
    ("ledger", "dify"),
    ("input",),
    ("addressing", "envfile"),
    ("flagwords",),
    ("flags",),
    ("flagvalues",),
    ("backoff", "summary", "estimate", "usage"),
    ("errors", "outcomes", "ids", "strictjson", "seams", "text", "masking", "_version"),
)
"""From the top down; the rooms of one floor may import each other, as long as no circle comes of it. `__init__` and
`__main__` stand above all, as the public names are gathered there; the simulator stands apart, and only `--demo` asks
for it."""

APART = {"__init__", "__main__", "simulator"}
LONGEST = 300
"""Lines of a module, about."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without the package's own."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that one imports, wherever it does so, for types as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dify_batch":
            base = (node.module or "").removeprefix("dify_batch").lstrip(".")
            for name in node.names:
                full = f"{base}.{name.name}".lstrip(".")
                if full in known:
                    yield full
                elif base:
                    yield base
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("dify_batch."):
                    yield name.name.removeprefix("dify_batch.")


KNOWN = modules()
ARROWS = {name: sorted(set(imports(path, KNOWN)) - {name}) for name, path in KNOWN.items()}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_floor() -> None:
    assert {room(name) for name in KNOWN} - APART <= set(FLOOR)


def test_no_arrow_points_upwards() -> None:
    upwards = [
        f"{name} -> {other}"
        for name, others in ARROWS.items()
        for other in others
        if room(name) not in APART and room(other) not in APART and FLOOR[room(other)] < FLOOR[room(name)]
    ]
    assert upwards == []


def test_the_simulator_is_asked_for_by_demo_alone_and_asks_for_words_alone() -> None:
    asks = {name for name, others in ARROWS.items() if room(name) != "simulator" and any(map(is_simulator, others))}
    assert {room(name) for name in asks} <= {"batch", "cli"}
    lowest = set(FLOORS[-1]) | {"simulator"}
    assert {room(other) for name in ARROWS if is_simulator(name) for other in ARROWS[name]} <= lowest


def is_simulator(module: str) -> bool:
    return room(module) == "simulator"


def test_no_two_modules_import_each_other_by_whatever_way() -> None:
    """Depth first; a module that is met again while its own imports are followed closes a circle."""
    done: set[str] = set()
    circles: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circles.append(" -> ".join((*way[way.index(name) :], name)))
            return
        if name in done:
            return
        for other in ARROWS.get(name, []):
            visit(other, (*way, name))
        done.add(name)

    for name in ARROWS:
        if name != "__init__":
            visit(name, ())
    assert circles == []


def test_one_module_alone_imports_httpx() -> None:
    """So that another library in its place changes one file's words and one transport."""
    importers = set()
    for name, path in KNOWN.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.split(".")[0] == "httpx" for module in named):
                importers.add(name)
    assert importers == {"dify.http"}


def test_a_room_s_main_module_does_not_bear_its_name() -> None:
    assert [name for name in KNOWN if len(parts := name.split(".")) > 1 and parts[-1] == parts[-2]] == []
