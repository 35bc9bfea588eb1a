"""The formats of the batch's files, in one place. Pure: bytes in, values out, and back.

    results.jsonl           one JSON object a line: a row that has its result
    results.jsonl.retry     one id a line: rows that ended without a result and can be replayed
    results.jsonl.paused    one JSON object a line: rows that wait for a person
    results.jsonl.superseded  the lines of rows that were run again although they were done
    results.jsonl.journal   one JSON object a line: what was sent, started, failed and why

`results.jsonl.lock` beside them holds no data of the batch: it names the process that writes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dify_batch.ids import ID_SPACE, read_id
from dify_batch.outcomes import PausedForm, RunRef, RunResult
from dify_batch.strictjson import encoder, json_object

BOM = b"\xef\xbb\xbf"
_PLAIN = encoder()
_COMPACT = encoder(compact=True)
# What some readers take for the end of a line (str.splitlines, Node's readline): the same JSON as an escape.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
STATUS_WORDS = {"succeeded": "success", "partial-succeeded": "partial-success"}
"""Dify's status, and the word for it in the results."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one output."""

    results: Path
    retry: Path
    paused: Path
    superseded: Path
    journal: Path
    lock: Path

    @classmethod
    def of(cls, output: Path) -> Paths:
        """Those beside the file that `output` leads to: the same results under two names are one output."""
        if os.path.islink(output):
            output = Path(os.path.realpath(output))

        def beside(suffix: str) -> Path:
            return output.with_name(output.name + suffix)

        return cls(
            output, beside(".retry"), beside(".paused"), beside(".superseded"), beside(".journal"), beside(".lock")
        )

    @property
    def data(self) -> tuple[Path, ...]:
        return (self.results, self.retry, self.paused, self.superseded, self.journal)

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.data, self.lock)


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
    try:
        return datetime.fromisoformat(text).timestamp()
    except (OverflowError, OSError) as error:  # of years before 1970 that some systems cannot hold
        raise ValueError(str(error)) from None


