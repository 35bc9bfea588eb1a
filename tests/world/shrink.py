"""The shortest history that still goes wrong in the same way: parts are left out, values go back to their defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.world.history import History

Path = tuple[str | int, ...]


def shrink(history: History, still_wrong: Callable[[History], bool], *, most: int = 400) -> History:
    """Tries at most so many histories. `history` itself is wrong."""
    tried = 0
    best = history
    again = True
    while again and tried < most:
        again = False
        for candidate in _shorter(best):
            tried += 1
            if tried > most:
                break
            if still_wrong(candidate):
                best, again = candidate, True
                break
    return best


def _shorter(history: History) -> Iterator[History]:
    """Histories with one thing less, the largest things first."""
    tree = json.loads(history.to_json())
    paths = sorted(_parts(tree, ()), key=len)
    for path in paths:
        smaller = json.loads(json.dumps(tree))
        place: Any = smaller
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        try:
            candidate = History.from_json(json.dumps(smaller))
        except (TypeError, ValueError):
            continue
        if candidate.rows and candidate.invocations and candidate != history:
            yield candidate


def _parts(tree: Any, path: Path) -> Iterator[Path]:
    """What can be left out: items of lists (the last first), and fields, which then have their defaults."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if path or name not in ("seed", "rows", "note"):
                yield (*path, name)
            yield from _parts(value, (*path, name))
    elif isinstance(tree, list):
        for number in reversed(range(len(tree))):
            yield (*path, number)
            yield from _parts(tree[number], (*path, number))
