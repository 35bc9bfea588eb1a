"""What the files tell of a batch: journals written by hand, and batches of the command for real."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch import state, status
from dify_batch.errors import StorageError, UsageError
from dify_batch.formats import BOM, Paths, json_line, retry_bytes
from dify_batch.lock import OutputLock
from dify_batch.simulator.config import Config
from dify_batch.simulator.process import SimulatorProcess
from dify_batch.state import Phase, RowState
from dify_batch.status import group_failures, pattern_of, status_report
from dify_batch.status_text import SHOWN
from tests import harness

AT = "2026-11-22T02:00:00.000Z"
NOW = 1795312800.0  # 2026-11-22T02:00:00Z
UUIDS = ("3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")

Record = dict[str, Any]


def done_line(row_id: str, status: str = "success") -> bytes:
    return json_line(
        {"id": row_id, "status": status, "inputs": {"id": row_id}, "outputs": {"status": "partial-success"}}
    )


def batch(source: str = "data.csv") -> Record:
    return {"event": "batch", "batch": "b", "pid": 1, "host": "h", "input": source, "at": AT}


def sent(row_id: str) -> Record:
    return {"event": "sent", "id": row_id, "attempt": 1, "user": "u", "mode": "streaming", "at": AT}


def started(row_id: str, run: str) -> Record:
    return {"event": "started", "id": row_id, "run": run, "task": "t", "at": AT}


def failed(row_id: str, message: str, *, kind: str = "failed", code: str = "run_failed") -> Record:
    return {"event": "failed", "id": row_id, "kind": kind, "code": code, "message": message, "at": AT}


def end(reason: str = "finished", **summary: int) -> Record:
    return {"event": "end", "reason": reason, "summary": summary, "at": "2026-11-22T02:07:00.000Z"}


def put(folder: Path, journal: Iterable[Record], results: Iterable[bytes] = (), retry: Iterable[str] = ()) -> Path:
    output = folder / "results.jsonl"
    paths = Paths.of(output)
    paths.results.write_bytes(BOM + b"".join(results))
    paths.journal.write_bytes(b"".join(json_line(record, compact=True) for record in journal))
    if ids := list(retry):
        paths.retry.write_bytes(retry_bytes(ids))
    return output


# ---------------------------------------------------------------- counting


def test_every_row_is_counted_in_one_place(tmp_path: Path) -> None:
    journal = [
        batch(),
        *map(sent, ("d1", "d2", "f", "u", "p", "s", "r", "free")),
        {"event": "done", "id": "d1", "run": "x", "at": AT},
        started("r", UUIDS[0]),
        {"event": "paused", "id": "p", "run": UUIDS[1], "task": "t", "forms": [], "at": AT},
        failed("f", "boom"),
        failed("u", "the log is closed", kind="unknown", code="outcome_unknown"),
        {"event": "refused", "id": "free", "reason": "429", "at": AT},
        {"event": "held", "id": "h", "line": {"id": "h"}},
        {"event": "retry_file", "count": 2, "at": AT},
        end("rows_failed", rows=12, untouched=3),
    ]
    results = [done_line("d1"), done_line("d2", "partial-success")]
    output = put(tmp_path, journal, results, retry=["f", "u", "by-hand"])
    report = status_report(output, now=NOW)
    assert (report.done, report.success, report.partial_success) == (2, 1, 1)
    assert (report.failed, report.unknown, report.retry_waiting, report.to_retry) == (1, 1, 1, 3)
    assert [row.id for row in report.paused] == ["p"]
    assert [(row.id, row.workflow_run_id, row.since) for row in report.in_flight] == [
        ("s", None, "2026-11-22T02:00:00Z"),
        ("r", UUIDS[0], "2026-11-22T02:00:00Z"),
    ]
    assert report.held == 1
    assert report.warnings == ()
    first, second, *_ = report.text().splitlines()
    assert first == (
        f"{output}: 2 done (1 in part), 1 failed, 1 unknown, 1 added to .retry by hand, 1 paused, 2 in flight, "
        "1 held for their turn"
    )
    assert second == f"Last batch: data.csv, begun {AT}, ended after 7 min: rows_failed"
    again = f"dify-batch -i data.csv -o {output}"
    steps = report.next_steps
    assert f"3 rows not sent yet: {again}" in steps
    assert f"3 rows to run again, once the cause is gone: {again} --retry" in steps
    assert f"3 rows under way; collect with: {again}" in steps
    assert json.loads(json.dumps(report.as_dict()))["next_steps"] == list(steps)


def test_unknown_is_explained_only_where_it_occurs(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a"), failed("a", "boom")], retry=["a"])
    assert "unknown means" not in status_report(output).text()
    output = put(tmp_path, [batch(), sent("a"), failed("a", "boom", kind="unknown", code="lost")], retry=["a"])
    text = status_report(output).text()
    assert "1 x unknown, lost: boom" in text
    assert "neither its answer nor the server's log tells whether a run started" in text


def test_a_row_that_a_person_took_out_of_retry_is_not_to_be_retried(tmp_path: Path) -> None:
    journal = [batch(), sent("a"), failed("a", "x"), sent("b"), failed("b", "x"), {"event": "retry_file", "count": 2}]
    output = put(tmp_path, journal, retry=["b"])
    report = status_report(output)
    assert (report.failed, report.to_retry) == (2, 1)


def test_a_failure_that_has_not_reached_retry_is_to_be_retried(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a"), failed("a", "x")])
    assert status_report(output).to_retry == 1


def test_all_done(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a"), end(rows=1, untouched=0)], [done_line("a")])
    report = status_report(output)
    assert report.next_steps == ()
    assert report.text().splitlines()[-1] == "Nothing left to do."


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
    assert f"2 rows to answer ({output}.paused says how)" in report.next_steps[0]
    assert "1 row with an expired form" in report.next_steps[1]
    form = report.as_dict()["paused"][0]["forms"][0]
    assert form["form_token"] == "token-open"


def test_long_lists_are_cut_in_the_text_only(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), *(sent(f"r{n}") for n in range(SHOWN + 5))])
    report = status_report(output)
    assert len(report.in_flight) == SHOWN + 5
    assert "and 5 more (all of them: --json)" in report.text()


# ---------------------------------------------------------------- who writes, what ended


def test_a_batch_under_way_names_its_process(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a")])
    lock = OutputLock(Paths.of(output).lock)
    lock.acquire()
    try:
        report = status_report(output)
    finally:
        lock.release()
    assert report.holder == status.Holder(os.getpid(), socket.gethostname(), True)
    assert f"being written by process {os.getpid()} on {socket.gethostname()}" in report.text()
    assert [step for step in report.next_steps if "--retry" in step or " -i " in step] == []
    assert f"kill {os.getpid()}" in report.next_steps[0]


def test_looking_never_takes_the_lock(tmp_path: Path) -> None:
    output = put(tmp_path, [batch()])
    before = sorted(path.name for path in tmp_path.iterdir())
    status_report(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_killed_batch(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    output = put(tmp_path, [batch(), end(rows=5, untouched=0), batch("new.csv"), sent("a")])
    Paths.of(output).lock.write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname()}))
    report = status_report(output)
    assert report.holder is not None
    assert report.holder.alive is False
    assert f"it was killed or cut off (process {gone.pid} is gone)" in report.text()
    assert report.batch is not None
    assert (report.batch.input, report.batch.reason, report.batch.untouched) == ("new.csv", None, None)
    assert any("did not end by itself; go on with: dify-batch -i new.csv" in step for step in report.next_steps)


def test_a_process_on_another_machine_may_be_alive(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a")])
    Paths.of(output).lock.write_text(json.dumps({"pid": 7, "host": "elsewhere.invalid"}))
    report = status_report(output)
    assert "process 7 on elsewhere.invalid (or was, if that has been killed)" in report.text()
    assert "ps -p 7" in report.next_steps[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "host": 1}', '{"pid": 1}'])
def test_a_lock_that_names_nobody(tmp_path: Path, text: str) -> None:
    output = put(tmp_path, [batch(), sent("a")])
    Paths.of(output).lock.write_text(text)
    assert status_report(output).holder is None


def test_rows_done_between_the_two_looks_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = put(tmp_path, [batch(), sent("a"), started("a", "run")])
    real = state.read_state

    def then_a_result(paths: Paths) -> state.State:
        found = real(paths)
        with paths.results.open("ab") as file:
            file.write(done_line("a", "partial-success"))
        return found

    monkeypatch.setattr("dify_batch.status.read_state", then_a_result)
    report = status_report(output)
    assert (report.done, report.partial_success, report.in_flight) == (1, 1, ())


def test_what_to_type_is_what_was_typed(tmp_path: Path) -> None:
    output = put(tmp_path, [batch("my data.csv"), sent("a"), end()])
    assert "-i 'my data.csv'" in status_report(output).next_steps[0]
    output = put(tmp_path, [batch() | {"demo": True}, sent("a"), end()])
    assert "dify-batch --demo -i data.csv" in status_report(output).next_steps[0]
    output = put(tmp_path, [batch("-"), sent("a"), end()])
    assert "… | dify-batch -i - -o" in status_report(output).next_steps[0]


# ---------------------------------------------------------------- files that are not as they should be


def test_no_such_batch(tmp_path: Path) -> None:
    put(tmp_path, [batch()])
    with pytest.raises(UsageError, match="there is no batch of that name") as error:
        status_report(tmp_path / "result.jsonl")
    assert "results.jsonl" in str(error.value.hint)
    with pytest.raises(UsageError, match="is a folder"):
        status_report(tmp_path)


def test_only_the_journal_is_left(tmp_path: Path) -> None:
    output = put(
        tmp_path, [batch(), sent("a"), started("a", "run"), {"event": "done", "id": "a", "run": "run", "at": AT}]
    )
    output.unlink()
    report = status_report(output)
    assert report.done == 0
    assert any("1 rows have their result according to the journal" in warning for warning in report.warnings)


def test_only_the_results_are_left(tmp_path: Path) -> None:
    output = put(tmp_path, [], [done_line("a")])
    Paths.of(output).journal.unlink()
    report = status_report(output)
    assert (report.done, report.batch) == (1, None)
    assert "journal is missing" in report.warnings[0]


def test_torn_and_foreign_lines(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a")], [done_line("a"), b"nonsense\n", b'{"id": "b", "sta'])
    with Paths.of(output).journal.open("ab") as file:
        file.write(b'{"event":"sent","id":"z')
    report = status_report(output)
    assert report.done == 1
    assert [warning.split(", ")[-1] for warning in report.warnings] == ["line 2: not a result"]


def test_a_retry_file_that_is_not_utf8(tmp_path: Path) -> None:
    output = put(tmp_path, [batch()])
    Paths.of(output).retry.write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(StorageError, match="line 2: not UTF-8"):
        status_report(output)


def test_lines_are_not_held(tmp_path: Path) -> None:
    """Results of 20 MB in a fraction of that."""
    big = "x" * 20_000
    lines = (json_line({"id": f"r{n}", "status": "success", "inputs": {}, "outputs": {"x": big}}) for n in range(1000))
    output = put(tmp_path, [batch(), end()], lines)
    tracemalloc.start()
    try:
        report = status_report(output)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.done == 1000
    assert peak < 5_000_000  # the reading buffer is 1 MB; the file is 20 MB


# ---------------------------------------------------------------- for real


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Config(latency=0.02)) as simulator:
        yield simulator


def test_after_a_real_batch(server: SimulatorProcess, tmp_path: Path) -> None:
    harness.write_csv(tmp_path / "data.csv", 8)
    server.faults(
        {"rows": {"r2": ["failed"], "r3": ["failed"], "r4": ["partial"], "r5": ["paused"], "r6": ["rejected"]}}
    )
    env = harness.environment(server.base_url)
    ran = harness.run(tmp_path, env, "-i", "data.csv", "-o", "results.jsonl", "--json")
    env.pop("DIFY_API_KEY")  # it is told from the files alone
    shown = harness.run(tmp_path, env, "status", "results.jsonl", "--json")
    assert (shown.status, shown.err) == (0, "")
    found = json.loads(shown.out)
    summary = ran.summary
    assert found["success"] == summary["success"] == 3
    assert found["partial_success"] == summary["partial_success"] == 1
    assert found["failed"] == summary["failed"] == 3
    assert len(found["paused"]) == summary["paused"] == 1
    assert found["batch"]["reason"] == "rows_failed"
    assert sorted(group["count"] for group in found["failures"]) == [1, 2]
    text = harness.run(tmp_path, env, "status", "results.jsonl")
    assert (text.status, text.err) == (0, "")
    assert re.search(r"^  2 x run_failed: .+\n      r2, r3$", text.out, re.MULTILINE)
    token = found["paused"][0]["forms"][0]["form_token"]
    assert f"/form/human_input/{token}" in text.out
    assert "dify-batch -i data.csv -o results.jsonl --retry" in text.out


def test_no_batch_for_machines(tmp_path: Path) -> None:
    shown = harness.run(tmp_path, harness.environment("http://127.0.0.1:9/v1"), "status", "x.jsonl", "--json")
    assert (shown.status, shown.out) == (2, "")
    assert shown.error["code"] == "usage_invalid_flag"
