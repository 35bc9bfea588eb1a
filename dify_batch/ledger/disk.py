"""The few operations that change files: nothing else opens for writing, syncs, renames or removes. So a test, or the
simulated world, can fail or stop at each of them.

Guarantee: what `sync` returned from is on the disk as far as the operating system can tell; `replace` leaves the old
file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import BaseFileLock, FileLock, SoftFileLock

from dify_batch.seams import REAL, Chance

# What file systems say that have no locks: network ones, mostly.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

OPEN_TO_ALL = 0o666  # less the umask: results, and what is made of them
PRIVATE = 0o600  # the journal and `.paused` hold tokens with which a form can be answered
# A link that somebody has put where a file of ours belongs must not lead elsewhere. Windows has no such flag.
_OWN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


_NEW = ".new"
_NAME_KEPT = 200  # bytes of a name of at most 255 bytes that leave room for what `beside` adds


def _kept(name: str) -> str:
    while len(os.fsencode(name)) > _NAME_KEPT:
        name = name[:-1]
    return name


class _Writing(io.RawIOBase):
    """A file whose every write goes through the disk."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        found = bytes(data)
        self._disk.write(self._fd, found)
        return len(found)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to take the place of another: written to by `file`, or by whoever opens `path`."""

    path: Path
    file: BinaryIO


class Disk:
    """Files by descriptor. Every method may raise OSError.

    `chance` names the temporary files, so that nobody can put something in their place beforehand.
    """

    chance: Chance = REAL.chance

    def open_append(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        """A descriptor that appends to `path`, made if it is missing. One that is there is made PRIVATE if asked."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _OWN, mode)
        if mode == PRIVATE and hasattr(os, "fchmod"):
            with contextlib.suppress(OSError):  # another user's file, or a file system without modes
                if os.fstat(fd).st_mode & 0o077:
                    os.fchmod(fd, mode)
        return fd

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

    def replace(self, path: Path, data: bytes, mode: int = OPEN_TO_ALL) -> None:
        """Puts `data` in the place of `path` in one step."""
        temporary = self.beside(path)
        try:
            fd = self.open_new(temporary, mode)
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
    def replacing(self, path: Path, mode: int = OPEN_TO_ALL) -> Iterator[BinaryIO]:
        """A new file to write to, which takes the place of `path` in one step when the block ends well, and goes when
        it does not."""
        with self.replacing_by_name(path, mode) as new:
            yield new.file

    @contextlib.contextmanager
    def replacing_by_name(self, path: Path, mode: int = OPEN_TO_ALL) -> Iterator[NewFile]:
        """As `replacing`, for what may open its file itself."""
        temporary = self.beside(path)
        try:
            fd = self.open_new(temporary, mode)
            try:
                with io.BufferedWriter(cast(io.RawIOBase, _Writing(self, fd)), 1 << 20) as file:
                    yield NewFile(temporary, file)
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # a read-only folder refuses this, too; what went wrong is told already
                self.remove(temporary)
            raise
        self.sync_folder(path)

    def beside(self, path: Path) -> Path:
        """A name for the file that is to take the place of `path`: nobody can guess it."""
        return path.with_name(f".{_kept(path.name)}.{self.chance.token(8)}{_NEW}")

    def sweep(self, folder: Path, names: Iterable[str]) -> None:
        """Removes what processes that were killed have left of their replacements of files of these names."""
        heads = tuple(f".{_kept(name)}." for name in names)
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.endswith(_NEW) and name.startswith(heads):
                    self.remove(folder / name)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Writes a private file that nobody needs after a crash, and that this process holds the lock of."""
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | _OWN, PRIVATE)
        try:
            self.write(fd, data)
        finally:
            self.close(fd)

    def lock(self, path: Path) -> BaseFileLock:
        """The operating system's lock on a file; it is gone with its process. Where the file system has no locks, a
        marker that names its holder, by whom others see that it is dead."""
        kind = FileLock if self._has_locks(path) else SoftFileLock
        return kind(path, mode=PRIVATE, thread_local=False)

    def _has_locks(self, path: Path) -> bool:
        """Tried on a file of our own, as the lock file may be another's."""
        try:
            import fcntl
        except ImportError:
            return True  # Windows has locks of its own kind

        probe = self.beside(path)
        try:
            fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OWN, PRIVATE)
        except OSError:
            return True  # whoever takes the lock tells why that cannot be
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _NO_LOCKS
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                probe.unlink()
        return True

    def open_new(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        """A descriptor that writes to `path`, which is made: what stands there already is an error."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OWN, mode)

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
