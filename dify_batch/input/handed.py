"""Rows that a caller hands over, as a file of JSON lines that is read once. They are taken one by one as it is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from dify_batch.errors import UsageError


class _Lines(io.RawIOBase):
    def __init__(self, rows: Iterator[bytes]) -> None:
        self._rows = rows
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = next(self._rows)
            except StopIteration:
                return 0
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


def as_file(rows: Iterable[Mapping[str, Any]]) -> BinaryIO:
    """A file that gives the rows. Reading it raises UsageError at a row that JSON cannot say."""
    return cast(BinaryIO, io.BufferedReader(_Lines(_encoded(rows))))


def _encoded(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        try:
            text = json.dumps(dict(row), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"row {number} cannot be written as JSON: {error}",
                hint="give texts, numbers, true, false, lists and dictionaries",
            ) from None
        yield text.encode() + b"\n"
