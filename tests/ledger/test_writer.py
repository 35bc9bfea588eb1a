"""Group commit: what is on the disk when, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from pathlib import Path

import pytest

from dify_batch.errors import StorageError
from dify_batch.ledger.appendfile import AppendFile, storage_error, whole_length
from dify_batch.ledger.disk import OPEN_TO_ALL, Disk
from dify_batch.ledger.formats import BOM
from dify_batch.ledger.writer import Writer
from tests.support.crashdisk import CrashDisk, Fault


class Recorder(Disk):
    """A disk that notes each write and sync with the name of its file."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, bytes]] = []
        self._paths: dict[int, str] = {}

    def open_append(self, path: Path, mode: int = OPEN_TO_ALL) -> int:
        fd = super().open_append(path, mode)
        self._paths[fd] = path.name
        return fd

    def write(self, fd: int, data: bytes) -> None:
        super().write(fd, data)
        self.log.append(("write", self._paths[fd], bytes(data)))

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.log.append(("sync", self._paths[fd], b""))


def writer_on(folder: Path, disk: Disk, errors: list[StorageError] | None = None) -> Writer:
    results = AppendFile.open(folder / "results", disk)
    return Writer(results, AppendFile.open(folder / "journal", disk), (errors if errors is not None else []).append)


async def test_many_rows_share_one_sync(tmp_path: Path) -> None:
    disk = Recorder()
    writer = writer_on(tmp_path, disk)
    rows = 200

    async def row(number: int) -> None:
        for step in range(3):
            writer.record(b"%d.%d\n" % (number, step))
            await writer.durable()

    await asyncio.gather(*(row(number) for number in range(rows)))
    await writer.close()
    syncs = [entry for entry in disk.log if entry[0] == "sync"]
    assert len((tmp_path / "journal").read_bytes().splitlines()) == 3 * rows
    assert len(syncs) <= 3 * rows / 20


async def test_what_is_durable_has_been_synced(tmp_path: Path) -> None:
    disk = Recorder()
    writer = writer_on(tmp_path, disk)
    for number in range(20):
        text = b"intent %d\n" % number
        writer.record(text)
        await writer.durable()
        written = next(at for at, entry in enumerate(disk.log) if text in entry[2])
        assert ("sync", "journal", b"") in disk.log[written:]
    await writer.close()


async def test_a_result_is_durable_before_its_done(tmp_path: Path) -> None:
    disk = Recorder()
    writer = writer_on(tmp_path, disk)
    for number in range(30):
        writer.result(b"result %d\n" % number, b"done %d\n" % number)
        writer.record(b"other %d\n" % number)
        if number % 3 == 0:
            await writer.durable()
    await writer.close()
    for number in range(30):
        result = next(at for at, entry in enumerate(disk.log) if b"result %d\n" % number in entry[2])
        done = next(at for at, entry in enumerate(disk.log) if b"done %d\n" % number in entry[2])
        assert ("sync", "results", b"") in disk.log[result:done]


async def test_an_intent_does_not_wait_for_results(tmp_path: Path) -> None:
    go_on = threading.Event()

    class SlowResults(Recorder):
        def sync(self, fd: int) -> None:
            if self._paths[fd] == "results":
                assert go_on.wait(10)
            super().sync(fd)

    disk = SlowResults()
    writer = writer_on(tmp_path, disk)
    writer.result(b"result\n", b"done\n")
    writer.record(b"intent\n")
    await asyncio.wait_for(writer.durable(), 10)
    assert disk.log == [("write", "results", b"result\n"), ("write", "journal", b"intent\n"), ("sync", "journal", b"")]
    go_on.set()
    await writer.close()
    assert disk.log[3:] == [("sync", "results", b""), ("write", "journal", b"done\n"), ("sync", "journal", b"")]


async def test_what_nobody_waits_for_is_written_all_the_same(tmp_path: Path) -> None:
    disk = Recorder()
    writer = writer_on(tmp_path, disk)
    writer.result(b"result\n", b"done\n")
    async with asyncio.timeout(10):
        while len(disk.log) < 4:
            await asyncio.sleep(0.001)
    assert disk.log == [
        ("write", "results", b"result\n"),
        ("sync", "results", b""),
        ("write", "journal", b"done\n"),
        ("sync", "journal", b""),
    ]
    await writer.close()


