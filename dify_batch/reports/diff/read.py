"""Two outputs read and compared by id.

Of the first only the places of its lines are kept, so memory does not grow with what the lines hold; the second is
read as a stream.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError
from dify_batch.ledger import formats
from dify_batch.ledger.shards import outputs_of
from dify_batch.ledger.state import Phase, RowState, State, lines_of, read_state
from dify_batch.reports.diff.compare import Change, changes, same_inputs
from dify_batch.reports.status import require_batch, require_results
from dify_batch.strictjson import json_object

SAME, CHANGED, OTHER_INPUTS, ONLY_A, ONLY_B = KINDS = ("same", "changed", "other inputs", "only in a", "only in b")


@dataclass(frozen=True, slots=True)
class RowDiff:
    """One id. `a`, `b`: the results, None where there is none; `why`: what became of the row there."""

    id: str
    kind: str
    a: Mapping[str, Any] | None = None
    b: Mapping[str, Any] | None = None
    changes: tuple[Change, ...] = ()
    why: str = ""


@dataclass(slots=True)
class Counts:
    """How many ids of each kind, and how many rows changed in each field."""

    kinds: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)

    def add(self, row: RowDiff) -> None:
        self.kinds[row.kind] += 1
        self.fields.update(change.field for change in row.changes)


class Pair:
    """Two outputs to be compared.

    Raises:
        UsageError: one of them is no batch.
        StorageError: a file cannot be read.
    """

    def __init__(self, a: Path, b: Path, *, tolerance: float = 0.0) -> None:
        self._tolerance = tolerance
        self._a, self._b = _read_set(a), _read_set(b)

    def rows(self) -> Iterator[RowDiff]:
        """Every id of the two once: first those of `b` in its order, then those that only `a` has."""
        places: dict[str, tuple[int, int]] = {}
        with contextlib.ExitStack() as stack:
            files: list[Any] = []
            for paths, _ in self._a:
                try:
                    files.append(stack.enter_context(paths.results.open("rb")))
                except FileNotFoundError:  # it has only a journal so far
                    continue
                except OSError as error:
                    raise StorageError(f"{paths.results} cannot be read: {error.strerror}") from error
                places |= {row_id: (len(files) - 1, begin) for row_id, begin in _places(paths.results)}
            seen: set[str] = set()
            for paths, _ in self._b:
                for row_id, line in _places(paths.results, whole=True):
                    if row_id in seen:
                        continue
                    seen.add(row_id)
                    record = _object(line) or {}
                    place = places.pop(row_id, None)
                    if place is None:
                        yield RowDiff(row_id, ONLY_B, None, record, why=_why(self._a, row_id))
                    else:
                        yield self._compared(row_id, _read(files, place), record)
            for row_id, place in places.items():
                yield RowDiff(row_id, ONLY_A, _read(files, place), None, why=_why(self._b, row_id))

    def _compared(self, row_id: str, a: dict[str, Any], b: dict[str, Any]) -> RowDiff:
        if not same_inputs(a, b):
            return RowDiff(row_id, OTHER_INPUTS, a, b, tuple(changes(a, b, self._tolerance)))
        found = tuple(changes(a, b, self._tolerance))
        return RowDiff(row_id, CHANGED if found else SAME, a, b, found)


def _places(path: Path, *, whole: bool = False) -> Iterator[tuple[str, Any]]:
    """(id, offset of the line's begin) of each result; with `whole` (id, the line)."""
    begin = 0
    for line, end in lines_of(path):
        row_id = formats.result_id(line)
        if row_id is not None and _object(line) is not None:
            yield row_id, line if whole else begin
        begin = end


def _object(line: bytes) -> dict[str, Any] | None:
    record = json_object(line)
    return record if record is not None and isinstance(record.get("id"), str) else None


def _read(files: Sequence[Any], place: tuple[int, int]) -> dict[str, Any]:
    number, begin = place
    try:
        files[number].seek(begin)
        line: bytes = files[number].readline()
    except OSError as error:
        raise StorageError(f"{files[number].name} cannot be read: {error.strerror}") from error
    return _object(line.removeprefix(formats.BOM)) or {}


def _read_set(output: Path) -> list[tuple[formats.Paths, State]]:
    """An output, or all its parts."""
    found = []
    for path in outputs_of(output):
        paths = formats.Paths.of(path)
        require_batch(paths)
        state = read_state(paths)
        require_results(paths, state)
        found.append((paths, state))
    return found


def _why(outputs: Sequence[tuple[formats.Paths, State]], row_id: str) -> str:
    row = next((state.rows[row_id] for _, state in outputs if row_id in state.rows), None)
    return "" if row is None else stands(row)


def stands(row: RowState) -> str:
    """Where a row without a result is, in words."""
    if row.phase is Phase.FAILED:
        return f"{row.kind or 'failed'}: {row.code}: {row.message}" if row.code else row.kind or "failed"
    return {Phase.PAUSED: "paused", Phase.FREE: "not sent yet"}.get(row.phase, "running")
