"""Runs that all fail with the same error: a model provider's limit, say, for which each of them is paid."""

from __future__ import annotations

from pathlib import Path

from dify_batch.engine.health import ALIKE
from dify_batch.simulator import Config, Simulator
from tests.support.batchfolder import BatchFolder


async def test_the_batch_holds_and_stops_with_the_rest_untouched(tmp_path: Path) -> None:
    with Simulator(Config(latency=0.01, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server, rows=300)
        server.faults(all="failed")
        report = await folder.run(concurrency=4, max_outage=2.0, max_retry_delay=1.0)
        assert report.error is not None
        assert report.error.code == "batch_stopped"
        assert "--rate" in str(report.error.hint)
        assert report.summary.untouched > 200
        assert ALIKE <= sum(folder.executions().values()) < 60
        server.faults(all=None)
        again = await folder.run(concurrency=4)
        assert again.summary.untouched == 0


async def test_one_that_succeeds_lets_all_go_on(tmp_path: Path) -> None:
    with Simulator(Config(latency=0.01, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server, rows=30)
        server.faults(rows={f"r{number}": ["failed"] for number in range(1, ALIKE + 1)})
        report = await folder.run(concurrency=1)
        assert (report.summary.success, report.summary.failed) == (30 - ALIKE, ALIKE)
