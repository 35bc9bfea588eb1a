"""`.retry`: the ids of failed rows, replaced whole, and edited by people at any time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from dify_batch.ids import parse_ids
from dify_batch.ledger.appendfile import storage_error
from dify_batch.ledger.disk import OPEN_TO_ALL, Disk
from dify_batch.ledger.formats import BOM, retry_bytes

Stamp: TypeAlias = tuple[int, int]
"""(time of the last change in nanoseconds, size in bytes): another one means that somebody wrote the file."""


def stamp_of(path: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def torn_id(data: bytes, failed: Iterable[str]) -> tuple[bytes, list[str]]:
    """Parts a `.retry` file from an id that was cut short at its end.

    An id without its newline is torn if it is the beginning of a failed row's id that stands nowhere else in the file;
    people often leave the last newline out, so that alone means nothing. Gives the bytes to read, and the failed rows
    that the torn id may have been.
    """
    if BOM.startswith(data):
        return b"", []
    cut = data.rfind(b"\n") + 1
    torn = data[cut:].removeprefix(BOM)
    if not torn:
        return data, []
    ids = [(row_id, row_id.encode("utf-8", "surrogatepass")) for row_id in failed]
    if any(raw == torn for _, raw in ids):
        return data, []
    whole = {line.strip(b" \t\r") for line in data[:cut].removeprefix(BOM).split(b"\n")}
    candidates = [row_id for row_id, raw in ids if raw.startswith(torn) and raw not in whole]
    return (data[:cut], candidates) if candidates else (data, [])


class RetryFile:
    """Writes `.retry`. Ids that a person adds meanwhile are kept, whatever the batch knows of their rows.

    `seen`: the stamp of the file when it was read; `ids`: what was in it.
    """

    def __init__(self, path: Path, disk: Disk, seen: Stamp | None, ids: Iterable[str] = ()) -> None:
        self._path = path
        self._disk = disk
        self._seen = seen
        # What has been in the file already may stand in a copy that a person saves only now, so it is no addition.
        self._ever = set(ids)

    def write(self, ids: Iterable[str]) -> int:
        """Puts the file in place, or removes it if there are no ids. Gives their number. Raises StorageError."""
        wanted = dict.fromkeys(ids)
        if stamp_of(self._path) != self._seen:
            wanted |= dict.fromkeys(row_id for row_id in self._there() if row_id not in self._ever)
        self._ever.update(wanted)
        put(self._disk, self._path, retry_bytes(wanted) if wanted else b"")
        self._seen = stamp_of(self._path)
        return len(wanted)

    def _there(self) -> list[str]:
        try:
            return parse_ids(self._path.read_bytes())
        except (OSError, UnicodeDecodeError):
            return []  # only ids that no row has could be lost


def put(disk: Disk, path: Path, data: bytes, mode: int = OPEN_TO_ALL) -> None:
    """Replaces a file in one step; without data it goes. Raises StorageError."""
    try:
        if data:
            disk.replace(path, data, mode)
        else:
            disk.remove(path)
    except OSError as error:
        raise storage_error(path, error) from error
