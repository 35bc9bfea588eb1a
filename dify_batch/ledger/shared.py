"""Results that other rows share (--dedupe), read back from the results."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dify_batch.ledger import formats
from dify_batch.ledger.state import lines_of
from dify_batch.outcomes import RunRef, RunResult

_STATUS = {word: status for status, word in formats.STATUS_WORDS.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """`inputs`: as sent; `first`: the row that ran."""

    inputs: Mapping[str, Any]
    result: RunResult
    first: str


def read_shared(results: Path, ids: Container[str]) -> Iterator[tuple[str, Answer]]:
    """(id, its answer) of the wanted rows, as far as their lines tell it. Raises StorageError."""
    for line, _ in lines_of(results):
        row_id = formats.result_id(line)
        if row_id is not None and row_id in ids:
            answer = _answer(row_id, formats.line_object(line) or {})
            if answer is not None:
                yield row_id, answer


def _answer(row_id: str, record: Mapping[str, Any]) -> Answer | None:
    inputs, run_id, first = record.get("inputs"), record.get("workflow_run_id"), record.get("copy_of")
    if not isinstance(inputs, dict) or not isinstance(run_id, str) or "outputs" not in record:
        return None
    task_id, version = record.get("task_id"), record.get("workflow_id")
    try:
        ended = int(formats.from_utc(str(record.get("executed_at"))))
    except ValueError:
        ended = None
    result = RunResult(
        RunRef(run_id, task_id if isinstance(task_id, str) else None),
        _STATUS[str(record["status"])],
        record["outputs"],
        finished_at=ended,
        workflow_id=version if isinstance(version, str) else None,
    )
    return Answer(inputs, result, first if isinstance(first, str) else row_id)
