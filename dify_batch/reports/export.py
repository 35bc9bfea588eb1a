"""`dify-batch export`: results as a table for a spreadsheet, .csv or .xlsx.

Two passes over the results, one to learn the columns and one to write, so memory does not grow with what the lines
hold. The target is replaced in one step. Rows without a result come last, with their error from the journal; their
inputs are empty, since no file of the batch holds them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.state import Phase, RowState, lines_of, read_state
from dify_batch.reports.status import require_batch, require_results
from dify_batch.reports.tables import CsvTable, Table, XlsxTable
from dify_batch.strictjson import json_object
from dify_batch.text import count

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


def export(results: Path, target: Path) -> ExportReport:
    """Writes the results as a table to `target` (.csv or .xlsx), in place of what was there.

    Raises:
        UsageError: no such batch; a target that is none, or a file of the batch itself; more than .xlsx can hold;
            openpyxl is not installed.
        StorageError: a file cannot be read or written.
    """
    paths = formats.Paths.of(results)
    require_batch(paths)
    open_table = _format_of(target)
    _check_target(paths, target)
    state = read_state(paths)
    require_results(paths, state)
    failed = {row_id: row for row_id, row in state.rows.items() if row.phase is Phase.FAILED}
    left_out = {row_id for row_id, row in state.rows.items() if row.phase not in (Phase.FAILED, Phase.FREE)}
    look = _Look()
    for _, record in _records(paths.results, look):
        look.add(record)
        if failed or left_out:  # one that got its result since the journal was read
            failed.pop(record["id"], None)
            left_out.discard(record["id"])
    columns = look.columns()
    count = 0
    try:
        with Disk().replacing(target) as new, open_table(new, columns) as table:
            for number, record in _records(paths.results, _Look(), until=look.end):
                count += 1
                table.write(look.cells(record), f"line {number} of {results}")
            for row_id, row in failed.items():
                table.write(_failed_cells(row_id, row, len(columns)), f"row {row_id} in the journal")
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="the results are as they were; give a place with room that you may write to: -o table.csv",
        ) from error
    notes = (*look.notes, *table.notes())
    return ExportReport(str(target), count + len(failed), count, len(failed), len(left_out), tuple(columns), notes)


def _format_of(target: Path) -> Callable[[BinaryIO, list[str]], Table]:
    match target.suffix.lower():
        case ".csv":
            return CsvTable
        case ".xlsx":
            return XlsxTable
    raise UsageError(
        f"{target}: a table is written as .csv or .xlsx",
        hint=f"-o {target.with_suffix('.csv').name if target.stem else 'table.csv'}",
        code="usage_invalid_flag",
    )


def _check_target(paths: formats.Paths, target: Path) -> None:
    if not target.parent.is_dir():
        raise UsageError(
            f"{target}: there is no folder {target.parent}", hint=f"make it first: mkdir -p '{target.parent}'"
        )
    if target.is_dir():
        raise UsageError(f"{target} is a folder", hint=f"give a file, such as -o {target / 'table.csv'}")
    for path in (*paths.data, paths.lock):
        if os.path.realpath(path) == os.path.realpath(target) or (
            path.exists() and target.exists() and path.samefile(target)
        ):
            raise UsageError(
                f"{target} is a file of the batch itself and would be lost",
                hint="give the table a name of its own: -o table.csv",
            )


# ---------------------------------------------------------------- columns


@dataclass(slots=True)
class _Look:
    """The first pass: which inputs and outputs there are, and how far the file reached."""

    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    id_differs: bool = False
    end: int = 0
    notes: list[str] = field(default_factory=list)
    bad: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in _object(record, "inputs").items():
            self.inputs.setdefault(name, name)
            if name == "id" and value != record["id"]:
                self.id_differs = True
        for name in _object(record, "outputs"):
            self.outputs.setdefault(name, name)

    def columns(self) -> list[str]:
        """The header. A name gets its prefix where two columns would share it."""
        if not self.id_differs:
            self.inputs.pop("id", None)  # it is the row's id, which stands first anyway
        taken = {*FIRST, *LAST}
        for prefix, names, others in (("outputs", self.outputs, ()), ("inputs", self.inputs, tuple(self.outputs))):
            for name in names:
                shown = name
                while shown in taken or (shown == name and name in others):
                    shown = f"{prefix}.{shown}"
                taken.add(shown)
                names[name] = shown
        return [*FIRST, *self.inputs.values(), *self.outputs.values(), *LAST]

    def cells(self, record: Mapping[str, Any]) -> list[Any]:
        inputs, outputs = _object(record, "inputs"), _object(record, "outputs")
        return [
            record["id"],
            record.get("status"),
            None,
            *(inputs.get(name) for name in self.inputs),
            *(outputs.get(name) for name in self.outputs),
            *(record.get(name) for name in LAST),
        ]


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _records(path: Path, look: _Look, until: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of each result, up to the offset `until`: a batch may be appending meanwhile."""
    for number, (line, end) in enumerate(lines_of(path), 1):
        if until is not None and end > until:
            return
        look.end = end
        record = json_object(line)
        if record is not None and isinstance(record.get("id"), str):
            yield number, record
        elif line.strip():
            look.bad += 1
            if look.bad <= 3:
                look.notes.append(f"{path}, line {number}: not a result, left out")
            elif look.bad == 4:
                look.notes.append("there are more such lines")


def _failed_cells(row_id: str, row: RowState, width: int) -> list[Any]:
    error = f"{row.code}: {row.message}" if row.message else row.code
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
