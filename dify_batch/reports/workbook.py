"""Tables as .xlsx: one sheet, written row by row in constant memory. Texts are texts whatever they begin with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dify_batch.errors import UsageError
from dify_batch.ledger.disk import NewFile
from dify_batch.reports import tables
from dify_batch.reports.tables import MAX_CELL, Column, Table, json_text, units

EXACT = 10**15  # Excel keeps 15 digits of a number
_MADE_BY = "dify-batch export"
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# What Excel would read as a character by its number (ECMA-376, 22.9.2.19). xlsxwriter's own pattern misses one that
# begins where another ends.
_ESCAPE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")


def escaped(text: Any) -> Any:
    """A text as a cell holds it, so that Excel shows it as it is: `_x0041_` stays that, and a carriage return, of which
    every XML reader makes a line feed, stays one. What xlsxwriter would take for rich text becomes plain."""
    if not isinstance(text, str):
        return text  # a number that xlsxwriter writes in the same way
    text = _ESCAPE.sub("_x005F_", text).replace("\r", "_x000D_")
    return f"_x003C_{text[1:]}" if text.startswith("<r>") and text.endswith("</r>") else text


class XlsxTable(Table):
    """See `Table`. Raises UsageError where xlsxwriter is not installed, or .xlsx cannot hold the table."""

    def __init__(self, new: NewFile, columns: Sequence[Column]) -> None:
        try:
            import xlsxwriter
        except ImportError:
            raise UsageError(
                ".xlsx needs xlsxwriter, which is not installed",
                hint="pip install 'dify-batch[xlsx]', or give a .csv: -o table.csv",
                code="usage_invalid_flag",
            ) from None
        if len(columns) > tables.MAX_COLUMNS:
            raise UsageError(
                f"the table has {len(columns):,} columns; .xlsx holds {tables.MAX_COLUMNS:,}",
                hint="give a .csv: -o table.csv",
            )
        self._book = xlsxwriter.Workbook(str(new.path), {"constant_memory": True})
        self._book.set_properties({"comments": _MADE_BY})
        self._sheet = self._book.add_worksheet("results")
        self._sheet._escape_control_characters = escaped
        self._sheet.freeze_panes(1, 0)  # the header stays in sight
        self._rows = self._cut = self._illegal = 0
        self._cut_at = ""
        self.write([column.name for column in columns], "the header")

    @staticmethod
    def wrote(head: bytes) -> bool:
        return False  # it is packed: `made_by` looks inside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._book.close()
        else:
            self._book.fileclosed = True  # else it would complain when Python removes it
            self._sheet._opt_close()

    def write(self, cells: Iterable[Any], where: str) -> None:
        if self._rows >= tables.MAX_ROWS:
            raise UsageError(
                f"the results have more rows than .xlsx can hold ({tables.MAX_ROWS:,}, the header among them)",
                hint="give a .csv: -o table.csv",
            )
        sheet, row = self._sheet, self._rows
        for column, value in enumerate(cells):
            if value is None:
                continue
            if isinstance(value, bool):
                sheet.write_boolean(row, column, value)
            elif isinstance(value, int | float):
                fits = abs(value) < EXACT if isinstance(value, int) else abs(value) < float("inf")  # not NaN either
                if fits:
                    sheet.write_number(row, column, value)
                else:
                    sheet.write_string(row, column, str(value))
            else:
                sheet.write_string(row, column, self._text(value, where))
        self._rows += 1

    def _text(self, value: Any, where: str) -> str:
        text = value if isinstance(value, str) else json_text(value)
        text, illegal = _NOT_IN_XML.subn("\ufffd", text)
        self._illegal += bool(illegal)
        if 2 * len(text) > MAX_CELL and (length := units(text)) > MAX_CELL:
            self._cut += 1
            self._cut_at = self._cut_at or where
            mark = f" … [cut: {length:,} characters; all of them: {where}]"
            text = _first_units(text, MAX_CELL - units(mark)) + mark
        return text

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


def made_by_us(path: Path) -> bool:
    """Whether a workbook is one that an export wrote."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as book, book.open("docProps/core.xml") as core:
            return _MADE_BY.encode() in core.read(100_000)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False


def _first_units(text: str, count: int) -> str:
    return text.encode("utf-16-le")[: 2 * count].decode("utf-16-le", "ignore")
