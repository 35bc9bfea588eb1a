"""Which lines of the rules some history reaches: what none reaches is dead, or not tested."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from dify_batch.engine import absence, course
from tests.world.generate import generate
from tests.world.run import play

RULES = (course, absence)


class Reached:
    """Traces the modules of the rules and nothing else. A context manager."""

    def __init__(self) -> None:
        self._files = {str(module.__file__): set[int]() for module in RULES}

    def __enter__(self) -> Reached:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        lines = self._files.get(frame.f_code.co_filename)
        if lines is None:
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return line

        return line

    def missing(self) -> Iterator[tuple[str, int, str]]:
        """(file, line, text) of each line within a function that was not reached."""
        for file, reached in self._files.items():
            text = Path(file).read_text().splitlines()
            for number in sorted(_lines(compile("\n".join(text), file, "exec")) - reached):
                yield Path(file).name, number, text[number - 1].strip()

    def count(self) -> tuple[int, int]:
        """(lines reached, lines there are)."""
        there = sum(len(_lines(compile(Path(file).read_text(), file, "exec"))) for file in self._files)
        return there - sum(1 for _ in self.missing()), there


def _lines(code: CodeType) -> set[int]:
    """The lines of all functions: not those of the module, nor of classes, which are run when it is imported."""
    function = bool(code.co_flags & 2)  # CO_NEWLOCALS: a function's own
    found = {line for _, line in dis.findlinestarts(code) if line} if function else set[int]()
    found.discard(code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _lines(constant)
    return found


def show(seeds: range) -> int:
    with Reached() as reached:
        for seed in seeds:
            play(generate(seed))
    for file, number, text in reached.missing():
        print(f"not reached: {file}:{number}: {text}")
    have, there = reached.count()
    print(f"{have} of {there} lines of the rules reached by {len(seeds)} histories")
    return 0 if have == there else 1
