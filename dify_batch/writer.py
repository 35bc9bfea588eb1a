"""Appends to the results and the journal with group commit: many rows share one fsync.

The order that everything rests on: a result line is durable before the journal says `done`. So `done` records wait
for the commit after the one that made their result durable; and an intent counts only when its commit has returned.

Trade-off: a commit takes as long as the disk needs (0.2 ms on an SSD, 10 ms on a disk that spins), and a POST waits
for the one that bears its intent. Results do not make their row's slot wait.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dify_batch.disk import Disk
from dify_batch.errors import StorageError


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
        self.size = size
        self._disk = disk
        self._fd = fd

    @classmethod
    def open(cls, path: Path, disk: Disk, keep: int, *, head: bytes = b"") -> AppendFile:
        """Opens for appending after the first `keep` bytes; what follows them is a torn line, and goes.

        A new file begins with `head`. Raises StorageError.
        """
        try:
            fd = disk.open_append(path)
            try:
                size, _ = disk.size(fd)
                if size > keep:
                    disk.truncate(fd, keep)
                    disk.sync(fd)
                if keep == 0 and head:
                    disk.write(fd, head)
                    disk.sync(fd)
                    keep = len(head)
                disk.sync_folder(path)
            except BaseException:
                disk.close(fd)
                raise
        except OSError as error:
            raise storage_error(path, error) from error
        return cls(path, disk, fd, keep)

    def append(self, data: bytes) -> None:
        """Appends whole lines and makes them durable. On an error the file is cut back to its last whole line."""
        try:
            size, names = self._disk.size(self._fd)
            if size != self.size or names == 0:
                raise StorageError(
                    f"{self.path} was changed by somebody else while the batch ran: it had {self.size} bytes, "
                    + (f"now it has {size}" if names else "now it is deleted"),
                    hint="put the file back as it was if you can, then run the same command again: "
                    "runs whose result is missing are fetched from the server, not run again",
                    path=str(self.path),
                )
            self._disk.write(self._fd, data)
            self._disk.sync(self._fd)
        except OSError as error:
            self._cut_back()
            raise storage_error(self.path, error) from error
        self.size += len(data)

    def _cut_back(self) -> None:
        try:
            size, _ = self._disk.size(self._fd)
            if size > self.size:
                self._disk.truncate(self._fd, self.size)
        except OSError:
            pass  # the torn end is repaired on the next opening

    def close(self) -> None:
        self._disk.close(self._fd)


@dataclass(slots=True)
class _Commit:
    results: list[bytes] = field(default_factory=list)
    journal: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    after: list[bytes] = field(default_factory=list)  # `done` records of `results`
    others: list[Callable[[], list[bytes]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.results or self.journal or self.waiters or self.after or self.others)


class Writer:
    """Takes lines on the event loop, commits them on one thread, in order.

    After an error nothing more is written: `error` is set, `on_error` is called once, waiters get the error.
    """

    def __init__(self, results: AppendFile, journal: AppendFile, on_error: Callable[[StorageError], None]) -> None:
        self.results = results
        self.journal = journal
        self.error: StorageError | None = None
        self._on_error = on_error
        self._next = _Commit()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dify-batch-writer")
        self._busy: asyncio.Task[None] | None = None

    def record(self, line: bytes) -> None:
        """A journal line; durable soon."""
        self._next.journal.append(line)
        self._kick()

    def result(self, line: bytes, done: bytes) -> None:
        """A result line, and the journal's `done`, which follows once the result is durable."""
        self._next.results.append(line)
        self._next.after.append(done)
        self._kick()

    def other(self, write: Callable[[], list[bytes]]) -> None:
        """Other work for the writing thread; it gives journal lines that say what was done. May raise StorageError."""
        self._next.others.append(write)
        self._kick()

    def durable(self) -> asyncio.Future[None]:
        """Done when all that was handed over so far is durable. Raises StorageError."""
        future = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        self._next.waiters.append(future)
        self._kick()
        return future

    async def flush(self) -> None:
        """Returns when all that was handed over, `done` records included, is durable. Raises StorageError."""
        while self._next or self._busy is not None:
            if self._busy is None:
                break  # an error ended the writing
            await asyncio.shield(self._busy)
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Flushes and closes the files. Raises StorageError if something could not be written."""
        try:
            await self.flush()
        finally:
            self._thread.shutdown(wait=True)
            self.results.close()
            self.journal.close()

    def _kick(self) -> None:
        if self._busy is None and self.error is None:
            self._busy = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._next and self.error is None:
                commit, self._next = self._next, _Commit()
                try:
                    follow_up = await loop.run_in_executor(self._thread, self._write, commit)
                except StorageError as error:
                    self._fail(error, commit)
                    return
                self._next.journal[:0] = follow_up
                for waiter in commit.waiters:
                    if not waiter.done():
                        waiter.set_result(None)
        finally:
            self._busy = None

    def _write(self, commit: _Commit) -> list[bytes]:
        """On the writing thread: one commit. Returns the journal lines that its results allow."""
        if commit.results:
            self.results.append(b"".join(commit.results))
        if commit.journal:
            self.journal.append(b"".join(commit.journal))
        follow_up = commit.after
        for write in commit.others:
            follow_up = follow_up + write()
        return follow_up

    def _fail(self, error: StorageError, commit: _Commit) -> None:
        self.error = error
        for waiter in commit.waiters + self._next.waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._next = _Commit()
        self._on_error(error)
