"""Tells a history: what happened, then each row that went wrong from both sides, and how to play it again."""

from __future__ import annotations

from collections.abc import Iterable

from tests.world.history import History
from tests.world.run import Verdict


def story(history: History, verdict: Verdict) -> str:
    lines = [*verdict.told, *(f"VIOLATION ({v.kind}): {v.text}" for v in verdict.violations)]
    for row, told in verdict.rows.items():
        lines += [f"row {row}:", *(f"  {line}" for line in told)]
    return "\n".join([*lines, f"history: {history.to_json()}"])


def again(history: History) -> str:
    """The command that plays it again."""
    return f"python -m tests.world --history - -v <<< '{history.to_json()}'"


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Columns, aligned."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
