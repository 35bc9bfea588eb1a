"""Whether two values mean the same, and which fields of two results differ. Pure.

Values are compared as JSON: the order of keys, the spelling of a number (1, 1.0, 1e0) and blanks do not count. A text
that holds a JSON object or list is compared as that: some versions of Dify give outputs as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = object()
"""Stands for the value of a field that one side does not have. No value of JSON is it."""

_NAMES_OF_A_TALK = ("conversation_id", "message_id")
"""What a row's answer is called on the server: another one each time, so that it is no change."""

_DEPTH = 60  # of nested values; deeper ones are compared as text


@dataclass(frozen=True, slots=True)
class Change:
    """A field whose values differ; either may be MISSING."""

    field: str
    a: Any
    b: Any


def same(a: Any, b: Any, tolerance: float = 0.0, *, depth: int = 0) -> bool:
    """Whether two JSON values are the same. `tolerance`: how far apart numbers may be, as an absolute difference."""
    if a is MISSING or b is MISSING:
        return a is b
    a, b = _parsed(a), _parsed(b)
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or abs(a - b) <= tolerance or _close(a, b, tolerance)
    if depth > _DEPTH:
        return bool(a == b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance, depth=depth + 1) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, tolerance, depth=depth + 1) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _close(a: float, b: float, tolerance: float) -> bool:
    """0.7 and 0.6 are 0.1 apart for a person, and a little more in binary."""
    return tolerance > 0 and abs(abs(a - b) - tolerance) <= 1e-9 * max(abs(a), abs(b), tolerance)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def changes(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.0) -> list[Change]:
    """The fields of two results that differ, in the order in which they stand: of `status`, then of the outputs."""
    found = []
    if a.get("status") != b.get("status"):
        found.append(Change("status", a.get("status"), b.get("status")))
    left, right = outputs(a), outputs(b)
    if _talk(left) and _talk(right):
        left, right = (
            {name: value for name, value in side.items() if name not in _NAMES_OF_A_TALK} for side in (left, right)
        )
    for name in (*left, *(name for name in right if name not in left)):
        x, y = left.get(name, MISSING), right.get(name, MISSING)
        if not same(x, y, tolerance):
            found.append(Change(name, x, y))
    return found


def _talk(outputs: Mapping[str, Any]) -> bool:
    """Whether these are the outputs of an app that talks."""
    return "answer" in outputs and "message_id" in outputs


def same_inputs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two results are of the same inputs; the row's id, which may stand among them, is no input."""
    return same(inputs(a), inputs(b))


def inputs(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("inputs")
    if not isinstance(found, dict):
        return {"inputs": found}
    return {name: value for name, value in found.items() if name != "id" or value != record.get("id")}


def outputs(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outputs by field; what is no object is one field."""
    found = _parsed(record.get("outputs"))
    return found if isinstance(found, dict) else {"outputs": found}


def as_text(value: Any) -> str:
    """A value for people: text as it is, else JSON; "" for what is missing."""
    if value is MISSING:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
