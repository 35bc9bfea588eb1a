"""One writer an output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dify_batch.errors import Exit, OutputLocked, StorageError
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.lock import OutputLock, holder_of

HOLD = """
import sys
from pathlib import Path
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.lock import OutputLock, holder_of
lock = OutputLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl.lock"


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_holds_it(path: Path) -> None:
    with holder(path) as first:
        for _ in range(3):  # asking does not wipe out the answer
            with pytest.raises(OutputLocked) as caught:
                OutputLock(path).acquire()
            error = caught.value
            assert error.message == (
                f"{path.with_suffix('')} is being written by process {first.pid} on {socket.gethostname()}"
            )
            assert error.exit_status is Exit.UNFINISHED
            assert error.details["holder"] == {"pid": first.pid, "host": socket.gethostname()}
            assert f"ps -p {first.pid}" in str(error.hint)
        first.kill()


def test_kill_9_frees_it_at_once(path: Path) -> None:
    with holder(path) as first:
        first.kill()
        first.wait()
    assert path.exists()  # nobody cleaned up, and nobody has to
    lock = OutputLock(path)
    lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()


def test_another_batch_of_the_same_process(path: Path) -> None:
    first = OutputLock(path)
    first.acquire()
    with pytest.raises(OutputLocked, match=f"process {os.getpid()} "):
        OutputLock(path).acquire()
    first.release()
    second = OutputLock(path)
    second.acquire()
    second.release()


def test_release_leaves_nothing_behind_and_may_be_repeated(path: Path) -> None:
    lock = OutputLock(path)
    lock.acquire()
    lock.release()
    lock.release()
    assert not path.exists()


def test_release_of_one_that_was_never_held_disturbs_nobody(path: Path) -> None:
    first = OutputLock(path)
    first.acquire()
    OutputLock(path).release()
    assert path.exists()
    with pytest.raises(OutputLocked):
        OutputLock(path).acquire()
    first.release()


@pytest.mark.parametrize("text", ["", "hello", "[]", '{"pid": 1}', "\0\0"])
def test_a_holder_that_cannot_be_read(path: Path, text: str) -> None:
    first = OutputLock(path)
    first.acquire()
    path.write_text(text)
    with pytest.raises(OutputLocked, match="is being written by another process"):
        OutputLock(path).acquire()
    first.release()


def test_release_in_a_folder_that_has_turned_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = OutputLock(path)
    lock.acquire()

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        lock.release()
    again = OutputLock(path)
    again.acquire()
    again.release()


def test_a_lock_that_cannot_be_made(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        OutputLock(path).acquire()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_in_which_no_file_can_be_made_is_not_taken_for_a_holder() -> None:
    with pytest.raises(StorageError, match=r"/proc/x\.jsonl\.lock cannot be written"):
        OutputLock(Path("/proc/x.jsonl.lock")).acquire()


def test_a_lock_whose_holder_cannot_be_noted_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Disk, path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "overwrite", full)
        with pytest.raises(StorageError, match="No space left"):
            OutputLock(path).acquire()
    again = OutputLock(path)
    again.acquire()
    again.release()


# ------------------------------------------------------------ file systems without locks


WITHOUT_LOCKS = """
import errno, fcntl, json, os, sys, warnings
from pathlib import Path

def none(*_):
    raise OSError(getattr(errno, sys.argv[2]), "no locks here")

fcntl.flock = none
warnings.simplefilter("error")
from dify_batch.errors import OutputLocked
from dify_batch.ledger.lock import OutputLock, holder_of

lock = OutputLock(Path(sys.argv[1]))
try:
    lock.acquire()
except OutputLocked as error:
    print(json.dumps(error.as_dict()), flush=True)
    sys.exit(75)
print("held", flush=True)
if sys.stdin.read() == "release":
    lock.release()
else:
    os.kill(os.getpid(), 9)
"""


def without_locks(path: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_LOCKS, str(path), code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="flock is of POSIX")
@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks(path: Path, code: str) -> None:
    """The second process is turned away; a killed one is found dead; a released one leaves nothing; no word of Python's
    comes on standard error, where --json has one object or nothing."""
    first = without_locks(path, code)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = without_locks(path, code)
    out, err = second.communicate("")
    assert (second.returncode, err) == (Exit.UNFINISHED, "")
    assert json.loads(out)["holder"] == {"pid": first.pid, "host": socket.gethostname()}
    first.communicate("")  # kill -9
    third = without_locks(path, code)
    out, err = third.communicate("release")
    assert (third.returncode, out, err) == (0, "held\n", "")
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="flock is of POSIX")
def test_a_marker_of_another_host_is_explained(path: Path) -> None:
    path.write_text("4711\nelsewhere\n12345\n")
    process = without_locks(path, "ENOSYS")
    out, err = process.communicate("")
    assert (process.returncode, err) == (Exit.UNFINISHED, "")
    error = json.loads(out)
    assert "process 4711 on elsewhere" in error["message"]
    assert f"rm '{path}'" in error["hint"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"pid": 5, "host": "h"}', {"pid": 5, "host": "h"}),
        ("5\nh\n", {"pid": 5, "host": "h"}),
        ("5\nh\n99\n", {"pid": 5, "host": "h"}),
        ('{"pid": "5", "host": "h"}', None),
        ('{"pid": 5, "host": []}', None),
        ('{"pid": true, "host": "h"}', None),
        ('{"pid": -5, "host": "h"}', None),
        ("5", None),
        ("99999999999999999999\nh\n", None),
        ("[" * 100_000, None),
    ],
)
def test_who_a_lock_file_names(path: Path, text: str, found: object) -> None:
    path.write_text(text)
    assert holder_of(path) == found
