"""--retry-pass: rows that failed go once more, when no new row is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.ids import parse_ids
from dify_batch.settings import Failures
from dify_batch.simulator import Simulator
from dify_batch.summary import Stats
from tests.support.batchfolder import QUICK, BatchFolder, soon
from tests.support.harness import places, result_ids, results


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


async def test_what_failed_goes_again_once_after_all_others(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r1": ["failed"], "r2": ["failed"] * 9, "r3": ["rejected"] * 9})
    folder = BatchFolder(tmp_path, server)
    stats = Stats()
    report = await run_batch(folder.settings(retry_pass=True, concurrency=1), stats=stats)
    assert (report.summary.success, report.summary.failed, report.summary.untouched) == (8, 2, 0)
    assert result_ids(folder.output)[-1] == "r1"
    assert (folder.executions()["r1"], folder.executions()["r2"]) == (2, 2)
    assert sum(record["event"] == "sent" and record["id"] == "r3" for record in folder.journal()) == 1
    assert sorted(parse_ids(folder.retry.read_bytes())) == ["r2", "r3"]
    assert stats.finished == stats.to_run == 10
    assert stats.failures.total() == 2
    assert results(folder.output)[-1]["retry_count"] == 1
    assert report.error is not None
    assert report.error.code == "rows_failed"
    assert any("--retry-pass" in step for step in report.next_steps)
    places(folder.output)


async def test_all_is_well_where_it_helps(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={f"r{number}": ["failed"] for number in range(1, 8)})
    folder = BatchFolder(tmp_path, server)
    report = await folder.run(retry_pass=True, max_failures=Failures(8))
    assert (report.exit_status, report.summary.success) == (0, 10)
    assert not folder.retry.exists()
    again = await folder.run(retry_pass=True)
    assert (again.exit_status, again.summary.posts) == (0, 0)


async def test_answers_that_miss_the_schema_go_again_too(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r1": ["big_event"], "r2": ["big_event"] * 2})
    folder = BatchFolder(tmp_path, server, rows=3)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"properties": {"query": {"maxLength": 100}}}))
    report = await folder.run(retry_pass=True, expect=schema)
    assert (report.summary.success, report.summary.invalid, report.summary.failed) == (2, 1, 0)


async def test_a_row_that_fails_twice_counts_once_for_max_failures(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={f"r{number}": ["failed"] * 2 for number in (1, 2, 3)})
    folder = BatchFolder(tmp_path, server)
    report = await folder.run(retry_pass=True, max_failures=Failures(4))
    assert (report.summary.failed, report.error and report.error.code) == (3, "rows_failed")
    assert folder.executions()["r3"] == 2


async def test_a_batch_that_stops_makes_no_second_pass(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={f"r{number}": ["failed"] for number in (1, 2)})
    folder = BatchFolder(tmp_path, server)
    report = await folder.run(retry_pass=True, max_failures=Failures(2), concurrency=1)
    assert (report.summary.failed, report.summary.untouched) == (2, 8)
    assert max(folder.executions().values()) == 1


async def test_a_stop_in_the_second_pass_leaves_the_others_failed(tmp_path: Path, server: Simulator) -> None:
    failing = {f"r{number}": ["failed", {"name": "normal", "latency": 1.0}] for number in range(1, 6)}
    server.faults(rows=failing)
    folder = BatchFolder(tmp_path, server)
    control = Control()

    async def stop_there() -> None:
        await soon(lambda: folder.executions().get("r1") == 2, "the second pass")
        control.drain()

    stopping = asyncio.create_task(stop_there())
    report = await run_batch(folder.settings(retry_pass=True, concurrency=1), control=control)
    await stopping
    summary = report.summary
    assert (summary.success, summary.failed, summary.untouched) == (6, 4, 0)
    assert sorted(parse_ids(folder.retry.read_bytes())) == ["r2", "r3", "r4", "r5"]
    report = await folder.run(retry=True)
    assert (report.exit_status, len(result_ids(folder.output))) == (0, 10)


async def test_with_keep_order_the_second_pass_comes_last(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r2": ["failed"]})
    folder = BatchFolder(tmp_path, server, rows=5)
    await folder.run(retry_pass=True, keep_order=True)
    assert result_ids(folder.output) == ["r1", "r3", "r4", "r5", "r2"]


async def test_together_with_retry(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r2": ["failed"] * 2, "r4": ["failed"]})
    folder = BatchFolder(tmp_path, server, rows=5)
    await folder.run()
    report = await folder.run(retry=True, retry_pass=True)
    assert (report.exit_status, report.summary.success) == (0, 2)
    assert folder.executions()["r2"] == 3
