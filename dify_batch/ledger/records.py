"""What a journal record may look like: checked here, where it is read, so that whoever uses one need not.

A field of another type than its own is left out (the record still tells what happened); a record that lacks what its
event cannot do without is none. Events and fields that are not known pass: a newer version may have written them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dify_batch.ledger import formats

_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("event", "id", "at", "user", "mode", "run", "task", "conversation"), str),
    **dict.fromkeys(("kind", "code", "message", "reason"), str),
    **dict.fromkeys(("batch", "version", "host", "input", "policy", "status", "server", "app", "app_mode"), str),
    **dict.fromkeys(("workflow_id", "key", "salt", "input_path", "total_price", "currency", "trace"), str),
    **dict.fromkeys(("attempt", "pid", "count", "posts", "total_tokens", "limit"), int),
    **dict.fromkeys(("demo", "found", "shared"), bool),
    "delay": float,
    **dict.fromkeys(("summary", "line", "node"), dict),
    **dict.fromkeys(("forms", "again"), list),
}
_TYPES_OF_SENT: Mapping[str, type] = {**_TYPES, "server": float}
"""With "sent" it is the server's time, with "batch" its address."""
_RESULT = ("workflow_run_id", "status")
_MUST: Mapping[str, tuple[str, ...]] = {"started": ("id", "run"), "paused": ("id", "run"), "held": ("id", "line")}


def journal_record(line: bytes) -> dict[str, Any] | None:
    """The record of a journal line, or None for a line that is none (torn, or written over by a failing disk)."""
    record = formats.line_object(line)
    if record is None or not isinstance(record.get("event"), str):
        return None
    types = _TYPES_OF_SENT if record["event"] == "sent" else _TYPES
    wrong = [name for name, value in record.items() if (kind := types.get(name)) and type(value) is not kind]
    for name in wrong:
        del record[name]
    for name in _MUST.get(record["event"], ()):
        if name not in record:
            return None
    if "forms" in record:
        record["forms"] = forms(record["forms"])
    if "summary" in record:
        record["summary"] = {name: value for name, value in record["summary"].items() if type(value) in (int, float)}
    if "again" in record:
        record["again"] = [word for word in record["again"] if isinstance(word, str)]
    if "line" in record and not all(isinstance(record["line"].get(name), str) for name in _RESULT):
        return None
    return record


def paused_row(line: bytes) -> tuple[str, str, str | None, tuple[dict[str, Any], ...]] | None:
    """(id, run id, task id, forms) of a line of `.paused`; None where it names no run of a row."""
    record = formats.line_object(line) or {}
    row_id, run_id, task_id = (record.get(name) for name in ("id", "workflow_run_id", "task_id"))
    if not isinstance(row_id, str) or not isinstance(run_id, str):
        return None
    found = record.get("forms")
    return row_id, run_id, task_id if isinstance(task_id, str) else None, tuple(forms(found))


def forms(value: Any) -> list[dict[str, Any]]:
    """The forms of a record: texts are texts or None, lists are lists of texts; what is none of these goes."""
    shown = []
    for form in value if isinstance(value, list) else ():
        if isinstance(form, dict):
            one: dict[str, Any] = {}
            for name, item in form.items():
                if name in ("actions", "inputs"):
                    one[name] = [text for text in item if isinstance(text, str)] if isinstance(item, list) else []
                elif item is None or isinstance(item, str) or (name == "answer_body" and isinstance(item, dict)):
                    one[name] = item
            shown.append(one)
    return shown
