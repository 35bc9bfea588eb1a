"""Who may read the files of a batch, and what a link that somebody planted leads to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.errors import StorageError
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.state import read_state
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import Paused, RunRef

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and links are those of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def opened(output: Path) -> Ledger:
    paths = Paths.of(output)
    return Ledger(paths, read_state(paths), base_url="http://x/v1", on_error=lambda error: None)


async def test_what_holds_tokens_is_private_and_results_follow_the_umask(tmp_path: Path, umask: int) -> None:
    paths = Paths.of(tmp_path / "results.jsonl")
    paths.journal.write_bytes(b"")
    paths.journal.chmod(0o644)  # as earlier versions made it
    lock = OutputLock(paths.lock)
    lock.acquire()
    ledger = opened(paths.results)
    await ledger.sent("a", user="u", mode="streaming")
    ledger.paused("a", Paused(RunRef("r", "t")))
    ledger.failed("b", kind="failed", code="x", message="no")
    await ledger.flush()
    assert {mode(path) for path in (paths.journal, paths.paused, paths.lock)} == {0o600}
    assert {mode(path) for path in (paths.results, paths.retry)} == {0o666 & ~umask}
    await ledger.close()
    lock.release()


@pytest.mark.parametrize("name", ["journal", "results"])
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    paths = Paths.of(tmp_path / "out" / "results.jsonl")
    getattr(paths, name).symlink_to(victim)
    with pytest.raises(StorageError):
        Ledger(paths, read_state(paths), base_url="http://x/v1", on_error=lambda error: None)
    assert victim.read_bytes() == b"precious"


def test_temporary_files_are_new_ones_with_names_that_nobody_can_guess(tmp_path: Path) -> None:
    names = []

    class Watched(Disk):
        def open_new(self, path: Path, mode: int = PRIVATE) -> int:
            names.append(path.name)
            return super().open_new(path, mode)

    disk, target = Watched(), tmp_path / "x.retry"
    for _ in range(20):
        disk.replace(target, b"1")
    with disk.replacing(target) as file:
        file.write(b"2")
    assert target.read_bytes() == b"2"
    assert len(set(names)) == 21
    assert [path.name for path in tmp_path.iterdir()] == ["x.retry"]
    taken = tmp_path / "taken"
    taken.symlink_to(tmp_path / "x.retry")
    with pytest.raises(FileExistsError):
        disk.open_new(taken)


async def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    left = tmp_path / ".results.jsonl.retry.0123456789abcdef.new"
    others = tmp_path / ".other.jsonl.retry.0123456789abcdef.new"
    for path in (left, others):
        path.write_bytes(b"half")
    await opened(tmp_path / "results.jsonl").close()
    assert not left.exists()
    assert others.exists()


async def test_an_output_under_another_name_is_the_same_one(tmp_path: Path) -> None:
    real = tmp_path / "real" / "results.jsonl"
    real.parent.mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    assert Paths.of(link) == Paths.of(real)
    ledger = opened(link)
    await ledger.sent("a", user="u", mode="streaming")
    await ledger.close()
    assert sorted(path.name for path in real.parent.iterdir()) == ["results.jsonl", "results.jsonl.journal"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "real"]
