"""Waiting apart from working: `queue_time` in results, and means in summary, status and report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.cli.progress_text import summary_text
from dify_batch.ledger.formats import Paths
from dify_batch.reports.html.collect import collect
from dify_batch.reports.status import status_report
from dify_batch.simulator import Simulator
from dify_batch.usage import times_text
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.harness import results
from tests.support.journals import AT, batch, put


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_the_time_before_the_start_stands_at_the_end_of_the_line(
    tmp_path: Path, server: Simulator, mode: str
) -> None:
    server.faults(rows={"r2": [{"name": "slow_queue", "seconds": 0.6}]})
    folder = BatchFolder(tmp_path, server, rows=3)
    report = await folder.run(mode=mode)
    lines = {line["id"]: line for line in results(folder.output)}
    assert {list(line)[-1] for line in lines.values()} == {"queue_time"}
    if mode == "streaming":
        assert lines["r2"]["queue_time"] >= 0.6
        assert lines["r1"]["queue_time"] < lines["r2"]["queue_time"]
    waited = sum(line["queue_time"] for line in lines.values()) / 3
    worked = sum(line["elapsed_time"] for line in lines.values()) / 3
    assert report.summary.queue_time == pytest.approx(waited, abs=0.002)
    assert report.summary.run_time == pytest.approx(worked, abs=0.002)
    status, page = status_report(folder.output), collect([folder.output])
    assert (status.queue_time, status.run_time) == (page.times.mean_waited, page.times.mean_worked)
    assert status.queue_time == pytest.approx(waited, abs=0.002)
    for text in (status.text(), summary_text(report.summary, folder.output, [], ())):
        assert "On average a run waited" in text


async def test_it_outlives_the_process_and_is_null_where_nobody_saw_it(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r1": ["cut_after_start"], "r2": ["cut_after_accept"]})
    folder = BatchFolder(tmp_path, server, rows=2)
    await folder.run(mode="streaming")
    lines = {line["id"]: line["queue_time"] for line in results(folder.output)}
    assert lines["r2"] is None  # its run was found on the server
    assert lines["r1"] is not None
    folder.output.unlink()
    await folder.run()
    assert {line["id"]: line["queue_time"] for line in results(folder.output)} == lines


def test_old_lines_and_odd_ones_are_read(tmp_path: Path) -> None:
    old = (
        b'{"id": "a", "status": "success", "inputs": {}, "outputs": {}, "workflow_run_id": "r", "executed_at": "", '
        b'"retry_count": 0, "elapsed_time": 2.0, "total_tokens": 1, "total_steps": 1, "task_id": null}\n'
    )
    odd = old.replace(b'"a"', b'"b"').replace(b"}\n", b', "queue_time": "soon"}\n')
    new = old.replace(b'"a"', b'"c"').replace(b"null}\n", b'null, "queue_time": 4.0}\n')
    started = {"event": "started", "id": "d", "run": "r4", "task": None, "delay": "never", "at": AT}
    report = status_report(put(tmp_path, [batch(), started], [old, odd, new]))
    assert (report.done, report.run_time, report.queue_time, len(report.in_flight)) == (3, 2.0, 4.0, 1)
    assert Paths.of(tmp_path / "results.jsonl").results.exists()


def test_words() -> None:
    assert times_text(None, None) == ""
    assert times_text(3.217, None) == "on average a run worked 3.22 s"
    assert times_text(70.0, 0.4) == "on average a run waited 0.4 s and worked 1 min"
    assert times_text(1.0, 0.001) == "on average a run waited 0 s and worked 1 s"
