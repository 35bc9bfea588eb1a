"""The input file: opened once, read as often as needed, in constant memory.

with RowSource.open("data.csv") as source:
    bound = form.bind(source.header, id_column=source.id_column, base_dir=source.base_dir, typed=source.typed)
    check(source, bound, index).raise_if_any()
    for item in valid_rows(source, bound, index): ...
"""

from __future__ import annotations

import codecs
import csv
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dify_batch.errors import UsageError
from dify_batch.input.csvrows import FIELD_LIMIT, RawPass, csv_rows, decode_problem, pick_encoding, read_header
from dify_batch.input.jsonlrows import jsonl_rows
from dify_batch.input.records import Problem, Row
from dify_batch.text import nearest, show

_NO_TEXT = frozenset({"unicode_escape", "raw_unicode_escape", "utf_7", "idna", "punycode", "undefined"})
"""Codecs for text that are no encodings of files: they turn plain letters into others, or into lone surrogates."""

_JSON_LINES = re.compile(rb'\s*\{\s*"')
"""How JSON lines begin, and hardly ever a CSV's header."""

_NO_LETTERS = b"\0\xef\xbb\xbf\xfe\xff"  # byte order marks, and every other byte of UTF-16
_HEAD = 1 << 16

_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


class RowSource:
    """The rows of one input file (CSV, or JSON lines by its name; from a pipe by its first characters).

    Attributes:
        name: the path, or "standard input", for messages.
        header: the columns; of JSON lines the keys of the first object. () if it cannot be read.
        id_column: the column (key) that holds the id.
        typed: JSON lines: values have types, and each row may have other keys.
        base_dir: where relative paths of files begin: the input's folder, or the working directory.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        path: Path | None,
        spooled: bool,
        typed: bool,
        encoding: str | None,
        delimiter: str,
        id_column: str | None,
    ) -> None:
        self._file = file
        self._path = path
        self._fd = file.fileno()
        self._stamp = None if spooled else _stamp(os.fstat(self._fd))
        self._delimiter = delimiter
        self._label = encoding or "utf-8"
        self.name = "standard input" if path is None else str(path)
        self.base_dir = Path.cwd() if path is None else path.parent
        self.typed = typed
        self.header: tuple[str, ...] = ()
        self.id_column = id_column or "id"
        self._id_at = 0
        head = os.pread(self._fd, 4, 0)
        self._encoding, problem = pick_encoding(head, encoding)
        self._problems: list[Problem] = [] if problem is None else [problem]
        if not self._problems:
            try:
                self._read_header(id_column)
            except UnicodeError:
                self.header = ()
                self._problems = [decode_problem(self._fd, self._encoding, self._label)]

    @classmethod
    def open(
        cls,
        path: str,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        id_column: str | None = None,
        stdin: BinaryIO | None = None,
    ) -> RowSource:
        """Open an input file and read its header.

        Args:
            path: of the file; "-" reads standard input to its end, into an unnamed temporary file.
            encoding: a codec's name; None for UTF-8, with or without BOM.
            delimiter: one character, or "tab"; None for the comma.
            id_column: the column of the ids; None for the first one (JSON lines: "id").
            stdin: stands for standard input.

        Raises:
            UsageError: no such file, a folder, unreadable; unknown encoding, delimiter or id column. What is wrong
                with the text itself comes as Problem when it is read.
        """
        _check_encoding(encoding)
        mark = _delimiter(delimiter)
        csv.field_size_limit(FIELD_LIMIT)
        where = None if path == "-" else Path(path)
        if where is None:
            file, spooled = _spool(stdin if stdin is not None else _stdin(), "standard input"), True
        else:
            file, spooled = _open(where)
        typed = where is not None and where.suffix.lower() in (".jsonl", ".ndjson")
        if spooled and delimiter is None:  # a pipe has no name to go by
            typed = typed or bool(_JSON_LINES.match(os.pread(file.fileno(), _HEAD, 0).translate(None, _NO_LETTERS)))
        try:
            return cls(
                file,
                path=where,
                spooled=spooled,
                typed=typed,
                encoding=encoding,
                delimiter=mark,
                id_column=id_column,
            )
        except BaseException:
            file.close()
            raise

    def _read_header(self, id_column: str | None) -> None:
        if self.typed:
            first = next(iter(jsonl_rows(RawPass(self._fd), self._encoding, self.id_column)), None)
            self.header = tuple(first.values) if isinstance(first, Row) else ()
            return
        header, problems = read_header(RawPass(self._fd), self._encoding, self._delimiter, id_column)
        self._problems = problems
        if not header or any(problem.kind == "delimiter" for problem in problems):
            return
        self.header = header
        if id_column is None:
            self.id_column = header[0]
        elif id_column in header:
            self._id_at = header.index(id_column)
        else:
            raise UsageError(
                f"{self.name} has no column {show(id_column)}; it has {', '.join(map(show, header))}",
                hint=_nearest(id_column, header),
            )

    @property
    def broken(self) -> bool:
        """Whether the header cannot be used, so that no rows will come, only problems."""
        return bool(self._problems)

    def __iter__(self) -> Iterator[Row | Problem]:
        """A fresh pass: rows and problems in the order of the file. A fatal problem is the last item."""
        if self._problems:
            yield from self._problems
            return
        raw = RawPass(self._fd)
        try:
            if self.typed:
                yield from jsonl_rows(raw, self._encoding, self.id_column)
            else:
                yield from csv_rows(raw, self._encoding, self._delimiter, self.header, self._id_at)
        except UnicodeError:
            yield decode_problem(self._fd, self._encoding, self._label)

    def changed(self) -> bool:
        """Whether the file was changed or replaced (device, inode, size, time) since it was opened."""
        if self._path is None or self._stamp is None:  # copied: it cannot change any more
            return False
        try:
            return _stamp(os.stat(self._path)) != self._stamp
        except OSError:
            return True

    def close(self) -> None:
        """Close the file; iterating is over."""
        self._file.close()

    def __enter__(self) -> RowSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stamp(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _open(path: Path) -> tuple[BinaryIO, bool]:
    """The file, and whether it is a copy."""
    shown = show(str(path), 200)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {shown}", hint="correct the path after --input", code="usage_invalid_flag"
        ) from None
    except IsADirectoryError:
        raise UsageError(
            f"{shown} is a folder", hint="name a CSV file in it after --input", code="usage_invalid_flag"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{shown} cannot be read: {reason}",
            hint="make it readable (chmod u+r) or name another file after --input",
            code="usage_invalid_flag",
        ) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file, False
    with file:  # a pipe can be read once only
        return _spool(file, shown), True


def _stdin() -> BinaryIO:
    if sys.stdin is None:  # closed before the start, as `<&-` does
        raise UsageError(
            "standard input is closed",
            hint="send rows to it (dify-batch -i - < data.csv) or name a file after --input",
            code="usage_invalid_flag",
        )
    return sys.stdin.buffer


def _spool(stream: BinaryIO, name: str) -> BinaryIO:
    spool = tempfile.TemporaryFile()  # noqa: SIM115  closed by RowSource.close
    try:
        shutil.copyfileobj(stream, spool, 1 << 20)
        spool.flush()
    except OSError as error:
        spool.close()
        raise UsageError(
            f"{name} cannot be copied to the folder of temporary files: {error.strerror}",
            hint="name a regular file after --input, or set TMPDIR to a folder with room",
        ) from None
    except BaseException:
        spool.close()
        raise
    return spool


def _check_encoding(encoding: str | None) -> None:
    if encoding is None:
        return
    hint = "give a Python codec name, for instance utf-8, utf-16, cp1252, shift_jis or gb18030"
    try:
        name = codecs.lookup(encoding).name
        "".encode(encoding)  # str.encode refuses codecs that are no text encodings, such as base64
    except (LookupError, ValueError):
        raise UsageError(f"--encoding {show(encoding)} is not a known encoding", hint=hint) from None
    if name.replace("-", "_") in _NO_TEXT:
        raise UsageError(f"--encoding {show(encoding)} is not an encoding of text files", hint=hint)


def _delimiter(delimiter: str | None) -> str:
    if delimiter is None:
        return ","
    mark = _DELIMITERS.get(delimiter.lower(), delimiter)
    if len(mark) != 1 or mark in '"\r\n\0\ufeff':
        raise UsageError(
            f"--delimiter {show(delimiter)} is not allowed",
            hint="give one character, for instance ';' or '|', or the word tab",
        )
    return mark


def _nearest(name: str, header: tuple[str, ...]) -> str:
    near = nearest(name, header)
    return f"did you mean --id-column {show(near)}?" if near else "name one of them after --id-column"
