"""Opening an input: a file, a pipe, standard input; copied where it can be read only once, unpacked where packed."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO, TypeAlias

from dify_batch.errors import InvalidInput, UsageError
from dify_batch.input.kinds import HEAD, Kind, kind_of
from dify_batch.input.passes import read_at
from dify_batch.text import show

Stamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and time of the last change in nanoseconds: another one means that it is another file."""


@dataclass(slots=True)
class Opened:
    """An input that can be read as often as needed.

    Attributes:
        file: its descriptor is read; of a copy an unnamed temporary file.
        path: None for standard input.
        kind: what its first bytes say.
        stamp: of the file when it was opened; None of a copy, which cannot change any more.
        suffix: of its name, lower case, without a ".gz" that was unpacked.
    """

    file: BinaryIO
    path: Path | None
    kind: Kind
    stamp: Stamp | None
    suffix: str = field(default="")

    @property
    def name(self) -> str:
        return "standard input" if self.path is None else str(self.path)

    @property
    def head(self) -> bytes:
        return read_at(self.file.fileno(), HEAD, 0)

    def become(self, copy: BinaryIO) -> None:
        """Takes a copy in place of the file, for good."""
        self.file.close()
        self.file, self.stamp = copy, None

    def changed(self) -> bool:
        """Whether the file was changed or replaced since it was opened."""
        if self.path is None or self.stamp is None:
            return False
        try:
            return stamp_of(os.stat(self.path)) != self.stamp
        except OSError:
            return True


def open_input(path: Path | None, *, stdin: BinaryIO | None = None, delimiter_given: bool = False) -> Opened:
    """Opens an input and looks at its first bytes.

    Args:
        path: None for standard input, which is read to its end.
        stdin: stands for standard input.
        delimiter_given: see `kind_of`.

    Raises:
        UsageError: no such file, a folder, unreadable.
        InvalidInput: it cannot be unpacked.
    """
    if path is None:
        opened = Opened(_spool(stdin if stdin is not None else _stdin(), "standard input"), None, Kind.TABLE, None)
    else:
        file, spooled = _open(path)
        stamp = None if spooled else stamp_of(os.fstat(file.fileno()))
        opened = Opened(file, path, Kind.TABLE, stamp, path.suffix.lower())
    try:
        opened.kind = kind_of(opened.head, delimiter_given=delimiter_given)
        if opened.kind is Kind.GZIP:
            opened.become(_unpack(opened.file, opened.name))
            if opened.suffix == ".gz":
                opened.suffix = PurePath(PurePath(opened.name).stem).suffix.lower()
            opened.kind = kind_of(opened.head, delimiter_given=delimiter_given)
    except BaseException:
        opened.file.close()
        raise
    return opened


def stamp_of(info: os.stat_result) -> Stamp:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _open(path: Path) -> tuple[BinaryIO, bool]:
    """The file, and whether it is a copy."""
    shown = show(str(path), 200)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {shown}", hint="correct the path after --input", code="usage_invalid_flag"
        ) from None
    except IsADirectoryError:
        raise UsageError(
            f"{shown} is a folder", hint="name a CSV file in it after --input", code="usage_invalid_flag"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{shown} cannot be read: {reason}",
            hint="make it readable (chmod u+r) or name another file after --input",
            code="usage_invalid_flag",
        ) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file, False
    with file:  # a pipe can be read once only
        return _spool(file, shown), True


def _stdin() -> BinaryIO:
    if sys.stdin is None:  # closed before the start, as `<&-` does
        raise UsageError(
            "standard input is closed",
            hint="send rows to it (dify-batch -i - < data.csv) or name a file after --input",
            code="usage_invalid_flag",
        )
    return sys.stdin.buffer


def _spool(stream: BinaryIO, name: str) -> BinaryIO:
    return spooled(lambda spool: shutil.copyfileobj(stream, spool, 1 << 20), name, "copied")


def _unpack(packed: BinaryIO, name: str) -> BinaryIO:
    import gzip
    import zlib

    def unpack(spool: BinaryIO) -> None:
        packed.seek(0)
        with gzip.GzipFile(fileobj=packed, mode="rb") as stream:
            shutil.copyfileobj(stream, spool, 1 << 20)

    try:
        return spooled(unpack, name, "unpacked")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(
            f"{name} is gzip and cannot be unpacked: {error}",
            hint="copy it again, or try: gunzip -t FILE",
        ) from None


def spooled(fill: Callable[[BinaryIO], object], name: str, done: str) -> BinaryIO:
    """An unnamed temporary file that `fill` has written. `done`: what was to be done with the input, for a message.

    Raises:
        UsageError: it cannot be written.
    """
    spool = tempfile.TemporaryFile()  # noqa: SIM115  closed by RowSource.close
    try:
        fill(spool)
        spool.flush()
    except OSError as error:
        spool.close()
        if error.errno is None:  # not the system's word: gzip.BadGzipFile is one, too
            raise
        raise UsageError(
            f"{name} cannot be {done} to the folder of temporary files: {error.strerror}",
            hint="name a regular file after --input, or set TMPDIR to a folder with room",
        ) from None
    except BaseException:
        spool.close()
        raise
    return spool
