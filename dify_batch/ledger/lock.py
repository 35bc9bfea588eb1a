"""One writer an output. The lock is the operating system's, so it is gone with its process, kill -9 included."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from dify_batch.errors import OutputLocked
from dify_batch.ledger.appendfile import storage_error


class OutputLock:
    """Holds `results.jsonl.lock`; the file says who holds it, for the message that the second process gives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> None:
        """Takes the lock or raises OutputLocked at once, naming the pid and host of the holder.

        Raises:
            OutputLocked: another process, or another batch of this one, holds it.
            StorageError: the lock file cannot be made.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._require_file()
            holder = self._holder()
            who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
            raise OutputLocked(
                f"{self._path.with_suffix('')} is being written by {who}",
                hint="wait for it to end, then run the same command again"
                + (f" (to see it: ps -p {holder['pid']})" if holder else ""),
                holder=holder,
            ) from None
        except OSError as error:
            raise storage_error(self._path, error) from error
        try:
            self._path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        except OSError as error:
            self._lock.release()
            raise storage_error(self._path, error) from error

    def release(self) -> None:
        """Gives the lock up and removes its file: while it is held, so that whoever opened it meanwhile sees that
        the file has no name any more and starts over (filelock checks that)."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # a folder that has turned read-only: what is left holds nobody up
                self._path.unlink()
            self._lock.release()

    def _require_file(self) -> None:
        """Raises StorageError where the lock was not to be had because its file cannot be made (/proc, for one):
        filelock waits for that as for a holder to go."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644))
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _holder(self) -> dict[str, object] | None:
        try:
            holder = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return holder if isinstance(holder, dict) and {"pid", "host"} <= holder.keys() else None
