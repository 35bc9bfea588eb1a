"""Looking up and following: what must not be sent again, whose run is whose, and that it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.dify.sameness import contradicts, same_inputs
from dify_batch.errors import DifyBatchError
from dify_batch.ledger.formats import utc
from dify_batch.outcomes import Paused, PausedForm, RunRef
from dify_batch.reports.status import status_report
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder, soon
from tests.support.harness import executed_more_than_once, places, results, write_csv


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    return BatchFolder(tmp_path, server, rows=4)


async def test_an_old_intent_is_looked_for_during_the_settle_time_of_today(folder: BatchFolder) -> None:
    """A killed batch left a request in the server's queue; it starts only after the next invocation has begun."""
    folder.server.configure(workers=1)
    folder.server.faults(rows={"r1": [{"latency": 2.0}], "r2": [{"latency": 0.1}]})
    batch = asyncio.create_task(folder.run(concurrency=2))
    await soon(lambda: folder.server.state(runs=False)["queued"] == 1, "r2 waits for the one worker")
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    journal = folder.path / "results.jsonl.journal"
    old = utc(time.time() - 3600)
    lines = [json.loads(line) | {"at": old} for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    report = await folder.run(concurrency=2, settle=4)
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 4, 2)
    assert executed_more_than_once(folder.server) == {}


@pytest.mark.parametrize("fault", ["clean_end", "cut"])
async def test_a_stream_that_ends_before_its_run_began_leaves_it_in_the_queue(folder: BatchFolder, fault: str) -> None:
    """The server had opened the stream, so the request is queued; no later one has started, so it may still run."""
    folder.server.configure(workers=0)

    async def end_streams() -> None:
        await soon(lambda: folder.server.state(runs=False)["queued"] == 4, "all are queued")
        folder.server.stop()

    ending = asyncio.create_task(end_streams())
    report = await folder.run(concurrency=4, timeout=3 if fault == "cut" else 1, settle=0.2, max_outage=1.0)
    await ending
    assert report.summary.posts == 4
    assert report.summary.success == 0
    found = places(folder.output)
    assert found.running | found.retry == {"r1", "r2", "r3", "r4"}, "none is repeated, none is forgotten"


