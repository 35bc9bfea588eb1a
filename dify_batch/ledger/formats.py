"""The formats of the batch's four files, in one place. Pure: bytes in, values out, and back.

    results.jsonl           one JSON object a line: a row that has its result
    results.jsonl.retry     one id a line: rows that ended without a result and can be replayed
    results.jsonl.paused    one JSON object a line: rows that wait for a person
    results.jsonl.journal   one JSON object a line: what was sent, started, failed and why

`results.jsonl.lock` beside them holds no data of the batch: it names the process that writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dify_batch.outcomes import PausedForm, RunRef, RunResult
from dify_batch.strictjson import json_object

BOM = b"\xef\xbb\xbf"
# Made once: json.dumps makes an encoder for each call that is not of the plainest kind.
_PLAIN = json.JSONEncoder(ensure_ascii=False)
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
STATUS_WORDS = {"succeeded": "success", "partial-succeeded": "partial-success"}
"""Dify's status, and the word for it in the results."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one output."""

    results: Path
    retry: Path
    paused: Path
    journal: Path
    lock: Path

    @classmethod
    def of(cls, output: Path) -> Paths:
        def beside(suffix: str) -> Path:
            return output.with_name(output.name + suffix)

        return cls(output, beside(".retry"), beside(".paused"), beside(".journal"), beside(".lock"))

    @property
    def data(self) -> tuple[Path, ...]:
        return (self.results, self.retry, self.paused, self.journal)


def utc(seconds: float, *, milliseconds: bool = False) -> str:
    """ISO 8601 in UTC with `Z`; `seconds` since 1970."""
    whole = math.floor(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z" if milliseconds else f"{_second(whole)}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    """Thousands of records are made in the same second."""
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def from_utc(text: str) -> float:
    """Seconds since 1970 of a time written by `utc`; raises ValueError."""
    return datetime.fromisoformat(text).timestamp()


def json_line(record: Mapping[str, Any], *, compact: bool = False) -> bytes:
    """One record as a line of UTF-8 JSON.

    A lone surrogate, which JSON can carry and UTF-8 cannot, is written as its escape.
    """
    try:
        return (_COMPACT if compact else _PLAIN).encode(record).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, separators=(",", ":") if compact else None).encode() + b"\n"


def result_line(row_id: str, inputs: Mapping[str, Any], result: RunResult, *, retry_count: int, now: float) -> bytes:
    """A line of the results. `now` stands in for the end of the run where the server gave none."""
    return json_line(
        {
            "id": row_id,
            "status": STATUS_WORDS[result.status],
            "inputs": inputs,
            "outputs": result.outputs,
            "workflow_run_id": result.ref.run_id,
            "executed_at": utc(now if result.finished_at is None else result.finished_at),
            "retry_count": retry_count,
            "elapsed_time": result.elapsed_time,
            "total_tokens": result.total_tokens,
            "total_steps": result.total_steps,
            "task_id": result.ref.task_id,
        }
    )


_FIRST_ID = re.compile(rb'\s*\{"id": ?"([^"\\]*)"')


def result_id(line: bytes) -> str | None:
    """The id of a line of the results, or None where the line is none of ours.

    The id stands first, so a line of megabytes costs no more than a short one; any other spelling is parsed whole.
    What makes a line whole is its closing brace, as a line cut short must not count as a result; a NUL, which no
    JSON has, is what a power cut leaves where data was not yet on the disk.
    """
    if (match := _FIRST_ID.match(line)) and line.rstrip().endswith(b"}") and b"\0" not in line:
        try:
            return match[1].decode()
        except UnicodeDecodeError:
            return None
    record = json_object(line)
    row_id = record.get("id") if record is not None else None
    return row_id if isinstance(row_id, str) else None


def retry_bytes(ids: Iterable[str]) -> bytes:
    return BOM + "".join(f"{row_id}\n" for row_id in ids).encode("utf-8", "surrogatepass")


def parse_retry(data: bytes) -> list[str]:
    """The ids of a `.retry` file, each once, in order. People edit it: blank lines, CRLF, no BOM are all fine.

    A file that is not UTF-8 raises UnicodeDecodeError, whose `object` is the file without its byte order mark: an id
    read wrongly would be a row never replayed.
    """
    text = data.removeprefix(BOM).decode("utf-8", "surrogatepass")
    lines = (line.strip(" \t\r\ufeff") for line in text.split("\n"))
    return list(dict.fromkeys(line for line in lines if line))


def paused_record(row_id: str, ref: RunRef, forms: Iterable[PausedForm], base_url: str) -> dict[str, Any]:
    """A line of `.paused`: what a person needs to answer the form. The first form stands at the top level."""
    all_forms = []
    for form in forms:
        shown = form.as_dict()
        if form.expires_at is not None:
            shown["expires_at"] = utc(form.expires_at)
        if form.token is not None:
            shown["answer_with"] = f"POST {base_url}/form/human_input/{form.token}"
        all_forms.append(shown)
    first = all_forms[0] if all_forms else {}
    return {
        "id": row_id,
        "workflow_run_id": ref.run_id,
        "task_id": ref.task_id,
        "form_token": first.get("form_token"),
        "expires_at": first.get("expires_at"),
        "forms": all_forms,
    }


_JOURNAL_HEAD = re.compile(rb'\{"event":"([a-z_]+)","id":"([^"\\]*)"')


def journal_head(line: bytes) -> tuple[bytes, bytes] | None:
    """(event, id) of a journal line at the cost of a glance; None where it has to be parsed."""
    match = _JOURNAL_HEAD.match(line)
    return (match[1], match[2]) if match else None


def parse_journal_line(line: bytes) -> dict[str, Any] | None:
    """A journal record, or None for a line that is none."""
    record = json_object(line)
    return record if record is not None and isinstance(record.get("event"), str) else None


def parse_any(line: bytes) -> bool:
    """Whether a line is whole JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
