"""With what a batch ends, by what became of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.batch.ending import closing_error
from dify_batch.summary import Summary

ENDINGS: dict[str, tuple[Summary, str | None]] = {
    "all done": (Summary(rows=2, success=2), None),
    "one paused": (Summary(rows=2, success=1, paused=1), None),
    "one failed now": (Summary(rows=2, success=1, failed=1), "rows_failed"),
    "one of unknown fate": (Summary(rows=2, success=1, unknown=1), "rows_failed"),
    "one failed before": (Summary(rows=2, success=1, retry_waiting=1), "rows_failed"),
    "one goes on": (Summary(rows=2, success=1, running=1), "not_finished"),
    "one failed before, one goes on": (Summary(rows=2, retry_waiting=1, running=1), "rows_failed"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_a_batch_ends_with(name: str) -> None:
    summary, code = ENDINGS[name]
    error = closing_error(None, summary, results=Path("r.jsonl"), source="data.csv")
    assert (error.code if error else None) == code
