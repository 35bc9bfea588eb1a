"""Failures in groups, paused rows with their forms, runs in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.ledger.state import Phase, RowState
from dify_batch.reports.status import group_failures, status_report
from dify_batch.reports.status_text import SHOWN
from dify_batch.text import pattern_of
from tests.support.journals import AT, NOW, UUIDS, Record, batch, end, failed, put, sent

# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("timed out after 30.5 s", "timed out after 31 s"),
        (f"run {UUIDS[0]} is gone", f"run {UUIDS[1]} is gone"),
        ("trace 5f3a9b0c11de failed", "trace 00ff12aa failed"),
        ("at 10:20:30 on node 7", "at 11:00:00 on node 12"),
        ("row a: bad", "row bb: bad"),
        ("at 0xdeadbeef", "at 0x12"),
    ],
)
def test_ids_and_numbers_do_not_split_a_group(one: str, other: str) -> None:
    rows = [("a", RowState(Phase.FAILED, kind="failed", code="c", message=one))]
    rows.append(("bb", RowState(Phase.FAILED, kind="failed", code="c", message=other)))
    if "row a" in one:
        rows[0] = ("aa", RowState(Phase.FAILED, kind="failed", code="c", message="row aa: bad"))
    (group,) = group_failures(rows)
    assert group.count == 2
    assert "…" in group.message
    assert len(group.examples) == 2


@pytest.mark.parametrize("message", ["language must be less than … characters", "the facade is added", "a b c"])
def test_words_stay(message: str) -> None:
    assert pattern_of(message, "a") == message


def test_a_message_that_all_share_is_shown_as_it_is() -> None:
    rows = [(name, RowState(Phase.FAILED, kind="failed", code="c", message="HTTP 500")) for name in ("x1", "x2")]
    (group,) = group_failures(rows)
    assert group.message == "HTTP 500"


def test_kinds_and_codes_split_groups() -> None:
    kinds = [("failed", "c"), ("unknown", "c"), ("failed", "d")]
    rows = [(f"r{n}", RowState(Phase.FAILED, kind=k, code=c, message="m")) for n, (k, c) in enumerate(kinds)]
    assert len(group_failures(rows)) == 3


def test_the_largest_groups_come_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    words = [f"{letter * 4} went wrong" for letter in "ghijklmnopqrst"]
    rows = [(f"r{n}-{i}", word) for n, word in enumerate(words) for i in range(n + 1)]
    output = put(tmp_path, [batch(), *(failed(row_id, word) for row_id, word in rows)])
    report = status_report(output)
    assert [group.count for group in report.failures] == list(range(14, 4, -1))
    assert report.other_failures == 4 + 3 + 2 + 1
    assert report.failures[0].examples == ("r13-0", "r13-1", "r13-2")
    text = report.text()
    assert "  14 x run_failed: tttt went wrong\n      r13-0, r13-1, r13-2, …" in text
    assert "10 more of other kinds" in text


def test_a_servers_text_cannot_move_the_cursor(tmp_path: Path) -> None:
    output = put(tmp_path, [batch("a\x1b[2Jb.csv"), failed("a", "x\x1b[2J\r\nError: y\u202e")])
    text = status_report(output).text()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "x Error: y" in text


# ---------------------------------------------------------------- paused, in flight


def paused(row_id: str, *expiries: str) -> Record:
    forms = [
        {
            "form_token": f"token-{row_id}",
            "actions": ["approve", "reject"],
            "expires_at": expires_at,
            "answer_with": f"POST http://127.0.0.1/v1/form/human_input/token-{row_id}",
        }
        for expires_at in expiries
    ]
    return {"event": "paused", "id": row_id, "run": f"run-{row_id}", "task": "t", "forms": forms, "at": AT}


def test_paused_rows_say_how_to_answer_and_whether_it_is_too_late(tmp_path: Path) -> None:
    soon, past = "2026-11-22T02:00:01Z", "2026-11-22T02:00:00Z"
    output = put(tmp_path, [batch(), paused("open", soon), paused("late", past), paused("one", past, soon), end()])
    report = status_report(output, now=NOW)
    assert {row.id: row.expired for row in report.paused} == {"open": False, "late": True, "one": False}
    text = report.text()
    assert f"  open  expires {soon}  run run-open" in text
    assert "      POST http://127.0.0.1/v1/form/human_input/token-open  actions: approve, reject" in text
    assert f"  late  expired {past}  run run-late" in text
    assert "token-late" not in text
    assert f"2 rows wait for a person: dify-batch answer {output} asks for each" in report.next_steps[0]
    assert f"{output}.paused says how to answer" in report.next_steps[0]
    assert "1 row with an expired form" in report.next_steps[1]
    form = report.as_dict()["paused"][0]["forms"][0]
    assert form["form_token"] == "token-open"


def test_long_lists_are_cut_in_the_text_only(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), *(sent(f"r{n}") for n in range(SHOWN + 5))])
    report = status_report(output)
    assert len(report.in_flight) == SHOWN + 5
    assert "and 5 more (all of them: --json)" in report.text()
