"""What the account surface's commands show: each object knows its forms, and none asks which one is wanted.

A form is a method of the object under the name in FORMS; the formats that a command offers stand with it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dify_batch.cli.channels import to_json, write
from dify_batch.errors import UsageError
from dify_batch.text import one_line, printable

FALLBACK_WIDTH = 120  # columns where nothing tells how wide the terminal is


class View(Protocol):
    """What is shown at once. `data` is JSON-ready."""

    def data(self) -> Any: ...
    def text(self, width: int) -> str: ...


def json_of(view: View, width: int) -> str:
    return to_json(view.data())


def yaml_of(view: View, width: int) -> str:
    import yaml

    text: str = yaml.safe_dump(view.data(), allow_unicode=True, sort_keys=False)
    return text.rstrip("\n")


def text_of(view: View, width: int) -> str:
    return view.text(width)


FORMS: Mapping[str, Callable[[View, int], str]] = {"text": text_of, "json": json_of, "yaml": yaml_of}
MACHINE = frozenset({"json", "yaml"})
"""Formats whose success says nothing on standard error, and whose failure is one JSON object there."""


def check_format(given: Mapping[str, Any], allowed: Sequence[str]) -> str:
    """The format asked for, the first of `allowed` where none is. Raises UsageError."""
    wanted = str(given.get("format", allowed[0]))
    if wanted not in allowed:
        raise UsageError(
            f'-o: "{wanted}" is not supported by this command',
            code="usage_invalid_flag",
            hint=f"one of {', '.join(allowed)}",
        )
    return wanted


def terminal_width() -> int:
    return shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns


def present(view: View, form: str) -> None:
    """Writes an object to standard output in a format of FORMS."""
    write(sys.stdout, shown(FORMS[form](view, terminal_width())) + "\n")


def shown(text: str) -> str:
    """Text for standard output: a terminal gets no control characters from a server, a pipe gets it as it is."""
    return printable(text, keep="\n\t") if sys.stdout.isatty() else text


def note(text: str) -> None:
    """A line for people, on standard error."""
    write(sys.stderr, printable(text, keep="\n\t") + "\n")


class Rows(Protocol):
    """A list that is shown while it arrives. `quiet`: nothing is said beside it."""

    quiet: bool

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self, *, total: int, limit: int, error: Mapping[str, Any] | None) -> None: ...


Column = tuple[str, Callable[[Mapping[str, Any]], str]]
"""Title, and the cell of a row."""


class Table:
    """Rows as columns. Their widths are those of the first page; what is longer moves its own line only. The last
    column is cut to the terminal with `cut`."""

    quiet = False

    def __init__(self, columns: Sequence[Column], *, cut: bool) -> None:
        self._columns = columns
        self._cut = cut
        self._widths: list[int] = []

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from rich.cells import cell_len, set_cell_size

        cells = [[one_line(cell(row), 1000) for _, cell in self._columns] for row in rows]
        lines = cells
        if not self._widths:
            titles = [title for title, _ in self._columns]
            lines = [titles, *cells]
            self._widths = [max(cell_len(line[i]) for line in lines) for i in range(len(titles))]
        for line in lines:
            *front, last = line
            padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(front, self._widths, strict=False)]
            text = "  ".join(padded)
            room = terminal_width() - cell_len(text) - 2
            if self._cut and cell_len(last) > room > 0:
                last = set_cell_size(last, room - 1) + "…"
            write(sys.stdout, f"{text}  {last}".rstrip() + "\n")

    def close(self, *, total: int, limit: int, error: Mapping[str, Any] | None) -> None:
        if not self._widths and error is None:
            self.take([])


class Names:
    """Ids, one a line: for xargs."""

    quiet = False

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write(sys.stdout, "".join(f"{row['id']}\n" for row in rows))

    def close(self, *, total: int, limit: int, error: Mapping[str, Any] | None) -> None:
        """Nothing is left to be said."""


class Envelope:
    """All rows in one document, with the error where they are not all."""

    quiet = True

    def __init__(self, form: str) -> None:
        self._form = form
        self._rows: list[Mapping[str, Any]] = []
        self._rest: dict[str, Any] = {}

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows += rows

    def close(self, *, total: int, limit: int, error: Mapping[str, Any] | None) -> None:
        if error is not None and not self._rows:
            return  # nothing to show: the error alone says it
        self._rest = {"page": 1, "limit": limit, "total": total, "has_more": total > len(self._rows)}
        if error is not None:
            self._rest["error"] = dict(error)
        present(self, self._form)

    def data(self) -> Any:
        return {**self._rest, "data": [dict(row) for row in self._rows]}

    def text(self, width: int) -> str:
        return to_json(self.data())


def description(row: Mapping[str, Any]) -> str:
    return str(row.get("description") or "")


def tags_of(row: Mapping[str, Any]) -> str:
    return ",".join(str(tag.get("name")) for tag in row.get("tags") or () if isinstance(tag, dict))


def cell(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: str(row.get(name) or "")


def changed(row: Mapping[str, Any]) -> str:
    return str(row.get("updated_at") or "")[:16].replace("T", " ")


COLUMNS: tuple[Column, ...] = (
    ("NAME", cell("name")),
    ("ID", cell("id")),
    ("MODE", cell("mode")),
    ("UPDATED", changed),
)
WORKSPACE: Column = ("WORKSPACE", lambda row: str(row.get("workspace_name") or row.get("workspace_id") or ""))
WIDE: tuple[Column, ...] = (("TAGS", tags_of), ("BY", cell("created_by_name")), WORKSPACE)
LAST: Column = ("DESCRIPTION", description)


def table(*, with_workspace: bool) -> Rows:
    return Table([*([WORKSPACE] if with_workspace else []), *COLUMNS, LAST], cut=True)


def wide(*, with_workspace: bool) -> Rows:
    first = [WORKSPACE] if with_workspace else []
    return Table([*first, *COLUMNS, *(each for each in WIDE if each not in first), LAST], cut=False)


LISTS: Mapping[str, Callable[..., Rows]] = {
    "table": table,
    "wide": wide,
    "name": lambda with_workspace: Names(),
    "json": lambda with_workspace: Envelope("json"),
    "yaml": lambda with_workspace: Envelope("yaml"),
}


class One:
    """One row, for machines."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def data(self) -> Any:
        return dict(self._row)

    def text(self, width: int) -> str:
        return str(self._row.get("id") or "")


SINGLE: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "table": lambda row: table(with_workspace=False).take([row]),
    "wide": lambda row: wide(with_workspace=False).take([row]),
    "name": lambda row: present(One(row), "text"),
    "json": lambda row: present(One(row), "json"),
    "yaml": lambda row: present(One(row), "yaml"),
}
"""How one row is shown in each format."""
