"""Journals of each release are kept, and keep their meaning: they resume, and they replay through the course.

Each folder holds what one batch left: 12 rows, of which one was paused, one ran on, and some had failed, were lost and
found, or were repeated. `0.1.0` is of the version in which absence was proved by time alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.engine.course import Rules
from dify_batch.engine.facts import Fact, from_record
from dify_batch.engine.resume import replay, resumed
from dify_batch.engine.row import Ask, Stage
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.rowstate import event_time
from dify_batch.ledger.state import Phase, lines_of, read_state

JOURNALS = Path(__file__).parent.parent / "journals"
RELEASES = sorted(path.name for path in JOURNALS.iterdir() if path.is_dir())


def stories(journal: Path) -> dict[str, list[Fact]]:
    """The facts of each row, as the journal tells them."""
    found: dict[str, list[Fact]] = {}
    for record in records(journal):
        fact = from_record(record, event_time(record))
        if fact is not None and isinstance(record.get("id"), str):
            found.setdefault(str(record["id"]), []).append(fact)
    return found


def records(journal: Path) -> Iterator[dict[str, object]]:
    for line, _ in lines_of(journal):
        record = journal_record(line)
        assert record is not None
        yield record


def test_there_are_journals_of_both_rules() -> None:
    assert {"0.1.0", "0.2.0"} <= set(RELEASES)


@pytest.mark.parametrize("release", RELEASES)
def test_it_replays_through_the_course_to_where_the_files_say_that_each_row_stands(release: str) -> None:
    paths = Paths.of(JOURNALS / release / "results.jsonl")
    state = read_state(paths)
    told = stories(paths.journal)
    assert len(told) >= 11
    for row_id, facts in told.items():
        row = replay(Rules(), facts)
        known = state.rows.get(row_id)
        if known is None or known.phase is Phase.FAILED:
            assert row.stage is Stage.SETTLED, (row_id, facts)
        elif known.phase in (Phase.STARTED, Phase.SENT):
            again = resumed(known, may_send=True)
            assert row.stage in (Stage.SENT, Stage.KNOWN, Stage.LOST)
            assert (row.ref and row.ref.run_id) == (again.ref and again.ref.run_id)
            assert row.sent is not None
            assert again.sent is not None
            assert row.sent.user == again.sent.user


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_open_is_resumed_and_nothing_that_may_have_run_is_new(release: str) -> None:
    state = read_state(Paths.of(JOURNALS / release / "results.jsonl"))
    phases = {row_id: row.phase for row_id, row in state.rows.items()}
    assert Phase.PAUSED in phases.values()
    assert Phase.STARTED in phases.values()
    for row in state.rows.values():
        if row.phase in (Phase.STARTED, Phase.PAUSED, Phase.SENT):
            stage = resumed(row, may_send=True, ask=Ask.NOTHING).stage
            assert stage in (Stage.KNOWN, Stage.LOST)
