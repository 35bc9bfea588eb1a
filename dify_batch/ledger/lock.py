"""One writer an output. The lock is the operating system's, so it is gone with its process, kill -9 included."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from filelock import Timeout

from dify_batch.errors import OutputLocked
from dify_batch.ledger.appendfile import storage_error
from dify_batch.ledger.disk import Disk


class OutputLock:
    """Holds `results.jsonl.lock`; the file says who holds it, for the message that the second process gives."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path = path
        self._disk = disk or Disk()
        self._lock = self._disk.lock(path)

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
            other = self._holder()
            who = f"process {other['pid']} on {other['host']}" if other else "another process"
            raise OutputLocked(
                f"{self._path.with_suffix('')} is being written by {who}",
                hint="wait for it to end, then run the same command again"
                + (f" (to see it: ps -p {other['pid']})" if other else ""),
                holder=other,
            ) from None
        except OSError as error:
            raise storage_error(self._path, error) from error
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname()}
            self._disk.overwrite(self._path, json.dumps(holder).encode() + b"\n")
        except OSError as error:
            self._lock.release()
            raise storage_error(self._path, error) from error

    def release(self) -> None:
        """Gives the lock up and removes its file: while it is held, so that whoever opened it meanwhile sees that
        the file has no name any more and starts over (filelock checks that)."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # a folder that has turned read-only: what is left holds nobody up
                self._disk.remove(self._path)
            self._lock.release()

    def _require_file(self) -> None:
        """Raises StorageError where the lock was not to be had because its file cannot be made (/proc, for one):
        filelock waits for that as for a holder to go."""
        try:
            self._disk.close(self._disk.open_append(self._path))
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _holder(self) -> dict[str, object] | None:
        try:
            holder = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return holder if isinstance(holder, dict) and {"pid", "host"} <= holder.keys() else None
