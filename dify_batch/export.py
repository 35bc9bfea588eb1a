"""`dify-batch export`: results as a table for a spreadsheet, .csv or .xlsx.

Two passes over the results, one to learn the columns and one to write, so memory does not grow with what the lines
hold. The target is replaced in one step. Rows without a result come last, with their error from the journal; their
inputs are empty, since no file of the batch holds them.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dify_batch import formats
from dify_batch.errors import StorageError, UsageError
from dify_batch.state import Phase, RowState, lines_of, read_state
from dify_batch.status import require_batch
from dify_batch.writer import storage_error

FIRST = ("id", "status", "error")
LAST = ("workflow_run_id", "executed_at", "retry_count", "elapsed_time", "total_tokens", "total_steps")

# Excel's limits (its "specifications and limits" page); the length of a cell counts UTF-16 units.
MAX_CELL = 32_767
MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
EXACT = 10**15  # Excel keeps 15 digits of a number

# What a spreadsheet takes for the start of a formula: OWASP's list on CSV injection, full-width forms included, which
# Excel takes alike where the language is Japanese or Chinese. The quotes make taking the added one away unambiguous.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


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
        lines = [f"{self.target}: {self.rows:,} rows{failed}, {len(self.columns):,} columns"]
        if self.left_out:
            lines.append(f"{self.left_out:,} rows are paused or in flight and not in it")
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
    failed = {row_id: row for row_id, row in state.rows.items() if row.phase is Phase.FAILED}
    left_out = {row_id for row_id, row in state.rows.items() if row.phase not in (Phase.FAILED, Phase.FREE)}
    look = _Look()
    for _, record in _records(paths.results, look):
        look.add(record)
        if failed or left_out:  # one that got its result since the journal was read
            failed.pop(record["id"], None)
            left_out.discard(record["id"])
    columns = look.columns()
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    count = 0
    try:
        with open_table(new, columns) as table:
            for number, record in _records(paths.results, _Look(), until=look.end):
                count += 1
                table.write(look.cells(record), f"line {number} of {results}")
            for row_id, row in failed.items():
                table.write(_failed_cells(row_id, row, len(columns)), f"row {row_id} in the journal")
        _sync(new)
        os.replace(new, target)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        new.unlink(missing_ok=True)
    notes = (*look.notes, *table.notes())
    return ExportReport(str(target), count + len(failed), count, len(failed), len(left_out), tuple(columns), notes)


def _format_of(target: Path) -> Callable[[Path, list[str]], _Table]:
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


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("id"), str):
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
    return [row_id, row.kind or "failed", error, *between, row.run_id, None, max(0, row.posts - 1), None, None, None]


def json_text(value: Any) -> str:
    """A nested value in a cell."""
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------- tables


class _Table(AbstractContextManager["_Table"]):
    """A file of cells under way. Leaving the context without an error completes it."""

    def __enter__(self) -> Self:
        return self

    def write(self, cells: Iterable[Any], where: str) -> None:
        raise NotImplementedError

    def notes(self) -> tuple[str, ...]:
        raise NotImplementedError


def csv_cell(value: Any) -> str | int | float:
    """A JSON value as a CSV cell. Numbers stay numbers; a text that a spreadsheet would run as a formula, or take
    for another text made safe, gets a ' before it; a text that is a number is harmless and stays as it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json_text(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def units(text: str) -> int:
    """The length as Excel counts it, in UTF-16 units."""
    return len(text) + sum(1 for char in text if char > "\uffff")


class CsvTable(_Table):
    """RFC 4180 in UTF-8 with a byte-order mark, by which Excel knows the encoding."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        # A lone surrogate, which JSON can carry and UTF-8 cannot, is shown as its escape.
        self._file = path.open("w", encoding="utf-8-sig", newline="", errors="backslashreplace", buffering=1 << 20)
        self._writer = csv.writer(self._file)
        self._rows = self._long = 0
        self.write(columns, "the header")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, cells: Iterable[Any], where: str) -> None:
        shown = [csv_cell(cell) for cell in cells]
        self._writer.writerow(shown)
        self._rows += 1
        self._long += sum(1 for c in shown if isinstance(c, str) and 2 * len(c) > MAX_CELL and units(c) > MAX_CELL)

    def notes(self) -> tuple[str, ...]:
        found = []
        if self._long:
            found.append(f"{self._long:,} cells have more than {MAX_CELL:,} characters; Excel does not show them whole")
        if self._rows > MAX_ROWS:
            found.append(f"the table has {self._rows:,} rows; Excel opens the first {MAX_ROWS:,}")
        return tuple(found)


class XlsxTable(_Table):
    """One sheet, written row by row. Texts are texts whatever they begin with: no formula comes about."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        try:
            from openpyxl import Workbook
            from openpyxl.cell import WriteOnlyCell
        except ImportError:
            raise UsageError(
                ".xlsx needs openpyxl, which is not installed",
                hint="pip install 'dify-batch[xlsx]', or give a .csv: -o table.csv",
                code="usage_invalid_flag",
            ) from None
        if len(columns) > MAX_COLUMNS:
            raise UsageError(
                f"the table has {len(columns):,} columns; .xlsx holds {MAX_COLUMNS:,}", hint="give a .csv: -o table.csv"
            )
        self._path = path
        self._book = Workbook(write_only=True)
        self._sheet = self._book.create_sheet("results")
        self._sheet.freeze_panes = "A2"  # the header stays in sight
        self._cell = WriteOnlyCell
        self._rows = self._cut = self._illegal = 0
        self._cut_at = ""
        self.write(columns, "the header")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._book.save(self._path)
        else:
            self._sheet.close()  # ends its temporary file
        self._book.close()

    def write(self, cells: Iterable[Any], where: str) -> None:
        if self._rows >= MAX_ROWS:
            raise UsageError(
                f"the results have more rows than .xlsx can hold ({MAX_ROWS:,}, the header among them)",
                hint="give a .csv: -o table.csv",
            )
        self._rows += 1
        self._sheet.append([self._value(cell, where) for cell in cells])

    def _value(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            fits = abs(value) < EXACT if isinstance(value, int) else abs(value) < float("inf")  # not NaN either
            return value if fits else self._text(str(value))
        text = value if isinstance(value, str) else json_text(value)
        text, illegal = _NOT_IN_XML.subn("\ufffd", text)
        self._illegal += bool(illegal)
        if 2 * len(text) > MAX_CELL and (length := units(text)) > MAX_CELL:
            self._cut += 1
            self._cut_at = self._cut_at or where
            mark = f" … [cut: {length:,} characters; all of them: {where}]"
            text = _first_units(text, MAX_CELL - units(mark)) + mark
        return self._text(text)

    def _text(self, text: str) -> Any:
        if text[:1] not in "=#":  # the others openpyxl writes as text by itself
            return text
        cell = self._cell(self._sheet, value=text)
        cell.data_type = "s"
        return cell

    def notes(self) -> tuple[str, ...]:
        found = []
        if self._cut:
            found.append(
                f"{self._cut:,} cells are longer than .xlsx can hold ({MAX_CELL:,} characters) and are cut, the first in "
                f"{self._cut_at}; a .csv has them whole"
            )
        if self._illegal:
            found.append(
                f"{self._illegal:,} cells have control characters, which .xlsx cannot hold; \ufffd stands for them"
            )
        return tuple(found)


def _first_units(text: str, count: int) -> str:
    return text.encode("utf-16-le")[: 2 * count].decode("utf-16-le", "ignore")
