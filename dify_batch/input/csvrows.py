"""Records of cells to rows: CSV text, and spreadsheets in the same shape; every way in which they go wrong."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from dify_batch.ids import ID_SPACE, MAX_ID
from dify_batch.input.header import Header, Reader, blank, csv_problem
from dify_batch.input.passes import ERROR_VALUES, RawPass, text_of
from dify_batch.input.records import Notes, Problem, Row, id_problem
from dify_batch.text import count, show

FIELD_LIMIT = 64 * 1024 * 1024
"""Most characters of one cell: Dify takes texts of 20 MB (dify-wire 22h), and a quote that is never closed must not
swallow a huge file into memory."""

_BOM = "\ufeff"

Broken: TypeAlias = Callable[[csv.Error, int, int], Problem]


class Table:
    """How the records of one input are read.

    Attributes:
        header: without the unnamed columns at its end.
        id_at: place of the id's column.
        optional: so many columns at the end may be missing from a record: spreadsheets leave out empty cells there.
        suspicious: whether each row is to be looked at closely, whatever the bytes of its pass say.
        padded: a record that is short is empty at its end: so sheets are kept.
        broken: makes a Problem of what csv.reader stumbled over, given the lines where the record begins and where it
            stopped.
    """

    def __init__(self, header: Header, id_at: int, *, suspicious: bool, broken: Broken) -> None:
        self.broken = broken
        self.header = header
        self.id_at = id_at
        self.optional = 0
        self.padded = False
        self.suspicious = suspicious

    def rows(self, reader: Reader, raw: RawPass, notes: Notes) -> Iterator[Row | Problem]:
        """The rows and problems of a file whose header is fine. At most one problem a record; a fatal one is the last.

        Raises:
            UnicodeError: the text cannot be decoded.
        """
        if self.header.unnamed:
            notes.pad(self.header.line)
        header, id_at, always = self.header.names, self.id_at, self.suspicious
        width, id_name = len(header), header[id_at]
        number = 0
        line = 1
        try:
            for cells in reader:  # up to the header
                line = reader.line_num + 1
                if not blank(cells):
                    break
            for cells in reader:
                begin, line = line, reader.line_num + 1
                if len(cells) != width:
                    if _empty(cells):
                        if len(cells) > 1:
                            notes.pad(begin)
                        continue
                    fault = self._fit(cells, begin, line - 1, raw, notes)
                    if fault is not None:
                        number += 1
                        yield fault
                        continue
                id_ = cells[id_at].strip(ID_SPACE)
                if not id_ or len(id_) > MAX_ID or not id_.isprintable():
                    problem = _bad_id(id_, cells, header, begin, id_name)
                    if problem is not None:
                        if len(cells) > 1 and _empty(cells):
                            notes.pad(begin)  # what a spreadsheet leaves behind below its last row
                            continue
                        if blank(cells):
                            continue
                        number += 1
                        yield problem
                        continue
                number += 1
                if id_ == id_name and _again(cells, header):
                    yield _header_again(begin)
                    continue
                if (raw.nul or always) and any("\0" in cell for cell in cells):
                    column = next(name for name, cell in zip(header, cells, strict=True) if "\0" in cell)
                    message = "it contains a NUL character, which Dify removes silently; remove it"
                    yield Problem("nul", message, begin, column, id_)
                    continue
                if raw.errors or raw.quotes or always:
                    _look(cells, header, begin, notes)
                cells[id_at] = id_
                yield Row(number, begin, id_, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            yield self.broken(error, line, reader.line_num)

    def _fit(self, cells: list[str], begin: int, end: int, raw: RawPass, notes: Notes) -> Problem | None:
        """Cuts or fills a record of another width; a Problem where that would be a guess."""
        width = len(self.header.names)
        if len(cells) > width:
            if not _empty(cells[width:]):
                return self._width_problem(cells, begin, end)
            del cells[width:]
            if not self.header.unnamed:
                notes.pad(begin)
            return None
        missing = width - len(cells)
        if self.padded:
            cells += [""] * missing
            return None
        # The last record of a file that is still being written may be any record, cut off.
        if missing > self.optional or len(cells) <= self.id_at or raw.cut_off:
            return self._width_problem(cells, begin, end)
        notes.lack(begin)
        cells += [""] * missing
        return None

    def _width_problem(self, cells: list[str], line: int, end: int) -> Problem:
        header, id_at = self.header, self.id_at
        id_ = cells[id_at].strip(ID_SPACE) if id_at < len(cells) else ""
        usable = id_ if id_problem(id_, line, "") is None else None
        width = len(header.names)
        kind = "short_row" if len(cells) < width else "long_row"
        lines = f", up to line {end}" if end > line else ""
        what = f"the row has {count(len(cells), 'cell')}{lines}; the header has {count(width, 'column')}"
        quoted = next((cell for cell in cells if cell[:1].isspace() and cell.lstrip().startswith('"')), None)
        if kind == "short_row":
            cure = f"add the missing {width - len(cells)}"
        elif (other := _other_quote(cells)) is not None:
            cure = f'{other} is no quote of CSV; write " before and after the cell that holds the delimiter'
        elif quoted is not None:
            cure = f"a blank stands before the quote of {show(quoted.lstrip())}; remove it, so that the quotes count"
        elif width < len(cells) <= width + header.unnamed:
            place = next(at for at, cell in enumerate(cells[width:], width + 1) if cell.strip())
            return Problem(
                kind,
                f"column {place} has no name, and holds {show(cells[place - 1])} here; name it, or empty the cell",
                line,
                None,
                usable,
                len(cells),
            )
        else:
            cure = "put the cell that holds the delimiter in double quotes"
        return Problem(kind, f"{what}: {cure}", line, None, usable, len(cells))


def _other_quote(cells: Sequence[str]) -> str | None:
    """A sign that somebody, or a word processor, has put in place of the double quotes around a cell."""
    for sign, end in (("“", "”"), ("„", "“"), ("”", "”"), ("«", "»"), ("'", "'"), ("‘", "’"), ("＂", "＂")):
        opened = any(cell.strip().startswith(sign) and not cell.strip().endswith(end) for cell in cells)
        if opened and any(cell.strip().endswith(end) for cell in cells):
            return sign
    return None


def _empty(cells: Sequence[str]) -> bool:
    return not any(map(str.strip, cells))


def _bad_id(id_: str, cells: Sequence[str], header: Sequence[str], line: int, id_name: str) -> Problem | None:
    if id_.startswith(_BOM) and _again([cell.strip(_BOM) for cell in cells], header):
        return _header_again(line)
    return id_problem(id_, line, id_name)


def _again(cells: Sequence[str], header: Sequence[str]) -> bool:
    return all(cell.strip() == name for cell, name in zip(cells, header, strict=True))


def _header_again(line: int) -> Problem:
    return Problem("header_again", "the header stands here again; remove the line", line)


def _look(cells: Sequence[str], header: Sequence[str], line: int, notes: Notes) -> None:
    """Cells that are no error, and hardly what was meant."""
    for name, cell in zip(header, cells, strict=True):
        if cell in ERROR_VALUES:
            notes.error(name, line, cell)
        elif cell[:1] == " " and cell.lstrip().startswith('"'):
            notes.quote(name, line, cell)


def stray_problem(error: csv.Error, descriptor: int, encoding: str, delimiter: str, begin: int, end: int) -> Problem:
    """What csv.reader stumbled over, in words; where it is text beside a quote, the text is looked at."""
    if "expected after" not in str(error):
        return csv_problem(error, begin, end, FIELD_LIMIT)
    where = f"on line {end} " if end > begin else ""
    with text_of(RawPass(descriptor), encoding) as text:
        record = "".join(itertools.islice(text, begin - 1, end))
    stray = _after_quote(record, delimiter)
    if stray is not None and not stray.strip():
        return Problem("stray_text", f"{where}a blank stands after the closing quote; remove it", begin)
    message = f'{where}there is text after a closing double quote; a quote inside quotes is written ""'
    if '\\"' in record:
        message += ', not \\"'
    return Problem("stray_text", message, begin)


def _after_quote(record: str, delimiter: str) -> str | None:
    """What stands between a closing quote and the end of its cell, in the first cell where that is anything."""
    at = 0
    while at < len(record):
        if record[at] == '"':
            at += 1
            while (close := record.find('"', at)) >= 0 and record[close + 1 : close + 2] == '"':
                at = close + 2
            if close < 0:
                return None
            begin = at = close + 1
        else:
            begin = -1
        while at < len(record) and record[at] not in (delimiter, "\r", "\n"):
            at += 1
        if 0 <= begin < at:
            return record[begin:at]
        at += 1
    return None