async def test_a_lost_row_does_not_take_the_run_of_its_twin_in_flight(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,same\nb,same\n", encoding="utf-8")
    folder.server.faults(rows={"a": [{"latency": 2.0}], "b": ["cut_before"]})
    report = await folder.run(user="nightly", mode="blocking", concurrency=2)
    assert (report.exit_status, report.summary.success) == (0, 2)
    assert folder.executions() == {"a": 1, "b": 1}
    assert len({line["workflow_run_id"] for line in results(folder.output)}) == 2


async def test_a_lost_row_does_not_take_a_run_of_the_invocation_before(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,same\nb,same\nc,other\n", encoding="utf-8")
    folder.server.faults(rows={"b": ["cut_before"]})
    await folder.run(user="nightly", limit=1)
    report = await folder.run(user="nightly")
    assert (report.exit_status, report.summary.done_before, report.summary.success) == (0, 1, 2)
    assert folder.executions() == {"a": 1, "b": 1, "c": 1}
    assert len({line["workflow_run_id"] for line in results(folder.output)}) == 3


async def test_a_user_that_only_looks_like_a_slot_s_is_known_for_a_shared_one_by_the_journal(
    folder: BatchFolder,
) -> None:
    """Both requests went under one --user; only that of r2 became a run, and the process was killed."""
    user = "dify-batch-6b02515699c97f-12"
    body = {"inputs": {"id": "r2", "query": "question r2"}, "response_mode": "blocking", "user": user}
    url, key = f"{folder.server.base_url}/workflows/run", {"Authorization": "Bearer app-echo"}
    await asyncio.to_thread(lambda: httpx.post(url, json=body, headers=key))
    at = utc(time.time(), milliseconds=True)
    lines: list[dict[str, object]] = [
        {"event": "batch", "batch": "6b0251569aaaaa", "again": ["--user", user], "at": at},
        {"event": "sent", "id": "r1", "attempt": 1, "user": user, "mode": "blocking", "at": at},
        {"event": "sent", "id": "r2", "attempt": 1, "user": user, "mode": "blocking", "at": at},
    ]
    journal = folder.path / "results.jsonl.journal"
    journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    report = await folder.run(user=user, mode="blocking")
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 4, 1)
    assert folder.answers() == {f"r{n}": f"question r{n}" for n in range(1, 5)}
    assert folder.executions() == {f"r{n}": 1 for n in range(1, 5)}
    places(folder.output)


def test_inputs_that_neither_match_nor_contradict_decide_nothing() -> None:
    sent, theirs = {"query": "x"}, '{"query": "x", "flag": false, "sys.user_id": "u"}'
    assert not same_inputs(sent, theirs)
    assert not contradicts(sent, theirs)
    assert contradicts(sent, '{"query": "y"}')


async def test_a_log_that_never_answers_leaves_the_row_unknown(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ServerErrorOf("the log is broken")

    monkeypatch.setattr("dify_batch.dify.client.DifyClient.logs", broken)
    folder.server.faults(rows={"r1": ["cut_after_accept"]})
    async with asyncio.timeout(20):
        report = await folder.run(max_outage=1.0)
    assert (report.exit_status, report.summary.unknown, report.summary.success) == (1, 1, 3)


async def test_a_drain_leaves_such_a_row_to_the_next_invocation(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ServerErrorOf("the log is broken")

    folder.server.faults(rows={"r1": ["cut_after_accept"]})
    with monkeypatch.context() as patch:
        patch.setattr("dify_batch.dify.client.DifyClient.logs", broken)
        control = Control()
        batch = asyncio.create_task(run_batch(folder.settings(), control=control))
        await soon(lambda: folder.server.state(runs=False)["post_total"] == 4, "all are sent")
        control.drain()
        async with asyncio.timeout(10):
            report = await batch
    assert (report.exit_status, report.summary.running) == (130, 1)
    again = await folder.run()
    assert (again.exit_status, again.summary.recovered) == (0, 1)
    assert executed_more_than_once(folder.server) == {}


def ServerErrorOf(message: str) -> DifyBatchError:
    from dify_batch.errors import ServerError

    return ServerError(message, http_status=500)


async def test_a_replayed_row_that_now_waits_for_a_person_stands_in_paused_alone(folder: BatchFolder) -> None:
    folder.server.faults(server="closed_log", rows={"r2": ["cut_after_accept"]})
    assert (await folder.run()).summary.unknown == 1
    folder.server.reset()
    folder.server.faults(rows={"r2": ["paused"]})
    report = await folder.run(retry=True, retry_unknown=True)
    assert (report.exit_status, report.summary.paused) == (0, 1)
    found = places(folder.output)
    assert not found.retry
    assert found.paused == {"r2"}


async def test_a_run_that_was_given_up_is_not_waited_for_a_second_time(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["zombie"]})
    await folder.run(timeout=0.3)
    await folder.run(timeout=0.3, stuck_after=0.01)
    assert places(folder.output).retry == {"r2"}
    report = await folder.run(retry=True, timeout=0.3, stuck_after=3600)
    assert (report.exit_status, report.summary.success, report.summary.retry_waiting) == (0, 1, 0)
    assert folder.executions()["r2"] == 2


async def test_a_pause_that_run_detail_tells_gets_its_form_from_the_events(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["paused"]})
    await folder.run()
    journal = folder.path / "results.jsonl.journal"
    lines = journal.read_text().splitlines(keepends=True)
    left = [line for line in lines if '"paused"' not in line]  # as if it had been killed just before
    assert len(left) < len(lines)
    journal.write_text("".join(left))
    (folder.path / "results.jsonl.paused").unlink()
    report = await folder.run()
    assert (report.exit_status, report.summary.paused) == (0, 1)
    (line,) = (folder.path / "results.jsonl.paused").read_text().splitlines()
    assert json.loads(line)["form_token"]


async def test_a_run_whose_detail_always_fails_is_given_up_as_stuck_and_keeps_nobody_waiting(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dify_batch.dify.answers import Detail
    from dify_batch.outcomes import Unreachable

    async def broken(*_: object, **__: object) -> Detail:
        return Detail(Unreachable("HTTP 500"))

    folder.server.faults(rows={"r1": ["cut_after_start"]})
    monkeypatch.setattr("dify_batch.dify.client.DifyClient.run_detail", broken)
    report = await folder.run(timeout=0.3)
    assert (report.exit_status, report.summary.running, report.summary.success) == (75, 1, 3)
    stuck = await folder.run(timeout=0.3, stuck_after=0.01)
    assert (stuck.exit_status, stuck.summary.unknown) == (1, 1)


async def test_runs_that_are_probably_dead_leave_their_places_long_before_the_timeout(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed API leaves blocking runs that say running for ever: they stood in all places for the whole --timeout."""
    monkeypatch.setattr("dify_batch.engine.health._DEAD_AFTER", 0.5)
    folder.server.faults(rows={"r1": [{"latency": 60}], "r2": [{"latency": 60}]})
    batch = asyncio.create_task(folder.run(mode="blocking", concurrency=2, timeout=120))
    await soon(lambda: folder.server.state(runs=False)["running"] == 2, "both places are taken")
    folder.server.crash("api", seconds=1.0)
    async with asyncio.timeout(30):
        report = await batch
    assert (report.summary.success, report.summary.running, report.exit_status) == (2, 2, 75)
    assert executed_more_than_once(folder.server) == {}


async def test_runs_that_are_probably_dead_are_called_so_and_hold_up_no_later_invocation(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dify_batch.engine.health._DEAD_AFTER", 0.5)
    folder.server.faults(rows={"r1": [{"latency": 60}], "r2": [{"latency": 60}]})
    batch = asyncio.create_task(folder.run(mode="blocking", concurrency=2, timeout=120, limit=2, stuck_after=3600))
    await soon(lambda: folder.server.state(runs=False)["running"] == 2, "both places are taken")
    folder.server.crash("api", seconds=1.0)
    async with asyncio.timeout(30):
        first = await batch
    assert (first.summary.running, first.exit_status) == (2, 75)
    told = "\n".join(first.next_steps)
    assert "2 runs are probably dead" in told
    assert told.count("--stuck-after 1m") == 1
    assert "--stuck-after 3600 --stuck-after" not in told
    text = status_report(folder.output).text()
    assert text.count(", probably dead since 20") == 2
    assert "2 runs are probably dead" in text
    async with asyncio.timeout(30):
        second = await folder.run(mode="blocking", concurrency=2, timeout=120)
    assert (second.summary.success, second.summary.running, second.exit_status) == (2, 2, 75)
    given_up = await folder.run(stuck_after=0.01)
    assert (given_up.summary.unknown, given_up.exit_status) == (2, 1)
    retried = await folder.run(retry=True, stuck_after=0.01)
    assert (retried.summary.success, retried.exit_status) == (2, 0)
    assert folder.executions() == {"r1": 2, "r2": 2, "r3": 1, "r4": 1}
    places(folder.output)


async def test_keep_order_and_an_abandoned_batch_add_up(folder: BatchFolder) -> None:
    write_csv(folder.data, 6)
    folder.server.faults(rows={"r1": [{"latency": 30}]})
    control = Control()
    settings = folder.settings(keep_order=True, concurrency=6)
    batch = asyncio.create_task(run_batch(settings, control=control))
    await soon(lambda: sum(one["event"] == "held" for one in folder.journal()) == 5, "five wait for the first")
    control.drain()
    control.abandon()
    summary = (await batch).summary
    assert sum(getattr(summary, name) for name in summary.STATES) == summary.rows == 6
    assert (summary.success, summary.running) == (0, 6)


async def test_a_second_signal_sees_watched_runs_to_their_end(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": [{"latency": 60}], "r2": [{"latency": 60}]})
    control = Control()
    batch = asyncio.create_task(run_batch(folder.settings(timeout=0.3, rate=1), control=control))
    await soon(lambda: folder.server.state(runs=False)["running"] == 2, "two long runs")
    detail = "GET workflows/run/{run_id}"
    await soon(lambda: folder.server.state(runs=False)["requests"].get(detail, 0) >= 2, "both are watched")
    control.drain("SIGTERM")
    control.stop()
    report = await batch
    assert (report.exit_status, report.summary.failed, report.summary.running) == (143, 2, 0)
    assert {run["status"] for run in folder.server.state()["runs"] if run["row"] in ("r1", "r2")} == {"stopped"}


async def test_max_runtime_over_in_the_last_rows_is_no_failure(folder: BatchFolder) -> None:
    folder.server.configure(latency=1.0)
    report = await folder.run(max_runtime=0.3)
    assert (report.exit_status, report.summary.success) == (0, 4)


async def test_a_failed_row_that_waits_to_be_repeated_has_failed_when_the_batch_stops(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["failed"] * 5})
    control = Control()
    settings = folder.settings(retry_policy="all", initial_retry_delay=50, max_retry_delay=60, max_retries=5)
    batch = asyncio.create_task(run_batch(settings, control=control))
    await soon(lambda: len(places(folder.output).done) == 3, "the others")
    control.drain()
    report = await batch
    assert (report.summary.failed, report.summary.running) == (1, 0)
    assert places(folder.output).retry == {"r1"}


@pytest.mark.parametrize("fault", ["hang", "refuse"])
async def test_signals_end_a_batch_that_has_not_begun(
    folder: BatchFolder, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "hang":
        folder.server.faults(server="hang")
    else:
        folder.server.refuse(True)
    control = Control()
    batch = asyncio.create_task(run_batch(folder.settings(), control=control))
    if fault == "hang":
        await soon(lambda: folder.server.state(runs=False)["requests"] != {}, "it has asked, and waits for the answer")
    else:
        await soon(lambda: "waiting for it" in caplog.text, "it waits for the server")
    control.drain("SIGINT")
    with pytest.raises(DifyBatchError) as error:
        async with asyncio.timeout(5):
            await batch
    assert error.value.exit_status == 130


async def test_rows_without_an_id_of_their_own_are_told_and_counted(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\na,one\na,two\n,three\nb,four\n", encoding="utf-8")
    report = await folder.run(skip_invalid=True)
    assert (report.exit_status, report.summary.rows) == (1, 4)
    assert (report.summary.success, report.summary.failed) == (2, 2)
    assert not folder.retry.exists()


async def test_found_runs_do_not_wait_for_the_rate(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r1": ["cut_after_accept"]})
    control = Control()
    batch = asyncio.create_task(run_batch(folder.settings(rate=1 / 3600), control=control))
    await soon(lambda: len(places(folder.output).done) == 1, "r1 is found and collected")
    control.drain()
    async with asyncio.timeout(5):
        report = await batch
    assert (report.summary.recovered, report.summary.posts, report.summary.untouched) == (1, 1, 3)


def test_a_second_form_is_news() -> None:
    one = PausedForm("t1", None, None, (), (), None)
    assert Paused(RunRef("r"), (one,)) != Paused(RunRef("r"), ())


@pytest.mark.parametrize("fault", ["known", "lost"])
async def test_a_collected_run_has_the_inputs_that_were_sent_whatever_the_table_says_today(
    folder: BatchFolder, fault: str
) -> None:
    folder.server.faults(rows={"r1": [{"latency": 1.0}]})
    batch = asyncio.create_task(run_batch(folder.settings(concurrency=4)))
    await soon(lambda: folder.server.state(runs=False)["post_total"] == 4, "all are sent")
    if fault == "lost":
        await soon(lambda: len(places(folder.output).done) == 3, "the others")
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    if fault == "lost":  # as if it had been killed before workflow_started was written
        journal = folder.path / "results.jsonl.journal"
        lines = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(line for line in lines if not ('"started"' in line and '"r1"' in line)))
    folder.change("r1", "another question")
    report = await folder.run()
    assert (report.exit_status, executed_more_than_once(folder.server)) == (0, {})
    (line,) = (line for line in results(folder.output) if line["id"] == "r1")
    assert line["inputs"] == {"id": "r1", "query": "question r1"}
    assert line["outputs"]["query"] == "question r1"
