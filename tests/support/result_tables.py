"""Results written by hand, and the tables made of them read back."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl

from dify_batch.ledger.formats import BOM, Paths, json_line
from dify_batch.reports.export import export

JOURNAL: list[dict[str, Any]] = [
    {"event": "batch", "batch": "b", "input": "data.csv", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "sent", "id": "a", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "sent", "id": "f", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "started", "id": "f", "run": "run-f", "task": "t", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "f", "kind": "failed", "code": "run_failed", "message": "=boom()", "run": "run-f"},
    {"event": "sent", "id": "u", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "u", "kind": "unknown", "code": "outcome_unknown", "message": "closed log"},
    {"event": "sent", "id": "p", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "paused", "id": "p", "run": "run-p", "task": "t", "forms": [], "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "a", "kind": "failed", "code": "run_failed", "message": "earlier"},
]


def result(row_id: str, inputs: dict[str, Any], outputs: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": row_id,
        "status": "success",
        "inputs": {"id": row_id} | inputs,
        "outputs": outputs,
        "workflow_run_id": f"run-{row_id}",
        "executed_at": "2026-11-22T02:00:00Z",
        "retry_count": 0,
        "elapsed_time": 1.5,
        "total_tokens": 7,
        "total_steps": 3,
        "task_id": f"task-{row_id}",
    } | more


def put(folder: Path, records: Sequence[dict[str, Any]], journal: Sequence[dict[str, Any]] = ()) -> Path:
    output = folder / "results.jsonl"
    output.write_bytes(BOM + b"".join(map(json_line, records)))
    Paths.of(output).journal.write_bytes(b"".join(json_line(record, compact=True) for record in journal))
    return output


def read_csv(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    assert data.startswith(BOM)
    assert not data[3:].startswith(BOM)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def read_xlsx(path: Path) -> list[list[Any]]:
    book = openpyxl.load_workbook(path)
    try:
        return [[cell.value for cell in row] for row in book.active.iter_rows()]  # type: ignore[union-attr]
    finally:
        book.close()


def undo(text: str) -> str:
    """A cell's text without the quote that made it safe."""
    return text[1:] if re.match("'+[=+\\-@\t\r\n＝＋－＠]", text) else text


def table(folder: Path, *records: dict[str, Any]) -> list[dict[str, str]]:
    output = put(folder, records)
    export(output, folder / "t.csv")
    return read_csv(folder / "t.csv")
