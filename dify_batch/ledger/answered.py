"""Which inputs the results are answers to, in a few bytes a result, so that a changed row is noticed.

Two steps: the text of the inputs as it stands in the line, hashed at a glance; and for the rows where that differs
their values, compared as Dify would: "5" and 5 are the same, what is empty might as well be missing, and a file that is
uploaded anew for each run says nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.ledger import formats

_BUCKETS = 256  # by the last byte of the hash: sorting one of them takes no memory that counts


class Answered:
    """Eight bytes for each result."""

    def __init__(self) -> None:
        self._new = array("q")
        self._hashes = [array("q") for _ in range(_BUCKETS)]
        self.add: Callable[[int], None] = self._new.append
        """Takes `mark(id, text of the inputs)` of a row's result. A row that is not added is looked at more closely."""

    def has(self, row_id: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the row's result has the text of these inputs. False may still be the same by their values."""
        if self._new:
            self._sort()
        value = mark(row_id, formats.json_line(inputs)[:-1])
        bucket = self._hashes[value % _BUCKETS]
        place = bisect_left(bucket, value)
        return place < len(bucket) and bucket[place] == value

    def _sort(self) -> None:
        buckets = self._hashes
        for value in self._new:
            buckets[value % _BUCKETS].append(value)
        del self._new[:]
        self._hashes = [array("q", sorted(bucket)) for bucket in buckets]


def mark(row_id: str, inputs: bytes) -> int:
    """What tells one row's inputs from another's, in this process."""
    return hash((row_id, inputs))


def changed(suspects: Mapping[str, int], lines: Iterable[tuple[bytes, int]]) -> list[str]:
    """The ids of `suspects` ({id: meaning of its inputs now}) whose result has inputs of another meaning, in order.

    `lines`: the results.
    """
    same: set[str] = set()
    for line, _ in lines if suspects else ():
        row_id = formats.result_id(line)
        if row_id is not None and row_id in suspects:
            record = formats.line_object(line) or {}
            inputs = record.get("inputs")
            if not isinstance(inputs, dict) or meaning(inputs) == suspects[row_id]:
                same.add(row_id)
    return [row_id for row_id in suspects if row_id not in same]


def meaning(inputs: Mapping[str, Any]) -> int:
    """A hash of inputs that is the same for what Dify would take as the same."""
    return hash(_plain(inputs))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "transfer_method" in value:  # a file: a new upload of the same file has another id
            return ("file", value.get("url"))
        items = ((name, _plain(item)) for name, item in value.items() if item not in (None, "", [], {}))
        return tuple(sorted(items, key=lambda item: str(item[0])))
    if isinstance(value, list | tuple):
        return ("list", *map(_plain, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)
    if isinstance(value, str):
        return value.strip().lower() if value.strip().lower() in ("true", "false") else value.strip()
    return "" if value is None else "file" if isinstance(value, Path) else str(value)
