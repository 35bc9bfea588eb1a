"""A server that queues as Dify's default docker does (4 places): what waits there is in no log, and runs later.

Times are a fifth of the real ones: runs of 5 s, --settle 2 (so a lost row is at least 24 s old before it may go again).
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import (
    LIMIT,
    command,
    environment,
    executed_more_than_once,
    places,
    run,
    until,
    write_csv,
)

ROWS = 6
FLAGS = ("-i", "data.csv", "-o", "results.jsonl", "--json", "--concurrency", "6", "--settle", "2", "--timeout", "60")
LATENCY = 5.0


def killed(folder: Path, server: SimulatorProcess, *more: str, sent: int = ROWS) -> None:
    """A batch that is killed (9) once all its requests have been taken by the server."""
    process = subprocess.Popen(
        command(*FLAGS, *more), cwd=folder, env=environment(server.base_url), stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: int(server.state(runs=False)["post_total"]) == sent, "all are sent")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(LIMIT)


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_a_queued_row_is_not_sent_again_after_a_kill(mode: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=LATENCY, workers=4, connections=4 if mode == "blocking" else None)) as server:
        killed(tmp_path, server, "--mode", mode, sent=4 if mode == "blocking" else ROWS)
        ran = run(tmp_path, environment(server.base_url), *FLAGS, "--mode", mode)
        assert (ran.status, ran.err) == (0, "")
        assert executed_more_than_once(server) == {}
    assert len(places(tmp_path / "results.jsonl").done) == ROWS


def test_with_no_worker_nothing_is_sent_again_and_retry_sends_nothing_that_may_be_queued(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    flags = (*FLAGS[:-4], "--settle", "0.2", "--timeout", "1")
    with SimulatorProcess(Config(latency=0.1, workers=0)) as server:
        ran = run(tmp_path, environment(server.base_url), *flags)
        assert (ran.status, ran.summary["unknown"]) == (1, ROWS)
        again = run(tmp_path, environment(server.base_url), *flags, "--retry")
        assert (again.status, again.summary["unknown"], again.summary["posts"]) == (1, ROWS, 0)
        server.configure(workers=4)
        until(lambda: len(server.state(runs=False)["executions"]) == ROWS, "the worker is back")
        found = run(tmp_path, environment(server.base_url), *flags, "--retry")
        assert (found.status, found.summary["recovered"], found.summary["posts"]) == (0, ROWS, 0)
        assert executed_more_than_once(server) == {}


@pytest.mark.parametrize("fault", ["error_502_run", "error_500_run", "cut_after_accept"])
def test_a_request_whose_answer_was_lost_while_it_was_queued_is_found(fault: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=2.0, workers=2)) as server:
        server.faults(rows={"r5": [fault], "r6": [fault]})
        ran = run(tmp_path, environment(server.base_url), *FLAGS)
        assert (ran.status, ran.err) == (0, "")
        assert ran.summary["posts"] == ROWS
        assert executed_more_than_once(server) == {}


def test_retry_unknown_sends_it_and_says_that_it_may_run_twice(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 1)
    flags = (*FLAGS[:-4], "--settle", "0.2", "--timeout", "1")
    with SimulatorProcess(Config(latency=0.1, workers=0)) as server:
        assert run(tmp_path, environment(server.base_url), *flags).summary["unknown"] == 1
        server.configure(workers=4)
        until(lambda: len(server.state(runs=False)["executions"]) == 1, "the worker is back")
        server.reset()  # as a log that has been cleared: what became of it cannot be known any more
        log = tmp_path / "batch.log"
        asked = run(
            tmp_path, environment(server.base_url), *flags, "--retry", "--retry-unknown", "--log-file", log.name
        )
        assert (asked.status, asked.summary["success"]) == (0, 1)
        assert "may run twice" in log.read_text(encoding="utf-8")
