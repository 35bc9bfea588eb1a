"""The input: opened once, read as often as needed, in constant memory.

with RowSource.open("data.csv") as source:
    bound = form.bind(source.header, id_column=source.id_column, base_dir=source.base_dir, typed=source.typed)
    check(source, bound, index).raise_if_any()
    for item in valid_rows(source, bound, index): ...
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dify_batch.errors import UsageError
from dify_batch.flags import BY_DEST
from dify_batch.input.csvrows import FIELD_LIMIT, Table, stray_problem
from dify_batch.input.encodings import decode_problem, pick_encoding, utf8_problem, watches_utf8
from dify_batch.input.header import Reader, read_header
from dify_batch.input.jsonlrows import jsonl_rows
from dify_batch.input.kinds import Kind
from dify_batch.input.opening import Opened, Stamp, open_input
from dify_batch.input.passes import Marks, RawPass, text_of
from dify_batch.input.records import Notes, Problem, Row
from dify_batch.summary import Notice
from dify_batch.text import nearest, show

_BOOKS = (Kind.WORKBOOK, Kind.OPEN_SHEET, Kind.OLD_OFFICE)
_TYPED_NAMES = (".jsonl", ".ndjson")


class RowSource:
    """The rows of one input: CSV; JSON lines (by the name .jsonl or .ndjson, or the first characters); a sheet of a
    workbook; Parquet; each of them packed with gzip as well.

    Attributes:
        name: the path, or "standard input", for messages.
        header: the columns; of JSON lines the keys of the first object. () if it cannot be read.
        id_column: the column (key) that holds the id.
        id_given: whether somebody named it.
        typed: JSON lines and Parquet: values have types, and each row may have other keys.
        base_dir: where relative paths of files begin: the input's folder, or the working directory.
        notes: what the newest pass met that is no error.
        warnings: what opening it has shown.
        checked: whether a whole pass has been marked (`checking`), so that `sending` gives what it gave.
    """

    def __init__(
        self, opened: Opened, *, encoding: str | None, delimiter: str, id_column: str | None, sheet: str | None = None
    ) -> None:
        self._opened = opened
        self._delimiter = delimiter
        self._label = encoding or "utf-8"
        self.name: str = opened.name
        self.base_dir: Path = Path.cwd() if opened.path is None else opened.path.parent
        self.warnings: tuple[Notice, ...] = ()
        self.header: tuple[str, ...] = ()
        self.id_column: str = id_column or "id"
        self.id_given: bool = id_column is not None
        self.notes: Notes = Notes()
        self._marks: Marks | None = None
        self._under_way: RawPass | None = None
        self._table: Table | None = None
        self._sheet = opened.kind in _BOOKS
        self._encoding, problem = self._judge(opened, encoding, sheet)
        self.typed: bool = opened.kind in (Kind.JSON_LINES, Kind.PARQUET) or opened.suffix in _TYPED_NAMES
        self._fd = opened.file.fileno()
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
        sheet: str | None = None,
        stdin: BinaryIO | None = None,
    ) -> RowSource:
        """Open an input and read its header.

        Args:
            path: of the file; "-" reads standard input to its end, into an unnamed temporary file.
            encoding: a codec's name; None for UTF-8, with or without BOM.
            delimiter: one character, or a word for it (tab, comma, semicolon, pipe); None for the comma.
            id_column: the column of the ids; None for the first one (JSON lines: "id").
            sheet: of a workbook; None for the first that is not hidden.
            stdin: stands for standard input.

        Raises:
            UsageError: no such file, a folder, unreadable; unknown encoding, delimiter or id column. What is wrong
                with the text itself comes as Problem when it is read.
            InvalidInput: it is packed, and cannot be unpacked.
        """
        if encoding is not None:
            encoding = BY_DEST["encoding"].read(encoding, "--encoding")
        mark = "," if delimiter is None else BY_DEST["delimiter"].read(delimiter, "--delimiter")
        csv.field_size_limit(FIELD_LIMIT)
        opened = open_input(None if path == "-" else Path(path), stdin=stdin, delimiter_given=delimiter is not None)
        try:
            if opened.kind in _BOOKS:
                _only_for_text(opened.name, {"--encoding": encoding, "--delimiter": delimiter})
            elif sheet is not None:
                raise UsageError(
                    f"--sheet: {opened.name} is no workbook", hint="leave --sheet out", code="usage_invalid_flag"
                )
            return cls(opened, encoding=encoding, delimiter=mark, id_column=id_column, sheet=sheet)
        except BaseException:
            opened.file.close()
            raise

    def _judge(self, opened: Opened, encoding: str | None, sheet: str | None) -> tuple[str, Problem | None]:
        """The codec, and why the file cannot be read at all. Workbooks and Parquet are copied into text first."""
        kind = opened.kind
        if kind in (Kind.TABLE, Kind.JSON_LINES):
            return pick_encoding(opened.head, encoding)
        why = ""
        try:
            if kind in _BOOKS:
                from dify_batch.input.books import copy_sheet  # with what unpacks and parses: only where it is needed

                copy, warning = copy_sheet(opened.file, opened.name, sheet)
                self.warnings = () if warning is None else (Notice("other_sheets", warning),)
            elif kind is Kind.PARQUET:
                from dify_batch.input.parquet import copy_parquet

                copy = copy_parquet(opened.file, opened.name)
            else:
                raise ValueError
            opened.become(copy)
            return "utf-8", None
        except ValueError as error:  # NoBook, NoParquet
            why = f", and {error}" if str(error) else ""
        cure = kind.cure.replace("FILE", "FILE" if opened.path is None else opened.path.name)
        return "utf-8-sig", Problem("not_a_table", f"this is {kind.what}{why}; {cure}")

    def _raw(self, *, record: Marks | None = None, expect: Marks | None = None) -> RawPass:
        watch = watches_utf8(self._encoding)
        return RawPass(self._fd, delimiter=self._delimiter, watch_utf8=watch, record=record, expect=expect)

    def _reader(self, raw: RawPass) -> Reader:
        if self._sheet:
            from dify_batch.input.books import SheetReader

            return SheetReader(text_of(raw, self._encoding, "\n"))
        return csv.reader(text_of(raw, self._encoding), delimiter=self._delimiter, strict=True)

    def _broken(self, error: csv.Error, begin: int, end: int) -> Problem:
        return stray_problem(error, self._fd, self._encoding, self._delimiter, begin, end)

    def _read_header(self, id_column: str | None) -> None:
        if self.typed:
            first = next(iter(jsonl_rows(self._raw(), self._encoding, self.id_column)), None)
            self.header = tuple(first.values) if isinstance(first, Row) else ()
            return
        reader = self._reader(self._raw())
        try:
            found, self._problems = read_header(reader, self._delimiter, id_column)
        except csv.Error as error:
            self._problems = [self._broken(error, 1, reader.line_num)]
            return
        header = found.names
        if not header or any(problem.kind == "delimiter" for problem in self._problems):
            return
        self.header = header
        if id_column is None:
            self.id_column = header[0]
        elif id_column not in header:
            near = nearest(id_column, header)
            raise UsageError(
                f"{self.name} has no column {show(id_column)}; it has {', '.join(map(show, header))}",
                hint=f"did you mean --id-column {show(near)}?" if near else "name one of them after --id-column",
            )
        self._table = Table(
            found,
            header.index(self.id_column),
            suspicious=self._encoding.startswith(("utf-16", "utf-32")),  # its bytes tell nothing of its letters
            broken=self._broken,
        )
        self._table.padded = self._sheet

    @property
    def broken(self) -> bool:
        """Whether the header cannot be used, so that no rows will come, only problems."""
        return bool(self._problems)

    @property
    def columns(self) -> int:
        """How many columns the header names; 0 where there is none."""
        return 0 if self._table is None else len(self._table.header.names)

    @property
    def table(self) -> Table | None:
        """How records are read; None of JSON lines, and where the header cannot be used."""
        return self._table

    def may_lack(self, columns: int) -> None:
        """So many columns at the end are optional: a record may end before them."""
        if self._table is not None:
            self._table.optional = columns

    def __iter__(self) -> Iterator[Row | Problem]:
        """A fresh pass: rows and problems in the order of the file. A fatal problem is the last item."""
        return self._pass(self._raw())

    def checking(self) -> Iterator[Row | Problem]:
        """A fresh pass whose bytes are marked, a few for each block, so that `sending` can give the same again."""
        marks = None if self._opened.stamp is None else Marks()  # a copy cannot change
        yield from self._pass(self._raw(record=marks))
        self._marks = marks

    def sending(self) -> Iterator[Row | Problem]:
        """A fresh pass over what `checking` has read, and nothing else, to its end.

        Raises:
            Changed: the next bytes are not those that were checked.
        """
        self._under_way = self._raw(expect=self._marks)
        return self._pass(self._under_way)

    def perhaps_cut(self) -> bool:
        """Whether the row that `sending` has just given is the last, nothing ends it, and the file was changed since it
        was opened: a program may have been writing it. Cheap for any other row."""
        raw = self._under_way
        return raw is not None and raw.cut_off and self._marks is not None and self.changed()

    @property
    def stamp(self) -> Stamp | None:
        """Which state of the file was opened; None of a copy."""
        return self._opened.stamp

    @property
    def checked(self) -> bool:
        return self._marks is not None

    def _pass(self, raw: RawPass) -> Iterator[Row | Problem]:
        self.notes = notes = Notes()
        if self._problems:
            yield from self._problems
            return
        try:
            if self._table is None:
                yield from jsonl_rows(raw, self._encoding, self.id_column)
            else:
                yield from self._table.rows(self._reader(raw), raw, notes)
        except UnicodeError:
            yield decode_problem(self._fd, self._encoding, self._label)
            return
        problem = utf8_problem(raw, self._encoding, self._label)
        if problem is not None:
            yield problem

    def changed(self) -> bool:
        """Whether the file was changed or replaced (device, inode, size, time) since it was opened."""
        return self._opened.changed()

    def close(self) -> None:
        """Close the file; iterating is over."""
        self._opened.file.close()

    def __enter__(self) -> RowSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _only_for_text(name: str, given: dict[str, str | None]) -> None:
    for flag, value in given.items():
        if value is not None:
            raise UsageError(
                f"{flag} is for text, and {name} is a workbook", hint=f"leave {flag} out", code="usage_invalid_flag"
            )
