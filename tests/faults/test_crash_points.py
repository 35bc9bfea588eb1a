"""The power goes, or the disk fails, at every single operation of the ledger; then it is opened again."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dify_batch.errors import StorageError
from dify_batch.ledger.store import set_aside
from tests.support.crashdisk import CrashDisk, Cut, Fault
from tests.support.story import DONE, FREE, PAUSED, RETRY, ROWS, RUNNING, SCRIPT, Story, moves_of, where


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.retry` and `.paused` are written as often as they change: more operations to stop at."""
    monkeypatch.setattr("dify_batch.ledger.companions.RETRY_FILE_EVERY", 0.0)


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def play(path: Path, moves: Sequence[tuple[str, str]], trouble: Cut | Fault | None) -> tuple[Story, CrashDisk]:
    """The moves on a disk with trouble, up to the error that it makes."""
    story = Story(path / "results.jsonl", ROWS)
    disk = CrashDisk(path, trouble)
    try:
        asyncio.run(story.tell(moves, disk))
    except StorageError:
        assert disk.hit
    story.errors.clear()
    return story, disk


def test_the_script_itself_ends_where_it_should(tmp_path: Path) -> None:
    story, disk = play(tmp_path, SCRIPT, None)
    assert not disk.hit
    assert {len(history) for history in story.may_be.values()} == {1}
    found = story.check()
    by_place = {place: "".join(row for row in ROWS if found[row] == place) for place in set(found.values())}
    assert by_place == {DONE: "abcdhj", RETRY: "egmn", PAUSED: "o", RUNNING: "ikl", FREE: "f"}
    asyncio.run(story.reopen())


@pytest.mark.parametrize("when", ["before", "middle", "after"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_power_goes_at_every_operation(when: str, kept: float) -> None:
    at = 0
    while True:
        at += 1
        with folder() as path:
            story, disk = play(path, SCRIPT, Cut(at, when))  # type: ignore[arg-type]
            if not disk.hit:
                break
            disk.power_cut(kept)
            story.check()
            asyncio.run(story.reopen())
    assert at > 120


@pytest.mark.parametrize(
    ("code", "lasting", "only"),
    [
        (errno.ENOSPC, True, {"write", "open"}),
        (errno.ENOSPC, False, {"write"}),
        (errno.EIO, False, {"sync", "sync_folder"}),
        (errno.EIO, True, {"sync", "sync_folder", "truncate"}),
        (errno.EROFS, True, None),
    ],
)
def test_the_disk_fails_at_every_operation(code: int, lasting: bool, only: set[str] | None) -> None:
    at, hits = 0, 0
    while True:
        at += 1
        with folder() as path:
            story, disk = play(path, SCRIPT, Fault(at, code, lasting, frozenset(only) if only else None))
            if disk.operations < at:
                break
            hits += disk.hit
            story.check()
            asyncio.run(story.reopen())
            assert [file.name for file in path.iterdir() if file.name.endswith(".new")] == [] or lasting
    assert hits > 20


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 1.0])
def test_the_power_goes_at_every_operation_of_overwrite(kept: float) -> None:
    """The old batch is told whole by its journal as long as that has its name; it moves last."""
    at = 0
    while True:
        at += 1
        with folder() as path:
            story, _ = play(path, SCRIPT, None)
            before = where(story.output, ROWS)
            disk = CrashDisk(path, Cut(at, "after"))
            try:
                set_aside(story.paths, disk)
            except (StorageError, OSError):
                assert disk.hit
            if not disk.hit:
                break
            disk.power_cut(kept)
            if story.paths.journal.exists():
                after = where(story.output, ROWS)
                lost = {row for row in ROWS if after[row] != before[row]}
                assert all((before[row], after[row]) == (DONE, RUNNING) for row in lost)
            else:
                assert not any(file.exists() for file in story.paths.data)
    assert at > 4


picks = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=40)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=picks,
    at=st.integers(1, 120),
    when=st.sampled_from(["before", "middle", "after"]),
    kept=st.floats(0, 1),
    second=picks,
)
def test_any_batch_cut_anywhere_and_gone_on_with(
    first: list[tuple[int, int]], at: int, when: str, kept: float, second: list[tuple[int, int]]
) -> None:
    rows = ROWS[:5]
    with folder() as path:
        moves = moves_of(rows, first, dict.fromkeys(rows, "free"))
        story, disk = play(path, moves, Cut(at, when))  # type: ignore[arg-type]
        if disk.hit:
            disk.power_cut(kept)
        found = story.check()
        asyncio.run(story.reopen())
        names = {FREE: "free", RUNNING: "started", DONE: "done", RETRY: "failed", PAUSED: "paused"}
        story.resume({row: names[place] for row, place in found.items()})
        asyncio.run(story.tell(moves_of(rows, second, story.now)))
        story.check()
        asyncio.run(story.reopen())
