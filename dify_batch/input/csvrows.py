"""CSV text to rows: quoting, lines, encodings, and every way in which they go wrong.

One pass reads a file descriptor at its own offset, so that passes do not disturb each other and a file that is
replaced meanwhile stays the one that was checked.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from typing import Any, TextIO

from dify_batch.input.records import ID_SPACE, Problem, Row, id_problem
from dify_batch.text import count, show

FIELD_LIMIT = 64 * 1024 * 1024
"""Most characters of one cell: Dify takes texts of 20 MB (dify-wire 22h), and a quote that is never closed must not
swallow a huge file into memory."""

_SAMPLE = 64 * 1024  # bytes around a bad one, for the guess at the encoding
_FEW = 10  # bytes beyond ASCII
_GUESSES = ["utf_8", "cp1252", "cp1250", "cp1251", "shift_jis", "gb18030", "big5", "euc_kr", "utf_16", "iso8859_15"]
"""What spreadsheets write; the long list of charset-normalizer names exotic ones for short samples."""

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class RawPass(io.RawIOBase):
    """Reads a descriptor from the start at an offset of its own; closing it leaves the descriptor open.

    `nul` becomes true with the first NUL byte, before any text of its block is handed on: so rows are looked at
    for NUL only in files that have one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0
        self.nul = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._offset)
        self._offset += len(data)
        if b"\0" in data:
            self.nul = True
        buffer[: len(data)] = data
        return len(data)


def text_of(raw: RawPass, encoding: str, newline: str = "") -> TextIO:
    """The decoded text of a pass; undecodable bytes raise UnicodeError (mostly UnicodeDecodeError)."""
    # 256 KiB: large enough that the calls do not show in a profile
    return io.TextIOWrapper(io.BufferedReader(raw, 1 << 18), encoding=encoding, newline=newline)


def pick_encoding(head: bytes, encoding: str | None) -> tuple[str, Problem | None]:
    """The codec for a file that begins with `head`, or why it cannot be the one asked for (None: UTF-8)."""
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        if marked is not None:
            return "utf-8-sig", Problem(
                "encoding",
                f"the file is {marked.upper()}, not UTF-8 (its byte order mark says so); add --encoding {marked}",
                1,
            )
        return "utf-8-sig", None
    name = codecs.lookup(encoding).name
    if marked is not None and name.startswith(marked):
        return marked, None  # utf-16-le would hand on the byte order mark as text
    return name, None


