"""What a person does to the files of a batch between two invocations."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.world.history import Edit, History
from tests.world.reader import BOM


@dataclass
class Desk:
    """The table and the output that a person works with. `table`: id -> query, as the CSV has it now."""

    folder: Path
    table: dict[str, str]
    added: int = 0

    @property
    def input(self) -> Path:
        return self.folder / "data.csv"

    @property
    def output(self) -> Path:
        return self.folder / "results.jsonl"

    def beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)

    def write_table(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["id", "query"])
        writer.writerows(self.table.items())
        self.input.write_text(text.getvalue())

    def add_row(self) -> str:
        self.added += 1
        row = f"new{self.added}"
        self.table[row] = f"question {row}"
        self.write_table()
        return row


def new_desk(folder: Path, history: History) -> Desk:
    desk = Desk(folder, {row.id: row.query for row in history.rows})
    desk.write_table()
    return desk


def edit(desk: Desk, what: Edit) -> None:
    EDITS[what.what](desk, what.row)


def _add(desk: Desk, row: int) -> None:
    desk.add_row()


def _remove(desk: Desk, row: int) -> None:
    if len(desk.table) > 1:
        # Never the first: a table that has none of the output's rows is taken for another table.
        del desk.table[list(desk.table)[1 + row % (len(desk.table) - 1)]]
        desk.write_table()


def _change(desk: Desk, row: int) -> None:
    name = list(desk.table)[row % len(desk.table)]
    desk.table[name] += " please"
    desk.write_table()


def _retry_lines(desk: Desk) -> list[str]:
    path = desk.beside(".retry")
    return path.read_bytes().removeprefix(BOM).decode().splitlines() if path.exists() else []


def _take_out(desk: Desk, row: int) -> None:
    lines = _retry_lines(desk)
    if lines:
        del lines[row % len(lines)]
        desk.beside(".retry").write_text("\n".join(lines) + "\n" if lines else "")


def _ghost(desk: Desk, row: int) -> None:
    desk.beside(".retry").write_text("\n".join([*_retry_lines(desk), f"ghost{row}"]))


def _windows(desk: Desk, row: int) -> None:
    lines = _retry_lines(desk)
    if lines:
        desk.beside(".retry").write_bytes("\r\n\r\n".join(lines).encode())


def _lose_result(desk: Desk, row: int) -> None:
    """A line of the results is deleted: its run is known, and fetched again."""
    if desk.output.exists():
        lines = desk.output.read_bytes().splitlines(keepends=True)
        if lines:
            nth = row % len(lines)
            head = BOM if nth == 0 and lines[0].startswith(BOM) and len(lines) > 1 else b""
            del lines[nth]
            desk.output.write_bytes(head + b"".join(lines))


EDITS: dict[str, Callable[[Desk, int], None]] = {
    "table_add": _add,
    "table_remove": _remove,
    "table_change": _change,
    "retry_take_out": _take_out,
    "retry_ghost": _ghost,
    "retry_windows": _windows,
    "results_lose": _lose_result,
}
