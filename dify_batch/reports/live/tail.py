"""The lines that a file has gained since the last look. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from dify_batch.ledger.formats import BOM

_AT_ONCE = 8 << 20  # bytes of one read


class Replaced(Exception):
    """The file is another one, or has become shorter: what was read of it counts no more."""


class Tail:
    """A file that others append to, or that is not there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file_id: tuple[int, int] | None = None

    def lines(self) -> Iterator[bytes]:
        """The whole lines since the last look, without their newline. Raises Replaced, and OSError but for a file that
        is not there."""
        try:
            with self._path.open("rb") as file:
                yield from self._new(file)
        except FileNotFoundError:
            if self._file_id is not None:
                raise Replaced from None

    def _new(self, file: BufferedReader) -> Iterator[bytes]:
        found = os.fstat(file.fileno())
        file_id = (found.st_dev, found.st_ino)
        if (self._file_id is not None and self._file_id != file_id) or found.st_size < self._offset:
            raise Replaced
        self._file_id = file_id
        file.seek(self._offset)
        while True:
            chunk = file.read(_AT_ONCE)
            end = chunk.rfind(b"\n") + 1
            if not end:
                if len(chunk) < _AT_ONCE:
                    return
                chunk += file.readline()  # a line longer than that
                end = len(chunk) if chunk.endswith(b"\n") else 0
                if not end:
                    return
            begin = self._offset
            self._offset += end
            file.seek(self._offset)
            for line in chunk[:end].removesuffix(b"\n").split(b"\n"):
                yield line.removeprefix(BOM) if begin == 0 else line
