"""Any of the four files cut at any byte: no row is in two places, none is forgotten that another file still tells."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dify_batch.ledger.formats import BOM, Paths
from dify_batch.ledger.state import read_state
from tests.support.story import DONE, FREE, PAUSED, RETRY, ROWS, RUNNING, SCRIPT, Story, moves_of, where


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """An output with rows in every place."""
    story = Story(tmp_path_factory.mktemp("told") / "results.jsonl", ROWS)
    asyncio.run(story.tell(SCRIPT))
    return story


def copy(story: Story, folder: Path) -> Paths:
    folder.mkdir(exist_ok=True)
    for path in story.paths.data:
        target = folder / path.name
        target.unlink(missing_ok=True)
        if path.exists():
            shutil.copy(path, target)
    return Paths.of(folder / story.output.name)


def check_cut(story: Story, paths: Paths, cut: Path) -> None:
    """What must hold of the places after `cut` was truncated."""
    before, after = where(story.output, story.now), where(paths.results, story.now)
    known = read_state(paths).rows
    journal = cut == paths.journal
    for row in story.now:
        if before[row] == after[row]:
            continue
        assert not (before[row] == DONE and journal)
        if before[row] == DONE:
            assert after[row] == RUNNING, f"{row} was done and is {after[row]}"
            assert known[row].run_id == story.runs[row], "its run is not known, so its result cannot be fetched"
            continue
        assert journal, f"{row} was {before[row]} and is {after[row]}, though only {cut.name} was cut"
        assert after[row] in story.ever[row]
        assert before[row] not in (PAUSED, RETRY) or after[row] != FREE, f"{row} was {before[row]} and is forgotten"


def cut_and_check(story: Story, folder: Path, name: str, length: int) -> Paths:
    paths = copy(story, folder)
    cut = getattr(paths, name)
    data = cut.read_bytes() if cut.exists() else b""
    if cut.exists():
        cut.write_bytes(data[:length])
    check_cut(story, paths, cut)
    return paths


async def reopen(story: Story, paths: Paths) -> None:
    """Opening repairs the cut file, and keeps every whole line of it."""
    before = where(paths.results, story.now)
    whole = {path: path.read_bytes().split(b"\n")[:-1] for path in (paths.results, paths.journal) if path.exists()}
    other = Story(paths.results, ())
    ledger = other.open()
    await ledger.close()
    assert where(paths.results, story.now) == before
    for path, lines in whole.items():
        data = path.read_bytes()
        assert data == b"" or data == BOM or data.endswith(b"\n")
        assert data.split(b"\n")[: len(lines)] == lines


@pytest.mark.parametrize("name", ["results", "journal", "retry", "paused"])
def test_every_byte(told: Story, tmp_path: Path, name: str) -> None:
    size = getattr(told.paths, name).stat().st_size
    # The long files: every byte near the end of a line, and some within.
    data = getattr(told.paths, name).read_bytes()
    near = {end + step for end, byte in enumerate(data) if byte == 10 for step in range(-2, 4)}
    lengths = sorted(near | set(range(0, size, 1 if size < 500 else 41)) | set(range(6)))
    for length in lengths:
        if length <= size:
            paths = cut_and_check(told, tmp_path, name, length)
            if length % 5 == 0:
                asyncio.run(reopen(told, paths))


picks = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), min_size=3, max_size=40)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picks=picks, name=st.sampled_from(["results", "journal", "retry", "paused"]), part=st.floats(0, 1))
def test_any_batch_and_any_cut(
    tmp_path_factory: pytest.TempPathFactory, picks: list[tuple[int, int]], name: str, part: float
) -> None:
    folder = tmp_path_factory.mktemp("any")
    story = Story(folder / "results.jsonl", ROWS[:5])
    asyncio.run(story.tell(moves_of(ROWS[:5], picks, dict(story.now))))
    file: Path = getattr(story.paths, name)
    size = file.stat().st_size if file.exists() else 0
    paths = cut_and_check(story, folder / "cut", name, int(size * part))
    asyncio.run(reopen(story, paths))


@pytest.mark.parametrize("name", ["results", "journal", "retry", "paused"])
def test_a_deleted_file_is_like_one_cut_to_nothing(told: Story, tmp_path: Path, name: str) -> None:
    paths = copy(told, tmp_path)
    cut = getattr(paths, name)
    cut.unlink()
    check_cut(told, paths, cut)
    asyncio.run(reopen(told, paths))
    if name in ("retry", "paused"):
        assert cut.read_bytes() == getattr(told.paths, name).read_bytes()


def test_without_the_journal_paused_rows_are_known_by_their_file(told: Story, tmp_path: Path) -> None:
    paths = copy(told, tmp_path)
    paths.journal.unlink()
    row = read_state(paths).rows["o"]
    assert (row.run_id, row.posts) == (told.runs["o"], 1)
    assert row.forms[0]["form_token"] == "token"
    assert row.started_at > 1_700_000_000  # else the run would be taken for one that has been stuck for years
    asyncio.run(reopen(told, paths))
    assert [json.loads(line)["id"] for line in paths.paused.read_text().splitlines()] == ["o"]


def test_cut_results_are_counted_once_however_often_they_were_done(tmp_path: Path) -> None:
    story = Story(tmp_path / "results.jsonl", ["a"])
    asyncio.run(story.tell([("a", "sent"), ("a", "started"), ("a", "succeeded")]))
    story.output.write_bytes(BOM)
    story.resume({"a": "started"})
    asyncio.run(story.tell([("a", "succeeded")]))
    assert read_state(story.paths).missing_results == 0
    story.output.write_bytes(BOM)
    assert read_state(story.paths).missing_results == 1
    story.resume({"a": "started"})
    asyncio.run(story.tell([("a", "broken")]))
    assert read_state(story.paths).missing_results == 0
    assert where(story.output, ["a"]) == {"a": RETRY}
