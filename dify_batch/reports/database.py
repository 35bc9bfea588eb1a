"""Results as an SQLite database: the table `rows`, and `failures`, both with an index on id and status."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger.disk import NewFile
from dify_batch.reports.tables import Column, Table, json_text

APPLICATION = 0x64696679  # "dify", in the header of the file: what an export wrote is known by it
_AT_ONCE = 1_000  # rows of one statement
_MOST_COLUMNS = 2_000  # SQLite's limit


_FAILURES = (
    "CREATE TABLE failures AS SELECT id, status, error, workflow_run_id, retry_count FROM rows "
    "WHERE status NOT IN ('success', 'partial-success')",
    "CREATE INDEX failures_id ON failures (id)",
    "CREATE INDEX failures_status ON failures (status)",
)


class DatabaseTable(Table):
    """The rows go to `rows`; those whose status is no success to `failures` as well, with their error. Nested values
    are JSON, for json_extract. Raises UsageError where there are too many columns."""

    def __init__(self, new: NewFile, columns: Sequence[Column]) -> None:
        if len(columns) > _MOST_COLUMNS:
            raise UsageError(
                f"the table has {len(columns):,} columns; SQLite holds {_MOST_COLUMNS:,}",
                hint="give a .csv: -o table.csv",
            )
        names = _names(columns)
        self._base = sqlite3.connect(new.path, isolation_level=None)
        self._base.execute("PRAGMA journal_mode = OFF")  # a new file: what goes wrong is thrown away whole
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute(f"PRAGMA application_id = {APPLICATION}")
        self._base.execute("BEGIN")
        self._base.execute(f"CREATE TABLE rows ({', '.join(names)})")
        self._insert = f"INSERT INTO rows VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - marks alone
        status = next((name for name in ("status", "_status") if f'"{name}"' in names), None)
        self._at_end = [f"CREATE INDEX rows_id ON rows ({names[0]})"]
        if status is not None:
            self._at_end.append(f'CREATE INDEX rows_status ON rows ("{status}")')
        if status == "status":
            self._at_end += _FAILURES
        self._waiting: list[list[Any]] = []

    @staticmethod
    def wrote(head: bytes) -> bool:
        return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION.to_bytes(4, "big")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                for statement in self._at_end:
                    self._base.execute(statement)
                self._base.execute("COMMIT")
        except sqlite3.Error as problem:
            raise StorageError(f"the database cannot be written: {problem}") from problem
        finally:
            self._base.close()

    def write(self, cells: Iterable[Any], where: str) -> None:
        self._waiting.append([_value(cell) for cell in cells])
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        try:
            self._base.executemany(self._insert, self._waiting)
        except sqlite3.Error as problem:
            raise StorageError(f"the database cannot be written: {problem}") from problem
        self._waiting.clear()

    def notes(self) -> tuple[str, ...]:
        return ()


def _names(columns: Sequence[Column]) -> list[str]:
    """Quoted names, each once: SQLite minds no case."""
    taken: set[str] = set()
    names = []
    for column in columns:
        name = plain = column.name.replace("\0", "").encode("utf-8", "backslashreplace").decode() or "_"
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.lower())
        names.append('"' + name.replace('"', '""') + '"')
    return names


def _value(value: Any) -> Any:
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    text = value if isinstance(value, str) else json_text(value)
    return text.encode("utf-8", "backslashreplace").decode()
