"""Tables: cells from JSON values, and .csv, row by row in constant memory.

Whatever a text begins with, no formula comes of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

from dify_batch.input.records import ADDED as ADDED
from dify_batch.ledger.disk import NewFile

# Excel's limits (its "specifications and limits" page); the length of a cell counts UTF-16 units.
MAX_CELL = 32_767
MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384

# What a spreadsheet takes for the start of a formula: OWASP's list on CSV injection, full-width forms included, which
# Excel takes alike where the language is Japanese or Chinese. The quotes make taking the added one away unambiguous.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(slots=True)
class Column:
    """A column of a table, and which kinds of values it holds: for formats that have a type for each column."""

    name: str
    kinds: int = 0

    INT: ClassVar[int] = 1
    FLOAT: ClassVar[int] = 2
    BOOL: ClassVar[int] = 4
    TEXT: ClassVar[int] = 8

    def note(self, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            self.kinds |= Column.BOOL
        elif isinstance(value, int):
            self.kinds |= Column.INT if -(2**63) <= value < 2**63 else Column.TEXT
        else:
            self.kinds |= Column.FLOAT if isinstance(value, float) and math.isfinite(value) else Column.TEXT


def json_text(value: Any) -> str:
    """A nested value in a cell."""
    return json.dumps(value, ensure_ascii=False)


class Table(AbstractContextManager["Table"]):
    """A file of cells under way. Leaving the context without an error completes it.

    Made from a new, empty file and the columns.
    """

    def __init__(self, new: NewFile, columns: Sequence[Column]) -> None:
        raise NotImplementedError

    @staticmethod
    def wrote(head: bytes) -> bool:
        """Whether the first bytes of a file are those of a table that an export wrote."""
        raise NotImplementedError

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

    def __init__(self, new: NewFile, columns: Sequence[Column]) -> None:
        # A lone surrogate, which JSON can carry and UTF-8 cannot, is shown as its escape.
        self._file = io.TextIOWrapper(
            new.file,
            encoding="utf-8-sig",
            newline="",
            errors="backslashreplace",
        )
        self._writer = csv.writer(self._file)
        self._rows = self._long = 0
        self.write([column.name for column in columns], "the header")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.detach()  # flushes; whoever opened the file closes it

    @staticmethod
    def wrote(head: bytes) -> bool:
        return head.startswith((b"\xef\xbb\xbfid,status,error,", b"\xef\xbb\xbfid,status,error\r\n")) or (
            b"," + ",".join(ADDED[:3]).encode() + b"," in head  # what follows them has grown with the versions
        )

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
