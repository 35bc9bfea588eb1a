"""`dify-batch export`: results as a table: .csv, .xlsx, .parquet or an SQLite database.

Two passes over the results, one to learn the columns and one to write, so memory does not grow with what the lines
hold. The target is replaced in one step. Rows without a result come last, with their error from the journal; their
inputs are empty, since no file of the batch holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk, NewFile
from dify_batch.ledger.shards import outputs_of
from dify_batch.ledger.state import Phase, RowState, State, lines_of, read_state
from dify_batch.reports.failures import Failures, json_lines
from dify_batch.reports.status import require_batch, require_results
from dify_batch.reports.tables import Column, Table
from dify_batch.reports.targets import check_target, format_of
from dify_batch.text import count
from dify_batch.usage import Use, price_text

FIRST = ("id", "status", "error")
LAST = (
    "workflow_run_id",
    "executed_at",
    "retry_count",
    "elapsed_time",
    "total_tokens",
    "total_steps",
    "total_price",
    "currency",
)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. `rows` = `results` + `failed`. `columns`: the header, in order.

    `left_out`: rows that are paused or in flight, and not in the table. `notes`: what the target's format could not
    take as it is, and lines that are no results.
    """

    target: str
    rows: int
    results: int
    failed: int
    left_out: int
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "target": self.target,
            "rows": self.rows,
            "results": self.results,
            "failed": self.failed,
            "left_out": self.left_out,
            "columns": list(self.columns),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For people."""
        failed = f" ({self.failed:,} of them failed)" if self.failed else ""
        lines = [f"{self.target}: {count(self.rows, 'row')}{failed}, {count(len(self.columns), 'column')}"]
        if self.left_out:
            lines.append(f"{count(self.left_out, 'row')} paused or in flight, and not in it")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def export(
    results: Path, target: Path, *, failed: bool = False, source: str | None = None, force: bool = False
) -> ExportReport:
    """Writes a table to `target` (.csv, .xlsx, .parquet or .db), in place of what an earlier export wrote there.

    Args:
        failed: the rows without a result with their inputs, in place of the results; also as .jsonl.
        source: with `failed`, the input of the batch, where it is not the one that the journal names.
        force: replace whatever is there, but for the batch's own files and its input.

    Raises:
        UsageError: no such batch; a target that is none, or that would be lost; more than the format can hold; a
            library that is not installed; no failed rows, or no input to read them from.
        StorageError: a file cannot be read or written.
    """
    open_table = format_of(target, failed=failed)
    outputs = []
    for path in outputs_of(results):
        paths = formats.Paths.of(path)
        require_batch(paths)
        outputs.append((paths, read_state(paths)))
    for paths, state in outputs:
        check_target(paths, target, [*state.sources, *([source] if source else [])], force=force)
        require_results(paths, state)
    if failed or open_table is None:
        return _export_failed(results, outputs, target, open_table, source)
    rows = [item for _, state in outputs for item in state.rows.items()]
    without = {row_id: row for row_id, row in rows if row.phase is Phase.FAILED}
    left_out = {row_id for row_id, row in rows if row.phase not in (Phase.FAILED, Phase.FREE)}
    look = _Look()
    for paths, _ in outputs:
        for _, record in _records(paths.results, look):
            look.add(record)
            if without or left_out:  # one that got its result since the journal was read
                without.pop(record["id"], None)
                left_out.discard(record["id"])
    columns = look.columns()
    for row_id, row in without.items():
        for column, value in zip(columns, _failed_cells(row_id, row, len(columns)), strict=True):
            column.note(value)
    done = 0
    with _replacing(target) as new, open_table(new, columns) as table:
        for paths, _ in outputs:
            for number, record in _records(paths.results, _Look(), until=look.ends.get(paths.results, 0)):
                done += 1
                table.write(look.cells(record), f"line {number} of {paths.results}")
        for row_id, row in without.items():
            table.write(_failed_cells(row_id, row, len(columns)), f"row {row_id} in the journal")
    notes = (*look.notes, *table.notes())
    names = tuple(column.name for column in columns)
    return ExportReport(str(target), done + len(without), done, len(without), len(left_out), names, notes)


def _export_failed(
    results: Path,
    outputs: Sequence[tuple[formats.Paths, State]],
    target: Path,
    open_table: type[Table] | None,
    source: str | None,
) -> ExportReport:
    failures = Failures(results, outputs, source)
    notes: tuple[str, ...] = ()
    with _replacing(target) as new:
        if open_table is None:
            json_lines(new.file.write, failures.columns, failures.rows())
        else:
            with open_table(new, failures.columns) as table:
                for cells, where in failures.rows():
                    table.write(cells, where)
            notes = table.notes()
    number = len(failures)
    names = tuple(column.name for column in failures.columns)
    return ExportReport(str(target), number, 0, number, 0, names, (*failures.notes, *notes))


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[NewFile]:
    try:
        with Disk().replacing_by_name(target) as new:
            yield new
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="the results are as they were; give a place with room that you may write to: -o table.csv",
        ) from error


# ---------------------------------------------------------------- columns


@dataclass(slots=True)
class _Look:
    """The first pass: which inputs and outputs there are, and how far each file reached."""

    inputs: dict[str, Column] = field(default_factory=dict)
    outputs: dict[str, Column] = field(default_factory=dict)
    last: dict[str, Column] = field(default_factory=lambda: {name: Column(name) for name in LAST})
    id_differs: bool = False
    ends: dict[Path, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bad: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        for columns, names in ((self.inputs, "inputs"), (self.outputs, "outputs")):
            for name, value in _object(record, names).items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = Column(name)
                column.note(value)
        if _object(record, "inputs").get("id", record["id"]) != record["id"]:
            self.id_differs = True
        for name, column in self.last.items():
            column.note(record.get(name))

    def columns(self) -> list[Column]:
        """The header. A name gets its prefix where two columns would share it."""
        if not self.id_differs:
            self.inputs.pop("id", None)  # it is the row's id, which stands first anyway
        taken = {*FIRST, *LAST}
        for prefix, columns, others in (("outputs", self.outputs, ()), ("inputs", self.inputs, tuple(self.outputs))):
            for name, column in columns.items():
                shown = name
                while shown in taken or (shown == name and name in others):
                    shown = f"{prefix}.{shown}"
                taken.add(shown)
                column.name = shown
        first = [Column(name, Column.TEXT) for name in FIRST]
        return [*first, *self.inputs.values(), *self.outputs.values(), *self.last.values()]

    def cells(self, record: Mapping[str, Any]) -> list[Any]:
        inputs, outputs = _object(record, "inputs"), _object(record, "outputs")
        return [
            record["id"],
            record.get("status"),
            None,
            *(inputs.get(name) for name in self.inputs),
            *(outputs.get(name) for name in self.outputs),
            *(record.get(name) if name != "total_price" else _price(record) for name in LAST),
        ]


def _price(record: Mapping[str, Any]) -> Any:
    """The price as it stands; of several currencies the amounts in each, in one cell."""
    several = Use.of(record).several
    return record.get("total_price") if several is None else price_text(several)


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _records(path: Path, look: _Look, until: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of each result, up to the offset `until`: a batch may be appending meanwhile."""
    for number, (line, end) in enumerate(lines_of(path), 1):
        if until is not None and end > until:
            return
        look.ends[path] = end
        record = formats.line_object(line)
        row_id = None if record is None else formats.id_of_result(record)
        if record is not None and row_id is not None:
            record["id"] = row_id
            yield number, record
        elif line.strip():
            look.bad += 1
            if look.bad <= 3:
                look.notes.append(f"{path}, line {number}: not a result, left out")
            elif look.bad == 4:
                look.notes.append("there are more such lines")


def _failed_cells(row_id: str, row: RowState, width: int) -> list[Any]:
    error = f"{row.code}: {row.message}" if row.message else row.code
    error += f" (node {row.node})" if row.node is not None else ""
    between = [None] * (width - len(FIRST) - len(LAST))
    return [
        row_id,
        row.kind or "failed",
        error,
        *between,
        row.run_id,
        None,
        max(0, row.posts - 1),
        *[None] * (len(LAST) - 3),
    ]
