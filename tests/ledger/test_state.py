"""What the files of an output say, as they may be found."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import StorageError
from dify_batch.ids import DONE, OPEN, PAUSED, RETRY
from dify_batch.ledger.formats import BOM, Paths, json_line
from dify_batch.ledger.state import Phase, RowState, claimed_runs, read_state
from tests.support.story import Story, where

AT = "2025-01-01T00:00:00.000Z"


def write(folder: Path, **files: bytes | list[dict[str, Any]]) -> Paths:
    """The given files of an output; a list of records is written as JSON lines."""
    paths = Paths.of(folder / "results.jsonl")
    for name, data in files.items():
        lines = data if isinstance(data, bytes) else b"".join(json_line(record, compact=True) for record in data)
        getattr(paths, name).write_bytes(lines)
    return paths


def sent(row_id: str, user: str = "u1") -> dict[str, Any]:
    return {"event": "sent", "id": row_id, "user": user, "mode": "blocking", "at": AT}


def started(row_id: str, run: str = "r1") -> dict[str, Any]:
    return {"event": "started", "id": row_id, "run": run, "task": "t1", "at": AT}


def lost(row_id: str) -> dict[str, Any]:
    return {"event": "lost", "id": row_id, "reason": "cut", "at": AT}


def batch() -> dict[str, Any]:
    return {"event": "batch", "batch": "b", "pid": 1, "host": "h", "input": "data.csv", "at": AT}


def failed(row_id: str) -> dict[str, Any]:
    return {"event": "failed", "id": row_id, "kind": "failed", "code": "run_failed", "message": "no", "at": AT}


def result(row_id: str) -> dict[str, Any]:
    return {"id": row_id, "status": "success", "workflow_run_id": f"run-{row_id}"}


def repair(paths: Paths) -> None:
    asyncio.run(Story(paths.results, ()).open().close())


def test_no_files_at_all(tmp_path: Path) -> None:
    state = read_state(write(tmp_path))
    assert (state.rows, state.retry, state.done, len(state.index)) == ({}, {}, 0, 0)


def test_the_phases_and_their_flags(tmp_path: Path) -> None:
    journal = [
        sent("s"),
        *(sent("r"), started("r")),
        *(sent("f"), started("f"), failed("f")),
        *(sent("p"), started("p"), {"event": "paused", "id": "p", "run": "r1", "forms": [{"form_token": "x"}]}),
        *(sent("q"), {"event": "refused", "id": "q", "at": AT}),
        *(sent("h"), {"event": "held", "id": "h", "line": result("h")}),
        *(sent("d"), started("d")),
    ]
    state = read_state(write(tmp_path, journal=journal, results=[result("d")]))
    phases = {row_id: row.phase for row_id, row in state.rows.items()}
    assert phases == {
        "s": Phase.SENT,
        "r": Phase.STARTED,
        "f": Phase.FAILED,
        "p": Phase.PAUSED,
        "q": Phase.FREE,
        "h": Phase.HELD,
    }
    flags = {row_id: state.index.flags(row_id) for row_id in "srfpqhd"}
    assert flags == {"s": OPEN, "r": OPEN, "f": RETRY, "p": OPEN | PAUSED, "q": 0, "h": OPEN, "d": DONE}
    assert state.rows["s"].sent_at == 1735689600.0
    assert state.rows["r"].ref is not None


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_results_as_editors_leave_them(tmp_path: Path, bom: bytes, end: str, last: bool) -> None:
    lines = [json.dumps(result("a")), "", "   ", json.dumps(result("b"))]
    data = bom + end.join(lines).encode() + (end.encode() if last else b"")
    paths = write(tmp_path, results=data)
    state = read_state(paths)
    assert (state.done, state.bad_lines) == (2, [])
    repair(paths)
    assert paths.results.read_bytes() == data + (b"" if last else b"\n")


def test_bad_lines_of_the_results_are_named(tmp_path: Path) -> None:
    state = read_state(write(tmp_path, results=json_line(result("a")) * 2 + b"hello\n"))
    assert state.done == 1
    assert [text.partition(", ")[2] for text in state.bad_lines] == [
        "line 2: the id a stands twice",
        "line 3: not a result",
    ]


def test_bad_lines_are_not_collected_without_end(tmp_path: Path) -> None:
    assert len(read_state(write(tmp_path, results=b"hello\n" * 1000)).bad_lines) == 20


def test_foreign_and_damaged_journal_lines_change_nothing(tmp_path: Path) -> None:
    good = json_line(sent("a"), compact=True)
    odd = [b"\n", b"\0\0\0\n", b"[]\n", b'{"event":"new","id":"a"}\n', b'{"event":"started","id":"a"}\n', b"\xff\n"]
    state = read_state(write(tmp_path, journal=good + b"".join(odd) + b'{"event":"sta'))
    assert state.rows["a"].phase is Phase.SENT
    assert state.rows["a"].posts == 1


def test_posts_count_those_that_left(tmp_path: Path) -> None:
    unsent = {"event": "unsent", "id": "a", "at": AT}
    journal = [sent("a"), unsent, sent("a"), {"event": "absent", "id": "a"}, sent("a")]
    assert read_state(write(tmp_path, journal=journal)).rows["a"].posts == 2


# ------------------------------------------------------------ .retry


def test_hand_edits_of_retry(tmp_path: Path) -> None:
    """Unknown ids and those of done rows stay, those of rows under way go, and every failed row is there."""
    paths = write(
        tmp_path,
        results=[result("done")],
        journal=[sent("f1"), failed("f1"), sent("f2"), failed("f2"), sent("going")],
        retry=b"unknown\r\n\r\ndone\r\ngoing\r\nf2\r\n",
    )
    state = read_state(paths)
    assert list(state.retry) == ["unknown", "done", "f2"]
    assert state.index.has("unknown", RETRY)
    assert state.index.flags("done") == DONE | RETRY
    assert state.asked == {"done"}
    repair(paths)
    assert paths.retry.read_bytes() == BOM + b"unknown\ndone\nf2\nf1\n"


WROTE_RETRY = {"event": "retry_file", "count": 1}
DONE_AGAIN = [sent("a"), started("a"), {"event": "done", "id": "a", "run": "r1"}]


@pytest.mark.parametrize(
    ("journal", "asked"),
    [
        ([sent("a"), started("a"), failed("a"), WROTE_RETRY, *DONE_AGAIN], set()),  # killed before `.retry` was written
        ([sent("a"), started("a"), failed("a"), WROTE_RETRY, *DONE_AGAIN, WROTE_RETRY], {"a"}),
        ([sent("a"), started("a"), failed("a"), WROTE_RETRY, sent("a"), WROTE_RETRY, *DONE_AGAIN[1:]], {"a"}),
        ([*DONE_AGAIN, sent("b"), failed("b"), WROTE_RETRY], {"a"}),
        (DONE_AGAIN, {"a"}),
    ],
)
def test_who_put_the_id_of_a_done_row_into_retry(
    tmp_path: Path, journal: list[dict[str, Any]], asked: set[str]
) -> None:
    """The batch itself, before the row had its result; or a person, to have it run again."""
    state = read_state(write(tmp_path, results=[result("a")], journal=journal, retry=b"a\n"))
    assert state.asked == asked
    assert ("a" in state.retry) == bool(asked)
    assert state.retry_stale != bool(asked)


def test_ids_that_are_stale_go_even_if_they_are_all(tmp_path: Path) -> None:
    journal = [sent("a"), started("a"), failed("a"), {"event": "retry_file", "count": 1}, sent("a"), started("a")]
    paths = write(tmp_path, results=[result("a")], journal=journal, retry=b"a\n")
    repair(paths)
    assert not paths.retry.exists()


def test_a_retry_file_that_needs_nothing_is_left_as_it_was_written(tmp_path: Path) -> None:
    paths = write(tmp_path, retry=b"x\r\ny")
    repair(paths)
    assert paths.retry.read_bytes() == b"x\r\ny"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\xff", 1),
        (b"a\nb\xe9b\nc\n", 2),
        (BOM + b"a\n\xff\n", 2),
        (BOM + b"\n\n\xff", 3),
        ("a\nb\n".encode("utf-16"), 1),
        (b"a\ncaf\xe9", 2),
    ],
)
def test_retry_that_is_not_utf8_is_an_error_with_its_line(tmp_path: Path, data: bytes, line: int) -> None:
    with pytest.raises(StorageError, match=rf"results.jsonl.retry, line {line}: not UTF-8") as caught:
        read_state(write(tmp_path, retry=data, journal=[sent("other"), failed("other")]))
    assert caught.value.hint == "save it as UTF-8, one id a line"


def test_an_id_torn_off_in_retry_is_not_taken_for_another_row(tmp_path: Path) -> None:
    """ "row12" cut to "row1" must not have row1 wait for --retry."""
    journal = [sent("row2"), failed("row2"), sent("row12"), failed("row12"), {"event": "retry_file", "count": 2}]
    paths = write(tmp_path, journal=journal, retry=BOM + b"row2\nrow1")
    state = read_state(paths)
    assert list(state.retry) == ["row2"]
    assert not state.index.has("row1", RETRY)
    assert not state.rows["row12"].flushed, "it would count as taken out by hand"
    repair(paths)
    assert paths.retry.read_bytes() == BOM + b"row2\nrow12\n"


def test_an_id_torn_within_a_character(tmp_path: Path) -> None:
    journal = [sent("行"), failed("行")]
    paths = write(tmp_path, journal=journal, retry=BOM + "行".encode()[:2])
    assert list(read_state(paths).retry) == []
    repair(paths)
    assert paths.retry.read_bytes() == BOM + "行\n".encode()


def test_a_last_id_without_its_newline_counts_otherwise(tmp_path: Path) -> None:
    """People leave it out: "row1" is no part of a failed id, or of one that stands there whole."""
    journal = [sent("row12"), failed("row12")]
    assert list(read_state(write(tmp_path, journal=journal, retry=b"row12\nrow1")).retry) == ["row12", "row1"]
    assert list(read_state(write(tmp_path, journal=journal, retry=b"row3")).retry) == ["row3"]
    assert list(read_state(write(tmp_path, journal=journal, retry=b"row12")).retry) == ["row12"]


def test_who_took_an_id_out_of_retry(tmp_path: Path) -> None:
    """A failure that reached `.retry` and is not there any more was taken out by a person; one that had not, by nobody.
    A row that was sent again and refused belongs there again."""
    flushed = {"event": "retry_file", "count": 1}
    again = [sent("c"), {"event": "refused", "id": "c", "at": AT}]
    journal = [failed("a"), failed("c"), flushed, failed("b"), *again]
    rows = read_state(write(tmp_path, journal=journal)).rows
    assert {row_id: row.flushed for row_id, row in rows.items()} == {"a": True, "b": False, "c": False}
    rows = read_state(write(tmp_path, journal=[*journal, flushed])).rows
    assert {row_id: row.flushed for row_id, row in rows.items()} == {"a": True, "b": True, "c": True}


# ------------------------------------------------------------ .paused


def test_paused_lines_are_only_believed_where_the_journal_knows_nothing(tmp_path: Path) -> None:
    lines = [{"id": row_id, "workflow_run_id": f"run-{row_id}", "task_id": "t", "forms": []} for row_id in "abc"]
    torn = b'{"id": "d", "workflow_run'
    data = b"".join(json_line(line) for line in lines) + b'5\n{"id": 5}\n{"id": "e"}\n' + torn
    paths = write(tmp_path, results=[result("a")], journal=[sent("b")], paused=data)
    assert where(paths.results, "abcde") == {"a": "done", "b": "running", "c": "paused", "d": "free", "e": "free"}
    assert read_state(paths).rows["c"].ref is not None


# ------------------------------------------------------------ what cannot be read


@pytest.mark.parametrize("name", ["results", "journal", "retry", "paused"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    paths = Paths.of(tmp_path / "results.jsonl")
    getattr(paths, name).mkdir()
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        read_state(paths)


# ------------------------------------------------------------ claims


def test_the_runs_that_rows_claim_by_user(tmp_path: Path) -> None:
    journal = [
        *(sent("a", "u1"), started("a", "r1")),
        *(sent("b", "u2"), started("b", "r2")),
        *(sent("a", "u3"), started("a", "r3")),
        sent("c", "u1"),
    ]
    paths = write(tmp_path, journal=journal)
    assert claimed_runs(paths, frozenset({"u1", "u3"}).__contains__).runs == {"u1": {"r1"}, "u3": {"r3"}}


def test_how_long_runs_took_to_start_is_told_by_a_clock_that_does_not_jump(tmp_path: Path) -> None:
    """An older journal has the times of its records alone."""
    late = "2026-01-02T04:04:05.000Z"
    journal = [
        *(sent("a"), {**started("a"), "at": late, "delay": 0.25}),
        *(sent("b"), {**started("b", "r2"), "at": late}),
    ]
    delays = claimed_runs(write(tmp_path, journal=journal), lambda user: True).delays
    assert delays[0] == 0.25
    assert delays[1] > 60


def test_rows_that_others_have_outlived(tmp_path: Path) -> None:
    """A run that starts after a row was lost shows that work is taken up: by the order of the records, as the clock may
    have jumped; in its own mode only; and not where a look-up found it, as it may have started long before."""
    journal = [
        *(sent("a", "u1"), lost("a"), sent("b", "u2"), started("b", "r2")),
        *(sent("c", "u3"), lost("c"), {**sent("d", "u4"), "mode": "streaming"}, started("d", "r4")),
        *(sent("e", "u5"), {**started("e", "r5"), "found": True}),
    ]
    past = claimed_runs(write(tmp_path, journal=journal), lambda user: True)
    assert past.outlived == {"a"}


def test_a_row_whose_process_was_killed_is_outlived_by_what_a_later_one_starts(tmp_path: Path) -> None:
    """Until its process ended its request may have stood before the server's door."""
    killed = [batch(), sent("a", "u1"), sent("b", "u2"), started("b", "r2")]
    assert claimed_runs(write(tmp_path, journal=killed), lambda user: True).outlived == frozenset()
    later = [*killed, batch(), sent("c", "u3"), started("c", "r3")]
    assert claimed_runs(write(tmp_path, journal=later), lambda user: True).outlived == {"a"}


def test_an_unknown_event_and_a_bad_time_are_no_error() -> None:
    row = RowState()
    row.apply({"event": "sent", "at": "yesterday"})
    row.apply({"event": "from the future"})
    assert (row.phase, row.sent_at) == (Phase.SENT, 0.0)


def test_where_the_search_for_the_concurrency_stood_last(tmp_path: Path) -> None:
    head = {"event": "batch", "batch": "b", "at": AT}
    end: dict[str, Any] = {"event": "end", "reason": "finished", "summary": {}, "at": AT}
    ends = [end | {"limit": 12, "mode": "blocking"}, end, end | {"limit": -1}, end | {"limit": "many"}]
    assert read_state(write(tmp_path, journal=[head, *ends])).last_limit == (12, "blocking")
    assert read_state(write(tmp_path, journal=[head, end])).last_limit is None
