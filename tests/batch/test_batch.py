"""Whole batches against the simulator: what a second invocation does, and every way to end early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.errors import AppError, AuthError, ConnectionFailed, InvalidInput, OutputLocked, UsageError
from dify_batch.ids import parse_ids
from dify_batch.input.check import check as really_check
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.spent import spent
from dify_batch.settings import Failures
from dify_batch.simulator import Config, Simulator
from dify_batch.summary import Stats
from tests.support.batchfolder import QUICK, BatchFolder, soon
from tests.support.harness import executed_more_than_once, places, result_ids, results, write_csv


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    return BatchFolder(tmp_path, server)


async def test_the_result_line_is_as_promised(folder: BatchFolder) -> None:
    report = await folder.run(limit=1)
    assert (report.exit_status, report.summary.success, report.summary.untouched) == (0, 1, 9)
    assert folder.output.read_bytes().startswith(b"\xef\xbb\xbf{")
    (line,) = results(folder.output)
    assert list(line) == [
        *("id", "status", "inputs", "outputs", "workflow_run_id", "executed_at", "retry_count"),
        *("elapsed_time", "total_tokens", "total_steps", "task_id", "total_price", "currency", "workflow_id"),
        *("trace_id", "queue_time"),
    ]
    assert (line["id"], line["status"], line["retry_count"]) == ("r1", "success", 0)
    assert line["inputs"] == {"id": "r1", "query": "question r1"}
    assert line["executed_at"].endswith("Z")
    assert not folder.retry.exists()


class Widening:
    """A limit of one that becomes four when three runs have ended."""

    def __init__(self) -> None:
        self.ended = 0

    @property
    def current(self) -> int:
        return 4 if self.ended >= 3 else 1

    def started(self, delay: float, in_flight: int) -> None:
        pass

    def finished(self, seconds: float, in_flight: int) -> None:
        self.ended += 1

    def throttled(self, in_flight: int) -> None:
        pass


async def test_a_limit_that_grows_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dify_batch.batch.execution.first_limit", lambda *_, **__: Widening())
    with Simulator(Config(latency=0.05, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server)
        write_csv(folder.data, 20)
        stats = Stats()
        report = await run_batch(folder.settings(), stats=stats)
        assert (report.summary.success, stats.limit) == (20, 4)
        assert server.state(runs=False)["max_running"] == 4


async def test_auto_grows(tmp_path: Path) -> None:
    with Simulator(Config(latency=0.05, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server)
        write_csv(folder.data, 200)
        report = await folder.run(concurrency="auto")
        assert report.summary.success == 200
        assert server.state(runs=False)["max_running"] >= 4


async def test_auto_begins_where_the_last_invocation_stood(tmp_path: Path) -> None:
    with Simulator(Config(latency=1.0, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server, rows=40)
        await folder.run(concurrency="auto", limit=1)
        end = folder.journal()[-1]
        assert (end["event"], end["limit"], end["mode"]) == ("end", 5, "streaming")
        with Paths.of(folder.output).journal.open("a") as journal:
            journal.write(json.dumps(end | {"limit": 30}) + "\n")
        await folder.run(concurrency="auto")
        assert server.state(runs=False)["max_running"] >= 25, "all at once, without a search"


async def test_a_second_run_sends_nothing_that_is_done(folder: BatchFolder) -> None:
    assert (await folder.run(limit=4)).summary.success == 4
    report = await folder.run()
    assert (report.summary.done_before, report.summary.success, report.summary.posts) == (4, 6, 6)
    assert (await folder.run()).summary.posts == 0
    assert set(folder.executions().values()) == {1}
    assert len(result_ids(folder.output)) == 10


async def test_no_bom(folder: BatchFolder) -> None:
    await folder.run(limit=1, bom=False)
    assert folder.output.read_bytes().startswith(b"{")


async def test_failed_rows_wait_for_retry(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r3": ["failed", "failed"], "r5": ["rejected"], "r7": ["partial"]})
    report = await folder.run()
    assert (report.exit_status, report.summary.failed, report.summary.partial_success) == (1, 2, 1)
    assert report.error is not None
    assert report.error.code == "rows_failed"
    assert sorted(folder.retry.read_text(encoding="utf-8-sig").split()) == ["r3", "r5"]
    plain = await folder.run()
    assert (plain.exit_status, plain.summary.retry_waiting, plain.summary.posts) == (1, 2, 0)
    assert plain.error is not None
    assert plain.error.code == "rows_failed"
    assert any("--retry" in step for step in plain.next_steps)
    again = await folder.run(retry=True)
    assert (again.exit_status, again.summary.success, again.summary.failed) == (1, 1, 1)
    assert folder.retry.read_text(encoding="utf-8-sig") == "r3\n"
    last = await folder.run(retry=True)
    assert (last.exit_status, last.summary.success) == (0, 1)
    assert not folder.retry.exists()
    by_id = {line["id"]: line for line in results(folder.output)}
    assert (by_id["r3"]["retry_count"], by_id["r5"]["retry_count"], by_id["r7"]["status"]) == (2, 1, "partial-success")


async def test_retry_runs_only_what_a_person_left_in_the_file(folder: BatchFolder) -> None:
    folder.server.faults(rows={name: ["failed"] for name in ("r1", "r2", "r3")})
    await folder.run(limit=4)
    folder.retry.write_bytes(b"r2\r\n\r\n  nobody \r\nr9\r\nr4\r\n")
    report = await folder.run(retry=True)
    assert report.summary.success == 3, "r2, which failed; r9 and r4, which a person added, though r4 was done"
    assert folder.executions() == {"r1": 1, "r2": 2, "r3": 1, "r4": 2, "r9": 1}
    left = folder.retry.read_text(encoding="utf-8-sig").split()
    assert sorted(left) == ["nobody", "r1", "r3"], "failed rows without a result are never forgotten"


async def test_all_repeats_failed_runs_up_to_max_retries(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["failed"] * 2, "r2": ["failed"] * 9})
    report = await folder.run(retry_policy="all", max_retries=3)
    assert (report.summary.success, report.summary.failed) == (9, 1)
    assert (folder.executions()["r1"], folder.executions()["r2"]) == (3, 4)


async def test_a_row_that_is_always_lost_uses_up_its_retries(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r4": ["error_500"] * 9})
    report = await folder.run(max_retries=2, timeout=1)
    assert (report.summary.success, report.summary.unknown) == (9, 1)
    assert folder.server.state(runs=False)["posts"]["r4"] == 2, "after its second POST nothing shows that work goes on"


async def test_a_row_that_was_lost_without_retries_left_has_failed(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r4": ["error_500"] * 9})
    report = await folder.run(max_retries=0)
    assert (report.summary.success, report.summary.failed) == (9, 1)
    assert folder.server.state(runs=False)["posts"]["r4"] == 1


async def test_paused_rows_are_collected_when_their_form_is_answered(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["paused"]})
    report = await folder.run()
    assert (report.exit_status, report.summary.paused) == (0, 1)
    (line,) = [json.loads(text) for text in (folder.path / "results.jsonl.paused").read_text().splitlines()]
    assert line["id"] == "r2"
    assert line["form_token"]
    assert line["expires_at"].endswith("Z")
    assert line["forms"][0]["actions"]
    still = await folder.run()
    assert (still.exit_status, still.summary.paused, still.summary.posts) == (0, 1, 0)
    folder.server.submit_form(line["workflow_run_id"])
    done = await folder.run()
    assert (done.exit_status, done.summary.success, done.summary.recovered) == (0, 1, 1)
    assert not (folder.path / "results.jsonl.paused").exists()
    assert folder.executions()["r2"] == 1


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_a_run_longer_than_the_timeout_is_collected_later(folder: BatchFolder, mode: str) -> None:
    folder.server.faults(rows={"r1": [{"latency": 2.5}]})
    report = await folder.run(timeout=0.5, mode=mode)
    assert (report.exit_status, report.summary.running, report.summary.success) == (75, 1, 9)
    again = await folder.run(mode=mode)
    assert (again.exit_status, again.summary.recovered) == (0, 1)
    assert executed_more_than_once(folder.server) == {}


async def test_a_run_that_says_running_for_ever_is_given_up_as_unknown(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["zombie"]})
    report = await folder.run(timeout=0.3)
    assert (report.exit_status, report.summary.running) == (75, 1)
    stuck = await folder.run(timeout=0.3, stuck_after=0.1)
    assert (stuck.exit_status, stuck.summary.unknown) == (1, 1)
    assert places(folder.output).retry == {"r1"}
    asked = await folder.run(retry=True, timeout=5, stuck_after=0.1)
    assert (asked.exit_status, asked.summary.success) == (0, 1)
    assert folder.executions()["r1"] == 2, "the user asked for it"


async def test_strict_never_repeats_what_may_have_run(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["cut_before"]})
    report = await folder.run(retry_policy="strict")
    assert (report.summary.unknown, folder.executions().get("r1")) == (1, None)


async def test_keep_order(folder: BatchFolder) -> None:
    slow = {f"r{number}": [{"latency": (10 - number) * 0.05}] for number in range(1, 11)}
    folder.server.faults(rows=slow | {"r4": ["failed"], "r6": ["cut_after_start"]})
    report = await folder.run(keep_order=True, concurrency=10)
    assert report.summary.failed == 1
    assert result_ids(folder.output) == [f"r{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10)]


async def test_a_killed_batch_leaves_its_held_results_in_the_journal(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": [{"latency": 30.0}]})
    batch = asyncio.create_task(folder.run(keep_order=True, concurrency=10))
    await soon(lambda: sum(one["event"] == "held" for one in folder.journal()) == 9, "nine held results")
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert result_ids(folder.output) == []
    assert len(places(folder.output).running) == 10
    report = await folder.run(timeout=0.2)
    assert (report.summary.done_before, report.summary.running, report.summary.posts) == (9, 1, 0)
    assert executed_more_than_once(folder.server) == {}


async def test_max_failures(folder: BatchFolder) -> None:
    folder.server.faults(all="failed")
    report = await folder.run(max_failures=Failures(count=2), concurrency=1)
    assert report.error is not None
    assert (report.exit_status, report.error.code) == (1, "batch_stopped")
    assert (report.summary.failed, report.summary.untouched) == (2, 8)
    percent = await folder.run(max_failures=Failures(percent=25), concurrency=1)
    assert (percent.summary.failed, percent.summary.retry_waiting, percent.summary.untouched) == (2, 2, 6)


async def test_max_runtime(folder: BatchFolder) -> None:
    folder.server.configure(latency=0.3)
    report = await folder.run(max_runtime=0.5, concurrency=1)
    assert report.exit_status == 75
    assert 1 <= report.summary.success <= 3
    assert report.summary.running == report.summary.failed == 0
    assert report.summary.untouched == 10 - report.summary.success
    assert (await folder.run(max_runtime=60)).exit_status == 0


async def test_overwrite_keeps_the_old_files(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["failed"]})
    await folder.run()
    report = await folder.run(overwrite=True)
    assert (report.exit_status, report.summary.success, report.summary.done_before) == (0, 10, 0)
    old = next(path for path in folder.path.glob("results.2*.jsonl"))
    assert len(result_ids(old)) == 9
    assert places(old).retry == {"r1"}
    assert len(result_ids(folder.output)) == 10


async def test_users_are_unique_to_slot_and_batch(folder: BatchFolder) -> None:
    await folder.run(concurrency=2)
    users = {run["user"] for run in folder.server.state()["runs"]}
    assert len(users) == 2
    assert all(user.startswith("dify-batch-") for user in users)


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_with_one_user_for_all_the_inputs_decide(folder: BatchFolder, mode: str) -> None:
    lost = {name: ["cut_after_accept"] for name in ("r1", "r2", "r3")} | {"r4": ["cut_before"]}
    folder.server.faults(rows=lost)
    report = await folder.run(user="nightly", mode=mode, concurrency=4)
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 10, 3)
    assert executed_more_than_once(folder.server) == {}
    places(folder.output)
    assert {run["user"] for run in folder.server.state()["runs"]} == {"nightly"}


async def test_with_one_user_equal_inputs_are_unknown(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,same\nb,same\n", encoding="utf-8")
    folder.server.faults(rows={"a": ["cut_after_accept"], "b": ["cut_after_accept"]})
    report = await folder.run(user="nightly", concurrency=2)
    assert (report.exit_status, report.summary.unknown) == (1, 2)
    assert folder.executions() == {"a": 1, "b": 1}


async def test_with_one_user_a_run_that_a_row_has_is_not_taken_by_its_twin(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,same\nb,same\nc,other\n", encoding="utf-8")
    folder.server.faults(rows={"b": ["cut_before"]})
    report = await folder.run(user="nightly", concurrency=1)
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 3, 0)
    assert folder.executions() == {"a": 1, "b": 1, "c": 1}


async def test_the_user_may_name_columns(folder: BatchFolder) -> None:
    await folder.run(user="crm-{id}", limit=2)
    assert {run["user"] for run in folder.server.state()["runs"]} == {"crm-r1", "crm-r2"}
    with pytest.raises(UsageError, match='no column "customer"'):
        await folder.run(user="crm-{customer}")


async def test_a_bad_row_stops_everything_before_anything_is_sent(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,one\na,two\nb\n", encoding="utf-8")
    with pytest.raises(InvalidInput):
        await folder.run()
    assert [path.name for path in folder.path.iterdir()] == ["data.csv"]
    assert folder.server.state(runs=False)["post_total"] == 0


async def test_skip_invalid_sends_the_good_rows(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,one\nb\nc,\nd,four\n", encoding="utf-8")
    report = await folder.run(skip_invalid=True)
    assert (report.exit_status, report.summary.success, report.summary.failed) == (1, 2, 2)
    assert folder.retry.read_text(encoding="utf-8-sig").split() == ["b", "c"]
    reasons = {record["id"]: record["code"] for record in folder.journal() if record["event"] == "failed"}
    assert reasons == {"b": "short_row", "c": "required"}
    folder.data.write_text("id,query\na,one\nb,two\nc,three\nd,four\n", encoding="utf-8")
    assert (await folder.run(retry=True)).summary.success == 2


async def test_dry_run_sends_no_run(folder: BatchFolder) -> None:
    await folder.run(limit=3)
    report = await folder.run(dry_run=True)
    assert report.plan is not None
    assert (report.plan.to_run, report.plan.done, len(report.plan.payloads)) == (7, 3, 3)
    assert report.plan.payloads[0]["inputs"] == {"id": "r4", "query": "question r4"}
    assert report.plan.seconds is not None
    assert folder.server.state(runs=False)["post_total"] == 3


async def test_what_is_told_before_the_first_run(folder: BatchFolder) -> None:
    with pytest.raises(AuthError, match="invalid"):
        await folder.run(api_key="app-wrong")
    with pytest.raises(AppError) as unpublished:
        await folder.run(api_key="app-unpublished")
    assert "ublish" in str(unpublished.value.hint)
    with pytest.raises(ConnectionFailed):
        await folder.run(base_url="http://127.0.0.1:9/v1", max_outage=0.2)
    assert folder.server.state(runs=False)["post_total"] == 0


async def test_one_writer(folder: BatchFolder) -> None:
    folder.server.configure(latency=1.0)
    first = asyncio.create_task(folder.run())
    await soon(lambda: bool(folder.journal()), "the first batch writes")
    with pytest.raises(OutputLocked, match="is being written by process"):
        await folder.run()
    assert (await first).exit_status == 0


async def test_cancelling_leaves_the_files_whole(folder: BatchFolder) -> None:
    folder.server.configure(latency=1.0)
    batch = asyncio.create_task(folder.run())
    await soon(lambda: folder.server.state(runs=False)["running"] == 5, "five runs")
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert len(places(folder.output).running) == 5
    report = await folder.run()
    assert (report.exit_status, report.summary.recovered) == (0, 5)
    assert executed_more_than_once(folder.server) == {}


async def test_drain_from_python(folder: BatchFolder) -> None:
    folder.server.configure(latency=0.5)
    control = Control()
    batch = asyncio.create_task(run_batch(folder.settings(concurrency=2), control=control))
    await soon(lambda: folder.server.state(runs=False)["running"] == 2, "two runs")
    control.drain()
    report = await batch
    assert (report.exit_status, report.summary.success, report.summary.untouched) == (130, 2, 8)


async def test_a_row_taken_out_of_the_input_is_collected_all_the_same(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": [{"latency": 1.0}]})
    assert (await folder.run(timeout=0.2)).summary.running == 1
    write_csv(folder.data, 3, prefix="other")
    report = await folder.run(other_ids=True)
    assert (report.exit_status, report.summary.rows, report.summary.success) == (0, 3, 3)
    assert "r1" in result_ids(folder.output)


@pytest.mark.parametrize(("kept", "stops"), [(0, True), (4, True), (5, False), (10, False)])
async def test_an_input_with_fewer_than_half_of_the_known_ids_stops_before_sending(
    folder: BatchFolder, kept: int, stops: bool
) -> None:
    await folder.run()
    lines = folder.data.read_text(encoding="utf-8").splitlines(keepends=True)
    new = [f"00{line}" for line in lines[kept + 1 :]]  # as if a spreadsheet had made other ids of them
    folder.data.write_text("".join([*lines[: kept + 1], *new]), encoding="utf-8")
    if not stops:
        assert (await folder.run()).summary.success == 10 - kept
        return
    with pytest.raises(InvalidInput, match="knows 10 rows from before") as caught:
        await folder.run()
    assert caught.value.exit_status == 2
    assert caught.value.code == "other_ids"
    assert "--allow-other-ids" in str(caught.value.hint)
    assert sum(folder.executions().values()) == 10
    assert (await folder.run(other_ids=True)).summary.success == 10 - kept


async def test_a_result_that_somebody_cut_off_is_fetched_again(folder: BatchFolder) -> None:
    await folder.run()
    lines = folder.output.read_bytes().splitlines(keepends=True)
    folder.output.write_bytes(b"".join(lines[:-2]))
    report = await folder.run()
    assert (report.summary.done_before, report.summary.recovered, report.summary.posts) == (8, 2, 0)
    assert executed_more_than_once(folder.server) == {}


async def test_a_file_that_goes_after_the_check_fails_its_row_alone(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "notes.txt").write_text("hello", encoding="utf-8")
    (folder.path / "gone.txt").write_text("hello", encoding="utf-8")
    folder.data.write_text("id,doc\na,notes.txt\nb,gone.txt\nc,notes.txt\n", encoding="utf-8")

    def check(*given: Any, **more: Any) -> Any:
        report = really_check(*given, **more)
        (folder.path / "gone.txt").unlink()
        return report

    monkeypatch.setattr("dify_batch.batch.preparation.check", check)
    report = await folder.run(api_key="app-files")
    assert (report.exit_status, report.summary.success, report.summary.failed) == (1, 2, 1)
    assert parse_ids(folder.retry.read_bytes()) == ["b"]


async def test_rows_that_come_while_the_batch_runs_are_told_and_left(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:

    def check(*given: Any, **more: Any) -> Any:
        report = really_check(*given, **more)
        with folder.data.open("a", encoding="utf-8") as file:
            file.write("late,question\n")
        return report

    monkeypatch.setattr("dify_batch.batch.preparation.check", check)
    report = await folder.run()
    assert report.error is not None
    assert (report.error.code, report.exit_status, report.summary.success) == ("input_changed", 75, 10)
    monkeypatch.undo()
    report = await folder.run()
    assert (report.exit_status, report.summary.success, report.summary.done_before) == (0, 1, 10)


async def test_a_sample_is_run_first_and_the_rest_later(folder: BatchFolder) -> None:
    report = await folder.run(sample=3)
    assert (report.exit_status, report.summary.success, report.summary.untouched) == (0, 3, 7)
    first = result_ids(folder.output)
    report = await folder.run(sample=3)
    assert (report.exit_status, report.summary.posts, report.summary.done_before) == (0, 0, 3)
    report = await folder.run(sample=5)
    assert report.summary.posts == 2
    report = await folder.run()
    assert (report.summary.success, report.summary.done_before) == (5, 5)
    assert result_ids(folder.output)[:3] == first
    assert executed_more_than_once(folder.server) == {}


async def test_only_listed_ids_are_run(folder: BatchFolder) -> None:
    (folder.path / "ids.txt").write_text("r2\nr9\n", encoding="utf-8")
    plan = (await folder.run(ids=folder.path / "ids.txt", dry_run=True)).plan
    assert plan is not None
    assert (plan.to_run, len(plan.payloads)) == (2, 2)
    report = await folder.run(ids=folder.path / "ids.txt")
    assert (report.exit_status, report.summary.success, report.summary.untouched) == (0, 2, 8)
    assert sorted(result_ids(folder.output)) == ["r2", "r9"]


async def test_a_constant_and_a_renamed_column(folder: BatchFolder) -> None:
    folder.data.write_text("id,frage\na,wie\n", encoding="utf-8")
    report = await folder.run(constants={"language": "de"}, renames={"frage": "query"})
    assert report.exit_status == 0
    assert results(folder.output)[0]["inputs"] == {"id": "a", "language": "de", "query": "wie"}


async def test_files_are_uploaded_with_the_run_s_own_user(folder: BatchFolder) -> None:
    (folder.path / "notes.txt").write_text("hello", encoding="utf-8")
    folder.data.write_text("id,doc\na,notes.txt\nb,notes.txt\n", encoding="utf-8")
    folder.server.faults(rows={"b": ["cut_before"]})
    report = await folder.run(api_key="app-files")
    assert (report.exit_status, report.summary.success) == (0, 2)
    for line in results(folder.output):
        assert set(line["inputs"]["doc"]) == {"type", "transfer_method", "upload_file_id"}
        assert line["outputs"]["doc"]["related_id"] == line["inputs"]["doc"]["upload_file_id"]


async def test_an_error_that_nobody_foresaw_is_told(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("dify_batch.dify.client.DifyClient.run", broken)
    report = await folder.run()
    assert report.error is not None
    assert report.exit_status == 1
    assert report.error.message.startswith("internal error: ZeroDivisionError: by accident (row r1, at stage sent; its")
    assert report.summary.running > 0, "whether a run exists is looked up by the next invocation"


async def test_requests_that_wait_for_a_worker_are_not_sent_again(folder: BatchFolder) -> None:
    """With no worker the server takes streaming requests, shows them nowhere, and executes them when one is back."""
    folder.server.configure(workers=0)
    report = await folder.run(timeout=0.3, settle=0.1)
    assert (report.exit_status, report.summary.unknown, report.summary.posts) == (1, 10, 10)
    folder.server.configure(workers=4)
    await soon(lambda: len(folder.executions()) == 10, "the worker is back")
    again = await folder.run(retry=True)
    assert (again.exit_status, again.summary.recovered, again.summary.posts) == (0, 10, 0)
    assert executed_more_than_once(folder.server) == {}


async def test_a_slot_with_many_runs_still_tells_the_lost_one(folder: BatchFolder) -> None:
    """The log's page has 100 runs of the slot's user; all of them are known, so the lost one is not among them."""
    write_csv(folder.data, 140)
    folder.server.configure(latency=0)
    folder.server.faults(rows={"r66": ["cut_before"], "r139": ["cut_before"], "r140": ["cut_after_accept"]})
    report = await folder.run(concurrency=1)
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 140, 1)
    assert executed_more_than_once(folder.server) == {}
    places(folder.output)


async def test_an_unknown_event_names_no_run(folder: BatchFolder) -> None:
    """The fault's first event bears "?" where others have the run's id."""
    folder.server.faults(rows={"r1": ["unknown_event"], "r2": ["cut_before"]})
    report = await folder.run(concurrency=1)
    assert (report.exit_status, report.summary.success) == (0, 10)
    runs = {run["id"] for run in folder.server.state()["runs"]}
    assert {line["workflow_run_id"] for line in results(folder.output)} == runs


async def test_the_figures_for_whoever_watches(folder: BatchFolder) -> None:
    stats = Stats()
    folder.server.faults(rows={"r2": ["failed", "failed"]})
    report = await run_batch(folder.settings(), stats=stats)
    assert (report.summary.success, report.summary.failed) == (9, 1)
    assert stats.used.runs == sum(stats.run_seconds.counts) == 10
    assert sum(stats.start_seconds.counts) == 10
    assert stats.used.tokens_told == 10
    assert stats.mode == "streaming"
    assert stats.lookups == 0
    total = spent(Paths.of(folder.output))
    assert (total.runs, total.tokens) == (10, stats.used.tokens)
