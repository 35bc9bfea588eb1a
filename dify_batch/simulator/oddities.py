"""How what is told of a run can be odd: times, numbers and words that no client expects. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .wire import JSON_UTF8, Answer, derived_id

_TIMES: dict[str, Callable[[int], Any]] = {
    "time_ms": lambda at: at * 1000,
    "time_ns": lambda at: at * 10**9,
    "time_negative": lambda at: -at,
    "time_text": lambda at: f"about {at}",
    "time_list": lambda at: [at],
}
_TIME_KEYS = ("finished_at", "expiration_time")
_LITERALS = {"outputs_nan": ("NaN", "-Infinity"), "outputs_1e400": ("1e400", "-1e400")}
_SEPARATORS = "next\x85line\u2028para\u2029graph"
STATUS = "evaporated"
TELLING = frozenset(
    {*_TIMES, *_LITERALS, "ids_disagree", "outputs_separators", "unknown_status", "detail_500", "detail_lags"}
)
"""The faults that go with a run for as long as anybody asks about it."""

_BLOCK = 16 * 1024 * 1024  # of the unpacked text, packed once
_BLOCKS = 64
ENDLESS_PART = b"x" * 65536


def odd_outputs(name: str, outputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a run with that fault."""
    if name in _LITERALS:
        return outputs | {"number": f"<{name} 0>", "numbers": [1, f"<{name} 1>"]}
    if name == "outputs_separators":
        return outputs | {"text": _SEPARATORS}
    return outputs


def odd_fields(name: str, value: Any, key: str = "") -> Any:
    """What is told of a run with that fault, out of what would be told."""
    if isinstance(value, dict):
        return {k: odd_fields(name, v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [odd_fields(name, v) for v in value]
    if name in _TIMES and key in _TIME_KEYS and value:
        return _TIMES[name](value)
    if name == "unknown_status" and key == "status" and value == "succeeded":
        return STATUS
    return value


def odd_text(name: str, text: str) -> str:
    """The JSON text of it, with numbers that no JSON library writes."""
    for index, literal in enumerate(_LITERALS.get(name, ())):
        text = text.replace(f'"<{name} {index}>"', literal)
    return text


def other_run(event: dict[str, Any]) -> dict[str, Any]:
    """An event, or a blocking answer, whose end names another run than it began with."""
    data = event["data"]
    return event | {
        "workflow_run_id": derived_id("other", event["workflow_run_id"]),
        "data": data | {"id": derived_id("other", data["id"])},
    }


def twice(answer: Answer) -> bytes:
    """The whole answer as HTTP, two times."""
    lines = [
        f"HTTP/1.1 {answer.status} Answer",
        *(f"{k}: {v}" for k, v in answer.head()),
        f"Content-Length: {len(answer.body)}",
    ]
    return (("\r\n".join(lines) + "\r\n\r\n").encode() + answer.body) * 2


@lru_cache(maxsize=1)
def gzip_bomb() -> Answer:
    """A megabyte of gzip that unpacks to a GiB of JSON text."""
    before, after, block = b'{"data":{"outputs":{"text":"', b'"}}}', b" " * _BLOCK
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)]
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    middle = packed.compress(block) + packed.flush(zlib.Z_FULL_FLUSH)  # stands for itself wherever it is put
    tail = zlib.compressobj(1, zlib.DEFLATED, -15)
    check = zlib.crc32(before)
    for _ in range(_BLOCKS):
        check = zlib.crc32(block, check)
    size = len(before) + len(after) + _BLOCK * _BLOCKS
    parts += [middle] * _BLOCKS
    parts.append(tail.compress(after) + tail.flush())
    parts.append(zlib.crc32(after, check).to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little"))
    return Answer(200, b"".join(parts), JSON_UTF8, (("Content-Encoding", "gzip"),))


def json_of(name: str, value: Any, dumps: Callable[[Any], str] = json.dumps) -> str:
    """The JSON text that a run with that fault is told in."""
    return odd_text(name, dumps(odd_fields(name, value))) if name else dumps(value)
