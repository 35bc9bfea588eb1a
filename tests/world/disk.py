"""The disk of a machine, and what one process may do with it.

What is durable is modelled by tests/support/crashdisk.py over a real folder (in memory where the system has one). A
process has a `ProcessDisk` of its own: it can fail at an operation, and once it is dead nothing that it still does
reaches the folder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from filelock import Timeout

from dify_batch.ledger.disk import OPEN_TO_ALL, Disk
from dify_batch.seams import Chance
from tests.support.crashdisk import CrashDisk
from tests.world.history import DiskTrouble

_CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}


class Machine:
    """The disk that outlives processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = CrashDisk(folder)
        self.locks: dict[Path, ProcessDisk] = {}

    def touched(self) -> None:
        """A person has written files: they are what they are, and durable."""
        self.disk = CrashDisk(self.folder)

    def power_cut(self, kept: float) -> None:
        self.disk.power_cut(kept)
        self.touched()


class ProcessDisk(Disk):
    """`killed`: called when the process dies at one of its own operations."""

    def __init__(
        self, machine: Machine, trouble: DiskTrouble | None, killed: Callable[[str, float], None], chance: Chance
    ) -> None:
        self.chance = chance
        self._machine = machine
        self._trouble = trouble
        self._killed = killed
        self._done = 0
        self._failing = False
        self.dead = False
        self._open: set[int] = set()

    def die(self) -> None:
        """The system closes what it had open and gives its locks up."""
        self.dead = True
        for fd in self._open:
            os.close(fd)
        self._open.clear()
        for path in [path for path, holder in self._machine.locks.items() if holder is self]:
            del self._machine.locks[path]

    def _before(self, name: str) -> float:
        """Counts an operation. Gives how much of a write is done before it fails; 1.0: all of it, and it does not."""
        if self.dead:
            raise OSError(errno.EIO, "the process is dead")
        self._done += 1
        trouble = self._trouble
        if trouble is None or not (self._done == trouble.at or (self._failing and trouble.lasting)):
            return 1.0
        self._failing = True
        return 0.5 if name == "write" else 0.0

    def _fail(self) -> None:
        trouble = self._trouble
        assert trouble is not None
        if trouble.what in ("kill", "power"):
            self._killed(trouble.what, trouble.kept)
            raise OSError(errno.EIO, "the process is dead")
        code = _CODES[trouble.what]
        raise OSError(code, os.strerror(code))

    def _do(self, name: str, work: Callable[[], object]) -> None:
        if self._before(name) < 1.0:
            self._fail()
        work()

    def _opened(self, open_it: Callable[[Path], int], path: Path) -> int:
        self._do("open", lambda: None)
        fd = open_it(path)
        self._open.add(fd)
        return fd

    def open_append(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        return self._opened(lambda path: self._machine.disk.open_append(path, mode), path)

    def open_new(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        return self._opened(lambda path: self._machine.disk.open_new(path, mode), path)

    def overwrite(self, path: Path, data: bytes) -> None:
        self._do("overwrite", lambda: super(ProcessDisk, self).overwrite(path, data))

    def size(self, fd: int) -> int:
        if self.dead:
            raise OSError(errno.EIO, "the process is dead")
        return super().size(fd)

    def look(self, fd: int, path: Path) -> tuple[int, bool]:
        if self.dead:
            raise OSError(errno.EIO, "the process is dead")
        return super().look(fd, path)

    def write(self, fd: int, data: bytes) -> None:
        part = self._before("write")
        if part < 1.0:
            if self._trouble is not None and self._trouble.what != "EIO":
                self._machine.disk.write(fd, data[: int(len(data) * part)])
            self._fail()
        self._machine.disk.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._do("truncate", lambda: self._machine.disk.truncate(fd, size))

    def sync(self, fd: int) -> None:
        self._do("sync", lambda: self._machine.disk.sync(fd))

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)

    def rename(self, path: Path, target: Path) -> None:
        self._do("rename", lambda: self._machine.disk.rename(path, target))

    def remove(self, path: Path) -> None:
        self._do("remove", lambda: self._machine.disk.remove(path))

    def sync_folder(self, path: Path) -> None:
        self._do("sync_folder", lambda: self._machine.disk.sync_folder(path))

    def lock(self, path: Path) -> WorldLock:  # type: ignore[override]
        return WorldLock(self._machine, self, path)


class WorldLock:
    """What the ledger needs of filelock.FileLock."""

    def __init__(self, machine: Machine, disk: ProcessDisk, path: Path) -> None:
        self._machine = machine
        self._disk = disk
        self._path = path

    def acquire(self, timeout: float = -1) -> None:
        if self._path in self._machine.locks:
            raise Timeout(str(self._path))
        self._disk.close(self._disk.open_append(self._path))
        self._machine.locks[self._path] = self._disk

    @property
    def is_locked(self) -> bool:
        return self._machine.locks.get(self._path) is self._disk

    def release(self) -> None:
        if self.is_locked:
            del self._machine.locks[self._path]
