"""Workbooks (.xlsx, .xlsb, .xls, .ods) as records of text: one sheet, its cells as a person sees them, as far as told.

The sheet is written to a temporary file, one row a line as a JSON list of texts, and read from there like a CSV: so its
rows go through the same checks, any number of times. A line's number is the row's number in the sheet.

What a cell becomes: text stays; a whole number has no point (Excel's 15 digits); TRUE and FALSE; a date 2024-01-31,
with a time 2024-01-31 10:05:07, a time alone 10:05:07, a duration of 30 hours 30:00:00. A formula gives its last value,
an error its name (#REF!). Formats are not applied: 12 % is 0.12, and 5 € is 5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from dify_batch.errors import UsageError
from dify_batch.input.bookerrors import error_cells
from dify_batch.input.opening import spooled
from dify_batch.text import nearest, show

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

_DIGITS = 15  # Excel's: what it shows and stores of a number; floats would show 0.1 + 0.2 as 0.30000000000000004


class NoBook(ValueError):
    """It cannot be read as a workbook; the message says why."""


class SheetReader:
    """The records of a sheet that `copy_sheet` has written; a blank row is an empty record."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self.line_num: int = 0

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines)
        self.line_num += 1
        record: list[str] = json.loads(line)
        return record


def copy_sheet(file: BinaryIO, name: str, sheet: str | None) -> tuple[BinaryIO, str | None]:
    """The sheet as a temporary file for SheetReader, and a warning where others could have been meant.

    Args:
        name: of the input, for messages.
        sheet: the sheet's name; None for the first that is not hidden.

    Raises:
        NoBook: it is no workbook, is broken, or asks for a password.
        UsageError: there is no such sheet.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    file.seek(0)
    try:
        with CalamineWorkbook.from_filelike(file) as book:
            chosen, warning = _choose(book, name, sheet)
            found = book.get_sheet_by_name(chosen)
            left = found.start[1] if found.start else 0  # columns before the first in use, which iter_rows leaves out
            rows = found.iter_rows()
            errors = {(row, column - left): text for (row, column), text in error_cells(file, chosen).items()}
            return spooled(lambda spool: _write(rows, errors, spool), name, "copied"), warning
    except PasswordError:
        raise NoBook("it asks for a password; save it without one") from None
    except CalamineError as error:
        raise NoBook(f"it cannot be opened ({str(error)[:100] or 'no reason is given'})") from None


def _choose(book: CalamineWorkbook, name: str, sheet: str | None) -> tuple[str, str | None]:
    names = [
        str(data.name)
        for data in book.sheets_metadata
        if str(data.typ).endswith("WorkSheet") and (sheet is not None or str(data.visible).endswith(".Visible"))
    ]
    if not names:
        raise NoBook("it has no sheet with a table")
    if sheet is None:
        if len(names) == 1:
            return names[0], None
        return names[0], f"{name} has {len(names)} sheets; the first, {show(names[0])}, is read (see --sheet)"
    if sheet in names:
        return sheet, None
    near = nearest(sheet, names)
    hint = f"did you mean --sheet {show(near)}?" if near else f"it has {', '.join(map(show, names[:10]))}"
    raise UsageError(f"{name} has no sheet {show(sheet)}", hint=hint, code="usage_invalid_flag")


def _write(rows: Iterator[list[Any]], errors: dict[tuple[int, int], str], spool: BinaryIO) -> None:
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    for number, row in enumerate(rows):
        cells = [value if isinstance(value, str) else cell_text(value) for value in row]
        if errors:
            for column in range(len(cells)):
                if not cells[column]:
                    cells[column] = errors.get((number, column), "")
        while cells and not cells[-1]:
            cells.pop()
        spool.write(encode(cells).encode("utf-8", "surrogatepass") + b"\n")


def cell_text(value: Any) -> str:
    """The text of a cell's value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return _number_text(value)
    if isinstance(value, datetime):
        return _seconds_text(value).replace("T", " ")
    if isinstance(value, (date, time)):
        return _seconds_text(value) if isinstance(value, time) else value.isoformat()
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
        return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return "" if value is None else str(value)


def _number_text(value: float) -> str:
    text = f"{value:.{_DIGITS}g}"
    if "e" in text:
        text = f"{Decimal(text):f}"
    return "0" if text == "-0" else text


def _seconds_text(value: datetime | time) -> str:
    return value.isoformat(timespec="milliseconds" if value.microsecond >= 1000 else "seconds")