def server_time(seconds: object) -> str | None:
    """A time that a server gave, in seconds since 1970, as `utc` writes it; None for what is no such time.

    Milliseconds are none: they would be a year far from now, which no calendar has.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < _LAST_SECOND:
        return None
    return utc(seconds)


_LAST_SECOND = 253_402_300_800  # the year 10,000


def json_line(
    record: Mapping[str, Any], *, compact: bool = False, not_finite: Callable[[], object] | None = None
) -> bytes:
    """One record as a line of strict JSON (RFC 8259) in UTF-8.

    What JSON can carry and UTF-8 cannot, a lone surrogate, is written as its escape, as is what some readers take for
    the end of a line. NaN and infinities, which JSON has not, become texts, and `not_finite` is called.
    """
    encode = _COMPACT if compact else _PLAIN
    try:
        text = encode(record)
    except ValueError:  # NaN or an infinity
        text = encode(finite(record))
        if not_finite is not None:
            not_finite()
    if not text.isascii():
        if "\u2028" in text or "\u2029" in text or "\x85" in text:
            text = text.translate(_LINE_ENDS)
        try:
            return text.encode() + b"\n"
        except UnicodeEncodeError:
            return json.dumps(json.loads(text), separators=(",", ":") if compact else None).encode() + b"\n"
    return text.encode() + b"\n"


def finite(value: Any) -> Any:
    """A JSON value with "NaN", "Infinity" and "-Infinity" as texts where a number is none that JSON has."""
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def result_line(
    row_id: str,
    inputs: Mapping[str, Any],
    result: RunResult,
    *,
    retry_count: int,
    now: float,
    trace_id: str | None = None,
    queue_time: float | None = None,
    copy_of: str | None = None,
    not_finite: Callable[[], object] | None = None,
) -> bytes:
    """A line of the results. `copy_of`: the row whose run it shares. `now` stands in for the end of the run where the
    server gave none that is a time. `queue_time`: seconds from the POST to the start, where they are known.
    `not_finite` is called where a number had to become a text."""
    return json_line(
        {
            "id": row_id,
            "status": STATUS_WORDS[result.status],
            "inputs": inputs,
            "outputs": result.outputs,
            "workflow_run_id": result.ref.run_id,
            "executed_at": server_time(result.finished_at) or utc(now),
            "retry_count": retry_count,
            "elapsed_time": result.elapsed_time,
            "total_tokens": result.total_tokens,
            "total_steps": result.total_steps,
            "task_id": result.ref.task_id,
            "total_price": result.total_price,
            "currency": result.currency,
            **({} if result.prices is None else {"prices": result.prices}),
            "workflow_id": result.workflow_id,
            "trace_id": trace_id,
            "queue_time": queue_time,
            **({} if copy_of is None else {"copy_of": copy_of}),
        },
        not_finite=not_finite,
    )


_HEAD = re.compile(rb'\s*\{"id": ?"([^"\\]*)", ?"status": ?"(?:success|partial-success)"')
_WORDS = frozenset(STATUS_WORDS.values())


def result_id(line: bytes) -> str | None:
    """The id of a line of the results, or None where the line is none of ours.

    Id and status stand first, so a line of megabytes costs no more than a short one; any other spelling is parsed
    whole. What makes a line whole is its closing brace, as a line cut short must not count as a result; a NUL, which no
    JSON has, is what a power cut leaves where data was not yet on the disk.
    """
    if (match := _HEAD.match(line)) and line.rstrip().endswith(b"}") and b"\0" not in line:
        try:
            return read_id(match[1].decode())
        except UnicodeDecodeError:
            return None
    record = line_object(line)
    return None if record is None else id_of_result(record)


def line_object(line: bytes) -> dict[str, Any] | None:
    """The object of a line of one of our files, None for what is none. The json module would take UTF-16 as well, and
    a file in it has lines that end elsewhere."""
    try:
        return json_object(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None


def id_of_result(record: Mapping[str, Any]) -> str | None:
    """The id of a result, read as that of an input is; None for what is no result of ours."""
    return read_id(record.get("id")) if record.get("status") in _WORDS else None


_VERSION = b'"workflow_id": "'
_VERSION_WITHIN = 400  # bytes at the end of a line that hold it


def result_version(line: bytes, guess: bytes | None = None) -> bytes | None:
    """The version of the workflow that answered, of a result line; None where it does not say. `guess`: what it most
    likely is, which makes it quicker."""
    start = line.rfind(_VERSION, -_VERSION_WITHIN)
    if start < 0:
        return None
    start += len(_VERSION)
    if guess is not None and line.startswith(guess, start) and line.find(b"}", start) == len(line) - 1:
        end = start + len(guess)
        if line[end : end + 1] == b'"':
            return guess
    end = line.find(b'"', start)
    if end < 0:
        return None
    rest = line[end:].rstrip()  # numbers and names; an output that holds the same words has more braces after them
    return line[start:end] if rest.find(b"}") == len(rest) - 1 else None


_COPY = re.compile(rb', "queue_time": null, "copy_of": "(?:[^"\\]|\\.)*"\}\s*\Z')
_COPY_WITHIN = 7000  # bytes: an id has 1,000 characters at most, each in six bytes at most


def is_copy(line: bytes) -> bool:
    """Whether a line of the results is the result of another row (--dedupe)."""
    return line.endswith(b'"}') and _COPY.search(line, max(0, len(line) - _COPY_WITHIN)) is not None


_PLAIN_HEAD = re.compile(rb'\{"id": "([^"\\]*)", "status": "(?:success|partial-success)", "inputs": ')
_OUTPUTS = b', "outputs": '


def glance(line: bytes) -> tuple[str | None, bytes | None]:
    """The id of a line of the results, as `result_id` has it, and the text of its inputs, None where they take a closer
    look."""
    match = _PLAIN_HEAD.match(line)
    if match and line[-1:] == b"}" and b"\0" not in line:
        begin, name = match.end(), match[1]
        try:
            row_id = str(name, "utf-8").strip(ID_SPACE)
        except UnicodeDecodeError:
            return None, None
        end = line.find(_OUTPUTS, begin)
        return row_id, line[begin:end] if end >= 0 else None
    return result_id(line), None


def retry_bytes(ids: Iterable[str]) -> bytes:
    return BOM + "".join(f"{row_id}\n" for row_id in ids).encode("utf-8", "surrogatepass")


def forms_shown(forms: Iterable[PausedForm], base_url: str, user: str) -> list[dict[str, Any]]:
    """Forms as `.paused` and the journal have them, each with the whole request that answers it.

    `answer_body` is complete but for the person's words: the action is the first of `actions`. `user` must be that of
    the run.
    """
    shown = []
    for form in forms:
        one = form.as_dict() | {"expires_at": server_time(form.expires_at)}
        if form.token is not None:
            one["answer_with"] = f"POST {base_url}/form/human_input/{form.token}"
            one["answer_body"] = {
                "action": form.actions[0] if form.actions else "",
                "inputs": dict.fromkeys(form.inputs, ""),
                "user": user,
            }
        shown.append(one)
    return shown


def paused_record(row_id: str, ref: RunRef | None, forms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line of `.paused`: what a person needs to answer the form. The first form stands at the top level."""
    first = forms[0] if forms else {}
    return {
        "id": row_id,
        "workflow_run_id": ref and ref.run_id,
        "task_id": ref and ref.task_id,
        "form_token": first.get("form_token"),
        "expires_at": first.get("expires_at"),
        "forms": list(forms),
    }


_JOURNAL_HEAD = re.compile(rb'\{"event":"([a-z_]+)","id":"([^"\\]*)"')


def journal_head(line: bytes) -> tuple[bytes, bytes] | None:
    """(event, id) of a journal line at the cost of a glance; None where it has to be parsed."""
    match = _JOURNAL_HEAD.match(line)
    return (match[1], match[2]) if match else None


def parse_any(line: bytes) -> bool:
    """Whether a line is whole JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
