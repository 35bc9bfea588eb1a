"""Files that grow by whole lines: the results and the journal. A torn last line is repaired on opening."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dify_batch.errors import StorageError
from dify_batch.ledger.disk import OPEN_TO_ALL, Disk
from dify_batch.ledger.formats import BOM, parse_any

# Step of the search for a last newline: larger than almost any line, small against memory.
_TAIL = 1 << 20


def storage_error(path: Path, error: OSError) -> StorageError:
    """The user's version of an OSError on one of the batch's files."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, then run the same command again: it goes on where it stopped"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = f"make {path.parent} writable, then run the same command again"
    else:
        hint = "look at the disk, then run the same command again: it goes on where it stopped"
    return StorageError(f"{path} cannot be written: {reason}", hint=hint, path=str(path))


class AppendFile:
    """A file that only this process appends to; its length is known, so a foreign hand is noticed."""

    def __init__(self, path: Path, disk: Disk, fd: int, size: int) -> None:
        self.path = path
        self.size: int = size
        self._synced: int = size
        self._disk = disk
        self._fd = fd

    @classmethod
    def open(cls, path: Path, disk: Disk, *, head: bytes = b"", mode: int = OPEN_TO_ALL) -> AppendFile:
        """Opens for appending. A torn last line goes; one that only lacks its newline gets it.

        A new file begins with `head`. Raises StorageError, also for a last line that this package never began: it is
        somebody's, and must not go.
        """
        try:
            keep, end = whole_length(path)
            fd = disk.open_append(path, mode)
            try:
                if disk.size(fd) > keep:
                    disk.truncate(fd, keep)
                    disk.sync(fd)
                add = end if keep else head
                if add:
                    disk.write(fd, add)
                    disk.sync(fd)
                disk.sync_folder(path)
            except BaseException:
                disk.close(fd)
                raise
        except OSError as error:
            raise storage_error(path, error) from error
        return cls(path, disk, fd, keep + len(add))

    def append(self, data: bytes) -> None:
        """Appends whole lines and makes them durable. On an error the file is cut back to what was durable before."""
        self.write(data)
        self.sync()

    def write(self, data: bytes) -> None:
        """Appends whole lines, durable with the next `sync`. On an error the file is cut back to its last one."""
        try:
            size, named = self._disk.look(self._fd, self.path)
            if size != self.size or not named:
                raise self._changed(size)
            self._disk.write(self._fd, data)
        except OSError as error:
            self._cut_back()
            raise storage_error(self.path, error) from error
        self.size += len(data)

    def sync(self) -> None:
        """Makes what was written durable.

        On an error the file is cut back to what was durable before: the system may have dropped the rest, and would
        yet show it to the next reader.
        """
        try:
            self._disk.sync(self._fd)
        except OSError as error:
            self.size = self._synced
            self._cut_back()
            raise storage_error(self.path, error) from error
        self._synced = self.size

    def _changed(self, size: int) -> StorageError:
        now = "now it is deleted or moved away" if size == self.size else f"it had {self.size} bytes, now it has {size}"
        return StorageError(
            f"{self.path} was changed by somebody else while the batch ran: {now}",
            hint="put the file back as it was if you can, then run the same command again: "
            "runs whose result is missing are fetched from the server, not run again",
            path=str(self.path),
        )

    def _cut_back(self) -> None:
        try:
            if self._disk.size(self._fd) > self.size:
                self._disk.truncate(self._fd, self.size)
        except OSError:
            pass  # the torn end is repaired on the next opening

    def close(self) -> None:
        self._disk.close(self._fd)


def whole_length(path: Path) -> tuple[int, bytes]:
    """How many bytes of a file of JSON lines are whole lines, and what its last line lacks: a newline, or nothing.

    Raises OSError, and StorageError where the torn line was not begun by this package.
    """
    try:
        with path.open("rb") as file:
            start = end = file.seek(0, os.SEEK_END)
            steps: list[bytes] = []
            while start > 0 and not (steps and b"\n" in steps[-1]):
                step = min(_TAIL, start)
                start -= step
                file.seek(start)
                steps.append(file.read(step))
    except FileNotFoundError:
        return 0, b""
    tail = b"".join(reversed(steps))
    torn = tail[tail.rfind(b"\n") + 1 :]
    line = torn.removeprefix(BOM)
    if line and parse_any(line):
        return end, b"\n"
    if not _may_be_ours(line, end - len(line)):
        raise StorageError(
            f"{path} ends in a line that is no record of a batch and has no end: {line[:40]!r}",
            hint="is it the file that you mean? If so, end its last line with a newline or remove it",
            path=str(path),
        )
    return end - len(torn), b""


# What is not on the disk yet reads as NULs, whole sectors of them.
_SECTOR = 512


def _may_be_ours(torn: bytes, at: int) -> bool:
    """Whether a torn line, which begins at byte `at` of its file, can be what is left of a record: its beginning, part
    of the byte order mark, or what a power cut leaves where data was not yet on the disk: NULs up to its end, or to the
    end of a sector, from which on it is there."""
    text = torn.lstrip(b"\0")
    if text.strip()[:2] in (b"", b"{", b'{"', b"{\0") or BOM.startswith(torn):
        return True
    return len(text) < len(torn) and (at + len(torn) - len(text)) % _SECTOR == 0
