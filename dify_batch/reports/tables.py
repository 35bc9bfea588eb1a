"""Tables that a spreadsheet opens: cells from JSON values, .csv and .xlsx, row by row in constant memory.

Whatever a text begins with, no formula comes of it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, BinaryIO, Self

from dify_batch.errors import UsageError

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


def json_text(value: Any) -> str:
    """A nested value in a cell."""
    return json.dumps(value, ensure_ascii=False)


class Table(AbstractContextManager["Table"]):
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


class CsvTable(Table):
    """RFC 4180 in UTF-8 with a byte-order mark, by which Excel knows the encoding."""

    def __init__(self, file: BinaryIO, columns: list[str]) -> None:
        # A lone surrogate, which JSON can carry and UTF-8 cannot, is shown as its escape.
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", errors="backslashreplace")
        self._writer = csv.writer(self._file)
        self._rows = self._long = 0
        self.write(columns, "the header")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.detach()  # flushes; whoever opened the file closes it

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


class XlsxTable(Table):
    """One sheet, written row by row. Texts are texts whatever they begin with: no formula comes about."""

    def __init__(self, file: BinaryIO, columns: list[str]) -> None:
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
        self._file = file
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
            self._book.save(self._file)
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
        if text[:1] not in ("=", "#"):  # the others openpyxl writes as text by itself
            return text
        cell = self._cell(self._sheet, value=text)
        cell.data_type = "s"
        return cell

    def notes(self) -> tuple[str, ...]:
        found = []
        if self._cut:
            found.append(
                f"{self._cut:,} cells are longer than .xlsx can hold ({MAX_CELL:,} characters) and are cut, "
                f"the first in {self._cut_at}; a .csv has them whole"
            )
        if self._illegal:
            found.append(
                f"{self._illegal:,} cells have control characters, which .xlsx cannot hold; \ufffd stands for them"
            )
        return tuple(found)


def _first_units(text: str, count: int) -> str:
    return text.encode("utf-16-le")[: 2 * count].decode("utf-16-le", "ignore")
