"""Files of a batch written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dify_batch.ledger.formats import BOM, Paths, json_line, retry_bytes

AT = "2026-11-22T02:00:00.000Z"
NOW = 1795312800.0  # 2026-11-22T02:00:00Z
UUIDS = ("3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")

Record = dict[str, Any]


def done_line(row_id: str, status: str = "success") -> bytes:
    return json_line(
        {"id": row_id, "status": status, "inputs": {"id": row_id}, "outputs": {"status": "partial-success"}}
    )


def batch(source: str = "data.csv") -> Record:
    return {"event": "batch", "batch": "b", "pid": 1, "host": "h", "input": source, "at": AT}


def sent(row_id: str) -> Record:
    return {"event": "sent", "id": row_id, "attempt": 1, "user": "u", "mode": "streaming", "at": AT}


def started(row_id: str, run: str) -> Record:
    return {"event": "started", "id": row_id, "run": run, "task": "t", "at": AT}


def failed(row_id: str, message: str, *, kind: str = "failed", code: str = "run_failed") -> Record:
    return {"event": "failed", "id": row_id, "kind": kind, "code": code, "message": message, "at": AT}


def end(reason: str = "finished", **summary: int) -> Record:
    return {"event": "end", "reason": reason, "summary": summary, "at": "2026-11-22T02:07:00.000Z"}


def put(folder: Path, journal: Iterable[Record], results: Iterable[bytes] = (), retry: Iterable[str] = ()) -> Path:
    output = folder / "results.jsonl"
    paths = Paths.of(output)
    paths.results.write_bytes(BOM + b"".join(results))
    paths.journal.write_bytes(b"".join(json_line(record, compact=True) for record in journal))
    if ids := list(retry):
        paths.retry.write_bytes(retry_bytes(ids))
    return output