async def test_results_whose_sync_fails_do_not_stay_in_the_file(tmp_path: Path) -> None:
    """The system may have dropped them, and would yet show them to the next reader."""
    disk = CrashDisk(tmp_path)
    writer = writer_on(tmp_path, disk)
    writer.result(b"first\n", b"done 1\n")
    await writer.flush()
    writer.result(b"second\n", b"done 2\n")
    disk._trouble = Fault(disk.operations + 2, errno.EIO, only=frozenset({"sync"}))
    with pytest.raises(StorageError):
        await writer.close()
    assert (tmp_path / "results").read_bytes() == b"first\n"
    assert (tmp_path / "journal").read_bytes() == b"done 1\n"


async def test_lines_keep_their_order(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk())
    for number in range(500):
        writer.record(b"%d\n" % number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    await writer.close()
    assert (tmp_path / "journal").read_bytes() == b"".join(b"%d\n" % number for number in range(500))


async def test_other_work_sees_what_its_commit_holds(tmp_path: Path) -> None:
    """Its facts are taken when the commit begins: after the lines recorded since it was asked for, and before those
    that come later."""
    writer = writer_on(tmp_path, Disk())
    recorded: list[int] = []

    def record(number: int) -> None:
        recorded.append(number)
        writer.record(b"%d\n" % number)

    def prepare() -> object:
        taken = list(recorded)
        return lambda: [b"taken " + repr(taken).encode() + b"\n"]

    record(1)
    writer.other(prepare)  # type: ignore[arg-type]
    record(2)
    first = writer.durable()
    await asyncio.sleep(0)
    record(3)
    await first
    await writer.close()
    lines = (tmp_path / "journal").read_bytes().splitlines()
    assert lines.index(b"taken [1, 2]") == 2
    assert lines[:2] == [b"1", b"2"]
    assert sorted(lines) == [b"1", b"2", b"3", b"taken [1, 2]"]


async def test_other_work_finds_its_lines_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dify_batch.ledger.writer._SYNC_EVERY", 60.0)
    disk = Recorder()
    writer = writer_on(tmp_path, disk)
    synced: list[str] = []

    def work() -> list[bytes]:
        synced.extend(name for what, name, _ in disk.log if what == "sync")
        return []

    writer.result(b"first\n", b"done\n")
    writer.record(b"line\n")
    await writer.durable()
    async with asyncio.timeout(10):
        while ("sync", "results", b"") not in disk.log:
            await asyncio.sleep(0.001)
    disk.log.clear()  # from here on results would wait for a minute
    writer.result(b"second\n", b"done\n")
    writer.record(b"line\n")
    writer.other(lambda: work)
    await writer.durable()
    await writer.close()
    assert "results" in synced


async def test_after_an_error_nothing_more_is_written_and_everyone_is_told(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    disk = CrashDisk(tmp_path)
    writer = writer_on(tmp_path, disk, errors)
    writer.record(b"first\n")
    await writer.durable()
    disk._trouble = Fault(disk.operations + 1, errno.ENOSPC, only=frozenset({"write"}))
    writer.record(b"second\n")
    waiting = [writer.durable(), writer.durable()]
    for future in waiting:
        with pytest.raises(StorageError, match="No space left"):
            await future
    writer.record(b"third\n")
    with pytest.raises(StorageError):
        await writer.durable()
    with pytest.raises(StorageError):
        await writer.flush()
    with pytest.raises(StorageError):
        await writer.close()
    assert len(errors) == 1
    assert errors[0].hint is not None
    assert "free some space" in errors[0].hint
    assert (tmp_path / "journal").read_bytes() == b"first\n"


async def test_an_unexpected_error_does_not_leave_anyone_waiting(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    writer = writer_on(tmp_path, Disk(), errors)

    def broken() -> list[bytes]:
        raise MemoryError("no room")

    writer.other(lambda: broken)
    with pytest.raises(StorageError, match="MemoryError"):
        await asyncio.wait_for(writer.durable(), 10)
    with pytest.raises(StorageError):
        await writer.close()
    assert len(errors) == 1


async def test_who_gives_up_waiting_disturbs_nobody(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk())
    writer.record(b"a\n")
    given_up, kept = writer.durable(), writer.durable()
    given_up.cancel()
    await kept
    await writer.close()
    assert (tmp_path / "journal").read_bytes() == b"a\n"


# ------------------------------------------------------------ files that grow by lines


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"", BOM),
        (b"\xef", BOM),
        (b"\xef\xbb", BOM),
        (BOM, BOM),
        (BOM + b'{"a": 1', BOM),
        (b'{"a": 1', BOM),
        (b'{"a": 1}', b'{"a": 1}\n'),
        (BOM + b'{"a": 1}', BOM + b'{"a": 1}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"a', b'{"a": 1}\n'),
        (b'{"a": 1}\n\0\0\0', b'{"a": 1}\n'),
        (b'{"a": 1}\n' + bytes(503) + b'x": 1}', b'{"a": 1}\n'),
        (b'{"a": 1}\n{' + bytes(502) + b'x": 1}', b'{"a": 1}\n'),
        (BOM + bytes(509) + b'x": 1}', BOM),
        (b'{"a": 1}\n{"a": 2}', b'{"a": 1}\n{"a": 2}\n'),
        (b'{"a": 1}\r\n\r\n  ', b'{"a": 1}\r\n\r\n'),
        (b'{"a": 1}\n{"b": "' + b"x" * 3_000_000, b'{"a": 1}\n'),
        (b'{"a": "' + b"x" * 3_000_000 + b'"}', b'{"a": "' + b"x" * 3_000_000 + b'"}\n'),
    ],
)
def test_what_is_left_of_a_file_when_it_is_opened(tmp_path: Path, data: bytes, kept: bytes) -> None:
    path = tmp_path / "results"
    path.write_bytes(data)
    file = AppendFile.open(path, Disk(), head=BOM)
    file.append(b'{"b": 1}\n')
    file.close()
    assert path.read_bytes() == kept + b'{"b": 1}\n'


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"id,query\n1,x",
        b"PK\x03\x04zip",
        b"\xff\xfe",
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
        b"\0\0\x01\0\x01\0\x10\x10",  # an icon
        b"\0\0\0\x18ftypmp42",
        b"{\\rtf1 hello}",
    ],
)
def test_somebody_elses_file_is_not_cut(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="ends in a line that is no record of a batch") as caught:
        AppendFile.open(path, Disk())
    assert caught.value.hint is not None
    assert path.read_bytes() == data