def decode_problem(descriptor: int, encoding: str, label: str) -> Problem:
    """Where the first bytes are that `encoding` cannot decode, and what the encoding probably is.

    Args:
        label: the encoding's name as the user knows it.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset, last = 1, 0, ""
    while True:
        data = os.pread(descriptor, 1 << 18, offset)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            if "BOM" in error.reason:  # since Python 3.13; before, it is a plain UnicodeError
                return _no_mark(label, line)
            before = error.object[: error.start].decode(encoding, "ignore")
            line += _lines(before, last)
            if not data:  # nothing follows: perhaps not a wrong byte, but a missing one
                message = (
                    f"the file ends within a character of {label.upper()}; if it was cut off, copy it again, "
                    "else say its encoding with --encoding"
                )
                return Problem("encoding", message, line)
            bad = error.object[error.start : error.start + 1].hex().upper()
            sample = os.pread(descriptor, _SAMPLE, max(0, offset + error.start - _SAMPLE // 2))
            guess = _guess(sample, label)
            cure = f"it may be {guess}: try --encoding {guess} with --dry-run" if guess else "say which with --encoding"
            return Problem("encoding", f"byte 0x{bad} is not valid {label.upper()}; {cure}", line)
        except UnicodeError:  # utf-16 and utf-32 without their mark
            return _no_mark(label, line)
        line += _lines(text, last)
        last = text or last
        offset += len(data)
        if not data:
            return Problem("encoding", f"the file is not valid {label.upper()}; say which with --encoding")


def _no_mark(label: str, line: int) -> Problem:
    return Problem("encoding", f"the file has no byte order mark; add --encoding {label}-le, or {label}-be", line)


def _lines(text: str, before: str) -> int:
    count = text.count("\n") + text.count("\r") - text.count("\r\n")
    return count - 1 if text.startswith("\n") and before.endswith("\r") else count


def _guess(sample: bytes, label: str) -> str | None:
    from charset_normalizer import from_bytes  # 30 ms to import, and only ever needed here

    matches = from_bytes(sample, cp_isolation=_GUESSES, enable_fallback=False)
    best = matches.best()
    if best is None:
        return None
    name = best.encoding
    if name != "utf_8" and sum(byte > 0x7F for byte in sample) < _FEW:
        # A few letters tell one encoding from another by chance only: name the commonest that reads them.
        name = next((alike for match in matches for alike in match.could_be_from_charset if alike == "cp1252"), name)
    name = name.replace("_", "-")
    return None if codecs.lookup(name) == codecs.lookup(label) else name


def read_header(
    raw: RawPass, encoding: str, delimiter: str, id_column: str | None
) -> tuple[tuple[str, ...], list[Problem]]:
    """The header's names, stripped, and what is wrong with them; the names are () if there is none.

    Raises:
        UnicodeError: as `text_of`.
    """
    text = text_of(raw, encoding)
    with text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            cells = next((cells for cells in reader if not _blank(cells)), None)
        except csv.Error as error:
            return (), [_csv_problem(error, 1, reader.line_num)]
        line = reader.line_num
    if cells is None:
        return (), [Problem("empty_file", "the file is empty; its first line must name the columns", 1)]
    header = tuple(name.strip() for name in cells)
    return header, _header_problems(header, line, delimiter, id_column)


def _header_problems(header: tuple[str, ...], line: int, delimiter: str, id_column: str | None) -> list[Problem]:
    problems = []
    if header[0].lower().startswith("sep=") and len(header) <= 2:
        message = f"the line {show(delimiter.join(header))} is a note to Excel; remove it, the next line is the header"
        return [Problem("header", message, line)]
    if len(header) == 1:
        for other, flag in ((";", "';'"), ("\t", "tab"), ("|", "'|'"), (",", "','")):
            if other in header[0] and other != delimiter:
                message = (
                    f"the header is one column, {show(header[0])}; it looks separated by {flag}: add --delimiter {flag}"
                )
                return [Problem("delimiter", message, line)]
    first: dict[str, int] = {}
    for place, name in enumerate(header, 1):
        if not name:
            problems.append(Problem("header", f"column {place} has no name; name it, or remove the column", line))
        elif "\0" in name:
            problems.append(
                Problem(
                    "header",
                    f"the name of column {place} contains NUL; if the file is UTF-16, add --encoding utf-16",
                    line,
                    name,
                )
            )
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


def _blank(cells: list[str]) -> bool:
    # [""] is a quoted empty cell, which somebody wrote; a line of spaces nobody did
    return not cells or (len(cells) == 1 and cells[0] != "" and not cells[0].strip())


def csv_rows(
    raw: RawPass, encoding: str, delimiter: str, header: tuple[str, ...], id_at: int
) -> Iterator[Row | Problem]:
    """The rows and problems of a file whose header is fine. At most one problem a record; a fatal one is the last.

    Raises:
        UnicodeError: as `text_of`.
    """
    width = len(header)
    id_name = header[id_at]
    always = encoding.startswith(("utf-16", "utf-32"))  # there a NUL byte says nothing
    number = 0
    text = text_of(raw, encoding)
    with text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:  # up to the header
                line = reader.line_num + 1
                if not _blank(cells):
                    break
            for cells in reader:
                begin, line = line, reader.line_num + 1
                if len(cells) != width:
                    if _blank(cells):
                        continue
                    number += 1
                    yield _width_problem(cells, header, begin, line - 1, id_at)
                    continue
                id_ = cells[id_at].strip(ID_SPACE)
                if not id_ or len(id_) > 1000 or not id_.isprintable():
                    if _blank(cells):
                        continue
                    problem = id_problem(id_, begin, id_name)
                    if problem is not None:
                        number += 1
                        if not any(cells):  # what a spreadsheet leaves behind below its last row
                            problem = Problem("blank_id", "all cells of the row are empty; remove it", begin)
                        yield problem
                        continue
                number += 1
                if (raw.nul or always) and any("\0" in cell for cell in cells):
                    column = next(name for name, cell in zip(header, cells, strict=True) if "\0" in cell)
                    message = "it contains a NUL character, which Dify removes silently; remove it"
                    yield Problem("nul", message, begin, column, id_)
                    continue
                cells[id_at] = id_
                yield Row(number, begin, id_, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            yield _csv_problem(error, line, reader.line_num)


def _width_problem(cells: list[str], header: tuple[str, ...], line: int, end: int, id_at: int) -> Problem:
    id_ = cells[id_at].strip(ID_SPACE) if id_at < len(cells) else ""
    usable = id_ if id_problem(id_, line, "") is None else None
    kind = "short_row" if len(cells) < len(header) else "long_row"
    lines = f", up to line {end}" if end > line else ""
    cure = (
        f"add the missing {len(header) - len(cells)}"
        if kind == "short_row"
        else "put the cell that holds the delimiter in double quotes"
    )
    message = f"the row has {count(len(cells), 'cell')}{lines}; the header has {count(len(header), 'column')}: {cure}"
    return Problem(kind, message, line, None, usable)


def _csv_problem(error: csv.Error, begin: int, end: int) -> Problem:
    """After any of these the text cannot be split into rows with certainty, so all of them are fatal."""
    text = str(error)
    if "unexpected end of data" in text:
        message = 'a double quote that begins in this row is never closed; close it, or write it as ""'
        return Problem("unclosed_quote", message, begin)
    if "field larger than field limit" in text:
        message = (
            f"a cell of this row has more than {FIELD_LIMIT // (1 << 20)} Mi characters; "
            'is a double quote not closed? Close it, or write it as ""'
        )
        return Problem("field_too_large", message, begin)
    if "expected after" in text:
        message = (
            'there is text after a closing double quote; a quote inside quotes is written ""'
            if begin == end
            else f'on line {end} there is text after a closing double quote; a quote inside quotes is written ""'
        )
        return Problem("stray_text", message, begin)
    return Problem("stray_text", f"this is not CSV: {text}", begin)
