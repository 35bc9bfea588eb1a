"""Row and Problem: what the input comes to, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dify_batch.text import show

MAX_ID = 1000
"""Longest id in characters: an id is repeated in four files and in every message about its row."""

ID_SPACE = " \t\r\n\v\f"
"""Stripped from both ends of an id, so that ids of a hand-edited `.retry` still match."""

_NOT_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Control characters and everything that some reader takes for the end of a line: `.retry` has one id a line.
A byte order mark within a file (of files put one after the other) is stripped there too. Lone surrogates cannot be
written as UTF-8."""

FATAL_KINDS = frozenset(
    {
        "empty_file",
        "header",
        "delimiter",
        "encoding",
        "unclosed_quote",
        "stray_text",
        "field_too_large",
        "missing_column",
        "double_column",
    }
)
"""Kinds that concern the whole file: what follows cannot be read, or no row could work."""

STRUCTURAL_KINDS = FATAL_KINDS | {
    "duplicate_id",
    "blank_id",
    "bad_id",
    "short_row",
    "long_row",
    "nul",
    "bad_json",
}
"""Kinds that concern the file; all others concern a value against the app's form."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Attributes:
        number: 1 for the first data record; blank lines do not count.
        line: the record's first physical line, from 1.
        id: without surrounding ASCII white space.
        values: header → cell; str from CSV, any JSON value from JSONL. The id column is there with the id.
    """

    number: int
    line: int
    id: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input: `kind` for machines and counting, `message` says what and the cure."""

    kind: str
    message: str
    line: int | None = None
    column: str | None = None
    id: str | None = None

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


def id_problem(id_: str, line: int, column: str) -> Problem | None:
    """Whether an already stripped id can be used. None if it can; a blank one cannot."""
    if not id_:
        return Problem("blank_id", "the id is blank; every row needs its own id", line, column)
    if len(id_) > MAX_ID:
        return Problem("bad_id", f"the id has {len(id_)} characters; at most {MAX_ID} are allowed", line, column)
    bad = None if id_.isprintable() else _NOT_IN_ID.search(id_)
    if bad is not None:
        what = f"U+{ord(bad.group()):04X}"
        return Problem(
            "bad_id",
            f"the id {show(id_)} contains {what}, which no id may have; remove it",
            line,
            column,
        )
    return None
