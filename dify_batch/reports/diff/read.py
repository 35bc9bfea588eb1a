"""Two outputs read and compared by id.

Of the first only the places of its lines are kept, so memory does not grow with what the lines hold; the second is
read as a stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError
from dify_batch.ledger import formats
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
        self.a: formats.Paths = formats.Paths.of(a)
        self.b: formats.Paths = formats.Paths.of(b)
        self._tolerance = tolerance
        self._states: list[State] = []
        for paths in (self.a, self.b):
            require_batch(paths)
            state = read_state(paths)
            require_results(paths, state)
            self._states.append(state)

    def rows(self) -> Iterator[RowDiff]:
        """Every id of the two once: first those of `b` in its order, then those that only `a` has."""
        places = dict(_places(self.a.results))
        seen: set[str] = set()
        try:
            with self.a.results.open("rb") as file:
                for _, line in _places(self.b.results, whole=True):
                    record = _object(line) or {}
                    row_id = record["id"]
                    if row_id in seen:
                        continue
                    seen.add(row_id)
                    place = places.pop(row_id, None)
                    if place is None:
                        yield RowDiff(row_id, ONLY_B, None, record, why=_why(self._states[0], row_id))
                    else:
                        yield self._compared(row_id, _read(file, place), record)
                for row_id, place in places.items():
                    yield RowDiff(row_id, ONLY_A, _read(file, place), None, why=_why(self._states[1], row_id))
        except FileNotFoundError:  # it has only a journal so far
            for _, line in _places(self.b.results, whole=True):
                record = _object(line) or {}
                yield RowDiff(record["id"], ONLY_B, None, record, why=_why(self._states[0], record["id"]))
        except OSError as error:
            raise StorageError(f"{self.a.results} cannot be read: {error.strerror}") from error

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


def _read(file: Any, place: int) -> dict[str, Any]:
    file.seek(place)
    return _object(file.readline().removeprefix(formats.BOM)) or {}


def _why(state: State, row_id: str) -> str:
    row = state.rows.get(row_id)
    return "" if row is None else stands(row)


def stands(row: RowState) -> str:
    """Where a row without a result is, in words."""
    if row.phase is Phase.FAILED:
        return f"{row.kind or 'failed'}: {row.code}: {row.message}" if row.code else row.kind or "failed"
    return {Phase.PAUSED: "paused", Phase.FREE: "not sent yet"}.get(row.phase, "running")
