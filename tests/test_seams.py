"""Nobody goes around the seams: the time, chance, threads and changes of files come from objects that are handed down.

The code is read, not run: what it names decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dify_batch

PACKAGE = Path(dify_batch.__file__).parent

TIME_AND_CHANCE = frozenset({"time", "random", "secrets", "uuid"})
THREADS = frozenset({"threading", "_thread", "concurrent", "multiprocessing"})
MODULES = TIME_AND_CHANCE | THREADS
CALLS = {
    "asyncio": {"to_thread"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "os": {"open", "replace", "rename", "remove", "unlink", "fsync", "fdatasync", "ftruncate", "truncate", "write"},
    "shutil": {"move", "copy", "copyfile", "copy2", "rmtree"},
}
"""Object -> its functions that are a way around."""
METHODS = frozenset({"run_in_executor", "write_text", "write_bytes", "unlink", "rename", "touch", "hardlink_to"})
"""Whatever the object is."""

ALLOWED = {
    "seams.py": "the seams themselves",
    "ledger/disk.py": "the disk itself",
    "cli/channels.py: open for writing": "the null device, once standard output is gone",
    "cli/logs.py: FileHandler": "the log file is no file of the batch, and logging writes it",
}
"""Modules (or one use in a module) that may, and why."""


def around(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) for each way around the seams that a module names."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in MODULES:
                        yield node.lineno, name.name
            case ast.ImportFrom(module=str(module), level=0):
                if module.split(".")[0] in MODULES:
                    yield node.lineno, module
                for name in node.names:
                    if name.name in CALLS.get(module, set()):
                        yield node.lineno, f"{module}.{name.name}"
            case ast.Attribute(value=ast.Name(id=owner), attr=attr) if attr in CALLS.get(owner, set()):
                yield node.lineno, f"{owner}.{attr}"
            case (
                ast.Call(func=ast.Attribute(attr="FileHandler"))
                | ast.ClassDef(bases=[ast.Attribute(attr="FileHandler")])
            ):
                yield node.lineno, "FileHandler"
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in METHODS:
                # `disk.rename(...)` is the seam at work
                if not (isinstance(node.func, ast.Attribute) and "disk" in ast.unparse(node.func.value).lower()):
                    yield node.lineno, f".{attr}()"
            case ast.Call(func=ast.Name(id="open") | ast.Attribute(attr="open")) if _writes(node):
                yield node.lineno, "open for writing"


def _writes(call: ast.Call) -> bool:
    """Whether a call of `open` has a mode that writes."""
    modes = [*call.args[:2], *(word.value for word in call.keywords if word.arg == "mode")]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


def modules() -> list[str]:
    """The modules that the rule is for: all but the simulated Dify, which is the other side of the network."""
    found = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    return sorted(name for name in found if not name.startswith("simulator/"))


@pytest.mark.parametrize("name", modules())
def test_nobody_goes_around_the_seams(name: str) -> None:
    if name in ALLOWED:
        return
    found = [(line, what) for line, what in around((PACKAGE / name).read_text()) if f"{name}: {what}" not in ALLOWED]
    assert found == []


def test_the_lists_name_what_is_there() -> None:
    here = set(modules())
    assert {name.split(":")[0] for name in ALLOWED} <= here
    for name in ALLOWED:
        module, _, what = name.partition(": ")
        uses = [use for _, use in around((PACKAGE / module).read_text())]
        assert (what in uses) if what else uses, f"{name} is allowed and not used"


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import random",
        "import secrets",
        "import uuid",
        "import threading",
        "from concurrent.futures import ThreadPoolExecutor",
        "import asyncio\nasyncio.to_thread(f)",
        "from asyncio import to_thread",
        "loop.run_in_executor(None, f)",
        "import os\nos.replace(a, b)",
        "from os import replace",
        "open(p, 'w')",
        "open(p, mode='ab')",
        "path.open('x')",
        "path.open('r+b')",
        "path.write_text('x')",
        "path.unlink()",
        "datetime.now(UTC)",
        "logging.FileHandler('x')",
        "class A(logging.FileHandler): pass",
    ],
)
def test_each_way_around_is_seen(source: str) -> None:
    assert list(around(source))


@pytest.mark.parametrize(
    "source",
    ["open(p)", "path.open('rb')", "self._disk.remove(p)", "disk.rename(a, b)", "loop.time()", "clock.wall()"],
)
def test_what_is_no_way_around_is_let_pass(source: str) -> None:
    assert list(around(source)) == []
