"""One writer an output. The lock is the operating system's, so it is gone with its process, kill -9 included.

Where the file system has no such locks, a marker file says who holds it: host, process and when that began. One of a
process of this host that is gone is found dead; one of another host is explained.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, SoftFileLock, Timeout

from dify_batch.errors import OutputLocked
from dify_batch.ledger.appendfile import storage_error
from dify_batch.ledger.disk import Disk


class OutputLock:
    """Holds `results.jsonl.lock`; the file says who holds it, for the message that the second process gives."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path = path
        self._disk = disk or Disk()
        self._lock: BaseFileLock = self._disk.lock(path)

    def acquire(self) -> None:
        """Takes the lock or raises OutputLocked at once, naming the pid and host of the holder.

        Raises:
            OutputLocked: another process, or another batch of this one, holds it.
            StorageError: the lock file cannot be made.
        """
        try:
            with quietly():
                self._lock.acquire(timeout=0)
        except Timeout:
            self._require_file()
            raise self._locked() from None
        except OSError as error:
            raise storage_error(self._path, error) from error
        if self._soft:
            return  # the marker says who holds it, and must stay as it is
        try:
            self._disk.overwrite(self._path, json.dumps(me()).encode() + b"\n")
        except OSError as error:
            if os.name == "nt":
                return  # there a locked file cannot be written
            self._lock.release()
            raise storage_error(self._path, error) from error

    @property
    def _soft(self) -> bool:
        """Whether a marker stands in for a lock of the operating system."""
        return isinstance(self._lock, SoftFileLock)

    def _locked(self) -> OutputLocked:
        other = holder_of(self._path)
        hint = "wait for it to end, then run the same command again"
        if other is None:
            who = "another process"
        else:
            who = f"process {other['pid']} on {other['host']}"
            if other["host"] == me()["host"]:
                hint += f" (to see it: ps -p {other['pid']})"
            else:
                hint += f"; if it is gone on {other['host']} (ps -p {other['pid']} there): rm '{self._path}'"
        return OutputLocked(f"{self._path.with_suffix('')} is being written by {who}", hint=hint, holder=other)

    def release(self) -> None:
        """Gives the lock up and removes its file: while it is held, so that whoever opened it meanwhile sees that
        the file has no name any more and starts over (filelock checks that)."""
        if self._lock.is_locked:
            if not self._soft:
                with contextlib.suppress(OSError):  # a folder that has turned read-only: what is left holds nobody up
                    self._disk.remove(self._path)
            with quietly():
                self._lock.release()

    def _require_file(self) -> None:
        """Raises StorageError where the lock was not to be had because its file cannot be made (/proc, for one):
        filelock waits for that as for a holder to go."""
        try:
            self._disk.close(self._disk.open_append(self._path))
        except OSError as error:
            raise storage_error(self._path, error) from error


def me() -> dict[str, Any]:
    """This process, as a lock file names it."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def holder_of(path: Path) -> dict[str, Any] | None:
    """{"pid", "host"} of a lock file, be it ours or a marker; None where it does not say."""
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return None
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        holder = None
    if not isinstance(holder, dict):
        pid, host, *_ = [*text.splitlines(), "", ""]
        holder = {"pid": int(pid) if pid.isascii() and pid.isdigit() and len(pid) < 11 else None, "host": host}
    number, name = holder.get("pid"), holder.get("host")
    if type(number) is not int or not 0 < number < 2**31 or not isinstance(name, str) or not name:
        return None
    return {"pid": number, "host": name}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the warning that a file system has no locks: with --json standard error holds one object or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
