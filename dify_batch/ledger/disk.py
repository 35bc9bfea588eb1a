"""The few operations that change files: nothing else opens for writing, syncs, renames or removes. So a test, or the
simulated world, can fail or stop at each of them.

Guarantee: what `sync` returned from is on the disk as far as the operating system can tell; `replace` leaves the old
file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import BaseFileLock, FileLock


class Disk:
    """Files by descriptor. Every method may raise OSError."""

    def open_append(self, path: Path) -> int:
        """A descriptor that appends to `path`, made if it is missing."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)

    def size(self, fd: int) -> int:
        """Bytes."""
        return os.fstat(fd).st_size

    def look(self, fd: int, path: Path) -> tuple[int, bool]:
        """Bytes of the file, and whether it still has its name: not once it was deleted or moved away.

        Inode numbers are not compared: some network file systems make them up anew.
        """
        found = os.fstat(fd)
        return found.st_size, found.st_nlink > 0 and os.path.exists(path)  # pathlib's takes four times as long

    def write(self, fd: int, data: bytes) -> None:
        """Writes all of `data`; on an error some of it may have been written."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        # fdatasync leaves out the time stamps, which nobody needs back; the length it does write.
        getattr(os, "fdatasync", os.fsync)(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """Puts `data` in the place of `path` in one step."""
        temporary = path.with_name(f".{path.name}.new")
        try:
            fd = self.open_new(temporary)
            try:
                self.write(fd, data)
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(temporary)  # on a full disk it would take what little there is
            raise
        self.sync_folder(path)

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[BinaryIO]:
        """A new file to write to, which takes the place of `path` in one step when the block ends well, and goes when
        it does not."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            fd = self.open_new(temporary)
            try:
                with open(fd, "wb", buffering=1 << 20, closefd=False) as file:
                    yield file
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # a read-only folder refuses this, too; what went wrong is told already
                self.remove(temporary)
            raise
        self.sync_folder(path)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Writes a file that nobody needs after a crash."""
        fd = self.open_new(path)
        try:
            self.write(fd, data)
        finally:
            self.close(fd)

    def lock(self, path: Path) -> BaseFileLock:
        """The operating system's lock on a file; it is gone with its process."""
        return FileLock(path, thread_local=False)

    def open_new(self, path: Path) -> int:
        """A descriptor that writes to `path`, which is made, or emptied."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)

    def rename(self, path: Path, target: Path) -> None:
        os.replace(path, target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Makes names in the folder of `path` durable, where the system can (not on Windows)."""
        try:
            fd = os.open(path.parent, os.O_RDONLY)
        except PermissionError:
            return  # a folder that may be written but not listed: its names are as durable as the system makes them
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what file systems say that cannot do it (CIFS, FUSE)
                raise
        finally:
            os.close(fd)
