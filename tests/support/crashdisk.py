"""A disk that forgets what was not synced, stops at any operation, or fails at it.

Two kinds of trouble, both at an operation counted from 1:

- `Cut`: the power goes. Every operation from there on fails, and `power_cut` puts the folder into a state that a real
  disk may be found in: of each file, what was synced and some first part of what came after it; of the names, those
  that were synced and some first part of the changes after them.
- `Fault`: the operation fails with an errno, a write after half of its bytes; the process lives on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dify_batch.ledger.disk import OPEN_TO_ALL, Disk


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes `when` relative to operation number `at`; "middle": half of a write reaches the system."""

    at: int
    when: Literal["before", "middle", "after"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Operation number `at` fails, and all later changes too if `lasting`; only operations named in `only` fail."""

    at: int
    code: int
    lasting: bool = False
    only: frozenset[str] | None = None


class PowerCut(OSError):
    """No operation works any more. An OSError, so that the code under test ends as on any dead disk."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power is off")


@dataclass(eq=False)
class Inode:
    """One file: its bytes at the last sync, and the writes and truncations since."""

    durable: bytes = b""
    since: list[bytes | int] = field(default_factory=list)

    def content(self, steps: int, part: float = 1.0) -> bytes:
        """The bytes after the first `steps` changes since the sync and `part` of the next one."""
        data = self.durable
        for number, change in enumerate(self.since):
            if number > steps or (number == steps and part == 0.0):
                break
            if isinstance(change, int):
                data = data[:change] if number < steps else data
            else:
                data += change if number < steps else change[: int(len(change) * part)]
        return data


class CrashDisk(Disk):
    """A `Disk` over a real folder, with a model of what of it is durable. Syncs cost nothing: only the model has them.

    `operations`: how many were begun. `log`: their names.
    """

    def __init__(self, folder: Path, trouble: Cut | Fault | None = None) -> None:
        self._folder = folder
        self._trouble = trouble
        self._off = False
        self._inodes: dict[int, Inode] = {}
        self._names: dict[Path, Inode] = {
            path: Inode(path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()
        }
        self._durable_names = dict(self._names)
        self._renames: list[Callable[[dict[Path, Inode]], object]] = []
        self.log: list[str] = []
        self.hit = False

    @property
    def operations(self) -> int:
        return len(self.log)

    # ---------------------------------------------------------------- operations

    def _do(self, name: str, work: Callable[[float], None]) -> None:
        """Runs one counted operation; `work` takes the part of it that is done (only a write can be done in part)."""
        if self._off:
            raise PowerCut
        self.log.append(name)
        trouble, number = self._trouble, self.operations
        if isinstance(trouble, Fault) and (trouble.only is None or name in trouble.only):
            if number == trouble.at or (trouble.lasting and self.hit):
                self.hit = True
                if name == "write" and trouble.code == errno.ENOSPC:
                    work(0.5)
                raise OSError(trouble.code, os.strerror(trouble.code))
        elif isinstance(trouble, Cut) and number == trouble.at:
            self._off = self.hit = True
            if trouble.when != "before":
                work(0.5 if trouble.when == "middle" else 1.0)
            raise PowerCut
        work(1.0)

    def _opened(self, path: Path, open_it: Callable[[Path], int]) -> int:
        found: list[int] = []

        def work(part: float) -> None:
            inode = self._names.get(path)
            found.append(open_it(path))
            if inode is None:
                inode = Inode()
                self._change_names(lambda names: names.__setitem__(path, inode))
            self._inodes[found[0]] = inode

        try:
            self._do("open", work)
        except OSError:
            for fd in found:
                super().close(fd)
            raise
        return found[0]

    def _change_names(self, change: Callable[[dict[Path, Inode]], object]) -> None:
        change(self._names)
        self._renames.append(change)

    def open_append(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        return self._opened(path, lambda path: Disk.open_append(self, path, mode))

    def open_new(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        fd = self._opened(path, lambda path: Disk.open_new(self, path, mode))
        self._inodes[fd].since.append(0)
        return fd

    def size(self, fd: int) -> int:
        if self._off:
            raise PowerCut
        return super().size(fd)

    def look(self, fd: int, path: Path) -> tuple[int, bool]:
        if self._off:
            raise PowerCut
        return super().look(fd, path)

    def write(self, fd: int, data: bytes) -> None:
        def work(part: float) -> None:
            written = data[: int(len(data) * part)]
            Disk.write(self, fd, written)
            self._inodes[fd].since.append(written)

        self._do("write", work)

    def truncate(self, fd: int, size: int) -> None:
        def work(part: float) -> None:
            Disk.truncate(self, fd, size)
            self._inodes[fd].since.append(size)

        self._do("truncate", work)

    def sync(self, fd: int) -> None:
        def work(part: float) -> None:
            inode = self._inodes[fd]
            inode.durable = inode.content(len(inode.since))
            inode.since.clear()

        self._do("sync", work)

    def close(self, fd: int) -> None:
        super().close(fd)

    def rename(self, path: Path, target: Path) -> None:
        def work(part: float) -> None:
            Disk.rename(self, path, target)
            self._change_names(lambda names: names.__setitem__(target, names.pop(path)))

        self._do("rename", work)

    def remove(self, path: Path) -> None:
        def work(part: float) -> None:
            Disk.remove(self, path)
            self._change_names(lambda names: names.pop(path, None))

        self._do("remove", work)

    def sync_folder(self, path: Path) -> None:
        def work(part: float) -> None:
            self._durable_names = dict(self._names)
            self._renames.clear()

        self._do("sync_folder", work)

    # ---------------------------------------------------------------- after the power came back

    def power_cut(self, kept: float) -> None:
        """Puts the folder into a state that the cut may leave: `kept` (0 to 1) of what was not synced is there."""
        names = dict(self._durable_names)
        for change in self._renames[: round(len(self._renames) * kept)]:
            change(names)
        for path in [path for path in self._folder.iterdir() if path.is_file()]:
            path.unlink()
        for path, inode in names.items():
            steps = len(inode.since) * kept
            path.write_bytes(inode.content(int(steps), steps - int(steps)))
