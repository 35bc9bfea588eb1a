"""Row, Problem and Notes: what the input comes to, what is wrong with it, and what is worth a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dify_batch.ids import id_fault
from dify_batch.summary import Notice
from dify_batch.text import count, show

ADDED = ("_status", "_code", "_reason", "_run_id", "_time", "_node", "_outputs")
"""The columns that `export --failed` adds to a table; they are no inputs, so that it is accepted again as it stands."""
ADDED_ALWAYS = frozenset({"_status", "_code", "_reason", "_run_id", "_time"})
"""Those that each version has added: by them such a table is known."""

FATAL_KINDS = frozenset(
    {
        "empty_file",
        "not_a_table",
        "header",
        "delimiter",
        "encoding",
        "unclosed_quote",
        "stray_text",
        "field_too_large",
        "missing_column",
        "double_column",
        "no_ids",
        "alike_id",
    }
)
"""Kinds that concern the whole file: what follows cannot be read, or no row could work."""

STRUCTURAL_KINDS = FATAL_KINDS | {
    "header_again",
    "duplicate_id",
    "blank_id",
    "bad_id",
    "short_row",
    "long_row",
    "nul",
    "bad_json",
}
"""Kinds that concern the file; all others concern a value against the app's form."""


@dataclass(slots=True)
class Row:
    """One record. Nobody changes it once it is made (frozen, it would cost a fifth of reading a file).

    Attributes:
        number: 1 for the first data record; blank lines do not count.
        line: the record's first physical line, from 1; of a spreadsheet its row.
        id: without surrounding ASCII white space.
        values: header → cell; str from CSV, any JSON value from JSONL. The id column is there with the id.
    """

    number: int
    line: int
    id: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input: `kind` for machines and counting, `message` says what and the cure.

    `width`: of a record with too few or too many cells, how many it has.
    """

    kind: str
    message: str
    line: int | None = None
    column: str | None = None
    id: str | None = None
    width: int | None = field(default=None, compare=False, repr=False)

    @property
    def fatal(self) -> bool:
        """Whether it is about the whole file, so that leaving out a row does not help."""
        return self.kind in FATAL_KINDS

    @property
    def structural(self) -> bool:
        """Whether it is about the file, not about a value against the form."""
        return self.kind in STRUCTURAL_KINDS

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; keys without a value are left out."""
        pairs = {
            "kind": self.kind,
            "message": self.message,
            "line": self.line,
            "column": self.column,
            "id": self.id,
        }
        return {key: value for key, value in pairs.items() if value is not None}

    def __str__(self) -> str:
        where = []
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.column is not None:
            where.append(f"column {show(self.column)}")
        if self.id is not None:
            where.append(f"row id {show(self.id)}")
        return f"{', '.join(where)}: {self.message}" if where else self.message


@dataclass(slots=True)
class Note:
    """How often something was met, and where first."""

    times: int = 0
    line: int = 0
    example: str = ""


@dataclass(slots=True)
class Notes:
    """What one pass met that is no error, and that a person should know. `notices` gives the warnings."""

    padding: Note = field(default_factory=Note)
    lacking: Note = field(default_factory=Note)
    errors: dict[str, Note] = field(default_factory=dict)
    quoted: dict[str, Note] = field(default_factory=dict)

    def pad(self, line: int) -> None:
        """Cells or records of nothing were passed over."""
        _meet(self.padding, line)

    def lack(self, line: int) -> None:
        """Optional cells at a record's end are not there, and were taken for empty."""
        _meet(self.lacking, line)

    def error(self, column: str, line: int, value: str) -> None:
        """A cell is an error value of a spreadsheet."""
        _meet(self.errors.setdefault(column, Note()), line, value)

    def quote(self, column: str, line: int, value: str) -> None:
        """A cell begins with a blank and a quote, so that the quotes are a part of it."""
        _meet(self.quoted.setdefault(column, Note()), line, value)

    def notices(self) -> Iterator[Notice]:
        note = self.padding
        if note.times:
            yield Notice(
                "empty_cells",
                f"{count(note.times, 'record has', 'records have')} empty cells beyond the table, or nothing else, as "
                f"a spreadsheet leaves them (first on line {note.line}); they are passed over",
            )
        note = self.lacking
        if note.times:
            yield Notice(
                "missing_cells",
                f"{count(note.times, 'row ends', 'rows end')} before the last columns (first on line {note.line}); "
                "these are optional, and are taken for empty",
            )
        for column, note in self.errors.items():
            yield Notice(
                "spreadsheet_errors",
                f"column {show(column)}: {count(note.times, 'cell is', 'cells are')} an error of a spreadsheet, such "
                f"as {note.example} on line {note.line}; mend the formula, or the text is sent as it is",
            )
        for column, note in self.quoted.items():
            yield Notice(
                "quotes_in_text",
                f"column {show(column)}: {count(note.times, 'cell begins', 'cells begin')} with a blank and a quote, "
                f"such as {show(note.example)} on line {note.line}; the quotes are sent as a part of the text: "
                "remove the blank before them",
            )


def _meet(note: Note, line: int, example: str = "") -> None:
    note.times += 1
    if note.times == 1:
        note.line, note.example = line, example


def id_problem(id_: str, line: int, column: str) -> Problem | None:
    """Whether an already stripped id can be used. None if it can; a blank one cannot."""
    fault = id_fault(id_)
    if fault is None:
        return None
    kind, what = fault
    if kind == "blank_id":
        return Problem(kind, f"{what}; every row needs its own id", line, column)
    if what.startswith("contains"):
        what = f"the id {show(id_)} {what}; remove it"
    return Problem(kind, what, line, column)
