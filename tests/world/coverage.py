"""Which lines of the rules some history reaches: what none reaches is dead, or not tested."""

from __future__ import annotations

import dis
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from dify_batch.engine import absence, course
from tests.world.generate import generate
from tests.world.run import play

RULES = (course, absence)
_PART = 50  # histories that one process plays in a row
Lines = dict[str, set[int]]
"""By file."""


class Reached:
    """Traces the modules of the rules and nothing else; a function whose lines were all reached, no more. A context
    manager."""

    def __init__(self) -> None:
        self.lines: Lines = {str(module.__file__): set() for module in RULES}
        self._left: dict[CodeType, set[int]] = {}

    def __enter__(self) -> Reached:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        reached = self.lines.get(code.co_filename)
        if reached is None:
            return None
        left = self._left.setdefault(code, _own_lines(code))
        if not left:
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                reached.add(frame.f_lineno)
                left.discard(frame.f_lineno)
            return line

        return line


def missing(reached: Lines) -> Iterator[tuple[str, int, str]]:
    """(file, line, text) of each line within a function that was not reached."""
    for file, lines in reached.items():
        text = Path(file).read_text().splitlines()
        for number in sorted(_lines(compile("\n".join(text), file, "exec")) - lines):
            yield Path(file).name, number, text[number - 1].strip()


def _own_lines(code: CodeType) -> set[int]:
    found = {line for _, line in dis.findlinestarts(code) if line}
    found.discard(code.co_firstlineno)
    return found


def _lines(code: CodeType) -> set[int]:
    """The lines of all functions: not those of the module, nor of classes, which are run when it is imported."""
    function = bool(code.co_flags & 2)  # CO_NEWLOCALS: a function's own
    found = _own_lines(code) if function else set[int]()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _lines(constant)
    return found


def reached_by(seeds: Sequence[int]) -> Lines:
    """What these histories reach."""
    with Reached() as reached:
        for seed in seeds:
            play(generate(seed))
    return reached.lines


def show(seeds: range, processes: int) -> int:
    """Prints each line of the rules that none of these histories reaches; the exit status is 0 if there is none."""
    parts = [seeds[at : at + _PART] for at in range(0, len(seeds), _PART)]
    whole: Lines = {str(module.__file__): set() for module in RULES}
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for part in pool.imap_unordered(reached_by, parts):
            for file, lines in part.items():
                whole[file] |= lines
    left = list(missing(whole))
    for file, number, text in left:
        print(f"not reached: {file}:{number}: {text}")
    there = sum(len(_lines(compile(Path(file).read_text(), file, "exec"))) for file in whole)
    print(f"{there - len(left)} of {there} lines of the rules reached by {len(seeds)} histories")
    return 1 if left else 0