def test_a_file_that_is_not_there_has_no_length(tmp_path: Path) -> None:
    assert whole_length(tmp_path / "none") == (0, b"")


@pytest.mark.parametrize("what", ["cut", "grown", "deleted", "moved"])
def test_a_foreign_hand_is_noticed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "results"
    with contextlib.closing(AppendFile.open(path, Disk())) as file:
        file.append(b'{"a": 1}\n')
        match what:
            case "cut":
                path.write_bytes(b"")
            case "grown":
                path.write_bytes(b'{"a": 1}\n{"b": 1}\n')
            case "deleted":
                path.unlink()
            case "moved":
                path.rename(tmp_path / "other")
        now = "deleted or moved away" if what in ("deleted", "moved") else "it had 9 bytes"
        with pytest.raises(StorageError, match=f"changed by somebody else while the batch ran: .*{now}") as caught:
            file.append(b'{"c": 1}\n')
    assert "fetched from the server" in str(caught.value.hint)
    left = tmp_path / "other" if what == "moved" else path
    assert not left.exists() or b"c" not in left.read_bytes()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make /some writable"),
        (errno.EACCES, "make /some writable"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_the_hint_says_what_to_do(code: int, hint: str) -> None:
    error = storage_error(Path("/some/results"), OSError(code, "reason"))
    assert error.message == "/some/results cannot be written: reason"
    assert error.hint is not None
    assert hint in error.hint


# ------------------------------------------------------------ replacing


def test_a_failed_replacement_leaves_the_old_file_and_no_scrap(tmp_path: Path) -> None:
    path = tmp_path / "retry"
    path.write_bytes(b"old")
    disk = CrashDisk(tmp_path, Fault(2, errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        disk.replace(path, b"new contents")
    assert [file.name for file in tmp_path.iterdir()] == ["retry"]
    assert path.read_bytes() == b"old"


def test_a_replacement_is_durable_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "retry"
    path.write_bytes(b"old")
    disk = CrashDisk(tmp_path)
    disk.replace(path, b"new")
    disk.power_cut(0.0)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("retry", b"new")]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> None:
        def fsync(fd: int) -> None:
            raise OSError(code, "no")

        monkeypatch.setattr("os.fsync", fsync)

    refuse(errno.EINVAL)
    Disk().sync_folder(tmp_path / "x")
    refuse(errno.EIO)
    with pytest.raises(OSError, match="no"):
        Disk().sync_folder(tmp_path / "x")
