"""`dify-batch export --failed`: the rows without a result, with their inputs as the table had them.

The inputs are read out of the batch's input, which the journal names. The columns of ADDED are added; the input's check
passes them over, so the file is accepted as an input again as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dify_batch.errors import DifyBatchError, UsageError
from dify_batch.flagwords import read_again
from dify_batch.input.records import ADDED, Problem
from dify_batch.input.rows import RowSource
from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.state import Phase, RowState, State, lines_of
from dify_batch.reports.tables import Column
from dify_batch.text import count, listed

OPENED_WITH = ("encoding", "delimiter", "id_column", "sheet")


class Failures:
    """The failed, invalid and unknown rows of one output, or of all its parts.

    Args:
        name: of the output.
        source: the input, in place of the one that the journal names.

    Raises:
        UsageError: there is none; or the input is not to be had.
    """

    def __init__(self, name: Path, outputs: Sequence[tuple[formats.Paths, State]], source: str | None) -> None:
        self._rows: dict[str, RowState] = {}
        self._told: dict[str, tuple[str | None, Any]] = {}
        for paths, state in outputs:
            rows = {row_id: row for row_id, row in state.rows.items() if row.phase is Phase.FAILED}
            self._rows |= rows
            self._told |= _told(paths.journal, rows)
        if not self._rows:
            raise UsageError(
                f"{name}: no row has failed, so there is nothing to write",
                hint=f"dify-batch export {name} -o table.csv writes the results",
                code="usage_invalid_flag",
            )
        states = [state for _, state in outputs]
        self._input = source or input_of(states)
        self._given = opened_with(states)
        self.columns: list[Column] = []
        self.notes: list[str] = []
        self.gone: list[str] = []
        self._found: dict[str, dict[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self) -> None:
        """The inputs of the failed rows; they are kept in memory, as the rest of the table is not."""
        try:
            with RowSource.open(self._input, **self._given) as source:
                names = dict.fromkeys(source.header)
                for item in source:
                    if isinstance(item, Problem) or item.id not in self._rows or item.id in self._found:
                        continue
                    values = {name: value for name, value in item.values.items() if name not in ADDED}
                    self._found[item.id] = values
                    names |= dict.fromkeys(values)
                self._id_column = source.id_column
        except DifyBatchError as error:
            error.hint = f"give the input of the batch: --input data.csv ({error.hint})"
            raise
        self.gone = [row_id for row_id in self._rows if row_id not in self._found]
        if self.gone:
            rows = count(len(self.gone), "row is", "rows are")
            self.notes.append(f"{rows} not in {self._input} any more, and without inputs: {listed(self.gone)}")
        self.columns = [Column(name) for name in names if name not in ADDED] + [Column(name) for name in ADDED]
        for row_id in self._in_order():
            for column, value in zip(self.columns, self.cells(row_id), strict=True):
                column.note(value)

    def _in_order(self) -> Iterator[str]:
        yield from self._found
        yield from self.gone

    def cells(self, row_id: str) -> list[Any]:
        values = self._found.get(row_id, {self._id_column: row_id})
        row = self._rows[row_id]
        node = None if row.node is None else str(row.node)
        at, outputs = self._told.get(row_id, (None, None))
        added = (row.kind or "failed", row.code, row.message, row.run_id, at, node, outputs)
        return [*(values.get(column.name) for column in self.columns[: -len(ADDED)]), *added]

    def rows(self) -> Iterator[tuple[list[Any], str]]:
        """Cells and where they come from, in the order of the input."""
        return ((self.cells(row_id), f"row {row_id} of {self._input}") for row_id in self._in_order())


def input_of(states: Sequence[State]) -> str:
    """The input of the last batch. Raises UsageError where it cannot be read again."""
    record = _last(states)
    found = record.get("input_path") or record.get("input")
    if not found or found == "-":
        raise UsageError(
            "the input of the batch came from standard input (or its journal is missing), so the inputs of its rows "
            "cannot be read again",
            hint="give it: --input data.csv",
            code="usage_missing_arg",
        )
    return str(found)


def opened_with(states: Sequence[State]) -> dict[str, Any]:
    """How the last batch opened its input: encoding and so on."""
    given = read_again(_last(states).get("again") or ())
    return {name: value for name, value in given.items() if name in OPENED_WITH}


def _last(states: Sequence[State]) -> Mapping[str, Any]:
    """The record of the last batch that has one."""
    return next((state.last_batch for state in states if state.last_batch), {})


def _told(journal: Path, rows: Mapping[str, object]) -> dict[str, tuple[str | None, Any]]:
    """When each row failed last, and what there is of an answer of that attempt."""
    found: dict[str, tuple[str | None, Any]] = {}
    kept: dict[str, Any] = {}
    for line, _ in lines_of(journal):
        head = formats.journal_head(line)
        if head is None or head[0] not in (b"sent", b"kept", b"failed"):
            continue
        row_id = head[1].decode("utf-8", "replace")
        if row_id not in rows:
            continue
        record = journal_record(line) or {}
        if head[0] == b"sent":
            kept.pop(row_id, None)
        elif head[0] == b"kept":
            kept[row_id] = record.get("outputs")
        else:
            found[row_id] = (record.get("at"), kept.get(row_id))
    return found


def json_lines(
    write: Callable[[bytes], object], columns: Sequence[Column], rows: Iterator[tuple[list[Any], str]]
) -> None:
    """The rows as JSON lines, what is empty left out."""
    for cells, _ in rows:
        record = {column.name: value for column, value in zip(columns, cells, strict=True) if value is not None}
        write(formats.json_line(record))
