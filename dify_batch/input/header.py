"""The header of a table: its names, and what is wrong with them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dify_batch.ids import INVISIBLE
from dify_batch.input.records import Problem
from dify_batch.text import count, show

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029"  # a line break may stand in a name
_NOT_IN_NAME = re.compile(rf"[{_CONTROL}\ufeff\u200b\u2060]|^[{INVISIBLE}]|[{INVISIBLE}]$")
_OTHERS = ((";", "';'"), ("\t", "tab"), ("|", "'|'"), (",", "','"))


class Reader(Protocol):
    """Records as lists of cells, and where the last one ended: csv.reader, or a sheet's."""

    @property
    def line_num(self) -> int: ...
    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Header:
    """`names`: of the columns, stripped; () if there is no header. `unnamed`: columns without a name at the right end,
    where spreadsheets leave some. `line`: where it ends."""

    names: tuple[str, ...] = ()
    unnamed: int = 0
    line: int = 1


def blank(cells: list[str]) -> bool:
    """Whether a record is a blank line. [""] is a quoted empty cell, which somebody wrote; spaces nobody did."""
    return not cells or (len(cells) == 1 and cells[0] != "" and not cells[0].strip())


def read_header(reader: Reader, delimiter: str, id_column: str | None) -> tuple[Header, list[Problem]]:
    """The first record that is not blank, as the header, and what is wrong with it.

    Raises:
        csv.Error, UnicodeError: the text cannot be read.
    """
    cells = next((cells for cells in reader if not blank(cells)), None)
    line = reader.line_num
    if cells is None:
        return Header(), [Problem("empty_file", "the file is empty; its first line must name the columns", 1)]
    names = [name.strip() for name in cells]
    width = len(names)
    while len(names) > 1 and not names[-1]:
        names.pop()
    header = Header(tuple(names), width - len(names), line)
    return header, _problems(header, delimiter, id_column)


def _problems(found: Header, delimiter: str, id_column: str | None) -> list[Problem]:
    header, line = found.names, found.line
    problems = []
    if header[0].lower().startswith("sep=") and len(header) <= 2:
        text = delimiter.join((*header, *[""] * found.unnamed))
        message = f"the line {show(text)} is a note to Excel; remove it, the next line is the header"
        return [Problem("header", message, line)]
    if len(header) == 1 and not found.unnamed:
        for other, flag in _OTHERS:
            if other in header[0] and other != delimiter:
                message = (
                    f"the header is one column, {show(header[0])}; it looks separated by {flag}: add --delimiter {flag}"
                )
                return [Problem("delimiter", message, line)]
    first: dict[str, int] = {}
    for place, name in enumerate(header, 1):
        bad = _NOT_IN_NAME.search(name)
        if not name:
            problems.append(Problem("header", f"column {place} has no name; name it, or remove the column", line))
        elif "\0" in name:
            message = f"the name of column {place} contains NUL; if the file is UTF-16, add --encoding utf-16"
            problems.append(Problem("header", message, line, name))
        elif bad is not None:
            what = f"U+{ord(bad.group()):04X}"
            cure = "a second byte order mark; remove it" if what == "U+FEFF" else "which cannot be seen; remove it"
            problems.append(Problem("header", f"the name of column {place} contains {what}, {cure}", line, name))
        elif name in first:
            message = f"columns {first[name]} and {place} have the same name; rename one"
            problems.append(Problem("header", message, line, name))
        else:
            first[name] = place
    id_name = header[0] if id_column is None else id_column
    if id_name != "id" and "id" in first and header[0]:
        cure = (
            f"add --id-column id, or --id-column {show(id_name)} and rename this one"
            if id_column is None
            else "rename it"
        )
        message = (
            f"the row's id is taken from column {show(id_name)} and goes under the key id, so this one cannot: {cure}"
        )
        problems.append(Problem("header", message, line, "id"))
    return problems


def csv_problem(error: csv.Error, begin: int, end: int, limit: int) -> Problem:
    """After any of these the text cannot be split into rows with certainty, so all of them are fatal."""
    text = str(error)
    if "unexpected end of data" in text:
        message = 'a double quote that begins in this row is never closed; close it, or write it as ""'
        return Problem("unclosed_quote", message, begin)
    if "field larger than field limit" in text:
        message = (
            f"a cell of this row has more than {limit // (1 << 20)} Mi characters; "
            'is a double quote not closed? Close it, or write it as ""'
        )
        return Problem("field_too_large", message, begin)
    return Problem("stray_text", f"this is not CSV: {text}", begin)


def preamble_problem(header: Header, first: int, width: int, rows: int) -> Problem:
    """Where all records from line `first` on have one width, and the header another: it is the header that is wrong.

    `rows`: how many records these are.
    """
    have = count(len(header.names), "cell") + (" that hold something" if header.unnamed else "")
    have = have.replace("1 cell that hold ", "1 cell that holds ")
    if len(header.names) < width:
        above = "the line" if first - header.line == 1 else "the lines"
        cure = f"is line {first} the header? Remove {above} above it; if not, name each column in the header"
    else:
        cure = "the header names more columns than the rows have: remove what is too much, or add the missing cells"
    message = f"line {header.line} has {have} and all {rows:,} rows from line {first} on {width}: {cure}"
    return Problem("header", message)
