"""What the files tell of a batch: journals written by hand, and batches of the command for real."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.errors import ACCOUNT_CODES, EXIT_OF_CODE, Exit, StorageError, UsageError
from dify_batch.ledger import state
from dify_batch.ledger.formats import BOM, Paths, json_line
from dify_batch.ledger.lock import OutputLock
from dify_batch.reports.export import export
from dify_batch.reports.standing import Holder
from dify_batch.reports.status import status_report
from dify_batch.reports.status_text import _REASONS
from dify_batch.simulator import Config, SimulatorProcess
from tests.support import harness
from tests.support.journals import AT, NOW, UUIDS, batch, done_line, end, failed, put, sent, started

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
        {"event": "held", "id": "h", "line": {"id": "h", "workflow_run_id": "w", "status": "success"}},
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
    assert second == f"Last batch: data.csv, begun {AT}, ended after 7 min: some rows have no result"
    again = f"dify-batch -i data.csv -o {output}"
    steps = report.next_steps
    assert f"3 rows not sent yet; go on with: {again}" in steps
    assert f"2 rows are to run again, once the cause is gone: {again} --retry" in steps
    assert f"1 id was never sent: by-hand; take out of {output}.retry what is not in data.csv" in steps
    assert f"3 rows under way; collect with, later: {again}" in steps
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


def test_ids_that_the_journal_does_not_know_alone_are_no_reason_for_a_retry(tmp_path: Path) -> None:
    output = put(tmp_path, [batch("-"), end(rows=1, untouched=0)], [done_line("a")], retry=["x", "y"])
    report = status_report(output)
    assert report.retry_unknown == ("x", "y")
    assert report.next_steps == (f"2 ids were never sent: x, y; take out of {output}.retry what is not in the input",)


# ---------------------------------------------------------------- who writes, what ended


@pytest.mark.parametrize(
    ("reason", "untouched", "words"),
    [
        ("finished", 0, "finished"),
        ("finished", 17, "finished what it was asked to do; 17 rows not sent yet"),
        ("batch_stopped", 17, "stopped by --max-failures or --max-outage, or as all answers missed --expect"),
        ("a_code_of_tomorrow", 0, "a code of tomorrow"),
    ],
)
def test_why_a_batch_ended_is_told_in_words(tmp_path: Path, reason: str, untouched: int, words: str) -> None:
    output = put(tmp_path, [batch(), sent("a"), end(reason, rows=20, untouched=untouched)], [done_line("a")])
    assert status_report(output).text().splitlines()[1].endswith(f"ended after 7 min: {words}")


def test_every_code_that_ends_a_batch_has_words() -> None:
    before_a_batch = {code for code, status in EXIT_OF_CODE.items() if status == Exit.USAGE} - {"invalid_csv"}
    of_others = {"not_logged_in", "output_locked", "files_failed"}
    assert EXIT_OF_CODE.keys() - ACCOUNT_CODES.keys() - before_a_batch - of_others == _REASONS.keys()


def test_a_batch_under_way_names_its_process(tmp_path: Path) -> None:
    output = put(tmp_path, [batch(), sent("a")])
    lock = OutputLock(Paths.of(output).lock)
    lock.acquire()
    try:
        report = status_report(output)
    finally:
        lock.release()
    assert report.holder == Holder(os.getpid(), socket.gethostname(), True)
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

    monkeypatch.setattr("dify_batch.reports.status.read_state", then_a_result)
    report = status_report(output)
    assert (report.done, report.partial_success, report.in_flight) == (1, 1, ())


def test_what_to_type_is_what_was_typed(tmp_path: Path) -> None:
    output = put(tmp_path, [batch("my data.csv"), sent("a"), end()])
    assert "-i 'my data.csv'" in status_report(output).next_steps[0]
    output = put(tmp_path, [batch() | {"demo": True}, sent("a"), end()])
    assert status_report(output).next_steps[0].endswith(f"dify-batch -i data.csv -o {output} --demo")
    flags = ["--delimiter", ";", "--retry-policy", "strict", "--user", "crm-{customer}"]
    output = put(tmp_path, [batch() | {"again": flags}, sent("a"), end()])
    assert (
        status_report(output)
        .next_steps[0]
        .endswith(f"dify-batch -i data.csv -o {output} --delimiter ';' --retry-policy strict --user 'crm-{{customer}}'")
    )
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


def test_a_file_that_holds_no_results(tmp_path: Path) -> None:
    for text in ("id,query\n1,a\n", "no end of line"):
        (tmp_path / "data.csv").write_text(text)
        with pytest.raises(StorageError, match=r"data\.csv is no results file: none of its lines is a result") as error:
            status_report(tmp_path / "data.csv")
        assert error.value.exit_status == Exit.FAILED
    (tmp_path / "data.csv").write_bytes(BOM)  # a batch that has just begun
    assert status_report(tmp_path / "data.csv").done == 0


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is no regular file"):
            status_report(path)
        with pytest.raises(UsageError, match="is no regular file"):
            export(path, tmp_path / "t.csv")


def test_only_the_journal_is_left(tmp_path: Path) -> None:
    output = put(
        tmp_path, [batch(), sent("a"), started("a", "run"), {"event": "done", "id": "a", "run": "run", "at": AT}]
    )
    output.unlink()
    report = status_report(output)
    assert report.done == 0
    assert any("1 row has its result according to the journal" in warning for warning in report.warnings)


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


def test_what_the_runs_used_is_told(tmp_path: Path) -> None:
    line = {"id": "a", "status": "success", "inputs": {}, "outputs": {}, "total_tokens": 1200, "total_steps": 1,
            "task_id": "t", "total_price": "0.25", "currency": "USD"}  # fmt: skip
    spent = {"event": "spent", "id": "b", "run": "r"} | {"total_tokens": 300, "total_price": "0.5", "currency": "USD"}
    report = status_report(put(tmp_path, [batch(), sent("b"), spent, failed("b", "no"), end()], [json_line(line)]))
    assert (report.total_tokens, report.total_price) == (1500, {"USD": "0.75"})
    assert "Used: 1,500 tokens, 0.75 USD" in report.text()
